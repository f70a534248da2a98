//! A length of time as one character, since each costs a guest an exit and a lab a millisecond: from `!` for a millisecond or less upward,
//! five steps for every doubling, so that what is read is at most 15 % less than what was meant.

use std::time::Duration;

const STEPS: f64 = 5.0;
const FIRST: u8 = b'!';
const LAST: u8 = b'~';

/// The character for a length of time.
pub fn letter(time: Duration) -> u8 {
    let steps = STEPS * (time.as_secs_f64() * 1e3).log2();
    // The cast keeps within the byte's bounds.
    FIRST.saturating_add(steps.max(0.0) as u8).min(LAST)
}

/// The shortest time that has this character, in milliseconds; `None` if it is none.
pub fn milliseconds(letter: u8) -> Option<f64> {
    let in_scale = (FIRST..=LAST).contains(&letter);
    in_scale.then(|| (f64::from(letter.saturating_sub(FIRST)) / STEPS).exp2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_a_little_less_than_what_was_meant() {
        for time in [1.1, 1.9, 20.0, 333.0, 4_000.0, 100_000.0] {
            let read = milliseconds(letter(Duration::from_secs_f64(time / 1e3))).unwrap();
            assert!(read <= time && read > time * 0.85, "{time} read as {read}");
        }
    }

    #[test]
    fn the_ends() {
        assert_eq!((letter(Duration::ZERO), letter(Duration::from_micros(200))), (b'!', b'!'));
        assert_eq!(letter(Duration::MAX), b'~');
        assert_eq!((milliseconds(b'\n'), milliseconds(b' '), milliseconds(0x7f)), (None, None, None));
        assert_eq!(milliseconds(b'!'), Some(1.0));
    }
}
