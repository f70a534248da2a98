mod confine;
mod fake;
mod host_objects;
mod jobs;
mod missing;
mod resize;
mod sections;

use std::sync::{Arc, mpsc};

use api::{Answer, Code, VmState};
use device::Event;

use crate::{Ended, Options};
use fake::{Rig, kernel};
use hv::fake::FakeHypervisor;

fn config(kernel: &tempfile::NamedTempFile) -> String {
    let path = kernel.path().display();
    format!(r#"{{"payload":{{"kernel":"{path}"}},"memory":{{"size":16777216}},"console":{{"mode":"Null"}}}}"#)
}

#[test]
fn a_vm_s_whole_life() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &config(&kernel));
    assert_eq!(rig.state(), Some(VmState::Created));
    for (verb, state) in [
        ("vm.boot", VmState::Running),
        ("vm.pause", VmState::Paused),
        ("vm.resume", VmState::Running),
        ("vm.nmi", VmState::Running),
        ("vm.power-button", VmState::Running),
        ("vm.reboot", VmState::Running),
        ("vm.shutdown", VmState::Created),
        ("vm.boot", VmState::Running),
    ] {
        rig.ok(verb, "");
        assert_eq!(rig.state(), Some(state), "{verb}");
    }
    let info = rig.client.reads().vm_info().unwrap();
    let devices: Vec<_> = info.device_tree.unwrap().into_keys().collect();
    let expected = [
        "__boot_log",
        "__cmos",
        "__config_ports",
        "__console",
        "__cpus",
        "__firmware_port",
        "__ged",
        "__generation",
        "__host_bridge",
        "__i8042",
        "__ioapic",
        "__memory_hotplug",
        "__pci_hotplug",
        "__pm_timer",
        "__rng",
        "__serial",
        "__sleep_control",
        "_virtio-pci-__console",
        "_virtio-pci-__rng",
    ];
    assert_eq!(devices, expected);
    rig.ok("vm.delete", "");
    assert_eq!(rig.state(), None);
    let expected = [
        "vm/booting",
        "vm/booted",
        "vm/pausing",
        "vm/paused",
        "vm/resuming",
        "vm/resumed",
        "vm/rebooting",
        "vm/rebooted",
        "vm/shutdown",
        "vm/booting",
        "vm/booted",
        "vm/shutdown",
        "vm/deleted",
    ];
    assert_eq!(rig.records(), expected);
}

#[test]
fn a_failed_boot_leaves_a_created_vm_that_can_be_booted() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &config(&kernel));
    let elf = std::fs::read(kernel.path()).unwrap();
    std::fs::write(kernel.path(), b"no kernel").unwrap();
    let error = rig.call("vm.boot", "").unwrap_err();
    assert_eq!((error.code, rig.state()), (Code::InvalidConfig, Some(VmState::Created)));
    std::fs::write(kernel.path(), elf).unwrap();
    rig.ok("vm.boot", "");
    assert_eq!(rig.records(), ["vm/booting", "vm/booting", "vm/booted"]);
}

#[test]
fn a_failed_create_leaves_nothing() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let body = config(&kernel)
        .replace(r#""console":{"mode":"Null"}"#, r#""serial":{"mode":"File","file":"/no/such/dir/f"}"#);
    assert_eq!(rig.call("vm.create", &body).unwrap_err().code, Code::InvalidConfig);
    assert_eq!(
        rig.call("vm.create", r#"{"cpus":{"boot_vcpus":2,"max_vcpus":1}}"#).unwrap_err().code,
        Code::InvalidConfig
    );
    assert_eq!(rig.state(), None);
    rig.ok("vm.create", &config(&kernel));
}

#[test]
fn sections_without_a_mechanism_are_named() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &config(&kernel).replacen('{', r#"{"tpm":{"socket":"/s"},"#, 1));
    let error = rig.call("vm.boot", "").unwrap_err();
    assert_eq!(error.code, Code::NotImplemented);
    assert!(error.to_string().contains("tpm"), "{error}");
}

#[test]
fn too_many_vcpus_are_the_configuration_s_fault() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &config(&kernel).replacen('{', r#"{"cpus":{"boot_vcpus":5,"max_vcpus":5},"#, 1));
    assert_eq!(rig.call("vm.boot", "").unwrap_err().code, Code::InvalidConfig);
}

#[test]
fn the_guest_s_reset_builds_the_machine_anew() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    rig.events.raise(Event::Reset);
    rig.wait_for(|rig| rig.records().iter().any(|r| r == "vm/rebooted"));
    assert_eq!(rig.state(), Some(VmState::Running));
}

