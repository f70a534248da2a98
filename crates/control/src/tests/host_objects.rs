//! Configurations that name the wrong things of the host, or the right ones twice.

use std::path::Path;

use api::Code;
use serde_json::{Value, json};

use super::fake::{Rig, kernel};
use crate::Options;

fn machine(kernel: &Path, more: Value) -> Value {
    let mut config = json!({
        "payload": {"kernel": kernel}, "memory": {"size": 16 << 20}, "serial": {"mode": "Null"}, "console": {"mode": "Off"},
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

#[test]
fn a_console_never_empties_another_file() {
    let (rig, dir) = (Rig::new(Options::default()), tempfile::tempdir().unwrap());
    let (file, alias) = (dir.path().join("precious"), dir.path().join("alias"));
    std::fs::write(&file, "precious").unwrap();
    std::fs::hard_link(&file, &alias).unwrap();
    let serial = json!({"mode": "File", "file": alias});
    for section in [
        json!({"payload": {"kernel": file}}),
        json!({"payload": {"kernel": "/k", "initramfs": file}}),
        json!({"disks": [{"path": file}]}),
        json!({"console": {"mode": "File", "file": file}}),
    ] {
        let mut config = machine("/k".as_ref(), section);
        config["serial"] = serial.clone();
        let error = rig.call("vm.create", &config.to_string()).unwrap_err();
        assert_eq!((error.code, rig.state()), (Code::InvalidConfig, None), "{error}");
    }
    // Nor does one of this program's own, such as its log, nor a disk that comes later.
    let log = std::fs::File::open(&file).unwrap();
    let config = machine("/k".as_ref(), json!({"serial": serial})).to_string();
    assert_eq!(rig.call("vm.create", &config).unwrap_err().code, Code::InvalidConfig);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    drop(log);
    rig.ok("vm.create", &config);
    let disk = json!({"path": file}).to_string();
    assert_eq!(rig.call("vm.add-disk", &disk).unwrap_err().code, Code::InvalidConfig);
}

#[test]
fn a_fifo_that_nobody_reads_holds_nobody_up() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let file = json!({"mode": "File", "file": fifo});
    rig.ok("vm.create", &machine(kernel.path(), json!({"serial": file})).to_string());
    rig.ok("vm.boot", "");
    rig.ok("vm.delete", "");
    for section in [
        json!({"payload": {"kernel": fifo}}),
        json!({"payload": {"kernel": kernel.path(), "initramfs": fifo}}),
        json!({"payload": {"firmware": fifo}}),
        json!({"disks": [{"path": fifo, "image_type": "Raw"}]}),
        json!({"memory": {"size": 0, "zones": [{"id": "z", "size": 16 << 20, "file": fifo, "shared": true}]}}),
    ] {
        rig.ok("vm.create", &machine(kernel.path(), section.clone()).to_string());
        let error = rig.call("vm.boot", "").unwrap_err();
        assert_eq!(error.code, Code::InvalidConfig, "{section}: {error}");
        rig.ok("vm.delete", "");
    }
}

#[test]
fn host_objects_of_the_wrong_type_are_the_configuration_s_fault() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::os::unix::fs::symlink(path("loop"), path("loop")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    std::fs::write(path("file"), "a file").unwrap();
    // A driver that is not there, a terminal, and what is no path at all.
    let wrong = [
        path("loop"),
        path("socket"),
        dir.path().into(),
        path("file").join("below"),
        path("missing"),
        path(&"x".repeat(300)),
        "/dev/tty".into(),
        "/dev/null".into(),
    ];
    for (i, object) in wrong.iter().enumerate() {
        let mut sections = vec![
            json!({"payload": {"kernel": object}}),
            json!({"payload": {"firmware": object}}),
            json!({"payload": {"kernel": kernel.path(), "initramfs": object}}),
            json!({"disks": [{"path": object, "image_type": "Raw"}]}),
            json!({"disks": [{"path": object, "image_type": "Raw", "readonly": true}]}),
        ];
        // A missing file is made for memory, a directory gets an unnamed one, and a null device gives no entropy, but may.
        if ![2, 4].contains(&i) {
            let zone = json!({"id": "z", "size": 16 << 20, "file": object, "shared": true});
            sections.push(json!({"memory": {"size": 0, "zones": [zone]}}));
        }
        if i < 7 {
            sections.push(json!({"rng": {"src": object}}));
        }
        for section in sections {
            rig.ok("vm.create", &machine(kernel.path(), section.clone()).to_string());
            let error = rig.call("vm.boot", "").err().unwrap_or_else(|| panic!("{section} boots"));
            assert_eq!(error.code, Code::InvalidConfig, "{section}: {error}");
            rig.ok("vm.delete", "");
        }
    }
}

#[test]
fn a_numa_node_that_the_host_lacks_is_the_configuration_s_fault() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let boot = |node: u32| {
        let zone = json!({"id": "z", "size": 16 << 20, "host_numa_node": node});
        let section = json!({"memory": {"size": 0, "zones": [zone]}});
        rig.ok("vm.create", &machine(kernel.path(), section).to_string());
        let booted = rig.call("vm.boot", "");
        rig.ok("vm.delete", "");
        booted.map(|_| ())
    };
    boot(0).unwrap();
    for node in [1023, u32::MAX] {
        let error = boot(node).unwrap_err();
        assert_eq!(error.code, Code::InvalidConfig, "{error}");
        assert!(error.to_string().contains(&format!("node {node} of the host")), "{error}");
    }
}
