//! Replies on their way back to a door.

#[cfg(feature = "schema")]
use schemars::SchemaGenerator;
use serde::Serialize;

#[cfg(feature = "schema")]
use crate::schema::Successes;
use crate::{ApiError, Code, Counters, Jobs, PciDeviceInfo, Verb, VmInfo, VmmPing};

/// A successful reply as doors send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 204.
    Nothing,
    /// 200 with an empty body.
    Empty,
    /// 200 with JSON.
    Json(String),
}

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The reply.
    pub result: Result<Answer, ApiError>,
    /// Fields of the body that nobody knows, by path.
    pub unknown_fields: Vec<String>,
}

/// Unknown fields that are told one by one; of others only that there are some.
pub const WARNED_FIELDS: usize = 4;
/// Characters of a client's text in a log line.
const LOGGED_LENGTH: usize = 512;

impl Outcome {
    /// What the log says of fields that nobody knows.
    pub fn warnings(&self, verb: &Verb) -> impl Iterator<Item = String> {
        let fields = self.unknown_fields.iter().take(WARNED_FIELDS);
        fields.map(|field| format!("{}: unknown field: {}", verb.name, log_text(field)))
    }
}

/// A client's text as the log may hold it: short, and on one line.
pub fn log_text(text: &str) -> String {
    text.chars().take(LOGGED_LENGTH).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// What a verb may reply with.
pub trait Reply: Send + 'static {
    /// Whether some replies hold JSON.
    const HAS_JSON: bool = true;

    /// The reply as doors send it.
    ///
    /// # Errors
    /// [`Code::Internal`] if it cannot be written as JSON.
    fn into_answer(self) -> Result<Answer, ApiError>;

    /// The statuses of success and the shape of their JSON.
    #[cfg(feature = "schema")]
    fn schemas(generator: &mut SchemaGenerator) -> Successes;
}

impl Reply for () {
    const HAS_JSON: bool = false;

    fn into_answer(self) -> Result<Answer, ApiError> {
        Ok(Answer::Nothing)
    }

    #[cfg(feature = "schema")]
    fn schemas(_: &mut SchemaGenerator) -> Successes {
        vec![(204, None)]
    }
}

/// The reply of `vmm.shutdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl Reply for Stopped {
    const HAS_JSON: bool = false;

    fn into_answer(self) -> Result<Answer, ApiError> {
        Ok(Answer::Empty)
    }

    #[cfg(feature = "schema")]
    fn schemas(_: &mut SchemaGenerator) -> Successes {
        vec![(200, None)]
    }
}

impl Reply for Option<PciDeviceInfo> {
    fn into_answer(self) -> Result<Answer, ApiError> {
        self.map_or(Ok(Answer::Nothing), |info| json(&info))
    }

    #[cfg(feature = "schema")]
    fn schemas(generator: &mut SchemaGenerator) -> Successes {
        vec![(200, Some(generator.subschema_for::<PciDeviceInfo>())), (204, None)]
    }
}

impl Reply for VmmPing {
    fn into_answer(self) -> Result<Answer, ApiError> {
        json(&self)
    }

    #[cfg(feature = "schema")]
    fn schemas(generator: &mut SchemaGenerator) -> Successes {
        vec![(200, Some(generator.subschema_for::<VmmPing>()))]
    }
}

impl Reply for VmInfo {
    fn into_answer(self) -> Result<Answer, ApiError> {
        json(&self)
    }

    #[cfg(feature = "schema")]
    fn schemas(generator: &mut SchemaGenerator) -> Successes {
        vec![(200, Some(generator.subschema_for::<VmInfo>()))]
    }
}

impl Reply for Counters {
    fn into_answer(self) -> Result<Answer, ApiError> {
        json(&self)
    }

    #[cfg(feature = "schema")]
    fn schemas(generator: &mut SchemaGenerator) -> Successes {
        vec![(200, Some(generator.subschema_for::<Counters>()))]
    }
}

impl Reply for Jobs {
    fn into_answer(self) -> Result<Answer, ApiError> {
        json(&self)
    }

    #[cfg(feature = "schema")]
    fn schemas(generator: &mut SchemaGenerator) -> Successes {
        vec![(200, Some(generator.subschema_for::<Jobs>()))]
    }
}

fn json(value: &impl Serialize) -> Result<Answer, ApiError> {
    serde_json::to_string(value).map(Answer::Json).map_err(|e| ApiError::from_error(Code::Internal, &e))
}
