//! `--config FILE`: a whole VmConfig in JSON, TOML or YAML, with the field names of the REST API.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use config::VmConfig;
use serde_json::Value;
use thiserror::Error;

/// As much as the REST API takes.
const LIMIT: u64 = 4 << 20;

/// Why a file gives no configuration.
#[derive(Debug, Error)]
#[error("Error reading configuration file \"{}\"", path.display())]
pub(crate) struct FileError {
    path: PathBuf,
    #[source]
    why: Why,
}

#[derive(Debug, Error)]
enum Why {
    #[error("It cannot be read")]
    Read(#[from] io::Error),
    #[error("It has more than {LIMIT} bytes")]
    TooLong,
    #[error("Its kind is not known: end its name with .json, .toml, .yaml or .yml")]
    Kind,
    #[error("It is no JSON configuration")]
    Json(#[source] serde_json::Error),
    #[error("It is no TOML")]
    Toml(#[source] toml::de::Error),
    #[error("It is no YAML")]
    Yaml(#[source] serde_norway::Error),
    #[error("A field does not have the form that the REST API gives it: {0}")]
    Field(String),
}

/// Reads the configuration; the second part names the fields nobody knows.
///
/// # Errors
/// [`FileError`].
pub(crate) fn read(path: &Path) -> Result<(VmConfig, Vec<String>), FileError> {
    let parsed = text(path).and_then(|text| parse(path, &text));
    parsed.map_err(|why| FileError { path: path.into(), why })
}

fn text(path: &Path) -> Result<String, Why> {
    let mut text = String::new();
    File::open(path)?.take(LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LIMIT { Err(Why::TooLong) } else { Ok(text) }
}

fn parse(path: &Path, text: &str) -> Result<(VmConfig, Vec<String>), Why> {
    let value: Value = match path.extension().and_then(|kind| kind.to_str()) {
        Some("json") => return config::from_json(text.as_bytes()).map_err(Why::Json),
        Some("toml") => toml::from_str(text).map_err(Why::Toml)?,
        Some("yaml" | "yml") => serde_norway::from_str(text).map_err(Why::Yaml)?,
        _ => return Err(Why::Kind),
    };
    // One reader of configurations is enough. Lines and columns of the JSON in between mean nothing to anybody.
    config::from_json(value.to_string().as_bytes()).map_err(|error| {
        let text = error.to_string();
        Why::Field(text.split(" at line ").next().unwrap_or_default().into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    fn write(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn three_kinds_of_file_say_the_same() {
        let files = [
            (
                "a.json",
                r#"{"payload":{"kernel":"/k"},"cpus":{"boot_vcpus":2,"max_vcpus":4},"disks":[{"path":"/d"}],"colour":1}"#,
            ),
            (
                "a.toml",
                "colour = 1\n[payload]\nkernel = '/k'\n[cpus]\nboot_vcpus = 2\nmax_vcpus = 4\n[[disks]]\npath = '/d'\n",
            ),
            (
                "a.yaml",
                "colour: 1\npayload: {kernel: /k}\ncpus:\n  boot_vcpus: 2\n  max_vcpus: 4\ndisks:\n- path: /d\n",
            ),
        ];
        let configs = files.map(|(name, text)| {
            let (_dir, path) = write(name, text);
            read(&path).unwrap()
        });
        let (config, unknown) = &configs[0];
        assert_eq!((config.cpus.boot_vcpus, unknown.as_slice()), (2, &["colour".to_owned()][..]));
        assert!(configs.iter().all(|other| *other == configs[0]));
    }

    #[test]
    fn errors_name_the_file_and_the_reason() {
        let long = " ".repeat(LIMIT as usize + 1);
        for (name, text, reason) in [
            ("a.json", "{", "no JSON"),
            ("a.toml", "=", "no TOML"),
            ("a.yaml", "a: [", "no YAML"),
            ("a.yml", "cpus: {boot_vcpus: many}", "form"),
            ("a.ini", "", "kind"),
            ("a", "", "kind"),
            ("a.json", &long, "bytes"),
        ] {
            let (_dir, path) = write(name, text);
            let error = read(&path).unwrap_err();
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            assert!(error.source().unwrap().to_string().contains(reason), "{reason}: {error:?}");
        }
        let missing = read(Path::new("/no/such/file.json")).unwrap_err();
        assert!(missing.source().unwrap().source().unwrap().to_string().contains("No such file"));
    }
}
