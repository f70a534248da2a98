//! Whether somebody changes the file that restored RAM lies in: what the guest has not written yet would change with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::Control;

/// Hears of the first change of some files.
pub(crate) struct Guard(OwnedFd);

impl Guard {
    /// Watches `files`.
    ///
    /// # Errors
    /// The kernel's: it has no watches left.
    pub(super) fn over<'f>(files: impl Iterator<Item = &'f File>) -> io::Result<Self> {
        let guard = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        for file in files {
            // By its descriptor: whoever has the name now may be another file.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            inotify::add_watch(&guard, path, WatchFlags::MODIFY | WatchFlags::ONESHOT)?;
        }
        Ok(Self(guard))
    }

    fn has_news(&self) -> bool {
        rustix::io::read(&self.0, &mut [0u8; 256]).is_ok()
    }
}

impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Control {
    /// Tells once that the snapshot of a running VM was changed.
    pub(crate) fn look_after_snapshot(&mut self) {
        let Some(vm) = self.vm.as_mut() else { return };
        if vm.guard.as_ref().is_some_and(Guard::has_news) {
            vm.guard = None;
            tracing::error!(
                "The snapshot that this VM was restored from is being changed: its guest's memory changes with it, and cannot be \
                 trusted any more"
            );
            self.tell("snapshot-changed");
        }
    }
}
