//! What streams carry, and how they end.

use std::net::Shutdown;

use super::super::packet::{RECEIVES_NO_MORE, SENDS_NO_MORE};
use super::*;

const BOTH: u32 = RECEIVES_NO_MORE | SENDS_NO_MORE;

#[test]
fn a_client_of_the_host_talks_to_the_guest() {
    let mut guest = Guest::new(EVER);
    let (mut client, talk) = guest.accept(52);
    assert_eq!(talk.host, FIRST);
    client.write_all(b"hello, guest").unwrap();
    assert_eq!(guest.expect(Op::Data).1, b"hello, guest");
    guest.say(talk, Op::Data, b"hello, host");
    assert_eq!(read(&mut client, 11), b"hello, host");
    let (_, second) = guest.accept(52);
    assert_eq!(second.host, FIRST + 1);
}

#[test]
fn what_follows_the_command_is_for_the_guest() {
    let mut guest = Guest::new(EVER);
    let mut client = client(&guest.path);
    client.write_all(b"connect 80\nhello").unwrap();
    let (request, _) = guest.expect(Op::Request);
    let talk = conversation(request.source_port, 80);
    guest.say(talk, Op::Response, &[]);
    assert_eq!(guest.expect(Op::Data).1, b"hello");
}

#[test]
fn the_guest_talks_to_a_program_of_the_host() {
    let mut guest = Guest::new(EVER);
    let listener = guest.listen(1234);
    let talk = conversation(1234, 5000);
    let mut program = guest.connect(&listener, talk);
    guest.say(talk, Op::Data, b"ping");
    assert_eq!(read(&mut program, 4), b"ping");
    program.write_all(b"pong").unwrap();
    let (header, payload) = guest.expect(Op::Data);
    assert_eq!((header.source_port, header.destination_port, payload), (1234, 5000, b"pong".to_vec()));
}

#[test]
fn each_direction_ends_on_its_own() {
    let mut guest = Guest::new(EVER);
    let (mut client, talk) = guest.accept(52);
    client.write_all(b"all I have").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(Op::Data).1, b"all I have");
    assert_eq!(guest.expect(Op::Shutdown).0.flags, SENDS_NO_MORE);
    guest.say(talk, Op::Data, b"thanks");
    guest.shut_down(talk, BOTH);
    assert_eq!(read_all(&mut client), b"thanks");
    guest.expect(Op::Reset);
    // The other way round.
    let listener = guest.listen(80);
    let talk = conversation(80, 5000);
    let mut program = guest.connect(&listener, talk);
    guest.say(talk, Op::Data, b"question");
    guest.shut_down(talk, SENDS_NO_MORE);
    assert_eq!(read_all(&mut program), b"question");
    program.write_all(b"answer").unwrap();
    drop(program);
    assert_eq!(guest.expect(Op::Data).1, b"answer");
    guest.expect_end();
}

