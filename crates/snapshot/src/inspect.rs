//! What people ask of a snapshot: how large it is, what it lies on, what is in it.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::directory::{CONFIG, Directory, STATE};
use crate::{Error, FORMAT, Snapshot};

/// A snapshot, described.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Its directory.
    pub path: PathBuf,
    /// The version of its format.
    pub format: u64,
    /// Its id.
    pub id: String,
    /// Bytes of RAM.
    pub memory_bytes: u64,
    /// Where RAM is.
    pub ranges: Vec<InspectedRange>,
    /// Bytes of the configuration.
    pub config_bytes: u64,
    /// Bytes of the machine's state, and of what the snapshot says of itself.
    pub state_bytes: u64,
    /// The snapshot itself, its parent, and so on to the full one.
    pub chain: Vec<InspectedLink>,
    /// Devices whose state is there, if the state is of a kind that lists them.
    pub devices: Vec<InspectedDevice>,
}

/// A range of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InspectedRange {
    /// Its first guest-physical address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

/// One of the snapshots of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InspectedLink {
    /// Its directory.
    pub path: PathBuf,
    /// Its id.
    pub id: String,
    /// Whether it has all of RAM.
    pub full: bool,
    /// Bytes of pages that are looked for here, zero or not: all of RAM if it is full.
    pub own_bytes: u64,
    /// Bytes that its file of RAM takes of the disk.
    pub disk_bytes: u64,
}

/// A device of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InspectedDevice {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: String,
    /// The version of its state.
    pub version: u64,
}

/// Opens and describes the snapshot in `dir`.
///
/// # Errors
/// Those of [`Snapshot::open`].
pub fn inspect(dir: &Path) -> Result<Inspection, Error> {
    let snapshot = Snapshot::open(dir)?;
    let directory = Directory::to_read(dir)?;
    let len = |name| directory.file(name).map(|(_, len)| len);
    let chain = snapshot.chain().iter().zip(snapshot.layers());
    let chain = chain.map(|(link, layer)| {
        Ok(InspectedLink {
            // A parent is named from its child, which is hard to read from the third on.
            path: std::fs::canonicalize(&link.path).unwrap_or_else(|_| link.path.clone()),
            id: link.id(),
            full: layer.stored.is_none(),
            own_bytes: layer.own_bytes(),
            disk_bytes: layer.disk_bytes()?,
        })
    });
    let ranges: Vec<_> = snapshot.ranges().iter().map(|&(base, len)| InspectedRange { base, len }).collect();
    Ok(Inspection {
        path: dir.to_owned(),
        format: FORMAT,
        id: snapshot.uuid().to_string(),
        memory_bytes: ranges.iter().map(|range| range.len).sum(),
        ranges,
        config_bytes: len(CONFIG)?,
        state_bytes: len(STATE)?,
        chain: chain.collect::<Result<_, Error>>()?,
        devices: devices(snapshot.state()),
    })
}

/// The state of a machine has an object `nodes`, with a device's `kind` and `version` by its id.
fn devices(state: &Value) -> Vec<InspectedDevice> {
    let nodes = state.get("nodes").and_then(Value::as_object).into_iter().flatten();
    let device = |(id, node): (&String, &Value)| {
        let (kind, version) = (node.get("kind")?.as_str()?.to_owned(), node.get("version")?.as_u64()?);
        Some(InspectedDevice { id: id.clone(), kind, version })
    };
    nodes.filter_map(device).collect()
}
