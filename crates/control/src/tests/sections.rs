//! Devices added to a VM that has not booted, and removed from it.

use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;

use api::{Answer, ApiError, Code, Request, Verb};
use config::ImageType;

use super::config;
use super::fake::{Rig, kernel};
use crate::Options;

/// Calls `vm.add-net` with the writing end of a pipe, whose reading end is the result.
fn add_net(rig: &Rig, body: &str) -> (Result<Answer, ApiError>, PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let request = Request { body: body.as_bytes(), descriptors: vec![OwnedFd::from(writer)] };
    let (sender, outcome) = std::sync::mpsc::channel();
    let verb = Verb::find("vm.add-net").unwrap();
    verb.call(&rig.client, request, move |outcome| sender.send(outcome.result).unwrap());
    (outcome.recv().unwrap(), reader)
}

fn assert_closed(mut reader: PipeReader) {
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn sections_come_and_go_before_the_boot() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let code = |verb: &str, body: &str| rig.call(verb, body).unwrap_err().code;
    assert_eq!(code("vm.add-disk", r#"{"path":"/d"}"#), Code::VmNotCreated);
    rig.ok("vm.create", &config(&kernel));
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let disk = format!(r#"{{"path":"{}","image_type":"Raw"}}"#, image.path().display());
    rig.ok("vm.add-disk", &disk);
    assert_eq!(code("vm.add-disk", r#"{"path":"/d","id":"_disk0"}"#), Code::Duplicate);
    assert_eq!(code("vm.add-disk", r#"{"path":"/d","queue_size":3}"#), Code::InvalidConfig);
    assert_eq!(code("vm.remove-device", r#"{"id":"_disk7"}"#), Code::NoSuchDevice);
    rig.ok("vm.boot", "");
    let devices = |rig: &Rig| rig.client.reads().vm_info().unwrap().device_tree.unwrap();
    assert!(devices(&rig).contains_key("_disk0"));
    rig.ok("vm.shutdown", "");
    rig.ok("vm.remove-device", r#"{"id":"_disk0"}"#);
    rig.ok("vm.boot", "");
    assert!(!devices(&rig).contains_key("_disk0"));
}

#[test]
fn devices_come_to_a_machine_and_go_with_it() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    let info = |rig: &Rig| rig.client.reads().vm_info().unwrap();
    let code = |verb: &str, body: &str| rig.call(verb, body).unwrap_err().code;
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let disk =
        |id: &str| format!(r#"{{"path":"{}","image_type":"Raw","id":"{id}"}}"#, image.path().display());
    let Answer::Json(added) = rig.call("vm.add-disk", &disk("d")).unwrap() else { panic!() };
    assert_eq!(added, r#"{"id":"d","bdf":"0000:00:03.0"}"#);
    assert_eq!(info(&rig).config.disks.unwrap().len(), 1);
    // What is refused changes nothing.
    let before = info(&rig);
    assert_eq!(code("vm.add-disk", &disk("d")), Code::Duplicate);
    assert_eq!(code("vm.add-disk", r#"{"path":"/no/such/image","id":"e"}"#), Code::InvalidConfig);
    assert_eq!(code("vm.add-fs", r#"{"tag":"t","socket":"/s"}"#), Code::InvalidConfig);
    assert_eq!(code("vm.remove-device", r#"{"id":"__rng"}"#), Code::InvalidConfig);
    assert_eq!(code("vm.remove-device", r#"{"id":"e"}"#), Code::NoSuchDevice);
    assert_eq!(info(&rig), before);
    // It is asked for by either of its names, and stays until the guest lets go of it.
    rig.ok("vm.remove-device", r#"{"id":"_virtio-pci-d"}"#);
    assert_eq!(code("vm.remove-device", r#"{"id":"d"}"#), Code::Pending);
    assert!(info(&rig).config.disks.unwrap_or_default().is_empty());
    assert_eq!(info(&rig).device_tree.unwrap()["_virtio-pci-d"].removal, Some(api::Removal::Pending));
    assert_eq!(code("vm.add-disk", &disk("d")), Code::Duplicate);
    // Its image is still locked.
    assert_eq!(code("vm.add-disk", &disk("e")), Code::InvalidConfig);
    rig.ok("vm.pause", "");
    let other = tempfile::NamedTempFile::new().unwrap();
    other.as_file().set_len(1 << 20).unwrap();
    rig.ok("vm.add-disk", &format!(r#"{{"path":"{}","image_type":"Raw","id":"n"}}"#, other.path().display()));
    rig.ok("vm.reboot", "");
    assert!(rig.records().contains(&"vm/device-removed".to_owned()));
    let tree = info(&rig).device_tree.unwrap();
    assert!(tree.contains_key("n") && !tree.contains_key("d"));
    assert_eq!(tree["_virtio-pci-n"].pci_bdf.as_deref(), Some("0000:00:04.0"));
}

#[test]
fn a_disk_s_size_changes_while_the_vm_is_there() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let resize = |id: &str, size: u64| {
        rig.call("vm.resize-disk", &format!(r#"{{"id":"{id}","desired_size":{size}}}"#)).map_err(|e| e.code)
    };
    assert_eq!(resize("d", 512), Err(Code::VmNotCreated));
    rig.ok("vm.create", &config(&kernel));
    let disk = format!(r#"{{"path":"{}","image_type":"Raw","id":"d"}}"#, image.path().display());
    rig.ok("vm.add-disk", &disk);
    assert_eq!(resize("d", 512), Err(Code::IllegalState));
    rig.ok("vm.boot", "");
    assert_eq!(resize("d", 2 << 20), Ok(Answer::Nothing));
    assert_eq!(resize("d", 1000), Err(Code::InvalidConfig));
    assert_eq!(resize("d", u64::MAX - 511), Err(Code::InvalidConfig));
    assert_eq!(resize("__rng", 512), Err(Code::NoSuchDevice));
    assert_eq!(image.as_file().metadata().unwrap().len(), 2 << 20);
    rig.ok("vm.pause", "");
    assert_eq!(resize("d", 512), Ok(Answer::Nothing));
    assert_eq!(rig.state(), Some(api::VmState::Paused));
    assert_eq!(image.as_file().metadata().unwrap().len(), 512);
    assert_eq!(rig.records(), ["vm/booting", "vm/booted", "vm/pausing", "vm/paused"], "it has no event");
}

#[test]
fn descriptors_stay_as_long_as_their_device() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &config(&kernel));
    let (refused, reader) = add_net(&rig, r#"{"num_queues":4}"#);
    assert_eq!(refused.unwrap_err().code, Code::InvalidConfig);
    assert_closed(reader);

    let (added, removed) = add_net(&rig, r#"{"id":"n","fds":[7,8]}"#);
    assert_eq!(added, Ok(Answer::Nothing));
    let info = rig.client.reads().vm_info().unwrap();
    let fds = info.config.net.unwrap()[0].fds.clone().unwrap();
    assert!(fds.len() == 1 && fds[0] > 2, "{fds:?}");
    let error = rig.call("vm.boot", "").unwrap_err();
    assert!(error.to_string().contains("no queue of this tap"), "a pipe is no tap: {error}");
    rig.ok("vm.remove-device", r#"{"id":"n"}"#);
    assert_closed(removed);

    let (added, deleted) = add_net(&rig, "{}");
    assert_eq!(added, Ok(Answer::Nothing));
    rig.ok("vm.delete", "");
    assert_closed(deleted);
}

#[test]
fn numbers_in_json_are_no_descriptors() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &config(&kernel).replacen('{', r#"{"net":[{"fds":[1],"num_queues":2}],"#, 1));
    rig.ok("vm.add-net", r#"{"fds":[5]}"#);
    let info = rig.client.reads().vm_info().unwrap();
    assert!(info.config.net.unwrap().iter().all(|net| net.fds.is_none()));
}

#[test]
fn what_a_disk_was_found_to_be_is_shown_while_it_is_there() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.add-disk", &format!(r#"{{"path":"{}"}}"#, image.path().display()));
    let shown = || rig.client.reads().vm_info().unwrap().config.disks.unwrap()[0].image_type;
    assert_eq!(shown(), ImageType::Unknown);
    rig.ok("vm.boot", "");
    assert_eq!(shown(), ImageType::Raw);
    rig.ok("vm.reboot", "");
    assert_eq!(shown(), ImageType::Raw);
    rig.ok("vm.shutdown", "");
    assert_eq!(shown(), ImageType::Unknown);
}
