//! A console's file is emptied when it is opened, so it must be nobody else's: neither another section's of the configuration, nor one
//! that this program has open already, such as its log. Files are compared as the kernel knows them, through all their names.

use std::ffi::OsString;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use config::{ConsoleMode, VmConfig};

use crate::ConsoleError;

/// What the kernel knows a file by.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// Device and inode.
    File(u64, u64),
    /// The number of a block device, which may have several files.
    BlockDevice(u64),
    /// Not there yet: the directory's device and inode, and the name in it.
    Future(u64, u64, OsString),
}

impl Identity {
    /// `None` for what holds no bytes, such as a terminal, and for what cannot be looked at: opening it will say why.
    fn of(path: &Path) -> Option<Self> {
        let Ok(metadata) = std::fs::metadata(path) else {
            let name = path.file_name()?.to_owned();
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = std::fs::metadata(parent.unwrap_or(Path::new("."))).ok()?;
            return Some(Self::Future(directory.dev(), directory.ino(), name));
        };
        let kind = metadata.file_type();
        if kind.is_block_device() {
            return Some(Self::BlockDevice(metadata.rdev()));
        }
        kind.is_file().then(|| Self::File(metadata.dev(), metadata.ino()))
    }
}

/// Whether no console of `config` has the file of another section.
///
/// # Errors
/// [`ConsoleError::Shared`] names both.
pub(crate) fn check(config: &VmConfig) -> Result<(), ConsoleError> {
    let consoles: Vec<_> = consoles(config).filter_map(identified).collect();
    if consoles.is_empty() {
        return Ok(());
    }
    let others: Vec<_> = others(config).into_iter().filter_map(identified).collect();
    for (i, (console, path, identity)) in consoles.iter().enumerate() {
        let mut elsewhere = others.iter().chain(consoles.iter().skip(i + 1));
        if let Some((other, ..)) = elsewhere.find(|(.., other)| other == identity) {
            return Err(shared(console, path, other));
        }
    }
    Ok(())
}

/// Whether this process has not opened `path`, the file of `console`, for another purpose.
///
/// # Errors
/// [`ConsoleError::Shared`].
pub(crate) fn check_unused(console: &str, path: &Path) -> Result<(), ConsoleError> {
    match Identity::of(path) {
        Some(Identity::File(device, inode)) if host::opened::holds(device, inode) => {
            Err(shared(console, path, "open in this program, as its log, event monitor or standard output"))
        }
        _ => Ok(()),
    }
}

fn shared(console: &str, path: &Path, other: &str) -> ConsoleError {
    ConsoleError::Shared { console: console.into(), path: path.into(), other: other.into() }
}

type Named<'a> = (String, &'a PathBuf);

fn identified((name, path): Named<'_>) -> Option<(String, &PathBuf, Identity)> {
    Some((name, path, Identity::of(path)?))
}

/// The files of consoles.
fn consoles(config: &VmConfig) -> impl Iterator<Item = Named<'_>> {
    let (serial, console, debug) = (&config.serial, &config.console.device, &config.debug_console);
    let ends = [
        ("serial port", serial.mode, &serial.file),
        ("console", console.mode, &console.file),
        ("debug console", debug.mode, &debug.file),
    ];
    let files = ends.into_iter().filter(|(_, mode, _)| *mode == ConsoleMode::File);
    files.filter_map(|(name, _, file)| Some((format!("the {name}"), file.as_ref()?)))
}

/// All other files that the configuration names.
fn others(config: &VmConfig) -> Vec<Named<'_>> {
    let mut files = Vec::new();
    if let Some(payload) = &config.payload {
        let images =
            [("kernel", &payload.kernel), ("firmware", &payload.firmware), ("initramfs", &payload.initramfs)];
        files.extend(
            images.into_iter().filter_map(|(name, path)| Some((format!("the {name}"), path.as_ref()?))),
        );
        let items = payload.fw_cfg_config.iter().filter_map(|fw_cfg| fw_cfg.items.as_ref());
        let items = items
            .flat_map(|items| &items.item_list)
            .filter_map(|item| Some((&item.name, item.file.as_ref()?)));
        files.extend(items.map(|(name, path)| (format!("the fw_cfg item '{name}'"), path)));
    }
    let id = |id: &Option<String>| id.clone().unwrap_or_default();
    let disks = config.disks.iter().flatten();
    files
        .extend(disks.filter_map(|disk| Some((format!("disk '{}'", id(&disk.pci.id)), disk.path.as_ref()?))));
    let pmem = config.pmem.iter().flatten();
    files.extend(pmem.map(|pmem| (format!("persistent memory '{}'", id(&pmem.pci.id)), &pmem.file)));
    let zones = config.memory.zones.iter().flatten();
    files.extend(zones.filter_map(|zone| Some((format!("memory zone '{}'", zone.id), zone.file.as_ref()?))));
    files.extend(config.ivshmem.iter().map(|ivshmem| ("the shared memory".into(), &ivshmem.path)));
    files.push(("the source of entropy".into(), &config.rng.src));
    files
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
            ("the kernel", json!({"payload": {"kernel": link}})),
            ("the firmware", json!({"payload": {"firmware": link}})),
            ("the initramfs", json!({"payload": {"kernel": "/k", "initramfs": symlink}})),
            (
                "the fw_cfg item 'opt/x'",
                json!({"payload": {"kernel": "/k", "fw_cfg_config":
                    {"items": {"item_list": [{"name": "opt/x", "file": link}]}}}}),
            ),
            ("disk 'd'", json!({"disks": [{"path": "/other"}, {"path": symlink, "id": "d"}]})),
            ("persistent memory 'p'", json!({"pmem": [{"file": link, "id": "p"}]})),
            (
                "memory zone 'z'",
                json!({"memory": {"size": 0, "zones": [{"id": "z", "size": 4096, "file": link}]}}),
            ),
            ("the shared memory", json!({"ivshmem": {"path": link, "size": 4096}})),
            ("the source of entropy", json!({"rng": {"src": link}})),
            ("the console", json!({"console": {"mode": "File", "file": link}})),
            ("the debug console", json!({"debug_console": {"mode": "File", "file": symlink}})),
        ] {
            let mut config = section;
            config["serial"] = json!({"mode": "File", "file": file});
            let text = complaint(config).unwrap_or_else(|| panic!("{name} is not seen"));
            assert!(text.contains(name) && text.contains("the serial port"), "{name}: {text}");
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
        assert!(check_unused("the console", file.path()).is_err());
        let path = file.into_temp_path();
        assert!(check_unused("the console", &path).is_ok());
        assert!(check_unused("the console", Path::new("/dev/null")).is_ok());
    }
}
