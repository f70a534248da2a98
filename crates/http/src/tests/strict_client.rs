//! A client as simple as the reference's own library, which its `ch-remote` and Kata's runtime use (`spec/README.md`): it takes all that
//! follows the version for a number, looks header names up as they are spelled, and reads 256 bytes at a time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::{House, put};
use crate::server::Limits;

/// Bytes read at once.
const PIECE: usize = 256;

/// One reply: its code, and its body if the head tells a length.
fn reply(socket: &mut UnixStream) -> (u16, Option<String>) {
    let mut text = String::new();
    let body_at = loop {
        read_piece(socket, &mut text);
        if let Some(end) = text.find("\r\n\r\n") {
            break end + 4;
        }
    };
    let after = |name: &str| {
        let start = text.find(name)? + name.len();
        Some(text[start..start + text[start..].find('\r')?].trim().to_owned())
    };
    let code = after("HTTP/1.1").unwrap();
    let code = code.parse().unwrap_or_else(|_| panic!("no number: {code}"));
    let Some(length) = after("Content-Length: ") else { return (code, None) };
    let end = body_at + length.parse::<usize>().unwrap();
    while text.len() < end {
        read_piece(socket, &mut text);
    }
    assert_eq!(text.len(), end, "more than the head tells");
    (code, Some(text.split_off(body_at)))
}

fn read_piece(socket: &mut UnixStream, text: &mut String) {
    let mut piece = [0; PIECE];
    let read = socket.read(&mut piece).unwrap();
    assert!(read > 0, "the reply ends early: {text}");
    text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
}

fn ask(house: &House, request: impl AsRef<[u8]>) -> (u16, Option<String>) {
    let mut socket = UnixStream::connect(&house.path).unwrap();
    // A server that turns the client away may have closed already.
    let _ = socket.write_all(request.as_ref());
    reply(&mut socket)
}

#[test]
fn every_kind_of_reply_can_be_read() {
    let house = House::new();
    let late = House::within(Limits { head_time: std::time::Duration::from_millis(1), ..Limits::default() });
    let full = House::within(Limits { connections: 0, ..Limits::default() });
    let ping = "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";
    let large = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(20 << 10));
    let long_body = "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 4194305\r\n\r\n";
    for (house, request, code) in [
        (&house, ping, 200),
        (&house, "GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n", 200),
        (&house, "GET /api/v1/openapi.json HTTP/1.1\r\n\r\n", 200),
        (&house, "PUT /api/v1/vmm.shutdown HTTP/1.1\r\n\r\n", 200),
        (&house, &put("vm.boot", ""), 204),
        (&house, &put("vm.create", "{"), 400),
        (&house, "garbage\r\n\r\n", 400),
        (&house, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (&house, "GET /nothing HTTP/1.1\r\n\r\n", 404),
        (&house, "GET /api/v1/vm.boot HTTP/1.1\r\n\r\n", 405),
        (&late, "GET", 408),
        (&house, long_body, 413),
        (&house, &large, 431),
        (&full, ping, 503),
    ] {
        let (got, body) = ask(house, request);
        assert_eq!((got, body.is_none()), (code, code == 204), "{request:.80}: {body:?}");
    }
}

#[test]
fn a_stream_of_events_begins_in_the_same_way() {
    let house = House::new();
    assert_eq!(ask(&house, "GET /api/v1/events HTTP/1.1\r\n\r\n"), (200, None));
}

/// The line that asks for a body, in front of a reply and behind one, as well as alone.
#[test]
fn the_line_that_asks_for_a_body_has_no_phrase() {
    let house = House::new();
    let ping = "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";
    let body = r#"{"payload":{"kernel":"/k"}}"#;
    let create = put("vm.create", body).replace("Host", "Expect: 100-continue\r\nHost");
    let mut socket = UnixStream::connect(&house.path).unwrap();
    socket.write_all([ping, &create].concat().as_bytes()).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("HTTP/1.1 ")).collect();
    let lines: Vec<&str> = lines.iter().map(|line| &line[line.find("HTTP").unwrap()..]).collect();
    // Whether the line is sent at all when the body is there already is hyper's choice.
    assert!(lines.len() >= 2 && lines.iter().all(|line| line.len() == "HTTP/1.1 200 ".len()), "{text}");
    assert_eq!((lines[0], lines.last()), ("HTTP/1.1 200 ", Some(&"HTTP/1.1 204 ")));
}
