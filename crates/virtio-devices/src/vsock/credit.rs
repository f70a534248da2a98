//! Flow control (§5.10.6.3): how many bytes either side may send before the other has made room again. All counts are modulo 2^32.

use std::num::Wrapping;

use super::packet::Header;

/// Bytes that are kept for the host's end of a connection at most, and so what the guest may send ahead.
pub(super) const BUFFER: u32 = 64 << 10;
/// The guest is told of room when it believes that less than this is left.
const LOW: u32 = 4 << 10;

/// What the guest may still be sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ToGuest {
    sent: Wrapping<u32>,
    buffer: u32,
    forwarded: Wrapping<u32>,
}

impl ToGuest {
    /// Every packet of the guest's says how it stands.
    pub(super) fn update(&mut self, header: &Header) {
        self.buffer = header.buf_alloc;
        self.forwarded = Wrapping(header.fwd_cnt);
    }

    /// Bytes it has room for. A guest that claims to have got more than it was sent has none.
    pub(super) fn room(&self) -> usize {
        self.buffer.saturating_sub((self.sent - self.forwarded).0) as usize
    }

    /// `count` bytes, at most the room, are on their way.
    pub(super) fn send(&mut self, count: usize) {
        self.sent += Wrapping(count as u32);
    }
}

/// What the guest may still send.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ToHost {
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// What of it the guest has been told.
    told: Wrapping<u32>,
}

impl ToHost {
    /// `count` bytes have come.
    pub(super) fn receive(&mut self, count: usize) {
        self.received += Wrapping(count as u32);
    }

    /// `count` of them have found their way to the host's end.
    pub(super) fn forward(&mut self, count: usize) {
        self.forwarded += Wrapping(count as u32);
    }

    /// Whether the guest should hear that there is room again, before it has to ask.
    pub(super) fn is_worth_telling(&self) -> bool {
        let believed = BUFFER.saturating_sub((self.received - self.told).0);
        believed < LOW && self.told != self.forwarded
    }

    /// The two fields of each packet to the guest.
    pub(super) fn tell(&mut self, header: &mut Header) {
        self.told = self.forwarded;
        (header.buf_alloc, header.fwd_cnt) = (BUFFER, self.forwarded.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(buf_alloc: u32, fwd_cnt: u32) -> Header {
        Header { buf_alloc, fwd_cnt, ..Header::default() }
    }

    #[test]
    fn the_guest_is_sent_what_it_has_room_for() {
        let mut credit = ToGuest::default();
        assert_eq!(credit.room(), 0);
        credit.update(&header(1000, 0));
        credit.send(400);
        assert_eq!(credit.room(), 600);
        credit.update(&header(1000, 300));
        assert_eq!(credit.room(), 900);
        // It has made its buffer smaller than what is on the way.
        credit.update(&header(50, 300));
        assert_eq!(credit.room(), 0);
        // More forwarded than was sent.
        credit.update(&header(1000, 401));
        assert_eq!(credit.room(), 0);
    }

    #[test]
    fn counts_go_round() {
        let mut credit = ToGuest { sent: Wrapping(u32::MAX - 9), ..ToGuest::default() };
        credit.update(&header(100, u32::MAX - 9));
        credit.send(30);
        assert_eq!(credit.room(), 70);
        credit.update(&header(100, 15));
        assert_eq!(credit.room(), 95);
    }

    #[test]
    fn room_is_told_when_little_is_left_and_there_is_more() {
        let mut credit = ToHost::default();
        credit.receive(61 << 10);
        assert!(!credit.is_worth_telling(), "there is none");
        credit.forward(1);
        assert!(credit.is_worth_telling());
        let mut told = Header::default();
        credit.tell(&mut told);
        assert_eq!((told.buf_alloc, told.fwd_cnt), (64 << 10, 1));
        assert!(!credit.is_worth_telling(), "it knows");
        let mut credit = ToHost::default();
        credit.receive(60 << 10);
        credit.forward(60 << 10);
        assert!(!credit.is_worth_telling(), "it has enough");
    }
}
