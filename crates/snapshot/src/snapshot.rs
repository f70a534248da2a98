//! Reading a snapshot: all of its chain is opened and checked first, and held open.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use uuid::Uuid;

use crate::directory::{CONFIG, Directory};
use crate::error::Damage;
use crate::manifest::{self, Manifest, Parent};
use crate::memory::{self, DataRun, Layer, Segment, data_runs, segments};
use crate::ranges::Place;
use crate::{Error, MAX_CONFIG, MAX_DEPTH};

/// A snapshot that was opened and checked, with all that it lies on. Threads may share it.
#[derive(Debug)]
pub struct Snapshot {
    /// From the snapshot itself to the full one at the bottom.
    layers: Vec<Layer>,
    chain: Vec<Link>,
    config: Vec<u8>,
    state: Value,
}

/// One of the snapshots of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its directory: as it was given, or as its child names it.
    pub path: PathBuf,
    id: Uuid,
}

impl Link {
    /// Its id.
    pub fn id(&self) -> String {
        self.id.to_string()
    }
}

impl Snapshot {
    /// Opens the snapshot in `dir` and all it lies on, and checks everything but RAM itself.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let directory = Directory::to_read(dir)?;
        let mut manifest = Manifest::read(&directory)?;
        let config = directory.content(CONFIG, MAX_CONFIG)?;
        if manifest::sha256(&config) != manifest.checksums.config {
            return Err(Error::damaged(&directory.path_of(CONFIG))(Damage::Checksum));
        }
        let state = std::mem::take(&mut manifest.state);
        let layers = vec![Layer::open(&directory, &manifest)?];
        let chain = vec![Link { path: dir.to_owned(), id: manifest.id }];
        let mut snapshot = Self { layers, chain, config, state };
        snapshot.open_parents(directory, manifest.parent)?;
        Ok(snapshot)
    }

    fn open_parents(&mut self, directory: Directory, parent: Option<Parent>) -> Result<(), Error> {
        let mut seen = BTreeSet::from([self.uuid()]);
        let (mut child, mut next) = (directory, parent);
        while let Some(parent) = next {
            let path = child.path_of(&parent.path);
            let failed = |source| Error::Parent {
                child: child.path().to_owned(),
                path: path.clone(),
                source: Box::new(source),
            };
            if self.layers.len() >= MAX_DEPTH {
                return Err(failed(Error::TooDeep));
            }
            if !seen.insert(parent.id) {
                return Err(failed(Error::Cycle));
            }
            let directory = child.other(parent.path.as_ref()).map_err(failed)?;
            let manifest = Manifest::read(&directory).map_err(failed)?;
            if manifest.id != parent.id {
                let (expected, found) = (parent.id.to_string(), manifest.id.to_string());
                return Err(failed(Error::WrongParent { expected, found }));
            }
            self.layers.push(Layer::open(&directory, &manifest).map_err(failed)?);
            self.chain.push(Link { path, id: parent.id });
            (child, next) = (directory, manifest.parent);
        }
        Ok(())
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub(crate) fn uuid(&self) -> Uuid {
        self.chain.first().map(|link| link.id).unwrap_or_default()
    }

    /// The snapshot itself, its parent, and so on to the full one.
    pub fn chain(&self) -> &[Link] {
        &self.chain
    }

    /// `config.json`.
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// The machine's state.
    pub fn state(&self) -> &Value {
        &self.state
    }

    /// RAM: (guest-physical address, bytes), ascending.
    pub fn ranges(&self) -> &[(u64, u64)] {
        self.layers.first().map(|layer| layer.ranges.list()).unwrap_or_default()
    }

    /// Fills `buf` with the RAM at `gpa`. Holes are not read from the disk.
    ///
    /// # Errors
    /// `InvalidInput` if that is not RAM; the kernel's; `UnexpectedEof` if a file was made shorter.
    pub fn read(&self, gpa: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = buf.len() as u64;
        if !self.layers.first().is_some_and(|layer| layer.ranges.cover(gpa, len)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, Error::Outside { gpa, len }));
        }
        memory::fill(&self.layers, gpa, buf)
    }

    /// The full snapshot's file and the offset in it of `len` bytes at `gpa`, if it has them all in one piece and every snapshot above it has
    /// them too. With [`Self::stored_above_base`] laid over a private mapping of them, they are the RAM of this snapshot.
    pub fn base_file(&self, gpa: u64, len: u64) -> Option<(&File, u64)> {
        let (base, above) = self.layers.split_last()?;
        match base.ranges.find(gpa) {
            Place::Stored { offset, left } if left >= len => {
                above.iter().all(|layer| layer.ranges.cover(gpa, len)).then_some((&base.file, offset))
            }
            _ => None,
        }
    }

    /// Pages that differ, or may, from what the full snapshot at the bottom has, ascending: (guest-physical address, bytes).
    pub fn stored_above_base(&self) -> impl Iterator<Item = (u64, u64)> {
        let base = self.layers.len().saturating_sub(1);
        self.segments()
            .filter(move |(_, segment)| segment.source.is_none_or(|(number, ..)| number < base))
            .map(|(gpa, segment)| (gpa, segment.len))
    }

    /// Pages that are not in a hole, ascending: (guest-physical address, bytes). All others are zero.
    pub fn data_runs(&self) -> impl Iterator<Item = io::Result<(u64, u64)>> {
        self.data().map(|run| run.map(|run| (run.gpa, run.len)))
    }

    /// All of RAM.
    fn segments(&self) -> impl Iterator<Item = (u64, Segment<'_>)> {
        self.ranges().iter().flat_map(|&(gpa, len)| segments(&self.layers, gpa, len))
    }

    /// The same as [`Self::data_runs`], with the files.
    pub(crate) fn data(&self) -> impl Iterator<Item = io::Result<DataRun<'_>>> {
        self.segments().flat_map(|(gpa, segment)| data_runs(gpa, segment))
    }

    /// Whether the files of RAM, which have no checksum, are as they were when they were opened, as far as length and time tell.
    ///
    /// # Errors
    /// The file that is not.
    pub fn check_unchanged(&self) -> Result<(), Error> {
        self.layers.iter().try_for_each(Layer::check_unchanged)
    }
}
