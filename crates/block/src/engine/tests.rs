use std::os::unix::fs::FileExt;
use std::path::Path;

use config::plan;
use memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion, GuestRam};
use tempfile::NamedTempFile;

use super::*;
use crate::{Image, open};

const MIB: u64 = 1 << 20;
/// Two regions that touch: a buffer may lie in both.
const RAM: [(u64, usize); 2] = [(0, 0x20_0000), (0x20_0000, 0x20_0000)];

/// Runs `test` on an image of 1 MiB with every engine, through the page cache and around it.
fn with_engines(test: impl Fn(&mut dyn Engine, &GuestRam, &Path)) {
    for (io_uring, direct) in [(true, false), (false, false), (true, true), (false, true)] {
        let file = NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&pattern(MIB as usize, 3), 0).unwrap();
        let options = plan::Disk { io_uring, direct, ..plan::Disk::new(file.path()) };
        let image = open(&options, None).unwrap();
        let ram = memory::test_ram(&RAM);
        let mut engine = image.engine(8).unwrap();
        assert_eq!(engine.bell().is_some(), io_uring);
        test(&mut *engine, &ram, file.path());
        assert_eq!(engine.under_way(), 0);
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ seed).collect()
}

fn request(kind: Kind, offset: u64, buffers: &[Buffer]) -> Request<'_> {
    let len = buffers.iter().map(|b| u64::from(b.1)).sum();
    Request { token: 7, kind, offset, len, buffers, durable: false }
}

fn run(engine: &mut dyn Engine, ram: &GuestRam, request: &Request<'_>) -> io::Result<()> {
    let mut done = Vec::new();
    engine.start(request, &ram.dma().view());
    assert_eq!(engine.under_way(), 1);
    engine.drain(&mut done).unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].token, request.token);
    done.remove(0).result
}

fn guest(address: u64, len: u32) -> Buffer {
    (GuestAddress(address), len)
}

fn content(ram: &GuestRam, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.map().read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

#[test]
fn data_goes_to_the_image_and_comes_back() {
    with_engines(|engine, ram, path| {
        let data = pattern(0x3000, 99);
        ram.map().write_slice(&data, GuestAddress(0x1f_f000)).unwrap();
        // Across both regions, and in two pieces whose order is not that of memory.
        let buffers = [guest(0x20_0000, 0x2000), guest(0x1f_f000, 0x1000)];
        run(engine, ram, &request(Kind::Write, 0x4000, &buffers)).unwrap();
        let file = std::fs::read(path).unwrap();
        assert_eq!(file[0x4000..0x6000], data[0x1000..]);
        assert_eq!(file[0x6000..0x7000], data[..0x1000]);
        assert_eq!(file[0x7000..], pattern(MIB as usize, 3)[0x7000..]);

        run(engine, ram, &request(Kind::Read, 0x4000, &[guest(0x1f_e000, 0x3000)])).unwrap();
        assert_eq!(content(ram, 0x1f_e000, 0x3000), file[0x4000..0x7000]);
    });
}

#[test]
fn misaligned_transfers_arrive_too() {
    with_engines(|engine, ram, path| {
        let data = pattern(0x200, 77);
        ram.map().write_slice(&data, GuestAddress(0x1001)).unwrap();
        run(engine, ram, &request(Kind::Write, 0x600, &[guest(0x1001, 0x1ff), guest(0x1200, 1)])).unwrap();
        let mut expected = pattern(MIB as usize, 3);
        expected[0x600..0x800].copy_from_slice(&data);
        assert_eq!(std::fs::read(path).unwrap(), expected);
        // Longer than the piece that goes through the bounce buffer at once.
        let len = 0x8_1200;
        run(engine, ram, &request(Kind::Read, 0x200, &[guest(0x10_0003, len)])).unwrap();
        assert_eq!(content(ram, 0x10_0003, len as usize), expected[0x200..0x200 + len as usize]);
        ram.map().write_slice(&vec![0xee; len as usize], GuestAddress(0x10_0003)).unwrap();
        let buffers = [guest(0x10_0003, len)];
        let durable = Request { durable: true, ..request(Kind::Write, 0x200, &buffers) };
        run(engine, ram, &durable).unwrap();
        expected[0x200..0x200 + len as usize].fill(0xee);
        assert_eq!(std::fs::read(path).unwrap(), expected);
    });
}

#[test]
fn a_last_block_in_part_keeps_the_size_of_the_file() {
    with_engines(|engine, ram, path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(MIB - 512).unwrap();
        ram.map().write_slice(&[9; 512], GuestAddress(0)).unwrap();
        run(engine, ram, &request(Kind::Write, MIB - 1024, &[guest(0, 512)])).unwrap();
        run(engine, ram, &request(Kind::Read, MIB - 1024, &[guest(0x1000, 512)])).unwrap();
        assert_eq!(content(ram, 0x1000, 512), [9; 512]);
        assert_eq!(std::fs::metadata(path).unwrap().len(), MIB - 512);
    });
}

