//! Frames of a well-behaved driver.

use super::*;
use device::Stateful;

#[test]
fn a_frame_reaches_the_guest_with_its_header() {
    let mut rig = Rig::started(1, 0);
    rig.hosts[0].send(&frame(b"early")).unwrap();
    let head =
        rig.queue(0).add(&[(BUFFERS, 12, WRITE), (BUFFERS + 0x1000, 3, WRITE), (BUFFERS + 0x2000, 9, WRITE)]);
    rig.queue(0).ring();
    assert_eq!(rig.queues[0].wait_used(), (head.into(), 17));
    assert_eq!(rig.read(BUFFERS, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], "num_buffers is 1");
    assert_eq!(
        (rig.read(BUFFERS + 0x1000, 4), rig.read(BUFFERS + 0x2000, 3)),
        (b"ear\0".to_vec(), b"ly\0".to_vec())
    );
    assert_eq!((rig.counter("rx_frames"), rig.counter("rx_bytes")), (1, 5));
}

#[test]
fn receiving_goes_on_whenever_both_sides_have_something() {
    for features in [0, feature::EVENT_IDX] {
        let mut rig = Rig::started(1, features);
        for round in 0..600u64 {
            let at = BUFFERS + (round % 256) * 0x100;
            let first = round % 3 == 0;
            if first {
                rig.hosts[0].send(&frame(&round.to_le_bytes())).unwrap();
            }
            rig.queue(0).add(&[(at, 0x100, WRITE)]);
            rig.queue(0).ring();
            if !first {
                rig.hosts[0].send(&frame(&round.to_le_bytes())).unwrap();
            }
            assert_eq!(rig.queues[0].wait_used().1, 20);
            assert_eq!(rig.read(at + 12, 8), round.to_le_bytes());
        }
    }
}

#[test]
fn what_comes_in_is_reported_to_the_write_hook() {
    let mut rig = Rig::started(1, 0);
    let mapping = rig.ram.map().iter().next().unwrap().get_mmap();
    mapping.bitmap().enable();
    rig.queues[0].add(&[(BUFFERS + 0xff0, 0x1000, WRITE)]);
    rig.hosts[0].send(&frame(&[7; 100])).unwrap();
    rig.queues[0].ring();
    rig.queues[0].wait_used();
    let page = usize::try_from(BUFFERS >> 12).unwrap();
    assert_eq!(mapping.bitmap().take()[page / 64] >> (page % 64) & 0b111, 0b011);
}

#[test]
fn frames_reach_the_host_in_order() {
    let mut rig = Rig::started(1, 0);
    rig.write(BUFFERS, &frame(b"hello"));
    rig.write(BUFFERS + 0x100, b" world");
    rig.queue(1).add(&[(BUFFERS, 17, 0), (BUFFERS + 0x100, 6, 0)]);
    rig.queue(1).add(&[(BUFFERS, 10, 0), (BUFFERS + 2, 4, 0), (BUFFERS + 12, 5, 0)]);
    rig.queue(1).ring();
    assert_eq!(rig.host_receives(0), frame(b"hello world"));
    assert_eq!(rig.host_receives(0), [&[0; 14], b"hello".as_slice()].concat());
    assert_eq!([rig.queues[1].wait_used(), rig.queues[1].wait_used()], [(0, 0), (2, 0)]);
    rig.stop();
    assert_eq!((rig.counter("tx_frames"), rig.counter("tx_bytes")), (2, 11 + 7));
}

#[test]
fn a_host_that_is_full_gets_the_rest_when_it_has_room() {
    let mut rig = Rig::started(1, feature::EVENT_IDX);
    const FRAMES: u16 = 200;
    for number in 0..FRAMES {
        let at = BUFFERS + u64::from(number) * 0x100;
        rig.write(at, &frame(&number.to_le_bytes()));
        rig.queue(1).add(&[(at, 14, 0)]);
    }
    rig.queue(1).ring();
    for number in 0..FRAMES {
        rig.queue(1).ring();
        assert_eq!(rig.host_receives(0), frame(&number.to_le_bytes()));
    }
    rig.stop();
    assert_eq!(rig.counter("tx_frames"), u64::from(FRAMES));
    assert_eq!(rig.queues[1].used().len(), usize::from(FRAMES));
}

