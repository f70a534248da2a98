//! What the thread and its start ask of the host.

use libc::{
    SYS_fallocate, SYS_lseek, SYS_madvise, SYS_open, SYS_openat, SYS_pread64, SYS_recvfrom, SYS_sendto,
    SYS_userfaultfd,
};
use linux_raw_sys::ioctl::{
    UFFDIO_API, UFFDIO_COPY, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE, UFFDIO_ZEROPAGE,
};
use sandbox::call::{Call, any, ioctl};
use sandbox::{Profile, groups};

/// Asks the device for a descriptor (`USERFAULTFD_IOC_NEW`).
const NEW: u32 = 0xaa00;

const ANSWERS: &[Call] =
    &[ioctl(UFFDIO_COPY), ioctl(UFFDIO_ZEROPAGE), ioctl(UFFDIO_WAKE), ioctl(UFFDIO_UNREGISTER)];

/// Files of a snapshot and connections to another host.
const SOURCES: &[Call] = &[any(SYS_lseek), any(SYS_pread64), any(SYS_recvfrom), any(SYS_sendto)];

/// The thread `uffd-handler`.
pub(crate) static HANDLER: Profile = Profile::new("uffd-handler", &[ANSWERS, SOURCES, groups::EPOLL]);

const START: &[Call] = &[
    any(SYS_fallocate),
    any(SYS_madvise),
    any(SYS_open),
    any(SYS_openat),
    any(SYS_userfaultfd),
    ioctl(NEW),
    ioctl(UFFDIO_API),
    ioctl(UFFDIO_REGISTER),
];

/// [`crate::Pager::start`], in the thread that calls it.
static BUILD: Profile = Profile::new("pager", &[START, groups::EPOLL]);

/// Those of the thread, and of who starts it.
pub static PROFILES: &[&Profile] = &[&HANDLER, &BUILD];
