//! `wait`: looks at `vm.info` until the VM is in a state. A VMM that is not there yet, or has no VM yet, is worth waiting for.

use std::error::Error;

use api::VmState;
use serde::Deserialize;

use crate::payload::Payload;
use crate::remote::{Remote, RemoteError};

/// The verb that tells the state.
pub(crate) const VM_INFO: &str = "vm.info";

/// Why the state did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WaitError {
    /// The time is over.
    #[error("The VM is not {wanted:?} in time: {last}")]
    Deadline {
        /// What was waited for.
        wanted: VmState,
        /// What there was at last.
        last: String,
    },
    /// Waiting will not help.
    #[error("Error asking for the VM's state")]
    Remote(#[from] RemoteError),
    /// The reply tells no state.
    #[error("The VMM tells no known state")]
    Reply(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Info {
    state: VmState,
}

/// Asks `remote` until it is in `wanted`. `again` pauses between two looks and says whether there is time for another.
///
/// # Errors
/// [`WaitError`].
pub(crate) fn wait(
    remote: &dyn Remote,
    wanted: VmState,
    mut again: impl FnMut() -> bool,
) -> Result<(), WaitError> {
    loop {
        let last = match remote.call(VM_INFO, &Payload::default()) {
            Ok(body) => match serde_json::from_slice::<Info>(&body.unwrap_or_default())?.state {
                state if state == wanted => return Ok(()),
                state => format!("it is {state:?}"),
            },
            Err(error) => excuse(error)?,
        };
        if !again() {
            return Err(WaitError::Deadline { wanted, last });
        }
    }
}

/// What to say of a failure that may pass.
fn excuse(error: RemoteError) -> Result<String, WaitError> {
    match error.status() {
        Some(404) => Ok("there is no VM".into()),
        Some(429 | 503) => Ok("the VMM is busy".into()),
        _ if error.is_silence() => {
            let why = error.source().map(|why| format!(": {why}")).unwrap_or_default();
            Ok(format!("the VMM does not answer: {error}{why}"))
        }
        _ => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;

    use super::*;
    use crate::events::EventsError;
    use crate::remote::Each;

    /// Gives its replies one by one.
    struct Script(RefCell<Vec<Result<&'static str, RemoteError>>>);

    impl Remote for Script {
        fn events(&self, _: bool, _: &mut Each<'_>) -> Result<(), EventsError> {
            Ok(())
        }

        fn call(&self, verb: &str, _: &Payload) -> Result<Option<Vec<u8>>, RemoteError> {
            assert_eq!(verb, "vm.info");
            self.0.borrow_mut().remove(0).map(|body| Some(body.into()))
        }
    }

    fn run(script: Vec<Result<&'static str, RemoteError>>, mut looks: u32) -> Result<(), String> {
        let remote = Script(RefCell::new(script));
        let again = || {
            looks -= 1;
            looks > 0
        };
        wait(&remote, VmState::Running, again).map_err(|e| e.to_string())
    }

    #[test]
    fn it_outlasts_a_vmm_that_is_still_starting() {
        let connect =
            RemoteError::Connect { path: "/s".into(), source: io::ErrorKind::ConnectionRefused.into() };
        let none = RemoteError::Refused { status: 404, body: Vec::new() };
        let script = vec![
            Err(connect),
            Err(none),
            Ok(r#"{"config":{},"state":"Created"}"#),
            Ok(r#"{"state":"Running","memory_actual_size":1}"#),
        ];
        assert_eq!(run(script, 9), Ok(()));
    }

    #[test]
    fn it_ends_at_the_deadline_and_at_errors_that_stay() {
        let created = || Ok(r#"{"state":"Created"}"#);
        let late = run(vec![created(), created()], 2);
        assert_eq!(late, Err("The VM is not Running in time: it is Created".into()));
        let nobody = RemoteError::Connect { path: "/s".into(), source: io::ErrorKind::NotFound.into() };
        let text = run(vec![Err(nobody)], 1).unwrap_err();
        assert!(text.ends_with("does not answer: Error opening HTTP socket /s: entity not found"), "{text}");
        let refused = RemoteError::Refused { status: 500, body: Vec::new() };
        assert_eq!(run(vec![Err(refused)], 9), Err("Error asking for the VM's state".into()));
        assert_eq!(run(vec![Ok("{}")], 9), Err("The VMM tells no known state".into()));
    }
}