#[test]
fn more_vectors_than_the_kernel_takes_at_once() {
    with_engines(|engine, ram, path| {
        // No two neighbours, so that they are not joined.
        let buffers: Vec<_> = (0..1500).map(|i| guest(0x3f_0000 - i * 1024, 512)).collect();
        let durable = Request { durable: true, ..request(Kind::Read, 0, &buffers) };
        run(engine, ram, &durable).unwrap();
        let file = std::fs::read(path).unwrap();
        for i in [0, 1, 1023, 1024, 1499] {
            let address = 0x3f_0000 - i * 1024;
            assert_eq!(content(ram, address, 512), file[i as usize * 512..][..512], "vector {i}");
        }
    });
}

#[test]
fn reads_tell_the_write_hook() {
    with_engines(|engine, ram, _| {
        let map = ram.map();
        let region = map.find_region(GuestAddress(0x20_0000)).unwrap();
        let mapping = region.get_mmap();
        let hook = mapping.bitmap();
        hook.enable();
        run(engine, ram, &request(Kind::Read, 0, &[guest(0x20_3000, 0x2000)])).unwrap();
        run(engine, ram, &request(Kind::Write, 0, &[guest(0x20_8000, 0x2000)])).unwrap();
        run(engine, ram, &request(Kind::Read, 0x201, &[guest(0x20_a100, 0x10)])).unwrap();
        assert_eq!(hook.take()[0], 0b100_0001_1000);
        assert_eq!(region.len(), 0x20_0000);
    });
}

#[test]
fn ranges_are_zeroed() {
    with_engines(|engine, ram, path| {
        let mut expected = pattern(MIB as usize, 3);
        let kinds = [Kind::Discard, Kind::Zero { unmap: true }, Kind::Zero { unmap: false }];
        for (i, kind) in kinds.into_iter().enumerate() {
            let offset = i as u64 * 0x1_0000;
            let range = Request { len: 0x2200, durable: i > 0, ..request(kind, offset, &[]) };
            run(engine, ram, &range).unwrap();
            expected[offset as usize..][..0x2200].fill(0);
            run(engine, ram, &Request { len: 0, ..range }).unwrap();
        }
        run(engine, ram, &request(Kind::Flush, 0, &[])).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), expected);
    });
}

#[test]
fn ranges_are_zeroed_where_the_file_system_can_only_punch_holes() {
    for io_uring in [true, false] {
        // This one can do no more, unlike most with disks.
        let file = NamedTempFile::new_in("/dev/shm").unwrap();
        file.as_file().write_all_at(&pattern(MIB as usize, 3), 0).unwrap();
        let image = open(&plan::Disk { io_uring, ..plan::Disk::new(file.path()) }, None).unwrap();
        let ram = memory::test_ram(&RAM);
        let mut engine = image.engine(8).unwrap();
        for i in 0..4u64 {
            let range = Request { len: 0x1000, ..request(Kind::Zero { unmap: false }, i * 0x1_0000, &[]) };
            engine.start(&range, &ram.dma().view());
        }
        let mut done = Vec::new();
        engine.drain(&mut done).unwrap();
        assert!(done.len() == 4 && done.iter().all(|c| c.result.is_ok()), "{io_uring}: {done:?}");
        assert_eq!(std::fs::read(file.path()).unwrap()[0x3_0000..][..0x1000], [0; 0x1000]);
    }
}

