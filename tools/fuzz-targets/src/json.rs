//! Comparing JSON that went into a type with what comes out of it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Descriptor numbers mean nothing in JSON: all are read as one (`spec/config.md` §0).
const DESCRIPTORS: [&str; 3] = ["fd", "fds", "iommufd_fd"];

/// Asserts that all of `given` is in `told`. What was left out may come back with its default, and what is off may be left out.
pub(crate) fn assert_kept(given: &Value, told: &Value) {
    assert!(is_kept(given, told), "{given}\ncame back as\n{told}");
}

fn is_kept(given: &Value, told: &Value) -> bool {
    match (given, told) {
        (Value::Object(given), Value::Object(told)) => given.iter().all(|(key, given)| match told.get(key) {
            Some(told) if DESCRIPTORS.contains(&key.as_str()) => count(given) == count(told),
            Some(told) => is_kept(given, told),
            None => given.is_null() || given == false,
        }),
        (Value::Array(given), Value::Array(told)) => {
            given.len() == told.len() && given.iter().zip(told).all(|(given, told)| is_kept(given, told))
        }
        _ => given == told,
    }
}

fn count(descriptors: &Value) -> Option<usize> {
    descriptors.as_array().map(Vec::len)
}

/// Asserts that a `T` is read from what it is written as, and that this is the end of it.
pub(crate) fn assert_stable<T: Serialize + DeserializeOwned>(body: &T) -> Value {
    let told = serde_json::to_value(body).unwrap();
    let (again, unknown) = config::from_json::<T>(told.to_string().as_bytes())
        .unwrap_or_else(|e| panic!("{e}: written and not read again: {told}"));
    assert!(unknown.is_empty(), "{unknown:?} of {told}");
    assert_kept(&told, &serde_json::to_value(again).unwrap());
    told
}
