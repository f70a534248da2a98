//! A debugger at the VMM's `--gdb` socket: gdb's remote serial protocol, as far as tests need it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::wait::{self, Patient};

/// A connected debugger.
pub struct Debugger(Patient<UnixStream>);

impl Debugger {
    /// Attaches; the guest stands still from then on.
    ///
    /// # Panics
    /// Nobody answers.
    pub fn attach(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let mut debugger = Self(Patient::new(stream, wait::COMMAND));
        debugger.ask("qSupported:swbreak+;hwbreak+;vContSupported+");
        assert_eq!(debugger.ask("?").get(..3), Some("T05"));
        debugger
    }

    /// Sends a packet.
    ///
    /// # Panics
    /// The connection is gone.
    pub fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.put(format!("${packet}#{sum:02x}").as_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        self.0.stream.write_all(bytes).unwrap();
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        byte[0]
    }

    /// The next packet from the other side.
    ///
    /// # Panics
    /// It does not come in time.
    pub fn receive(&mut self) -> String {
        while self.byte() != b'$' {}
        let text = std::iter::from_fn(|| Some(self.byte()).filter(|byte| *byte != b'#')).collect();
        let _sum = (self.byte(), self.byte());
        // The other side does not wait for it after its last word.
        let _ = self.0.stream.write_all(b"+");
        String::from_utf8(text).unwrap()
    }

    /// A packet and its answer.
    ///
    /// # Panics
    /// It does not come in time.
    pub fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }

    /// As [`Debugger::ask`], where the answer is always the same.
    ///
    /// # Panics
    /// It is another.
    pub fn ok(&mut self, packet: &str) {
        assert_eq!(self.ask(packet), "OK", "{packet}");
    }

    /// Stops a running guest.
    ///
    /// # Panics
    /// It does not stop.
    pub fn interrupt(&mut self) {
        self.put(&[3]);
        assert_eq!(self.receive().get(..3), Some("T02"), "SIGINT");
    }

    /// Memory at a linear address.
    ///
    /// # Panics
    /// There is none.
    pub fn memory(&mut self, address: u64, len: usize) -> Vec<u8> {
        bytes(&self.ask(&format!("m{address:x},{len:x}")))
    }

    /// RIP of the vCPU that stopped last.
    ///
    /// # Panics
    /// There is no answer.
    pub fn rip(&mut self) -> u64 {
        let bytes = bytes(&self.ask("p10"));
        u64::from_le_bytes(bytes.try_into().unwrap())
    }
}

/// Bytes in hexadecimal, with repetitions (`X*n`) as the protocol has them.
fn bytes(text: &str) -> Vec<u8> {
    let mut digits: Vec<u8> = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match (byte, digits.last()) {
            (b'*', Some(last)) => {
                let again = usize::from(rest.next().unwrap() - 29);
                digits.extend(vec![*last; again]);
            }
            _ => digits.push(byte),
        }
    }
    let digit = |digit: u8| char::from(digit).to_digit(16).unwrap_or_else(|| panic!("no bytes: {text}"));
    digits.chunks(2).map(|pair| (digit(pair[0]) << 4 | digit(pair[1])) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_written_out() {
        assert_eq!(bytes("0a0* 01"), [0x0a, 0x00, 0x00, 0x01]);
        assert_eq!(bytes(""), [0; 0]);
    }
}
