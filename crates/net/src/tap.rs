//! Opening and configuring a tap interface (the kernel's `Documentation/networking/tuntap.rst`).
//!
//! The control thread opens it; the network workers turn offloads and queues on and off.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use config::plan;
use libc::{c_int, c_short};
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use crate::interface::{self, Interface, ioctl};
use crate::{HEADER_LEN, Offloads, TapQueue};

const DEVICE: &str = "/dev/net/tun";
/// The kernel puts the lowest free number in.
const AUTOMATIC_NAME: &str = "vmtap%d";

/// Why a tap could not be had.
#[derive(Debug, Error)]
pub enum TapError {
    /// The device file cannot be opened.
    #[error("Cannot open {DEVICE}: {hint}")]
    Device {
        /// What to do.
        hint: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The interface cannot be made or joined.
    #[error("Cannot open tap interface '{name}': {hint}")]
    Open {
        /// The name asked for.
        name: String,
        /// What to do.
        hint: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A descriptor that came from elsewhere is of no use.
    #[error("Descriptor {number} is no queue of this tap: {hint}")]
    Descriptor {
        /// Which of the descriptors, from 0.
        number: usize,
        /// What to do.
        hint: &'static str,
        /// The kernel's reason, if it is its.
        #[source]
        source: Option<io::Error>,
    },
    /// The interface is there but cannot be set up.
    #[error("Cannot set the {what} of tap interface '{name}': {hint}")]
    Configure {
        /// Which setting.
        what: &'static str,
        /// The interface.
        name: String,
        /// What to do.
        hint: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// A tap interface that is up. It goes away with the last of its queues unless somebody made it persistent.
#[derive(Debug)]
pub struct Tap {
    name: String,
    mtu: Option<u16>,
    queues: Vec<Arc<TapQueue>>,
    /// How many of the queues the kernel gives frames to: always the first ones.
    attached: Mutex<u16>,
}

impl Tap {
    /// Makes or joins an interface, sets it up and brings the link up. No offloads are on, and all queues are attached.
    ///
    /// # Errors
    /// [`TapError`] names the step, the interface and the way out.
    pub fn open(net: &plan::Net) -> Result<Self, TapError> {
        let pairs = net.queue_pairs.max(1);
        let (first, name) = open_first(net.tap.as_deref().unwrap_or(AUTOMATIC_NAME), pairs > 1)?;
        let mut queues = vec![first];
        for _ in 1..pairs {
            let fd = open_device()?;
            attach_new(&fd, &name, true).map_err(|source| open_failed(&name, source))?;
            queues.push(fd);
        }
        Self::assemble(name, queues, net)
    }

    /// Takes over queues that somebody else opened, one descriptor each, and sets the interface up as [`Tap::open`] does. The name in
    /// `net` is not looked at.
    ///
    /// # Errors
    /// [`TapError::Descriptor`] if one of them is no queue of the same tap with frame headers; [`TapError::Configure`].
    pub fn from_descriptors(queues: Vec<OwnedFd>, net: &plan::Net) -> Result<Self, TapError> {
        let mut name = None;
        for (number, queue) in queues.iter().enumerate() {
            let found = adopt(number, queue)?;
            if *name.get_or_insert_with(|| found.clone()) != found {
                let hint = "send descriptors of one interface only";
                return Err(TapError::Descriptor { number, hint, source: None });
            }
        }
        Self::assemble(name.unwrap_or_default(), queues, net)
    }

    fn assemble(name: String, queues: Vec<OwnedFd>, net: &plan::Net) -> Result<Self, TapError> {
        for queue in &queues {
            set_header_len(queue).map_err(|e| configure_failed("header length", &name, e))?;
        }
        let mtu = configure(&name, net)?;
        let pairs = queues.len() as u16;
        let queues = queues.into_iter().map(|fd| Arc::new(TapQueue::new(fd))).collect();
        let tap = Self { name, mtu, queues, attached: Mutex::new(pairs) };
        tap.set_offloads(Offloads::empty()).map_err(|e| configure_failed("offloads", &tap.name, e))?;
        Ok(tap)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes per frame without the Ethernet header, if the kernel told.
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// The queues, by pair.
    pub fn queues(&self) -> &[Arc<TapQueue>] {
        &self.queues
    }

    /// Tells the host which kinds of unfinished frames may be read.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let Some(queue) = self.queues.first() else { return Ok(()) };
        // Not the pointer that `ioctl` passes: this call takes its argument as a number.
        let bits = libc::c_ulong::from(offloads.consistent().bits());
        let fd = std::os::fd::AsRawFd::as_raw_fd(&**queue);
        // SAFETY: TUNSETOFFLOAD reads no memory.
        let result = unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD, bits) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Lets the kernel give frames to the first `pairs` queues only. What waits in the others is lost; they look dry from then on.
    ///
    /// # Errors
    /// `InvalidInput` if there are fewer queues, or none is asked for; the kernel's otherwise.
    pub fn set_attached(&self, pairs: u16) -> io::Result<()> {
        if pairs == 0 || usize::from(pairs) > self.queues.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        while *attached != pairs {
            let (queue, flag, next) = if *attached < pairs {
                (*attached, libc::IFF_ATTACH_QUEUE, *attached + 1)
            } else {
                (*attached - 1, libc::IFF_DETACH_QUEUE, *attached - 1)
            };
            if let Some(fd) = self.queues.get(usize::from(queue)) {
                let mut request = interface::request(&self.name)?;
                request.ifr_ifru.ifru_flags = flag as c_short;
                // SAFETY: TUNSETQUEUE takes an `ifreq` without pointers.
                unsafe { ioctl(&**fd, libc::TUNSETQUEUE, &mut request)? };
            }
            *attached = next;
        }
        Ok(())
    }
}

fn open_device() -> Result<OwnedFd, TapError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|e| {
        let source = io::Error::from(e);
        let hint = match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => "load the driver with 'modprobe tun'",
            Some(libc::EACCES | libc::EPERM) => "give this user access to the device file",
            Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files",
            _ => "check that the host offers tap interfaces",
        };
        TapError::Device { hint, source }
    })
}

/// The first queue and the interface's final name.
fn open_first(name: &str, multi_queue: bool) -> Result<(OwnedFd, String), TapError> {
    let fd = open_device()?;
    let opened = match attach_new(&fd, name, multi_queue) {
        // Somebody made it with several queues: one of them is enough.
        Err(e) if !multi_queue && e.raw_os_error() == Some(libc::EINVAL) => attach_new(&fd, name, true),
        opened => opened,
    };
    let name = opened.map_err(|source| open_failed(name, source))?;
    Ok((fd, name))
}

fn attach_new(fd: &OwnedFd, name: &str, multi_queue: bool) -> io::Result<String> {
    let mut request = interface::request(name)?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags = flags as c_short;
    // SAFETY: TUNSETIFF takes an `ifreq` without pointers.
    unsafe { ioctl(fd, libc::TUNSETIFF, &mut request)? };
    Ok(interface::name(&request))
}

/// Makes a descriptor that somebody else opened fit for workers; answers its interface.
fn adopt(number: usize, queue: &OwnedFd) -> Result<String, TapError> {
    const NO_TAP: &str = "send descriptors of an open tap or macvtap interface";
    let refused = |hint, source| TapError::Descriptor { number, hint, source };
    // SAFETY: an `ifreq` is plain numbers, and all zeros is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes an `ifreq` without pointers.
    unsafe { ioctl(queue, libc::TUNGETIFF, &mut request) }.map_err(|e| refused(NO_TAP, Some(e)))?;
    // SAFETY: TUNGETIFF has put the flags there, and any bits are flags.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    let wanted = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if flags & wanted != wanted {
        return Err(refused("open the tap with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR", None));
    }
    let nonblocking = rustix::io::ioctl_fionbio(queue, true);
    nonblocking.map_err(|e| refused(NO_TAP, Some(e.into())))?;
    Ok(interface::name(&request))
}

