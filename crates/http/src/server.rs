//! The `http-server` thread: accepts connections, limits their number, and lets them finish when it is stopped.
//!
//! [`serve`] and [`Server::stop`] are called on the main thread.

use std::future::{pending, poll_fn};
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use api::Client;
use sandbox::Grant;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use crate::connection;
use crate::listen::{Bound, SocketFile};
use crate::profile::PROFILE;

/// How long a failed accept waits for descriptors to be closed elsewhere.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Sockets looked at in one turn of the event loop; its default costs memory for many more.
const EVENTS: usize = 64;

/// What clients may take from the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections served at once.
    pub(crate) connections: u32,
    /// Refused connections that are still told so.
    pub(crate) refusals: usize,
    /// A request's line and headers, in bytes.
    pub(crate) head: usize,
    /// A request's body, in bytes.
    pub(crate) body: usize,
    /// The time a head may take, from its first byte to its last.
    pub(crate) head_time: Duration,
    /// Clients that follow events at once.
    pub(crate) followers: usize,
    /// How often a follower is sent something, even if nothing happens.
    pub(crate) keep_alive: Duration,
    /// The longest time in which nothing of a body arrives.
    pub(crate) body_pause: Duration,
    /// The time a client has to read its last reply.
    pub(crate) linger: Duration,
    /// The time all clients have to get their replies when the server stops.
    pub(crate) stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            refusals: 32,
            head: 16 << 10,
            body: api::MAX_BODY,
            followers: 64,
            keep_alive: Duration::from_secs(15),
            head_time: Duration::from_secs(30),
            body_pause: Duration::from_secs(30),
            linger: Duration::from_secs(2),
            stop: Duration::from_secs(2),
        }
    }
}

/// The thread did not start.
#[derive(Debug, Error)]
#[error("Failed to spawn the HTTP server thread")]
pub struct ServeError(#[source] io::Error);

/// What was left undone at the end.
#[derive(Debug, Error)]
pub enum StopError {
    /// The thread failed.
    #[error("Failed to gracefully shutdown http api")]
    Thread(#[source] Option<io::Error>),
    /// The socket's file is still there.
    #[error("Failed to remove the API socket \"{}\"", path.display())]
    Unlink {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// How far the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It answers.
    Serving,
    /// The process ends well.
    Ending,
    /// The process did not start.
    Failed,
}

/// The running server. Dropping it leaves the thread and the socket's file alone, as a failing process must.
#[derive(Debug)]
pub struct Server {
    thread: JoinHandle<Result<(), StopError>>,
    phase: watch::Sender<Phase>,
}

/// Answers the clients of `bound` on a thread of its own.
///
/// # Errors
/// [`ServeError`], if there is no thread left.
pub fn serve(bound: Bound, client: Client) -> Result<Server, ServeError> {
    serve_within(bound, client, Limits::default())
}

pub(crate) fn serve_within(bound: Bound, client: Client, limits: Limits) -> Result<Server, ServeError> {
    let Bound { listener, file } = bound;
    let grants: Vec<Grant> = file.iter().map(SocketFile::grant).collect();
    let (phase, ended) = watch::channel(Phase::Serving);
    let observed = ended.clone();
    let serve = move || {
        let followers = Arc::new(Semaphore::new(limits.followers));
        let shared = Shared { client, limits, followers, phase: observed };
        run(listener, shared).map_err(|error| {
            error!("The HTTP server ended: {error}");
            StopError::Thread(Some(error))
        })?;
        // Here and not on the main thread, which may be confined to the files of a VM by then. The lock goes last.
        match file {
            Some(file) if *ended.borrow() == Phase::Ending => {
                file.leave().map_err(|(path, source)| StopError::Unlink { path, source })
            }
            _ => Ok(()),
        }
    };
    let thread = sandbox::spawn_within(&PROFILE, "http-server", &grants, serve);
    Ok(Server { thread: thread.map_err(ServeError)?, phase })
}

impl Server {
    /// Lets calls under way finish, closes all connections and unlinks the socket. Takes two seconds at most.
    ///
    /// Call it when the process ends well, after the control loop.
    ///
    /// # Errors
    /// [`StopError`]; the thread is gone in any case.
    pub fn stop(self) -> Result<(), StopError> {
        self.end(Phase::Ending)
    }

    /// The same for a process that could not start: the lock's file goes, too, if this process has made it.
    ///
    /// # Errors
    /// [`StopError`]; the thread is gone in any case.
    pub fn abandon(self) -> Result<(), StopError> {
        self.end(Phase::Failed)
    }

    fn end(self, phase: Phase) -> Result<(), StopError> {
        self.phase.send_replace(phase);
        self.thread.join().unwrap_or(Err(StopError::Thread(None)))
    }
}

/// What all connections use.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) limits: Limits,
    /// One permit for each client that follows events.
    pub(crate) followers: Arc<Semaphore>,
    phase: watch::Receiver<Phase>,
}

impl Shared {
    /// Resolves when the server is asked to stop. A server that was dropped never is.
    pub(crate) fn stop_asked(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut phase = self.phase.clone();
        async move {
            if phase.wait_for(|phase| *phase != Phase::Serving).await.is_err() {
                pending::<()>().await;
            }
        }
    }
}

fn run(listener: StdListener, shared: Shared) -> io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().enable_time().max_io_events_per_tick(EVENTS).build()?;
    runtime.block_on(async {
        let listener = UnixListener::from_std(listener)?;
        let doorman = Doorman::new(shared);
        let mut accepting = pin!(doorman.accept(listener));
        let mut stopping = pin!(doorman.shared.stop_asked());
        poll_fn(|cx| match stopping.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => accepting.as_mut().poll(cx),
        })
        .await;
        doorman.see_off().await;
        Ok(())
    })
}

/// Lets clients in, as far as there is room.
struct Doorman {
    shared: Arc<Shared>,
    /// One permit for each connection served.
    places: Arc<Semaphore>,
    /// One permit for each connection that is being told that there is no place.
    refusals: Arc<Semaphore>,
}

impl Doorman {
    fn new(shared: Shared) -> Self {
        let places = Arc::new(Semaphore::new(shared.limits.connections as usize));
        let refusals = Arc::new(Semaphore::new(shared.limits.refusals));
        Self { shared: Arc::new(shared), places, refusals }
    }

    async fn accept(&self, listener: UnixListener) {
        let mut is_failing = false;
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    is_failing = false;
                    self.admit(socket);
                }
                Err(error) => {
                    // Once for all the attempts until one succeeds: clients could fill the log.
                    if !is_failing {
                        warn!("The API socket cannot accept connections: {error}");
                    }
                    is_failing = true;
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, socket: UnixStream) {
        let shared = self.shared.clone();
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            tokio::spawn(async move {
                connection::serve(socket, shared).await;
                drop(place);
            });
        } else if let Ok(place) = self.refusals.clone().try_acquire_owned() {
            tokio::spawn(async move {
                connection::refuse(socket, &shared.limits).await;
                drop(place);
            });
        }
    }

    /// Waits until all clients have their replies and are gone.
    async fn see_off(&self) {
        let limits = &self.shared.limits;
        if timeout(limits.stop, self.places.acquire_many(limits.connections)).await.is_err() {
            warn!("The HTTP server stops before all of its clients have their replies");
        }
    }
}
