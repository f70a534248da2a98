//! Following events.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use api::{EVENTS_KEPT, EventLog, EventRecord, Timestamp};

use super::{House, PING, Peer};
use crate::server::Limits;

const FOLLOW: &str = "GET /api/v1/events HTTP/1.1\r\n\r\n";
const HEAD: &str = "HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nContent-Type: text/event-stream\r\n\
                    Cache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n";

fn follow_after(id: &str) -> String {
    FOLLOW.replace("\r\n\r\n", &format!("\r\nLast-Event-ID: {id}\r\n\r\n"))
}

fn push(log: &EventLog, event: &'static str, id: Option<&str>) {
    let properties = id.map(|id| [("id", id.to_owned())].into());
    let timestamp = Timestamp { secs: 1, nanos: 20 };
    log.push(Arc::new(EventRecord { timestamp, source: "vm", event, properties }));
}

fn data(event: &str) -> String {
    format!(
        r#"data: {{"timestamp":{{"secs":1,"nanos":20}},"source":"vm","event":"{event}","properties":null}}"#
    )
}

/// Reads chunks until `count` events or comments are there, each without its blank line. Fewer at the end of the stream.
fn events(peer: &mut Peer, count: usize) -> Vec<String> {
    let mut text = String::new();
    while text.matches("\n\n").count() < count {
        let line = line(peer);
        let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        peer.socket.read_exact(&mut chunk).unwrap();
        assert!(chunk.ends_with(b"\r\n"));
        if length == 0 {
            break;
        }
        text += std::str::from_utf8(&chunk[..length]).unwrap();
    }
    text.split_terminator("\n\n").map(str::to_owned).collect()
}

fn line(peer: &mut Peer) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\n") {
        let mut byte = [0];
        peer.socket.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

fn head(peer: &mut Peer) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head += &line(peer);
    }
    head
}

/// A client that has got the beginning of its stream.
fn follow(house: &House, request: &str) -> Peer {
    let mut peer = house.connect();
    peer.send(request);
    assert_eq!(head(&mut peer), HEAD);
    assert_eq!(events(&mut peer, 1), [": events"]);
    peer
}

#[test]
fn events_come_as_they_happen_and_end_with_the_server() {
    let mut house = House::new();
    push(&house.events, "before", None);
    let mut peer = follow(&house, FOLLOW);
    push(&house.events, "booting", None);
    assert_eq!(events(&mut peer, 1), [format!("id: 2\n{}", data("booting"))]);
    push(&house.events, "device-removed", Some("\"\r\n\nHTTP/1.1 400 "));
    let json = r#"{"timestamp":{"secs":1,"nanos":20},"source":"vm","event":"device-removed","properties":{"id":"\"\r\n\nHTTP/1.1 400 "}}"#;
    assert_eq!(events(&mut peer, 1), [format!("id: 3\ndata: {json}")]);
    // What has happened before the end comes before it.
    push(&house.events, "shutdown", None);
    house.server.take().unwrap().stop().unwrap();
    assert_eq!(events(&mut peer, 2), [format!("id: 4\n{}", data("shutdown"))]);
    assert!(peer.is_over());
}

#[test]
fn a_client_that_comes_back_gets_what_it_has_missed() {
    let house = House::new();
    ["a", "b", "c"].into_iter().for_each(|event| push(&house.events, event, None));
    let mut peer = follow(&house, &follow_after("1"));
    let expected = [format!("id: 2\n{}", data("b")), format!("id: 3\n{}", data("c"))];
    assert_eq!(events(&mut peer, 2), expected);
    for id in ["0", "4", "18446744073709551615"] {
        let mut peer = follow(&house, &follow_after(id));
        assert_eq!(events(&mut peer, 3)[0], format!("id: 1\n{}", data("a")), "{id}");
    }
    for id in ["", "x", "-1", "18446744073709551616"] {
        let reply = house.ask(&follow_after(id));
        assert_eq!((reply.status, reply.header("X-Error-Code")), (400, Some("bad_request")), "{id}");
    }
}

#[test]
fn a_client_that_is_late_is_told_what_it_has_lost() {
    let house = House::new();
    (0..EVENTS_KEPT + 5).for_each(|_| push(&house.events, "a", None));
    let mut peer = follow(&house, &follow_after("2"));
    let got = events(&mut peer, EVENTS_KEPT + 1);
    assert_eq!(got[0], "event: lost\ndata: {\"lost\":3}");
    assert_eq!(got[1], format!("id: 6\n{}", data("a")));
    assert_eq!(got.last(), Some(&format!("id: {}\n{}", EVENTS_KEPT + 5, data("a"))));
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let house = House::new();
    let mut deaf = follow(&house, FOLLOW);
    let mut quick = follow(&house, FOLLOW);
    for round in 0..20 {
        for _ in 0..EVENTS_KEPT {
            push(&house.events, "a", Some(&"x".repeat(100)));
        }
        while events(&mut quick, 1)
            .last()
            .is_some_and(|last| !last.starts_with(&format!("id: {}\n", (round + 1) * EVENTS_KEPT)))
        {}
    }
    assert_eq!(house.ask(PING).status, 200);
    // It finds a gap where its stream stood still.
    let mut got = Vec::new();
    while !got.iter().any(|event: &String| event.starts_with("event: lost\ndata: {\"lost\":")) {
        got = events(&mut deaf, 1);
    }
}

#[test]
fn a_quiet_stream_is_kept_alive() {
    let house = House::within(Limits { keep_alive: Duration::from_millis(1), ..Limits::default() });
    let mut peer = follow(&house, FOLLOW);
    assert!(events(&mut peer, 3).iter().all(|event| event == ": still here"));
}

#[test]
fn followers_are_limited_and_leave_their_place() {
    let limits = Limits { followers: 1, keep_alive: Duration::from_millis(1), ..Limits::default() };
    let house = House::within(limits);
    let only = follow(&house, FOLLOW);
    let reply = house.ask(FOLLOW);
    assert_eq!((reply.status, reply.header("X-Error-Code")), (503, Some("unavailable")));
    drop(only);
    // Its place is free once a write has shown that it has left.
    let mut peer = house.connect();
    loop {
        peer.send(FOLLOW);
        if peer.head().status == 200 {
            break;
        }
        peer = house.connect();
    }
}

#[test]
fn older_clients_and_heads() {
    let house = House::new();
    let mut peer = house.connect();
    peer.send("HEAD /api/v1/events HTTP/1.1\r\n\r\n");
    assert_eq!(peer.head().status, 200);
    assert_eq!(peer.ask(PING).status, 200);
    // Without chunks, the stream ends with the connection.
    push(&house.events, "a", None);
    let mut peer = house.connect();
    peer.send("GET /api/v1/events HTTP/1.0\r\nLast-Event-ID: 0\r\n\r\n");
    assert!(head(&mut peer).starts_with("HTTP/1.1 200 \r\n"));
    let lines: Vec<_> = (0..5).map(|_| line(&mut peer)).collect();
    assert_eq!(lines.concat(), format!(": events\n\nid: 1\n{}\n\n", data("a")));
}
