//! `vm.resize`.

use api::Code;

use super::config;
use super::fake::{Rig, kernel};
use crate::Options;

/// A VM that has this section besides those of [`config`].
fn with(kernel: &tempfile::NamedTempFile, section: &str) -> String {
    config(kernel).replacen('{', &format!("{{{section},"), 1)
}

#[test]
fn before_the_boot_the_whole_is_checked_and_noted() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let sections = r#""cpus":{"boot_vcpus":1,"max_vcpus":4},"balloon":{"size":4096}"#;
    rig.ok("vm.create", &with(&kernel, sections));
    rig.ok("vm.resize", r#"{"desired_vcpus":3,"desired_ram":33554432,"desired_balloon":8192}"#);
    let noted = || rig.client.reads().vm_info().unwrap().config;
    let numbers = || {
        let config = noted();
        (config.cpus.boot_vcpus, config.memory.size, config.balloon.unwrap().size)
    };
    assert_eq!(numbers(), (3, 32 << 20, 8192));
    for wrong in [
        r#"{"desired_vcpus":0}"#,
        r#"{"desired_vcpus":5}"#,
        r#"{"desired_vcpus":2,"desired_ram":1}"#,
        r#"{"desired_balloon":33554433}"#,
    ] {
        assert_eq!(rig.call("vm.resize", wrong).unwrap_err().code, Code::InvalidConfig, "{wrong}");
    }
    assert_eq!(numbers(), (3, 32 << 20, 8192), "a refused request changes nothing");
    assert!(rig.records().is_empty(), "{:?}", rig.records());
}

#[test]
fn what_does_not_exist_yet_is_named() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    for (body, name) in [(r#"{"desired_ram":33554432}"#, "RAM"), (r#"{"desired_balloon":4096}"#, "balloon")] {
        let error = rig.call("vm.resize", body).unwrap_err();
        assert_eq!(error.code, Code::NotImplemented);
        assert!(error.to_string().contains(name), "{error}");
    }
    rig.ok("vm.resize", "{}");
    assert_eq!(rig.records()[2..], ["vm/resizing", "vm/resizing", "vm/resizing", "vm/resized"]);
}
