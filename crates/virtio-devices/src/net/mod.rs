//! The network card (Virtual I/O Device specification 1.2, §5.1) over a tap interface.
//!
//! ```text
//!  vCPU ---- front: features, configuration, start and stop
//!  {id}_qpN  pair N: receive queue 2N and transmit queue 2N+1 <---> queue N of the tap
//!  {id}_ctrl control queue, behind the pairs ---> offloads and queues of the tap
//! ```
//! Frames travel between guest RAM and the tap in one system call each, without a copy in between.

mod announce;
mod control;
mod front;
mod pair;
mod receive;
mod ring;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod transmit;
mod watch;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ::net::{Mac, Settings, Tap, TapError};
use thiserror::Error;

pub use front::Net;
pub use state::{DriverState, State};

/// A network card over a tap.
#[derive(Clone, Debug)]
pub struct Config {
    /// The device's id, which also names its threads.
    pub id: String,
    /// The host's interface, unless its queues are open already; `None` lets the kernel choose `vmtapN`.
    pub tap: Option<String>,
    /// Address and network mask of the host's interface.
    pub ip: Option<(IpAddr, IpAddr)>,
    /// The guest's Ethernet address.
    pub mac: Mac,
    /// The Ethernet address of the host's interface; `None` keeps what the kernel chose.
    pub host_mac: Option<Mac>,
    /// Bytes per frame without the Ethernet header; `None` keeps the interface's.
    pub mtu: Option<u16>,
    /// Receive and transmit queues, in pairs: 1 to 511, as a function has at most 1024 queues.
    pub queue_pairs: u16,
    /// The largest size of each queue, a power of 2.
    pub queue_size: u16,
    /// Offer to cut TCP segments.
    pub offload_tso: bool,
    /// Offer to fragment UDP datagrams.
    pub offload_ufo: bool,
    /// Offer to make and check checksums.
    pub offload_csum: bool,
}

/// Why a network card cannot be built.
#[derive(Debug, Error)]
pub enum Error {
    /// The host's interface cannot be had.
    #[error("Cannot connect network device '{id}'")]
    Tap {
        /// The device.
        id: String,
        /// Which step failed, and the way out.
        #[source]
        source: TapError,
    },
    /// A thread or its descriptors cannot be had.
    #[error("Cannot start thread '{name}': raise the limits of threads and open files")]
    Thread {
        /// The thread.
        name: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Opens the tap, or takes over the queues that somebody else has `opened`, one for each pair, and parks the worker threads.
///
/// # Errors
/// [`enum@Error`]; nothing is left behind.
pub fn build(config: &Config, opened: Vec<OwnedFd>) -> Result<Net, Error> {
    let settings = Settings {
        name: config.tap.as_deref(),
        ip: config.ip,
        host_mac: config.host_mac,
        mtu: config.mtu,
        queue_pairs: config.queue_pairs,
    };
    let tap = if opened.is_empty() { Tap::open(&settings) } else { Tap::from_descriptors(opened, &settings) };
    let tap = tap.map_err(|source| Error::Tap { id: config.id.clone(), source })?;
    let (name, mtu) = (tap.name().to_owned(), tap.mtu());
    tracing::debug!("{}: connected to tap interface '{name}'", config.id);
    let queues = tap.queues().to_vec();
    Net::assemble(config, front::Host { queues, link: Box::new(tap), name, mtu })
}
