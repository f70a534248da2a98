//! The control queue (§5.1.6.5), served by a thread of its own.

use std::sync::Arc;

use memory::{Bytes, DmaView};
use virtio::{Chain, Context, Fault, Handler};
use virtio_bindings::virtio_net as spec;

use super::front::{GUEST_OFFLOADS, MQ};
use super::shared::{Shared, tap_offloads};

/// Class, command and the longest argument served: a set of offloads.
const MAX_REQUEST_LEN: usize = 2 + 8;

pub(super) struct Control {
    max_pairs: u16,
    features: u64,
    shared: Arc<Shared>,
}

/// The command is unknown, or its argument impossible.
struct Refused;

impl Control {
    pub(super) fn new(max_pairs: u16, shared: Arc<Shared>) -> Self {
        Self { max_pairs, features: 0, shared }
    }

    /// Answers a request and says how many bytes that took. A request without room for the answer gets none.
    fn answer(&self, chain: Chain<'_>, ram: &DmaView) -> u32 {
        let Some(ack_at) = chain.clone().writable().find(|d| d.len() > 0).map(|d| d.addr()) else { return 0 };
        let mut request = [0u8; MAX_REQUEST_LEN];
        let done = match read(&mut request, chain, ram) {
            Some([class, command, argument @ ..]) => self.execute(*class, *command, argument),
            _ => Err(Refused),
        };
        let ack = if done.is_ok() { spec::VIRTIO_NET_OK } else { spec::VIRTIO_NET_ERR };
        ram.write_obj(ack as u8, ack_at).map_or(0, |()| 1)
    }

    fn execute(&self, class: u8, command: u8, argument: &[u8]) -> Result<(), Refused> {
        match (class.into(), command.into()) {
            (spec::VIRTIO_NET_CTRL_MQ, spec::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => self.set_pairs(argument),
            (spec::VIRTIO_NET_CTRL_GUEST_OFFLOADS, spec::VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) => {
                self.set_offloads(argument)
            }
            (spec::VIRTIO_NET_CTRL_ANNOUNCE, spec::VIRTIO_NET_CTRL_ANNOUNCE_ACK) => {
                if let Some(driver) = &mut *self.shared.driver() {
                    driver.announce = false;
                }
                Ok(())
            }
            // A tap hands over every frame it sees; the guest's kernel sorts them out.
            (
                spec::VIRTIO_NET_CTRL_RX,
                spec::VIRTIO_NET_CTRL_RX_PROMISC..=spec::VIRTIO_NET_CTRL_RX_NOBCAST,
            )
            | (spec::VIRTIO_NET_CTRL_VLAN, spec::VIRTIO_NET_CTRL_VLAN_ADD | spec::VIRTIO_NET_CTRL_VLAN_DEL) => {
                Ok(())
            }
            _ => Err(Refused),
        }
    }

    fn set_pairs(&self, argument: &[u8]) -> Result<(), Refused> {
        let pairs = u16::from_le_bytes(first(argument)?);
        if self.features & MQ == 0 || pairs == 0 || pairs > self.max_pairs {
            return Err(Refused);
        }
        self.shared
            .change(|link| link.set_attached(pairs), |driver| driver.pairs = pairs)
            .map_err(|e| self.complain("queues", &e))
    }

    fn set_offloads(&self, argument: &[u8]) -> Result<(), Refused> {
        let offloads = u64::from_le_bytes(first(argument)?);
        let negotiable = self.features & (1 << spec::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) != 0;
        if !negotiable || offloads & !(self.features & GUEST_OFFLOADS) != 0 {
            return Err(Refused);
        }
        self.shared
            .change(|link| link.set_offloads(tap_offloads(offloads)), |driver| driver.offloads = offloads)
            .map_err(|e| self.complain("offloads", &e))
    }

    fn complain(&self, what: &str, error: &std::io::Error) -> Refused {
        tracing::debug!("{}: the tap's {what} cannot be set: {error}", self.shared.id);
        Refused
    }
}

impl Handler for Control {
    fn start(&mut self, _: &mut Context<'_>, features: u64) -> Result<(), Fault> {
        self.features = features;
        Ok(())
    }

    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        let Some(queue) = context.queues.get_mut(position) else { return Ok(()) };
        queue.serve(context.ram, |chain| Ok(Some(self.answer(chain, context.ram))))
    }
}

/// The first bytes of the chain's readable part, as many as fit; `None` if they cannot be read.
fn read<'b>(request: &'b mut [u8], chain: Chain<'_>, ram: &DmaView) -> Option<&'b [u8]> {
    let mut len = 0;
    for descriptor in chain.readable() {
        let rest = request.get_mut(len..)?;
        let now = rest.len().min(descriptor.len() as usize);
        ram.read_slice(rest.get_mut(..now)?, descriptor.addr()).ok()?;
        len += now;
    }
    request.get(..len)
}

fn first<const N: usize>(argument: &[u8]) -> Result<[u8; N], Refused> {
    argument.first_chunk().copied().ok_or(Refused)
}
