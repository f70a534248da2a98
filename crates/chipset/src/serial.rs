//! COM1, a 16550A-like UART (`spec/devices.md` §2 "UART details"; registers after the PC16550D data sheet, by `vm-superio`).
//!
//! ```text
//!  vCPU --- bus slot ---> Serial --\                           /--- Stream::write
//!                                   >--- Core (leaf lock) ----<
//!  serial-manager: Stream::service -/                          \--- InterruptLine, after the lock is released
//! ```
//! Input is read from the stream only as far as the FIFO has room; the vCPU that makes room again rings the thread's bell.

mod feeder;
mod uart;

use std::sync::{Arc, Mutex, PoisonError};

use acpi_tables::aml::{IO, Interrupt, ResourceTemplate, ZERO};
use device::{Access, Device, Effect, InterruptLine, Persist, Region, RestoreError, Space, aml};
use host::EventFd;
use sandbox::Profile;
use stream::Stream;
use thiserror::Error;

use feeder::Feeder;
use uart::Core;
pub use uart::State;

/// The profile of its thread.
pub static PROFILES: &[&Profile] = &[&feeder::PROFILE];

/// Why the port cannot be built.
#[derive(Debug, Error)]
pub enum Error {
    /// The thread that reads its input, or what wakes it.
    #[error("Cannot start the serial port's input thread")]
    Thread(#[source] std::io::Error),
}

/// What the bus slot and the input thread share.
struct Shared {
    core: Mutex<Core>,
    line: Arc<dyn InterruptLine>,
    /// Wakes the input thread when there is room again.
    room: EventFd,
}

impl Shared {
    /// Works on the registers, then tells guest and input thread what came of it.
    fn access<R>(&self, work: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut core);
        let (edge, room) = core.settle();
        drop(core);
        if edge {
            self.line.pulse();
        }
        if room {
            // A full counter wakes it as well.
            let _ = self.room.write(1);
        }
        result
    }
}

/// The registers on the bus. Dropping it ends the input thread.
pub struct Serial {
    shared: Arc<Shared>,
    stream: Stream,
    _feeder: Option<Feeder>,
}

impl Serial {
    /// The first of its ports.
    pub const PORT: u16 = 0x3f8;
    /// How many ports it has.
    const PORTS: u8 = 8;
    /// The IOAPIC's pin that its line leads to.
    pub const PIN: u8 = 4;

    /// A port that talks to `stream` and raises `line`, edge-triggered. Starts the thread `serial-manager` if the stream needs one.
    ///
    /// # Errors
    /// [`Error::Thread`] if there is no thread or descriptor left.
    pub fn build(stream: Stream, line: Arc<dyn InterruptLine>) -> Result<Self, Error> {
        let room = host::event_fd().map_err(Error::Thread)?;
        let shared = Arc::new(Shared { core: Mutex::default(), line, room });
        let feeder = stream.needs_service().then(|| Feeder::start(shared.clone(), stream.clone()));
        let feeder = feeder.transpose().map_err(Error::Thread)?;
        Ok(Self { shared, stream, _feeder: feeder })
    }
}

impl Device for Serial {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Pio, Self::PORT.into(), Self::PORTS.into(), 0)]
    }

    fn aml(&self) -> Vec<u8> {
        let interrupt = Interrupt::new(true, true, false, false, Self::PIN.into());
        let ports = IO::new(Self::PORT, Self::PORT, 0, Self::PORTS);
        let resources = ResourceTemplate::new(vec![&interrupt, &ports]);
        let (uid, label) = (aml::name("_UID", &ZERO), aml::name("_DDN", &"COM1"));
        aml::device("_SB_.COM1", vec![&aml::hid("PNP0501"), &uid, &label, &aml::name("_CRS", &resources)])
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        if let ([data], Ok(register)) = (data, u8::try_from(at.offset)) {
            *data = self.shared.access(|core| core.read(register));
        }
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        if let ([value], Ok(register)) = (data, u8::try_from(at.offset))
            && let Some(byte) = self.shared.access(|core| core.write(register, *value))
        {
            self.stream.write(&[byte]);
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.shared.access(Core::reset);
    }
}

impl Persist for Serial {
    type State = State;
    const KIND: &'static str = "serial";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        self.shared.access(|core| core.save())
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let restored = self.shared.access(|core| core.restore(state));
        restored.ok_or(RestoreError::Value { kind: Self::KIND, field: "amount of input" })
    }
}

#[cfg(test)]
mod tests;