#[test]
fn the_guest_s_power_off_ends_the_process_or_the_vm() {
    let kernel = kernel();
    let mut rig = Rig::new(Options::default());
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    rig.events.raise(Event::PowerOff);
    assert!(rig.join().is_ok());
    assert_eq!(rig.records()[2..], ["vm/shutdown", "vm/deleted", "vmm/shutdown"]);

    let rig = Rig::new(Options { no_shutdown: true, ..Options::default() });
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    rig.events.raise(Event::PowerOff);
    rig.wait_for(|rig| rig.state() == Some(VmState::Created));
    rig.ok("vm.boot", "");
}

#[test]
fn a_failed_vcpu_and_a_failed_reboot_end_the_loop_with_an_error() {
    let kernel = kernel();
    let mut rig = Rig::new(Options::default());
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    rig.events.raise(Event::Fatal);
    assert!(matches!(rig.join(), Err(Ended::Vcpu)));

    let mut rig = Rig::new(Options::default());
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    std::fs::write(kernel.path(), b"no kernel").unwrap();
    rig.events.raise(Event::Reset);
    assert!(matches!(rig.join(), Err(Ended::Reboot(_))));
}

/// Admission in the real loop: the table's own test has the whole matrix.
#[test]
fn verbs_out_of_season_are_refused_and_change_nothing() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let code = |verb: &str, body: &str| rig.call(verb, body).unwrap_err().code.status();
    assert_eq!([code("vm.boot", ""), code("vm.pause", ""), code("vm.resize", "{}")], [404; 3]);
    rig.ok("vm.delete", "");
    rig.ok("vm.create", &config(&kernel));
    assert_eq!(
        [
            code("vm.create", &config(&kernel)),
            code("vm.pause", ""),
            code("vm.receive-migration", r#"{"receiver_url":"nowhere"}"#)
        ],
        [409, 405, 400]
    );
    rig.ok("vm.boot", "");
    assert_eq!(
        [
            code("vm.boot", ""),
            code("vm.resume", ""),
            code("vm.restore", r#"{"source_url":"file:///x"}"#),
            code("vm.snapshot", r#"{"destination_url":"file:///nowhere/to/be/found"}"#)
        ],
        [405, 405, 409, 400]
    );
    assert_eq!(rig.state(), Some(VmState::Running));
    assert_eq!(rig.records().iter().filter(|r| *r == "vm/resuming" || *r == "vm/snapshotting").count(), 2);
}

/// Reads are answered from what was published last. The boot is provably still under way: it waits for this test.
#[test]
fn what_a_guest_asks_for_while_it_is_paused_waits_for_the_resume() {
    let rig = Rig::new(Options { no_shutdown: true, ..Options::default() });
    let kernel = kernel();
    rig.ok("vm.create", &config(&kernel));
    for (event, happens) in [(Event::Reset, "vm/rebooted"), (Event::PowerOff, "vm/shutdown")] {
        let times = |rig: &Rig| rig.records().iter().filter(|record| *record == happens).count();
        let before = times(&rig);
        rig.ok("vm.boot", "");
        rig.ok("vm.pause", "");
        rig.events.raise(event);
        // A command comes after what was raised before it, if only to be refused.
        rig.call("vm.pause", "").unwrap_err();
        assert_eq!(rig.state(), Some(VmState::Paused));
        assert_eq!(times(&rig), before);
        rig.ok("vm.resume", "");
        rig.wait_for(|rig| times(rig) > before);
        // A machine that is gone leaves no wish behind.
        if rig.state() == Some(VmState::Running) {
            rig.ok("vm.pause", "");
            rig.events.raise(event);
            rig.call("vm.pause", "").unwrap_err();
            rig.ok("vm.shutdown", "");
        }
    }
}

#[test]
fn reads_are_answered_while_a_boot_hangs() {
    let (entered, inside) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let rig = Rig::opening(Options::default(), move || {
        entered.send(()).unwrap();
        released.recv().unwrap();
        Ok(Arc::new(FakeHypervisor::default()))
    });
    let kernel = kernel();
    rig.ok("vm.create", &config(&kernel));
    let boot = rig.start("vm.boot", "");
    inside.recv().unwrap();
    let answers: Vec<_> = ["vmm.ping", "vm.info", "vm.counters"].map(|verb| rig.call(verb, "")).into();
    assert!(matches!(&answers[0], Ok(Answer::Json(_))));
    assert!(matches!(&answers[1], Ok(Answer::Json(info)) if info.contains(r#""state":"Created""#)));
    assert!(matches!(&answers[2], Err(error) if error.code == Code::IllegalState));
    assert_eq!(rig.records(), ["vm/booting"]);
    assert!(boot.try_recv().is_err(), "the boot has ended already");
    release.send(()).unwrap();
    assert!(boot.recv().unwrap().is_ok());
    assert_eq!(rig.state(), Some(VmState::Running));
}
