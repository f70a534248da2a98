//! Replies on their way back to a door.

use serde::Serialize;

use crate::{ApiError, Code, Counters, PciDeviceInfo, VmInfo, VmmPing};

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

/// What a verb may reply with.
pub trait Reply: Send + 'static {
    /// The reply as doors send it.
    ///
    /// # Errors
    /// [`Code::Internal`] if it cannot be written as JSON.
    fn into_answer(self) -> Result<Answer, ApiError>;
}

impl Reply for () {
    fn into_answer(self) -> Result<Answer, ApiError> {
        Ok(Answer::Nothing)
    }
}

/// The reply of `vmm.shutdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl Reply for Stopped {
    fn into_answer(self) -> Result<Answer, ApiError> {
        Ok(Answer::Empty)
    }
}

impl Reply for Option<PciDeviceInfo> {
    fn into_answer(self) -> Result<Answer, ApiError> {
        self.map_or(Ok(Answer::Nothing), |info| json(&info))
    }
}

impl Reply for VmmPing {
    fn into_answer(self) -> Result<Answer, ApiError> {
        json(&self)
    }
}

impl Reply for VmInfo {
    fn into_answer(self) -> Result<Answer, ApiError> {
        json(&self)
    }
}

impl Reply for Counters {
    fn into_answer(self) -> Result<Answer, ApiError> {
        json(&self)
    }
}

fn json(value: &impl Serialize) -> Result<Answer, ApiError> {
    serde_json::to_string(value).map(Answer::Json).map_err(|e| ApiError::from_error(Code::Internal, &e))
}
