//! Limits, pauses, snapshots, and the socket's file.

use device::{Persist, Stateful};

use super::super::packet::{RECEIVES_NO_MORE, SENDS_NO_MORE};
use super::super::table::MAX_CONNECTIONS;
use super::*;

#[test]
fn what_it_is() {
    let guest = Guest::without_buffers(EVER);
    let info = guest.front.info();
    assert_eq!((info.device_type, info.features, info.config_len), (19, 1 << 35, 8));
    assert_eq!(info.queue_sizes, [256; 3]);
    let mut config = [0xff; 8];
    guest.front.read_config(0, &mut config);
    assert_eq!(config, [7, 0, 0, 0, 0, 0, 0, 0]);
    let mut high = [0xff; 4];
    guest.front.read_config(4, &mut high);
    assert_eq!(high, [0; 4]);
}

#[test]
fn a_guest_that_does_not_answer_is_given_up() {
    let mut guest = Guest::new(NONE);
    let mut client = client(&guest.path);
    client.write_all(b"CONNECT 52\n").unwrap();
    guest.expect(Op::Request);
    guest.expect(Op::Reset);
    assert_eq!(read_all(&mut client), b"");
}

#[test]
fn a_guest_that_has_not_been_asked_yet_is_told_nothing() {
    let mut guest = Guest::without_buffers(NONE);
    guest.start();
    let mut given_up = client(&guest.path);
    given_up.write_all(b"CONNECT 52\n").unwrap();
    assert_eq!(read_all(&mut given_up), b"");
    guest.give_all();
    guest.say(conversation(1, 1), Op::Data, b"?");
    assert_eq!(guest.expect(Op::Reset).0.source_port, 1, "the first that it hears");
}

#[test]
fn a_guest_does_not_wait_for_ever_and_its_last_words_are_kept() {
    let mut guest = Guest::new(NONE);
    let listener = guest.listen(80);
    let talk = conversation(80, 5000);
    let mut program = guest.connect(&listener, talk);
    let (mut sent, mut forwarded) = (0, 0);
    while forwarded == sent {
        guest.say(talk, Op::Data, &[0; 4000]);
        sent += 4000;
        guest.say(talk, Op::CreditRequest, &[]);
        forwarded = guest.expect(Op::CreditUpdate).0.fwd_cnt;
    }
    guest.shut_down(talk, SENDS_NO_MORE | RECEIVES_NO_MORE);
    guest.expect(Op::Reset);
    // The same ports again, while the rest is still there.
    let mut second = guest.connect(&listener, talk);
    guest.say(talk, Op::Data, b"new");
    assert_eq!(read(&mut second, 3), b"new");
    guest.stop();
    guest.start();
    assert_eq!(read_all(&mut program).len(), sent as usize);
}

#[test]
fn there_are_no_more_connections_than_the_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let mut guest = Guest::new(EVER);
    let listener = guest.listen(80);
    let mut programs = Vec::new();
    for port in 0..MAX_CONNECTIONS as u32 {
        programs.push(guest.connect(&listener, conversation(80, port)));
    }
    guest.say(conversation(80, 9999), Op::Request, &[]);
    guest.expect(Op::Reset);
    let mut late = client(&guest.path);
    late.write_all(b"CONNECT 52\n").unwrap();
    assert_eq!(read_all(&mut late), b"");
    // One leaves, another may come.
    programs.pop();
    guest.expect_end();
    guest.accept(52);
}

#[test]
fn a_pause_leaves_streams_as_they_are() {
    let mut guest = Guest::new(EVER);
    let (mut client, talk) = guest.accept(52);
    guest.stop();
    client.write_all(b"meanwhile").unwrap();
    guest.start();
    assert_eq!(guest.expect(Op::Data).1, b"meanwhile");
    guest.say(talk, Op::Data, b"heard");
    assert_eq!(read(&mut client, 5), b"heard");
}

#[test]
fn a_reset_ends_all_streams() {
    let mut guest = Guest::new(EVER);
    let (mut client, talk) = guest.accept(52);
    guest.stop();
    guest.front.reset();
    assert_eq!(read_all(&mut client), b"");
    assert_eq!(Persist::save(&guest.front), State::default());
    guest.start();
    guest.say(talk, Op::Data, b"?");
    guest.expect(Op::Reset);
    assert_eq!(guest.accept(52).1.host, FIRST, "the numbers begin anew");
}

#[test]
fn a_restored_guest_hears_that_its_streams_are_gone() {
    let mut old = Guest::new(EVER);
    let (_client, talk) = old.accept(52);
    let listener = old.listen(80);
    let _program = old.connect(&listener, conversation(80, 5000));
    old.stop();
    let saved = old.front.to_saved().unwrap();
    let known = Persist::save(&old.front).connections.unwrap();
    assert_eq!(known, [Ports { local: 80, guest: 5000 }, Ports { local: talk.host, guest: 52 }]);

    let mut new = Guest::without_buffers(EVER);
    new.front.restore_saved(&saved).unwrap();
    assert_eq!(new.front.to_saved().unwrap(), saved);
    new.start();
    new.events.add(&[(SENT, 4, WRITE)]);
    new.events.ring();
    assert_eq!(new.events.wait_used(), (0, 4));
    assert_eq!(new.bytes(SENT, 4), [0; 4]);
    new.give_all();
    let heard = [new.expect(Op::Reset).0, new.expect(Op::Reset).0];
    assert_eq!(heard.map(|reset| (reset.source_port, reset.destination_port)), [(80, 5000), (talk.host, 52)]);
    let _client = new.accept(52);
    new.stop();
    // It hears of it once.
    assert_eq!(Persist::save(&new.front).connections.unwrap().len(), 1);
    new.events.add(&[(SENT, 4, WRITE)]);
    new.start();
    new.accept(53);
    assert_eq!(new.events.used().len(), 1);
}

#[test]
fn impossible_states_are_refused() {
    let mut guest = Guest::without_buffers(EVER);
    let ports = |local| Ports { local, guest: 1 };
    for known in [(0..3000).map(ports).collect(), vec![ports(2), ports(1)], vec![ports(1), ports(1)]] {
        assert!(Persist::restore(&mut guest.front, State { connections: Some(known) }).is_err());
    }
    assert_eq!(Persist::save(&guest.front), State::default());
}

#[test]
fn only_what_is_left_over_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsock");
    drop(UnixListener::bind(&path).unwrap());
    let first = front(&path, EVER);
    let error = Socket::bind(&path).err().unwrap();
    assert!(matches!(error.source, BindCause::InTheWay(host::unix_socket::InTheWay::Program)), "{error}");
    drop(first);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(Socket::bind(&path).is_err());
    std::fs::remove_file(&path).unwrap();
    // What has taken its place is another's.
    let first = front(&path, EVER);
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
}

#[test]
fn the_digits_that_a_path_leaves_room_for() {
    let dir = tempfile::tempdir().unwrap();
    for (len, digits) in [(96, 10), (97, 9), (105, 1)] {
        let path = dir.path().join("s".repeat(len - dir.path().as_os_str().len() - 1));
        assert_eq!(listener::digits(&path), digits);
        let port = 10u32.pow(digits as u32 - 1);
        let _program = UnixListener::bind(format!("{}_{port}", path.display())).unwrap();
        listener::dial(&path, port).unwrap();
        assert!(listener::dial(&path, u32::MAX).is_err(), "nobody there, or no path");
    }
}

#[test]
fn the_contract_holds() {
    let dir = tempfile::tempdir().unwrap();
    crate::tests::holds(front(&dir.path().join("vsock"), EVER));
}
