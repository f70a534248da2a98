//! The socket's file, its lock, and the end of the server.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc;

use api::Command;

use super::{House, PING, Peer, fake_api, put, succeed};
use crate::server::Limits;
use crate::{BindError, Listen, bind, serve};

fn lock_of(path: &Path) -> std::path::PathBuf {
    path.with_file_name("api.sock.lock")
}

#[test]
fn a_second_process_is_refused_and_changes_nothing() {
    let house = House::new();
    let error = bind(Listen::Path(house.path.clone())).unwrap_err();
    let path = house.path.display();
    assert_eq!(
        error.to_string(),
        format!("API socket \"{path}\" is already in use by another running instance")
    );
    assert_eq!(house.ask(PING).status, 200);
}

#[test]
fn a_stale_socket_is_replaced_and_the_lock_file_stays() {
    let mut house = House::new();
    let path = house.path.clone();
    assert!(lock_of(&path).exists());
    house.server.take().unwrap().stop().unwrap();
    assert!(!path.exists() && lock_of(&path).exists());
    // Left by a process that did not end well.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let bound = bind(Listen::Path(path.clone())).unwrap();
    // Clients can connect before anybody serves them.
    let mut early = Peer::new(UnixStream::connect(&path).unwrap());
    early.send(PING);
    let (client, _inbox) = fake_api();
    let server = serve(bound, client).unwrap();
    assert_eq!(early.reply().status, 200);
    server.stop().unwrap();
}

#[test]
fn a_server_that_is_dropped_leaves_its_socket() {
    let mut house = House::new();
    drop(house.server.take());
    assert!(house.path.exists());
    assert_eq!(house.ask(PING).status, 200);
    assert!(matches!(bind(Listen::Path(house.path.clone())), Err(BindError::InUse(_))));
}

#[test]
fn what_cannot_be_bound() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("none/api.sock");
    assert!(matches!(bind(Listen::Path(nowhere)), Err(BindError::Lock { .. })));
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    assert!(matches!(bind(Listen::Path(folder)), Err(BindError::Stale { .. })));
    let long = dir.path().join("x".repeat(120));
    assert!(matches!(bind(Listen::Path(long)), Err(BindError::Bind { .. })));
}

#[test]
fn a_listening_descriptor_is_used_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let fd = OwnedFd::from(UnixListener::bind(&path).unwrap());
    let (client, _inbox) = fake_api();
    let server = serve(bind(Listen::Fd(fd)).unwrap(), client).unwrap();
    let mut peer = Peer::new(UnixStream::connect(&path).unwrap());
    assert_eq!(peer.ask(PING).status, 200);
    server.stop().unwrap();
    assert!(peer.is_over());
    assert!(path.exists() && !lock_of(&path).exists());
}

#[test]
fn other_descriptors_are_refused() {
    let (connected, _peer) = UnixStream::pair().unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let fds: [OwnedFd; 4] = [
        File::open("/dev/null").unwrap().into(),
        connected.into(),
        UnixDatagram::unbound().unwrap().into(),
        tcp.as_fd().try_clone_to_owned().unwrap(),
    ];
    for fd in fds {
        assert!(matches!(bind(Listen::Fd(fd)), Err(BindError::NotListening)));
    }
}

#[test]
fn calls_under_way_are_answered_before_the_end() {
    let (sender, held) = mpsc::channel();
    let mut house = House::with(Limits::default(), move |command| match command {
        Command::VmmShutdown { .. } => sender.send(command).unwrap(),
        other => succeed(other),
    });
    let mut idle = house.connect();
    assert_eq!(idle.ask(PING).status, 200);
    let mut never_used = house.connect();
    let mut caller = house.connect();
    caller.send(put("vmm.shutdown", ""));
    let command = held.recv().unwrap();
    let server = house.server.take().unwrap();
    let stopping = std::thread::spawn(move || server.stop());
    assert!(idle.is_over() && never_used.is_over());
    succeed(command);
    assert_eq!(caller.reply().status, 200);
    assert!(caller.is_over());
    stopping.join().unwrap().unwrap();
    assert!(!house.path.exists());
}

#[test]
fn an_unanswered_call_does_not_hold_up_the_end() {
    let (sender, held) = mpsc::channel();
    let limits = Limits { stop: std::time::Duration::ZERO, ..Limits::default() };
    let mut house = House::with(limits, move |command| sender.send(command).unwrap());
    let mut caller = house.connect();
    caller.send(put("vm.pause", ""));
    let command = held.recv().unwrap();
    house.server.take().unwrap().stop().unwrap();
    assert!(caller.is_over());
    succeed(command);
}