#[test]
fn what_the_guest_does_not_want_cannot_be_written() {
    let mut guest = Guest::new(EVER);
    let (mut client, talk) = guest.accept(52);
    guest.shut_down(talk, RECEIVES_NO_MORE);
    assert_eq!(client.write(b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    guest.say(talk, Op::Data, b"still here");
    assert_eq!(read(&mut client, 10), b"still here");
}

#[test]
fn a_host_that_leaves_gets_its_last_words_through() {
    let mut guest = Guest::new(EVER);
    let (mut client, talk) = guest.accept(52);
    client.write_all(&[7; 10_000]).unwrap();
    drop(client);
    let mut heard = 0;
    while heard < 10_000 {
        let (header, payload) = guest.expect(Op::Data);
        assert!(payload.iter().all(|byte| *byte == 7) && header.len > 0);
        heard += payload.len();
    }
    guest.expect_end();
    guest.say(talk, Op::Data, b"hello?");
    guest.expect(Op::Reset);
}

#[test]
fn nobody_there() {
    let mut guest = Guest::new(EVER);
    let talk = conversation(99, 5000);
    guest.say(talk, Op::Request, &[]);
    let (reset, _) = guest.expect(Op::Reset);
    assert_eq!((reset.source_port, reset.destination_port), (99, 5000));
    // The guest refuses, too.
    let mut client = client(&guest.path);
    client.write_all(b"CONNECT 9\n").unwrap();
    let (request, _) = guest.expect(Op::Request);
    guest.say(conversation(request.source_port, 9), Op::Reset, &[]);
    assert_eq!(read_all(&mut client), b"");
}

#[test]
fn the_guest_waits_for_a_busy_program() {
    let mut guest = Guest::new(EVER);
    let (listener, first) = busy(&guest, 80);
    let talk = conversation(80, 5000);
    guest.say(talk, Op::Request, &[]);
    // One that changes its mind is not put through.
    let fickle = conversation(80, 5001);
    guest.say(fickle, Op::Request, &[]);
    guest.say(fickle, Op::Reset, &[]);
    listener.accept().unwrap();
    drop(first);
    let (response, _) = guest.expect(Op::Response);
    assert_eq!(response.destination_port, 5000);
    let mut program = listener.accept().unwrap().0;
    guest.say(talk, Op::Data, b"at last");
    assert_eq!(read(&mut program, 7), b"at last");
    // Not for ever.
    let mut guest = Guest::new(NONE);
    let (_listener, _first) = busy(&guest, 80);
    guest.say(talk, Op::Request, &[]);
    guest.expect(Op::Reset);
}

#[test]
fn ports_are_free_that_nobody_has_or_waits_for() {
    let mut guest = Guest::new(EVER);
    let listener = guest.listen(FIRST);
    let _program = guest.connect(&listener, conversation(FIRST, 52));
    let _busy = busy(&guest, FIRST + 1);
    guest.say(conversation(FIRST + 1, 52), Op::Request, &[]);
    let (_client, talk) = guest.accept(52);
    assert_eq!(talk.host, FIRST + 2);
}

/// A program that has one client waiting and room for no other.
fn busy(guest: &Guest, port: u32) -> (UnixListener, UnixStream) {
    let listener = guest.listen(port);
    rustix::net::listen(&listener, 0).unwrap();
    let client = client(Path::new(&format!("{}_{port}", guest.path.display())));
    (listener, client)
}

#[test]
fn a_bad_command_ends_the_stream() {
    let mut guest = Guest::new(EVER);
    for command in [&b"CONNECT x\n"[..], b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n", &[b'0'; 100]] {
        let mut client = client(&guest.path);
        client.write_all(command).unwrap();
        let mut answer = Vec::new();
        // Unread bytes make an error of the end.
        let _ = client.read_to_end(&mut answer);
        assert!(answer.is_empty());
    }
    guest.accept(52);
}

#[test]
fn the_guest_is_sent_no_more_than_it_has_room_for() {
    let mut guest = Guest::new(EVER);
    let mut client = client(&guest.path);
    client.write_all(b"CONNECT 52\n0123456789abcdef").unwrap();
    let (request, _) = guest.expect(Op::Request);
    let mut talk = conversation(request.source_port, 52);
    talk.buffer = 10;
    guest.say(talk, Op::Response, &[]);
    assert_eq!(guest.expect(Op::Data).1, b"0123456789");
    guest.expect(Op::CreditRequest);
    talk.forwarded = 4;
    guest.say(talk, Op::CreditUpdate, &[]);
    assert_eq!(guest.expect(Op::Data).1, b"abcd");
    guest.expect(Op::CreditRequest);
    // A guest that has got more than there was is not believed.
    talk.forwarded = 100;
    guest.say(talk, Op::CreditUpdate, &[]);
    talk.forwarded = 14;
    guest.say(talk, Op::CreditUpdate, &[]);
    assert_eq!(guest.expect(Op::Data).1, b"ef");
}

#[test]
fn the_guest_may_ask_for_credit() {
    let mut guest = Guest::new(EVER);
    let (mut client, talk) = guest.accept(52);
    guest.say(talk, Op::Data, b"12345");
    read(&mut client, 5);
    guest.say(talk, Op::CreditRequest, &[]);
    let (update, _) = guest.expect(Op::CreditUpdate);
    assert_eq!((update.buf_alloc, update.fwd_cnt), (64 << 10, 5));
}

#[test]
fn a_slow_program_holds_up_nobody_and_loses_nothing() {
    const PIECE: usize = 4000;
    let mut guest = Guest::new(EVER);
    let (mut slow, talk) = guest.accept(52);
    let (mut quick, other) = guest.accept(53);
    // As much as the guest may send: what is forwarded is told when little is left.
    let (mut sent, mut forwarded) = (0u32, 0u32);
    while sent - forwarded + PIECE as u32 <= 64 << 10 {
        let piece = [(sent / PIECE as u32) as u8; PIECE];
        guest.say(talk, Op::Data, &piece);
        sent += PIECE as u32;
        guest.say(talk, Op::CreditRequest, &[]);
        forwarded = guest.expect(Op::CreditUpdate).0.fwd_cnt;
    }
    guest.say(other, Op::Data, b"quick");
    assert_eq!(read(&mut quick, 5), b"quick");
    for number in 0..sent / PIECE as u32 {
        assert_eq!(read(&mut slow, PIECE), [number as u8; PIECE]);
    }
    // Now that there is room, the guest hears of it unasked.
    while forwarded < sent {
        forwarded = guest.expect(Op::CreditUpdate).0.fwd_cnt;
    }
    guest.say(talk, Op::Data, b"more");
    assert_eq!(read(&mut slow, 4), b"more");
}

#[test]
fn packets_may_lie_in_any_pieces() {
    let mut guest = Guest::without_buffers(EVER);
    guest.start();
    let listener = guest.listen(80);
    let talk = conversation(80, 5000);
    // A header in two pieces, and room for four bytes more in two others.
    guest.rx.add(&[(RECEIVED, 30, WRITE), (RECEIVED + 0x100, 15, WRITE), (RECEIVED + 0x200, 3, WRITE)]);
    guest.rx.add(&[
        (RECEIVED + 0x1000, 40, WRITE),
        (RECEIVED + 0x1100, 6, WRITE),
        (RECEIVED + 0x1200, 2, WRITE),
    ]);
    guest.rx.ring();
    guest.say(talk, Op::Request, &[]);
    assert_eq!(guest.rx.wait_used().1, 44);
    let mut program = listener.accept().unwrap().0;
    let bytes = Header { len: 6, ..header(talk, Op::Data) }.to_bytes();
    guest.ram.map().write_slice(&bytes, GuestAddress(SENT)).unwrap();
    guest.ram.map().write_slice(b"abcdef", GuestAddress(SENT + 0x1000)).unwrap();
    guest.tx.add(&[
        (SENT, 20, 0),
        (SENT + 20, 24, 0),
        (SENT + 0x1000, 2, 0),
        (SENT + 0x1002, 3, 0),
        (SENT + 0x1005, 9, 0),
    ]);
    guest.tx.ring();
    assert_eq!(read(&mut program, 6), b"abcdef");
    program.write_all(b"wxyz and more").unwrap();
    assert_eq!(guest.rx.wait_used().1, 48);
    assert_eq!(guest.bytes(RECEIVED + 0x1104, 2), b"wx");
    assert_eq!(guest.bytes(RECEIVED + 0x1200, 2), b"yz");
}
