//! Connections that break and processes that end, at every message's boundary and at bytes in between: one side has the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::machine::{Dice, FakeSource, World};
use super::net::{Fault, Net, Plan, Side};
use super::{Ended, RECEIVE, SEND, migrate};
use crate::wire::HEAD_LEN;
use crate::{Left, Limits, ReceiveSettings, Received, SendSettings, Sent};

/// Where nobody comes back, waiting for it is all that these tests would do.
const SHORT: Limits = Limits {
    settle: Duration::from_millis(20),
    orphan: Duration::from_millis(60),
    grace: Duration::from_millis(5),
    fault: Duration::from_millis(200),
    fault_again: Duration::from_millis(60),
    ..Limits::UNIX
};
/// For a source that waits for answers to what nobody has read.
const IMPATIENT: Limits = Limits {
    config: Duration::from_millis(80),
    memory: Duration::from_millis(80),
    state: Duration::from_millis(80),
    complete: Duration::from_millis(80),
    start: Duration::from_millis(80),
    ..SHORT
};
const FAULTS: [Fault; 4] =
    [Fault::Cut, Fault::CutForGood, Fault::Kill(Side::Source), Fault::Kill(Side::Destination)];
const SIDES: [Side; 2] = [Side::Source, Side::Destination];
/// Bytes that are picked at random, of each side.
const PICKED: usize = 120;
/// What a source sends from `State` on, with `Complete` and `Settled`.
const STATE_ON: usize = 3 * HEAD_LEN + 300;
/// Most cases wait for each other's end.
const THREADS: usize = 8;

/// How machines are sent in a series of cases.
#[derive(Clone, Copy, Debug)]
struct Mode {
    send: SendSettings,
    receive: ReceiveSettings,
    disk: bool,
    direct: bool,
    seed: u64,
}

const PLAIN: Mode = Mode { send: SEND, receive: RECEIVE, disk: true, direct: true, seed: 11 };

impl Mode {
    fn run(&self, plan: Option<Plan>) -> (Arc<Net>, Ended) {
        let world = if self.disk { World::default() } else { World::without_disk() };
        let net = Net::with(Arc::new(world), plan, self.direct);
        // A connection that breaks is made again at once: there the limits of every day are never reached.
        let limits = match plan {
            Some(Plan { fault: Fault::Cut | Fault::Half, .. }) | None => Limits::UNIX,
            Some(Plan { fault: Fault::Flip, .. }) => IMPATIENT,
            _ => SHORT,
        };
        let send = SendSettings { limits, ..self.send };
        let ended = migrate(
            FakeSource::new(&net, self.seed),
            &net,
            &send,
            ReceiveSettings { limits, ..self.receive },
        );
        (net, ended)
    }

    /// All boundaries of a run without faults, the bytes beside them, and some in between.
    fn points(&self) -> Vec<(Side, usize)> {
        let (net, ended) = self.run(None);
        assert!(matches!(ended.sent, Some(Ok(_))), "{:?}", ended.sent);
        let mut dice = Dice(self.seed | 1);
        SIDES
            .into_iter()
            .flat_map(|side| {
                let ends = net.boundaries(side);
                let last = *ends.last().unwrap();
                let picked: Vec<_> =
                    (0..PICKED).map(|_| usize::try_from(dice.below(last as u64)).unwrap()).collect();
                let beside = ends.into_iter().flat_map(|end| [end.saturating_sub(1), end, end + 1]);
                let mut all: Vec<_> = beside.chain([0]).chain(picked).collect();
                all.sort_unstable();
                all.dedup();
                all.into_iter().map(move |at| (side, at))
            })
            .collect()
    }

    /// `check` for every fault at every point.
    fn inject(&self, faults: &[Fault], check: impl Fn(Plan, &Net, Ended) + Sync) {
        self.inject_at(&self.points(), faults, check);
    }

    fn inject_at(
        &self,
        points: &[(Side, usize)],
        faults: &[Fault],
        check: impl Fn(Plan, &Net, Ended) + Sync,
    ) {
        let cases: Vec<Plan> = faults
            .iter()
            .flat_map(|&fault| points.iter().map(move |&(side, at)| Plan { fault, side, at }))
            .collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while let Some(&plan) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let _shown = Shown(plan);
                        let (net, ended) = self.run(Some(plan));
                        check(plan, &net, ended);
                    }
                });
            }
        });
    }
}

/// Says which case a failing assertion was about.
struct Shown(Plan);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the case: {:?}", self.0);
        }
    }
}

/// Each side that has the machine, after somebody told each of them to run that may be told.
fn owners(ended: &mut Ended) -> Vec<Side> {
    let mut owners = Vec::new();
    match &ended.sent {
        _ if ended.source.world().is_dead(Side::Source) => {}
        Some(Err(failure)) => match failure.left {
            Left::AsBefore => {
                assert!(ended.source.is_running_now() && ended.source.holds() && !ended.source.is_tracked());
                owners.push(Side::Source);
            }
            Left::Paused(_) | Left::Unknown => {
                assert!(!ended.source.is_running_now());
                owners.extend(ended.source.tell().then_some(Side::Source));
            }
        },
        Some(Ok(_)) => assert!(!ended.source.is_running_now()),
        None => {}
    }
    match &ended.received {
        // It had ended all that it did for the migration before its process died.
        _ if ended.source.world().is_dead(Side::Destination) => {}
        Some(Ok(Received::Owned { failed })) => {
            assert!(failed.is_none() && ended.destination.is_running());
            owners.push(Side::Destination);
        }
        Some(Ok(Received::Orphaned)) => {
            assert!(!ended.destination.is_running() && ended.destination.is_whole());
            owners.extend(ended.destination.tell().then_some(Side::Destination));
        }
        Some(Err(_)) => assert!(!ended.destination.is_running() && !ended.destination.is_whole()),
        None => {}
    }
    owners
}

