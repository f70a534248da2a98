//! The D-Bus API's client: one connection to the bus per call (`spec/dbus.md`). Names come from [`api::dbus`].

use std::time::{Duration, Instant};

use api::dbus::{INTERFACE, Method};
use api::{Code, Verb};
use tokio::time::{Instant as Moment, timeout_at};
use zbus::connection::Builder;
use zbus::{DBusError, Fd, Message, fdo};

use crate::payload::Payload;
use crate::remote::{Remote, RemoteError};

/// The time a call has at least: the last look of somebody who waits begins at the deadline.
const LEAST: Duration = Duration::from_millis(250);

/// Where a VMM is on which bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its name.
    pub(crate) service_name: String,
    /// Its object.
    pub(crate) object_path: String,
    /// The system's bus instead of the session's.
    pub(crate) system_bus: bool,
}

/// A VMM behind a bus.
pub(crate) struct Bus {
    place: Place,
    deadline: Option<Instant>,
}

/// Why there is no reply, or what it refuses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {
    /// There is no runtime.
    #[error("Error starting the D-Bus client")]
    Start(#[source] std::io::Error),
    /// No bus answers.
    #[error("Error connecting to the {0} bus: see that DBUS_{upper}_BUS_ADDRESS names it", upper = .0.to_uppercase())]
    Connect(&'static str, #[source] zbus::Error),
    /// The call did not get through.
    #[error("Error calling over D-Bus")]
    Call(#[source] zbus::Error),
    /// The time is over.
    #[error("The VMM does not answer in time")]
    Late,
    /// What D-Bus carries as text is UTF-8.
    #[error("The configuration is no UTF-8 text")]
    Text(#[source] std::str::Utf8Error),
    /// The VMM or the bus said no.
    #[error("{name}: {text}")]
    Refused {
        /// The error's name.
        name: String,
        /// The chain, a line each.
        text: String,
    },
}

impl BusError {
    /// The status REST would answer with, as far as the VMM answered at all.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { name, .. } => Code::of_dbus_name(name).map(Code::status),
            _ => None,
        }
    }

    /// Whether a VMM that is only being started explains it.
    pub(crate) fn is_silence(&self) -> bool {
        match self {
            Self::Connect(..) | Self::Call(_) | Self::Late => true,
            Self::Refused { name, .. } => {
                let name = name.strip_prefix("org.freedesktop.DBus.Error.").unwrap_or_default();
                ["ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected"].contains(&name)
            }
            Self::Start(_) | Self::Text(_) => false,
        }
    }
}

impl Bus {
    /// The VMM at `place`. No call waits for it long after `deadline`; without one, calls last as long as the VMM needs.
    pub(crate) fn new(place: Place, deadline: Option<Instant>) -> Self {
        Self { place, deadline }
    }

    async fn send(&self, method: Method, payload: &Payload) -> Result<Message, BusError> {
        let system = self.place.system_bus;
        let (builder, bus) =
            if system { (Builder::system(), "system") } else { (Builder::session(), "session") };
        let connection = builder.build().await.map_err(|e| BusError::Connect(bus, e))?;
        let Place { service_name, object_path, .. } = &self.place;
        let (to, path, name) = (Some(service_name.as_str()), object_path.as_str(), method.name());
        let body = payload.body.as_deref().unwrap_or_default();
        let body = std::str::from_utf8(body).map_err(BusError::Text)?;
        let reply = match (method.verb.has_body, method.with_fds) {
            (false, _) => connection.call_method(to, path, Some(INTERFACE), &*name, &()).await,
            (true, false) => connection.call_method(to, path, Some(INTERFACE), &*name, &body).await,
            (true, true) => {
                let fds: Vec<Fd<'_>> = payload.fds.iter().map(Fd::from).collect();
                connection.call_method(to, path, Some(INTERFACE), &*name, &(body, fds)).await
            }
        };
        reply.map_err(refused)
    }
}

/// What the other side said, or why it said nothing.
fn refused(error: zbus::Error) -> BusError {
    match error {
        zbus::Error::MethodError(name, text, _) => {
            BusError::Refused { name: name.to_string(), text: text.unwrap_or_default() }
        }
        zbus::Error::FDO(error) if !matches!(*error, fdo::Error::ZBus(_)) => BusError::Refused {
            name: error.name().to_string(),
            text: error.description().unwrap_or_default().to_owned(),
        },
        error => BusError::Call(error),
    }
}

impl Remote for Bus {
    fn call(&self, verb: &str, payload: &Payload) -> Result<Option<Vec<u8>>, RemoteError> {
        let Some(verb) = Verb::find(verb) else { return Ok(None) };
        let method = Method::of(verb, !payload.fds.is_empty());
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_io().enable_time().build().map_err(BusError::Start)?;
        let reply = runtime.block_on(async {
            let reply = self.send(method, payload);
            match self.deadline.map(Moment::from_std) {
                Some(deadline) => timeout_at(deadline.max(Moment::now() + LEAST), reply)
                    .await
                    .unwrap_or(Err(BusError::Late)),
                None => reply.await,
            }
        })?;
        if !verb.has_reply {
            return Ok(None);
        }
        let text: String = reply.body().deserialize().map_err(BusError::Call)?;
        Ok(Some(text.into_bytes()).filter(|body| !body.is_empty()))
    }
}
