//! Taking a descriptor chain apart (§5.2.6). Everything here is the guest's word and may be wrong.
//!
//! ```text
//!  readable: header (16 bytes) | data of OUT, DISCARD, WRITE_ZEROES       in any number of descriptors
//!  writable: data of IN, GET_ID | status (1 byte)
//! ```
//! Runs on a queue's thread.

use block::Buffer;
use memory::{Address, Bytes, DmaView, GuestAddress};
use virtio::Chain;

const HEADER_LEN: usize = 16;

/// A well-formed request. Its data lies in the buffers that [`parse`] filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// `VIRTIO_BLK_T_*`, or anything else.
    pub kind: u32,
    /// The first sector, for those kinds that have one.
    pub sector: u64,
    /// Bytes of data that the device reads.
    pub out_len: u32,
    /// Bytes of data that the device writes. Never both.
    pub in_len: u32,
    /// Where the status byte goes.
    pub status: GuestAddress,
}

/// Takes `chain` apart into a request and the `buffers` of its data. `None` if it is malformed.
pub(super) fn parse(chain: Chain<'_>, ram: &DmaView, buffers: &mut Vec<Buffer>) -> Option<Request> {
    let mut header = [0; HEADER_LEN];
    let mut header_len = 0;
    let (mut out_len, mut in_len) = (0u32, 0u32);
    let mut is_whole = false;
    buffers.clear();
    for descriptor in chain {
        // The chain ends early where it runs out of its table, loops or is longer than 4 GiB.
        is_whole = !descriptor.has_next();
        let (mut address, mut len) = (descriptor.addr(), descriptor.len());
        if descriptor.is_write_only() {
            in_len = in_len.checked_add(len)?;
        } else {
            if in_len > 0 {
                return None;
            }
            let missing = header.get_mut(header_len..)?;
            let part = missing.len().min(len as usize);
            if part > 0 {
                ram.read_slice(missing.get_mut(..part)?, address).ok()?;
                header_len += part;
                address = address.checked_add(part as u64)?;
                len -= part as u32;
            }
            out_len = out_len.checked_add(len)?;
        }
        if len > 0 {
            buffers.push((address, len));
        }
    }
    let (last, last_len) = buffers.last_mut()?;
    if !is_whole || header_len < HEADER_LEN || in_len == 0 {
        return None;
    }
    *last_len -= 1;
    let status = last.checked_add((*last_len).into())?;
    if *last_len == 0 {
        buffers.pop();
    }
    in_len -= 1;
    if !ram.address_in_range(status) || (in_len > 0 && out_len > 0) {
        return None;
    }
    let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
    Some(Request {
        kind: u32::from_le_bytes([k0, k1, k2, k3]),
        sector: u64::from_le_bytes(sector),
        out_len,
        in_len,
        status,
    })
}
