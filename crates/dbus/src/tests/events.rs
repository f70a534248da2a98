//! The signal: every record from the first on, as it is in the monitor's file.

use std::task::Poll;

use api::{EventRecord, Timestamp};
use serde_json::Value;
use zbus::MessageStream;
use zbus::export::futures_core::Stream;

use super::*;

fn push(events: &EventLog, event: &'static str, properties: &[(&'static str, &str)]) {
    let properties = properties.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    let properties = Some(properties).filter(|all: &std::collections::BTreeMap<_, _>| !all.is_empty());
    let timestamp = Timestamp { secs: 1, nanos: 2 };
    events.push(Arc::new(EventRecord { timestamp, source: "vm", event, properties }));
}

/// A client that follows the signal of whoever sends it.
fn follow(caller: &Caller) -> MessageStream {
    let rule = zbus::MatchRule::builder().interface(api::dbus::INTERFACE).member(api::dbus::EVENT);
    let rule = rule.path(PATH).build().unwrap();
    caller.runtime.block_on(MessageStream::for_match_rule(rule, &caller.connection, None)).unwrap()
}

fn next(caller: &Caller, stream: &mut MessageStream) -> String {
    let mut stream = std::pin::Pin::new(stream);
    let message = std::future::poll_fn(|cx| match stream.as_mut().poll_next(cx) {
        Poll::Ready(message) => Poll::Ready(message.unwrap().unwrap()),
        Poll::Pending => Poll::Pending,
    });
    caller.runtime.block_on(message).body().deserialize().unwrap()
}

#[test]
fn every_record_is_told_from_the_first_on() {
    let daemon = Daemon::new();
    let (client, _inbox) = fake_api();
    let events = client.reads().events().clone();
    push(&events, "booting", &[]);
    let caller = Caller::new(&daemon.address);
    let mut stream = follow(&caller);
    let server = serve(daemon.settings(), client).unwrap();
    push(&events, "device-removed", &[("id", "_disk0"), ("bdf", "0000:00:05.0")]);
    let first = "{\n  \"timestamp\": {\n    \"secs\": 1,\n    \"nanos\": 2\n  },\n  \"source\": \"vm\",\n  \
                 \"event\": \"booting\",\n  \"properties\": null\n}";
    assert_eq!(next(&caller, &mut stream), first);
    let second: Value = serde_json::from_str(&next(&caller, &mut stream)).unwrap();
    assert_eq!(second["properties"]["bdf"], "0000:00:05.0");
    // What happens last is told before the door closes.
    (0..100).for_each(|_| push(&events, "paused", &[]));
    push(&events, "shutdown", &[]);
    server.stop().unwrap();
    let rest: Vec<Value> =
        (0..101).map(|_| serde_json::from_str(&next(&caller, &mut stream)).unwrap()).collect();
    assert_eq!(rest[99]["event"], "paused");
    assert_eq!(rest[100]["event"], "shutdown");
}

/// A bus that has stopped reading: reporting goes on, and the stop gives up.
#[test]
fn a_bus_that_does_not_read_holds_up_nobody() {
    let mut house = House::new();
    let pid = rustix::process::Pid::from_child(&house.daemon.process);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    for _ in 0..100 {
        let long = "x".repeat(1 << 16);
        push(house.events(), "paused", &[("id", &long)]);
    }
    house.server.take().unwrap().stop().unwrap();
}
