//! Where in a configuration file a complaint belongs. The reader of configurations sees JSON that is made from the file, one field on each
//! line; that line leads to the field's path, and the path back to a line of the file.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::Language;

/// A step from a value to one inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Into a map.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// The path of what stands on `line` of `value` as pretty JSON; the end of a map or list counts as the whole of it.
pub(super) fn steps(value: &Value, line: usize) -> Vec<Step> {
    let mut path = Vec::new();
    let mut at = 1;
    find(value, &mut at, line, &mut path);
    path
}

fn find(value: &Value, at: &mut usize, line: usize, path: &mut Vec<Step>) -> bool {
    if *at == line {
        return true;
    }
    let mut inner = |step: Step, value: &Value| {
        *at += 1;
        path.push(step);
        let is_found = find(value, at, line, path);
        if !is_found {
            path.pop();
        }
        is_found
    };
    let (is_found, is_empty) = match value {
        Value::Object(map) => {
            (map.iter().any(|(key, value)| inner(Step::Key(key.clone()), value)), map.is_empty())
        }
        Value::Array(list) => {
            let mut items = list.iter().enumerate();
            (items.any(|(i, value)| inner(Step::Index(i), value)), list.is_empty())
        }
        _ => (false, true),
    };
    if is_found || is_empty {
        return is_found;
    }
    *at += 1;
    *at == line
}

/// A path as people write it, such as `disks[1].path`.
pub(super) fn render(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.push_str(&format!(".{key}")),
            Step::Index(i) => text.push_str(&format!("[{i}]")),
        }
    }
    if text.is_empty() { "the whole".into() } else { text }
}

/// What stands at `path`.
pub(super) fn value<'v>(whole: &'v Value, path: &[Step]) -> Option<&'v Value> {
    path.iter().try_fold(whole, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(i) => value.get(i),
    })
}

/// The line of `text` on which the value at `path` is. The text has been read before, so that this fails at that value only.
pub(super) fn line(language: Language, text: &str, path: &[Step]) -> usize {
    let walk = Walk(path);
    let line = match language {
        Language::Json => {
            walk.deserialize(&mut serde_json::Deserializer::from_str(text)).err().map(|e| e.line())
        }
        Language::Toml => {
            toml::Deserializer::parse(text).and_then(|toml| walk.deserialize(toml)).err().map(|e| {
                let start = e.span().map_or(0, |span| span.start);
                text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1
            })
        }
        Language::Yaml => {
            let error = walk.deserialize(serde_norway::Deserializer::from_str(text)).err();
            error.and_then(|e| e.location()).map(|location| location.line())
        }
    };
    line.unwrap_or(1).max(1)
}

/// Reads up to the value at a path, and fails there, so that the format's own error tells where that is.
struct Walk<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

/// What is not overridden here fails, by the trait's own methods.
impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the walk")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("here"));
        };
        while let Some(key) = map.next_key::<String>()? {
            if key == *wanted {
                map.next_value_seed(Walk(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("here"));
        };
        for _ in 0..*wanted {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Walk(rest)).map(drop)
    }
}
