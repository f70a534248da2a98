//! A console's file is emptied when it is opened, so it must be nobody else's: neither another section's of the configuration, nor one
//! that this program has open already, such as its log.

use std::path::Path;

use config::VmConfig;
use host::identity::Identity;

use crate::ConsoleError;

/// Where the configuration names consoles' files.
const CONSOLES: [&str; 3] = ["serial.file", "console.file", "debug_console.file"];

/// Whether no console of `config` has the file of another section.
///
/// # Errors
/// [`ConsoleError::Shared`] names both.
pub(crate) fn check(config: &VmConfig) -> Result<(), ConsoleError> {
    if !config.paths().any(|(field, _)| CONSOLES.contains(&field.as_str())) {
        return Ok(());
    }
    // A rule of the sandbox names a file for another section's sake.
    let opened = config.paths().filter(|(field, _)| !field.starts_with("landlock_rules"));
    let named: Vec<_> = opened.filter_map(|(field, path)| Some((field, path, Identity::of(path)?))).collect();
    for (i, (console, path, identity)) in named.iter().enumerate() {
        let others = named.iter().enumerate().filter(|(other, _)| *other != i);
        let mut same = others.map(|(_, other)| other).filter(|(.., other)| other == identity);
        if let (true, Some((other, ..))) = (CONSOLES.contains(&console.as_str()), same.next()) {
            return Err(shared(console, path, other));
        }
    }
    Ok(())
}

/// Whether this process has not opened `path`, which the configuration's field `console` names, for another purpose.
///
/// # Errors
/// [`ConsoleError::Shared`].
pub(crate) fn check_unused(console: &str, path: &Path) -> Result<(), ConsoleError> {
    if Identity::of(path).is_some_and(|identity| identity.is_open_here()) {
        return Err(shared(
            console,
            path,
            "open in this program, as its log, event monitor or standard output",
        ));
    }
    Ok(())
}

fn shared(console: &str, path: &Path, other: &str) -> ConsoleError {
    ConsoleError::Shared { console: console.into(), path: path.into(), other: other.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::fs;

    fn complaint(config: Value) -> Option<String> {
        let mut whole = json!({"payload": {"kernel": "/no/kernel"}});
        for (key, value) in config.as_object().unwrap() {
            whole[key] = value.clone();
        }
        check(&serde_json::from_value(whole).unwrap()).err().map(|e| e.to_string())
    }

    #[test]
    fn every_other_file_of_the_configuration_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, symlink) = (dir.path().join("f"), dir.path().join("hard"), dir.path().join("soft"));
        fs::write(&file, "precious").unwrap();
        fs::hard_link(&file, &link).unwrap();
        std::os::unix::fs::symlink(&file, &symlink).unwrap();
        for (name, section) in [
            ("payload.kernel", json!({"payload": {"kernel": link}})),
            ("payload.firmware", json!({"payload": {"firmware": link}})),
            ("payload.initramfs", json!({"payload": {"kernel": "/k", "initramfs": symlink}})),
            (
                "payload.fw_cfg_config.items[0].file",
                json!({"payload": {"kernel": "/k", "fw_cfg_config":
                    {"items": {"item_list": [{"name": "opt/x", "file": link}]}}}}),
            ),
            ("disks[1].path", json!({"disks": [{"path": "/other"}, {"path": symlink, "id": "d"}]})),
            ("pmem[0].file", json!({"pmem": [{"file": link, "id": "p"}]})),
            (
                "memory.zones[0].file",
                json!({"memory": {"size": 0, "zones": [{"id": "z", "size": 4096, "file": link}]}}),
            ),
            ("ivshmem.path", json!({"ivshmem": {"path": link, "size": 4096}})),
            ("rng.src", json!({"rng": {"src": link}})),
            ("console.file", json!({"console": {"mode": "File", "file": link}})),
            ("debug_console.file", json!({"debug_console": {"mode": "File", "file": symlink}})),
        ] {
            let mut config = section;
            config["serial"] = json!({"mode": "File", "file": file});
            let text = complaint(config).unwrap_or_else(|| panic!("{name} is not seen"));
            assert!(text.contains(name) && text.contains("serial.file"), "{name}: {text}");
        }
    }

    #[test]
    fn a_file_of_its_own_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let file = |path: &Path| json!({"mode": "File", "file": path});
        assert_eq!(complaint(json!({"serial": file(&one), "console": file(&two)})), None);
        assert_eq!(
            complaint(json!({"serial": file("/dev/null".as_ref()), "console": file("/dev/null".as_ref())})),
            None
        );
        // Neither is there yet, and yet they are the same.
        let same = dir.path().join(".").join("one");
        assert!(complaint(json!({"serial": file(&one), "console": file(&same)})).is_some());
        // The path of another mode is not used.
        let unused = json!({"mode": "Null", "file": one});
        assert_eq!(complaint(json!({"serial": file(&one), "console": unused})), None);
    }

    #[test]
    fn what_this_program_has_open_is_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(check_unused("console.file", file.path()).is_err());
        let path = file.into_temp_path();
        assert!(check_unused("console.file", &path).is_ok());
        assert!(check_unused("console.file", Path::new("/dev/null")).is_ok());
    }
}
