//! `--config FILE`: a whole VmConfig in JSON, TOML or YAML, with the field names of the REST API.

mod distinct;
mod place;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use config::VmConfig;
use serde_json::Value;
use thiserror::Error;

use distinct::Distinct;

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
    Language,
    #[error("It is no JSON")]
    Json(#[source] serde_json::Error),
    #[error("It is no TOML")]
    Toml(#[source] toml::de::Error),
    #[error("It is no YAML")]
    Yaml(#[source] serde_norway::Error),
    #[error("Line {line}: {field} does not have the form that the REST API gives it: {text}")]
    Field { line: usize, field: String, text: String },
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
    if text.len() as u64 > LIMIT {
        return Err(Why::TooLong);
    }
    // Editors of other systems put a byte-order mark in front.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// The languages of files.
#[derive(Clone, Copy)]
enum Language {
    Json,
    Toml,
    Yaml,
}

impl Language {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "json" => Some(Self::Json),
            "toml" => Some(Self::Toml),
            "yaml" | "yml" => Some(Self::Yaml),
            _ => None,
        }
    }

    fn parse(self, text: &str) -> Result<Value, Why> {
        let value: Result<Distinct, Why> = match self {
            Self::Json => serde_json::from_str(text).map_err(Why::Json),
            Self::Toml => toml::from_str(text).map_err(Why::Toml),
            Self::Yaml => serde_norway::from_str(text).map_err(Why::Yaml),
        };
        value.map(|Distinct(value)| value)
    }
}

/// One reader of configurations is enough, and that is JSON's; its complaint is brought back to the place in the file.
fn parse(path: &Path, text: &str) -> Result<(VmConfig, Vec<String>), Why> {
    let language = Language::of(path).ok_or(Why::Language)?;
    let value = language.parse(text)?;
    let json = format!("{value:#}");
    config::from_json(json.as_bytes()).map_err(|error| {
        let steps = place::steps(&value, error.line());
        let text_of_error = error.to_string();
        let mut complaint = text_of_error.split(" at line ").next().unwrap_or_default().to_owned();
        if matches!(language, Language::Yaml) && place::value(&value, &steps) == Some(&Value::Null) {
            complaint.push_str("; in YAML nothing is there: if a word is meant, put the word into quotes");
        }
        Why::Field {
            line: place::line(language, text, &steps),
            field: place::render(&steps),
            text: complaint,
        }
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
    fn errors_of_form_name_the_field_and_its_line() {
        let files = [
            (
                "a.json",
                "{\n \"payload\": {\"kernel\": \"/k\"},\n \"disks\": [{\"path\": \"/a\"},\n  {\"path\": \"/b\",\n   \"num_queues\": \"two\"}]\n}\n",
                5,
            ),
            (
                "a.toml",
                "[payload]\nkernel = '/k'\n\n[[disks]]\npath = '/a'\n[[disks]]\npath = '/b'\nnum_queues = 'two'\n",
                8,
            ),
            (
                "a.yaml",
                "# A VM\npayload: {kernel: /k}\ndisks:\n- path: /a\n- path: /b\n\n  num_queues: two\n",
                7,
            ),
        ];
        for (name, text, line) in files {
            let (_dir, path) = write(name, text);
            let why = read(&path).unwrap_err().source().unwrap().to_string();
            let start = format!(
                "Line {line}: disks[1].num_queues does not have the form that the REST API gives it: "
            );
            assert!(why.starts_with(&start) && why.contains("two"), "{why}");
        }
        for (name, text, expected) in [
            ("a.yaml", "payload: {kernel: /k}\nvsock:\n  cid: 3\n", "Line 3: vsock"),
            ("a.toml", "payload = {kernel = '/k'}\n[vsock]\ncid = 3\n", "Line 2: vsock"),
            ("a.yaml", "payload: 5\n", "Line 1: payload"),
            ("a.yaml", "- 5\n", "Line 1: [0]"),
            ("a.json", "5", "Line 1: the whole"),
            ("a.toml", "cpus = {boot_vcpus = -1, max_vcpus = 1}", "Line 1: cpus.boot_vcpus"),
        ] {
            let (_dir, path) = write(name, text);
            let why = read(&path).unwrap_err().source().unwrap().to_string();
            assert!(why.starts_with(expected), "{name} {text}: {why}");
        }
    }

    #[test]
    fn a_section_that_is_there_twice_is_not_lost() {
        for (name, text, place) in [
            ("a.json", "{\"payload\":{\"kernel\":\"/k\"},\n\"payload\":{\"kernel\":\"/q\"}}", "line 2"),
            ("a.json", "{\"disks\":[{\"path\":\"/a\",\n\"path\":\"/b\"}]}", "line 2"),
            ("a.yaml", "disks: [{path: /a}]\npayload: {kernel: /k}\ndisks: [{path: /b}]\n", "disks"),
            ("a.toml", "payload = {kernel = '/k'}\npayload = {kernel = '/q'}", "line 2"),
        ] {
            let (_dir, path) = write(name, text);
            let why = read(&path).unwrap_err();
            let why = why.source().unwrap().source().unwrap().to_string();
            assert!(why.contains(place) && (why.contains("twice") || why.contains("duplicate")), "{why}");
        }
    }

    /// The API has a mode of that name.
    #[test]
    fn yaml_s_null_is_told_from_the_word() {
        let (_dir, path) = write("a.yaml", "payload: {kernel: /k}\nconsole:\n  mode: Null\n");
        let why = read(&path).unwrap_err().source().unwrap().to_string();
        assert!(why.starts_with("Line 3: console.mode") && why.contains("put the word into quotes"), "{why}");
        let (_dir, path) = write("a.yaml", "payload: {kernel: /k}\nconsole:\n  mode: 'Null'\n");
        assert_eq!(read(&path).unwrap().0.console.mode, config::ConsoleMode::Null);
    }

    #[test]
    fn names_in_capitals_and_byte_order_marks_do_no_harm() {
        for (name, text) in [
            ("A.JSON", "\u{feff}{\"payload\":{\"kernel\":\"/k\"}}"),
            ("a.Toml", "\u{feff}payload = {kernel = '/k'}"),
            ("a.YML", "\u{feff}payload: {kernel: /k}"),
        ] {
            let (_dir, path) = write(name, text);
            let (config, _) = read(&path).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            assert_eq!(config.payload.unwrap().kernel, Some("/k".into()));
        }
    }

    #[test]
    fn errors_name_the_file_and_the_reason() {
        let long = " ".repeat(LIMIT as usize + 1);
        for (name, text, reason) in [
            ("a.json", "{", "no JSON"),
            ("a.toml", "=", "no TOML"),
            ("a.yaml", "a: [", "no YAML"),
            ("a.yml", "cpus: {boot_vcpus: many}", "Line 1: cpus.boot_vcpus does not have the form"),
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
