//! Whose fault it is that a machine cannot be built: the configuration's, which names what the host does not have (400), the host's,
//! which has no hypervisor (503), or our own (500). Called on the control thread.

use std::error::Error;
use std::io::{self, ErrorKind};

use api::{ApiError, Code};
use machine::BuildError;
use rustix::io::Errno;

/// A failed build as clients are told of it.
pub(crate) fn build_failed(error: &BuildError) -> ApiError {
    let code = match error {
        BuildError::NotBuilt(_) => Code::NotImplemented,
        BuildError::AddressSpace { .. }
        | BuildError::TooManyVcpus { .. }
        | BuildError::Identity(_)
        | BuildError::Ram(_) => Code::InvalidConfig,
        BuildError::Payload(_) | BuildError::Device(_) => code_of(error),
        BuildError::State(_) => Code::InvalidConfig,
        BuildError::Hypervisor(_) | BuildError::Tables(_) | BuildError::Threads(_) => Code::Internal,
    };
    ApiError::from_error(code, error)
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

/// Of an error about something that the configuration names. Where the kernel had no say in it, the thing itself is wrong.
fn code_of(error: &(dyn Error + 'static)) -> Code {
    let mut next = Some(error);
    while let Some(cause) = next {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let kind = kind.or_else(|| cause.downcast_ref::<Errno>().map(|errno| io::Error::from(*errno).kind()));
        if let Some(kind) = kind {
            return if is_about_a_name(kind) { Code::InvalidConfig } else { Code::Internal };
        }
        next = cause.source();
    }
    Code::InvalidConfig
}

fn is_about_a_name(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::AlreadyExists
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidData
            | ErrorKind::UnexpectedEof
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotSeekable
            | ErrorKind::AddrInUse
            | ErrorKind::ResourceBusy
            | ErrorKind::ExecutableFileBusy
            | ErrorKind::WouldBlock
            | ErrorKind::ConnectionRefused
    )
}
