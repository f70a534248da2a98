//! Guests that break the rules.

use super::*;

#[test]
fn packets_that_are_none_are_given_back_unused() {
    let mut guest = Guest::new(EVER);
    let (_client, talk) = guest.accept(52);
    let bytes = Header { len: 100, ..header(talk, Op::Data) }.to_bytes();
    guest.ram.map().write_slice(&bytes, GuestAddress(SENT)).unwrap();
    // Shorter than a header, shorter than it says, nothing to read, nothing at all, a loop.
    for chain in [
        (SENT, 43, 0, 0),
        (SENT, 143, 0, 0),
        (SENT, 200, WRITE, 0),
        (SENT, 0, 0, 0),
        (SENT, 1, fake::NEXT, 0),
    ] {
        guest.tx.write_descriptor(0, chain);
        guest.tx.offer(0);
        guest.tx.ring();
        assert_eq!(guest.tx.wait_used(), (0, 0));
    }
    let huge = Header { len: (64 << 10) + 1, ..header(talk, Op::Data) }.to_bytes();
    guest.ram.map().write_slice(&huge, GuestAddress(SENT)).unwrap();
    guest.tx.add(&[(SENT, 0x2_0000, 0)]);
    guest.tx.ring();
    guest.tx.wait_used();
    // The connection has not heard of any of it.
    guest.say(talk, Op::CreditRequest, &[]);
    assert_eq!(guest.expect(Op::CreditUpdate).0.fwd_cnt, 0);
    assert_eq!(guest.config.count(), 0);
}

#[test]
fn buffers_outside_of_ram_break_only_the_device() {
    for chain in [
        vec![(OUTSIDE, 44, 0)],
        vec![(u64::MAX - 10, 100, 0)],
        vec![(OUTSIDE - 20, 44, 0)],
        vec![(SENT, 44, 0), (OUTSIDE, 16, 0)],
    ] {
        let mut guest = Guest::new(EVER);
        let (_client, talk) = guest.accept(52);
        let bytes = Header { len: 16, ..header(talk, Op::Data) }.to_bytes();
        guest.ram.map().write_slice(&bytes, GuestAddress(SENT)).unwrap();
        guest.tx.add(&chain);
        guest.tx.ring();
        guest.config.wait(1);
        guest.stop();
    }
    for chain in [vec![(OUTSIDE, 100, WRITE)], vec![(SENT, 44, WRITE), (OUTSIDE, 100, WRITE)]] {
        let mut guest = Guest::without_buffers(EVER);
        guest.start();
        let listener = guest.listen(80);
        guest.rx.add(&chain);
        guest.rx.add(&chain);
        guest.rx.ring();
        guest.say(conversation(80, 1), Op::Request, &[]);
        if let Ok((mut program, _)) = listener.accept() {
            let _ = program.write_all(b"bytes");
        }
        guest.config.wait(1);
        guest.stop();
    }
}

#[test]
fn buffers_without_room_are_given_back() {
    let mut guest = Guest::without_buffers(EVER);
    guest.start();
    let listener = guest.listen(80);
    guest.rx.add(&[(RECEIVED, 43, WRITE)]);
    guest.rx.add(&[(RECEIVED, 100, 0)]);
    // Room for a header is enough for what has no bytes.
    guest.rx.add(&[(RECEIVED, 44, WRITE)]);
    guest.rx.ring();
    guest.say(conversation(80, 1), Op::Request, &[]);
    assert_eq!(guest.rx.wait_used(), (0, 0));
    assert_eq!(guest.rx.wait_used(), (1, 0));
    assert_eq!(guest.rx.wait_used(), (2, 44));
    listener.accept().unwrap().0.write_all(b"bytes").unwrap();
    guest.rx.add(&[(RECEIVED, 44, WRITE)]);
    guest.rx.ring();
    assert_eq!(guest.rx.wait_used(), (3, 0));
    guest.rx.add(&[(RECEIVED, 64, WRITE)]);
    guest.rx.ring();
    assert_eq!(guest.rx.wait_used(), (4, 49));
}

#[test]
fn strange_packets() {
    let mut guest = Guest::new(EVER);
    let nowhere = conversation(80, 1);
    let data = header(nowhere, Op::Data);
    // Not for the host, or not from the guest: nobody answers.
    guest.send(Header { destination_cid: 3, ..data }, &[]);
    guest.send(Header { source_cid: 2, ..data }, &[]);
    guest.say(nowhere, Op::Reset, &[]);
    // Of another type, which the answer has, too; of no purpose.
    for strange in [Header { kind: 2, ..data }, Header { kind: 2, op: 1, ..data }, Header { op: 99, ..data }]
    {
        guest.send(strange, &[]);
        assert_eq!(guest.expect(Op::Reset).0.kind, strange.kind);
    }
    for op in [0, 1, 2, 99] {
        let (mut client, talk) = guest.accept(52);
        guest.send(Header { op, ..header(talk, Op::Data) }, &[]);
        guest.expect(Op::Reset);
        assert_eq!(read_all(&mut client), b"", "{op}");
    }
}

#[test]
fn who_sends_more_than_is_allowed_is_cut_off() {
    let mut guest = Guest::new(EVER);
    let (mut client, talk) = guest.accept(52);
    // The kernel keeps some for the client, the device the whole buffer, and what is more has no place.
    loop {
        guest.say(talk, Op::Data, &[0; 60 << 10]);
        guest.say(talk, Op::CreditRequest, &[]);
        if guest.receive().0.op == Op::Reset as u16 {
            break;
        }
    }
    assert!(read_all(&mut client).iter().all(|byte| *byte == 0));
}

#[test]
fn a_guest_that_takes_nothing_is_not_listened_to() {
    const ALL: u32 = 270;
    let mut guest = Guest::without_buffers(EVER);
    guest.start();
    for port in 0..256 {
        guest.say(conversation(80, port), Op::Data, b"?");
    }
    for port in 256..ALL {
        let at = SENT + u64::from(port) * 64;
        guest
            .ram
            .map()
            .write_slice(&header(conversation(80, port), Op::Data).to_bytes(), GuestAddress(at))
            .unwrap();
        guest.tx.add(&[(at, 44, 0)]);
        guest.tx.ring();
    }
    guest.give_all();
    for port in 0..ALL {
        assert_eq!(guest.expect(Op::Reset).0.destination_port, port);
    }
}
