//! Telling the network's switches where the guest is now: reverse ARP requests in its name after a restore (`spec/devices.md` §7).
//!
//! The guest is asked to announce itself, too, but not all drivers do.

use std::io;
use std::time::Duration;

use ::net::{HEADER_LEN, Mac, TapQueue};
use host::{EventSet, TimerFd};
use virtio::Watch;

const ANNOUNCEMENTS: u8 = 5;
const INTERVAL: Duration = Duration::from_millis(200);

/// Bytes of the shortest Ethernet frame, without its checksum.
const MIN_FRAME_LEN: usize = 60;

pub(super) struct Announcer {
    timer: TimerFd,
    frame: [u8; HEADER_LEN + MIN_FRAME_LEN],
    left: u8,
}

impl Announcer {
    /// Sends the first announcement; [`Announcer::tick`] under `token` sends the others.
    pub(super) fn start(watch: &Watch, token: u32, tap: &TapQueue, mac: Mac) -> io::Result<Self> {
        let mut timer = TimerFd::new()?;
        timer.reset(INTERVAL, Some(INTERVAL))?;
        watch.add(&timer, token, EventSet::IN)?;
        let mut announcer = Self { timer, frame: rarp_request(mac), left: ANNOUNCEMENTS };
        announcer.send(tap);
        Ok(announcer)
    }

    /// The timer fired.
    pub(super) fn tick(&mut self, tap: &TapQueue) -> io::Result<()> {
        self.timer.wait()?;
        self.send(tap);
        if self.left == 0 {
            self.timer.clear()?;
        }
        Ok(())
    }

    pub(super) fn stop(self, watch: &Watch) {
        // Closing the timer would do as well.
        let _ = watch.remove(&self.timer);
    }

    fn send(&mut self, tap: &TapQueue) {
        self.left = self.left.saturating_sub(1);
        // A network that is not there need not hear of us.
        let _ = tap.send_bytes(&self.frame);
    }
}

/// A reverse ARP request (RFC 903) in which `mac` asks all for its own address.
fn rarp_request(mac: Mac) -> [u8; HEADER_LEN + MIN_FRAME_LEN] {
    const ETHERTYPE: [u8; 2] = [0x80, 0x35];
    /// Ethernet, IPv4, their address lengths, request reverse.
    const RARP: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 3];
    let parts: [&[u8]; 9] =
        [&[0; HEADER_LEN], &[0xff; 6], &mac, &ETHERTYPE, &RARP, &mac, &[0; 4], &mac, &[0; 4]];
    let mut frame = [0; HEADER_LEN + MIN_FRAME_LEN];
    for (to, from) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    frame
}
