//! What the table says of a verb, and when a verb may be used.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

#[cfg(feature = "schema")]
use schemars::{Schema, SchemaGenerator};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::{ApiError, Client, Code, Outcome, Request};

/// HTTP methods in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Put,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::Put => "PUT",
        })
    }
}

/// Where the VM is in its life, as far as legality goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// No configuration.
    None = 1,
    /// A configuration, not booted.
    Created = 2,
    /// Running.
    Running = 4,
    /// Paused.
    Paused = 8,
    /// An outgoing migration holds it.
    Migrating = 16,
    /// Another job of [`crate::Jobs`] is under way, with or without a VM yet.
    Working = 32,
}

impl State {
    /// All states, in the order of `spec/rest-api.md` §3, and then our own.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Created, Self::Running, Self::Paused, Self::Migrating, Self::Working];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::None => "not created",
            Self::Created => "created but not booted",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Migrating => "migrating",
            Self::Working => "busy with a job",
        }
    }
}

/// A set of [`State`]s: their sum.
pub type States = u8;
/// [`State::None`] in a set.
pub const NONE: States = State::None as u8;
/// [`State::Created`] in a set.
pub const CREATED: States = State::Created as u8;
/// [`State::Running`] in a set.
pub const RUNNING: States = State::Running as u8;
/// [`State::Paused`] in a set.
pub const PAUSED: States = State::Paused as u8;
/// [`State::Migrating`] in a set.
pub const MIGRATING: States = State::Migrating as u8;

/// [`State::Working`] in a set.
pub const WORKING: States = State::Working as u8;

/// A request body.
pub trait Body: Sized {
    /// Whether the verb has one.
    const EXPECTED: bool = true;
    /// Whether descriptors may come with it.
    const DESCRIPTORS: bool = false;

    /// Reads it; the second part names the fields nobody knows.
    ///
    /// # Errors
    /// [`Code::BadRequest`] or [`Code::MalformedJson`].
    fn parse(request: Request<'_>) -> Result<(Self, Vec<String>), ApiError>;

    /// The shape of its JSON, if the verb has a body.
    #[cfg(feature = "schema")]
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema>;
}

/// The body of verbs that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoBody;

impl Body for NoBody {
    const EXPECTED: bool = false;

    #[cfg(feature = "schema")]
    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }

    fn parse(request: Request<'_>) -> Result<(Self, Vec<String>), ApiError> {
        request.want(0..=0)?;
        if request.body.is_empty() {
            Ok((Self, Vec::new()))
        } else {
            Err(ApiError::bad_request("This call takes no body"))
        }
    }
}

/// What a JSON body's type must have: a schema too, where documents are made.
#[cfg(not(feature = "schema"))]
pub trait Json: DeserializeOwned {}
#[cfg(not(feature = "schema"))]
impl<T: DeserializeOwned> Json for T {}
/// What a JSON body's type must have: a schema too, where documents are made.
#[cfg(feature = "schema")]
pub trait Json: DeserializeOwned + schemars::JsonSchema {}
#[cfg(feature = "schema")]
impl<T: DeserializeOwned + schemars::JsonSchema> Json for T {}

impl<T: Json> Body for T {
    #[cfg(feature = "schema")]
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(generator.subschema_for::<T>())
    }

    fn parse(request: Request<'_>) -> Result<(Self, Vec<String>), ApiError> {
        request.want(0..=0)?;
        if request.body.is_empty() {
            return Err(ApiError::bad_request("This call needs a JSON body"));
        }
        let malformed = |why: serde_json::Error| {
            ApiError::new(Code::MalformedJson, ["Failed to deserialize JSON".into(), why.to_string()])
        };
        // serde reads a sequence as a structure's fields one after the other, and an empty one as all defaults. No body is one.
        if request.body.trim_ascii_start().starts_with(b"[") {
            serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(request.body).map_err(malformed)?;
        }
        config::from_json(request.body).map_err(malformed)
    }
}

