//! The one channel into the control loop: many doors send, one loop receives, an eventfd wakes it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use host::EventFd;

use crate::{ApiError, Calls, Code, Command, Outcome, Reads, Reply};

/// Where a command's reply goes. Dropping it unanswered tells the caller that the VMM is going away.
pub struct ReplyTo<T>(Option<Deliver<T>>);

type Deliver<T> = Box<dyn FnOnce(Result<T, ApiError>) + Send>;

impl<T> ReplyTo<T> {
    /// Replies through `send`.
    pub fn new(send: impl FnOnce(Result<T, ApiError>) + Send + 'static) -> Self {
        Self(Some(Box::new(send)))
    }

    /// Replies.
    pub fn send(mut self, result: Result<T, ApiError>) {
        if let Some(send) = self.0.take() {
            send(result);
        }
    }
}

impl<T> Drop for ReplyTo<T> {
    fn drop(&mut self) {
        if let Some(send) = self.0.take() {
            send(Err(ApiError::new(
                Code::Unavailable,
                ["API response receive error: the VMM is shutting down".into()],
            )));
        }
    }
}

/// A door's end. Cloning shares it.
#[derive(Clone)]
pub struct Client {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    reads: Arc<dyn Reads>,
    calls: Arc<Calls>,
}

/// The control loop's end.
pub struct Inbox {
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
}

/// Makes the channel. `reads` answers what needs no control loop.
///
/// # Errors
/// The kernel's, if there is no descriptor left.
pub fn channel(reads: Arc<dyn Reads>) -> io::Result<(Client, Inbox)> {
    let (sender, commands) = mpsc::channel();
    let wake = Arc::new(host::event_fd()?);
    Ok((
        Client { commands: sender, wake: wake.clone(), reads, calls: Arc::default() },
        Inbox { commands, wake },
    ))
}

impl Client {
    /// What is answered without the control loop.
    pub fn reads(&self) -> &dyn Reads {
        self.reads.as_ref()
    }

    /// How calls of verbs have fared, through whichever door.
    pub fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    /// Sends a command. Its [`ReplyTo`] answers even if nobody receives it any more.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // A full counter means the loop has not looked since: it will.
            let _ = self.wake.write(1);
        }
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// The command's own.
    pub fn ask<T: Send + 'static>(&self, command: impl FnOnce(ReplyTo<T>) -> Command) -> Result<T, ApiError> {
        let (sender, reply) = mpsc::channel();
        // The receiver below waits as long as the sender lives.
        self.send(command(ReplyTo::new(move |result| drop(sender.send(result)))));
        reply
            .recv()
            .unwrap_or_else(|_| Err(ApiError::new(Code::Unavailable, ["API response receive error".into()])))
    }
}

impl Inbox {
    /// Readable while commands wait.
    pub fn wake_fd(&self) -> &EventFd {
        &self.wake
    }

    /// The next command, if one waits.
    pub fn next(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// Call before [`Inbox::next`] when [`Inbox::wake_fd`] is readable.
    pub fn clear_wake(&self) {
        let _ = self.wake.read();
    }
}

/// A reply that becomes an outcome of `verb` for a door.
pub(crate) fn answer<T: Reply>(
    verb: &'static crate::Verb,
    unknown_fields: Vec<String>,
    done: crate::verb::Done,
) -> ReplyTo<T> {
    ReplyTo::new(move |result: Result<T, ApiError>| {
        let result = result.and_then(Reply::into_answer).map_err(|error| verb.failure(error));
        done(Outcome { result, unknown_fields });
    })
}
