//! Which files this process has open, asked without `/proc`: it may be confined to other files.

use std::mem::MaybeUninit;

/// Descriptors looked at. The kernel gives out the lowest free number, and what a process opens first, such as its log, it keeps.
const LOOKED_AT: libc::c_int = 1024;

/// Whether this process has file `inode` of device `device` open, be it inherited.
pub fn holds(device: u64, inode: u64) -> bool {
    (0..LOOKED_AT).any(|number| {
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: `fstat` fails if nothing is open there, and fills `stat` otherwise.
        let stat = unsafe { (libc::fstat(number, stat.as_mut_ptr()) == 0).then(|| stat.assume_init()) };
        stat.is_some_and(|stat| (stat.st_dev, stat.st_ino) == (device, inode))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_is_held_while_it_is_open() {
        let path = std::env::temp_dir().join(format!("host-opened-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        let metadata = file.metadata().unwrap();
        assert!(holds(metadata.dev(), metadata.ino()));
        drop(file);
        assert!(!holds(metadata.dev(), metadata.ino()));
        std::fs::remove_file(path).unwrap();
    }
}
