//! Tests over every rule of `spec/config.md`, as tables of input and the reference's text.

mod flags;
mod grants;
mod json;
mod numa;
mod plan;
mod requests;
mod rules;
mod rules_devices;

use crate::{Plan, Problems, VmConfig, check};

/// The smallest configuration that passes.
const MINIMAL: &str = r#"{"payload":{"kernel":"/k"}}"#;

/// `MINIMAL` with more fields, given as the inside of a JSON object.
fn config(fields: &str) -> VmConfig {
    let comma = if fields.is_empty() { "" } else { "," };
    let payload = if fields.contains("\"payload\"") { "" } else { r#""payload":{"kernel":"/k"}"# };
    let comma = if payload.is_empty() { "" } else { comma };
    let text = format!("{{{payload}{comma}{fields}}}");
    let (config, unknown) = VmConfig::from_json(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert!(unknown.is_empty(), "{text}: {unknown:?}");
    config
}

fn plan(fields: &str) -> Plan {
    check(config(fields)).unwrap_or_else(|problems| panic!("{fields}: {problems:?}"))
}

fn problems(fields: &str) -> Problems {
    check(config(fields)).map_or_else(|problems| problems, |_| panic!("{fields}: no problem"))
}

/// Each row: fields of the configuration, path of the first problem, its text.
fn assert_first_problems(rows: &[(&str, &str, &str)]) {
    for (fields, path, text) in rows {
        let problems = problems(fields);
        let first = problems.iter().next().unwrap();
        assert_eq!((first.path.as_str(), first.text.as_str()), (*path, *text), "{fields}");
        assert!(!first.hint.is_empty(), "{fields}");
    }
}
