//! Drivers and hosts that break the rules. None may stop the thread, and the device goes on with the next chain.

use super::*;

/// A good frame gets through both ways.
fn assert_alive(rig: &mut Rig) {
    rig.queue(0).add(&[(BUFFERS, 0x100, WRITE)]);
    rig.queue(0).ring();
    rig.hosts[0].send(&frame(b"alive")).unwrap();
    while rig.queues[0].wait_used().1 != 17 {}
    rig.write(BUFFERS, &frame(b"too"));
    rig.queue(1).add(&[(BUFFERS, 15, 0)]);
    rig.queue(1).ring();
    while rig.host_receives(0) != frame(b"too") {}
}

const OUT_OF_RAM: u64 = 0xdead_0000;

#[test]
fn impossible_receive_buffers_come_back_empty() {
    let mut rig = Rig::started(1, 0);
    let chains: [&[(u64, u32, u16)]; 6] = [
        &[(BUFFERS, 11, WRITE)],
        &[(BUFFERS, 0, WRITE)],
        &[(BUFFERS, 0x100, 0)],
        &[(BUFFERS, 0x100, WRITE), (BUFFERS, 0x100, 0)],
        &[(OUT_OF_RAM, 0x100, WRITE)],
        &[(RAM_LEN as u64 - 0x80, 0x100, WRITE)],
    ];
    for chain in chains {
        rig.queue(0).add(chain);
    }
    rig.hosts[0].send(&frame(b"for the next")).unwrap();
    rig.queue(0).ring();
    for _ in chains {
        assert_eq!(rig.queues[0].wait_used().1, 0);
    }
    rig.queue(0).add(&[(BUFFERS, 0x100, WRITE)]);
    rig.queue(0).ring();
    assert_eq!(rig.queues[0].wait_used().1, 24);
    assert_alive(&mut rig);
}

#[test]
fn impossible_frames_are_dropped() {
    let mut rig = Rig::started(1, 0);
    let chains: [&[(u64, u32, u16)]; 7] = [
        &[(BUFFERS, 11, 0)],
        &[(BUFFERS, 0, 0)],
        &[(BUFFERS, 0x100, WRITE)],
        &[(BUFFERS, 12, 0), (BUFFERS, 1, WRITE)],
        &[(OUT_OF_RAM, 0x100, 0)],
        &[(BUFFERS, 0x100, 0), (u64::MAX - 1, 0x100, 0)],
        &[(BUFFERS, u32::MAX, 0)],
    ];
    for chain in chains {
        rig.queue(1).add(chain);
    }
    rig.queue(1).ring();
    for _ in chains {
        assert_eq!(rig.queues[1].wait_used().1, 0);
    }
    assert_eq!(rig.counter("tx_frames"), 0);
    assert_alive(&mut rig);
}

#[test]
fn loops_end() {
    let mut rig = Rig::started(1, 0);
    // Both chains are 256 descriptors long as far as the device goes: the frame is sent or filled, and nothing hangs.
    rig.queues[1].write_descriptor(0, (BUFFERS, 16, NEXT, 0));
    rig.queue(1).offer(0);
    rig.queue(1).ring();
    assert_eq!(rig.host_receives(0).len(), 256 * 16);
    rig.queues[0].write_descriptor(0, (BUFFERS, 16, NEXT | WRITE, 1));
    rig.queues[0].write_descriptor(1, (BUFFERS, 16, NEXT | WRITE, 0));
    rig.queue(0).offer(0);
    rig.queue(0).ring();
    rig.hosts[0].send(&frame(&[1; 100])).unwrap();
    assert_eq!(rig.queues[0].wait_used().1, 112);
}

