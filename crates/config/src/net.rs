//! `net` and `--net` (`spec/config.md` §7).

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::str::FromStr;

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::devices::{Name, Section};
use crate::flag::FlagError;
use crate::mac::MacAddr;
use crate::pci::Placed;
use crate::plan::{self, Access, DeviceKind, Grant};
use crate::queues;
use crate::rate_limit::RateLimiterConfig;
use crate::words::{self, UnknownWord};

/// The smallest MTU virtio allows.
const MIN_MTU: u16 = 1280;

/// A network device.
pub type NetConfig = Placed<Net>;

/// A network device's own fields: a tap (by name, by descriptors or new) or a vhost-user back end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Net {
    /// Name of the tap; the kernel picks `vmtapN` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// Address given to the tap.
    #[serde(deserialize_with = "keyval::spelled_opt", skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Mask of that address.
    #[serde(deserialize_with = "keyval::spelled_opt", skip_serializing_if = "Option::is_none")]
    pub mask: Option<IpAddr>,
    /// The guest's address; random when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// The tap's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_mac: Option<MacAddr>,
    /// MTU in bytes, from 1280.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Receive and transmit queues together, from 2.
    pub num_queues: usize,
    /// Descriptors per queue: a power of 2.
    pub queue_size: u16,
    /// The device lives in another process.
    pub vhost_user: bool,
    /// That process's socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_socket: Option<String>,
    /// Which side listens on it.
    #[serde(deserialize_with = "keyval::spelled")]
    pub vhost_mode: VhostMode,
    /// Descriptors of an open tap, one per queue pair.
    #[serde(deserialize_with = "crate::fds::list", skip_serializing_if = "Option::is_none")]
    pub fds: Option<Vec<i32>>,
    /// Limits of each direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter_config: Option<RateLimiterConfig>,
    /// TCP segmentation offload.
    pub offload_tso: bool,
    /// UDP fragmentation offload.
    pub offload_ufo: bool,
    /// Checksum offload.
    pub offload_csum: bool,
}

/// This process's part on a vhost-user socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum VhostMode {
    /// Connects.
    #[default]
    Client,
    /// Listens.
    Server,
}

impl FromStr for VhostMode {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        words::any_case(word, &[("client", Self::Client), ("server", Self::Server)])
    }
}

impl Default for Net {
    fn default() -> Self {
        Self {
            tap: None,
            ip: None,
            mask: None,
            mac: None,
            host_mac: None,
            mtu: None,
            num_queues: 2,
            queue_size: 256,
            vhost_user: false,
            vhost_socket: None,
            vhost_mode: VhostMode::Client,
            fds: None,
            rate_limiter_config: None,
            offload_tso: true,
            offload_ufo: true,
            offload_csum: true,
        }
    }
}

impl NetConfig {
    /// Options of `--net`.
    pub const SYNTAX: Syntax = Syntax::new(
        "tap=<if_name>,ip=<ip_addr>,mask=<net_mask>,mac=<mac_addr>,host_mac=<mac_addr>,mtu=<bytes>,fd=<fd or list>,\
         num_queues=<number>,queue_size=<descriptors>,vhost_user=on|off,socket=<vhost_user_socket>,\
         vhost_mode=client|server,bw_size=<bytes>,bw_one_time_burst=<bytes>,bw_refill_time=<ms>,ops_size=<io_ops>,\
         ops_one_time_burst=<io_ops>,ops_refill_time=<ms>,offload_tso=on|off,offload_ufo=on|off,offload_csum=on|off,\
         id=<device_id>,iommu=on|off,pci_segment=<segment_id>,pci_device_id=<slot>",
    )
    .renamed(&[("socket", "vhost_socket"), ("fd", "fds")]);

