//! What a disk asks of the host.

use libc::{
    F_OFD_SETLK, SYS_eventfd2, SYS_fallocate, SYS_fcntl, SYS_fdatasync, SYS_fsync, SYS_io_uring_enter,
    SYS_io_uring_register, SYS_io_uring_setup, SYS_lseek, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_pwrite64,
    SYS_pwritev, SYS_pwritev2,
};
use sandbox::call::{Call, any, equal, ioctl, ioctls_of};
use sandbox::{Profile, groups};

/// Reading and writing an image, by io_uring or without.
const IMAGE: &[Call] = &[
    any(SYS_eventfd2),
    any(SYS_fallocate),
    any(SYS_fdatasync),
    any(SYS_fsync),
    any(SYS_io_uring_enter),
    any(SYS_io_uring_register),
    any(SYS_io_uring_setup),
    // BLKDISCARD, BLKZEROOUT.
    ioctl(0x1277),
    ioctl(0x127f),
    any(SYS_lseek),
    any(SYS_pread64),
    any(SYS_preadv),
    any(SYS_preadv2),
    any(SYS_pwrite64),
    any(SYS_pwritev),
    any(SYS_pwritev2),
];

/// Locking an image; the size of a block device (BLKGETSIZE64 and its kin).
const OPEN: &[Call] = &[equal(SYS_fcntl, 1, F_OFD_SETLK), ioctls_of(0x12)];

/// The thread of a queue.
pub(super) static QUEUE: Profile = Profile::new("disk-queue", &[groups::EPOLL, groups::AFFINITY, IMAGE]);

/// What building a disk asks of the control thread.
static BUILD: Profile = Profile::new("disk-build", &[groups::READ_FILES, OPEN]);

/// All of them.
pub static PROFILES: &[&Profile] = &[&QUEUE, &BUILD];
