//! The UART's registers and the input that waits for its FIFO.

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;

use serde::{Deserialize, Serialize};
use vm_superio::serial::NoEvents;
use vm_superio::{SerialState, Trigger};

const INTERRUPT_ENABLE: u8 = 1;
/// In [`INTERRUPT_ENABLE`]: tell of received data.
const ENABLE_RECEIVED: u8 = 1;
const INTERRUPT_ID: u8 = 2;
/// In [`INTERRUPT_ID`]: no interrupt is pending; data was received.
const ID_NONE: u8 = 1;
const ID_RECEIVED: u8 = 1 << 2;
const LINE_CONTROL: u8 = 3;
const DIVISOR_LATCH: u8 = 1 << 7;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;
const DATA_READY: u8 = 1;
const LOOPBACK: u8 = 1 << 4;
/// Bytes that wait for the FIFO at most: what one read of the input thread brings.
pub(super) const WAITING: usize = 64;

/// Everything the guest can see, and the input it will see next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    divisor_low: u8,
    divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    fifo: Vec<u8>,
    waiting: Vec<u8>,
}

/// Remembers that the UART wants its interrupt fired.
#[derive(Default)]
struct Edge(Cell<bool>);

impl Trigger for Edge {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.set(true);
        Ok(())
    }
}

/// Holds the byte that the UART sends until the lock is released.
#[derive(Default)]
struct Sent(Option<u8>);

impl io::Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = bytes.last().copied();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Uart = vm_superio::Serial<Edge, NoEvents, Sent>;

/// The registers with their surroundings.
pub(super) struct Core {
    uart: Uart,
    waiting: VecDeque<u8>,
    /// The driver wants to be told of received data.
    tells_received: bool,
    /// It has been told of the data that is there now.
    told: bool,
    /// The input thread found no room and waits to be told of some.
    starved: bool,
}

impl Default for Core {
    fn default() -> Self {
        Self {
            uart: Uart::new(Edge::default(), Sent::default()),
            waiting: VecDeque::new(),
            tells_received: false,
            told: false,
            starved: false,
        }
    }
}

// No call to the UART below can fail: its trigger and its output cannot, and the FIFO's room is asked for first.
impl Core {
    pub(super) fn read(&mut self, register: u8) -> u8 {
        let value = self.uart.read(register);
        if register == INTERRUPT_ID && self.has_unread() { value & !ID_NONE | ID_RECEIVED } else { value }
    }

    /// Whether received data keeps the interrupt pending. It does until the last byte is read (data sheet, "Received data available"),
    /// where `vm-superio` forgets it when the driver reads the identification: a driver that takes only so many bytes per interrupt
    /// would never come back for the rest.
    fn has_unread(&mut self) -> bool {
        self.tells_received && self.uart.read(LINE_STATUS) & DATA_READY != 0
    }

    /// Stores into a register and returns the byte this sent, if any.
    pub(super) fn write(&mut self, register: u8, value: u8) -> Option<u8> {
        if register == INTERRUPT_ENABLE && self.uart.read(LINE_CONTROL) & DIVISOR_LATCH == 0 {
            self.tells_received = value & ENABLE_RECEIVED != 0;
        }
        let _ = self.uart.write(register, value);
        self.uart.writer_mut().0.take()
    }

    /// How much input can be taken. With none, the input thread will be told when there is some.
    pub(super) fn room(&mut self) -> usize {
        let room = self.current_room();
        self.starved = room == 0;
        room
    }

    fn fifo_room(&mut self) -> usize {
        // In loopback the receiver is disconnected from the line.
        if self.uart.read(MODEM_CONTROL) & LOOPBACK != 0 { 0 } else { self.uart.fifo_capacity() }
    }

    fn current_room(&mut self) -> usize {
        if self.waiting.is_empty() { self.fifo_room().min(WAITING) } else { 0 }
    }

    /// Takes input, at most what [`Core::room`] said before.
    pub(super) fn feed(&mut self, input: &[u8]) {
        self.waiting.extend(input);
    }

    /// Moves waiting input into the FIFO. Returns whether the interrupt is due, and whether the input thread must be told of room.
    pub(super) fn settle(&mut self) -> (bool, bool) {
        let count = self.fifo_room().min(self.waiting.len());
        let moved: Vec<u8> = self.waiting.drain(..count).collect();
        let _ = self.uart.enqueue_raw_bytes(&moved);
        let tell = self.starved && self.current_room() > 0;
        self.starved &= !tell;
        let unread = self.has_unread();
        let due = self.uart.interrupt_evt().0.take() || unread && !self.told;
        self.told = unread;
        (due, tell)
    }

    pub(super) fn reset(&mut self) {
        let starved = self.starved;
        *self = Self { starved, ..Self::default() };
    }

    pub(super) fn save(&self) -> State {
        let s = self.uart.state();
        State {
            divisor_low: s.baud_divisor_low,
            divisor_high: s.baud_divisor_high,
            interrupt_enable: s.interrupt_enable,
            interrupt_identification: s.interrupt_identification,
            line_control: s.line_control,
            line_status: s.line_status,
            modem_control: s.modem_control,
            modem_status: s.modem_status,
            scratch: s.scratch,
            fifo: s.in_buffer,
            waiting: self.waiting.iter().copied().collect(),
        }
    }

    /// Puts a state in; `None` if it holds more input than there is room for.
    pub(super) fn restore(&mut self, state: State) -> Option<()> {
        if state.waiting.len() > WAITING {
            return None;
        }
        let s = SerialState {
            baud_divisor_low: state.divisor_low,
            baud_divisor_high: state.divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.fifo,
        };
        self.uart = Uart::from_state(&s, Edge::default(), NoEvents, Sent::default()).ok()?;
        self.tells_received = state.interrupt_enable & ENABLE_RECEIVED != 0;
        self.told = false;
        self.waiting = state.waiting.into();
        Some(())
    }
}
