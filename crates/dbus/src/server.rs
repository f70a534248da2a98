//! The `dbus-thread`: connects to the bus, takes the name, serves the object, and lets calls finish when it is stopped.
//!
//! [`serve`] and [`Server::stop`] are called on the main thread.

use std::fmt;
use std::future::{pending, poll_fn};
use std::io;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use api::{Client, StartAt};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tracing::{error, info, warn};
use zbus::connection::Builder;
use zbus::fdo::RequestNameFlags;
use zbus::names::WellKnownName;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath};

use crate::door::{CALLS, Door};
use crate::events;
use crate::profile::PROFILE;

/// Calls that are read before they are started: each may be as large as the bus lets messages be.
const QUEUED: NonZeroUsize = NonZeroUsize::MIN;
/// The time all callers have to get their replies when the server stops.
const STOP: Duration = Duration::from_secs(2);
/// The time a bus has to let us in.
const CONNECT: Duration = Duration::from_secs(10);
/// Sockets looked at in one turn of the event loop; its default costs memory for many more.
const EVENTS: usize = 16;

/// Where the object is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name to take on the bus.
    pub service_name: String,
    /// The object's path.
    pub object_path: String,
    /// The bus.
    pub bus: Bus,
}

/// A message bus.
#[derive(Clone, Debug)]
pub enum Bus {
    /// The one of the user's session.
    Session,
    /// The system's.
    System,
    /// One of its own, at an address such as `unix:path=/run/bus`.
    At(String),
}

impl Bus {
    fn hint(&self) -> &'static str {
        match self {
            Self::Session => " and that DBUS_SESSION_BUS_ADDRESS names its socket",
            Self::System => ", and that DBUS_SYSTEM_BUS_ADDRESS names its socket if it is not the usual one",
            Self::At(_) => " there",
        }
    }

    fn builder(&self) -> Builder<'_> {
        match self {
            Self::Session => Builder::session(),
            Self::System => Builder::system(),
            Self::At(address) => Builder::address(address.as_str()),
        }
    }
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session => f.write_str("session bus"),
            Self::System => f.write_str("system bus"),
            Self::At(address) => write!(f, "bus at {address}"),
        }
    }
}

