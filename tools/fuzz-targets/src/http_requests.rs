//! Bytes on the REST socket: whatever a client sends, it gets well-formed replies or none, and the next client is served.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::LazyLock;
use std::time::Duration;

use api::testing::{FakeLoop, fake_api};
use api::{ApiError, Code};

/// A server that does not answer for so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The socket of a server that lives as long as the process. An abstract one, because nobody would remove its file.
static SOCKET: LazyLock<SocketAddr> = LazyLock::new(|| {
    let address =
        SocketAddr::from_abstract_name(format!("fuzz-http-requests-{}", std::process::id())).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let (client, inbox) = fake_api();
    let bound = http::bind(http::Listen::Fd(listener.into())).unwrap();
    // Dropped servers go on serving.
    drop(http::serve(bound, client).unwrap());
    // Every command fails, some for longer reasons than others; the loop is to last as well.
    std::mem::forget(FakeLoop::new(inbox, |command| {
        let name = command.verb().name;
        command.refuse(ApiError::new(Code::NotImplemented, [name.into()]));
    }));
    address
});

pub(crate) fn run(data: &[u8]) {
    let mut socket = UnixStream::connect_addr(&SOCKET).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    match socket.write_all(data).and_then(|()| socket.shutdown(Shutdown::Write)) {
        // Refused while it was still talking, which is nothing bad.
        Err(error) if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => {}
        other => other.unwrap(),
    }
    let replies = read_replies(&mut socket);
    // The bodies that HEAD leaves out are announced all the same.
    let is_ambiguous = data.windows(4).any(|word| word == b"HEAD");
    check(&replies, is_ambiguous);
}

fn read_replies(socket: &mut UnixStream) -> Vec<u8> {
    const ENDLESS: &[u8] = b"Content-Type: text/event-stream";
    let mut replies = Vec::new();
    let mut chunk = [0; 16384];
    loop {
        match socket.read(&mut chunk) {
            Ok(0) => return replies,
            Ok(count) => replies.extend_from_slice(&chunk[..count]),
            // A fuzzer has timers.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return replies,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&replies)),
        }
        if let Some(at) = replies.windows(ENDLESS.len()).position(|window| window == ENDLESS) {
            let head = replies[..at].windows(5).rposition(|window| window == b"HTTP/").unwrap_or_default();
            replies.truncate(head);
            return replies;
        }
    }
}

/// Every reply has a status, a length, our name and a body of JSON, if any.
fn check(mut replies: &[u8], is_ambiguous: bool) {
    while let Some(end) = replies.windows(4).position(|window| window == b"\r\n\r\n") {
        let (head, rest) = replies.split_at(end + 4);
        let head = std::str::from_utf8(head).unwrap_or_else(|e| panic!("{e}: {head:?}"));
        let status =
            head.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..4)).unwrap_or_else(|| panic!("{head}"));
        let status: u16 = status.trim_end().parse().unwrap_or_else(|e| panic!("{e}: {head}"));
        assert!((100..600).contains(&status) && ![500, 502].contains(&status), "{head}");
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        assert!(status == 100 || header("Server") == Some("Cloud Hypervisor API"), "{head}");
        if is_ambiguous {
            return;
        }
        let length: usize = header("Content-Length").map_or(0, |length| length.parse().unwrap());
        let (body, rest) = rest.split_at_checked(length).unwrap_or_else(|| panic!("cut short: {head}"));
        if header("Content-Type").is_some_and(|kind| kind.contains("json")) && length > 0 {
            serde_json::from_slice::<serde_json::Value>(body).unwrap_or_else(|e| panic!("{e}: {head}"));
        }
        replies = rest;
    }
    assert!(replies.is_empty(), "not a reply: {:?}", String::from_utf8_lossy(replies));
}