fn set_header_len(fd: &OwnedFd) -> io::Result<()> {
    let mut len = HEADER_LEN as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads an `int`.
    unsafe { ioctl(fd, libc::TUNSETVNETHDRSZ, &mut len) }
}

/// Answers the MTU, if the kernel tells.
fn configure(name: &str, net: &plan::Net) -> Result<Option<u16>, TapError> {
    let interface = Interface::new(name).map_err(|e| configure_failed("parameters", name, e))?;
    if let Some((ip, mask)) = net.ip {
        interface.set_address(ip, mask).map_err(|e| configure_failed("IP address", name, e))?;
    }
    if let Some(mac) = net.host_mac {
        interface.set_mac(mac.0).map_err(|e| configure_failed("MAC address", name, e))?;
    }
    if let Some(mtu) = net.mtu {
        interface.set_mtu(mtu).map_err(|e| configure_failed("MTU", name, e))?;
    }
    interface.set_up().map_err(|e| configure_failed("link state", name, e))?;
    Ok(interface.mtu().ok())
}

fn open_failed(name: &str, source: io::Error) -> TapError {
    let hint = match source.raw_os_error() {
        Some(libc::EBUSY) => "another program uses it: choose another name or stop that program",
        Some(libc::EPERM) => "run with CAP_NET_ADMIN, or let an administrator create it for this user",
        Some(libc::EINVAL) => {
            "it is no tap, or was created with a different multi-queue setting: create it anew with 'ip tuntap'"
        }
        Some(libc::E2BIG) => "the kernel has no room for so many queues: lower num_queues",
        None => "a name has 1 to 15 letters, digits or signs other than '/' and ':'",
        _ => "check that the host offers tap interfaces",
    };
    TapError::Open { name: name.into(), hint, source }
}

fn configure_failed(what: &'static str, name: &str, source: io::Error) -> TapError {
    let hint = match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "run with CAP_NET_ADMIN, or let an administrator set it beforehand"
        }
        Some(libc::EINVAL | libc::EADDRNOTAVAIL) | None => "choose a value the host accepts",
        Some(libc::EBUSY) => "take the interface down first",
        _ => "check that the interface still exists",
    };
    TapError::Configure { what, name: name.into(), hint, source }
}
