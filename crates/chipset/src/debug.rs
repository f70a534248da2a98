//! Ports that guests report through while they have nothing better: boot phases on 0x80, text on 0x402 and the debug console
//! (`spec/devices.md` §2, §13 and §15 "Debug"). vCPUs enter them. No state.

use std::time::Duration;

use device::{Access, Device, Effect, Region, Space, Stateless};
use stream::Stream;

use crate::Clock;

/// The port BIOSes have always shown their progress on.
const POST_PORT: u64 = 0x80;
/// Where firmware builds for virtual machines send their log.
const FIRMWARE_PORT: u64 = 0x402;
/// What the firmware port answers, so that firmware knows it is there.
const FIRMWARE_ANSWER: u8 = 0xe9;

/// Lines logged per second at most: old kernels write to port 0x80 for no purpose but the delay.
const LINES_PER_SECOND: u32 = 100;

/// Port 0x80: every byte written is logged with the phase it stands for and the time since `clock` began.
pub struct BootLog {
    clock: Clock,
    /// The second the last line was logged in, and how many were logged in it.
    second: u64,
    lines: u32,
}

impl BootLog {
    /// Times are read from `clock`.
    pub fn new(clock: Clock) -> Self {
        Self { clock, second: 0, lines: 0 }
    }

    fn line(&mut self, code: u8) -> Option<String> {
        let now = (self.clock)();
        if now.as_secs() != self.second {
            (self.second, self.lines) = (now.as_secs(), 0);
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= LINES_PER_SECOND).then(|| line(code, now))
    }
}

fn line(code: u8, now: Duration) -> String {
    let phase = match code {
        0x00..=0x1f => "Firmware",
        0x20..=0x3f => "Bootloader",
        0x40..=0x5f => "Kernel",
        0x60..=0x7f => "Userspace",
        0x80..=0xff => "Custom",
    };
    format!("[Debug I/O port: {phase} code 0x{code:x}] {}.{:06} seconds", now.as_secs(), now.subsec_micros())
}

impl Stateless for BootLog {
    const KIND: &'static str = "boot-log";
}

impl Device for BootLog {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Pio, POST_PORT, 1, 0)]
    }

    fn read(&mut self, _: Access, _: &mut [u8]) {}

    fn write(&mut self, _: Access, data: &[u8]) -> Effect {
        if let Some(line) = data.first().and_then(|code| self.line(*code)) {
            tracing::warn!("{line}");
        }
        Effect::None
    }

    fn reset(&mut self) {}
}

/// A port whose writes are text. A stream takes them, and nothing else may: it never makes a vCPU wait for a reader.
pub struct TextPort {
    port: u16,
    answer: Option<u8>,
    output: Stream,
}

impl TextPort {
    /// The debug console: `output` gets what is written to `port`, and nothing is read.
    pub fn debug_console(port: u16, output: Stream) -> Self {
        Self { port, answer: None, output }
    }

    /// The firmware's log on port 0x402.
    pub fn firmware(output: Stream) -> Self {
        Self { port: FIRMWARE_PORT as u16, answer: Some(FIRMWARE_ANSWER), output }
    }
}

impl Stateless for TextPort {
    const KIND: &'static str = "text-port";
}

impl Device for TextPort {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Pio, self.port.into(), 1, 0)]
    }

    fn read(&mut self, _: Access, data: &mut [u8]) {
        if let (Some(answer), Some(first)) = (self.answer, data.first_mut()) {
            *first = answer;
        }
    }

    fn write(&mut self, _: Access, data: &[u8]) -> Effect {
        self.output.write(data);
        Effect::None
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::plan;
    use std::sync::{Arc, Mutex};

    const AT: Access = Access { region: 0, offset: 0 };

    #[test]
    fn lines_name_phase_code_and_time() {
        let now = Duration::from_micros(3_000_042);
        assert_eq!(line(0x5, now), "[Debug I/O port: Firmware code 0x5] 3.000042 seconds");
        let phases = [0x1f, 0x20, 0x40, 0x60, 0x80, 0xff].map(|code| line(code, now));
        for (text, phase) in
            phases.iter().zip(["Firmware", "Bootloader", "Kernel", "Userspace", "Custom", "Custom"])
        {
            assert!(text.contains(phase), "{text}");
        }
    }

    #[test]
    fn a_chatty_guest_is_cut_short_each_second() {
        let now = Arc::new(Mutex::new(0));
        let read = now.clone();
        let mut log = BootLog::new(Box::new(move || Duration::from_secs(*read.lock().unwrap())));
        let logged = |log: &mut BootLog| (0..1000).filter(|_| log.line(1).is_some()).count();
        assert_eq!(logged(&mut log), 100);
        *now.lock().unwrap() = 1;
        assert_eq!(logged(&mut log), 100);
    }

    #[test]
    fn text_arrives_and_only_the_firmware_port_answers() {
        let page = tempfile::NamedTempFile::new().unwrap();
        let stream = Stream::open(&plan::Stream::File(page.path().into())).unwrap().unwrap();
        let mut console = TextPort::debug_console(0xe9, stream.clone());
        let mut firmware = TextPort::firmware(stream);
        assert_eq!(console.write(AT, b"a"), Effect::None);
        assert_eq!(firmware.write(AT, b"b"), Effect::None);
        assert_eq!(std::fs::read(page.path()).unwrap(), b"ab");
        let mut data = [0xff; 2];
        console.read(AT, &mut data[..1]);
        firmware.read(AT, &mut data[1..]);
        assert_eq!(data, [0xff, 0xe9]);
    }

    #[test]
    fn contract() {
        device::contract::check(&mut BootLog::new(crate::stopwatch()));
        device::contract::check(&mut TextPort::firmware(Stream::open(&plan::Stream::Null).unwrap().unwrap()));
    }
}
