//! The bytes of a migration (`spec/lifecycle.md` §8): requests and responses of 16 bytes, tables of ranges, roles of connections.
//!
//! ```text
//!  request   [ command u16 | six bytes of the command's own | length u64 ]   then `length` bytes
//!  response  [ status u16  | six bytes of the command's own | length u64 ]   then `length` bytes
//! ```
//! All numbers are little endian. Where the reference leaves the six bytes unused, we say more (`docs/migration.md`); peers that leave
//! them zero are served as the reference serves them.

use crate::ranges::Range;

/// The version of the protocol, in `Start`.
pub const VERSION: u16 = 0;
/// Bytes of a request or a response without its payload.
pub const HEAD_LEN: usize = 16;
/// Bytes of one entry of a table of ranges.
pub const RANGE_LEN: usize = 16;
/// Most bytes of a configuration or a state.
pub const DOCUMENT_LIMIT: u64 = 64 << 20;
/// Most bytes of a table of ranges: a million of them.
pub const TABLE_LIMIT: u64 = 16 << 20;
/// Most bytes that one page fault may ask for.
pub const FAULT_LIMIT: u64 = 1 << 30;
/// Most bytes of a refusal's reason.
pub const REASON_LIMIT: u64 = 4 << 10;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Opens the conversation; names version and session.
    Start,
    /// The machine's configuration follows, from which the destination makes its RAM.
    Config,
    /// The state of everything but RAM follows.
    State,
    /// A table of ranges follows, then their bytes.
    Memory,
    /// The machine is the destination's and is to run.
    Complete,
    /// The migration is over and has not happened; on a fault connection: all pages are here.
    Abandon,
    /// A slot's number follows, and with it the descriptor of its memory.
    MemoryFd,
    /// The machine is the destination's and is to stay paused.
    CompletePaused,
    /// A range follows whose bytes the destination needs now.
    PageFault,
    /// Ours: the source has heard that the machine is the destination's.
    Settled,
}

/// Numbers on the wire. 0 is reserved as invalid.
const COMMANDS: [(u16, Command); 10] = [
    (1, Command::Start),
    (2, Command::Config),
    (3, Command::State),
    (4, Command::Memory),
    (5, Command::Complete),
    (6, Command::Abandon),
    (7, Command::MemoryFd),
    (8, Command::CompletePaused),
    (9, Command::PageFault),
    // Far from the reference's, which may get more.
    (0x4301, Command::Settled),
];

impl Command {
    fn from_number(number: u16) -> Option<Self> {
        COMMANDS.iter().find(|(known, _)| *known == number).map(|(_, command)| *command)
    }

    fn number(self) -> u16 {
        COMMANDS.iter().find(|(_, command)| *command == self).map_or(0, |(number, _)| *number)
    }
}

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub command: Command,
    /// The command's own bytes.
    pub extra: [u8; 6],
    /// Bytes that follow.
    pub length: u64,
}

impl Request {
    /// A request without bytes of its own.
    pub fn new(command: Command, length: u64) -> Self {
        Self { command, extra: [0; 6], length }
    }

    /// `Start` of the session called `tag`.
    pub fn start(tag: u32) -> Self {
        let mut extra = [0; 6];
        extra[..2].copy_from_slice(&VERSION.to_le_bytes());
        extra[2..].copy_from_slice(&tag.to_le_bytes());
        Self { command: Command::Start, extra, length: 0 }
    }

    /// `Memory` with a table of `table_len` bytes; `zero`: no bytes follow, the ranges are all zero from now on.
    pub fn memory(table_len: u64, zero: bool) -> Self {
        Self { extra: [u8::from(zero), 0, 0, 0, 0, 0], ..Self::new(Command::Memory, table_len) }
    }

    /// Of `Start`: version, and the session's tag; 0 if the source has none.
    pub fn session(&self) -> (u16, u32) {
        let [v0, v1, tag @ ..] = self.extra;
        (u16::from_le_bytes([v0, v1]), u32::from_le_bytes(tag))
    }

