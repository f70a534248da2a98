//! What goes wrong, in a form every door can tell: a stable code and a chain of texts.

use std::error::Error;
use std::fmt;

use config::{ProblemKind, Problems};
use serde::Serialize;
use serde_json::Value;

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
    /// There is no such job.
    NoSuchJob,
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
    /// A job holds the VM.
    JobRunning,
    /// The VMM failed.
    Internal,
    /// The mechanism does not exist yet.
    NotImplemented,
    /// The VMM is shutting down or has too much to do.
    Unavailable,
}

impl Code {
    /// All codes, in the order of their statuses.
    pub const ALL: [Self; 18] = [
        Self::BadRequest,
        Self::MalformedJson,
        Self::InvalidConfig,
        Self::NotFound,
        Self::VmNotCreated,
        Self::NoSuchDevice,
        Self::NoSuchJob,
        Self::MethodNotAllowed,
        Self::IllegalState,
        Self::VmMigrating,
        Self::VmAlreadyCreated,
        Self::Duplicate,
        Self::TooLarge,
        Self::Pending,
        Self::JobRunning,
        Self::Internal,
        Self::NotImplemented,
        Self::Unavailable,
    ];

    /// The HTTP status and the code's name.
    pub fn parts(self) -> (u16, &'static str) {
        let (status, name, _) = self.row();
        (status, name)
    }

    /// What it means and what to do about it, in a line.
    pub fn meaning(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest => (
                400,
                "bad_request",
                "The request makes no sense: a body or header is missing, broken or too many.",
            ),
            Self::MalformedJson => (
                400,
                "malformed_json",
                "The body is no JSON of the right shape: the last text names line, column and field.",
            ),
            Self::InvalidConfig => (
                400,
                "invalid_config",
                "The configuration breaks a rule: the problem document lists every broken rule with its field and a hint.",
            ),
            Self::NotFound => {
                (404, "not_found", "The path names nothing: see the OpenAPI document for what there is.")
            }
            Self::VmNotCreated => (404, "vm_not_created", "There is no VM: create one first."),
            Self::NoSuchDevice => {
                (404, "no_such_device", "The VM has no device of this id: `vm.info` lists them.")
            }
            Self::NoSuchJob => {
                (404, "no_such_job", "No job of this number is under way: `vm.jobs` lists them.")
            }
            Self::MethodNotAllowed => (
                405,
                "method_not_allowed",
                "The path answers to another method: the `Allow` header names it.",
            ),
            Self::IllegalState => {
                (405, "illegal_state", "The VM's state does not allow the call: `vm.info` tells the state.")
            }
            Self::VmMigrating => {
                (405, "vm_migrating", "A migration holds the VM: wait for the event that ends it.")
            }
            Self::VmAlreadyCreated => (409, "vm_already_created", "There is a VM already: delete it first."),
            Self::Duplicate => (409, "duplicate", "An identifier or path is used twice: choose another."),
            Self::TooLarge => (413, "too_large", "The body is larger than 4 MiB."),
            Self::Pending => (429, "pending", "The same thing is still under way: ask again later."),
            Self::JobRunning => (
                429,
                "job_running",
                "A job such as a snapshot holds the VM: `vm.jobs` tells how far it is, `vm.cancel-job` ends it.",
            ),
            Self::Internal => (500, "internal", "The VMM failed: the texts and the log say at what."),
            Self::NotImplemented => {
                (501, "not_implemented", "This version cannot do it yet: the texts name what is missing.")
            }
            Self::Unavailable => (
                503,
                "unavailable",
                "The VMM is shutting down, has too many clients, or finds no hypervisor on this host: the texts say which.",
            ),
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
        let broken = |(path, detail, hint): &(String, String, String)| BrokenRule {
            path: path.clone(),
            detail: detail.clone(),
            hint: hint.clone(),
        };
        let problem = Problem {
            kind: format!("urn:cloud-hypervisor:error:{code}"),
            title: self.chain.first().cloned().unwrap_or_default(),
            status,
            detail: self.chain.join(": "),
            code: code.into(),
            chain: self.chain.clone(),
            errors: self.problems.iter().map(broken).collect(),
        };
        // Strings and numbers always make JSON.
        serde_json::to_string(&problem).unwrap_or_default()
    }
}

/// A failure as RFC 9457 has it, for clients that accept `application/problem+json`.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Problem {
    /// `urn:cloud-hypervisor:error:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The outermost text.
    title: String,
    /// The HTTP status.
    status: u16,
    /// All texts in one line.
    detail: String,
    /// The stable code, as in the header `X-Error-Code`. New versions may add codes.
    code: String,
    /// The texts, outermost first.
    chain: Vec<String>,
    /// Every broken rule of a configuration.
    errors: Vec<BrokenRule>,
}

/// A rule of the configuration that is broken.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct BrokenRule {
    /// The field, such as `disks[0].queue_size`.
    path: String,
    /// What is wrong.
    detail: String,
    /// What to do about it.
    hint: String,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl Error for ApiError {}
