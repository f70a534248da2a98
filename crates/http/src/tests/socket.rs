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
    assert!(matches!(bind(Listen::Path("".into())), Err(BindError::Empty)));
    let long = dir.path().join("x".repeat(120));
    let error = bind(Listen::Path(long)).unwrap_err();
    assert!(error.to_string().contains("the kernel takes 107"), "{error}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    // The longest that the kernel takes.
    let room = 107 - dir.path().as_os_str().len() - 1;
    drop(bind(Listen::Path(dir.path().join("x".repeat(room)))).unwrap());
    assert!(matches!(bind(Listen::Path(dir.path().join("x".repeat(room + 1)))), Err(BindError::TooLong(_))));
}

#[test]
fn what_is_at_the_path_already_stays() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("folder")).unwrap();
    std::fs::write(at("file"), "precious").unwrap();
    std::os::unix::fs::symlink(at("nowhere"), at("link")).unwrap();
    let listener = UnixListener::bind(at("listener")).unwrap();
    let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
    for name in ["folder", "file", "link"] {
        assert!(matches!(bind(Listen::Path(at(name))), Err(BindError::Occupied(_))), "{name}");
    }
    for name in ["listener", "datagrams"] {
        assert!(matches!(bind(Listen::Path(at(name))), Err(BindError::Served(_))), "{name}");
    }
    assert_eq!(std::fs::read_to_string(at("file")).unwrap(), "precious");
    // A full queue, here of those who looked whether anybody is there, is no sign of absence.
    rustix::net::listen(&listener, 0).unwrap();
    for _ in 0..3 {
        assert!(matches!(bind(Listen::Path(at("listener"))), Err(BindError::Served(_))));
    }
    // Nor has anything been added.
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 5);
}

#[test]
fn a_failed_start_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let files = || std::fs::read_dir(&dir).unwrap().count();
    drop(bind(Listen::Path(path.clone())).unwrap());
    assert_eq!(files(), 0);
    let (client, _inbox) = fake_api();
    serve(bind(Listen::Path(path.clone())).unwrap(), client.clone()).unwrap().abandon().unwrap();
    assert_eq!(files(), 0);
    // A lock file of an earlier run is not this start's.
    std::fs::write(lock_of(&path), "").unwrap();
    serve(bind(Listen::Path(path.clone())).unwrap(), client).unwrap().abandon().unwrap();
    assert!(lock_of(&path).exists() && !path.exists());
}

/// Somebody has tidied up, and another program took the place.
#[test]
fn what_has_come_to_the_path_meanwhile_stays() {
    let mut house = House::new();
    let path = house.path.clone();
    std::fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    house.server.take().unwrap().stop().unwrap();
    assert!(path.exists());
    std::fs::remove_file(&path).unwrap();
    let bound = bind(Listen::Path(path.clone())).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    drop(bound);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
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
