//! A guest whose silence tells for how long it did not run: by it `cargo xtask bench` times snapshots, restores and migrations.
//!
//! One thread wakes up every millisecond and says a character every ten: the longest time that went by between two wake-ups, as
//! [`scale`] writes it. So whoever listens has the time by their own clock, and what the guest's clock has of it.

use std::hint::black_box;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};
use vmguest::scale;

const TICK: Duration = Duration::from_millis(1);
const TICKS: u32 = 10;
/// What is longer is told at once.
const LONG: Duration = Duration::from_millis(10);
/// Words of a page.
const PAGE: usize = 4096 / size_of::<u64>();

/// Fills `fill` MiB of RAM, each page with something else, says `@ready`, and beats from then on. A second thread writes to each page of
/// the first `busy` MiB of it again and again. Never ends by itself.
///
/// # Errors
/// Nobody takes what it says.
pub(crate) fn tell(fill: u32, busy: u32) -> io::Result<()> {
    let mut memory = vec![0_u64; (fill as usize) << 20 >> 3];
    for (number, page) in memory.chunks_mut(PAGE).enumerate() {
        page[0] = number as u64 + 1;
    }
    let working = ((busy as usize) << 20 >> 3).min(memory.len());
    let (working, rest) = memory.split_at_mut(working);
    say(b"@ready\n")?;
    thread::scope(|scope| {
        if !working.is_empty() {
            scope.spawn(move || write(working));
        }
        let beaten = beat();
        black_box(rest);
        beaten
    })
}

fn write(memory: &mut [u64]) {
    loop {
        for page in memory.chunks_mut(PAGE) {
            page[0] = page[0].wrapping_add(1);
        }
        black_box(&mut *memory);
    }
}

fn beat() -> io::Result<()> {
    let mut last = Instant::now();
    loop {
        let mut longest = Duration::ZERO;
        for _ in 0..TICKS {
            thread::sleep(TICK);
            let now = Instant::now();
            longest = longest.max(now - last);
            last = now;
            if longest > LONG {
                break;
            }
        }
        say(&[scale::letter(longest)])?;
    }
}

fn say(what: &[u8]) -> io::Result<()> {
    let mut output = io::stdout();
    output.write_all(what)?;
    output.flush()
}
