use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use config::{MacAddr, plan};
use memory::{Bytes, GuestAddress, GuestMemoryBackend, RamMap, test_ram};

use super::*;
use crate::interface::Interface;

const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// A queue whose host is the other end of a socket.
fn socket_queue() -> (TapQueue, UnixDatagram) {
    let (ours, host) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (TapQueue::new(OwnedFd::from(ours)), host)
}

fn push<'ram>(frame: &mut Frame<'_, 'ram>, ram: &'ram RamMap, buffers: &[(u64, usize)]) {
    for (at, len) in buffers {
        frame.push(&ram.get_slice(GuestAddress(*at), *len).unwrap()).unwrap();
    }
}

fn bytes(ram: &RamMap, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

#[test]
fn a_frame_is_scattered_and_reported_to_the_write_hook() {
    let ram = test_ram(&[(0, 0x1_0000)]).map();
    let (queue, host) = socket_queue();
    let mapping = ram.iter().next().unwrap().get_mmap();
    let hook = mapping.bitmap();
    hook.enable();
    let mut scatter = Scatter::new();
    host.send(b"abcdefgh").unwrap();
    let mut frame = scatter.frame();
    push(&mut frame, &ram, &[(0x1ffe, 3), (0x5000, 0), (0x8000, 100), (0xa000, 100)]);
    assert_eq!((frame.len(), frame.is_empty()), (203, false));
    assert_eq!(queue.receive(&mut frame).unwrap(), Received::Frame(8));
    assert_eq!(hook.take()[0], 0b1_0000_0110);
    frame.put(1, b"XYZ");
    assert_eq!((bytes(&ram, 0x1ffe, 3), bytes(&ram, 0x8000, 6)), (b"aXY".to_vec(), b"Zefgh\0".to_vec()));
    assert_eq!(hook.take()[0], 0b1_0000_0110);
    frame.put(200, b"long");
    assert_eq!(bytes(&ram, 0xa000 + 97, 4), b"lon\0");
    assert_eq!(queue.receive(&mut frame).unwrap(), Received::Dry);
}

#[test]
fn a_frame_longer_than_its_buffers_is_noticed_and_the_next_one_is_whole() {
    let ram = test_ram(&[(0, 0x1000)]).map();
    let (queue, host) = socket_queue();
    let mut scatter = Scatter::new();
    for message in ["12345", "123456", "1234"] {
        host.send(message.as_bytes()).unwrap();
    }
    let mut frame = scatter.frame();
    push(&mut frame, &ram, &[(0, 2), (0x10, 3)]);
    let received: Vec<_> = (0..4).map(|_| queue.receive(&mut frame).unwrap()).collect();
    assert_eq!(received, [Received::Frame(5), Received::TooLong, Received::Frame(4), Received::Dry]);
    assert_eq!(bytes(&ram, 0, 0x14)[0x10..], *b"345\0", "bytes behind the buffers stay as they are");
}

#[test]
fn a_frame_is_gathered_until_the_host_is_full() {
    let ram = test_ram(&[(0, 0x1000)]).map();
    let (queue, host) = socket_queue();
    ram.write_slice(b"hello", GuestAddress(0x100)).unwrap();
    let mut scatter = Scatter::new();
    let mut frame = scatter.frame();
    push(&mut frame, &ram, &[(0x102, 3), (0x100, 2)]);
    assert_eq!(queue.send(&mut frame).unwrap(), Sent::Sent);
    let mut got = [0; 16];
    let len = host.recv(&mut got).unwrap();
    assert_eq!(got[..len], *b"llohe");
    while queue.send(&mut frame).unwrap() == Sent::Sent {}
    queue.send_bytes(b"x").unwrap_err();
    drop(host);
    queue.send(&mut frame).unwrap_err();
}

#[test]
fn a_frame_has_a_largest_number_of_buffers_that_the_kernel_takes() {
    let ram = test_ram(&[(0, 0x1000)]).map();
    let (queue, host) = socket_queue();
    let mut scatter = Scatter::new();
    let mut frame = scatter.frame();
    let slice = ram.get_slice(GuestAddress(0), 1).unwrap();
    for _ in 0..MAX_SEGMENTS {
        frame.push(&slice).unwrap();
    }
    assert_eq!(frame.push(&slice), Err(Full));
    assert_eq!(frame.len(), MAX_SEGMENTS);
    host.send(&[7; MAX_SEGMENTS]).unwrap();
    assert_eq!(queue.receive(&mut frame).unwrap(), Received::Frame(MAX_SEGMENTS));
    assert_eq!(queue.send(&mut frame).unwrap(), Sent::Sent);
    assert_eq!(scatter.frame().len(), 0, "a new frame has nothing of the old one");
}

#[test]
fn waiting_frames_are_discarded_up_to_a_limit() {
    let (queue, host) = socket_queue();
    let mut scatter = Scatter::new();
    for _ in 0..5 {
        host.send(&[1; 100]).unwrap();
    }
    queue.discard(2);
    assert_eq!(queue.receive(&mut scatter.frame()).unwrap(), Received::TooLong);
    queue.discard(100);
    assert_eq!(queue.receive(&mut scatter.frame()).unwrap(), Received::Dry);
}

#[test]
fn offloads_without_their_preconditions_are_left_out() {
    assert_eq!((Offloads::TSO4 | Offloads::UFO).consistent(), Offloads::empty());
    assert_eq!((Offloads::CSUM | Offloads::ECN).consistent(), Offloads::CSUM);
    let all = Offloads::all();
    assert_eq!(all.consistent(), all);
}

fn settings(pairs: u16) -> plan::Net {
    let ip = ["192.168.7.1", "255.255.255.0"].map(|s| s.parse::<IpAddr>().unwrap());
    plan::Net { ip: Some(ip.into()), queue_pairs: pairs, ..plan::Net::new(GUEST) }
}

#[test]
fn a_tap_is_set_up_as_asked() {
    if !netns::enter() {
        return;
    }
    let mac = [2, 3, 4, 5, 6, 7];
    let wanted =
        plan::Net { tap: Some("mytap".into()), host_mac: Some(MacAddr(mac)), mtu: Some(1400), ..settings(1) };
    let tap = Tap::open(&wanted).unwrap();
    assert_eq!((tap.name(), tap.mtu(), tap.queues().len()), ("mytap", Some(1400), 1));
    assert_eq!(Interface::new("mytap").unwrap().mac().unwrap(), mac);
    for flags in (0..=Offloads::all().bits()).map(Offloads::from_bits_truncate) {
        tap.set_offloads(flags).unwrap();
    }
    // Only an interface that is up and has this address lets us bind to it.
    UdpSocket::bind("192.168.7.1:0").unwrap();
    let v6 = ["fd00::1", "ffff:ffff:ffff:ffff::"].map(|s| s.parse::<IpAddr>().unwrap());
    for _ in 0..2 {
        let wanted = plan::Net { ip: Some(v6.into()), ..settings(1) };
        let error = Tap::open(&plan::Net { tap: Some("mytap".into()), ..wanted }).unwrap_err();
        assert!(error.to_string().contains("'mytap': another program"), "{error}");
    }
    let interface = Interface::new("mytap").unwrap();
    for _ in 0..2 {
        interface.set_address(v6[0], v6[1]).unwrap();
    }
    interface.set_address(v6[0], "255.0.0.0".parse().unwrap()).unwrap_err();
}

#[test]
fn taps_are_numbered_and_errors_name_the_interface() {
    if !netns::enter() {
        return;
    }
    let taps = [
        Tap::open(&settings(1)).unwrap(),
        Tap::open(&plan::Net { queue_pairs: 1, ..plan::Net::new(GUEST) }).unwrap(),
    ];
    assert_eq!(taps.each_ref().map(|t| t.name()), ["vmtap0", "vmtap1"]);
    let named = |name| {
        Tap::open(&plan::Net { tap: Some(str::to_owned(name)), ..settings(1) }).unwrap_err().to_string()
    };
    assert!(named("lo").contains("'lo'"));
    assert!(named("far/too/long/a/name").contains("15 letters"));
    let too_large = Tap::open(&plan::Net { mtu: Some(u16::MAX), ..settings(1) }).unwrap_err().to_string();
    assert!(too_large.contains("MTU") && too_large.contains("vmtap2"), "{too_large}");
}

/// Reads frames of the host's until one has `ethertype`, and answers it without the header.
fn next_of_type(queue: &TapQueue, ram: &RamMap, ethertype: u16) -> Option<Vec<u8>> {
    let mut scatter = Scatter::new();
    loop {
        let mut frame = scatter.frame();
        push(&mut frame, ram, &[(0, HEADER_LEN), (0x100, 2000)]);
        match queue.receive(&mut frame).unwrap() {
            Received::Frame(len) => {
                let data = bytes(ram, 0x100, len - HEADER_LEN);
                if data[12..14] == ethertype.to_be_bytes() {
                    return Some(data);
                }
            }
            Received::TooLong => {}
            Received::Dry => return None,
        }
    }
}

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;

#[test]
fn frames_travel_both_ways_through_a_real_tap() {
    if !netns::enter() {
        return;
    }
    let tap = Tap::open(&settings(1)).unwrap();
    let ram = test_ram(&[(0, 0x2000)]).map();
    let queue = &tap.queues()[0];
    let socket = UdpSocket::bind("192.168.7.1:0").unwrap();
    socket.send_to(b"ping", "192.168.7.2:9").unwrap();
    let question = next_of_type(queue, &ram, ARP).expect("the host asks for the guest's address");

    let guest = [2, 0, 0, 0, 0, 9];
    let mut answer = question.clone();
    answer[..6].copy_from_slice(&question[6..12]);
    answer[6..12].copy_from_slice(&guest);
    answer[21] = 2;
    answer[22..28].copy_from_slice(&guest);
    answer[28..32].copy_from_slice(&question[38..42]);
    answer[32..38].copy_from_slice(&question[22..28]);
    answer[38..42].copy_from_slice(&question[28..32]);
    ram.write_slice(&[0; HEADER_LEN], GuestAddress(0)).unwrap();
    ram.write_slice(&answer, GuestAddress(0x100)).unwrap();
    let mut scatter = Scatter::new();
    let mut frame = scatter.frame();
    push(&mut frame, &ram, &[(0, HEADER_LEN), (0x100, answer.len())]);
    assert_eq!(queue.send(&mut frame).unwrap(), Sent::Sent);

    let datagram = next_of_type(queue, &ram, IPV4).expect("the host sends what it held back");
    assert_eq!(datagram[..6], guest);
    assert_eq!(datagram[42..46], *b"ping");
}

/// How many frames wait in each queue.
fn drain(tap: &Tap) -> Vec<usize> {
    let ram = test_ram(&[(0, 0x1000)]).map();
    let mut scatter = Scatter::new();
    let mut count = |queue: &TapQueue| {
        let mut frame = scatter.frame();
        push(&mut frame, &ram, &[(0, HEADER_LEN)]);
        std::iter::from_fn(|| (queue.receive(&mut frame).unwrap() != Received::Dry).then_some(())).count()
    };
    tap.queues().iter().map(|queue| count(queue)).collect()
}

#[test]
fn only_attached_queues_are_given_frames() {
    if !netns::enter() {
        return;
    }
    let tap = Tap::open(&settings(3)).unwrap();
    for attached in [1, 3, 2, 1] {
        tap.set_attached(attached).unwrap();
        drain(&tap);
        for _ in 0..64 {
            let flow = UdpSocket::bind("192.168.7.1:0").unwrap();
            flow.set_broadcast(true).unwrap();
            flow.send_to(b"all", "192.168.7.255:9").unwrap();
        }
        for (frames, number) in drain(&tap).into_iter().zip(0..) {
            assert_eq!(frames > 0, number < attached, "queue {number} of {attached} attached");
        }
    }
    assert!(tap.set_attached(0).is_err() && tap.set_attached(4).is_err());
}
