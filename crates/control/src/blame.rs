//! Whose fault it is that a machine cannot be built: the configuration's, which names what the host does not have (400), the host's,
//! which has no hypervisor (503), or our own (500). Called on the control thread.

use std::error::Error;
use std::io;

use api::{ApiError, Code};
use machine::{BuildError, DeviceError, GrowError, PlugError, ResizeDiskError, ResizeError};
use rustix::io::Errno;

/// Of guest RAM that the host promised and does not have when it is needed.
const NO_MEMORY: &str = "The host has nothing behind a part of the guest's memory: see whether the file system of a memory zone's file \
                         is full, or huge pages have run out";

/// A failed build as clients are told of it.
pub(crate) fn build_failed(error: &BuildError) -> ApiError {
    let code = match error {
        BuildError::NotBuilt(_) => Code::NotImplemented,
        BuildError::AddressSpace { .. }
        | BuildError::Segments { .. }
        | BuildError::TooManyVcpus { .. }
        | BuildError::Crowded { .. }
        | BuildError::Identity(_) => Code::InvalidConfig,
        BuildError::Ram(_) => code_of_ram(error),
        BuildError::Device(DeviceError::Exists { .. }) => Code::Duplicate,
        // It cannot be copied to where it belongs: no file and no buffer of ours is at a bad address.
        BuildError::Payload(_) if errno_of(error) == Some(Errno::FAULT) => {
            return ApiError::from_error(Code::InvalidConfig, error).within(NO_MEMORY);
        }
        BuildError::Payload(_) | BuildError::Device(_) => code_of(error),
        BuildError::State(_) => Code::InvalidConfig,
        BuildError::Hypervisor(_)
        | BuildError::Tables(_)
        | BuildError::Threads(_)
        | BuildError::Random(_) => Code::Internal,
    };
    ApiError::from_error(code, error)
}

/// A device that does not come to a machine, which may be confined to the files that were named before.
pub(crate) fn add_failed(error: DeviceError, is_confined: bool) -> ApiError {
    let is_denied = is_confined && errno_of(&error) == Some(Errno::ACCESS);
    let error = build_failed(&error.into());
    if is_denied {
        error.within("The VM is confined by Landlock: name what later devices use in landlock_rules")
    } else {
        error
    }
}

/// A disk that keeps its size.
pub(crate) fn resize_disk_failed(error: &ResizeDiskError) -> ApiError {
    let code = match error {
        ResizeDiskError::NoDisk(_) => Code::NoSuchDevice,
        ResizeDiskError::Image(_) => code_of(error),
        ResizeDiskError::Late(_) => Code::Internal,
    };
    ApiError::from_error(code, error)
}

/// The number of vCPUs cannot be changed.
pub(crate) fn resize_failed(error: &ResizeError) -> ApiError {
    let code = match error {
        ResizeError::Pending(_) => Code::Pending,
        ResizeError::Vcpu(_) | ResizeError::Hypervisor(_) | ResizeError::Threads(_) => Code::Internal,
    };
    ApiError::from_error(code, error)
}

/// RAM does not grow.
pub(crate) fn grow_failed(error: &GrowError) -> ApiError {
    let code = match error {
        GrowError::Refused(_) | GrowError::NextBoot(_) => Code::InvalidConfig,
        GrowError::Plug(PlugError::Ram(_)) => code_of_ram(error),
        GrowError::Plug(PlugError::Hypervisor(_) | PlugError::NoRam(_)) => Code::Internal,
    };
    ApiError::from_error(code, error)
}

/// A snapshot that cannot be written or read.
pub(crate) fn snapshot_failed(error: &snapshot::Error) -> ApiError {
    ApiError::from_error(code_of(error), error)
}

