//! Calls that take long: on a terminal a line shows how far they are, and Ctrl-C cancels the job instead of leaving it behind.
//!
//! The call waits on a thread of its own; this one looks at `vm.jobs` meanwhile. A VMM that knows no jobs is waited for as ever.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use api::{Job, JobState, Jobs};
use config::VmCancelJob;
use signal_hook::consts::SIGINT;

use crate::payload::{Payload, json};
use crate::remote::{Remote, RemoteError};

/// Calls that are jobs.
const LONG: [&str; 3] = ["vm.snapshot", "vm.restore", "vm.coredump"];
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(200);

type Reply = Result<Option<Vec<u8>>, RemoteError>;

/// Whether somebody watches this call.
pub(crate) fn is_watched(verb: &str) -> bool {
    LONG.contains(&verb) && std::io::stderr().is_terminal()
}

/// Calls `verb` over `remote` and watches it over connections that `another` makes.
///
/// # Errors
/// The call's own.
pub(crate) fn call(
    remote: Box<dyn Remote + Send>,
    another: impl Fn() -> Box<dyn Remote + Send>,
    verb: &'static str,
    payload: Payload,
) -> Reply {
    let interrupted = Arc::new(AtomicBool::new(false));
    // Without it Ctrl-C ends this program, as ever, and the job goes on.
    let _ = signal_hook::flag::register(SIGINT, interrupted.clone());
    let (done, reply) = mpsc::channel();
    thread::spawn(move || {
        // Nobody waits any more if the main thread has ended.
        let _ = done.send(remote.call(verb, &payload));
    });
    let mut line = Line::default();
    loop {
        match reply.recv_timeout(INTERVAL) {
            Ok(reply) => {
                line.clear();
                return reply;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
        let Some(job) = running(&*another(), verb) else { continue };
        if interrupted.swap(false, Ordering::Relaxed) {
            line.show(&format!("{verb}: cancelling"));
            if let Ok(cancel) = json(&VmCancelJob { id: job.id }) {
                // If it has ended by itself meanwhile, its reply is on its way.
                let _ = another().call("vm.cancel-job", &cancel);
            }
        } else {
            line.show(&told(&job));
        }
    }
}

/// The job of this verb that is under way.
fn running(remote: &dyn Remote, verb: &str) -> Option<Job> {
    let body = remote.call("vm.jobs", &Payload::default()).ok()??;
    let jobs: Jobs = serde_json::from_slice(&body).ok()?;
    jobs.jobs.into_iter().rev().find(|job| job.verb == verb && job.state == JobState::Running)
}

fn told(job: &Job) -> String {
    let phase = serde_json::to_value(job.phase).ok();
    let phase = phase.as_ref().and_then(|phase| phase.as_str()).unwrap_or_default();
    let (done, left) = (job.bytes_done >> 20, job.bytes_left >> 20);
    format!("{}: {phase}, {done} MiB done, {left} MiB left (Ctrl-C cancels)", job.verb)
}

/// A line on a terminal's standard error that is written over and over.
#[derive(Default)]
struct Line {
    is_shown: bool,
}

impl Line {
    fn show(&mut self, text: &str) {
        self.is_shown = true;
        // A terminal that has gone shows nothing, and the call goes on.
        let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EventsError;
    use crate::remote::Each;

    /// A VMM with a snapshot that ends when it is cancelled.
    #[derive(Clone)]
    struct Fake {
        cancelled: Arc<AtomicBool>,
    }

    impl Remote for Fake {
        fn events(&self, _: bool, _: &mut Each<'_>) -> Result<(), EventsError> {
            Ok(())
        }

        fn call(&self, verb: &str, payload: &Payload) -> Reply {
            match verb {
                "vm.jobs" => {
                    let job = r#"{"jobs":[{"id":7,"verb":"vm.snapshot","state":"running","phase":"memory","bytes_done":1,"bytes_left":2}]}"#;
                    Ok(Some(job.into()))
                }
                "vm.cancel-job" => {
                    assert_eq!(payload.body.as_deref(), Some(&br#"{"id":7}"#[..]));
                    self.cancelled.store(true, Ordering::Relaxed);
                    Ok(None)
                }
                _ => {
                    signal_hook::low_level::raise(SIGINT).unwrap();
                    while !self.cancelled.load(Ordering::Relaxed) {
                        thread::yield_now();
                    }
                    Err(RemoteError::Refused { status: 405, body: Vec::new() })
                }
            }
        }
    }

    #[test]
    fn an_interrupt_cancels_the_job() {
        let fake = Fake { cancelled: Arc::default() };
        let another = || Box::new(fake.clone()) as Box<dyn Remote + Send>;
        let reply = call(another(), another, "vm.snapshot", Payload::default());
        assert!(matches!(reply, Err(RemoteError::Refused { status: 405, .. })), "{reply:?}");
    }

    #[test]
    fn a_job_says_how_far_it_is() {
        let job: Job = serde_json::from_str(
            r#"{"id":1,"verb":"vm.snapshot","state":"running","phase":"memory","bytes_done":1048576,"bytes_left":0}"#,
        )
        .unwrap();
        assert_eq!(told(&job), "vm.snapshot: memory, 1 MiB done, 0 MiB left (Ctrl-C cancels)");
    }
}
