//! State is data: every device keeps what the guest can see in one serde struct with a kind and a version.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One device's saved state as it stands in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// [`Persist::KIND`] of what saved it.
    pub kind: String,
    /// [`Persist::VERSION`] of what saved it.
    pub version: u32,
    /// The state itself.
    pub state: serde_json::Value,
}

/// Why a state cannot be put back.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The state belongs to something else.
    #[error("The state is of kind '{found}', not '{expected}': use the snapshot's own configuration")]
    Kind {
        /// What the device restores.
        expected: &'static str,
        /// What the state says it is.
        found: String,
    },
    /// The state was written by a newer program.
    #[error("The state of '{kind}' has version {found}, this program knows up to {known}: use a newer one")]
    Version {
        /// Whose state.
        kind: &'static str,
        /// The newest version known here.
        known: u32,
        /// The version found.
        found: u32,
    },
    /// The state does not parse.
    #[error("The state of '{kind}' cannot be read")]
    Malformed {
        /// Whose state.
        kind: &'static str,
        /// Where it broke.
        #[source]
        source: serde_json::Error,
    },
    /// A value in the state is impossible.
    #[error("The state of '{kind}' has an impossible {field}")]
    Value {
        /// Whose state.
        kind: &'static str,
        /// Which field.
        field: &'static str,
    },
}

/// Something whose guest-visible state can be taken out and put back.
pub trait Persist {
    /// The state: everything the guest can see, nothing of the host's.
    type State: Serialize + DeserializeOwned;
    /// Names the device in a snapshot.
    const KIND: &'static str;
    /// Counts the incompatible changes of `State`, from 1.
    const VERSION: u32;

    /// Clones the state out.
    fn save(&self) -> Self::State;

    /// Puts a state in.
    ///
    /// # Errors
    /// [`RestoreError::Value`] if a field is out of its range; the device is unchanged then.
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError>;

    /// [`Persist::save`] with kind and version on it.
    fn to_saved(&self) -> Option<Saved> {
        let state = serde_json::to_value(self.save()).ok()?;
        Some(Saved { kind: Self::KIND.into(), version: Self::VERSION, state })
    }

    /// [`Persist::restore`] after a look at kind and version.
    ///
    /// # Errors
    /// Any [`RestoreError`].
    fn restore_saved(&mut self, saved: &Saved) -> Result<(), RestoreError> {
        if saved.kind != Self::KIND {
            return Err(RestoreError::Kind { expected: Self::KIND, found: saved.kind.clone() });
        }
        if saved.version > Self::VERSION {
            return Err(RestoreError::Version {
                kind: Self::KIND,
                known: Self::VERSION,
                found: saved.version,
            });
        }
        let state = Self::State::deserialize(&saved.state)
            .map_err(|source| RestoreError::Malformed { kind: Self::KIND, source })?;
        self.restore(state)
    }
}
