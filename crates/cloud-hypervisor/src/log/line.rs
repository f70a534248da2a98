//! What one line of the log knows.

use std::fmt::{Debug, Write as _};
use std::time::{Duration, SystemTime};

use host::calendar::Moment;
use serde_json::{Map, Value};
use tracing::Level;
use tracing::field::{Field, Visit};

use super::template;

/// One event on its way into the log.
pub(super) struct Line<'a> {
    /// Since the log began.
    pub(super) boot_time: Duration,
    pub(super) time: SystemTime,
    pub(super) thread: &'a str,
    pub(super) level: Level,
    pub(super) file: &'a str,
    pub(super) line: u32,
    pub(super) message: String,
}

impl Line<'_> {
    /// As an object on one line.
    pub(super) fn to_json(&self) -> String {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| drop(object.insert(key.into(), value));
        put("boottime", self.boot_time.as_secs_f64().into());
        put("wallclock", template::stamp(&Moment::utc(self.time)).into());
        put("pid", std::process::id().into());
        put("tid", rustix::thread::gettid().as_raw_nonzero().get().into());
        put("thread", self.thread.into());
        put("level", self.level.as_str().into());
        put("location", format!("{}:{}", self.file, self.line).into());
        put("msg", self.message.as_str().into());
        Value::Object(object).to_string()
    }
}

/// Collects an event's message.
#[derive(Default)]
pub(super) struct Message(pub(super) String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_one_object_on_one_line() {
        let line = Line {
            boot_time: Duration::from_millis(1500),
            time: SystemTime::UNIX_EPOCH,
            thread: "vmm",
            level: Level::INFO,
            file: "a.rs",
            line: 3,
            message: "two\nlines \"quoted\"".into(),
        };
        let text = line.to_json();
        assert!(!text.contains('\n'));
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["msg"], "two\nlines \"quoted\"");
        assert_eq!((&json["boottime"], &json["level"]), (&1.5.into(), &"INFO".into()));
        assert_eq!(json["wallclock"], "1970-01-01T00:00:00.000000Z");
    }
}
