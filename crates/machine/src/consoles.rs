//! The other ends of the serial port and the virtio console. They are opened with the configuration, before the machine is built, so
//! that clients find a pseudo-terminal's path or a socket as soon as `vm.create` has answered.

use config::plan;
use config::{Plan, VmConfig};
use stream::{Error, Stream, StreamConfig};

/// Open consoles.
#[derive(Clone)]
pub struct Consoles {
    /// COM1's, unless the port is off.
    pub(crate) serial: Option<Stream>,
    /// The virtio console's, unless the device is off.
    pub(crate) console: Option<Stream>,
}

impl Consoles {
    /// Opens what the plan says.
    ///
    /// # Errors
    /// [`Error`] names what could not be opened.
    pub fn open(plan: &Plan) -> Result<Self, Error> {
        let console = plan.devices.iter().find_map(|device| match &device.kind {
            plan::DeviceKind::Console(console) => Some(&console.stream),
            _ => None,
        });
        let console = console.unwrap_or(&plan::Stream::Off);
        Ok(Self { serial: open(&plan.serial)?, console: open(console)? })
    }

    /// Writes the paths of pseudo-terminals into the configuration that clients see.
    pub fn amend(&self, config: &mut VmConfig) {
        let slave = |stream: &Option<Stream>| stream.as_ref()?.slave().map(Into::into);
        if let Some(path) = slave(&self.serial) {
            config.serial.file = Some(path);
        }
        if let Some(path) = slave(&self.console) {
            config.console.file = Some(path);
        }
    }
}

fn open(stream: &plan::Stream) -> Result<Option<Stream>, Error> {
    let config = match stream {
        plan::Stream::Off => return Ok(None),
        plan::Stream::Null => StreamConfig::Null,
        plan::Stream::Tty => StreamConfig::Tty,
        plan::Stream::Pty => StreamConfig::Pty,
        plan::Stream::File(path) => StreamConfig::File(path.clone()),
        plan::Stream::Socket(path) => StreamConfig::Socket(path.clone()),
    };
    Stream::open(&config).map(Some)
}