    /// Reads one `--net`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let wrong = FlagError::of("--net");
        let mut options = Self::SYNTAX.parse(text).map_err(&wrong)?;
        let rate_limiter_config = RateLimiterConfig::take(&mut options).map_err(&wrong)?;
        let mut net: Self = options.read().map_err(&wrong)?;
        net.rate_limiter_config = rate_limiter_config;
        Ok(net)
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        if self.vhost_user {
            queues::check_vhost_user(at, self.vhost_socket.as_deref(), self.rate_limiter_config.is_some());
        }
        self.pci.check(at);
        self.check_queues(at);
        if self.vhost_user {
            self.pci.check_no_iommu(at);
        }
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < MIN_MTU) {
            let text =
                format!("Provided MTU {mtu} is lower than {MIN_MTU} (expected by VIRTIO specification)");
            at.invalid("mtu", text, "use 1500, for example");
        }
        if !self.offload_csum && (self.offload_tso || self.offload_ufo) {
            let text = r#""offload_tso" and "offload_ufo" depend on "offload_csum""#;
            at.invalid("offload_csum", text, "turn offload_tso and offload_ufo off too");
        }
        match (self.ip, self.mask) {
            (None, Some(_)) => at.invalid("mask", "Mask provided without an IP", "give the ip too"),
            (Some(_), None) => at.invalid("ip", "IP provided without a mask", "give the mask too"),
            _ => {}
        }
        at.claim(self.pci.id.as_deref());
    }

    /// What the kernel would refuse of the interface's settings, and the guest of its address.
    pub(crate) fn check_interface(&self, at: &mut Scope<'_, '_>) {
        check_unicast("mac", self.mac, at);
        if self.vhost_user {
            return;
        }
        check_unicast("host_mac", self.host_mac, at);
        if let Some(tap) = self.tap.as_ref().filter(|tap| !is_interface_name(tap)) {
            let hint =
                "use 1 to 15 letters, digits or signs other than '/' and ':'; a number can stand in for '%d'";
            at.invalid("tap", format!("'{tap}' is no name of a network interface"), hint);
        }
        let Some((ip, mask)) = self.ip.zip(self.mask) else { return };
        if ip.is_ipv4() != mask.is_ipv4() {
            at.invalid("mask", "IP and mask are of different families", "give both as IPv4 or both as IPv6");
        } else if !is_contiguous(mask) {
            let hint = "use 255.255.255.0, for example";
            at.invalid("mask", format!("Mask {mask} has ones after a zero"), hint);
        }
        if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            let hint = "give the host's own address on the tap";
            at.invalid("ip", format!("{ip} is no address of a single host"), hint);
        }
    }

    fn check_queues(&self, at: &mut Scope<'_, '_>) {
        let queues = self.num_queues;
        if queues < 2 {
            let text = format!("Number of queues ({queues}) to virtio_net should be higher than 2");
            at.invalid("num_queues", text, "use two queues for each pair");
        }
        if let Some(fds) = &self.fds {
            let needed = fds.len().saturating_mul(2);
            if needed != queues {
                let text = format!(
                    "Number of queues ({queues}) to virtio_net does not match the number of FDs ({needed})"
                );
                at.invalid("num_queues", text, "use two queues for each descriptor");
            }
            if let Some(fd) = fds.iter().find(|fd| **fd <= 2) {
                let text = format!("Reserved fd number (<= 2): {fd}");
                at.invalid("fds", text, "send the tap's descriptors with the message");
            }
        }
        queues::check_count(at, queues / 2, queues);
        // The control queue.
        queues::check_limit(at, queues, 1);
        queues::check_size(at, "queue_size", self.queue_size);
    }
}

impl Section for Net {
    fn name(&self) -> Name {
        Name::Prefix("_net")
    }

    fn paths(&self) -> Vec<(&'static str, &Path)> {
        let socket = self.vhost_socket.iter().filter(|_| self.vhost_user);
        socket.map(|path| ("vhost_socket", path.as_ref())).collect()
    }

    /// A device on a tap of this process; `None` for a vhost-user one.
    fn kind(&self) -> Option<DeviceKind> {
        if self.vhost_user {
            return None;
        }
        Some(DeviceKind::Net(plan::Net {
            tap: self.tap.clone(),
            ip: self.ip.zip(self.mask),
            mac: self.mac?,
            host_mac: self.host_mac,
            mtu: self.mtu,
            queue_pairs: u16::try_from(self.num_queues / 2).ok()?,
            queue_size: self.queue_size,
            offload_tso: self.offload_tso,
            offload_ufo: self.offload_ufo,
            offload_csum: self.offload_csum,
        }))
    }

    fn grants(&self) -> Vec<Grant> {
        match (self.vhost_user, &self.vhost_socket, &self.fds) {
            (true, Some(socket), _) => vec![Grant::new(socket, Access::ReadWrite)],
            (false, _, None) => vec![Grant::new("/dev/net/tun", Access::ReadWrite)],
            // An open descriptor needs no leave.
            _ => Vec::new(),
        }
    }
}

fn check_unicast(field: &str, mac: Option<MacAddr>, at: &mut Scope<'_, '_>) {
    if let Some(mac) = mac.filter(|mac| !mac.is_unicast()) {
        let text = format!("MAC address {mac} is not that of a single device");
        at.invalid(field, text, "use an address whose first byte is even, such as 2e:00:00:00:00:01");
    }
}

/// Whether the kernel takes `name`: 15 bytes, no white space, and at most one `%`, which must be the `%d` that it replaces by a number.
fn is_interface_name(name: &str) -> bool {
    let legal = name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    let plain = name.replacen("%d", "", 1);
    (1..=15).contains(&name.len()) && legal && !plain.contains('%') && name != "." && name != ".."
}

/// Whether no zero stands before a one.
fn is_contiguous(mask: IpAddr) -> bool {
    let (bits, ones) = match mask {
        IpAddr::V4(mask) => (u128::from(mask.to_bits()) << 96, mask.to_bits().count_ones()),
        IpAddr::V6(mask) => (mask.to_bits(), mask.to_bits().count_ones()),
    };
    bits.leading_ones() == ones
}
