//! `serial`, `console` and `debug_console` with their flags (`spec/config.md` §9).

use std::path::{Path, PathBuf};

use keyval::{Options, Syntax};
use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::devices::{Name, Section};
use crate::flag::FlagError;
use crate::pci::Placed;
use crate::plan::{self, Access, DeviceKind, Grant};

/// The port debug consoles have had since Bochs.
const DEBUG_PORT: u16 = 0xe9;

/// Where a console's characters go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ConsoleMode {
    /// There is no such device.
    #[default]
    Off,
    /// A new pseudo terminal.
    Pty,
    /// This process's terminal.
    Tty,
    /// A file.
    File,
    /// A UNIX socket this process listens on.
    Socket,
    /// Nowhere.
    Null,
}

/// The first serial port, or the back end of any console.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SerialConfig {
    /// The file of mode `File`; the slave's path is shown here in mode `Pty`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Where the characters go.
    pub mode: ConsoleMode,
    /// The path of mode `Socket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

/// The virtio console.
pub type ConsoleConfig = Placed<SerialConfig>;

/// The debug port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DebugConsoleConfig {
    /// As [`SerialConfig::file`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Where the characters go; never `Socket`.
    pub mode: ConsoleMode,
    /// I/O port, 0xe9 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iobase: Option<u16>,
}

impl Default for DebugConsoleConfig {
    fn default() -> Self {
        Self { file: None, mode: ConsoleMode::Off, iobase: Some(DEBUG_PORT) }
    }
}

const WORDS: [(&str, ConsoleMode); 4] = [
    ("off", ConsoleMode::Off),
    ("pty", ConsoleMode::Pty),
    ("tty", ConsoleMode::Tty),
    ("null", ConsoleMode::Null),
];

/// Takes mode, file and socket out of a console flag's options; a plain word goes before a file, a file
/// before a socket.
fn take_backend(flag: &'static str, options: &mut Options) -> Result<SerialConfig, FlagError> {
    let wrong = FlagError::of(flag);
    let file: Option<PathBuf> = options.take("file").map_err(&wrong)?;
    let socket: Option<PathBuf> = options.take("socket").map_err(&wrong)?;
    let mut mode = None;
    for (word, meaning) in WORDS {
        if options.take_word(word) {
            mode = mode.or(Some(meaning));
        }
    }
    match (mode, file, socket) {
        (Some(mode), ..) => Ok(SerialConfig { mode, ..SerialConfig::default() }),
        (None, Some(file), _) => {
            Ok(SerialConfig { mode: ConsoleMode::File, file: Some(file), ..SerialConfig::default() })
        }
        (None, None, Some(socket)) => {
            Ok(SerialConfig { mode: ConsoleMode::Socket, socket: Some(socket), ..SerialConfig::default() })
        }
        (None, None, None) => Err(FlagError::Rule { flag, text: "invalid console mode given" }),
    }
}

impl SerialConfig {
    /// Options of `--serial`.
    pub const SYNTAX: Syntax =
        Syntax::new("off|null|pty|tty|file=<path>|socket=<path>").words(&["off", "null", "pty", "tty"]);