    /// Of `Memory`: whether the ranges are zero and no bytes follow.
    pub fn is_zero(&self) -> bool {
        self.extra[0] & 1 != 0
    }

    /// As it goes over the wire.
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        encode(self.command.number(), self.extra, self.length)
    }

    /// Reads it; the error is the unknown command's number.
    ///
    /// # Errors
    /// No such command.
    pub fn decode(bytes: [u8; HEAD_LEN]) -> Result<Self, u16> {
        let (number, extra, length) = decode(bytes);
        Command::from_number(number).map(|command| Self { command, extra, length }).ok_or(number)
    }
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was done.
    Ok,
    /// It was not, and the conversation is over.
    Error,
}

/// The head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// How it went.
    pub status: Status,
    /// The command's own bytes.
    pub extra: [u8; 6],
    /// Bytes that follow: a page's, or the reason of a refusal.
    pub length: u64,
}

impl Response {
    /// Done, and `length` bytes follow.
    pub fn ok(length: u64) -> Self {
        Self { status: Status::Ok, extra: [0; 6], length }
    }

    /// Refused; `length` bytes of reason follow.
    pub fn error(length: u64) -> Self {
        Self { status: Status::Error, extra: [0; 6], length }
    }

    /// To `Start`: what this side can do, and how it knows the connection.
    pub fn welcome(abilities: Abilities, witness: u32) -> Self {
        let mut extra = [0; 6];
        extra[..2].copy_from_slice(&abilities.0.to_le_bytes());
        extra[2..].copy_from_slice(&witness.to_le_bytes());
        Self { status: Status::Ok, extra, length: 0 }
    }

    /// Of the answer to `Start`: abilities and witness; all zero from peers that know neither.
    pub fn introduction(&self) -> (Abilities, u32) {
        let [a0, a1, witness @ ..] = self.extra;
        (Abilities(u16::from_le_bytes([a0, a1])), u32::from_le_bytes(witness))
    }

    /// As it goes over the wire.
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let status = match self.status {
            Status::Ok => 1,
            Status::Error => 2,
        };
        encode(status, self.extra, self.length)
    }

    /// Reads it; the error is the unknown status.
    ///
    /// # Errors
    /// No such status.
    pub fn decode(bytes: [u8; HEAD_LEN]) -> Result<Self, u16> {
        let (status, extra, length) = decode(bytes);
        let status = match status {
            1 => Status::Ok,
            2 => Status::Error,
            other => return Err(other),
        };
        Ok(Self { status, extra, length })
    }
}

/// What a receiver can do beyond the reference; bits of its answer to `Start`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities(pub u16);

impl Abilities {
    /// It answers later connections of the session (`Role::Settle`), and knows `Settled`.
    pub const SETTLE: Self = Self(1);
    /// It takes `Memory` of ranges that are zero, without their bytes.
    pub const ZERO: Self = Self(2);
    /// Its fault connection may be replaced (`Role::FaultAgain`).
    pub const FAULT_AGAIN: Self = Self(4);
    /// All of ours.
    pub const ALL: Self = Self(7);

    /// Whether all of `other` are among them.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a connection after the first is for: its first two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `Memory` requests.
    Memory,
    /// Page faults, asked by the destination.
    Fault,
    /// Ours: what the first connection left open is decided here. `Start` with the session's tag comes first.
    Settle,
    /// Ours: takes the place of a fault connection that broke. `Start` with the session's tag comes first.
    FaultAgain,
}

impl Role {
    /// As it goes over the wire.
    pub fn encode(self) -> [u8; 2] {
        let number: u16 = match self {
            Self::Memory => 1,
            Self::Fault => 2,
            Self::Settle => 0x4301,
            Self::FaultAgain => 0x4302,
        };
        number.to_le_bytes()
    }

    /// Reads it; the error is the unknown role's number.
    ///
    /// # Errors
    /// No such role.
    pub fn decode(bytes: [u8; 2]) -> Result<Self, u16> {
        let number = u16::from_le_bytes(bytes);
        [Self::Memory, Self::Fault, Self::Settle, Self::FaultAgain]
            .into_iter()
            .find(|role| role.encode() == bytes)
            .ok_or(number)
    }
}

