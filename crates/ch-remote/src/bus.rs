//! The D-Bus API's client: one connection to the bus per call (`spec/dbus.md`). Names come from [`api::dbus`].

use std::time::{Duration, Instant};

use std::future::poll_fn;
use std::pin::Pin;

use api::dbus::{EVENT, INTERFACE, Method};
use api::{Code, Verb};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::{Instant as Moment, timeout_at};
use zbus::connection::Builder;
use zbus::export::futures_core::Stream;
use zbus::message::Type;
use zbus::{Connection, DBusError, Fd, Message, MessageStream, fdo};

use crate::events::EventsError;
use crate::payload::Payload;
use crate::remote::{Each, Remote, RemoteError};

/// The time a call has at least: the last look of somebody who waits begins at the deadline.
const LEAST: Duration = Duration::from_millis(250);

/// The bus itself.
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
/// Its signal when a name comes or goes.
const OWNER_CHANGED: &str = "NameOwnerChanged";

/// Where a VMM is on which bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Its name.
    pub(crate) service_name: String,
    /// Its object.
    pub(crate) object_path: String,
    /// The system's bus instead of the session's.
    pub(crate) system_bus: bool,
}

/// A VMM behind a bus.
pub(crate) struct Bus {
    address: Address,
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
    /// A signal is told once.
    #[error("D-Bus tells what happens from now on: use --api-socket for what has been")]
    Past,
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
            Self::Start(_) | Self::Text(_) | Self::Past => false,
        }
    }
}

impl Bus {
    /// The VMM at `address`. No call waits for it long after `deadline`; without one, calls last as long as the VMM needs.
    pub(crate) fn new(address: Address, deadline: Option<Instant>) -> Self {
        Self { address, deadline }
    }

    async fn connect(&self) -> Result<Connection, BusError> {
        let system = self.address.system_bus;
        let (builder, bus) =
            if system { (Builder::system(), "system") } else { (Builder::session(), "session") };
        builder.build().await.map_err(|e| BusError::Connect(bus, e))
    }

    /// Has the bus deliver the VMM's events and its end.
    async fn subscribe(&self) -> Result<Subscription, BusError> {
        let connection = self.connect().await?;
        let stream = MessageStream::from(&connection);
        let Address { service_name, object_path, .. } = &self.address;
        let events = format!(
            "type='signal',sender='{service_name}',path='{object_path}',interface='{INTERFACE}',member='{EVENT}'"
        );
        let end = format!("type='signal',sender='{BUS}',member='{OWNER_CHANGED}',arg0='{service_name}'");
        follow(&connection, &end).await?;
        // Whoever is not there would never end.
        let owner =
            connection.call_method(Some(BUS), BUS_PATH, Some(BUS), "GetNameOwner", service_name).await;
        let owner = owner.map_err(refused)?.body().deserialize().map_err(BusError::Call)?;
        // The last call, as a connection reads no further than some messages that nobody takes out of the stream: a reply behind
        // many events would never come.
        follow(&connection, &events).await?;
        Ok(Subscription { stream, owner })
    }

    async fn send(&self, method: Method, payload: &Payload) -> Result<Message, BusError> {
        let connection = self.connect().await?;
        let Address { service_name, object_path, .. } = &self.address;
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

/// Has the bus deliver what fits this rule.
async fn follow(connection: &Connection, rule: &str) -> Result<(), BusError> {
    let call = connection.call_method(Some(BUS), BUS_PATH, Some(BUS), "AddMatch", &rule);
    call.await.map_err(refused).map(drop)
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

fn runtime() -> Result<Runtime, BusError> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(BusError::Start)
}

/// What the bus delivers of a VMM.
struct Subscription {
    stream: MessageStream,
    /// The VMM's connection: anybody else may send signals that look the same.
    owner: String,
}

impl Subscription {
    /// The next event as JSON in one line, and none when the VMM has ended.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, BusError> {
        loop {
            let next = poll_fn(|cx| Pin::new(&mut self.stream).poll_next(cx)).await;
            let Some(message) = next.transpose().map_err(BusError::Call)? else { return Ok(None) };
            let header = message.header();
            let (sender, member) = (header.sender().map(|name| name.as_str()), header.member());
            match member.map(|name| name.as_str()).filter(|_| header.message_type() == Type::Signal) {
                Some(EVENT) if sender == Some(self.owner.as_str()) => {
                    let text: String = message.body().deserialize().map_err(BusError::Call)?;
                    // In one line, as REST has it.
                    let event = serde_json::from_str::<Value>(&text).map_or(text, |event| event.to_string());
                    return Ok(Some(event.into_bytes()));
                }
                Some(OWNER_CHANGED) if sender == Some(BUS) => return Ok(None),
                _ => {}
            }
        }
    }
}

impl Remote for Bus {
    fn events(&self, all: bool, each: &mut Each<'_>) -> Result<(), EventsError> {
        if all {
            return Err(RemoteError::from(BusError::Past).into());
        }
        runtime().map_err(RemoteError::from)?.block_on(async {
            let mut subscription = self.subscribe().await.map_err(RemoteError::from)?;
            while let Some(event) = subscription.next().await.map_err(RemoteError::from)? {
                each(&event)?;
            }
            Ok(())
        })
    }

    fn call(&self, verb: &str, payload: &Payload) -> Result<Option<Vec<u8>>, RemoteError> {
        let Some(verb) = Verb::find(verb) else { return Ok(None) };
        let method = Method::of(verb, !payload.fds.is_empty());
        let reply = runtime()?.block_on(async {
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
