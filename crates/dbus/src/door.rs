//! The object on the bus: takes calls in the order in which they come, and answers each when its outcome is there, so that reads do not
//! wait for a boot. Called by zbus' dispatcher on the `dbus-thread`.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use api::dbus::{INTERFACE, Method};
use api::{Answer, ApiError, Client, Code, FAILED, Outcome, log_text};
use async_trait::async_trait;
use tokio::sync::oneshot::{self, Receiver};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};
use zbus::message::{Flags, Header, Message};
use zbus::names::{InterfaceName, MemberName};
use zbus::object_server::{DispatchResult, Interface, SignalEmitter};
use zbus::{BoxDBusError, Connection, ObjectServer, OwnedVariant, Variant, fdo};

use crate::introspection;
use crate::request::{self, Refused};

/// Calls under way at once: what they hold are their bodies, 4 MiB each at most.
pub(crate) const CALLS: u32 = 64;

/// The object.
pub(crate) struct Door {
    client: Client,
    places: Arc<Semaphore>,
}

/// How a call ends.
enum Ending {
    Outcome(Receiver<Outcome>),
    Failure(ApiError),
}

impl Door {
    /// An object whose calls each hold one of `places`.
    pub(crate) fn new(client: Client, places: Arc<Semaphore>) -> Self {
        Self { client, places }
    }

    /// Starts a call; a task of its own answers it.
    fn start(&self, connection: &Connection, message: &Message, method: Method) -> Result<(), BoxDBusError> {
        info!("D-Bus API request: {}", method.name());
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return Err(Box::new(fdo::Error::LimitsExceeded(format!(
                "{CALLS} calls are under way: call again later"
            ))));
        };
        let caller = Caller::of(message).map_err(BoxDBusError::from)?;
        let ending = match request::read(method, &message.body()) {
            Ok(request) => {
                let (sender, outcome) = oneshot::channel();
                // After a stop that took too long nobody waits any more.
                method.verb.call(&self.client, request, move |outcome| drop(sender.send(outcome)));
                Ending::Outcome(outcome)
            }
            Err(Refused::Request(error)) => Ending::Failure(error),
            Err(Refused::Arguments(error)) => return Err(Box::new(error)),
        };
        let connection = connection.clone();
        tokio::spawn(async move { caller.answer(&connection, method, ending, place).await });
        Ok(())
    }
}

/// Who called, without the body and the descriptors of the call: a boot may take long.
struct Caller {
    call: Message,
    wants_reply: bool,
}

impl Caller {
    fn of(message: &Message) -> zbus::Result<Self> {
        let header = message.header();
        let primary = header.primary();
        let mut call = Message::method_call("/", "Call")
            .serial(primary.serial_num())
            .endian(primary.endian_sig().into());
        if let Some(sender) = header.sender() {
            call = call.sender(sender);
        }
        let wants_reply = !primary.flags().contains(Flags::NO_REPLY_EXPECTED);
        Ok(Self { call: call.build(&())?, wants_reply })
    }

    async fn answer(
        self,
        connection: &Connection,
        method: Method,
        ending: Ending,
        place: OwnedSemaphorePermit,
    ) {
        let result = match ending {
            Ending::Failure(error) => Err(error),
            Ending::Outcome(outcome) => match outcome.await {
                Ok(outcome) => {
                    outcome.warnings(method.verb).for_each(|text| warn!("{text}"));
                    outcome.result
                }
                Err(_) => Err(ApiError::new(Code::Unavailable, ["The call was given up".into()])),
            },
        };
        if let Err(error) = &result {
            info!("D-Bus API error response: {}", log_text(&error.to_string()));
        }
        if self.wants_reply
            && let Err(error) = self.reply(connection, method, result).await
        {
            // The connection's end is told where it is waited for.
            info!("The reply to {} cannot be sent: {}", method.name(), log_text(&error.to_string()));
        }
        drop(place);
    }

    async fn reply(
        &self,
        connection: &Connection,
        method: Method,
        result: Result<Answer, ApiError>,
    ) -> zbus::Result<()> {
        let header: Header<'_> = self.call.header();
        match result {
            Ok(Answer::Json(text)) => connection.reply(&header, &text).await,
            Ok(Answer::Nothing | Answer::Empty) if method.verb.has_reply => {
                connection.reply(&header, &"").await
            }
            Ok(Answer::Nothing | Answer::Empty) => connection.reply(&header, &()).await,
            Err(error) => connection.reply_error(&header, error.code.dbus_name(), &text(&error)).await,
        }
    }
}

/// The chain, a line each. Its first line is all that clients of the reference are used to.
fn text(error: &ApiError) -> String {
    let chain = error.chain();
    let told = chain.strip_prefix([FAILED.to_owned()].as_slice()).filter(|rest| !rest.is_empty());
    told.unwrap_or(chain).join("\n")
}

#[async_trait]
impl Interface for Door {
    fn name() -> InterfaceName<'static> {
        InterfaceName::from_static_str_unchecked(INTERFACE)
    }

    /// Calls are started one after the other, in their order: starting never waits.
    fn spawn_tasks_for_methods(&self) -> bool {
        false
    }

    async fn get(
        &self,
        _: &str,
        _: &ObjectServer,
        _: &Connection,
        _: Option<&Header<'_>>,
        _: &SignalEmitter<'_>,
    ) -> Option<Result<OwnedVariant, BoxDBusError>> {
        None
    }

    async fn get_all(
        &self,
        _: &ObjectServer,
        _: &Connection,
        _: Option<&Header<'_>>,
        _: &SignalEmitter<'_>,
    ) -> fdo::Result<HashMap<String, OwnedVariant>> {
        Ok(HashMap::new())
    }

    fn set<'call>(
        &'call self,
        _: &'call str,
        _: &'call Variant<'_>,
        _: &'call ObjectServer,
        _: &'call Connection,
        _: Option<&'call Header<'_>>,
        _: &'call SignalEmitter<'_>,
    ) -> DispatchResult<'call> {
        DispatchResult::NotFound
    }

    async fn set_mut(
        &mut self,
        _: &str,
        _: &Variant<'_>,
        _: &ObjectServer,
        _: &Connection,
        _: Option<&Header<'_>>,
        _: &SignalEmitter<'_>,
    ) -> Option<Result<(), BoxDBusError>> {
        None
    }

    fn call<'call>(
        &'call self,
        _: &'call ObjectServer,
        connection: &'call Connection,
        message: &'call Message,
        name: MemberName<'call>,
    ) -> DispatchResult<'call> {
        match Method::find(name.as_str()) {
            Some(method) => {
                DispatchResult::Async(Box::pin(async move { self.start(connection, message, method) }))
            }
            None => DispatchResult::NotFound,
        }
    }

    fn call_mut<'call>(
        &'call mut self,
        _: &'call ObjectServer,
        _: &'call Connection,
        _: &'call Message,
        _: MemberName<'call>,
    ) -> DispatchResult<'call> {
        DispatchResult::NotFound
    }

    fn introspect_to_writer(&self, writer: &mut dyn Write, level: usize) {
        // The writer is a string in zbus, which takes everything.
        let _ = introspection::write(writer, level);
    }
}
