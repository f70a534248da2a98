//! The control queue and the state it changes.

use device::{RestoreError, Saved};

use super::*;
use device::Stateful;

const MQ: u64 = bit(spec::VIRTIO_NET_F_MQ);
const OFFLOADS: u64 = bit(spec::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
const CSUM: u64 = bit(spec::VIRTIO_NET_F_GUEST_CSUM);
const TSO4: u64 = bit(spec::VIRTIO_NET_F_GUEST_TSO4);

/// Sends a command through control queue `index` and answers the device's acknowledgement.
fn command(rig: &mut Rig, index: usize, request: &[u8]) -> u8 {
    rig.write(BUFFERS, request);
    rig.write(BUFFERS + 0x1000, &[0xee]);
    let len = u32::try_from(request.len()).unwrap();
    // Linux sends class and command, argument, and acknowledgement in buffers of their own.
    let head =
        rig.queue(index).add(&[(BUFFERS, 2, 0), (BUFFERS + 2, len - 2, 0), (BUFFERS + 0x1000, 1, WRITE)]);
    rig.queue(index).ring();
    assert_eq!(rig.queues[index].wait_used(), (head.into(), 1));
    rig.read(BUFFERS + 0x1000, 1)[0]
}

fn set_pairs(rig: &mut Rig, pairs: u16) -> u8 {
    let index = rig.queues.len() - 1;
    command(rig, index, &[&[4, 0], &pairs.to_le_bytes()[..]].concat())
}

fn set_offloads(rig: &mut Rig, offloads: u64) -> u8 {
    let index = rig.queues.len() - 1;
    command(rig, index, &[&[5, 0], &offloads.to_le_bytes()[..]].concat())
}

#[test]
fn the_number_of_pairs_is_range_checked_and_reaches_the_tap() {
    let mut rig = Rig::new(3);
    rig.start(MQ);
    assert_eq!([0, 1, 2, 3, 4, 0x8000].map(|pairs| set_pairs(&mut rig, pairs)), [1, 0, 0, 0, 1, 1]);
    rig.stop();
    let attached = rig.link.take().into_iter().filter(|c| matches!(c, Change::Attached(_)));
    // The first is the pair worker's, at start; it comes at any time and keeps what the driver has set.
    assert!(attached.clone().count() == 4, "{:?}", attached.collect::<Vec<_>>());
    assert_eq!(rig.state().driver.unwrap().pairs, 3);
}

#[test]
fn offloads_follow_the_driver() {
    let mut rig = Rig::started(1, OFFLOADS | CSUM | TSO4);
    assert_eq!(set_offloads(&mut rig, CSUM), 0);
    assert_eq!(set_offloads(&mut rig, 0), 0);
    let not_negotiated = bit(spec::VIRTIO_NET_F_GUEST_UFO);
    assert_eq!(set_offloads(&mut rig, not_negotiated), 1);
    assert_eq!(set_offloads(&mut rig, u64::MAX), 1);
    rig.stop();
    assert_eq!(rig.state().driver.unwrap().offloads, 0);
    let changes = rig.link.take();
    assert!(changes.contains(&Change::Offloads(Offloads::CSUM)));
    rig.net.reset();
    rig.start(CSUM | TSO4);
    assert_eq!(set_offloads(&mut rig, CSUM), 1, "the driver did not accept the command");
    rig.stop();
    let all = Offloads::CSUM | Offloads::TSO4;
    assert_eq!(
        rig.link.take(),
        [Change::Offloads(all), Change::Attached(1)],
        "at start it is what was negotiated"
    );
}

#[test]
fn filters_are_accepted_and_unknown_commands_are_not() {
    let mut rig = Rig::started(1, 0);
    for code in 0..6 {
        assert_eq!(command(&mut rig, 2, &[0, code, 1]), 0);
    }
    for code in 0..2 {
        assert_eq!(command(&mut rig, 2, &[2, code, 5, 0]), 0);
    }
    assert_eq!(command(&mut rig, 2, &[3, 0, 0]), 0);
    for request in
        [[0, 6, 1], [1, 0, 0], [1, 1, 0], [2, 2, 0], [3, 1, 0], [4, 1, 1], [6, 0, 0], [255, 255, 0]]
    {
        assert_eq!(command(&mut rig, 2, &request), 1, "{request:?}");
    }
}

#[test]
fn malformed_requests_are_refused() {
    let mut rig = Rig::started(1, MQ | OFFLOADS | CSUM);
    rig.write(BUFFERS, &[4, 0, 1, 0]);
    let (request, ack) = ((BUFFERS, 4, 0), (BUFFERS + 0x1000, 1, WRITE));
    let answers = [
        (vec![request, ack], 1, 0),
        (vec![ack, request], 1, 0),
        (vec![(BUFFERS, 0x1000, 0), ack], 1, 0),
        (vec![request], 0, 0xee),
        (vec![request, (BUFFERS, 0, WRITE)], 0, 0xee),
        (vec![request, (0xdead_0000, 1, WRITE)], 0, 0xee),
        (vec![ack], 1, 1),
        (vec![(BUFFERS, 1, 0), ack], 1, 1),
        (vec![(BUFFERS, 3, 0), ack], 1, 1),
        (vec![(0xdead_0000, 4, 0), ack], 1, 1),
    ];
    for (chain, len, status) in answers {
        rig.write(BUFFERS + 0x1000, &[0xee]);
        rig.queue(2).add(&chain);
        rig.queue(2).ring();
        assert_eq!(rig.queues[2].wait_used().1, len, "{chain:?}");
        assert_eq!(rig.read(BUFFERS + 0x1000, 1), [status], "{chain:?}");
    }
}

#[test]
fn a_driver_of_one_pair_finds_the_control_queue_behind_it() {
    let mut rig = Rig::started(3, 0);
    assert_eq!(command(&mut rig, 2, &[0, 0, 1]), 0);
    assert_eq!(command(&mut rig, 2, &[4, 0, 1, 0]), 1, "MQ was not accepted");
    let indices: Vec<_> = rig.stop().iter().map(|queue| (queue.index, queue.queue.next_used())).collect();
    assert_eq!(indices, [(0, 0), (1, 0), (2, 2), (3, 0), (4, 0), (5, 0), (6, 0)]);
}

#[test]
fn the_state_survives_a_restore_and_reaches_the_new_tap() {
    let features = MQ | OFFLOADS | CSUM | TSO4;
    let mut old = Rig::started(2, features);
    assert_eq!((set_pairs(&mut old, 2), set_offloads(&mut old, CSUM)), (0, 0));
    old.stop();
    let saved = old.net.to_saved().unwrap();

    let mut rig = Rig::new(2);
    assert_eq!(rig.state(), State::default());
    rig.net.restore_saved(&saved).unwrap();
    assert_eq!(rig.net.to_saved().unwrap(), saved);
    rig.start(features);
    // Started workers return their queues in order, so the pair's has run its start when this answers.
    rig.stop();
    assert_eq!(rig.link.take(), [Change::Offloads(Offloads::CSUM), Change::Attached(2)]);
    rig.net.reset();
    assert_eq!(rig.state(), State::default());
}

#[test]
fn an_announcement_is_acknowledged() {
    let features = bit(spec::VIRTIO_NET_F_STATUS) | bit(spec::VIRTIO_NET_F_GUEST_ANNOUNCE);
    let mut rig = Rig::new(1);
    let driver = DriverState { offloads: 0, pairs: 1, announce: false };
    rig.put_state(State { driver: Some(driver) }).unwrap();
    rig.start(features);
    assert_eq!(rig.status(), 3);
    assert_eq!(command(&mut rig, 2, &[3, 0, 0]), 0);
    assert_eq!(rig.status(), 1);
}

#[test]
fn impossible_states_are_refused() {
    let golden =
        r#"{"kind":"virtio-net","version":1,"state":{"driver":{"offloads":1922,"pairs":2,"announce":true}}}"#;
    let golden: Saved = serde_json::from_str(golden).unwrap();
    let mut rig = Rig::new(2);
    rig.net.restore_saved(&golden).unwrap();
    let state = rig.state();
    assert_eq!(state.driver, Some(DriverState { offloads: GUEST_OFFLOADS, pairs: 2, announce: true }));
    let broken = |offloads, pairs| State { driver: Some(DriverState { offloads, pairs, announce: false }) };
    for state in [broken(1, 1), broken(0, 0), broken(0, 3)] {
        let error = rig.put_state(state).unwrap_err();
        assert!(matches!(error, RestoreError::Value { .. }));
    }
    let foreign = Saved { kind: "virtio-blk".into(), ..golden.clone() };
    rig.net.restore_saved(&foreign).unwrap_err();
    assert_eq!(rig.net.to_saved().unwrap(), golden, "a refused state left traces");
}
