//! States that older versions of this program have written. Each kind of node has one sample for each version of its state, in `golden/`,
//! which stays for ever: what comes later must read it. A new kind, or a new version, adds a file; no file is ever changed.

use std::path::{Path, PathBuf};

use device::Saved;

use super::*;

/// Writes samples that are missing: `UPDATE_GOLDEN=1 cargo test -p machine golden`.
const UPDATE: &str = "UPDATE_GOLDEN";

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// A machine with a device of each kind that needs nothing of the host but files.
struct Full {
    rig: Rig,
    plan: Plan,
    _files: Vec<tempfile::NamedTempFile>,
    _sockets: tempfile::TempDir,
}

impl Full {
    fn new() -> Self {
        let rig = Rig::new();
        let pmem = tempfile::NamedTempFile::new().unwrap();
        pmem.as_file().set_len(4 << 20).unwrap();
        let sockets = tempfile::tempdir().unwrap();
        let more = format!(
            r#","balloon":{{"size":0}},"pmem":[{{"file":{:?},"id":"p"}}],"vsock":{{"cid":3,"socket":{:?},"id":"v"}}"#,
            pmem.path(),
            sockets.path().join("vsock")
        );
        let plan = rig.plan(&more);
        Self { rig, plan, _files: vec![pmem], _sockets: sockets }
    }

    fn save(&self) -> Tree {
        let mut machine = self.rig.boot(&self.plan);
        machine.start();
        machine.pause().unwrap();
        machine.save().unwrap()
    }

    fn restore(&self, tree: &Tree) -> Result<Machine, BuildError> {
        let (ram, _) = GuestRam::restore(&self.plan.memory.zones, &tree.ram, &memory::NoFiles).unwrap();
        self.rig.build(&self.plan, Start::Restore { tree, ram, generation: Generation::Same })
    }
}

/// What a sample is of: its kind, and that of the device behind it, if it is a transport.
fn kinds(saved: &Saved) -> (&str, &str) {
    (&saved.kind, saved.state["device"]["kind"].as_str().unwrap_or_default())
}

/// Where the sample of a state stands.
fn path(saved: &Saved) -> PathBuf {
    let mut name = format!("{}-v{}", saved.kind, saved.version);
    let device = &saved.state["device"];
    if let (Some(kind), Some(version)) = (device["kind"].as_str(), device["version"].as_u64()) {
        name = format!("{name}-{kind}-v{version}");
    }
    directory().join(format!("{name}.json"))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}: set {UPDATE}=1 once", path.display()))
}

fn write_missing(path: &Path, value: &impl serde::Serialize) {
    if std::env::var_os(UPDATE).is_some() && !path.exists() {
        std::fs::create_dir_all(directory()).unwrap();
        std::fs::write(path, serde_json::to_vec_pretty(value).unwrap()).unwrap();
    }
}

#[test]
fn every_kind_of_node_has_a_sample_of_its_version() {
    let nodes = Full::new().save().nodes;
    for saved in nodes.values() {
        write_missing(&path(saved), saved);
        let sample: Saved = serde_json::from_slice(&read(&path(saved))).unwrap();
        assert_eq!((kinds(&sample), sample.version), (kinds(saved), saved.version));
    }
}

#[test]
fn every_sample_can_be_read() {
    let full = Full::new();
    let tree = full.save();
    let entries = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let samples = entries.filter(|path| path.file_name().is_some_and(|name| name != TREE));
    for path in samples {
        let sample: Saved = serde_json::from_slice(&read(&path)).unwrap();
        let node = tree.nodes.iter().find(|(_, saved)| kinds(saved) == kinds(&sample));
        let (id, _) = node.unwrap_or_else(|| panic!("{}: this machine has no such node", path.display()));
        let mut older = tree.clone();
        older.nodes.insert(id.clone(), sample);
        if let Err(error) = full.restore(&older) {
            panic!("{}: {error}: {:?}", path.display(), std::error::Error::source(&error));
        }
    }
}

/// A whole state, in `golden/` too.
const TREE: &str = "tree-format1.json";

#[test]
fn a_whole_state_can_be_read() {
    let path = directory().join(TREE);
    let full = Full::new();
    write_missing(&path, &full.save());
    let tree: Tree = serde_json::from_slice(&read(&path)).unwrap();
    drop(full.restore(&tree).unwrap());
}
