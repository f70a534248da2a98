//! Reading JSON bodies: unknown fields are accepted, as clients expect, and reported (`spec/rest-api.md`,
//! JSON leniency).

use serde::de::DeserializeOwned;
use serde_ignored::Path;

/// More unknown fields than this are not worth telling.
const REPORT_LIMIT: usize = 64;

/// Reads a body; the second part holds the paths of the fields that mean nothing, as `disks[0].colour`.
///
/// # Errors
/// serde_json's own, with line and column.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Vec<String>), serde_json::Error> {
    let mut unknown = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    // One type for all bodies, so that the readers of their common parts are compiled once.
    let report: &mut dyn FnMut(Path<'_>) = &mut |path| {
        if unknown.len() < REPORT_LIMIT {
            unknown.push(render(&path));
        }
    };
    let body = serde_ignored::deserialize(&mut json, report)?;
    json.end()?;
    Ok((body, unknown))
}

fn render(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", render(parent)),
        Path::Map { parent, key } => match render(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            render(parent)
        }
    }
}
