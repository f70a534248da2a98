//! Times of day for people, in UTC and where the host is.
//!
//! The C library reads the time zone once, in [`read_time_zone`]: a thread that may open no files can still tell the local time.

use std::mem::MaybeUninit;
use std::time::SystemTime;

unsafe extern "C" {
    // POSIX has it; the `libc` crate does not for this platform.
    fn tzset();
}

/// A moment in a calendar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the usual units")]
pub struct Moment {
    pub year: i32,
    /// 1 to 12.
    pub month: i32,
    /// 1 to 31.
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
    /// 0 to 60.
    pub second: i32,
    pub micros: u32,
    /// Seconds east of UTC.
    pub offset_s: i64,
}

impl Moment {
    /// `time` in UTC.
    pub fn utc(time: SystemTime) -> Self {
        Self::convert(time, |seconds, fields| {
            // SAFETY: both point to one value each, which lives as long as the call.
            unsafe { !libc::gmtime_r(seconds, fields).is_null() }
        })
    }

    /// `time` in the host's time zone.
    pub fn local(time: SystemTime) -> Self {
        Self::convert(time, |seconds, fields| {
            // SAFETY: both point to one value each, which lives as long as the call.
            unsafe { !libc::localtime_r(seconds, fields).is_null() }
        })
    }

    fn convert(time: SystemTime, read: impl FnOnce(*const libc::time_t, *mut libc::tm) -> bool) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = libc::time_t::try_from(since.as_secs()).unwrap_or(libc::time_t::MAX);
        let mut fields = MaybeUninit::<libc::tm>::zeroed();
        if !read(&raw const seconds, fields.as_mut_ptr()) {
            return Self::default();
        }
        // SAFETY: plain numbers and a pointer, for which zeros are fine; the call has written them besides.
        let fields = unsafe { fields.assume_init() };
        Self {
            year: fields.tm_year.saturating_add(1900),
            month: fields.tm_mon + 1,
            day: fields.tm_mday,
            hour: fields.tm_hour,
            minute: fields.tm_min,
            second: fields.tm_sec,
            micros: since.subsec_micros(),
            offset_s: fields.tm_gmtoff,
        }
    }
}

/// Reads the host's time zone. Call it while files may still be opened and no other thread runs.
pub fn read_time_zone() {
    // SAFETY: it only sets the C library's own variables; no other thread reads them yet.
    unsafe { tzset() };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_moment_in_utc() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_709_210_096, 7_008_000);
        let moment = Moment {
            year: 2024,
            month: 2,
            day: 29,
            hour: 12,
            minute: 34,
            second: 56,
            micros: 7008,
            offset_s: 0,
        };
        assert_eq!(Moment::utc(time), moment);
    }

    #[test]
    fn local_time_is_utc_and_its_offset() {
        read_time_zone();
        let time = SystemTime::now();
        let local = Moment::local(time);
        let offset = u64::try_from(local.offset_s).map(Duration::from_secs);
        let shifted = match offset {
            Ok(east) => time + east,
            Err(_) => time - Duration::from_secs(local.offset_s.unsigned_abs()),
        };
        assert_eq!(Moment { offset_s: local.offset_s, ..Moment::utc(shifted) }, local);
    }
}