    /// Reads `--serial`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let flag = "--serial";
        let mut options = Self::SYNTAX.parse(text).map_err(FlagError::of(flag))?;
        take_backend(flag, &mut options)
    }

    /// The stream's rules. `Path missing ...` is what the reference says for both consoles.
    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        if self.mode == ConsoleMode::File && self.file.is_none() {
            at.invalid("file", "Path missing when using file console mode", "give the file's path");
        }
    }

    pub(crate) fn check_socket(&self, at: &mut Scope<'_, '_>) {
        if self.mode == ConsoleMode::Socket && self.socket.is_none() {
            at.invalid("socket", "Path missing when using socket console mode", "give the socket's path");
        }
    }

    /// The files that a back end uses.
    pub(crate) fn files(&self) -> Vec<Grant> {
        let read_write = |path: &str| Grant::new(path, Access::ReadWrite);
        match (self.mode, &self.file, &self.socket) {
            (ConsoleMode::Pty, ..) => vec![read_write("/dev/ptmx"), read_write("/dev/pts")],
            (ConsoleMode::File, Some(file), _) => vec![Grant::new(file, Access::ReadWrite)],
            // A reboot binds it anew: the one that a rule could name is gone by then.
            (ConsoleMode::Socket, _, Some(socket)) => vec![Grant::directory_of(socket, Access::Bind)],
            _ => Vec::new(),
        }
    }

    pub(crate) fn plan(&self) -> plan::Stream {
        match (self.mode, &self.file, &self.socket) {
            (ConsoleMode::Null, ..) => plan::Stream::Null,
            (ConsoleMode::Tty, ..) => plan::Stream::Tty,
            (ConsoleMode::Pty, ..) => plan::Stream::Pty,
            (ConsoleMode::File, Some(path), _) => plan::Stream::File(path.clone()),
            (ConsoleMode::Socket, _, Some(path)) => plan::Stream::Socket(path.clone()),
            (ConsoleMode::Off | ConsoleMode::File | ConsoleMode::Socket, ..) => plan::Stream::Off,
        }
    }
}

/// As the back end of the virtio console. The serial port, which sits in no slot, has no use for it.
impl Section for SerialConfig {
    fn name(&self) -> Name {
        Name::Fixed("__console")
    }

    /// Those of other modes mean nothing.
    fn paths(&self) -> Vec<(&'static str, &Path)> {
        match (self.mode, &self.file, &self.socket) {
            (ConsoleMode::File, Some(file), _) => vec![("file", file)],
            (ConsoleMode::Socket, _, Some(socket)) => vec![("socket", socket)],
            _ => Vec::new(),
        }
    }

    fn kind(&self) -> Option<DeviceKind> {
        let stream = self.plan();
        (stream != plan::Stream::Off).then_some(DeviceKind::Console(plan::Console { stream }))
    }

    fn grants(&self) -> Vec<Grant> {
        self.files()
    }
}

impl ConsoleConfig {
    /// Options of `--console`.
    pub const SYNTAX: Syntax = Syntax::new(
        "off|null|pty|tty|file=<path>,iommu=on|off,id=<device_id>,pci_segment=<segment_id>,pci_device_id=<slot>",
    )
    .words(&["off", "null", "pty", "tty"])
    .hidden(&["socket"]);

    /// Reads `--console`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let flag = "--console";
        let mut options = Self::SYNTAX.parse(text).map_err(FlagError::of(flag))?;
        let backend = take_backend(flag, &mut options)?;
        let mut console: Self = options.or("mode", "Off").read().map_err(FlagError::of(flag))?;
        console.device = backend;
        Ok(console)
    }

    /// What can only go wrong with the virtio console.
    pub(crate) fn check_no_socket(&self, at: &mut Scope<'_, '_>) {
        if self.mode == ConsoleMode::Socket {
            let text = "No socket option support for console device";
            at.invalid("mode", text, "use --serial socket=<path> instead");
        }
    }
}

impl DebugConsoleConfig {
    /// Options of `--debug-console`.
    pub const SYNTAX: Syntax = Syntax::new("off|null|pty|tty|file=<path>,iobase=<port in hex>")
        .words(&["off", "null", "pty", "tty"]);

    /// Reads `--debug-console`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let flag = "--debug-console";
        let mut options = Self::SYNTAX.parse(text).map_err(FlagError::of(flag))?;
        let port = options.take::<String>("iobase").map_err(FlagError::of(flag))?;
        let SerialConfig { file, mode, .. } = take_backend(flag, &mut options)?;
        let Some(port) = port else {
            return Ok(Self { file, mode, ..Self::default() });
        };
        let hex = port.strip_prefix("0x").and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let iobase = Some(hex.ok_or(FlagError::IoPort(port))?);
        Ok(Self { file, mode, iobase })
    }
}
