use std::os::unix::fs::{FileExt, MetadataExt};

use tempfile::NamedTempFile;

use super::*;
use crate::open;

const BYTES: Option<LockRange> = Some(LockRange::Bytes);

fn image_file(len: u64) -> (NamedTempFile, plan::Disk) {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(len).unwrap();
    let options = plan::Disk::new(file.path());
    (file, options)
}

#[test]
fn the_tail_of_a_file_is_hidden() {
    let (_file, options) = image_file(10_000);
    let image = open(&options, BYTES).unwrap();
    assert_eq!(image.size(), 9728);
    assert_eq!(image.format(), ImageType::Raw);
    assert_eq!(image.topology(), Topology::default());
}

#[test]
fn a_guessed_format_guards_its_first_sector() {
    let (_file, options) = image_file(4096);
    assert!(open(&options, BYTES).unwrap().guards_first_sector());
    let known = plan::Disk { image_type: ImageType::Raw, ..options };
    assert!(!open(&known, BYTES).unwrap().guards_first_sector());
}

#[test]
fn wrong_and_unknown_formats_are_refused() {
    let (file, options) = image_file(4096);
    let qcow2 = plan::Disk { image_type: ImageType::Qcow2, ..options.clone() };
    assert!(open(&qcow2, BYTES).unwrap_err().to_string().ends_with("is of type raw, not qcow2"));
    file.as_file().write_all_at(b"QFI\xfb", 0).unwrap();
    assert!(matches!(open(&qcow2, BYTES), Err(OpenError::Unsupported { format: ImageType::Qcow2, .. })));
    assert!(matches!(open(&options, BYTES), Err(OpenError::Unsupported { .. })));
    assert!(matches!(open(&plan::Disk::new("/nonexistent"), BYTES), Err(OpenError::Open { .. })));
    assert!(matches!(
        open(&plan::Disk { readonly: true, ..plan::Disk::new("/tmp") }, BYTES),
        Err(OpenError::NotADisk { .. })
    ));
    assert!(matches!(open(&plan::Disk::new("/dev/null"), BYTES), Err(OpenError::NotADisk { .. })));
}

#[test]
fn a_second_writer_is_locked_out() {
    let (_file, options) = image_file(4096);
    let first = open(&options, BYTES).unwrap();
    let Err(error @ OpenError::Lock(_)) = open(&options, BYTES) else { panic!("opened twice") };
    assert_eq!(error.to_string(), "Another instance likely holds a lock");
    first.unlock().unwrap();
    let second = open(&options, BYTES).unwrap();
    assert!(first.lock(LockRange::Whole).is_err());
    drop(second);
    first.lock(LockRange::Whole).unwrap();
}

#[test]
fn readers_share_and_cannot_zero() {
    let (_file, options) = image_file(4096);
    let options = plan::Disk { readonly: true, ..options };
    let images = [open(&options, BYTES).unwrap(), open(&options, BYTES).unwrap()];
    assert!(!images[0].can_zero());
    assert!(matches!(images[1].resize(8192), Err(ResizeError::ReadOnly)));
}

#[test]
fn probing_changes_nothing_and_preallocation_fills_the_holes() {
    let (file, options) = image_file(1 << 20);
    file.as_file().write_all_at(&[7; 512], (1 << 20) - 512).unwrap();
    let image = open(&options, BYTES).unwrap();
    assert!(image.can_zero());
    assert!(file.as_file().metadata().unwrap().blocks() * 512 < 1 << 20);
    drop(image);
    let image = open(&plan::Disk { sparse: false, ..options }, BYTES).unwrap();
    let metadata = file.as_file().metadata().unwrap();
    assert!(metadata.blocks() * 512 >= 1 << 20);
    assert_eq!((metadata.len(), image.size()), (1 << 20, 1 << 20));
    let mut last = [0; 512];
    file.as_file().read_exact_at(&mut last, (1 << 20) - 512).unwrap();
    assert_eq!(last, [7; 512]);
}

#[test]
fn sizes_change_by_sectors() {
    let (file, options) = image_file(1 << 20);
    let image = open(&options, BYTES).unwrap();
    assert!(matches!(image.resize(1000), Err(ResizeError::Sectors(1000))));
    image.resize(2 << 20).unwrap();
    assert_eq!((image.size(), file.as_file().metadata().unwrap().len()), (2 << 20, 2 << 20));
    drop(image);
    let image = open(&plan::Disk { sparse: false, ..options }, BYTES).unwrap();
    for size in [3 << 20, 1 << 20] {
        image.resize(size).unwrap();
        let metadata = file.as_file().metadata().unwrap();
        assert_eq!((image.size(), metadata.len()), (size, size));
        assert!(metadata.blocks() * 512 >= size);
    }
    assert!(image.resize(u64::MAX - 511).is_err());
    assert_eq!((image.size(), file.as_file().metadata().unwrap().len()), (1 << 20, 1 << 20));
}

#[test]
fn the_serial_is_made_of_the_file_s_numbers() {
    let (file, options) = image_file(512);
    let metadata = file.as_file().metadata().unwrap();
    let expected = format!("{}{}{}", metadata.dev(), metadata.rdev(), metadata.ino());
    let serial = open(&options, BYTES).unwrap().default_serial();
    assert!(expected.starts_with(&serial) && serial.len() == expected.len().min(20));
}

/// Run with `BLOCK_TEST_DEVICE` set to a device of 4 KiB blocks whose contents are not missed, such as a loop device.
#[test]
#[ignore = "needs a block device to overwrite"]
fn block_devices_have_their_own_size_and_blocks() {
    let path = std::env::var("BLOCK_TEST_DEVICE").unwrap();
    for direct in [true, false] {
        let image = open(&plan::Disk { direct, ..plan::Disk::new(&path) }, BYTES).unwrap();
        let size = image.size();
        assert!(size > 1 << 20);
        assert_eq!(image.topology().logical_block, 4096);
        assert!(image.can_zero());
        assert!(matches!(image.resize(size + 4096), Err(ResizeError::Device { .. })));
        image.resize(size).unwrap();
        assert!(matches!(open(&plan::Disk::new(&path), BYTES), Err(OpenError::Lock(_))));

        let ram = memory::test_ram(&[(0, 0x2_0000)]);
        let mut engine = image.engine(8).unwrap();
        let mut run = |kind, offset, buffer: crate::Buffer| {
            let (mut done, len) = (Vec::new(), buffer.1.into());
            let request = crate::Request { token: 1, kind, offset, len, buffers: &[buffer], durable: true };
            engine.start(&request, &ram.dma().view());
            engine.drain(&mut done).unwrap();
            done.remove(0).result.unwrap();
        };
        let at = memory::GuestAddress;
        memory::Bytes::write_slice(&*ram.map(), &[0x77; 0x2000], at(0)).unwrap();
        run(crate::Kind::Write, 0, (at(0), 0x2000));
        memory::Bytes::write_slice(&*ram.map(), &[0x88; 512], at(0)).unwrap();
        run(crate::Kind::Write, 512, (at(0), 512));
        run(crate::Kind::Zero { unmap: false }, 0x1000, (at(0), 0x1000));
        run(crate::Kind::Discard, 0x2000, (at(0), 0x1000));
        run(crate::Kind::Read, 0, (at(0x1_0000), 0x2000));
        let mut bytes = [0; 0x2000];
        memory::Bytes::read_slice(&*ram.map(), &mut bytes, at(0x1_0000)).unwrap();
        let expected = [&[0x77; 512][..], &[0x88; 512], &[0x77; 0xc00], &[0; 0x1000]].concat();
        assert_eq!(bytes[..], expected[..]);
    }
}