fn assert_one_owner(plan: Plan, ended: &mut Ended) {
    let owners = owners(ended);
    let (sent, received) = (&ended.sent, &ended.received);
    assert!(!ended.source.world().doubled(), "{plan:?} {sent:?} {received:?}");
    // A guest dies with the process that has it.
    let dead = |side| ended.source.world().is_dead(side);
    let died = dead(Side::Source) && !matches!(received, Some(Ok(_)))
        || dead(Side::Destination) && matches!(sent, Some(Ok(_)));
    assert_eq!(owners.len(), usize::from(!died), "{plan:?} {sent:?} {received:?}");
    if owners == [Side::Destination] {
        assert!(ended.destination.ram() == ended.source.ram(), "{plan:?}");
    }
}

#[test]
fn one_side_has_the_machine_whatever_breaks() {
    PLAIN.inject(&FAULTS, |plan, _, mut ended| assert_one_owner(plan, &mut ended));
}

#[test]
fn and_over_several_connections() {
    let mode = Mode { send: SendSettings { connections: 3, ..SEND }, seed: 12, ..PLAIN };
    mode.inject(&FAULTS, |plan, _, mut ended| assert_one_owner(plan, &mut ended));
}

#[test]
fn and_where_memory_goes_as_descriptors() {
    let mode = Mode { send: SendSettings { local: true, ..SEND }, seed: 13, ..PLAIN };
    mode.inject(&FAULTS, |plan, _, mut ended| assert_one_owner(plan, &mut ended));
}

/// It runs on one side, and both know it.
fn assert_settled(plan: Plan, ended: &Ended) {
    let here = ended.source.is_running_now();
    assert_ne!(here, ended.destination.is_running(), "{plan:?} {:?} {:?}", ended.sent, ended.received);
    let settled = match &ended.sent {
        Some(Ok(_)) => !here,
        Some(Err(failure)) => here && matches!(failure.left, Left::AsBefore),
        None => false,
    };
    assert!(settled && !ended.source.world().doubled(), "{plan:?}");
}

/// There is no disk whose lock would keep a second guest from running: the protocol alone does.
#[test]
fn a_machine_without_disks_runs_on_one_side_if_connections_can_be_made_again() {
    for direct in [true, false] {
        let mode = Mode { disk: false, direct, seed: 14, ..PLAIN };
        mode.inject(&[Fault::Cut], |plan, _, ended| assert_settled(plan, &ended));
    }
}

/// The source comes back to a destination that still waits for it on the first connection.
#[test]
fn also_if_the_source_alone_sees_the_break() {
    let mode = Mode { disk: false, seed: 18, ..PLAIN };
    let (net, _) = mode.run(None);
    // From the first byte of the state on: before that the destination has nothing to be asked about.
    let points: Vec<_> = SIDES
        .into_iter()
        .zip([STATE_ON, 2 * HEAD_LEN])
        .flat_map(|(side, len)| {
            let end = *net.boundaries(side).last().unwrap();
            (end - len + 1..=end).map(move |at| (side, at))
        })
        .collect();
    mode.inject_at(&points, &[Fault::Half], |plan, _, ended| assert_settled(plan, &ended));
}

/// Nor does it run twice if they cannot: a side that does not know waits to be told.
#[test]
fn a_machine_without_disks_never_runs_twice_by_itself() {
    let mode = Mode { disk: false, direct: false, seed: 15, ..PLAIN };
    mode.inject(&FAULTS, |plan, _, ended| {
        assert!(!ended.source.world().doubled(), "{plan:?} {:?} {:?}", ended.sent, ended.received);
    });
}

/// A destination that dies before it has answered never ran the guest, which goes on at once, also without a disk's lock to show it.
#[test]
fn the_source_goes_on_when_the_destination_dies() {
    let mode = Mode { disk: false, seed: 16, ..PLAIN };
    mode.inject(&[Fault::Kill(Side::Destination)], |plan, _, ended| match ended.sent {
        Some(Ok(_)) => assert!(!ended.source.is_running_now()),
        Some(Err(failure)) => {
            assert!(matches!(failure.left, Left::AsBefore), "{plan:?} {failure:?}");
            assert!(ended.source.is_running_now());
        }
        None => panic!("{plan:?}"),
    });
}

#[test]
fn pages_come_whatever_breaks_once_the_machine_has_moved() {
    let mode = Mode {
        send: SendSettings { postcopy: true, ..SEND },
        receive: ReceiveSettings { postcopy: true, ..RECEIVE },
        seed: 17,
        ..PLAIN
    };
    // The source's pages are served until the destination has them, in a thread of its own.
    let moved = AtomicUsize::new(0);
    mode.inject(&[Fault::Cut], |plan, net, mut ended| {
        assert_one_owner(plan, &mut ended);
        if matches!(ended.sent, Some(Ok(_))) {
            assert!(
                matches!(ended.sent, Some(Ok(Sent { pages_lost: None, .. }))),
                "{plan:?} {:?}",
                ended.sent
            );
            assert!(net.dialled() >= 2);
            moved.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert!(moved.into_inner() > 10);
}

/// Bits that change on the way are for TCP's checksum and TLS to find. Nothing panics of them, and nothing waits for ever.
#[test]
fn no_changed_bit_is_waited_for() {
    PLAIN.inject(&[Fault::Flip], |_, _, ended| {
        assert!(ended.sent.is_some() && ended.received.is_some());
    });
}
