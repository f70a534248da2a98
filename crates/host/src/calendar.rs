//! Times of day for people and for guests' clocks, in UTC and where the host is.
//!
//! The C library is asked for the time zone only, which it reads once, in [`read_time_zone`]: a thread that may open no files can still
//! tell the local time.

use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime};

unsafe extern "C" {
    // POSIX has it; the `libc` crate does not for this platform.
    fn tzset();
}

/// A moment in the Gregorian calendar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the usual units")]
pub struct Moment {
    pub year: u64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 1 to 7, Sunday is 1.
    pub week_day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub micros: u32,
    /// Seconds east of UTC.
    pub offset_s: i64,
}

impl Moment {
    /// `time` in UTC; a time before 1970 reads as its beginning.
    pub fn utc(time: SystemTime) -> Self {
        Self::since_1970(since_1970(time))
    }

    /// `time` in the host's time zone.
    pub fn local(time: SystemTime) -> Self {
        let since = since_1970(time);
        let offset_s = offset_s(since.as_secs());
        let shift = Duration::from_secs(offset_s.unsigned_abs());
        let shifted = if offset_s < 0 { since.saturating_sub(shift) } else { since.saturating_add(shift) };
        Self { offset_s, ..Self::since_1970(shifted) }
    }

    /// The moment in UTC that comes `since` after 1970 began.
    pub fn since_1970(since: Duration) -> Self {
        // Years are counted from 1 March, so that a leap day is the last of its year, in cycles of 400 years from the year 0.
        const DAYS_TO_1970: u64 = 719_468;
        const CYCLE: u64 = 146_097;
        let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let shifted = days + DAYS_TO_1970;
        let (cycle, day) = (shifted / CYCLE, shifted % CYCLE);
        let year_in_cycle = (day - day / 1460 + day / 36_524 - day / (CYCLE - 1)) / 365;
        let day_of_year = day - (365 * year_in_cycle + year_in_cycle / 4 - year_in_cycle / 100);
        // Five months from March on have 153 days together.
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: cycle * 400 + year_in_cycle + u64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            // 1970 began on a Thursday.
            week_day: ((days + 4) % 7 + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
            micros: since.subsec_micros(),
            offset_s: 0,
        }
    }
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// How far east of UTC the host's clocks are set at this time; 0 if nobody knows.
fn offset_s(since_1970_s: u64) -> i64 {
    let seconds = libc::time_t::try_from(since_1970_s).unwrap_or(libc::time_t::MAX);
    let mut fields = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both point to one value each, which lives as long as the call.
    let known = unsafe { !libc::localtime_r(&raw const seconds, fields.as_mut_ptr()).is_null() };
    // SAFETY: plain numbers and a pointer, for which zeros are fine; the call has written them besides.
    let fields = unsafe { fields.assume_init() };
    if known { fields.tm_gmtoff } else { 0 }
}

/// Reads the host's time zone. Call it while files may still be opened and no other thread runs.
pub fn read_time_zone() {
    // SAFETY: it only sets the C library's own variables; no other thread reads them yet.
    unsafe { tzset() };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Year, month, day, day of the week, hour, minute and second, as the C library has them.
    fn by_the_c_library(fields: &libc::tm) -> [i64; 7] {
        let libc::tm { tm_year, tm_mon, tm_mday, tm_wday, tm_hour, tm_min, tm_sec, .. } = *fields;
        [tm_year + 1900, tm_mon + 1, tm_mday, tm_wday + 1, tm_hour, tm_min, tm_sec].map(Into::into)
    }

    fn by_us(at: &Moment) -> [i64; 7] {
        let Moment { year, month, day, week_day, hour, minute, second, .. } = *at;
        let small = [month, day, week_day, hour, minute, second].map(i64::from);
        let [month, day, week_day, hour, minute, second] = small;
        [year.cast_signed(), month, day, week_day, hour, minute, second]
    }

    #[test]
    fn dates_are_gregorian() {
        let date = |seconds| by_us(&Moment::since_1970(Duration::from_secs(seconds)));
        assert_eq!(date(0), [1970, 1, 1, 5, 0, 0, 0]);
        assert_eq!(date(951_782_399), [2000, 2, 28, 2, 23, 59, 59]);
        assert_eq!(date(951_782_400), [2000, 2, 29, 3, 0, 0, 0]);
        assert_eq!(date(1_735_689_599), [2024, 12, 31, 3, 23, 59, 59]);
        assert_eq!(date(4_107_542_400), [2100, 3, 1, 2, 0, 0, 0]);
        const DAYS_OF_400_YEARS: u64 = 146_097;
        for seconds in (0..DAYS_OF_400_YEARS).map(|day| day * 86_400 + day % 86_400) {
            let (signed, mut fields) = (seconds.cast_signed(), MaybeUninit::zeroed());
            // SAFETY: both point to one value each, and zeros are a valid one.
            let fields = unsafe {
                libc::gmtime_r(&raw const signed, fields.as_mut_ptr());
                fields.assume_init()
            };
            assert_eq!(date(seconds), by_the_c_library(&fields), "{seconds}");
        }
    }

    #[test]
    fn parts_of_a_second_are_kept_and_no_time_is_too_far() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_709_210_096, 7_008_000);
        let at = Moment::utc(time);
        assert_eq!((by_us(&at), at.micros, at.offset_s), ([2024, 2, 29, 5, 12, 34, 56], 7008, 0));
        assert_eq!(by_us(&Moment::utc(SystemTime::UNIX_EPOCH - Duration::from_secs(1)))[0], 1970);
        assert_eq!(Moment::since_1970(Duration::MAX).year, 584_554_051_223);
    }

    #[test]
    fn local_time_is_the_c_library_s() {
        read_time_zone();
        let time = SystemTime::now();
        let seconds = since_1970(time).as_secs().cast_signed();
        let mut fields = MaybeUninit::zeroed();
        // SAFETY: both point to one value each, and zeros are a valid one.
        let fields = unsafe {
            libc::localtime_r(&raw const seconds, fields.as_mut_ptr());
            fields.assume_init()
        };
        let local = Moment::local(time);
        assert_eq!((by_us(&local), local.offset_s), (by_the_c_library(&fields), fields.tm_gmtoff));
    }
}