#[test]
fn more_frames_than_a_turn_are_sent_with_few_interrupts() {
    let mut rig = Rig::new(1);
    let host = rig.hosts.remove(0);
    let reader = std::thread::spawn(move || {
        let mut byte = [0; 64];
        (0..256).map(|_| host.recv(&mut byte).unwrap()).sum::<usize>()
    });
    rig.write(BUFFERS, &frame(b"x"));
    for _ in 0..256 {
        rig.queue(1).add(&[(BUFFERS, 13, 0)]);
    }
    rig.start(feature::EVENT_IDX);
    assert_eq!(reader.join().unwrap(), 256 * 13);
    rig.stop();
    assert_eq!(rig.queues[1].used().len(), 256);
    let interrupts = rig.queues[1].interrupt.count();
    assert!(interrupts >= 1, "{interrupts}");
}

#[test]
fn pause_and_resume_lose_nothing() {
    let mut rig = Rig::started(1, 0);
    for round in 0..3u16 {
        rig.queue(0).add(&[(BUFFERS, 0x100, WRITE)]);
        rig.queue(0).ring();
        rig.hosts[0].send(&frame(b"one")).unwrap();
        rig.queues[0].wait_used();
        let queues = rig.stop();
        assert_eq!(queues.iter().map(|q| q.index).collect::<Vec<_>>(), [0, 1, 2]);
        rig.hosts[0].send(&frame(b"while paused")).unwrap();
        rig.queue(0).add(&[(BUFFERS, 0x100, WRITE)]);
        rig.resume(queues, 0);
        assert_eq!(rig.queues[0].wait_used(), (u32::from(round) * 2 + 1, 24));
        assert_eq!(rig.read(BUFFERS + 12, 12), b"while paused");
    }
}

#[test]
fn a_new_driver_does_not_see_frames_meant_for_the_old_one() {
    let mut rig = Rig::started(1, 0);
    rig.stop();
    rig.net.reset();
    rig.hosts[0].send(&frame(b"stale")).unwrap();
    rig.start(0);
    rig.queue(0).add(&[(BUFFERS, 0x100, WRITE)]);
    // The control queue's worker does not wait for the pair's; its answer to a bell does.
    rig.queue(1).add(&[(BUFFERS, 12, 0)]);
    rig.queue(1).ring();
    rig.host_receives(0);
    rig.hosts[0].send(&frame(b"new")).unwrap();
    rig.queue(0).ring();
    assert_eq!(rig.queues[0].wait_used(), (0, 15));
    assert_eq!(rig.read(BUFFERS + 12, 3), b"new");
}

#[test]
fn pairs_have_their_own_threads_and_taps() {
    let mut rig = Rig::started(3, bit(spec::VIRTIO_NET_F_MQ));
    for pair in [2usize, 0, 1] {
        let payload = [u8::try_from(pair).unwrap(); 4];
        rig.queue(2 * pair).add(&[(BUFFERS, 0x100, WRITE)]);
        rig.queue(2 * pair).ring();
        rig.hosts[pair].send(&frame(&payload)).unwrap();
        rig.queues[2 * pair].wait_used();
        assert_eq!(rig.read(BUFFERS + 12, 4), payload);
        rig.queue(2 * pair + 1).add(&[(BUFFERS, 16, 0)]);
        rig.queue(2 * pair + 1).ring();
        assert_eq!(rig.host_receives(pair)[12..], payload);
    }
}

#[test]
fn after_a_move_the_network_and_the_guest_are_told() {
    let announce = bit(spec::VIRTIO_NET_F_GUEST_ANNOUNCE) | bit(spec::VIRTIO_NET_F_STATUS);
    let mut old = Rig::started(1, announce);
    old.stop();
    let saved = old.net.to_saved().unwrap();
    let mut rig = Rig::new(1);
    rig.net.restore_saved(&saved).unwrap();
    rig.start(announce);
    rig.config_interrupt.wait(1);
    assert_eq!(rig.status(), 3);
    for _ in 0..2 {
        let rarp = rig.host_receives(0);
        assert_eq!(rarp.len(), HEADER_LEN + 60);
        assert_eq!(rarp[HEADER_LEN..HEADER_LEN + 14], [&[0xff; 6], &MAC[..], &[0x80, 0x35]].concat());
        assert_eq!(rarp[HEADER_LEN + 20..HEADER_LEN + 28], [&[0, 3], &MAC[..]].concat());
    }
    let queues = rig.stop();
    rig.resume(queues, announce);
    assert_eq!(rig.config_interrupt.count(), 0, "a pause is no move");
    assert_eq!(rig.status(), 3, "the driver has not acknowledged yet");
}
