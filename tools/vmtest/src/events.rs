//! The event monitor's file: JSON values separated by blank lines.

use serde_json::Value;
use std::path::Path;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `source/event`, for example `vm/booted`.
    pub name: String,
    /// Its properties, or null.
    pub properties: Value,
}

/// All whole events in the file at `path`; none if there is no file.
pub fn read(path: &Path) -> Vec<Event> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // A record that is still being written ends the list.
    serde_json::Deserializer::from_str(&text).into_iter::<Value>().map_while(Result::ok).map(event).collect()
}

fn event(value: Value) -> Event {
    let text = |key: &str| value[key].as_str().unwrap_or("?").to_owned();
    Event { name: format!("{}/{}", text("source"), text("event")), properties: value["properties"].clone() }
}
