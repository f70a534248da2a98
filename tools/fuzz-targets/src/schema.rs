//! Makes JSON that fits a schema of `docs/openapi.json`, as far as schemas there go: a word this does not know is a panic.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use serde_json::{Map, Number, Value};

use crate::bytes::Bytes;

const TEXTS: [&str; 8] =
    ["", "a", "/a/b", "_disk0", "\"\\\u{7f}\0", "é\u{1f980}", " = , [ ] @ ", "file:///x"];
/// Words that say nothing about what fits.
const ABOUT: [&str; 3] = ["description", "example", "default"];

/// The document.
pub(crate) static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap());

/// Something that fits the schema of this name.
pub(crate) fn fitting(name: &str, bytes: &mut Bytes<'_>) -> Value {
    let schema = &DOCUMENT["components"]["schemas"][name];
    make(schema.as_object().unwrap_or_else(|| panic!("no schema {name}")), bytes)
}

fn make(schema: &Map<String, Value>, bytes: &mut Bytes<'_>) -> Value {
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    if let Some(target) = text("$ref") {
        return fitting(target.rsplit('/').next().unwrap_or_default(), bytes);
    }
    if let Some(all) = schema.get("allOf").and_then(Value::as_array) {
        assert_eq!(all.len(), 1, "only a way to describe a reference");
        return make(all[0].as_object().unwrap(), bytes);
    }
    if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
        return make(bytes.one_of(any).as_object().unwrap(), bytes);
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return bytes.one_of(words).clone();
    }
    if schema.get("nullable") == Some(&Value::Bool(true)) && bytes.one_in(4) {
        return Value::Null;
    }
    match text("type") {
        Some("object") => object(schema, bytes),
        Some("array") => {
            let item = schema["items"].as_object().unwrap();
            (0..bytes.below(4)).map(|_| make(item, bytes)).collect()
        }
        Some("boolean") => (bytes.one_in(2)).into(),
        Some("integer") => integer(schema, bytes).into(),
        Some("string") => string(text("format"), text("pattern"), bytes).into(),
        _ => panic!("a schema without a type: {schema:?}"),
    }
}

fn object(schema: &Map<String, Value>, bytes: &mut Bytes<'_>) -> Value {
    let known = ["type", "properties", "required", "additionalProperties", "nullable"];
    assert!(
        schema.keys().all(|word| known.contains(&word.as_str()) || ABOUT.contains(&word.as_str())),
        "{schema:?}"
    );
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|other| other == name));
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let mut object = Map::new();
    for (name, property) in properties {
        if is_required(name) || bytes.one_in(3) {
            object.insert(name.clone(), make(property.as_object().unwrap(), bytes));
        }
    }
    object.into()
}

fn integer(schema: &Map<String, Value>, bytes: &mut Bytes<'_>) -> Number {
    let (least, most) = (&schema["minimum"], &schema["maximum"]);
    match bytes.below(4) {
        0 => least.as_number().unwrap().clone(),
        1 => most.as_number().unwrap().clone(),
        // Between 0 and the maximum, which is a positive number everywhere.
        2 => (bytes.number() % most.as_u64().unwrap()).max(least.as_u64().unwrap_or(0)).into(),
        _ => u64::from(bytes.byte()).clamp(least.as_u64().unwrap_or(0), most.as_u64().unwrap()).into(),
    }
}

fn string(format: Option<&str>, pattern: Option<&str>, bytes: &mut Bytes<'_>) -> String {
    match (format, pattern) {
        (None, None) if bytes.one_in(4) => {
            (0..bytes.below(20)).map(|_| char::from_u32(u32::from(bytes.byte())).unwrap()).collect()
        }
        (None, None) => (*bytes.one_of(&TEXTS)).to_owned(),
        (Some("ipv4"), None) => Ipv4Addr::from_bits(bytes.number() as u32).to_string(),
        (Some("ipv6"), None) => {
            Ipv6Addr::from_bits(u128::from(bytes.number()) << 64 | u128::from(bytes.number())).to_string()
        }
        (None, Some("^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$")) => {
            let octets: Vec<_> = (0..6).map(|_| format!("{:02x}", bytes.byte())).collect();
            octets.join(":")
        }
        other => panic!("no way to make a string of {other:?}"),
    }
}
