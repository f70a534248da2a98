//! What clients may not do, and how they are told.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};

use super::{House, PING, put};
use crate::server::Limits;

/// So short that it is over while the client waits for the reply.
const AT_ONCE: Duration = Duration::from_millis(1);

fn expect_refusal(peer: &mut super::Peer, status: u16, code: &str) {
    let reply = peer.reply();
    assert_eq!((reply.status, reply.header("X-Error-Code")), (status, Some(code)), "{}", reply.body);
    assert_eq!(reply.header("Server"), Some("Cloud Hypervisor API"));
    assert_eq!(reply.header("Connection").map(str::to_lowercase).as_deref(), Some("close"));
    assert!(serde_json::from_str::<Vec<String>>(&reply.body).unwrap().len() > 1);
    assert!(peer.is_over());
}

#[test]
fn four_mebibytes_are_welcome() {
    let house = House::new();
    let mut peer = house.connect();
    let config = r#"{"payload":{"kernel":"/k"}}"#;
    let body = format!("{config}{}", " ".repeat((4 << 20) - config.len()));
    assert_eq!(peer.ask(&put("vm.create", &body)).status, 204);
    assert_eq!(peer.ask(PING).status, 200);
}

#[test]
fn a_byte_more_is_not() {
    let house = House::new();
    let body = " ".repeat((4 << 20) + 1);
    let mut peer = house.connect();
    peer.send(put("vm.create", &body));
    expect_refusal(&mut peer, 413, "too_large");

    let mut peer = house.connect();
    peer.send("PUT /api/v1/vm.create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    peer.send(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    expect_refusal(&mut peer, 413, "too_large");
}

#[test]
fn lengths_beyond_all_bounds() {
    let house = House::new();
    for (length, status, code) in [
        ("4194305", 413, "too_large"),
        ("18446744073709551613", 413, "too_large"),
        ("18446744073709551615", 431, "bad_request"),
        ("99999999999999999999999", 400, "bad_request"),
        ("-1", 400, "bad_request"),
        ("1, 2", 400, "bad_request"),
    ] {
        let mut peer = house.connect();
        peer.send(format!("PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"));
        expect_refusal(&mut peer, status, code);
    }
}

#[test]
fn heads_are_limited() {
    let house = House::new();
    let mut peer = house.connect();
    peer.send(format!("GET /api/v1/vmm.ping HTTP/1.1\r\nA: {}", "x".repeat(1 << 20)));
    expect_refusal(&mut peer, 431, "bad_request");

    let mut peer = house.connect();
    peer.send(format!("GET /api/v1/vmm.ping HTTP/1.1\r\n{}\r\n", "A: x\r\n".repeat(101)));
    expect_refusal(&mut peer, 431, "bad_request");

    // More than the reference took.
    let large = format!("A: {}\r\nHost", "x".repeat(12 << 10));
    assert_eq!(house.ask(&PING.replace("Host", &large)).status, 200);
}

#[test]
fn what_is_not_http() {
    let house = House::new();
    for garbage in [
        "garbage\r\n\r\n",
        "GET /api/v1/vmm.ping HTTP/3.0\r\n\r\n",
        "GET /api/v1/vmm.ping HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /api/v1/vmm.ping HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /\u{1} HTTP/1.1\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\u{5}\0\0\0\0\0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut peer = house.connect();
        peer.send(garbage);
        expect_refusal(&mut peer, 400, "bad_request");
    }
    // A good request before it keeps its reply.
    let mut peer = house.connect();
    peer.send([PING, "garbage\r\n\r\n"].concat());
    assert_eq!(peer.reply().status, 200);
    expect_refusal(&mut peer, 400, "bad_request");
}

#[test]
fn a_head_cut_short_is_told_so() {
    let house = House::new();
    let mut peer = house.connect();
    peer.send("GET /api/v1");
    peer.socket.shutdown(std::net::Shutdown::Write).unwrap();
    expect_refusal(&mut peer, 400, "bad_request");
}

#[test]
fn slow_heads_end_and_idle_connections_stay() {
    let house = House::within(Limits { head_time: AT_ONCE, ..Limits::default() });
    let mut idle = house.connect();
    assert_eq!(idle.ask(PING).status, 200);
    let never_used = &mut house.connect();
    for _ in 0..3 {
        let mut slow = house.connect();
        slow.send("GET /api/v1/vmm.p");
        expect_refusal(&mut slow, 408, "bad_request");
    }
    assert_eq!(idle.ask(PING).status, 200);
    assert_eq!(never_used.ask(PING).status, 200);
}

#[test]
fn slow_bodies_end() {
    let house = House::within(Limits { body_pause: AT_ONCE, ..Limits::default() });
    let mut slow = house.connect();
    slow.send("PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 10\r\n\r\n{");
    expect_refusal(&mut slow, 400, "bad_request");
}

#[test]
fn stuck_clients_harm_nobody() {
    let house = House::new();
    let mut in_head = house.connect();
    in_head.send("GET /api/v1/vmm.ping HT");
    let mut in_body = house.connect();
    in_body.send("PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 27\r\n\r\n{");
    // This one asks for more than its socket holds and reads nothing.
    let mut deaf = house.connect();
    deaf.socket.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut deaf.socket, b"GET /api/v1/vm.counters HTTP/1.1\r\n\r\n").is_ok() {}
    let mut quick = house.connect();
    for _ in 0..20 {
        assert_eq!(quick.ask(PING).status, 200);
    }
    in_head.send("TP/1.1\r\n\r\n");
    assert_eq!(in_head.reply().status, 200);
    in_body.send(r#""payload":{"kernel":"/k"}}"#);
    assert_eq!(in_body.reply().status, 204);
}

#[test]
fn one_connection_too_many_is_told_so() {
    assert_eq!(Limits::default().connections, 256);
    let house = House::within(Limits { connections: 2, ..Limits::default() });
    let (mut a, mut b) = (house.connect(), house.connect());
    assert_eq!((a.ask(PING).status, b.ask(PING).status), (200, 200));
    let mut c = house.connect();
    c.send(PING);
    expect_refusal(&mut c, 503, "unavailable");
    assert_eq!(b.ask(PING).status, 200);
    drop(a);
    // The place is free once the server has seen the client leave.
    while house.connect().ask(PING).status != 200 {}
}

#[test]
fn refusals_are_limited_too() {
    let house = House::within(Limits { connections: 1, refusals: 0, ..Limits::default() });
    let mut only = house.connect();
    assert_eq!(only.ask(PING).status, 200);
    assert!(house.connect().is_over());
    assert_eq!(only.ask(PING).status, 200);
}

/// All at once, on threads of their own: as many as there is room for are served, and the others are told or turned away.
#[test]
fn a_thousand_clients_at_once() {
    const CLIENTS: usize = 1000;
    raise_descriptor_limit(3 * CLIENTS as u64);
    let house = House::new();
    let mut first = house.connect();
    assert_eq!(first.ask(PING).status, 200);
    // Nobody leaves before everybody has come.
    let everybody = Barrier::new(CLIENTS);
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            std::thread::Builder::new()
                .stack_size(256 << 10)
                .spawn_scoped(scope, || {
                    let mut peer = house.connect();
                    let status = peer.try_ask(PING).map(|reply| reply.status);
                    served.fetch_add(usize::from(status == Some(200)), Ordering::Relaxed);
                    everybody.wait();
                    assert!(matches!(status, None | Some(200 | 503)), "{status:?}");
                })
                .unwrap();
        }
    });
    assert_eq!(served.into_inner(), Limits::default().connections as usize - 1);
    assert_eq!(first.ask(PING).status, 200);
    while house.connect().try_ask(PING).is_none_or(|reply| reply.status != 200) {}
}

/// The 257th, exactly, and its neighbours.
#[test]
fn there_is_room_for_256() {
    raise_descriptor_limit(1000);
    let house = House::new();
    let mut served: Vec<_> = (0..256).map(|_| house.connect()).collect();
    for peer in &mut served {
        assert_eq!(peer.ask(PING).status, 200);
    }
    let mut refused = house.connect();
    refused.send(PING);
    expect_refusal(&mut refused, 503, "unavailable");
    for peer in &mut served {
        assert_eq!(peer.ask(PING).status, 200);
    }
}

fn raise_descriptor_limit(least: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.current.map(|current| current.max(least));
    setrlimit(Resource::Nofile, limit).unwrap();
}
