//! Long calls as jobs: what `vm.jobs` tells of those that run and of the last that have ended.

use serde::{Deserialize, Serialize};

/// All jobs that are remembered, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Jobs {
    /// The jobs.
    pub jobs: Vec<Job>,
}

/// A call that takes its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Job {
    /// Its number, from 1; each process counts for itself.
    pub id: u64,
    /// The call, such as `vm.snapshot`.
    pub verb: String,
    /// Whether it runs.
    pub state: JobState,
    /// What it is at, or was at last.
    pub phase: JobPhase,
    /// Bytes that are done.
    pub bytes_done: u64,
    /// Bytes that are known to be left. More come as long as the guest writes.
    pub bytes_left: u64,
    /// Bytes a second that the guest wrote during the last pass over its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_rate: Option<u64>,
    /// Milliseconds that the guest would stand still if it were held now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_downtime_ms: Option<u64>,
    /// Microseconds that the guest stood still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_us: Option<u64>,
    /// Why it failed, outermost first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Vec<String>>,
}

/// How a job fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It runs.
    #[default]
    Running,
    /// It has done what it was to do.
    Done,
    /// It could not.
    Failed,
    /// Somebody ended it: `vm.cancel-job`, the end of the VM, or the guest's reset.
    Cancelled,
}

/// What a job is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum JobPhase {
    /// It opens what it needs.
    #[default]
    Preparing,
    /// Memory is on its way. The guest runs, unless it was paused before.
    Memory,
    /// The guest stands still for the last pages and the state of its devices.
    Holding,
    /// What was written is made to last.
    Finishing,
}