#[test]
fn impossible_requests_fail_and_leave_the_engine_whole() {
    with_engines(|engine, ram, path| {
        let outside = run(engine, ram, &request(Kind::Read, 0, &[guest(0x3f_ff00, 0x200)])).unwrap_err();
        assert_eq!(outside.raw_os_error(), Some(libc::EFAULT));
        let wrap = run(engine, ram, &request(Kind::Write, 0, &[guest(u64::MAX - 10, 0x200)])).unwrap_err();
        assert_eq!(wrap.raw_os_error(), Some(libc::EFAULT));
        run(engine, ram, &Request { len: 3, ..request(Kind::Read, 0, &[guest(0, 4)]) }).unwrap_err();
        run(engine, ram, &request(Kind::Read, MIB, &[guest(0, 0x1000)])).unwrap_err();
        run(engine, ram, &request(Kind::Read, MIB - 0x1000, &[guest(0, 0x2000)])).unwrap_err();
        run(engine, ram, &request(Kind::Read, u64::MAX - 0xfff, &[guest(0, 0x1000)])).unwrap_err();
        assert_eq!(std::fs::read(path).unwrap(), pattern(MIB as usize, 3));
        run(engine, ram, &request(Kind::Read, 0, &[guest(0, 0x1000)])).unwrap();
        assert_eq!(content(ram, 0, 0x1000), pattern(0x1000, 3));
    });
}

#[test]
fn many_requests_at_once() {
    with_engines(|engine, ram, _| {
        let mut done = Vec::new();
        for i in 0..600u64 {
            let buffers = [guest(0x20_0000 + (i % 200) * 0x1000, 0x1000)];
            let token = Request { token: i, ..request(Kind::Read, (i % 200) * 0x1000, &buffers) };
            engine.start(&token, &ram.dma().view());
        }
        engine.drain(&mut done).unwrap();
        let mut tokens: Vec<_> = done.iter().map(|c| c.token).collect();
        tokens.sort_unstable();
        assert!(tokens.into_iter().eq(0..600));
        assert!(done.iter().all(|c| c.result.is_ok()));
        assert_eq!(content(ram, 0x20_0000, 200 * 0x1000), pattern(MIB as usize, 3)[..200 * 0x1000]);
    });
}

#[test]
fn the_bell_rings_for_what_ends_while_nobody_looks() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().write_all_at(&pattern(MIB as usize, 3), 0).unwrap();
    let image = open(&plan::Disk { direct: true, ..plan::Disk::new(file.path()) }, None).unwrap();
    let ram = memory::test_ram(&RAM);
    let mut engine = image.engine(8).unwrap();
    let bell = engine.bell().unwrap().try_clone().unwrap();
    let epoll = host::Epoll::new().unwrap();
    let ready = host::EpollEvent::new(host::EventSet::IN, 0);
    epoll.ctl(host::ControlOperation::Add, std::os::fd::AsRawFd::as_raw_fd(&bell), ready).unwrap();
    let mut done = Vec::new();
    for _ in 0..50 {
        engine.start(&request(Kind::Read, 0, &[guest(0, 0x1000)]), &ram.dma().view());
        engine.poll(&mut done).unwrap();
        while engine.under_way() > 0 {
            if engine.arm() {
                assert_eq!(epoll.wait(-1, &mut [host::EpollEvent::default()]).unwrap(), 1);
                bell.read().unwrap();
            }
            engine.poll(&mut done).unwrap();
        }
    }
    assert_eq!(done.len(), 50);
}

#[test]
fn an_engine_may_be_dropped_with_requests_under_way() {
    with_engines(|engine, ram, _| {
        let image: std::sync::Arc<dyn Image> = {
            let file = NamedTempFile::new().unwrap();
            file.as_file().set_len(64 * MIB).unwrap();
            open(&plan::Disk { direct: true, ..plan::Disk::new(file.path()) }, None).unwrap()
        };
        let mut other = image.engine(4).unwrap();
        for i in 0..64 {
            other.start(&request(Kind::Write, i * MIB, &[guest(0, MIB as u32)]), &ram.dma().view());
        }
        other.poll(&mut Vec::new()).unwrap();
        drop(other);
        assert_eq!(engine.under_way(), 0);
    });
}
