//! The other ends of the serial port and the virtio console. They are opened with the configuration, before the machine is built, so
//! that clients find a pseudo-terminal's path or a socket as soon as `vm.create` has answered.

use config::plan;
use config::{Plan, VmConfig};
use stream::Stream;

use crate::{ConsoleError, output_files};

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
    /// [`ConsoleError`] names what could not be opened.
    pub fn open(plan: &Plan) -> Result<Self, ConsoleError> {
        Self::check(plan)?;
        let console = plan.devices.iter().find_map(|device| match &device.kind {
            plan::DeviceKind::Console(console) => Some(&console.stream),
            _ => None,
        });
        Ok(Self {
            serial: open("serial.file", &plan.serial)?,
            console: open("console.file", console.unwrap_or(&plan::Stream::Off))?,
        })
    }

    /// Whether the files of consoles are nobody else's.
    ///
    /// # Errors
    /// [`ConsoleError::Shared`].
    pub fn check(plan: &Plan) -> Result<(), ConsoleError> {
        output_files::check(plan.config())
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

fn open(console: &str, stream: &plan::Stream) -> Result<Option<Stream>, ConsoleError> {
    if let plan::Stream::File(path) = stream {
        output_files::check_unused(console, path)?;
    }
    Ok(Stream::open(stream)?)
}
