//! `state.json`: what the snapshot is, and the machine's state.
//!
//! Its last field, `checksum`, is the SHA-256 of every byte in front of the comma before it. Bytes rather than values, so that it does not
//! matter how a reader orders keys or rounds numbers.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::Error;
use crate::MAX_STATE;
use crate::directory::{Directory, STATE};
use crate::error::Damage;
use crate::ranges::Ranges;

/// The version of the format that is written and read.
pub const FORMAT: u64 = 1;

const BEFORE_CHECKSUM: &[u8] = br#","checksum":""#;
const AFTER_CHECKSUM: &[u8] = b"\"}\n";
/// Hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;

/// The content of `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) format: u64,
    pub(crate) id: Uuid,
    pub(crate) parent: Option<Parent>,
    pub(crate) memory: Memory,
    pub(crate) checksums: Checksums,
    pub(crate) state: Value,
    #[serde(default, skip_serializing)]
    checksum: String,
}

/// The snapshot that has what an incremental one has not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parent {
    /// Its directory, relative to the incremental one's as a rule.
    pub(crate) path: String,
    pub(crate) id: Uuid,
}

/// The guest's RAM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    pub(crate) ranges: Ranges,
}

/// SHA-256 of other files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checksums {
    #[serde(rename = "config.json")]
    pub(crate) config: String,
    #[serde(rename = "memory-pages", skip_serializing_if = "Option::is_none")]
    pub(crate) pages: Option<String>,
}

/// What is read first, as other formats may have other fields.
#[derive(Deserialize)]
struct AnyFormat {
    format: u64,
}

impl Manifest {
    /// What is known of a snapshot when everything else is written.
    pub(crate) fn new(
        id: Uuid,
        parent: Option<Parent>,
        ranges: &Ranges,
        checksums: Checksums,
        state: Value,
    ) -> Self {
        let memory = Memory { ranges: ranges.clone() };
        Self { format: FORMAT, id, parent, memory, checksums, state, checksum: String::new() }
    }

    /// The file.
    ///
    /// # Errors
    /// It would be larger than a reader allows.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Damage> {
        let mut bytes = serde_json::to_vec(self).map_err(Damage::Malformed)?;
        // The checksum comes into the object.
        bytes.pop();
        let checksum = sha256(&bytes);
        bytes.extend([BEFORE_CHECKSUM, checksum.as_bytes(), AFTER_CHECKSUM].concat());
        match bytes.len() as u64 {
            len if len > MAX_STATE => Err(Damage::TooLarge { len, limit: MAX_STATE }),
            _ => Ok(bytes),
        }
    }

    /// Reads and checks the file of `directory`.
    pub(crate) fn read(directory: &Directory) -> Result<Self, Error> {
        let bytes = directory.content(STATE, MAX_STATE)?;
        Self::parse(&bytes).map_err(Error::damaged(&directory.path_of(STATE)))
    }

    /// Reads and checks a file's content.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        // A newer format may have its checksum elsewhere, and an error should say that it is newer.
        let AnyFormat { format } = serde_json::from_slice(bytes).map_err(Damage::Malformed)?;
        if format != FORMAT {
            return Err(Damage::Format(format));
        }
        let (covered, checksum) = split(bytes).ok_or(Damage::NoChecksum)?;
        if sha256(covered).as_bytes() != checksum {
            return Err(Damage::Checksum);
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(Damage::Malformed)?;
        if manifest.parent.is_some() != manifest.checksums.pages.is_some() {
            let text = "a snapshot has checksums.memory-pages if it has a parent, and only then";
            return Err(Damage::Malformed(serde::de::Error::custom(text)));
        }
        Ok(manifest)
    }
}

/// The bytes that the checksum is over, and the checksum.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let object = bytes.strip_suffix(AFTER_CHECKSUM)?;
    let (rest, checksum) = object.split_at_checked(object.len().checked_sub(DIGITS)?)?;
    Some((rest.strip_suffix(BEFORE_CHECKSUM)?, checksum))
}

