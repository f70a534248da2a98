//! `vm.resize`.

use api::Code;

use super::config;
use super::fake::{Rig, kernel};
use crate::Options;

/// A VM that has this section besides those of [`config`].
fn with(kernel: &tempfile::NamedTempFile, section: &str) -> String {
    config(kernel).replacen('{', &format!("{{{section},"), 1)
}

/// A VM with other memory than that of [`config`].
fn with_memory(kernel: &tempfile::NamedTempFile, memory: &str) -> String {
    config(kernel).replacen(r#"{"size":16777216}"#, memory, 1)
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
fn ram_comes_through_acpi() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &with_memory(&kernel, r#"{"size":134217728,"hotplug_size":536870912}"#));
    rig.ok("vm.boot", "");
    // What is configured, and what the guest has.
    let sizes = || {
        let info = rig.client.reads().vm_info().unwrap();
        (info.config.memory.size >> 20, info.memory_actual_size >> 20)
    };
    let resize = |mib: u64| rig.ok("vm.resize", &format!(r#"{{"desired_ram":{}}}"#, mib << 20));
    resize(384);
    assert_eq!(sizes(), (384, 384));
    resize(384);
    for (body, text) in [
        (r#"{"desired_ram":402657280}"#, "desired_ram may exceed the present RAM by multiples of"),
        (r#"{"desired_ram":805306368}"#, "by 268435456 bytes, not by 402653184"),
        (r#"{"desired_ram":0}"#, "Memory size is 0"),
        (r#"{"desired_vcpus":2,"desired_ram":805306368}"#, "exceed maximum"),
    ] {
        let error = rig.call("vm.resize", body).unwrap_err();
        assert_eq!(error.code, Code::InvalidConfig, "{body}");
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(sizes(), (384, 384));
    }
    resize(256);
    assert_eq!(sizes(), (256, 384), "less is for the next boot");
    resize(640);
    assert_eq!(sizes(), (640, 640));
    rig.ok("vm.reboot", "");
    assert_eq!(sizes(), (640, 640));
    resize(1152);
    resize(128);
    assert_eq!(sizes(), (128, 1152));
    rig.ok("vm.shutdown", "");
    rig.ok("vm.boot", "");
    assert_eq!(sizes(), (128, 128));
    rig.ok("vm.resize", "{}");
    let refused = rig.records().iter().filter(|record| *record == "vm/resizing").count()
        - rig.records().iter().filter(|record| *record == "vm/resized").count();
    assert_eq!(refused, 4);
}

/// Nothing of a request is done if its RAM cannot come.
#[test]
fn ram_is_refused_before_vcpus_come() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &with(&kernel, r#""cpus":{"boot_vcpus":1,"max_vcpus":4}"#));
    rig.ok("vm.boot", "");
    let error = rig.call("vm.resize", r#"{"desired_vcpus":4,"desired_ram":268435456}"#).unwrap_err();
    assert_eq!(error.code, Code::InvalidConfig);
    assert!(error.to_string().contains("memory.hotplug_size"), "{error}");
    assert_eq!(rig.client.reads().vm_info().unwrap().config.cpus.boot_vcpus, 1);
}

#[test]
fn ram_that_can_be_plugged_is_asked_for() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let memory = r#"{"size":67108864,"hotplug_method":"VirtioMem","hotplug_size":134217728}"#;
    rig.ok("vm.create", &with_memory(&kernel, memory));
    rig.ok("vm.boot", "");
    let plugged = || rig.client.reads().vm_info().unwrap().config.memory.hotplugged_size;
    for _ in 0..2 {
        rig.ok("vm.resize", r#"{"desired_ram":134217728}"#);
        assert_eq!(plugged(), Some(64 << 20));
    }
    for wrong in ["67108863", "134217729", "201326593"] {
        let refused = rig.call("vm.resize", &format!(r#"{{"desired_ram":{wrong}}}"#)).unwrap_err();
        assert_eq!(refused.code, Code::InvalidConfig, "{wrong}");
    }
    rig.ok("vm.reboot", "");
    assert_eq!(plugged(), Some(64 << 20));
    assert_eq!(rig.client.reads().vm_info().unwrap().memory_actual_size, 64 << 20, "nothing is plugged yet");
}

#[test]
fn a_zone_is_resized_by_itself() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let memory = r#"{"size":0,"hotplug_method":"VirtioMem","zones":[
        {"id":"a","size":67108864},{"id":"b","size":67108864,"hotplug_size":134217728}]}"#;
    rig.ok("vm.create", &with_memory(&kernel, memory));
    let zones = || rig.client.reads().vm_info().unwrap().config.memory.zones.unwrap();
    let code = |id: &str, ram: u64| {
        let body = format!(r#"{{"id":"{id}","desired_ram":{ram}}}"#);
        rig.call("vm.resize-zone", &body).map_err(|error| error.code).err()
    };
    assert_eq!([code("a", 32 << 20), code("c", 32 << 20)], [None, Some(Code::InvalidConfig)]);
    assert_eq!(zones()[0].size, 32 << 20);
    rig.ok("vm.boot", "");
    assert_eq!([code("b", 128 << 20), code("a", 128 << 20)], [None, Some(Code::InvalidConfig)]);
    assert_eq!((zones()[1].size, zones()[1].hotplugged_size), (64 << 20, Some(64 << 20)));
    assert_eq!(rig.call("vm.resize", r#"{"desired_ram":1}"#).unwrap_err().code, Code::InvalidConfig);
}

#[test]
fn a_balloon_has_its_size_through_reboots() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &with(&kernel, r#""balloon":{"size":4096}"#));
    rig.ok("vm.boot", "");
    let size = || rig.client.reads().vm_info().unwrap().config.balloon.unwrap().size;
    rig.ok("vm.resize", r#"{"desired_balloon":8388608}"#);
    assert_eq!(size(), 8 << 20);
    let too_large = rig.call("vm.resize", r#"{"desired_balloon":17179869184}"#).unwrap_err();
    assert_eq!(too_large.code, Code::InvalidConfig);
    for verb in ["vm.pause", "vm.resume", "vm.reboot", "vm.shutdown", "vm.boot"] {
        rig.ok(verb, "");
        assert_eq!(size(), 8 << 20, "{verb}");
    }
}

#[test]
fn a_balloon_that_is_not_there_is_missed() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &config(&kernel));
    for _ in 0..2 {
        let error = rig.call("vm.resize", r#"{"desired_balloon":4096}"#).unwrap_err();
        assert_eq!(error.code, Code::InvalidConfig);
        assert!(error.to_string().contains("Missing virtio-balloon"), "{error}");
        drop(rig.call("vm.boot", ""));
    }
}

#[test]
fn vcpus_of_a_running_vm_follow() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &with(&kernel, r#""cpus":{"boot_vcpus":1,"max_vcpus":4}"#));
    rig.ok("vm.boot", "");
    let shown = || rig.client.reads().vm_info().unwrap().config.cpus.boot_vcpus;
    let counted = || rig.client.reads().vm_meters().unwrap().vcpu_exits.len();
    let refusal = |body: &str| rig.call("vm.resize", body).unwrap_err();
    rig.ok("vm.resize", r#"{"desired_vcpus":3}"#);
    assert_eq!((shown(), counted()), (3, 3));
    rig.ok("vm.resize", r#"{"desired_vcpus":3}"#);
    for (body, text) in
        [(r#"{"desired_vcpus":0}"#, "Requested zero vCPUs"), (r#"{"desired_vcpus":5}"#, "exceed maximum")]
    {
        let error = refusal(body);
        assert_eq!(error.code, Code::InvalidConfig);
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(refusal(r#"{"desired_vcpus":4,"desired_ram":33554432}"#).code, Code::InvalidConfig);
    assert_eq!(shown(), 3, "all of it or nothing");

    // This guest never answers: what was asked for is shown, may be asked for again, and comes with the next boot.
    rig.ok("vm.resize", r#"{"desired_vcpus":2}"#);
    rig.ok("vm.resize", r#"{"desired_vcpus":2}"#);
    assert_eq!(refusal(r#"{"desired_vcpus":4}"#).code, Code::Pending);
    assert_eq!(shown(), 2);
    rig.ok("vm.reboot", "");
    assert_eq!((shown(), counted()), (2, 2));
    rig.ok("vm.pause", "");
    rig.ok("vm.resize", r#"{"desired_vcpus":4}"#);
    rig.ok("vm.resume", "");
    assert_eq!((shown(), counted()), (4, 4));
    let asked = rig.records().iter().filter(|record| *record == "vm/resizing").count();
    let done = rig.records().iter().filter(|record| *record == "vm/resized").count();
    assert_eq!((asked, done), (9, 5));
}

/// A device with a queue for each vCPU keeps them all when vCPUs go.
#[test]
fn a_vm_with_a_queue_for_each_vcpu_can_be_made_smaller() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let path = image.path().display();
    let disk = format!(r#""disks":[{{"path":"{path}","image_type":"Raw","num_queues":2}}]"#);
    rig.ok("vm.create", &with(&kernel, &format!(r#""cpus":{{"boot_vcpus":2,"max_vcpus":2}},{disk}"#)));
    rig.ok("vm.boot", "");
    rig.ok("vm.resize", r#"{"desired_vcpus":1}"#);
    let config = rig.client.reads().vm_info().unwrap().config;
    assert_eq!((config.cpus.boot_vcpus, config.disks.unwrap()[0].num_queues), (1, 2));
}