#[test]
fn tables_beyond_reason_are_dropped() {
    let mut rig = Rig::started(1, 0);
    // An indirect table of 2,000 buffers, though the feature was not offered.
    for index in 0..2000u64 {
        let next = u16::try_from(index + 1).unwrap();
        let flags = if index == 1999 { 0 } else { NEXT };
        let at = BUFFERS + 0x1000 + index * 16;
        rig.write(at, &BUFFERS.to_le_bytes());
        rig.write(at + 8, &1u32.to_le_bytes());
        rig.write(at + 12, &flags.to_le_bytes());
        rig.write(at + 14, &next.to_le_bytes());
    }
    rig.queue(1).add(&[(BUFFERS + 0x1000, 2000 * 16, fake::INDIRECT)]);
    rig.queue(1).add(&[(OUT_OF_RAM, 16, fake::INDIRECT)]);
    rig.queue(1).add(&[(BUFFERS, 17, fake::INDIRECT)]);
    rig.queue(1).ring();
    for _ in 0..3 {
        assert_eq!(rig.queues[1].wait_used().1, 0);
    }
    assert_alive(&mut rig);
}

#[test]
fn a_frame_longer_than_the_buffers_is_lost_and_the_buffers_serve_the_next() {
    let mut rig = Rig::started(1, 0);
    rig.queue(0).add(&[(BUFFERS, 20, WRITE)]);
    rig.hosts[0].send(&frame(&[1; 9])).unwrap();
    rig.hosts[0].send(&[1; HEADER_LEN - 1]).unwrap();
    rig.hosts[0].send(&frame(&[2; 8])).unwrap();
    rig.queue(0).ring();
    assert_eq!(rig.queues[0].wait_used(), (0, 20));
    assert_eq!(rig.read(BUFFERS + 12, 9), [2, 2, 2, 2, 2, 2, 2, 2, 0]);
    assert_eq!(rig.counter("rx_frames"), 1);
}

#[test]
fn a_flood_of_frames_too_long_does_not_starve_the_other_direction() {
    let mut rig = Rig::started(1, 0);
    rig.queue(0).add(&[(BUFFERS, 12, WRITE)]);
    rig.queue(0).ring();
    let host = rig.hosts[0].try_clone().unwrap();
    let flood = std::thread::spawn(move || while host.send(&frame(b"long")).is_ok() {});
    rig.write(BUFFERS + 0x100, &frame(b"out"));
    for _ in 0..50 {
        rig.queue(1).add(&[(BUFFERS + 0x100, 15, 0)]);
        rig.queue(1).ring();
        assert_eq!(rig.host_receives(0), frame(b"out"));
    }
    rig.stop();
    rig.hosts[0].shutdown(std::net::Shutdown::Both).unwrap();
    flood.join().unwrap();
    assert!(rig.queues[0].used().is_empty());
}

#[test]
fn an_impossible_ring_breaks_the_device_until_it_is_reset() {
    let mut rig = Rig::started(1, 0);
    rig.queue(0).set_avail_index(1000);
    rig.hosts[0].send(&frame(b"x")).unwrap();
    rig.config_interrupt.wait(1);
    assert_eq!(rig.stop().len(), 3);
    rig.net.reset();
    rig.queue(0).set_avail_index(0);
    rig.start_for_sure(0);
    assert_alive(&mut rig);
}

#[test]
fn a_host_that_goes_away_leaves_a_quiet_network() {
    let mut rig = Rig::started(1, 0);
    rig.queue(0).add(&[(BUFFERS, 0x100, WRITE)]);
    rig.queue(0).ring();
    drop(rig.hosts.remove(0));
    rig.queue(1).add(&[(BUFFERS, 0x100, 0)]);
    rig.queue(1).ring();
    assert_eq!(rig.queues[1].wait_used(), (0, 0));
    let queues = rig.stop();
    assert_eq!(queues[0].queue.next_used(), 0);
    assert_eq!(rig.counter("tx_frames"), 0);
}

#[test]
fn a_driver_may_leave_queues_out() {
    let mut rig = Rig::new(1);
    let (mut activation, _) = fake::activation(&rig.ram, 0, &rig.queues.iter().collect::<Vec<_>>());
    activation.queues.remove(0);
    rig.hosts[0].send(&frame(b"nobody hears this")).unwrap();
    rig.net.start(activation);
    rig.queue(0).add(&[(BUFFERS, 12, 0)]);
    // The transmit queue is the only one the pair has.
    rig.write(BUFFERS, &frame(b"out"));
    rig.queue(1).add(&[(BUFFERS, 15, 0)]);
    rig.queue(1).ring();
    assert_eq!(rig.host_receives(0), frame(b"out"));
    assert_eq!(rig.stop().len(), 2);
}