/// The SHA-256 of `bytes`, in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(Sha256::new().chain_update(bytes))
}

/// What was hashed, in hexadecimal digits.
pub(crate) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The path of `to` as seen from the directory `from`: relative if they share more than the root, so that both can be moved together.
/// Neither has symbolic links.
pub(crate) fn relative(from: &Path, to: &Path) -> std::path::PathBuf {
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    if common <= 1 {
        return to.to_owned();
    }
    let up = from.components().skip(common).map(|_| std::path::Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest() -> Manifest {
        let ranges = Ranges::new(&[(0, 4096), (1 << 32, 8192)]).unwrap();
        let checksums = Checksums { config: sha256(b"{}"), pages: None };
        Manifest::new(Uuid::nil(), None, &ranges, checksums, json!({"b": 1.1e-7, "a": u64::MAX}))
    }

    /// The file with `from` replaced and a checksum that fits again.
    fn edited(from: &str, to: &str) -> Result<Manifest, Damage> {
        let text = String::from_utf8(manifest().to_bytes().unwrap()).unwrap();
        let (covered, _) = text.split_once(r#","checksum""#).unwrap();
        assert!(covered.contains(from));
        let covered = covered.replacen(from, to, 1);
        Manifest::parse(
            format!(r#"{covered},"checksum":"{}"}}{}"#, sha256(covered.as_bytes()), "\n").as_bytes(),
        )
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = manifest().to_bytes().unwrap();
        let read = Manifest::parse(&bytes).unwrap();
        assert_eq!((read.memory, read.state), (manifest().memory, manifest().state));
        let text = String::from_utf8(bytes).unwrap();
        let start = r#"{"format":1,"id":"00000000-0000-0000-0000-000000000000","parent":null,"memory":{"ranges":[{"base":0,"len":4096},{"base":4294967296,"len":8192}]},"checksums":{"config.json":"44136f"#;
        assert!(text.starts_with(start), "{text}");
        assert!(text.ends_with("\"}\n"));
    }

    #[test]
    fn any_change_is_noticed() {
        let bytes = manifest().to_bytes().unwrap();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(Manifest::parse(&bytes).is_err(), "byte {at}");
            assert!(Manifest::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_valid_checksum_excuses_nothing() {
        let error = |from, to| {
            let error = edited(from, to).unwrap_err();
            std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string)
        };
        assert!(edited("4096", "12288").is_ok());
        assert!(error("4096", "4097").starts_with("memory.ranges[0] is empty or not made of whole pages"));
        assert!(error("\"len\":4096", "\"len\":-1").contains("invalid value"));
        assert!(
            error("\"format\":1", "\"format\":2")
                .contains("Its format is 2, and this program reads format 1")
        );
        assert!(error("\"parent\":null", "\"parent\":null,\"x\":1").contains("unknown field `x`"));
        let parent = r#""parent":{"path":"../a","id":"00000000-0000-0000-0000-000000000000"}"#;
        assert!(error("\"parent\":null", parent).contains("checksums.memory-pages"));
        assert!(error("\"id\":\"0", "\"id\":\"g").contains("UUID parsing failed"));
        let deep = format!("\"state\":{}", "[".repeat(4000));
        assert!(matches!(edited("\"state\":", &deep), Err(Damage::Malformed(_))));
    }

    #[test]
    fn a_parent_beside_its_child_is_named_relatively() {
        let path = |from: &str, to: &str| relative(from.as_ref(), to.as_ref()).display().to_string();
        assert_eq!(path("/s/child", "/s/base"), "../base");
        assert_eq!(path("/s/a/child", "/s/b/base"), "../../b/base");
        assert_eq!(path("/s/base/child", "/s/base"), "..");
        assert_eq!(path("/mnt/child", "/s/base"), "/s/base");
    }
}
