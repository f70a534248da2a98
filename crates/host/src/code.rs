//! The program's own code and constants, as mapped from its files.

use std::ffi::c_void;
use std::os::raw::c_int;

use libc::{PF_W, PT_LOAD, dl_phdr_info};

/// Unmaps what this process has used so far of its code and constants, so that only what it uses from now on counts as its memory.
///
/// Starting up and building a machine run through most of the program; running one needs a small part. A page that is used again comes
/// back from the host's page cache. Takes some ten microseconds, and about as much again in faults afterwards. Breakpoints
/// that a debugger has set by then are lost.
pub fn give_back() {
    // SAFETY: the callback fits its type, and gets no data.
    unsafe { libc::dl_iterate_phdr(Some(unmap), std::ptr::null_mut()) };
}

unsafe extern "C" fn unmap(object: *mut dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the loader hands a description of one loaded object, valid during this call.
    let object = unsafe { &*object };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the loader's table has so many entries.
    let segments = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    for segment in segments.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_flags & PF_W == 0)
    {
        const PAGE: u64 = 4096;
        let start = object.dlpi_addr.wrapping_add(segment.p_vaddr) & !(PAGE - 1);
        let end = object.dlpi_addr.wrapping_add(segment.p_vaddr).wrapping_add(segment.p_memsz);
        // SAFETY: nobody has ever written to a segment without PF_W, so that every page of it comes back from the file as it was. For the
        // kernel's own object, which has no file, the call fails.
        unsafe { libc::madvise(start as *mut c_void, (end - start) as usize, libc::MADV_DONTNEED) };
    }
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn code_and_constants_are_there_again_when_they_are_used() {
        let before = format!("{:?}", std::env::current_exe().unwrap());
        super::give_back();
        assert_eq!(format!("{:?}", std::env::current_exe().unwrap()), before);
    }
}
