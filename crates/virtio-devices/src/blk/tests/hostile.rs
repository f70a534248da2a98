//! Drivers that lie.

use super::*;

/// Offers a chain of buffers and waits for its answer.
fn offer(rig: &mut Rig, buffers: &[(u64, u32, u16)]) -> (u8, u32) {
    rig.put(STATUS, &[0xff]);
    rig.queues[0].add(buffers);
    rig.queues[0].ring();
    let (_, written) = rig.queues[0].wait_used();
    (rig.get(STATUS, 1)[0], written)
}

fn rig() -> Rig {
    let rig = Rig::new(|_| ());
    rig.header(HEADER, 0, 0);
    rig
}

/// The disk still works and has kept its data.
fn is_well(mut rig: Rig) {
    assert_eq!(rig.request(0, 0, 4096), (OK, 4097));
    assert_eq!(rig.get(DATA, 4096), pattern(4096, 1));
    assert_eq!(rig.image(), pattern(MIB as usize, 1));
    assert_eq!(rig.config.count(), 0);
}

#[test]
fn malformed_chains_are_dropped() {
    let mut rig = rig();
    let (header, status) = ((HEADER, 16, 0), (STATUS, 1, WRITE));
    let chains: [&[_]; 12] = [
        &[header],
        &[status],
        &[header, (STATUS, 0, WRITE)],
        &[(HEADER, 15, 0), status],
        &[(HEADER, 0, 0), status],
        &[(HEADER, 16, WRITE), status],
        // Readable after writable.
        &[header, status, (DATA, 512, 0)],
        // Data in both directions.
        &[header, (DATA, 512, 0), (DATA, 512, WRITE), status],
        // Outside RAM.
        &[(0x40_0000, 16, 0), status],
        &[(0x3f_fff8, 16, 0), status],
        &[header, (0x40_0000, 1, WRITE)],
        &[header, (u64::MAX, 2, WRITE)],
    ];
    for chain in chains {
        assert_eq!(offer(&mut rig, chain), (0xff, 0), "{chain:x?}");
    }
    is_well(rig);
}

#[test]
fn data_that_cannot_be_there_is_an_io_error() {
    let mut rig = rig();
    let (header, status) = ((HEADER, 16, 0), (STATUS, 1, WRITE));
    let chains: [&[_]; 6] = [
        &[header, (0x40_0000, 512, WRITE), status],
        &[header, (0x3f_ff00, 512, WRITE), status],
        &[header, (u64::MAX - 100, 512, WRITE), status],
        &[header, (DATA, 511, WRITE), status],
        &[header, (DATA, 0xffff_fe00, WRITE), status],
        // The wrong direction.
        &[header, (DATA, 512, 0), status],
    ];
    for chain in chains {
        assert_eq!(offer(&mut rig, chain), (IOERR, 1), "{chain:x?}");
    }
    is_well(rig);
}

#[test]
fn a_chain_longer_than_the_specification_allows_is_dropped() {
    let mut rig = rig();
    let huge = (DATA, 0xffff_ffff, WRITE);
    assert_eq!(offer(&mut rig, &[(HEADER, 16, 0), huge, huge, (STATUS, 1, WRITE)]), (0xff, 0));
    is_well(rig);
}

