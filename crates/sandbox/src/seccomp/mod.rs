//! System call filters: which kind of thread makes which calls, and what happens to others.

mod filter;
mod tables;
mod trap;

use std::io;
use std::sync::OnceLock;

use seccompiler::BpfProgram;

pub use trap::report_violations_to;

/// What a forbidden system call leads to (`--seccomp`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The process says which call it was and dies by `SIGSYS`.
    #[default]
    Trap,
    /// The call is made, and the kernel logs it.
    Log,
    /// The call fails with `EPERM`.
    Errno,
    /// There are no filters.
    Off,
}

/// Kinds of threads. Each has a table of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The control loop, which builds machines and starts the threads below.
    Vmm,
    /// One virtual CPU with the registers of all devices.
    Vcpu,
    /// The REST API.
    HttpServer,
    /// The API over D-Bus.
    Dbus,
    /// The writer of the event file.
    EventMonitor,
    /// What reads input for the serial port.
    SerialManager,
    /// What reads kernel and initramfs while a machine is built.
    PayloadLoader,
    /// A queue of a disk.
    Block,
    /// A pair of queues of a network device.
    Net,
    /// The control queue of a network device.
    NetControl,
    /// The virtio console.
    Console,
    /// The entropy device.
    Rng,
    /// The watchdog.
    Watchdog,
}

impl Kind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 13] = [
        Self::Vmm,
        Self::Vcpu,
        Self::HttpServer,
        Self::Dbus,
        Self::EventMonitor,
        Self::SerialManager,
        Self::PayloadLoader,
        Self::Block,
        Self::Net,
        Self::NetControl,
        Self::Console,
        Self::Rng,
        Self::Watchdog,
    ];
}

/// Sees to what `mode` needs of process and kernel.
pub(crate) fn prepare(mode: Mode) -> io::Result<()> {
    let action = match mode {
        Mode::Off => return Ok(()),
        Mode::Trap => libc::SECCOMP_RET_TRAP,
        Mode::Log => libc::SECCOMP_RET_LOG,
        Mode::Errno => libc::SECCOMP_RET_ERRNO,
    };
    // SAFETY: the kernel reads the four bytes of `action`.
    let known =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if known != 0 {
        return Err(io::Error::last_os_error());
    }
    if mode == Mode::Trap { trap::install() } else { Ok(()) }
}

/// Puts the calling thread under the filter of `kind`.
pub(crate) fn apply(mode: Mode, kind: Kind) -> io::Result<()> {
    /// By kind; the mode is the same for the whole process. Compiled when the first thread of the kind starts.
    static PROGRAMS: [OnceLock<Vec<BpfProgram>>; Kind::ALL.len()] =
        [const { OnceLock::new() }; Kind::ALL.len()];
    if mode == Mode::Off {
        return Ok(());
    }
    let compiled = PROGRAMS.get(kind as usize).ok_or(io::ErrorKind::NotFound)?;
    let programs = match compiled.get() {
        Some(programs) => programs,
        None => {
            let programs = filter::compile(mode, kind).map_err(io::Error::other)?;
            compiled.get_or_init(|| programs)
        }
    };
    programs.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(io::Error::other))
}

#[cfg(test)]
mod tests;
