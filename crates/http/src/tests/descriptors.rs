//! Descriptors sent along with a request (SCM_RIGHTS): they reach the verb, their number is checked, and none stays open.
//!
//! Each is the writing end of a pipe: its reading end tells when the last copy is gone.

use std::io::{IoSlice, PipeReader, PipeWriter, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use api::{Command, With};
use config::NetConfig;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::{House, PING, Peer, put, succeed};
use crate::server::Limits;

fn pipes(count: usize) -> (Vec<PipeReader>, Vec<PipeWriter>) {
    (0..count).map(|_| std::io::pipe().unwrap()).unzip()
}

/// One `sendmsg`; our own copies of `descriptors` are closed.
fn send(peer: &Peer, bytes: impl AsRef<[u8]>, descriptors: Vec<PipeWriter>) {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let parts = [IoSlice::new(bytes.as_ref())];
    let sent = rustix::net::sendmsg(&peer.socket, &parts, &mut control, SendFlags::NOSIGNAL).unwrap();
    assert_eq!(sent, bytes.as_ref().len());
}

/// Waits until nobody has the other end any more.
fn assert_closed(readers: Vec<PipeReader>) {
    for mut reader in readers {
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}

/// A house whose loop hands out what `vm.add-net` carried, and answers it.
fn house() -> (House, Receiver<With<NetConfig>>) {
    let (sender, added) = mpsc::channel();
    let house = House::with(Limits::default(), move |command| match command {
        Command::VmAddNet { body, reply } => {
            sender.send(body).unwrap();
            reply.send(Ok(None));
        }
        other => succeed(other),
    });
    (house, added)
}

/// The way of clients in the field: all in one message, one read of at most 1023 bytes, half a second at most.
#[test]
fn one_message_one_read() {
    let (house, added) = house();
    let mut peer = house.connect();
    let (readers, writers) = pipes(2);
    send(&peer, put("vm.add-net", r#"{"id":"n","num_queues":4}"#), writers);
    peer.socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut bytes = [0; 1023];
    let read = peer.socket.read(&mut bytes).unwrap();
    assert!(bytes[..read].starts_with(b"HTTP/1.1 204 \r\n"));
    let With { body, descriptors } = added.recv().unwrap();
    assert_eq!((body.pci.id.as_deref(), descriptors.len()), (Some("n"), 2));
    for (mut reader, writer) in readers.into_iter().zip(descriptors) {
        std::io::Write::write_all(&mut PipeWriter::from(writer), b"x").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x", "in the order in which they were sent");
    }
}

#[test]
fn they_may_come_with_any_part_of_the_request() {
    let (house, added) = house();
    let mut peer = house.connect();
    let request = put("vm.add-net", "{}");
    let (head, body) = request.split_at(request.len() - 2);
    let (readers, mut writers) = pipes(3);
    let last = writers.split_off(1);
    send(&peer, head, writers);
    send(&peer, body, last);
    assert_eq!(peer.reply().status, 204);
    assert_eq!(added.recv().unwrap().descriptors.len(), 3);
    assert_eq!(peer.ask(PING).status, 200);
    assert_eq!(peer.ask(&put("vm.add-net", "{}")).status, 204);
    assert_eq!(added.recv().unwrap().descriptors.len(), 0, "they belong to one request only");
    assert_closed(readers);
}

#[test]
fn wrong_numbers_are_refused_and_closed() {
    let (house, _added) = house();
    let restore = r#"{"source_url":"file:///s","net_fds":[{"id":"n","num_fds":2}],"vfio_fds":[{"id":"v"}]}"#;
    for (verb, body, count) in [
        ("vm.boot", "", 1),
        ("vm.create", r#"{"payload":{"kernel":"/k"}}"#, 1),
        ("vm.add-disk", r#"{"path":"/d"}"#, 1),
        ("vmm.shutdown", "", 1),
        ("vmm.ping", "", 1),
        ("vm.add-device", r#"{"path":"/d"}"#, 2),
        ("vm.restore", restore, 3),
        ("vm.receive-migration", r#"{"receiver_url":"unix:/s","vfio_fds":[]}"#, 2),
    ] {
        let mut peer = house.connect();
        let (readers, writers) = pipes(count);
        send(&peer, put(verb, body), writers);
        let reply = peer.reply();
        assert_eq!((reply.status, reply.header("X-Error-Code")), (400, Some("bad_request")), "{verb}");
        assert!(reply.body.contains(&format!("{count} file descriptors came")), "{verb}: {}", reply.body);
        assert_closed(readers);
    }
}

#[test]
fn right_numbers_reach_the_verb() {
    let (house, _added) = house();
    let restore = r#"{"source_url":"file:///s","net_fds":[{"id":"n","num_fds":2}],"vfio_fds":[{"id":"v"}]}"#;
    let receive = r#"{"receiver_url":"unix:/s","vfio_fds":[]}"#;
    for (verb, body, count) in [("vm.restore", restore, 4), ("vm.receive-migration", receive, 1)] {
        let mut peer = house.connect();
        let (readers, writers) = pipes(count);
        send(&peer, put(verb, body), writers);
        assert_eq!(peer.reply().status, 501, "{verb}");
        assert_closed(readers);
    }
}

#[test]
fn more_than_one_message_may_carry_are_refused() {
    let (house, _added) = house();
    let mut peer = house.connect();
    let request = put("vm.add-net", "{}");
    let (head, body) = request.split_at(10);
    let ((mut readers, writers), (more_readers, more_writers)) = (pipes(200), pipes(100));
    send(&peer, head, writers);
    send(&peer, body, more_writers);
    assert_eq!(peer.reply().status, 400);
    readers.extend(more_readers);
    assert_closed(readers);
    assert_eq!(peer.ask(PING).status, 200);
}

#[test]
fn those_that_nobody_wants_are_closed() {
    let (house, _added) = house();
    let mut peer = house.connect();
    for (request, status) in [
        (put("vm.fly", "{}"), 404),
        ("GET /api/v1/vm.boot HTTP/1.1\r\n\r\n".into(), 405),
        ("GET /metrics HTTP/1.1\r\n\r\n".into(), 200),
        (put("vm.add-net", "[broken"), 400),
    ] {
        let (readers, writers) = pipes(2);
        send(&peer, &request, writers);
        assert_eq!(peer.reply().status, status, "{request}");
        assert_closed(readers);
    }
    let (readers, writers) = pipes(1);
    send(&peer, "PUT /api/v1/vm.add-n", writers);
    drop(peer);
    assert_closed(readers);
}
