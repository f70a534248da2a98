//! Pseudo-terminals for consoles that people attach to later.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// The master end of a pseudo-terminal in raw mode, and where its slave is found.
#[derive(Debug)]
pub struct Pty {
    /// The master end: non-blocking, close-on-exec.
    pub master: File,
    /// The slave's path, such as `/dev/pts/3`.
    pub slave: PathBuf,
}

/// Opens a pseudo-terminal in raw mode.
///
/// # Errors
/// The kernel's, usually `ENOENT` or `ENOSPC` for `/dev/ptmx`.
pub fn open() -> io::Result<Pty> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = PathBuf::from(ptsname(&master, Vec::new())?.to_string_lossy().into_owned());
    make_raw(&slave)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    Ok(Pty { master: File::from(master), slave })
}

fn make_raw(slave: &std::path::Path) -> io::Result<()> {
    let end = rustix::fs::open(slave, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    super::terminal::set_raw(&end)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn bytes_pass_unchanged_from_slave_to_master() {
        let mut pty = open().unwrap();
        let mut slave = File::options().read(true).write(true).open(&pty.slave).unwrap();
        slave.write_all(b"a\nb\x03").unwrap();
        let mut got = [0; 4];
        let mut fds = [rustix::event::PollFd::new(&pty.master, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        pty.master.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"a\nb\x03");
    }
}
