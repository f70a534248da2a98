//! State is data: every device keeps what the guest can see in one serde struct with a kind and a version.

use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
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

/// The state of a part within the state of a whole. If the part's could not be taken out, the whole's cannot be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part(Result<Saved, String>);

impl Part {
    /// The state of `part`.
    pub fn of(part: &(impl Stateful + ?Sized)) -> Self {
        Self(part.to_saved().map_err(|e| format!("{e}: {}", e.source)))
    }

    /// Puts it back into `part`.
    ///
    /// # Errors
    /// Any [`RestoreError`].
    pub fn restore(&self, part: &mut (impl Stateful + ?Sized)) -> Result<(), RestoreError> {
        match &self.0 {
            Ok(saved) => part.restore_saved(saved),
            Err(text) => Err(RestoreError::Part(text.clone())),
        }
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Ok(saved) => saved.serialize(serializer),
            Err(text) => Err(S::Error::custom(text)),
        }
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Saved::deserialize(deserializer).map(|saved| Self(Ok(saved)))
    }
}

/// Why a state cannot be taken out.
#[derive(Debug, Error)]
#[error("The state of '{kind}' cannot be written down")]
pub struct SaveError {
    /// Whose state.
    pub kind: &'static str,
    /// What has no JSON form.
    #[source]
    pub source: serde_json::Error,
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
    /// A part's state could not be taken out, and was used all the same.
    #[error("{0}")]
    Part(String),
    /// A value in the state is impossible.
    #[error("The state of '{kind}' has an impossible {field}")]
    Value {
        /// Whose state.
        kind: &'static str,
        /// Which field.
        field: &'static str,
    },
}

/// Something whose guest-visible state can be taken out and put back. What has none is [`Stateless`].
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
}

/// Something that has no state the guest can see. It has a place in the tree of states all the same.
pub trait Stateless {
    /// Names the device in a snapshot.
    const KIND: &'static str;
}

impl<T: Stateless> Persist for T {
    type State = ();
    const KIND: &'static str = T::KIND;
    const VERSION: u32 = 1;

    fn save(&self) {}

    fn restore(&mut self, (): ()) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// [`Persist`] without its types: what the machine sees of every device's state. Whatever persists has it.
pub trait Stateful {
    /// [`Persist::save`] with kind and version on it.
    ///
    /// # Errors
    /// [`SaveError`] if the state has no JSON form.
    fn to_saved(&self) -> Result<Saved, SaveError>;

    /// [`Persist::restore`] after a look at kind and version.
    ///
    /// # Errors
    /// Any [`RestoreError`].
    fn restore_saved(&mut self, saved: &Saved) -> Result<(), RestoreError>;
}

impl<T: Persist> Stateful for T {
    fn to_saved(&self) -> Result<Saved, SaveError> {
        let state =
            serde_json::to_value(self.save()).map_err(|source| SaveError { kind: Self::KIND, source })?;
        Ok(Saved { kind: Self::KIND.into(), version: Self::VERSION, state })
    }

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
        let state = T::State::deserialize(&saved.state)
            .map_err(|source| RestoreError::Malformed { kind: Self::KIND, source })?;
        self.restore(state)
    }
}
