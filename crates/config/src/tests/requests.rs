//! Bodies of restore, migration and resize.

use std::num::NonZeroU64;

use super::config;
use crate::*;

#[test]
fn resize_bodies() {
    let (resize, _) = from_json::<VmResize>(br#"{"desired_ram":1024}"#).unwrap();
    assert_eq!(resize, VmResize { desired_ram: Some(1024), ..VmResize::default() });
    assert_eq!(serde_json::to_string(&resize).unwrap(), r#"{"desired_ram":1024}"#);
    assert!(from_json::<VmResizeDisk>(br#"{"id":"d"}"#).is_err());
    assert!(from_json::<VmResizeZone>(br#"{"id":"z","desired_ram":1}"#).is_ok());
    assert!(from_json::<VmSnapshotConfig>(br#"{"destination_url":"file:///d"}"#).is_ok());
    assert!(from_json::<VmCoredumpData>(b"{}").is_err());
}

#[test]
fn restore_flag() {
    let text = "source_url=file:///s,memory_restore_mode=ondemand,net_fds=[net0@[23,24],net1@25],vfio_fds=[v@5],\
        iommufd_fd=6,resume=true,zone_updates=[z@1]";
    let restore = RestoreConfig::from_flag(text).unwrap();
    let nets = restore.net_fds.clone().unwrap();
    assert_eq!((nets[0].num_fds, nets[0].fds.clone()), (2, Some(vec![23, 24])));
    assert_eq!((nets[1].id.as_str(), nets[1].num_fds), ("net1", 1));
    assert_eq!(restore.vfio_fds.clone().unwrap()[0].fd, Some(5));
    assert_eq!(restore.memory_restore_mode, Some(MemoryRestoreMode::OnDemand));
    assert_eq!(restore.zone_updates[0].host_numa_node, Some(1));
    assert!(restore.resume && !restore.prefault);
    assert_eq!(restore.check(), Ok(()));
    assert_eq!(
        RestoreConfig::from_flag("").unwrap_err().to_string(),
        "Error parsing --restore: source_url missing"
    );
}

#[test]
fn restore_rules() {
    let rows = [
        (
            "prefault=on,memory_restore_mode=ondemand",
            "'prefault' cannot be combined with 'memory_restore_mode=ondemand'",
        ),
        ("net_fds=[n@3,n@4]", "Identifier n is not unique"),
        ("vfio_fds=[v@3]", "'vfio_fds' requires 'iommufd_fd'"),
        ("vfio_fds=[v@3,v@4],iommufd_fd=5", "Identifier v is not unique"),
        ("zone_updates=[z@0,z@1]", "Multiple updates for the same zone defined"),
    ];
    for (text, want) in rows {
        let restore = RestoreConfig::from_flag(&format!("source_url=u,{text}")).unwrap();
        assert_eq!(restore.check().unwrap_err().to_string(), want);
    }
    assert!(
        RestoreError::DuplicateId("x".into()).is_duplicate() && !RestoreError::DuplicateZone.is_duplicate()
    );
    let (empty, _) = from_json::<RestoreConfig>(br#"{"source_url":"u","zone_updates":[{"id":""}]}"#).unwrap();
    let want = "At least one memory zone update with an empty ID was defined";
    assert_eq!(empty.check().unwrap_err().to_string(), want);
}

#[test]
fn restore_against_the_saved_configuration() {
    let saved = config(
        r#""net":[{"id":"n","num_queues":4,"fds":[-1,-1]},{"id":"m"}],"devices":[{"id":"v","fd":-1},{"id":"p","path":"/p"}],
        "platform":{"iommufd":true}"#,
    );
    let check = |text: &str| {
        let restore = RestoreConfig::from_flag(&format!("source_url=u,{text}")).unwrap();
        restore.check_against(&saved).map_err(|error| error.to_string())
    };
    assert_eq!(check("net_fds=[n@[3,4]],vfio_fds=[v@5],iommufd_fd=6"), Ok(()));
    for (text, want) in [
        ("resume=off", "Net id n is associated with FDs and is required"),
        ("net_fds=[n@3]", "Number of Net FDs passed for 'n' during Restore: 1. Expected: 2"),
        ("net_fds=[n@[3,4]]", "VFIO device 'v' was FD backed and needs a new fd in 'vfio_fds'"),
        (
            "net_fds=[n@[3,4]],vfio_fds=[x@5]",
            "VFIO device id 'x' in 'vfio_fds' does not match any device in the snapshot",
        ),
    ] {
        assert_eq!(check(text).unwrap_err(), want);
    }
}

#[test]
fn send_migration() {
    let (send, _) = from_json::<VmSendMigrationData>(br#"{"destination_url":"tcp:h:1"}"#).unwrap();
    assert_eq!((send.downtime_ms.get(), send.timeout_s.get(), send.connections.get()), (300, 3600, 1));
    assert_eq!(send, VmSendMigrationData::from_flag("destination_url=tcp:h:1").unwrap());
    for zero in ["downtime_ms", "timeout_s", "connections"] {
        assert!(
            from_json::<VmSendMigrationData>(format!(r#"{{"destination_url":"u","{zero}":0}}"#).as_bytes())
                .is_err()
        );
    }
    let rows = [
        ("unix:/s,connections=2", "UNIX sockets and connections option cannot be used at the same time."),
        ("unix:/s,tls_dir=/t", "UNIX sockets and TLS encryption cannot be used at the same time."),
        ("unix:", "destination_url must use tcp:<host>:<port> or unix:<path>."),
        ("http://h", "destination_url must use tcp:<host>:<port> or unix:<path>."),
        ("tcp:h:1,connections=129", "connections must not exceed 128."),
        ("tcp:h:1,local=on", "local option is only supported with UNIX sockets."),
        ("tcp:h:1,preserve_source=on", "preserve_source option is only supported with the local option."),
        (
            "unix:/s,local=on,memory_mode=postcopy",
            "memory_mode=postcopy and local options are mutually exclusive.",
        ),
        (
            "tcp:h:1,memory_mode=postcopy,connections=2",
            "memory_mode=postcopy currently requires a single connection (connections=1).",
        ),
    ];
    for (text, want) in rows {
        let send = VmSendMigrationData::from_flag(&format!("destination_url={text}")).unwrap();
        assert_eq!(send.check().unwrap_err().to_string(), want, "{text}");
    }
    let all = "destination_url=unix:/s,local=on,preserve_source=on,downtime_ms=5,timeout_strategy=ignore";
    let send = VmSendMigrationData::from_flag(all).unwrap();
    assert_eq!(
        (send.downtime_ms, send.timeout_strategy),
        (NonZeroU64::new(5).unwrap(), TimeoutStrategy::Ignore)
    );
    assert_eq!(send.check(), Ok(MigrationUrl::Unix("/s".into())));
    let bare = VmSendMigrationData::from_flag("tcp:h:1").unwrap_err();
    let source = std::error::Error::source(&bare).unwrap().to_string();
    assert_eq!(source, "Unknown option: tcp:h:1");
}

#[test]
fn urls() {
    let tcp = |host: &str| Some(MigrationUrl::Tcp(host.into(), 80));
    for (text, want) in [
        ("tcp:host:80", tcp("host")),
        ("tcp:10.0.0.1:80", tcp("10.0.0.1")),
        ("tcp:[::1]:80", tcp("::1")),
        ("tcp:::1:80", None),
        ("tcp:[x]:80", None),
        ("tcp::80", None),
        ("tcp:h:65536", None),
        ("tcp:h", None),
        ("unix:", None),
        ("", None),
    ] {
        assert_eq!(text.parse().ok(), want, "{text}");
    }
}

#[test]
fn receive_migration() {
    let read = |text: &str| VmReceiveMigrationData::from_flag(text).unwrap();
    let text = "receiver_url=tcp:0.0.0.0:80,vfio_fds=[v@5],iommufd_fd=6,memory_mode=postcopy";
    assert!(read(text).check().is_ok());
    for (text, want) in [
        ("receiver_url=x", "receiver_url must use tcp:<host>:<port> or unix:<path>."),
        (
            "receiver_url=unix:/s,tls_dir=/t",
            "UNIX sockets and TLS encryption cannot be used at the same time.",
        ),
        ("receiver_url=unix:/s,zone_updates=[z@0,z@1]", "Multiple updates for the same zone defined"),
    ] {
        assert_eq!(read(text).check().unwrap_err().to_string(), want);
    }
    let received = config(r#""devices":[{"id":"v","path":"/p"}],"platform":{"iommufd":true}"#);
    assert_eq!(read(text).check_against(&received), Ok(()));
    let missing = read("receiver_url=unix:/s").check_against(&received).unwrap_err();
    assert_eq!(missing, RestoreError::MissingVfio("v".into()));
    let without = config(r#""devices":[{"id":"v","path":"/p"}]"#);
    assert_eq!(read(text).check_against(&without), Err(RestoreError::NoIommufd));
}
