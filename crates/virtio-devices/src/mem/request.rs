//! Requests and responses as they lie in a chain (Virtio 1.2 §5.15.6).

use memory::{Bytes, DmaView, GuestAddress};
use virtio::{Chain, Fault};

/// Bytes of a request that mean something.
pub(super) const REQUEST_LEN: usize = 24;
/// Bytes of a response.
pub(super) const RESPONSE_LEN: usize = 10;

/// What a driver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Plug(Span),
    Unplug(Span),
    UnplugAll,
    State(Span),
    /// A type that no specification has.
    Unknown(u16),
}

/// Blocks from an address on, as the driver names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) address: u64,
    pub(super) blocks: u16,
}

/// What it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// Done.
    Ack,
    /// More than is wanted.
    Nack,
    /// Not now: the host has no memory.
    Busy,
    /// The request makes no sense.
    Error,
    /// The state of blocks.
    State(BlockState),
}

/// The state of some blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockState {
    Plugged,
    Unplugged,
    Mixed,
}

impl Request {
    pub(super) fn from_bytes(bytes: [u8; REQUEST_LEN]) -> Self {
        let [low, high, _, _, _, _, _, _, address @ .., blocks_low, blocks_high, _, _, _, _, _, _] = bytes;
        let address: [u8; 8] = address;
        let span = Span {
            address: u64::from_le_bytes(address),
            blocks: u16::from_le_bytes([blocks_low, blocks_high]),
        };
        match u16::from_le_bytes([low, high]) {
            0 => Self::Plug(span),
            1 => Self::Unplug(span),
            2 => Self::UnplugAll,
            3 => Self::State(span),
            unknown => Self::Unknown(unknown),
        }
    }
}

impl Response {
    pub(super) fn to_bytes(self) -> [u8; RESPONSE_LEN] {
        let (kind, state) = match self {
            Self::Ack | Self::State(BlockState::Plugged) => (0, 0),
            Self::State(BlockState::Unplugged) => (0, 1),
            Self::State(BlockState::Mixed) => (0, 2),
            Self::Nack => (1, 0),
            Self::Busy => (2, 0),
            Self::Error => (3, 0),
        };
        [kind, 0, 0, 0, 0, 0, 0, 0, state, 0]
    }
}

/// A request, and where its response belongs.
pub(super) struct Exchange {
    pub(super) request: Request,
    response: GuestAddress,
}

impl Exchange {
    /// Reads a chain: the request's buffer, then the response's.
    pub(super) fn read(mut chain: Chain<'_>, ram: &DmaView) -> Result<Self, Fault> {
        let mut bytes = [0; REQUEST_LEN];
        let request =
            chain.next().filter(|buffer| !buffer.is_write_only() && buffer.len() >= REQUEST_LEN as u32);
        let request = request.ok_or(Fault::Protocol("a memory request is too short"))?;
        ram.read_slice(&mut bytes, request.addr())
            .map_err(|_| Fault::Protocol("a memory request is not in RAM"))?;
        let response =
            chain.next().filter(|buffer| buffer.is_write_only() && buffer.len() >= RESPONSE_LEN as u32);
        let response = response.ok_or(Fault::Protocol("a memory request leaves no room for the answer"))?;
        Ok(Self { request: Request::from_bytes(bytes), response: response.addr() })
    }

    /// Writes the response; its length comes out.
    pub(super) fn answer(&self, response: Response, ram: &DmaView) -> Result<u32, Fault> {
        ram.write_slice(&response.to_bytes(), self.response)
            .map_err(|_| Fault::Protocol("a memory request's answer is not in RAM"))?;
        Ok(RESPONSE_LEN as u32)
    }
}