/// A table of ranges as it goes over the wire.
pub fn encode_ranges(ranges: &[Range]) -> Vec<u8> {
    ranges.iter().flat_map(|(base, len)| [base.to_le_bytes(), len.to_le_bytes()]).flatten().collect()
}

/// Reads a table of ranges; `None` if its length is no multiple of an entry's.
pub fn decode_ranges(bytes: &[u8]) -> Option<Vec<Range>> {
    let (entries, rest) = bytes.as_chunks::<RANGE_LEN>();
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    rest.is_empty().then(|| entries.iter().map(|entry| (number(&entry[..8]), number(&entry[8..]))).collect())
}

fn encode(first: u16, extra: [u8; 6], length: u64) -> [u8; HEAD_LEN] {
    let mut bytes = [0; HEAD_LEN];
    bytes[..2].copy_from_slice(&first.to_le_bytes());
    bytes[2..8].copy_from_slice(&extra);
    bytes[8..].copy_from_slice(&length.to_le_bytes());
    bytes
}

fn decode(bytes: [u8; HEAD_LEN]) -> (u16, [u8; 6], u64) {
    let [b0, b1, e0, e1, e2, e3, e4, e5, length @ ..] = bytes;
    (u16::from_le_bytes([b0, b1]), [e0, e1, e2, e3, e4, e5], u64::from_le_bytes(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These bytes are the protocol: a change here is a change for every peer.
    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let hex = |bytes: [u8; 16]| bytes.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(hex(Request::start(0).encode()), "01000000000000000000000000000000");
        assert_eq!(hex(Request::start(0x0a0b_0c0d).encode()), "010000000d0c0b0a0000000000000000");
        assert_eq!(hex(Request::new(Command::Config, 0x1234).encode()), "02000000000000003412000000000000");
        assert_eq!(hex(Request::memory(32, false).encode()), "04000000000000002000000000000000");
        assert_eq!(hex(Request::memory(32, true).encode()), "04000100000000002000000000000000");
        assert_eq!(hex(Response::ok(0).encode()), "01000000000000000000000000000000");
        assert_eq!(hex(Response::error(7).encode()), "02000000000000000700000000000000");
        assert_eq!(hex(Response::welcome(Abilities::ALL, 5).encode()), "01000700050000000000000000000000");
        assert_eq!([Role::Memory, Role::Fault].map(Role::encode), [[1, 0], [2, 0]]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (number, command) in COMMANDS {
            let request = Request { command, extra: [1, 2, 3, 4, 5, 6], length: 1 << 63 };
            assert_eq!(Request::decode(request.encode()), Ok(request));
            assert_eq!(request.encode()[..2], number.to_le_bytes());
        }
        for response in [Response::ok(9), Response::error(0), Response::welcome(Abilities::ZERO, 77)] {
            assert_eq!(Response::decode(response.encode()), Ok(response));
        }
        for role in [Role::Memory, Role::Fault, Role::Settle, Role::FaultAgain] {
            assert_eq!(Role::decode(role.encode()), Ok(role));
        }
        assert_eq!(Request::start(7).session(), (VERSION, 7));
        assert_eq!(Response::welcome(Abilities::ZERO, 77).introduction(), (Abilities::ZERO, 77));
        let ranges = [(0, 0x1000), (u64::MAX, u64::MAX), (1 << 32, 5)];
        assert_eq!(decode_ranges(&encode_ranges(&ranges)).unwrap(), ranges);
    }

    #[test]
    fn unknown_numbers_are_named() {
        assert_eq!(Request::decode([0; 16]), Err(0));
        assert_eq!(Request::decode([0xff; 16]), Err(0xffff));
        assert_eq!(Response::decode([0; 16]), Err(0));
        assert_eq!(Response::decode([3; 16]), Err(0x303));
        assert_eq!(Role::decode([0, 1]), Err(0x100));
        assert_eq!(decode_ranges(&[0; 17]), None);
        assert_eq!(decode_ranges(&[]), Some(Vec::new()));
    }
}
