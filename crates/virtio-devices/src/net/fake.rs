//! A network card without a tap, for the tests of other crates: its frames travel through a socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use ::net::{Offloads, TapQueue};
use config::plan;
use pci::{BarKind, BuildContext, Built};
use virtio::built;

use super::Error;
use super::front::{Host, Net};
use super::shared::Link;

/// Takes every setting and does nothing.
struct NoLink;

impl Link for NoLink {
    fn set_offloads(&self, _: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn set_attached(&self, _: u16) -> io::Result<()> {
        Ok(())
    }
}

/// Builds the device with one non-blocking socket for each queue pair in the place of its tap's queues.
///
/// # Errors
/// [`Error::Thread`].
pub fn build(
    plan: &plan::Net,
    sockets: Vec<UnixDatagram>,
    context: &BuildContext<'_>,
) -> Result<Built, Error> {
    let queues = sockets.into_iter().map(|socket| Arc::new(TapQueue::new(OwnedFd::from(socket)))).collect();
    let host = Host { queues, link: Box::new(NoLink), name: "fake".into(), mtu: Some(1500) };
    Ok(built(Net::assemble(context.id, plan, host)?, BarKind::Memory64, context))
}
