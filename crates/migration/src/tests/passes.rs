//! When the guest is stopped.

use std::sync::Arc;
use std::time::Duration;

use config::TimeoutStrategy;

use super::machine::{FakeSource, World};
use super::net::Net;
use super::{RECEIVE, SEND, migrate};
use crate::{Left, SendError, SendFailure, SendSettings};

/// A guest that never rests.
fn busy(net: &Net, seed: u64) -> FakeSource {
    let mut source = FakeSource::new(net, seed);
    source.busy_passes = u32::MAX;
    source
}

#[test]
fn a_downtime_that_is_met_ends_the_passes() {
    let net = Net::new(Arc::new(World::default()));
    let send = SendSettings { downtime: Duration::from_secs(3600), ..SEND };
    let ended = migrate(busy(&net, 1), &net, &send, RECEIVE);
    ended.assert_moved(true);
    assert_eq!(ended.sent.unwrap().unwrap().progress.pass, 0);
}

#[test]
fn a_guest_that_never_rests_is_given_up_after_the_timeout() {
    let net = Net::new(Arc::new(World::default()));
    let send = SendSettings { timeout: Duration::ZERO, ..SEND };
    let ended = migrate(busy(&net, 2), &net, &send, RECEIVE);
    let Some(Err(SendFailure { error: SendError::Timeout { .. }, left: Left::AsBefore })) = ended.sent else {
        panic!("{:?}", ended.sent);
    };
    assert!(ended.source.is_running_now() && ended.source.holds() && !ended.destination.is_there());
}

#[test]
fn or_it_is_moved_all_the_same() {
    let net = Net::new(Arc::new(World::default()));
    let send = SendSettings { timeout: Duration::ZERO, on_timeout: TimeoutStrategy::Ignore, ..SEND };
    migrate(busy(&net, 3), &net, &send, RECEIVE).assert_moved(true);
}

#[test]
fn or_it_is_slowed_down_before() {
    let net = Net::new(Arc::new(World::default()));
    let send = SendSettings { throttle: true, ..SEND };
    let mut source = FakeSource::new(&net, 4);
    source.busy_passes = 60;
    let ended = migrate(source, &net, &send, RECEIVE);
    ended.assert_moved(true);
    let throttled = &ended.source.throttled;
    assert!(throttled.starts_with(&[20, 30]) && throttled.is_sorted(), "{throttled:?}");
    assert_eq!(ended.sent.unwrap().unwrap().progress.throttle, *throttled.last().unwrap());
}
