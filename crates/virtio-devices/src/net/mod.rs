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
#[cfg(feature = "fake-tap")]
pub mod fake;
mod front;
mod pair;
mod profile;
mod receive;
mod ring;
mod shared;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod transmit;
mod watch;

use std::io;
use std::os::fd::OwnedFd;

use ::net::{Tap, TapError};
use config::{VmConfig, plan};
use pci::{BarKind, BuildContext, Built};
use thiserror::Error;
use virtio::built;

pub use front::Net;
pub use profile::PROFILES;
pub use state::{DriverState, State};

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
    /// The queues that somebody opened cannot be duplicated.
    #[error("Cannot take over the descriptors of network device '{id}': raise the limit of open files")]
    Descriptors {
        /// The device.
        id: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
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

/// Opens the tap, or takes over the queues that somebody else has opened, one for each pair, and parks the worker threads.
///
/// # Errors
/// [`enum@Error`]; nothing is left behind.
pub fn build(plan: &plan::Net, context: &BuildContext<'_>) -> Result<Built, Error> {
    let net = connect(plan, context)?;
    if !context.descriptors.is_empty() {
        // Whoever opened the interface knows its name, and the configuration shows descriptors in its place.
        return Ok(built(net, BarKind::Memory64, context));
    }
    let (id, name) = (context.id.to_owned(), net.tap_name().to_owned());
    let learned = move |vm: &mut VmConfig| {
        let mut nets = vm.net.iter_mut().flatten();
        if let Some(net) = nets.find(|net| net.pci.id.as_ref() == Some(&id)) {
            net.tap = Some(name.clone());
        }
    };
    Ok(built(net, BarKind::Memory64, context).learned(learned))
}

fn connect(plan: &plan::Net, context: &BuildContext<'_>) -> Result<Net, Error> {
    let id = context.id;
    let opened = || context.descriptors.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>();
    let tap = match opened() {
        Ok(opened) if opened.is_empty() => Tap::open(plan),
        Ok(opened) => Tap::from_descriptors(opened, plan),
        Err(source) => return Err(Error::Descriptors { id: id.into(), source }),
    };
    let tap = tap.map_err(|source| Error::Tap { id: id.into(), source })?;
    let (name, mtu) = (tap.name().to_owned(), tap.mtu());
    tracing::debug!("{id}: connected to tap interface '{name}'");
    let queues = tap.queues().to_vec();
    Net::assemble(id, plan, front::Host { queues, link: Box::new(tap), name, mtu })
}
