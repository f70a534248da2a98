//! Landlock on the control thread: each rig's thread is confined for itself.

use api::Code;

use super::fake::{Rig, kernel};
use crate::Options;

fn config(kernel: &tempfile::NamedTempFile, more: &str) -> String {
    let path = kernel.path().display();
    format!(
        r#"{{"payload":{{"kernel":"{path}"}},"memory":{{"size":16777216}},"console":{{"mode":"Null"}},
        "landlock_enable":true{more}}}"#
    )
}

#[test]
fn a_confined_vm_lives_as_any_other() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("serial");
    let more = format!(r#","serial":{{"mode":"Socket","socket":"{}"}}"#, socket.display());
    // More often than the kernel takes rules.
    for _ in 0..20 {
        rig.ok("vm.create", &config(&kernel, &more));
        rig.ok("vm.boot", "");
        rig.ok("vm.reboot", "");
        assert!(socket.exists());
        rig.ok("vm.delete", "");
        assert!(!socket.exists());
    }
}

#[test]
fn a_second_vm_has_no_more_files_than_the_first() {
    let (rig, first, second) = (Rig::new(Options::default()), kernel(), kernel());
    rig.ok("vm.create", &config(&first, ""));
    rig.ok("vm.delete", "");
    rig.ok("vm.create", &config(&second, ""));
    let error = rig.call("vm.boot", "").err().unwrap();
    assert!(error.to_string().contains("Permission denied"), "{error}");
    rig.ok("vm.delete", "");
}

#[test]
fn a_file_that_comes_later_must_be_granted() {
    let (rig, kernel, disk) = (Rig::new(Options::default()), kernel(), kernel());
    let add = format!(r#"{{"path":"{}","image_type":"Raw"}}"#, disk.path().display());
    rig.ok("vm.create", &config(&kernel, ""));
    rig.ok("vm.add-disk", &add);
    let error = rig.call("vm.boot", "").err().unwrap();
    assert!(error.to_string().contains("Permission denied"), "{error}");
    rig.ok("vm.delete", "");

    let rig = Rig::new(Options::default());
    let rules = format!(r#","landlock_rules":[{{"path":"{}","access":"rw"}}]"#, disk.path().display());
    rig.ok("vm.create", &config(&kernel, &rules));
    rig.ok("vm.add-disk", &add);
    rig.ok("vm.boot", "");
}

#[test]
fn a_file_that_is_not_there_is_the_caller_s_fault() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let more = r#","disks":[{"path":"/no/such/disk","image_type":"Raw"}]"#;
    let error = rig.call("vm.create", &config(&kernel, more)).err().unwrap();
    assert_eq!(error.code, Code::InvalidConfig);
    assert!(error.to_string().contains("/no/such/disk"), "{error}");
    assert_eq!(rig.state(), None);
}

#[test]
fn the_kernel_s_limit_is_no_failure_of_ours() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let directories: Vec<_> = (0..17).map(|_| tempfile::tempdir().unwrap()).collect();
    let create = |directory: &tempfile::TempDir| {
        let path = directory.path().display();
        let more = format!(r#","landlock_rules":[{{"path":"{path}","access":"r"}}]"#);
        rig.call("vm.create", &config(&kernel, &more))
    };
    for directory in &directories[..16] {
        create(directory).unwrap_or_else(|e| panic!("{e}"));
        rig.ok("vm.delete", "");
    }
    let error = create(&directories[16]).err().unwrap();
    assert_eq!(error.code, Code::IllegalState, "{error}");
    assert!(error.to_string().contains("start a new one"), "{error}");
}
