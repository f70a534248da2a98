//! Which file a path leads to, through all its names, and whether this process has it open. Whoever is about to empty a file asks first.

use std::ffi::OsString;
use std::fs::Metadata;
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Descriptors looked at. The kernel gives out the lowest free number, and what a process opens first, such as its log, it keeps.
const LOOKED_AT: libc::c_int = 1024;

/// What the kernel knows a file by that holds bytes, or will.
#[derive(Debug, PartialEq, Eq)]
pub enum Identity {
    /// Device and inode.
    File(u64, u64),
    /// The number of a block device, which may have several files.
    BlockDevice(u64),
    /// Not there yet: the directory's device and inode, and the name in it.
    Future(u64, u64, OsString),
}

impl Identity {
    /// `None` for what holds no bytes, such as a terminal or a pipe, and for what cannot be looked at: opening it will say why.
    pub fn of(path: &Path) -> Option<Self> {
        let Ok(metadata) = std::fs::metadata(path) else {
            let name = path.file_name()?.to_owned();
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory =
                std::fs::metadata(parent.unwrap_or(Path::new("."))).ok().filter(Metadata::is_dir)?;
            return Some(Self::Future(directory.dev(), directory.ino(), name));
        };
        let kind = metadata.file_type();
        if kind.is_block_device() {
            return Some(Self::BlockDevice(metadata.rdev()));
        }
        kind.is_file().then(|| Self::File(metadata.dev(), metadata.ino()))
    }

    /// Whether this process has the file open, be it inherited. Asked without `/proc`: it may be confined to other files.
    pub fn is_open_here(&self) -> bool {
        let Self::File(device, inode) = *self else { return false };
        (0..LOOKED_AT).any(|number| {
            let mut stat = MaybeUninit::<libc::stat>::uninit();
            // SAFETY: `fstat` fails if nothing is open there, and fills `stat` otherwise.
            let stat = unsafe { (libc::fstat(number, stat.as_mut_ptr()) == 0).then(|| stat.assume_init()) };
            stat.is_some_and(|stat| (stat.st_dev, stat.st_ino) == (device, inode))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_one_through_all_its_names() {
        let dir = std::env::temp_dir().join(format!("host-identity-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let at = |name: &str| dir.join(name);
        assert_eq!(Identity::of(&at("file")), Identity::of(&at("./file")));
        assert_ne!(Identity::of(&at("file")), Identity::of(&at("other")));
        let file = fs::File::create(at("file")).unwrap();
        fs::hard_link(at("file"), at("hard")).unwrap();
        std::os::unix::fs::symlink(at("file"), at("soft")).unwrap();
        let identity = Identity::of(&at("file")).unwrap();
        for name in ["hard", "soft"] {
            assert_eq!(Identity::of(&at(name)).as_ref(), Some(&identity), "{name}");
        }
        assert!(identity.is_open_here());
        drop(file);
        assert!(!identity.is_open_here());
        for path in [Path::new("/dev/null"), &dir, &at("file").join("below")] {
            assert_eq!(Identity::of(path), None, "{}", path.display());
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
