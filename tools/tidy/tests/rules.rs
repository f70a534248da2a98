//! Each rule meets a case that breaks it and one that does not.

use std::path::Path;
use tidy::layers::{self, Edge};

fn faults(path: &str, text: &str) -> Vec<String> {
    tidy::source::check(Path::new(path), text)
}

#[test]
fn a_long_file_is_a_fault() {
    assert_eq!(faults("crates/pci/src/a.rs", &"//\n".repeat(801)).len(), 1);
    assert_eq!(faults("crates/pci/src/a.rs", &"//\n".repeat(800)).len(), 0);
}

#[test]
fn a_long_function_is_a_fault() {
    let function =
        |lines: usize| format!("/// A.\n#[inline]\nfn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    assert_eq!(faults("crates/pci/src/a.rs", &function(81)).len(), 1);
    assert_eq!(faults("crates/pci/src/a.rs", &function(80)).len(), 0);
    let method = format!("impl A {{ {} }}", function(81));
    assert_eq!(faults("crates/pci/src/a.rs", &method).len(), 1);
}

#[test]
fn panics_are_faults_outside_tests_and_tools() {
    for body in
        ["a.unwrap();", "a.expect(\"b\");", "panic!();", "todo!()", "assert!(a.unwrap());", "unreachable!()"]
    {
        let text = format!("fn f() {{ {body} }}");
        assert_eq!(faults("crates/pci/src/a.rs", &text).len(), 1, "{body}");
        assert_eq!(faults("tools/xtask/src/a.rs", &text).len(), 0, "{body}");
        assert_eq!(faults("crates/pci/src/tests.rs", &text).len(), 0, "{body}");
        assert_eq!(faults("crates/pci/src/a.rs", &format!("#[test] {text}")).len(), 0, "{body}");
        assert_eq!(
            faults("crates/pci/src/a.rs", &format!("#[cfg(test)] mod t {{ {text} }}")).len(),
            0,
            "{body}"
        );
        let inverse = format!("#[cfg(not(test))] mod t {{ {text} }}");
        assert_eq!(faults("crates/pci/src/a.rs", &inverse).len(), 1, "{body}");
    }
    assert_eq!(faults("crates/pci/src/a.rs", "fn f() { a.unwrap_or(1); /* panic!() */ }").len(), 0);
}

#[test]
fn threads_start_in_one_place() {
    for body in ["std::thread::spawn(g);", "thread::spawn(g);", "thread::Builder::new();", "scope.spawn(g);"]
    {
        let text = format!("fn f() {{ {body} }}");
        assert_eq!(faults("crates/virtio/src/a.rs", &text).len(), 1, "{body}");
        assert_eq!(faults("crates/virtio/src/tests.rs", &text).len(), 0, "{body}");
        for free in ["crates/sandbox/src/a.rs", "crates/ch-remote/src/a.rs", "tools/xtask/src/a.rs"] {
            assert_eq!(faults(free, &text).len(), 0, "{free}: {body}");
        }
    }
    for body in
        ["tokio::spawn(g);", "sandbox::spawn(k, n, g);", "runtime::Builder::new();", "thread::scope(g);"]
    {
        assert_eq!(faults("crates/virtio/src/a.rs", &format!("fn f() {{ {body} }}")).len(), 0, "{body}");
    }
}

#[test]
fn unsafe_needs_its_crate_and_its_comment() {
    let bare = "fn f() { unsafe { g() } }";
    let argued =
        "fn f() {\n    // SAFETY: g is harmless\n    // here.\n    let x =\n        unsafe { g() };\n}";
    assert_eq!(faults("crates/pci/src/a.rs", argued).len(), 1);
    assert_eq!(faults("crates/host/src/a.rs", bare).len(), 1);
    assert_eq!(faults("crates/host/src/a.rs", argued).len(), 0);
    let far = "fn f() {\n    // SAFETY: for another line\n    h();\n    unsafe { g() }\n}";
    assert_eq!(faults("crates/host/src/a.rs", far).len(), 1);
    assert_eq!(faults("crates/host/src/a.rs", "unsafe impl Send for A {}").len(), 1);
    assert_eq!(faults("crates/host/src/a.rs", "// SAFETY: no pointers\nunsafe impl Send for A {}").len(), 0);
}

#[test]
fn layers_hold() {
    let names =
        ["machine", "hv", "hv-kvm", "chipset", "device", "ch-remote", "api", "boot"].map(String::from);
    let check = |user: &str, used: &str| {
        layers::check(&names, &[Edge { user: user.to_owned(), used: used.to_owned() }]).len()
    };
    assert_eq!(check("machine", "hv"), 0);
    assert_eq!(check("machine", "boot"), 0);
    assert_eq!(check("machine", "hv-kvm"), 1);
    assert_eq!(check("device", "chipset"), 1);
    assert_eq!(check("chipset", "hv"), 1);
    assert_eq!(check("ch-remote", "api"), 0);
    assert_eq!(check("ch-remote", "device"), 1);
    assert_eq!(layers::check(&["util".to_owned()], &[]).len(), 1);
}

#[test]
fn a_device_is_named_in_its_folder_and_in_the_catalogue() {
    let devices = ["blk".to_owned(), "net".to_owned()];
    let catalogue = (
        "crates/machine/src/catalogue.rs",
        "devices! { D by virtio_devices::blk; N by virtio_devices::net; }",
    );
    let check = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(path, text)| ((*path).into(), (*text).to_owned())).collect();
        tidy::devices::check(&files, &devices).len()
    };
    assert_eq!(check(&[catalogue]), 0);
    assert_eq!(check(&[]), 2);
    assert_eq!(check(&[catalogue, catalogue]), 2);
    for (path, text, expected) in [
        ("crates/control/src/a.rs", "use virtio_devices::blk::Disk;", 1),
        ("crates/control/src/a.rs", "use virtio_devices::{blk, net::{self, Net}};", 2),
        ("crates/control/src/a.rs", "fn f() { g!(virtio_devices::net::X) }", 1),
        ("crates/control/src/a.rs", "// virtio_devices::blk\nuse virtio_devices::rng; use net::blk;", 0),
        ("crates/virtio-devices/src/net/a.rs", "use crate::net::b; use ::net::blk;", 0),
        ("crates/virtio-devices/src/net/a.rs", "use crate::blk::b;", 1),
        ("crates/virtio-devices/src/lib.rs", "pub mod blk; pub mod net;", 0),
    ] {
        assert_eq!(check(&[catalogue, (path, text)]), expected, "{path}: {text}");
    }
}
