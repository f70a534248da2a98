//! Packets (Virtio 1.2 §5.10.6): a header, and bytes of a stream behind it.

/// Bytes of a header.
pub(super) const HEADER_LEN: usize = 44;
/// Bytes of a stream that one packet carries at most.
pub(super) const MAX_PAYLOAD: usize = 64 << 10;
/// The host's address.
pub(super) const HOST_CID: u64 = 2;
/// The one type of socket there is: a stream.
pub(super) const STREAM: u16 = 1;

/// Flag of SHUTDOWN: whoever sends it receives no more.
pub(super) const RECEIVES_NO_MORE: u32 = 1;
/// Flag of SHUTDOWN: whoever sends it sends no more.
pub(super) const SENDS_NO_MORE: u32 = 2;

/// What a packet is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Op {
    /// Asks for a connection.
    #[default]
    Request = 1,
    /// Accepts it.
    Response = 2,
    /// There is no connection, or not any more.
    Reset = 3,
    /// One direction, or both, have ended.
    Shutdown = 4,
    /// Carries bytes.
    Data = 5,
    /// Says how much room there is.
    CreditUpdate = 6,
    /// Asks how much room there is.
    CreditRequest = 7,
}

impl Op {
    /// What the driver means by `number`, if anything.
    pub(super) fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// A header, in the order of its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
    /// Bytes behind the header.
    pub(super) len: u32,
    /// [`STREAM`], or what nobody here knows.
    pub(super) kind: u16,
    /// An [`Op`], or what nobody here knows.
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Bytes of the sender's buffer.
    pub(super) buf_alloc: u32,
    /// Bytes that have left that buffer so far, modulo 2^32.
    pub(super) fwd_cnt: u32,
}

impl Header {
    /// Reads it, little-endian.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            source_cid: u64::from_le_bytes(fields.next()),
            destination_cid: u64::from_le_bytes(fields.next()),
            source_port: u32::from_le_bytes(fields.next()),
            destination_port: u32::from_le_bytes(fields.next()),
            len: u32::from_le_bytes(fields.next()),
            kind: u16::from_le_bytes(fields.next()),
            op: u16::from_le_bytes(fields.next()),
            flags: u32::from_le_bytes(fields.next()),
            buf_alloc: u32::from_le_bytes(fields.next()),
            fwd_cnt: u32::from_le_bytes(fields.next()),
        }
    }

    /// Writes it, little-endian.
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let (cids, rest) = bytes.split_at_mut(16);
        put(cids, &[self.source_cid.to_le_bytes(), self.destination_cid.to_le_bytes()]);
        let [low, high] = self.kind.to_le_bytes();
        let [op_low, op_high] = self.op.to_le_bytes();
        put(
            rest,
            &[
                self.source_port.to_le_bytes(),
                self.destination_port.to_le_bytes(),
                self.len.to_le_bytes(),
                [low, high, op_low, op_high],
                self.flags.to_le_bytes(),
                self.buf_alloc.to_le_bytes(),
                self.fwd_cnt.to_le_bytes(),
            ],
        );
        bytes
    }
}

fn put<const N: usize>(bytes: &mut [u8], fields: &[[u8; N]]) {
    for (to, from) in bytes.iter_mut().zip(fields.as_flattened()) {
        *to = *from;
    }
}

/// What is left of a header that is being read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// The next field; zeros behind the last.
    fn next<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_says() {
        let bytes: [u8; HEADER_LEN] = std::array::from_fn(|i| i as u8);
        let header = Header::from_bytes(&bytes);
        assert_eq!(header.source_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.destination_cid, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!((header.source_port, header.destination_port), (0x1312_1110, 0x1716_1514));
        assert_eq!((header.len, header.kind, header.op), (0x1b1a_1918, 0x1d1c, 0x1f1e));
        assert_eq!((header.flags, header.buf_alloc, header.fwd_cnt), (0x2322_2120, 0x2726_2524, 0x2b2a_2928));
        assert_eq!(header.to_bytes(), bytes);
    }

    #[test]
    fn every_op_has_its_number_and_no_other_has_one() {
        for number in 0..=u16::MAX {
            assert_eq!(
                Op::from_number(number).map(|op| op as u16),
                (1..=7).contains(&number).then_some(number)
            );
        }
    }
}