/// A migration that cannot begin.
pub(crate) fn migration_failed(error: &(dyn Error + 'static)) -> ApiError {
    ApiError::from_error(code_of(error), error)
}

/// A core file that cannot be written.
pub(crate) fn coredump_failed(error: &coredump::Error) -> ApiError {
    ApiError::from_error(code_of(error), error)
}

/// RAM that does not come while the guest runs.
pub(crate) fn pager_failed(error: &pager::PagerError) -> ApiError {
    ApiError::from_error(code_of(error), error)
        .within("Memory cannot come on demand: memory_restore_mode=copy does without")
}

/// RAM that does not come back.
pub(crate) fn ram_failed(error: &memory::RamError) -> ApiError {
    ApiError::from_error(code_of_ram(error), error)
}

/// The consoles of a configuration cannot be opened.
pub(crate) fn consoles_failed(error: &(dyn Error + 'static)) -> ApiError {
    ApiError::from_error(code_of(error), error).within("Error creating console devices")
}

/// There is nothing to run a machine on.
pub(crate) fn no_hypervisor(error: &dyn Error) -> ApiError {
    ApiError::from_error(Code::Unavailable, error)
        .within("Failed to open hypervisor interface (is hypervisor interface available?)")
}

/// Of RAM that the host does not give.
fn code_of_ram(error: &(dyn Error + 'static)) -> Code {
    match errno_of(error) {
        // Less would have been there.
        Some(Errno::NOMEM | Errno::NOSPC) => Code::InvalidConfig,
        _ => code_of(error),
    }
}

/// Of an error about something that the configuration names. Where the kernel had no say in it, the thing itself is wrong.
fn code_of(error: &(dyn Error + 'static)) -> Code {
    match errno_of(error) {
        Some(errno) if is_the_hosts(errno) => Code::Internal,
        _ => Code::InvalidConfig,
    }
}

/// The kernel's reason, if it gave one anywhere in the chain.
fn errno_of(error: &(dyn Error + 'static)) -> Option<Errno> {
    let mut next = Some(error);
    while let Some(cause) = next {
        let number = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        let errno = number.map(Errno::from_raw_os_error).or_else(|| cause.downcast_ref::<Errno>().copied());
        if errno.is_some() {
            return errno;
        }
        next = cause.source();
    }
    None
}

/// Whether no other name, type or value could have helped: the host has run out of something, its hardware or kernel fails, or we
/// asked nonsense. All other reasons are about the thing that was named.
fn is_the_hosts(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOMEM
            | Errno::NOBUFS
            | Errno::MFILE
            | Errno::NFILE
            | Errno::AGAIN
            | Errno::NOSPC
            | Errno::DQUOT
            | Errno::IO
            | Errno::INTR
            | Errno::CANCELED
            | Errno::NOSYS
            | Errno::FAULT
            | Errno::BADF
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use thiserror::Error as ThisError;

    /// What a device's error looks like: the kernel's reason some links down.
    #[derive(Debug, ThisError)]
    #[error("a device")]
    struct Device(#[source] io::Error);

    #[test]
    fn each_reason_of_the_kernel_has_its_culprit() {
        let config = [
            // No such thing, or not to be reached.
            Errno::NOENT,
            Errno::NXIO,
            Errno::NODEV,
            Errno::NOTDIR,
            Errno::LOOP,
            Errno::NAMETOOLONG,
            Errno::ACCESS,
            Errno::PERM,
            Errno::ROFS,
            // A thing of another type.
            Errno::ISDIR,
            Errno::NOTTY,
            Errno::NOTBLK,
            Errno::NOTSOCK,
            Errno::SPIPE,
            Errno::NOEXEC,
            Errno::OPNOTSUPP,
            Errno::MEDIUMTYPE,
            Errno::NOMEDIUM,
            // A value it does not take.
            Errno::INVAL,
            Errno::RANGE,
            Errno::TOOBIG,
            Errno::FBIG,
            Errno::OVERFLOW,
            Errno::ADDRNOTAVAIL,
            Errno::AFNOSUPPORT,
            Errno::PROTONOSUPPORT,
            // Somebody else has it.
            Errno::EXIST,
            Errno::BUSY,
            Errno::TXTBSY,
            Errno::ADDRINUSE,
            // A peer that is not there.
            Errno::CONNREFUSED,
            Errno::TIMEDOUT,
        ];
        let host =
            [Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOSPC, Errno::IO, Errno::FAULT];
        let expected =
            config.map(|e| (e, Code::InvalidConfig)).into_iter().chain(host.map(|e| (e, Code::Internal)));
        for (errno, code) in expected {
            assert_eq!(code_of(&Device(errno.into())), code, "{errno:?}");
            assert_eq!(code_of(&io::Error::other(Device(errno.into()))), code, "{errno:?} further down");
            assert_eq!(code_of(&errno), code, "{errno:?} by itself");
        }
    }

    #[test]
    fn without_the_kernel_the_thing_itself_is_wrong() {
        let short = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(code_of(&Device(short)), Code::InvalidConfig);
        assert_eq!(code_of(&io::Error::other("no disk")), Code::InvalidConfig);
    }

    #[test]
    fn memory_that_the_host_cannot_give_is_a_question_of_the_size() {
        let map = |errno: Errno| {
            let error = memory::RamError::Map { zone: "z".into(), size: 1, source: errno.into() };
            build_failed(&BuildError::Ram(error)).code
        };
        assert_eq!(map(Errno::NOMEM), Code::InvalidConfig);
        assert_eq!(map(Errno::NOSPC), Code::InvalidConfig);
        assert_eq!(map(Errno::INVAL), Code::InvalidConfig);
        assert_eq!(map(Errno::MFILE), Code::Internal);
    }
}
