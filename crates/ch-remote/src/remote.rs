//! A VMM elsewhere, as subcommands see it. REST ([`crate::rest`]) is one way there, D-Bus (`crate::bus`, cargo feature
//! `dbus_api`) the other.

use std::io;
use std::path::PathBuf;

use crate::events::EventsError;
use crate::payload::Payload;

/// Takes an event.
pub(crate) type Each<'a> = dyn FnMut(&[u8]) -> Result<(), EventsError> + 'a;

/// A way to a VMM.
pub(crate) trait Remote {
    /// Calls `verb`, a name of [`api::VERBS`], and waits for its reply: the body, or `None` where the reply has none.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn call(&self, verb: &str, payload: &Payload) -> Result<Option<Vec<u8>>, RemoteError>;

    /// Hands every event to `each`, as JSON in one piece, until the VMM ends; with `all`, what has been comes first.
    ///
    /// # Errors
    /// Those of `each`, and [`RemoteError`]: the VMM may be older than its events.
    fn events(&self, all: bool, each: &mut Each<'_>) -> Result<(), EventsError>;
}

impl RemoteError {
    /// What the client is called in error chains.
    pub(crate) fn client(&self) -> &'static str {
        match self {
            #[cfg(feature = "dbus_api")]
            Self::Bus(_) => "dbus api client error",
            _ => "http client error",
        }
    }

    /// The HTTP status of a refusal, or what it would be.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            #[cfg(feature = "dbus_api")]
            Self::Bus(error) => error.status(),
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether a VMM that is only being started explains it.
    pub(crate) fn is_silence(&self) -> bool {
        match self {
            #[cfg(feature = "dbus_api")]
            Self::Bus(error) => error.is_silence(),
            Self::Connect { .. } | Self::Send(_) | Self::Receive(_) => true,
            _ => false,
        }
    }
}

/// Why there is no reply, or what it refuses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// Over D-Bus.
    #[cfg(feature = "dbus_api")]
    #[error(transparent)]
    Bus(#[from] crate::bus::BusError),
    /// Nobody listens.
    #[error("Error opening HTTP socket {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The request did not get through.
    #[error("Error writing to the HTTP socket")]
    Send(#[source] io::Error),
    /// The reply did not get through.
    #[error("Error reading from the HTTP socket")]
    Receive(#[source] io::Error),
    /// The reply is no HTTP.
    #[error("Error parsing the HTTP response: {0}")]
    Malformed(&'static str),
    /// The VMM said no. [`crate::report`] prints the body's texts.
    #[error("Server responded with status {status}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// A JSON array of strings from servers of the right kind.
        body: Vec<u8>,
    },
}
