//! Addresses, MTU and state of a network interface, through the ioctls of a socket (`netdevice(7)`).
//!
//! Everything is asked before it is changed, so that an interface somebody prepared can be used without the right to change it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{c_ulong, ifreq, sockaddr, sockaddr_in};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::Mac;

/// A handle for asking about one interface.
pub(crate) struct Interface {
    socket: OwnedFd,
    name: String,
}

/// An `ifreq` for the interface `name`.
///
/// # Errors
/// `InvalidInput` if the name does not fit; see [`check_name`].
pub(crate) fn request(name: &str) -> io::Result<ifreq> {
    check_name(name)?;
    // SAFETY: an `ifreq` is plain numbers, and all zeros is one.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

fn check_name(name: &str) -> io::Result<()> {
    let fits = !name.is_empty() && name.len() < libc::IFNAMSIZ;
    let legal =
        name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':') && name != "." && name != "..";
    if fits && legal { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The interface's name in `request`.
pub(crate) fn name(request: &ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|c| c.cast_unsigned()).take_while(|c| *c != 0);
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

/// Calls `ioctl` with a pointer to `argument`, whose type `code` implies.
///
/// # Safety
/// `T` must be what the kernel reads and writes for `code`, and must not lead it to memory that is not the caller's.
pub(crate) unsafe fn ioctl<T>(fd: &impl AsRawFd, code: c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), code, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Interface {
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let socket = datagram_socket(AddressFamily::INET)?;
        Ok(Self { socket, name: name.into() })
    }

    fn call(&self, code: c_ulong, fill: impl FnOnce(&mut ifreq)) -> io::Result<ifreq> {
        let mut request = request(&self.name)?;
        fill(&mut request);
        // SAFETY: all codes used here are SIOCG* and SIOCS* of netdevice(7), which take an `ifreq` without pointers.
        unsafe { ioctl(&self.socket, code, &mut request)? };
        Ok(request)
    }

    pub(crate) fn set_up(&self) -> io::Result<()> {
        let answer = self.call(libc::SIOCGIFFLAGS, |_| ())?;
        // SAFETY: SIOCGIFFLAGS has filled this member.
        let flags = unsafe { answer.ifr_ifru.ifru_flags };
        let up = libc::IFF_UP as libc::c_short;
        if flags & up == 0 {
            self.call(libc::SIOCSIFFLAGS, |r| r.ifr_ifru.ifru_flags = flags | up)?;
        }
        Ok(())
    }

    pub(crate) fn mtu(&self) -> io::Result<u16> {
        let answer = self.call(libc::SIOCGIFMTU, |_| ())?;
        // SAFETY: SIOCGIFMTU has filled this member.
        let mtu = unsafe { answer.ifr_ifru.ifru_mtu };
        u16::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    pub(crate) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        if self.mtu()? != mtu {
            self.call(libc::SIOCSIFMTU, |r| r.ifr_ifru.ifru_mtu = mtu.into())?;
        }
        Ok(())
    }

    pub(crate) fn set_mac(&self, mac: Mac) -> io::Result<()> {
        let answer = self.call(libc::SIOCGIFHWADDR, |_| ())?;
        // SAFETY: SIOCGIFHWADDR has filled this member.
        let mut address = unsafe { answer.ifr_ifru.ifru_hwaddr };
        let wanted = mac.map(u8::cast_signed);
        if address.sa_data[..6] != wanted {
            address.sa_data[..6].copy_from_slice(&wanted);
            self.call(libc::SIOCSIFHWADDR, |r| r.ifr_ifru.ifru_hwaddr = address)?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn mac(&self) -> io::Result<Mac> {
        let answer = self.call(libc::SIOCGIFHWADDR, |_| ())?;
        // SAFETY: SIOCGIFHWADDR has filled this member.
        let address = unsafe { answer.ifr_ifru.ifru_hwaddr };
        Ok(std::array::from_fn(|i| address.sa_data[i].cast_unsigned()))
    }

    /// Gives the interface an address and a network mask of the same family.
    ///
    /// # Errors
    /// `InvalidInput` if the families differ or the mask has holes; the kernel's otherwise.
    pub(crate) fn set_address(&self, ip: IpAddr, mask: IpAddr) -> io::Result<()> {
        match (ip, mask) {
            (IpAddr::V4(ip), IpAddr::V4(mask)) => self.set_address_v4(ip, mask),
            (IpAddr::V6(ip), IpAddr::V6(mask)) => self.set_address_v6(ip, mask),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn set_address_v4(&self, ip: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
        prefix_len(mask.to_bits().into(), 32)?;
        if self.address_v4(libc::SIOCGIFADDR) != Some(ip) {
            self.call(libc::SIOCSIFADDR, |r| r.ifr_ifru.ifru_addr = sockaddr_v4(ip))?;
        }
        if self.address_v4(libc::SIOCGIFNETMASK) != Some(mask) {
            self.call(libc::SIOCSIFNETMASK, |r| r.ifr_ifru.ifru_netmask = sockaddr_v4(mask))?;
        }
        Ok(())
    }

    fn address_v4(&self, code: c_ulong) -> Option<Ipv4Addr> {
        // An interface without an address is an error to the kernel and simply none to us.
        let answer = self.call(code, |r| r.ifr_ifru.ifru_addr = sockaddr_v4(Ipv4Addr::UNSPECIFIED)).ok()?;
        // SAFETY: SIOCGIFADDR and SIOCGIFNETMASK fill these members, which lie at the same place. A `sockaddr` of family AF_INET is a
        // `sockaddr_in`, which is as large.
        let address = unsafe { std::mem::transmute::<sockaddr, sockaddr_in>(answer.ifr_ifru.ifru_addr) };
        Some(Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr)))
    }

    fn set_address_v6(&self, ip: Ipv6Addr, mask: Ipv6Addr) -> io::Result<()> {
        let prefix_len = prefix_len(mask.to_bits(), 128)?;
        let answer = self.call(libc::SIOCGIFINDEX, |_| ())?;
        // SAFETY: SIOCGIFINDEX has filled this member.
        let index = unsafe { answer.ifr_ifru.ifru_ifindex };
        let mut request = libc::in6_ifreq {
            ifr6_addr: libc::in6_addr { s6_addr: ip.octets() },
            ifr6_prefixlen: prefix_len,
            ifr6_ifindex: index,
        };
        let socket = datagram_socket(AddressFamily::INET6)?;
        // SAFETY: SIOCSIFADDR on an IPv6 socket takes an `in6_ifreq`, which has no pointers.
        match unsafe { ioctl(&socket, libc::SIOCSIFADDR, &mut request) } {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            result => result,
        }
    }
}

fn datagram_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn sockaddr_v4(ip: Ipv4Addr) -> sockaddr {
    let address = sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: ip.to_bits().to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes of plain numbers, and the kernel reads a `sockaddr` by its family.
    unsafe { std::mem::transmute::<sockaddr_in, sockaddr>(address) }
}

/// The length of the prefix that `mask`, a number of `width` bits, leaves.
fn prefix_len(mask: u128, width: u32) -> io::Result<u32> {
    let ones = mask.count_ones();
    let contiguous = (mask << (128 - width)).leading_ones() == ones;
    if contiguous { Ok(ones) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_no_holes() {
        assert_eq!(prefix_len(0xffff_ff00, 32).unwrap(), 24);
        assert_eq!(prefix_len(0, 32).unwrap(), 0);
        assert_eq!(prefix_len(u128::MAX, 128).unwrap(), 128);
        assert_eq!(prefix_len(u128::MAX << 64, 128).unwrap(), 64);
        prefix_len(0xff00_ff00, 32).unwrap_err();
        prefix_len(1, 128).unwrap_err();
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "a/b", "a b", "0123456789abcdef", "a\0b", "tap:1", "täp", ".", ".."] {
            assert!(request(bad).is_err(), "{bad:?}");
        }
        assert_eq!(name(&request("0123456789abcde").unwrap()), "0123456789abcde");
    }
}
