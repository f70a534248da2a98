//! What is done with the state of a running guest: snapshots, restores, clones, migrations. How long it does not run is heard at its serial
//! port, the same way for every contestant: its program (`tools/vmguest/src/beats.rs`) says something every 10 ms.

mod guest;
mod listener;
mod moves;
mod snapshots;

use crate::error::Result;
use crate::guest::show_log;
use crate::places::Places;
use guest::{Size, Stage};
use listener::Listener;
use snapshots::remove;
use vmbench::results::{Contestant, Results};

/// Measures a quarter of `rounds`, at least one round, as each takes minutes in a lab. Nothing warms up: all of it takes so long that
/// caches do not matter.
///
/// # Errors
/// A contestant does not boot, refuses a request, or its guest is not heard any more.
pub(crate) fn measure(places: &Places, rounds: usize) -> Result<Results> {
    let listener = Listener::make(&places.scratch.join("state-serial"))?;
    let mut results = Results::default();
    let rounds = rounds.div_ceil(4);
    for number in 1..=rounds {
        for who in places.contestants(&[Contestant::CloudHypervisor, Contestant::Q35], number) {
            eprintln!("    snapshots and migrations, round {number} of {rounds}: {}", who.name());
            let stage = Stage { places, who, listener: &listener };
            round(&stage, &mut results).inspect_err(|_| show_log(places))?;
        }
    }
    Ok(results)
}

fn round(stage: &Stage<'_>, results: &mut Results) -> Result<()> {
    let step = |what: &str| eprintln!("      {what}");
    step("snapshots of 256 MiB");
    stage.snapshot_busy(Size::SMALL, results)?;
    let (guest, snapshot) = stage.snapshot_idle(Size::SMALL, results)?;
    drop(guest);
    step("restores of 256 MiB, clones");
    stage.restores(Size::SMALL, &snapshot, results)?;
    stage.clones(&snapshot, results)?;
    remove(&snapshot)?;
    step("snapshots of 2 GiB");
    stage.snapshot_busy(Size::LARGE, results)?;
    let (guest, snapshot) = stage.snapshot_idle(Size::LARGE, results)?;
    step("migrations");
    stage.moves(guest, results)?;
    step("restores of 2 GiB");
    stage.restores(Size::LARGE, &snapshot, results)?;
    remove(&snapshot)?;
    if stage.who.is_ours() {
        step("local hand-over");
        stage.hand_over(results)?;
    }
    Ok(())
}
