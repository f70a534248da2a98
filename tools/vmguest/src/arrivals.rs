//! Says what comes to the running guest the moment its kernel has it, a line each: by these lines `cargo xtask bench` times hot-plug.
//!
//! The kernel tells of a new device in a message to a socket (netlink(7), `NETLINK_KOBJECT_UEVENT`), so that a CPU that others wait for is
//! not kept busy with looking. The watcher does what udev's rules would do: it brings a new CPU online.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use rustix::system::sysinfo;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

/// The kernel's own messages; what udev passes on has another group.
const KERNEL: u32 = 1;
/// The longest message the kernel makes (`UEVENT_BUFFER_SIZE`, with the header in front).
const LONGEST: usize = 4096;
/// RAM comes in pieces, and no message says that one is in use: how often to look once they have begun to come. Looking costs a
/// system call and a timer, and a GiB takes a hundred times as long.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// How far the RAM that is to come has come.
#[derive(Clone, Copy, PartialEq)]
enum Growth {
    Awaited,
    Begun,
    Told,
}

/// Says `@ready`, then `@disk`, `@net`, `@cpu` and the device's name for each that comes, and `@memory` when the kernel's RAM has grown
/// by `mib` MiB. Never ends by itself.
///
/// # Errors
/// There is no such socket, or a message was lost.
pub(crate) fn tell(mib: u64) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(KOBJECT_UEVENT),
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
    let full = ram() + (mib << 20);
    let mut growth = Growth::Awaited;
    say("ready")?;
    loop {
        let limit = (growth == Growth::Begun).then_some(&LOOK);
        poll(&mut [PollFd::new(&socket, PollFlags::IN)], limit)?;
        let mut buffer = [0; LONGEST];
        while let Some(message) = next(&socket, &mut buffer)? {
            let Some(device) = added(&message) else { continue };
            match device.subsystem {
                "block" => say(&format!("disk {}", device.name()))?,
                "net" => say(&format!("net {}", device.name()))?,
                "cpu" => {
                    fs::write(format!("/sys{}/online", device.path), "1")?;
                    say(&format!("cpu {}", device.name()))?;
                }
                "memory" if growth == Growth::Awaited => growth = Growth::Begun,
                _ => {}
            }
        }
        if growth == Growth::Begun && ram() >= full {
            growth = Growth::Told;
            say("memory")?;
        }
    }
}

/// The whole line at once, as others write to the same console.
fn say(what: &str) -> io::Result<()> {
    io::stdout().write_all(format!("@{what}\n").as_bytes())
}

/// What the kernel has for all its uses but its own text and page descriptors, in bytes: `MemTotal` of `/proc/meminfo`.
fn ram() -> u64 {
    let info = sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

/// The next message that waits in the socket.
fn next(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<String>> {
    match recv(socket, &mut *buffer, RecvFlags::empty()) {
        Ok((_, length)) => {
            let message = buffer.get(..length).unwrap_or_default();
            Ok(Some(String::from_utf8_lossy(message).into_owned()))
        }
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A device that has come.
#[derive(Debug, PartialEq)]
struct Device<'a> {
    subsystem: &'a str,
    /// Below `/sys`.
    path: &'a str,
}

impl Device<'_> {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// The device that a message says has come. A message is strings with a NUL after each: `ACTION@PATH`, then `KEY=VALUE`.
fn added(message: &str) -> Option<Device<'_>> {
    let value = |key: &str| {
        message.split('\0').find_map(|field| field.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')))
    };
    let came = value("ACTION") == Some("add");
    came.then(|| Some(Device { subsystem: value("SUBSYSTEM")?, path: value("DEVPATH")? })).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let disk = "add@/devices/virtio1/block/vda\0ACTION=add\0DEVPATH=/devices/virtio1/block/vda\0SUBSYSTEM=block\0SEQNUM=7\0";
        let device = added(disk).unwrap();
        assert_eq!(device, Device { subsystem: "block", path: "/devices/virtio1/block/vda" });
        assert_eq!(device.name(), "vda");
        assert_eq!(added(&disk.replace("ACTION=add", "ACTION=remove")), None);
        assert_eq!(added("add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0"), None);
        assert_eq!(added(""), None);
    }
}
