//! From which NUMA node of the host the pages of a zone come.

use std::io;

/// The most nodes that a kernel can have.
const NODES: u32 = 1024;

/// Has all pages of `len` bytes from `start` on come from `node`, those that are there already moved.
///
/// # Errors
/// The kernel's refusal: as a rule there is no such node.
pub(crate) fn bind(start: *mut u8, len: usize, node: u32) -> io::Result<()> {
    const WORD: u32 = usize::BITS;
    /// All pages must be there in the end, and are moved to be (`linux/mempolicy.h`).
    const STRICT: u32 = 1;
    const MOVE: u32 = 2;
    let mut mask = [0usize; (NODES / WORD) as usize];
    let word = mask.get_mut((node / WORD) as usize).ok_or(io::ErrorKind::InvalidInput)?;
    *word = 1 << (node % WORD);
    // The kernel counts the bits of the mask from 1.
    let bits = u64::from(NODES) + 1;
    // SAFETY: the call reads the mask, which has as many bits as it is told, and changes no contents of memory: pages that move keep
    // theirs. The range is not read or written here.
    let done = unsafe {
        libc::syscall(libc::SYS_mbind, start, len, libc::MPOL_BIND, mask.as_ptr(), bits, STRICT | MOVE)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
