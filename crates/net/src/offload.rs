//! What the host may leave to the guest: checksums to be verified and segments to be cut (`TUNSETOFFLOAD`).

use bitflags::bitflags;

bitflags! {
    /// Kinds of unfinished frames that the reader of a tap accepts. The values are the kernel's `TUN_F_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Offloads: u32 {
        /// Frames whose checksum is partial.
        const CSUM = libc::TUN_F_CSUM;
        /// TCP over IPv4 longer than the MTU.
        const TSO4 = libc::TUN_F_TSO4;
        /// TCP over IPv6 longer than the MTU.
        const TSO6 = libc::TUN_F_TSO6;
        /// The above with congestion bits set.
        const ECN = libc::TUN_F_TSO_ECN;
        /// UDP longer than the MTU.
        const UFO = libc::TUN_F_UFO;
    }
}

impl Offloads {
    /// Without the kinds whose preconditions are missing: the kernel refuses those.
    #[must_use]
    pub fn consistent(mut self) -> Self {
        if !self.contains(Self::CSUM) {
            return Self::empty();
        }
        if !self.intersects(Self::TSO4 | Self::TSO6) {
            self.remove(Self::ECN);
        }
        self
    }
}
