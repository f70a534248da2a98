//! `--log-format`: what a line of the log looks like (`spec/cli.md` §1 "Logging").

use std::fmt::Write as _;
use std::str::FromStr;

use host::calendar::Moment;
use thiserror::Error;
use tracing::Level;

use super::line::Line;

/// The format of the reference.
pub(crate) const DEFAULT: &str = "cloud-hypervisor: {boottime}s: <{thread}> {level}:{location} -- {msg}";

const TOKENS: &str = "boottime, wallclock, glog, localglog, pid, tid, thread, level, levelchar, location, msg, \
                      year, month, day, hour, minute, second, micros, offset, and the last eight after 'local'";

/// Why a template makes no sense.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum TemplateError {
    /// A token nobody knows.
    #[error("unknown token '{{{0}}}': use 'json', or a text with {TOKENS}")]
    Unknown(String),
    /// A brace without its other half.
    #[error("unbalanced brace at character {0}: write '{{{{' and '}}}}' for braces themselves")]
    Unbalanced(usize),
}

/// A template, ready for use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
    Calendar(Zone, Calendar),
}

/// What a line knows besides the time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    BootTime,
    Pid,
    Tid,
    Thread,
    Level,
    LevelChar,
    Location,
    Message,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zone {
    Utc,
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calendar {
    /// RFC 3339.
    Stamp,
    /// `MMDD HH:MM:SS.uuuuuu`.
    Glog,
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    Micros,
    Offset,
}

impl Part {
    fn of(token: &str) -> Option<Self> {
        let field = match token {
            "boottime" => Field::BootTime,
            "pid" => Field::Pid,
            "tid" => Field::Tid,
            "thread" => Field::Thread,
            "level" => Field::Level,
            "levelchar" => Field::LevelChar,
            "location" => Field::Location,
            "msg" => Field::Message,
            "wallclock" => return Some(Self::Calendar(Zone::Utc, Calendar::Stamp)),
            _ => return Self::of_calendar(token),
        };
        Some(Self::Field(field))
    }

    fn of_calendar(token: &str) -> Option<Self> {
        let (zone, name) = token.strip_prefix("local").map_or((Zone::Utc, token), |name| (Zone::Local, name));
        let calendar = match name {
            "glog" => Calendar::Glog,
            "year" => Calendar::Year,
            "month" => Calendar::Month,
            "day" => Calendar::Day,
            "hour" => Calendar::Hour,
            "minute" => Calendar::Minute,
            "second" => Calendar::Second,
            "micros" => Calendar::Micros,
            "offset" => Calendar::Offset,
            _ => return None,
        };
        Some(Self::Calendar(zone, calendar))
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut signs = text.char_indices().peekable();
        while let Some((at, sign)) = signs.next() {
            let is_brace = matches!(sign, '{' | '}');
            // Two braces stand for one.
            if !is_brace || signs.next_if(|(_, next)| *next == sign).is_some() {
                literal.push(sign);
            } else if sign == '}' {
                return Err(TemplateError::Unbalanced(at));
            } else {
                let token: String =
                    signs.by_ref().map(|(_, sign)| sign).take_while(|sign| *sign != '}').collect();
                if text.as_bytes().get(at + 1 + token.len()) != Some(&b'}') {
                    return Err(TemplateError::Unbalanced(at));
                }
                let part = Part::of(&token).ok_or(TemplateError::Unknown(token))?;
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                parts.push(part);
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }
}

impl Template {
    /// The line as text, without its end.
    pub(super) fn render(&self, line: &Line<'_>) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Field(field) => field.write(&mut text, line),
                Part::Calendar(Zone::Utc, calendar) => calendar.write(&mut text, &Moment::utc(line.time)),
                Part::Calendar(Zone::Local, calendar) => calendar.write(&mut text, &Moment::local(line.time)),
            }
        }
        text
    }
}

impl Field {
    fn write(self, text: &mut String, line: &Line<'_>) {
        // Writing to a string cannot fail.
        let _ = match self {
            Self::BootTime => write!(text, "{:>12.6}", line.boot_time.as_secs_f64()),
            Self::Pid => write!(text, "{}", std::process::id()),
            Self::Tid => write!(text, "{}", rustix::thread::gettid().as_raw_nonzero()),
            Self::Thread => write!(text, "{}", line.thread),
            Self::Level => write!(text, "{}", line.level),
            Self::LevelChar => write!(text, "{}", level_char(line.level)),
            Self::Location => write!(text, "{}:{}", line.file, line.line),
            Self::Message => write!(text, "{}", line.message),
        };
    }
}

fn level_char(level: Level) -> char {
    match level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        Level::INFO => 'I',
        Level::DEBUG => 'D',
        Level::TRACE => 'T',
    }
}

