//! Guest memory that the host does not have any more.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::{Client, EventLog, VmmPing};
use config::RestoreConfig;
use device::{EventSink, Events, Record};
use hv::Hypervisor;
use hv::fake::FakeHypervisor;
use serde_json::Value;

use super::fake::{Rig, kernel};
use crate::{Control, Options, Published};

/// Remembers events with what they are about.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl EventSink for Told {
    fn record(&self, Record { event, properties, .. }: Record) {
        self.0.lock().unwrap().push(format!("{event} {properties:?}"));
    }
}

/// A loop that is not run: the test says what time it is.
fn control() -> (Control, Client, Arc<Told>) {
    let ping = VmmPing { build_version: String::new(), version: String::new(), pid: 1, features: Vec::new() };
    let published = Published::new(ping, EventLog::new());
    let (client, inbox) = api::channel(published.clone()).unwrap();
    let told = Arc::new(Told::default());
    let events = Events::new(told.clone()).unwrap();
    let open = || Ok(Arc::new(FakeHypervisor::default()) as Arc<dyn Hypervisor>);
    (Control::new(inbox, events, published, Box::new(open), Options::default()), client, told)
}

/// A VM whose memory is this file.
fn config(kernel: &Path, file: &Path) -> Value {
    serde_json::json!({
        "payload": {"kernel": kernel},
        "memory": {"size": 0, "zones": [{"id": "z", "size": 16 << 20, "file": file, "shared": true}]},
        "console": {"mode": "Null"},
    })
}

#[test]
fn a_file_that_others_make_shorter_is_told_of() {
    let (mut control, _client, told) = control();
    let (kernel, file) = (kernel(), tempfile::NamedTempFile::new().unwrap());
    let config = config(kernel.path(), file.path());
    control.create_given(serde_json::from_value(config).unwrap()).unwrap();
    assert_eq!(control.patience(), -1, "there is no memory yet");
    control.boot_given().unwrap();
    assert!((0..60_000).contains(&control.patience()));
    let mut now = Instant::now();
    let mut look = || {
        now += Duration::from_secs(60);
        control.look_at_files(now);
        let of_memory = told.0.lock().unwrap().iter().filter(|event| event.starts_with("memory-")).count();
        (of_memory, told.0.lock().unwrap().last().cloned().unwrap_or_default())
    };
    assert_eq!(look().0, 0);
    file.as_file().set_len(4096).unwrap();
    let (count, last) = look();
    assert!(count == 1 && last.starts_with("memory-file-shortened") && last.contains("zone 'z'"), "{last}");
    assert_eq!(look().0, 1, "it is told once");
    control.stop_machine();
    control.look_at_files(now + Duration::from_secs(60));
    assert_eq!(control.patience(), -1);
}

#[test]
fn files_of_a_vm_that_comes_back_are_looked_at_too() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let (directory, file) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    rig.ok("vm.create", &config(kernel.path(), file.path()).to_string());
    rig.ok("vm.boot", "");
    let url = format!("file://{}", directory.path().display());
    rig.ok("vm.snapshot", &format!(r#"{{"destination_url":"{url}"}}"#));
    drop(rig);
    let (mut control, _client, _) = control();
    control.restore_given(&RestoreConfig { source_url: url.into(), ..RestoreConfig::default() }).unwrap();
    assert!((0..60_000).contains(&control.patience()));
}
