//! Which section grants what.

use super::plan;
use crate::plan::Access::{Bind, Read, ReadWrite, Write};
use crate::plan::Grant;

/// What every test plan needs: its kernel and its source of entropy.
const ALWAYS: [(&str, crate::plan::Access); 2] = [("/k", Read), ("/dev/urandom", Read)];

#[test]
fn each_section_grants_its_files() {
    let shared = r#""memory":{"size":4096,"shared":true},"#;
    let rows = [
        (r#""disks":[{"path":"/a"},{"path":"/b","readonly":true}]"#, vec![("/a", ReadWrite), ("/b", Read)]),
        (r#""disks":[{"vhost_user":true,"vhost_socket":"/s"}]"#, vec![("/s", ReadWrite)]),
        (r#""net":[{}]"#, vec![("/dev/net/tun", ReadWrite)]),
        (r#""net":[{"vhost_user":true,"vhost_socket":"/s"}]"#, vec![("/s", ReadWrite)]),
        (r#""fs":[{"tag":"t","socket":"/s"}]"#, vec![("/s", ReadWrite)]),
        (
            r#""pmem":[{"file":"/p"},{"file":"/q","discard_writes":true}]"#,
            vec![("/p", ReadWrite), ("/q", Read)],
        ),
        (r#""serial":{"mode":"File","file":"/f"}"#, vec![("/f", ReadWrite)]),
        (r#""serial":{"mode":"Socket","socket":"/d/s"}"#, vec![("/d", Bind)]),
        (r#""serial":{"mode":"Socket","socket":"s"}"#, vec![(".", Bind)]),
        (r#""console":{"mode":"Pty"}"#, vec![("/dev/ptmx", ReadWrite), ("/dev/pts", ReadWrite)]),
        (r#""debug_console":{"mode":"File","file":"/f"}"#, vec![("/f", ReadWrite)]),
        (r#""vsock":{"cid":3,"socket":"/d/s"}"#, vec![("/d", Bind)]),
        (r#""vdpa":[{"path":"/p"}]"#, vec![("/p", ReadWrite)]),
        (r#""user_devices":[{"socket":"/s"}]"#, vec![("/s", ReadWrite)]),
        (r#""tpm":{"socket":"/s"}"#, vec![("/s", ReadWrite)]),
        (r#""landlock_rules":[{"path":"/","access":"r"}]"#, vec![("/", Read)]),
        (r#""landlock_rules":[{"path":"/","access":"w"}]"#, vec![("/", Write)]),
        (r#""landlock_rules":[{"path":"/","access":"wr"}]"#, vec![("/", ReadWrite)]),
    ];
    for (fields, mut expected) in rows {
        let vm = plan(&format!(r#"{shared}"landlock_enable":true,{fields}"#));
        expected.extend(ALWAYS);
        let mut expected: Vec<_> =
            expected.into_iter().map(|(path, access)| Grant { path: path.into(), access }).collect();
        expected.sort();
        let mut grants = vm.grants().unwrap();
        grants.sort();
        assert_eq!(grants, expected, "{fields}");
    }
}

#[test]
fn zones_and_payload_grant_theirs() {
    let vm = plan(
        r#""landlock_enable":true,"rng":{"src":"/r"},"payload":{"kernel":"/k","initramfs":"/i"},
        "memory":{"size":0,"zones":[{"id":"a","size":4096,"file":"/z"},{"id":"b","size":4096}]}"#,
    );
    let grants: Vec<_> = vm.grants().unwrap().into_iter().map(|g| (g.path, g.access)).collect();
    let expected = [("/z", ReadWrite), ("/k", Read), ("/i", Read), ("/r", Read)];
    assert_eq!(grants, expected.map(|(path, access)| (path.into(), access)));
}

#[test]
fn without_landlock_nothing_is_confined() {
    assert_eq!(plan(r#""landlock_rules":[{"path":"/","access":"r"}]"#).grants(), None);
    assert!(plan(r#""landlock_enable":true"#).unbuilt().is_empty());
}