/// One line of the table.
pub struct Verb {
    /// Its name in paths, such as `vm.add-disk`.
    pub name: &'static str,
    /// The one method it answers to.
    pub method: Method,
    /// What it does, for documentation.
    pub summary: &'static str,
    /// What is said when it fails.
    pub fails: &'static str,
    /// The states in which it is legal.
    pub when: States,
    /// Whether it takes a body.
    pub has_body: bool,
    /// Whether descriptors may come with it.
    pub takes_descriptors: bool,
    /// Whether a reply may hold JSON.
    pub has_reply: bool,
    /// What it may fail with besides what [`Verb::codes`] can tell from the rest of the line.
    pub(crate) may: &'static [Code],
    /// Starts the call: see [`Verb::call`].
    pub(crate) start: fn(&Client, Request<'_>, Done),
}

/// What stands before everything that verbs say of their failures.
pub const FAILED: &str = "Error from API";

/// Takes the outcome of a call, on any thread.
pub(crate) type Done = Box<dyn FnOnce(Outcome) + Send>;

impl Verb {
    /// The line whose name follows [`crate::ROOT`] in a path.
    pub fn find(name: &str) -> Option<&'static Self> {
        crate::VERBS.iter().copied().find(|verb| verb.name == name)
    }

    /// Parses `request` and executes the verb. `done` gets the outcome: at once for reads and broken bodies, later for commands.
    pub fn call<'a>(
        &self,
        client: &Client,
        request: impl Into<Request<'a>>,
        done: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let (started, calls) = (Instant::now(), client.calls().clone());
        let index = crate::VERBS.iter().position(|verb| verb.name == self.name).unwrap_or(usize::MAX);
        let done = move |outcome: Outcome| {
            calls.count(index, started.elapsed(), &outcome.result);
            done(outcome);
        };
        (self.start)(client, request.into(), Box::new(done));
    }

    /// Whether the verb is legal in `state`. The error does not yet say what the verb says of its failures.
    ///
    /// # Errors
    /// 404 where there is no VM, 409 where there is one already, 405 where it is in the wrong state.
    pub fn admit(&self, state: State) -> Result<(), ApiError> {
        if self.when & state as u8 != 0 {
            return Ok(());
        }
        let makes_a_vm = self.when & NONE != 0 && self.when & CREATED == 0;
        let (code, why) = match state {
            State::None => (Code::VmNotCreated, "VM is not created".into()),
            State::Migrating => (Code::VmMigrating, "VM is currently migrating and can't be modified".into()),
            State::Working => (
                Code::JobRunning,
                "A job is under way: vm.jobs tells how far it is, vm.cancel-job ends it".into(),
            ),
            _ if makes_a_vm => (Code::VmAlreadyCreated, "VM is already created".into()),
            State::Created => (Code::IllegalState, "VM is not running".into()),
            _ => (
                Code::IllegalState,
                format!("{} is not possible while the VM is {}", self.name, state.text()),
            ),
        };
        Err(ApiError::new(code, [why]))
    }

    /// Whether the path answers to PUT besides its method.
    ///
    /// Clients in the field ask whether anybody is there by PUT.
    pub fn may_be_put(&self) -> bool {
        self.name == "vmm.ping"
    }

    /// Everything a call may fail with once its path and method are right, in the order of [`Code::ALL`].
    pub fn codes(&self) -> Vec<Code> {
        let mut codes = vec![Code::BadRequest, Code::TooLarge, Code::Internal, Code::Unavailable];
        codes.extend_from_slice(self.may);
        codes.extend(State::ALL.iter().filter_map(|state| self.admit(*state).err()).map(|error| error.code));
        if self.has_body {
            codes.push(Code::MalformedJson);
        }
        Code::ALL.into_iter().filter(|code| codes.contains(code)).collect()
    }

    /// Puts what the verb says of its failures in front of why.
    #[must_use]
    pub fn failure(&self, error: ApiError) -> ApiError {
        error.within(self.fails).within(FAILED)
    }
}

impl fmt::Debug for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verb({})", self.name)
    }
}