impl Calendar {
    fn write(self, text: &mut String, at: &Moment) {
        // Writing to a string cannot fail.
        let _ = match self {
            Self::Stamp => write!(text, "{}", stamp(at)),
            Self::Glog => write!(
                text,
                "{:02}{:02} {:02}:{:02}:{:02}.{:06}",
                at.month, at.day, at.hour, at.minute, at.second, at.micros
            ),
            Self::Year => write!(text, "{:04}", at.year),
            Self::Month => write!(text, "{:02}", at.month),
            Self::Day => write!(text, "{:02}", at.day),
            Self::Hour => write!(text, "{:02}", at.hour),
            Self::Minute => write!(text, "{:02}", at.minute),
            Self::Second => write!(text, "{:02}", at.second),
            Self::Micros => write!(text, "{:06}", at.micros),
            Self::Offset => write!(text, "{}", offset(at)),
        };
    }
}

/// RFC 3339.
pub(super) fn stamp(at: &Moment) -> String {
    let zone = if at.offset_s == 0 { "Z".into() } else { offset(at) };
    let Moment { year, month, day, hour, minute, second, micros, .. } = at;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}{zone}")
}

fn offset(at: &Moment) -> String {
    let sign = if at.offset_s < 0 { '-' } else { '+' };
    let minutes = at.offset_s.unsigned_abs() / 60;
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn render(template: &str) -> String {
        let line = Line {
            boot_time: Duration::from_micros(1_500_000),
            time: SystemTime::UNIX_EPOCH + Duration::new(1_709_210_096, 7_008_000),
            thread: "vcpu0",
            level: Level::WARN,
            file: "src/a.rs",
            line: 7,
            message: "hello".into(),
        };
        template.parse::<Template>().unwrap().render(&line)
    }

    #[test]
    fn every_token() {
        let (pid, tid) =
            (std::process::id().to_string(), rustix::thread::gettid().as_raw_nonzero().to_string());
        for (template, expected) in [
            (DEFAULT, "cloud-hypervisor:     1.500000s: <vcpu0> WARN:src/a.rs:7 -- hello"),
            ("{wallclock}", "2024-02-29T12:34:56.007008Z"),
            ("{glog}", "0229 12:34:56.007008"),
            ("{year}/{month}/{day}", "2024/02/29"),
            ("{hour}.{minute}.{second}.{micros}{offset}", "12.34.56.007008+00:00"),
            ("{levelchar} {level}", "W WARN"),
            ("{{{msg}}} }}{{", "{hello} }{"),
            ("", ""),
            ("{pid}", &pid),
            ("{tid}", &tid),
        ] {
            assert_eq!(render(template), expected, "{template}");
        }
    }

    #[test]
    fn local_tokens_are_those_of_utc_moved_by_the_offset() {
        let east = Moment { offset_s: -12_600, ..Moment::default() };
        assert_eq!(offset(&east), "-03:30");
        for name in ["year", "month", "day", "hour", "minute", "second", "micros", "offset", "glog"] {
            assert_eq!(
                render(&format!("{{local{name}}}")).len(),
                render(&format!("{{{name}}}")).len(),
                "{name}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (template, error) in [
            ("{colour}", TemplateError::Unknown("colour".into())),
            ("{localmsg}", TemplateError::Unknown("localmsg".into())),
            ("{}", TemplateError::Unknown(String::new())),
            ("a{msg", TemplateError::Unbalanced(1)),
            ("é}", TemplateError::Unbalanced(2)),
            ("{", TemplateError::Unbalanced(0)),
        ] {
            assert_eq!(template.parse::<Template>(), Err(error), "{template}");
        }
    }
}