#[test]
fn sectors_beyond_the_end_are_io_errors() {
    let mut rig = rig();
    for (sector, len) in [(2048, 512), (2047, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (1 << 55, 512)] {
        assert_eq!(rig.request(0, sector, len), (IOERR, 1));
        assert_eq!(rig.request(1, sector, len), (IOERR, 1));
    }
    is_well(rig);
}

#[test]
fn odd_but_legal_layouts_work() {
    let mut rig = rig();
    let (a, b) = ((HEADER, 5, 0), (HEADER + 5, 11, 0));
    // Header in pieces, data and status in one buffer, empty buffers in between.
    let chain = [a, (0, 0, 0), b, (DATA, 100, WRITE), (0, 0, WRITE), (DATA + 100, 413, WRITE)];
    assert_eq!(offer(&mut rig, &chain).1, 513);
    assert_eq!(rig.get(DATA, 513), [&pattern(512, 1)[..], &[OK]].concat());
    // Nothing to read.
    assert_eq!(offer(&mut rig, &[(HEADER, 16, 0), (STATUS, 1, WRITE)]), (OK, 1));
    // Header and data to write in one buffer.
    rig.header(HEADER, 1, 0);
    rig.put(HEADER + 16, &pattern(512, 1));
    assert_eq!(offer(&mut rig, &[(HEADER, 528, 0), (STATUS, 1, WRITE)]), (OK, 1));
    is_well(rig);
}

#[test]
fn loops_end() {
    let mut rig = rig();
    rig.queues[0].write_descriptor(3, (HEADER, 16, NEXT, 4));
    rig.queues[0].write_descriptor(4, (DATA, 512, NEXT | WRITE, 4));
    rig.queues[0].offer(3);
    rig.queues[0].ring();
    assert_eq!(rig.queues[0].wait_used(), (3, 0));
    is_well(rig);
}

#[test]
fn chains_may_be_indirect_but_not_twice() {
    let mut rig = rig();
    let table = 0x18_0000;
    let put = |rig: &Rig, i: u64, address: u64, len: u32, flags: u16, next: u16| {
        rig.put(table + i * 16, &address.to_le_bytes());
        rig.put(table + i * 16 + 8, &len.to_le_bytes());
        rig.put(table + i * 16 + 12, &flags.to_le_bytes());
        rig.put(table + i * 16 + 14, &next.to_le_bytes());
    };
    put(&rig, 0, HEADER, 16, NEXT, 2);
    put(&rig, 2, DATA, 512, NEXT | WRITE, 1);
    put(&rig, 1, STATUS, 1, WRITE, 0);
    assert_eq!(offer(&mut rig, &[(table, 48, INDIRECT)]), (OK, 513));
    // Tables of no size, of an odd size, outside RAM, with an index beyond their end, and in each other.
    for (address, len) in [(table, 0), (table, 47), (0x40_0000, 48), (table, 32)] {
        assert_eq!(offer(&mut rig, &[(address, len, INDIRECT)]), (0xff, 0));
    }
    put(&rig, 2, table, 48, INDIRECT, 0);
    assert_eq!(offer(&mut rig, &[(table, 48, INDIRECT)]), (0xff, 0));
    is_well(rig);
}

#[test]
fn a_head_beyond_the_table_breaks_the_device() {
    let mut rig = rig();
    rig.queues[0].offer(16);
    rig.queues[0].ring();
    rig.config.wait(1);
    assert_eq!(rig.stop().len(), 1);
}

#[test]
fn a_head_in_use_breaks_the_device() {
    let mut rig = rig();
    let queues = rig.stop();
    let head = rig.queues[0].add(&[(HEADER, 16, 0), (DATA, 0x8_0000, WRITE), (STATUS, 1, WRITE)]);
    rig.queues[0].offer(head);
    let config = rig.start(0, queues);
    config.wait(1);
    rig.stop();
    // The first of the two was under way, and finished.
    assert_eq!(rig.queues[0].used(), [(u32::from(head), 0x8_0001)]);
}

#[test]
fn a_queue_of_nonsense_is_survived() {
    let mut rig = rig();
    let mut seed = 1u64;
    let mut random = || {
        // xorshift: repeatable.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..300 {
        rig.header(HEADER, (random() % 16) as u32, random() % 3000);
        for i in 0..16 {
            let address = [HEADER, DATA, STATUS, 0x3f_fffc, random()][random() as usize % 5];
            let len = [16, 1, 512, 0, random() as u32][random() as usize % 5];
            let flags = random() as u16 & (NEXT | WRITE | INDIRECT);
            rig.queues[0].write_descriptor(i, (address, len, flags, (random() % 17) as u16));
        }
        rig.queues[0].offer((random() % 16) as u16);
        rig.queues[0].ring();
        rig.queues[0].wait_used();
        assert_eq!(rig.config.count(), 0, "round {round}");
    }
}
