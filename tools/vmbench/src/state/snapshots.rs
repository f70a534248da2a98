//! Snapshots of a running guest, and what comes of them: the pause, the time, the size, restores, clones.

use super::guest::{Guest, Kind, Size, Stage};
use super::listener::{Listener, Silence};
use crate::contestant::describe;
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use vmbench::results::{Quantity, Results};

/// Beats to wait for after a snapshot, so that the silence is over.
const AFTERWARDS: usize = 5;
const CLONES: usize = 16;
/// What a busy guest writes to.
const BUSY_MIB: u64 = 32;

/// How a restore comes by its memory, and the rows for a small and a large guest.
const MODES: [(&str, [Quantity; 2]); 3] = [
    ("copy", [Quantity::CopySmall, Quantity::CopyLarge]),
    ("ondemand", [Quantity::DemandSmall, Quantity::DemandLarge]),
    ("copyonwrite", [Quantity::MappedSmall, Quantity::MappedLarge]),
];

/// A snapshot that was taken.
struct Taken {
    /// The directory, or QEMU's file.
    path: PathBuf,
    milliseconds: f64,
    /// How long the guest stood still, as the VMM says.
    pause: f64,
    silence: Silence,
}

impl Stage<'_> {
    /// A guest that writes, and what a snapshot is to it.
    pub(crate) fn snapshot_busy(&self, size: Size, results: &mut Results) -> Result<()> {
        let mut guest = self.boot(Kind { busy: BUSY_MIB, ..Kind::idle(size) }, &mut String::new())?;
        let taken = self.take(&mut guest, "busy", None, &mut String::new())?;
        drop(guest);
        results.push(
            if size.is_large() { Quantity::PauseBusyLarge } else { Quantity::PauseBusySmall },
            self.who,
            taken.pause,
        );
        if size.is_large() {
            results.push(Quantity::SilenceBusy, self.who, taken.silence.heard);
        }
        if size.is_large() && self.who.is_ours() {
            results.push(Quantity::ClockBusy, self.who, taken.silence.by_guest);
        }
        remove(&taken.path)
    }

    /// A guest that does nothing, and a snapshot of it to restore from.
    pub(crate) fn snapshot_idle(&self, size: Size, results: &mut Results) -> Result<(Guest, PathBuf)> {
        let mut text = String::new();
        let mut guest = self.boot(Kind::idle(size), &mut text)?;
        let taken = self.take(&mut guest, "idle", None, &mut text)?;
        results.push(
            if size.is_large() { Quantity::PauseIdleLarge } else { Quantity::PauseIdleSmall },
            self.who,
            taken.pause,
        );
        if size.is_large() {
            results.push(Quantity::SilenceIdle, self.who, taken.silence.heard);
            results.push(Quantity::SnapshotTime, self.who, taken.milliseconds);
            results.push(Quantity::SnapshotSize, self.who, occupied(&taken.path)?);
        }
        if size.is_large() && self.who.is_ours() {
            let later = self.take(&mut guest, "later", Some(&taken.path), &mut text)?;
            results.push(Quantity::IncrementalTime, self.who, later.milliseconds);
            results.push(Quantity::IncrementalSize, self.who, occupied(&later.path)?);
            remove(&later.path)?;
        }
        results.command(&format!("{}, snapshot of {} MiB", self.who.name(), size.memory), &text);
        Ok((guest, taken.path))
    }

    fn take(&self, guest: &mut Guest, name: &str, parent: Option<&Path>, text: &mut String) -> Result<Taken> {
        let path = self.places.scratch.join(format!("snapshot-{name}"));
        let begin = Instant::now();
        let pause = if self.who.is_ours() {
            self.take_ours(guest, &path, parent, text)?
        } else {
            self.take_qemus(guest, &path, text)?
        };
        let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
        self.listener.wait_beat(self.who.name(), &mut guest.process, Instant::now(), AFTERWARDS)?;
        Ok(Taken { path, milliseconds, pause, silence: self.listener.silence(begin) })
    }

    fn take_ours(
        &self,
        guest: &mut Guest,
        path: &Path,
        parent: Option<&Path>,
        text: &mut String,
    ) -> Result<f64> {
        fs::create_dir(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        let mut body = json!({"destination_url": format!("file://{}", path.display())});
        if let Some(parent) = parent {
            body["parent"] = json!(parent);
        }
        text.push_str(&format!("\n  vm.snapshot {body}"));
        self.order(&mut guest.connection, "vm.snapshot", &body)?;
        let last = |answer: &Value| answer["jobs"].as_array()?.last()?["downtime_us"].as_f64();
        Ok(self.poll(&mut guest.connection, "vm.jobs", last)? / 1e3)
    }

    /// To a file that has its name when all of it is on the disk; then the guest goes on.
    fn take_qemus(&self, guest: &mut Guest, path: &Path, text: &mut String) -> Result<f64> {
        self.without_limit(&mut guest.connection)?;
        let to = path.display();
        let body = json!({"uri": format!("exec:cat >{to}.part && sync {to}.part && mv {to}.part {to}")});
        text.push_str(&format!("\n  migrate {body}\n  cont"));
        self.order(&mut guest.connection, "migrate", &body)?;
        let pause = self.wait_migrated(&mut guest.connection)?;
        self.order(&mut guest.connection, "cont", &json!({}))?;
        self.wait_file(path)?;
        Ok(pause)
    }

    /// From the start of a process until its guest speaks, in every mode. QEMU has one, which stands beside each of ours.
    pub(crate) fn restores(&self, size: Size, snapshot: &Path, results: &mut Results) -> Result<()> {
        for (mode, [small, large]) in MODES {
            let command = self.restore(Kind::idle(size), snapshot, mode, self.listener);
            results.command(&format!("{}, restore, {mode}", self.who.name()), &describe(&command));
            self.listener.forget();
            let begin = Instant::now();
            let mut process = self.start(command)?;
            let end = self.listener.wait_beat(self.who.name(), &mut process, begin, 1)?;
            let quantity = if size.is_large() { large } else { small };
            results.push(quantity, self.who, (end - begin).as_secs_f64() * 1e3);
        }
        Ok(())
    }

    /// From the start of the first of many processes until the last of their guests speaks.
    pub(crate) fn clones(&self, snapshot: &Path, results: &mut Results) -> Result<()> {
        let fifo = |number| self.places.scratch.join(format!("clone-{number}"));
        let listeners =
            (0..CLONES).map(|number| Listener::make(&fifo(number))).collect::<Result<Vec<_>>>()?;
        let begin = Instant::now();
        let start =
            |listener| self.start(self.restore(Kind::idle(Size::SMALL), snapshot, "copyonwrite", listener));
        let mut clones = listeners.iter().map(start).collect::<Result<Vec<_>>>()?;
        let mut last = begin;
        for (listener, process) in listeners.iter().zip(&mut clones) {
            last = last.max(listener.wait_beat(self.who.name(), process, begin, 1)?);
        }
        results.push(Quantity::Clones, self.who, (last - begin).as_secs_f64() * 1e3);
        Ok(())
    }

    fn restore(&self, kind: Kind, snapshot: &Path, mode: &str, listener: &Listener) -> Command {
        let (from, serial) = (snapshot.display(), listener.path());
        if !self.who.is_ours() {
            let mut command = self.command(kind, serial);
            command.args(["-incoming", &format!("exec:cat {from}")]);
            return command;
        }
        let mut command = Command::new(self.places.vmm(self.who));
        command.args([
            "--restore",
            &format!(
                "source_url=file://{from},resume=true,memory_restore_mode={mode},serial=file={}",
                serial.display()
            ),
        ]);
        command
    }
}

/// What a file, or the files in a directory, occupy on the disk, in MiB.
fn occupied(path: &Path) -> Result<f64> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let blocks = if path.is_dir() {
        let entries = fs::read_dir(path).map_err(failed)?;
        let blocks = entries.map(|entry| Ok(entry?.metadata()?.blocks()));
        blocks.sum::<std::io::Result<u64>>().map_err(failed)?
    } else {
        path.metadata().map_err(failed)?.blocks()
    };
    Ok(blocks as f64 / 2048.0)
}

/// Removes a snapshot.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|source| Error::File { path: path.to_owned(), source })
}
