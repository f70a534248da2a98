//! Both ends in one process, with machines that are a few pages of RAM and one disk.

mod faults;
mod hostile;
pub(crate) mod machine;
pub(crate) mod net;
mod passes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use config::TimeoutStrategy;

use crate::{Limits, ReceiveError, ReceiveSettings, Received, SendFailure, SendSettings, Sent, Watch};
use machine::{FakeDestination, FakeSource, World};
use net::Net;

pub(crate) const SEND: SendSettings = SendSettings {
    local: false,
    preserve_source: false,
    downtime: Duration::ZERO,
    timeout: Duration::from_secs(600),
    on_timeout: TimeoutStrategy::Cancel,
    connections: 1,
    postcopy: false,
    throttle: false,
    limits: Limits::UNIX,
};
pub(crate) const RECEIVE: ReceiveSettings = ReceiveSettings { postcopy: false, limits: Limits::UNIX };

/// What came of both sides; `None` if the side's process died.
struct Ended {
    source: FakeSource,
    destination: FakeDestination,
    sent: Option<Result<Sent, SendFailure>>,
    received: Option<Result<Received, ReceiveError>>,
}

impl Ended {
    /// The machine is at the destination, byte for byte, and nowhere else.
    fn assert_moved(&self, running: bool) {
        assert!(matches!(self.sent, Some(Ok(Sent { pages_lost: None, .. }))), "{:?}", self.sent);
        assert!(matches!(self.received, Some(Ok(Received::Owned { failed: None }))), "{:?}", self.received);
        assert_eq!(self.destination.ram(), self.source.ram());
        assert_eq!(self.destination.is_running(), running);
        assert!(!self.source.is_running_now());
    }
}

/// Sends a machine from one thread to another.
fn migrate(source: FakeSource, net: &Arc<Net>, send: &SendSettings, receive: ReceiveSettings) -> Ended {
    migrate_watched(source, net, send, receive, &Watch::default())
}

fn migrate_watched(
    mut source: FakeSource,
    net: &Arc<Net>,
    send: &SendSettings,
    receive: ReceiveSettings,
    watch: &Watch,
) -> Ended {
    let mut destination = FakeDestination::new(Arc::clone(source.world()));
    let (sent, received) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            net::until_death(|| {
                let watch = Watch::new(Arc::new(AtomicBool::new(false)));
                let received = crate::receive(net.listener(), &mut destination, receive, &watch);
                if receive.postcopy && received.is_ok() {
                    destination.fill();
                }
                received
            })
        });
        let sent = net::until_death(|| crate::send(&mut source, &net.dial(), send, watch));
        (sent, receiver.join().unwrap())
    });
    Ended { source, destination, sent, received }
}

#[test]
fn a_running_machine_moves() {
    let net = Net::new(Arc::new(World::default()));
    let ended = migrate(FakeSource::new(&net, 1), &net, &SEND, RECEIVE);
    ended.assert_moved(true);
    let progress = ended.sent.unwrap().unwrap().progress;
    assert!(progress.pass > 1 && progress.zero_bytes > 0, "{progress:?}");
}

#[test]
fn a_paused_machine_arrives_paused() {
    let net = Net::new(Arc::new(World::default()));
    let source = FakeSource::paused(&net, 2);
    let ended = migrate(source, &net, &SEND, RECEIVE);
    ended.assert_moved(false);
}

#[test]
fn several_connections_bring_the_same_memory() {
    for connections in [2, 5] {
        let net = Net::new(Arc::new(World::default()));
        let ended = migrate(FakeSource::new(&net, 3), &net, &SendSettings { connections, ..SEND }, RECEIVE);
        ended.assert_moved(true);
        assert_eq!(net.dialled(), 1 + connections as usize);
    }
}

#[test]
fn memory_goes_over_as_descriptors() {
    let net = Net::new(Arc::new(World::default()));
    let ended = migrate(FakeSource::new(&net, 4), &net, &SendSettings { local: true, ..SEND }, RECEIVE);
    ended.assert_moved(true);
    assert_eq!(ended.sent.unwrap().unwrap().progress.sent_bytes, 0);
}

#[test]
fn a_preserved_source_keeps_all_that_it_holds() {
    let net = Net::new(Arc::new(World::without_disk()));
    let send = SendSettings { local: true, preserve_source: true, ..SEND };
    let ended = migrate(FakeSource::new(&net, 5), &net, &send, RECEIVE);
    assert!(matches!(ended.sent, Some(Ok(_))), "{:?}", ended.sent);
    assert!(matches!(ended.received, Some(Ok(_))), "{:?}", ended.received);
    assert!(ended.source.holds() && !ended.source.is_running_now());
}

#[test]
fn pages_follow_when_they_are_touched() {
    let net = Net::new(Arc::new(World::default()));
    let receive = ReceiveSettings { postcopy: true, ..RECEIVE };
    let send = SendSettings { postcopy: true, ..SEND };
    let ended = migrate(FakeSource::new(&net, 6), &net, &send, receive);
    ended.assert_moved(true);
    assert_eq!(net.dialled(), 2);
}

#[test]
fn a_migration_is_cancelled_until_the_machine_is_offered() {
    let net = Net::new(Arc::new(World::default()));
    let mut source = FakeSource::new(&net, 7);
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancel);
    source.on_progress = Some(Box::new(move |progress| {
        if progress.pass == 2 {
            flag.store(true, Ordering::Release);
        }
    }));
    let ended = migrate_watched(source, &net, &SEND, RECEIVE, &Watch::new(cancel));
    assert!(matches!(ended.sent, Some(Err(SendFailure { left: crate::Left::AsBefore, .. }))));
    assert!(matches!(ended.received, Some(Err(_))));
    assert!(ended.source.is_running_now() && ended.source.holds() && !ended.source.is_tracked());
    assert!(!ended.destination.is_there());
}
