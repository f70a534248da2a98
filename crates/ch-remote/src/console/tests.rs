use std::io::Read;
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

const INFO: &str = r#"{"state":"Running","config":{"serial":{"mode":"Socket","socket":"/s"},"console":{"mode":"Pty","file":"/p"}}}"#;

#[test]
fn the_first_console_one_can_attach_to_is_found() {
    let find = |info: &str, device| find(info.as_bytes(), device).map_err(|e| e.to_string());
    assert_eq!(find(INFO, None), Ok(ConsoleEnd::Socket("/s".into())));
    assert_eq!(find(INFO, Some(ConsoleDevice::Console)), Ok(ConsoleEnd::Pty("/p".into())));
    assert!(find(INFO, Some(ConsoleDevice::DebugConsole)).unwrap_err().contains("no such console"));
    let off = r#"{"config":{"serial":{"mode":"Tty"},"console":{"mode":"Pty","file":null}}}"#;
    assert!(find(off, None).unwrap_err().contains("no such console"));
    assert!(find("", None).unwrap_err().contains("info"));
}

#[test]
fn characters_go_both_ways_until_the_leaving_key() {
    let (mut user, input) = UnixStream::pair().unwrap();
    let (mut guest, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    user.write_all(b"ls\n").unwrap();
    let mut seen = Vec::new();
    thread::scope(|scope| {
        let pumping = scope.spawn(|| pump(&input, Some(LEAVE), &peer, &mut seen));
        let mut line = [0; 3];
        guest.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ls\n");
        user.write_all(b"bye\x1dnever").unwrap();
        pumping.join().unwrap().unwrap();
    });
    drop(peer);
    let mut rest = String::new();
    guest.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "bye");
}

#[test]
fn without_a_terminal_the_key_is_a_byte_and_the_guest_ends_it() {
    let (mut user, input) = UnixStream::pair().unwrap();
    let (mut guest, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    user.write_all(b"\x1d").unwrap();
    drop(user);
    let mut seen = Vec::new();
    thread::scope(|scope| {
        let pumping = scope.spawn(|| pump(&input, None, &peer, &mut seen));
        let mut byte = [0];
        guest.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [LEAVE]);
        guest.write_all(b"login: ").unwrap();
        drop(guest);
        pumping.join().unwrap().unwrap();
    });
    assert_eq!(seen, b"login: ");
}

#[test]
fn a_guest_that_does_not_read_cannot_keep_its_user() {
    let (mut user, input) = UnixStream::pair().unwrap();
    let (_guest, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            user.write_all(&vec![b'x'; 1 << 20]).unwrap();
            user.write_all(&[LEAVE]).unwrap();
        });
        pump(&input, Some(LEAVE), &peer, &mut io::sink()).unwrap();
    });
}

#[test]
fn a_pseudo_terminal_is_opened_raw_and_a_file_is_refused() {
    let master =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = open(&ConsoleEnd::Pty(name.into()), false).unwrap();
    assert!(!termios::tcgetattr(&slave).unwrap().local_modes.contains(termios::LocalModes::ECHO));
    rustix::io::write(&master, b"boot\n").unwrap();
    let (_user, input) = UnixStream::pair().unwrap();
    let (mut screen, mut output) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let pumping = scope.spawn(|| pump(&input, None, &slave, &mut output));
        let mut line = [0; 5];
        screen.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"boot\n");
        drop(master);
        pumping.join().unwrap().unwrap();
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = open(&ConsoleEnd::Pty(file.path().into()), false).unwrap_err();
    assert!(matches!(refused, ConsoleError::NoTerminal(_)), "{refused}");
}

#[test]
fn a_socket_console_is_connected_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let peer = open(&ConsoleEnd::Socket(path), false).unwrap();
    let (mut guest, _) = listener.accept().unwrap();
    flush(&peer, &mut b"hi".to_vec()).unwrap();
    drop(peer);
    let mut text = String::new();
    guest.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hi");
}
