//! What goes wrong, in a form every door can tell: a stable code and a chain of texts.

use std::error::Error;
use std::fmt;

use config::{ProblemKind, Problems};
use serde_json::{Value, json};

/// Stable, machine-readable names of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request makes no sense: a body too many or too few, a broken header.
    BadRequest,
    /// The body is no JSON of the right shape.
    MalformedJson,
    /// The configuration breaks a rule.
    InvalidConfig,
    /// The path names no verb.
    NotFound,
    /// There is no VM.
    VmNotCreated,
    /// There is no such device.
    NoSuchDevice,
    /// The path has another method.
    MethodNotAllowed,
    /// The verb is not legal in the VM's state.
    IllegalState,
    /// A migration holds the VM.
    VmMigrating,
    /// There is a VM already.
    VmAlreadyCreated,
    /// An identifier or path is used twice.
    Duplicate,
    /// The body is larger than 4 MiB.
    TooLarge,
    /// The same thing is still under way.
    Pending,
    /// The VMM failed.
    Internal,
    /// The mechanism does not exist yet.
    NotImplemented,
    /// The VMM is shutting down or has too much to do.
    Unavailable,
}

impl Code {
    /// The HTTP status and the code's name.
    pub fn parts(self) -> (u16, &'static str) {
        match self {
            Self::BadRequest => (400, "bad_request"),
            Self::MalformedJson => (400, "malformed_json"),
            Self::InvalidConfig => (400, "invalid_config"),
            Self::NotFound => (404, "not_found"),
            Self::VmNotCreated => (404, "vm_not_created"),
            Self::NoSuchDevice => (404, "no_such_device"),
            Self::MethodNotAllowed => (405, "method_not_allowed"),
            Self::IllegalState => (405, "illegal_state"),
            Self::VmMigrating => (405, "vm_migrating"),
            Self::VmAlreadyCreated => (409, "vm_already_created"),
            Self::Duplicate => (409, "duplicate"),
            Self::TooLarge => (413, "too_large"),
            Self::Pending => (429, "pending"),
            Self::Internal => (500, "internal"),
            Self::NotImplemented => (501, "not_implemented"),
            Self::Unavailable => (503, "unavailable"),
        }
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.parts().0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.parts().1)
    }
}

/// A failure: its code and why, outermost text first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// What kind of failure.
    pub code: Code,
    chain: Vec<String>,
    /// All broken rules of a configuration, with the field's path and the next step.
    problems: Vec<(String, String, String)>,
}

impl ApiError {
    /// A failure with its texts, outermost first.
    pub fn new(code: Code, chain: impl IntoIterator<Item = String>) -> Self {
        Self { code, chain: chain.into_iter().collect(), problems: Vec::new() }
    }

    /// A failure with the texts of `error` and its sources.
    pub fn from_error(code: Code, error: &dyn Error) -> Self {
        let mut chain = vec![error.to_string()];
        let mut source = error.source();
        while let Some(inner) = source {
            chain.push(inner.to_string());
            source = inner.source();
        }
        Self::new(code, chain)
    }

    /// A request that makes no sense.
    pub fn bad_request(why: &str) -> Self {
        Self::new(Code::BadRequest, ["Bad Request".into(), why.into()])
    }

    /// The broken rules of a configuration. The chain tells the first, for clients that read one.
    pub fn from_problems(problems: &Problems) -> Self {
        let code = match problems.kind() {
            ProblemKind::Duplicate => Code::Duplicate,
            ProblemKind::Invalid => Code::InvalidConfig,
        };
        let first = problems.iter().next().into_iter().flat_map(|problem| problem.chain());
        let chain = std::iter::once("Failed to validate config").chain(first).map(str::to_owned).collect();
        let detail = |p: &config::Problem| (p.path.clone(), p.text.clone(), p.hint.clone());
        Self { code, chain, problems: problems.iter().map(detail).collect() }
    }

    /// Puts a text in front.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.chain.insert(0, outer.into());
        self
    }

    /// The texts, outermost first.
    pub fn chain(&self) -> &[String] {
        &self.chain
    }

    /// The body of an error reply: a JSON array of the texts.
    pub fn to_json(&self) -> String {
        Value::from(self.chain.clone()).to_string()
    }

    /// The body for clients that ask for `application/problem+json` (RFC 9457).
    pub fn to_problem(&self) -> String {
        let (status, code) = self.code.parts();
        let errors: Vec<Value> = self
            .problems
            .iter()
            .map(|(path, text, hint)| json!({ "path": path, "detail": text, "hint": hint }))
            .collect();
        json!({
            "type": format!("urn:cloud-hypervisor:error:{code}"),
            "title": self.chain.first(),
            "status": status,
            "detail": self.chain.join(": "),
            "code": code,
            "chain": self.chain,
            "errors": errors,
        })
        .to_string()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl Error for ApiError {}