/// Why the object is not on the bus.
#[derive(Debug, Error)]
pub enum ServeError {
    /// There is no thread left.
    #[error("Error starting the D-Bus thread")]
    Thread(#[source] io::Error),
    /// The name breaks the rules.
    #[error("\"{0}\" is no D-Bus name: give two or more words with dots between, such as org.example.Vm1")]
    ServiceName(String, #[source] zbus::Error),
    /// The path breaks the rules.
    #[error("\"{0}\" is no D-Bus object path: give words with a slash before each, such as /org/example/Vm1")]
    ObjectPath(String, #[source] zbus::Error),
    /// Nobody answers.
    #[error("Error connecting to the {0}: see that its D-Bus daemon runs{hint}", hint = .0.hint())]
    Connect(Bus, #[source] zbus::Error),
    /// The bus took too long.
    #[error("The {0} does not answer: see that its D-Bus daemon is well")]
    Late(Bus),
    /// Another connection has it.
    #[error("The D-Bus name {0} is taken: choose another --dbus-service-name or end its owner")]
    NameTaken(String),
    /// The bus says no.
    #[error("The {bus} does not give out the name {name}: see that its policy lets this user own it")]
    Refused {
        /// Which bus.
        bus: Bus,
        /// The name.
        name: String,
        /// The bus' reason.
        #[source]
        source: zbus::Error,
    },
}

/// What was left undone at the end.
#[derive(Debug, Error)]
pub enum StopError {
    /// The thread failed.
    #[error("Failed to gracefully shutdown dbus api")]
    Thread,
}

/// The running server. Dropping it leaves the thread alone, as a failing process must.
#[derive(Debug)]
pub struct Server {
    thread: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// Serves the object on a thread of its own. Returns when callers can reach it by name.
///
/// # Errors
/// [`ServeError`].
pub fn serve(settings: Settings, client: Client) -> Result<Server, ServeError> {
    let (stop, stopped) = watch::channel(false);
    let (ready, served) = mpsc::sync_channel(1);
    // Landlock has no rules about connecting to a socket.
    let serve = move || run(&settings, &client, stopped, &ready);
    let thread = sandbox::spawn_within(&PROFILE, "dbus-thread", &[], serve).map_err(ServeError::Thread)?;
    let gone = |_| Err(ServeError::Thread(io::Error::other("it ended at once")));
    served.recv().unwrap_or_else(gone)?;
    Ok(Server { thread, stop })
}

impl Server {
    /// Lets calls under way finish, tells the last events and leaves the bus. Takes two seconds at most.
    ///
    /// Call it when the process ends well, after the control loop.
    ///
    /// # Errors
    /// [`StopError`]; the thread is gone in any case.
    pub fn stop(self) -> Result<(), StopError> {
        self.stop.send_replace(true);
        self.thread.join().map_err(|_| StopError::Thread)
    }
}

fn run(
    settings: &Settings,
    client: &Client,
    stopped: watch::Receiver<bool>,
    ready: &SyncSender<Result<(), ServeError>>,
) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = match builder.enable_io().enable_time().max_io_events_per_tick(EVENTS).build() {
        Ok(runtime) => runtime,
        // Whoever waits for the thread may have gone only with the process.
        Err(error) => return drop(ready.send(Err(ServeError::Thread(error)))),
    };
    runtime.block_on(async {
        let places = Arc::new(Semaphore::new(CALLS as usize));
        match enter(settings, Door::new(client.clone(), places.clone())).await {
            Ok(emitter) => {
                let _ = ready.send(Ok(()));
                attend(settings, client, emitter, &places, &stopped).await;
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    });
}

/// Puts `door` on the bus.
async fn enter(settings: &Settings, door: Door) -> Result<SignalEmitter<'static>, ServeError> {
    let (bus, name) = (settings.bus.clone(), settings.service_name.clone());
    let path = ObjectPath::try_from(settings.object_path.clone())
        .map_err(|e| ServeError::ObjectPath(settings.object_path.clone(), e))?;
    let known =
        WellKnownName::try_from(name.clone()).map_err(|e| ServeError::ServiceName(name.clone(), e))?;
    let entering = async {
        let connection = bus.builder().max_queued(QUEUED).serve_at(path.clone(), door).build().await;
        let connection = connection.map_err(|e| ServeError::Connect(bus.clone(), e))?;
        // Nobody's name is taken away, not even of those who would give it.
        let flags = RequestNameFlags::DO_NOT_QUEUE;
        match connection.request_name_with_flags(known, flags).await {
            Ok(_) => Ok(connection),
            Err(zbus::Error::NameTaken) => Err(ServeError::NameTaken(name)),
            Err(source) => Err(ServeError::Refused { bus: bus.clone(), name, source }),
        }
    };
    let connection =
        timeout(CONNECT, entering).await.unwrap_or_else(|_| Err(ServeError::Late(bus.clone())))?;
    info!("The D-Bus API is {} at {path} on the {bus}", settings.service_name);
    Ok(SignalEmitter::from_parts(connection, path))
}

/// Serves until the stop is asked for or the bus is gone.
async fn attend(
    settings: &Settings,
    client: &Client,
    emitter: SignalEmitter<'static>,
    places: &Semaphore,
    stopped: &watch::Receiver<bool>,
) {
    let connection: Connection = emitter.connection().clone();
    let reader = client.reads().events().reader(StartAt::After(0));
    let events = tokio::spawn(events::tell(reader, emitter, stop_asked(stopped.clone())));
    let (mut closed, mut stopping) = (pin!(connection.closed()), pin!(stop_asked(stopped.clone())));
    let is_closed = poll_fn(|cx| match stopping.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(false),
        Poll::Pending => closed.as_mut().poll(cx).map(|()| true),
    });
    if is_closed.await {
        error!(
            "The {} closed the D-Bus connection: the VM goes on; restart the VMM to reach it over D-Bus again",
            settings.bus
        );
        return;
    }
    let seeing_off = async {
        // All replies are sent when all places are free. Only a closed semaphore has none.
        let _ = places.acquire_many(CALLS).await;
        let _ = events.await;
    };
    if timeout(STOP, seeing_off).await.is_err() {
        warn!("The D-Bus API stops before all of its callers have their replies");
    }
}

/// Resolves when the server is asked to stop. A server that was dropped never is.
async fn stop_asked(mut stopped: watch::Receiver<bool>) {
    if stopped.wait_for(|stopped| *stopped).await.is_err() {
        pending::<()>().await;
    }
}
