use std::sync::{Mutex, mpsc};

use super::testing::fake_api;
use super::*;

fn call(client: &Client, name: &str, body: &str) -> mpsc::Receiver<Outcome> {
    let (sender, outcome) = mpsc::channel();
    Verb::find(name).unwrap().call(client, body.as_bytes(), move |outcome| sender.send(outcome).unwrap());
    outcome
}

#[test]
fn reads_are_answered_without_the_loop() {
    let (client, _inbox) = fake_api();
    let outcome = call(&client, "vmm.ping", "").recv().unwrap();
    let ping = r#"{"build_version":"v54.0.0","version":"54.0.0","pid":7,"features":["kvm"]}"#;
    assert_eq!(outcome.result, Ok(Answer::Json(ping.into())));
    let error = call(&client, "vm.info", "").recv().unwrap().result.unwrap_err();
    assert_eq!(error.to_json(), r#"["Error from API","The VM info is not available","VM is not created"]"#);
}

#[test]
fn commands_reach_the_loop_with_body_and_typed_reply() {
    let (client, inbox) = fake_api();
    let outcome = call(&client, "vm.create", r#"{"payload":{"kernel":"/k","kernal":1},"pvpanic":true}"#);
    match inbox.next() {
        Some(Command::VmCreate { body, reply }) => {
            assert!(body.pvpanic);
            reply.send(Ok(()));
        }
        _ => panic!("no vm.create"),
    }
    let outcome = outcome.recv().unwrap();
    assert_eq!(
        (outcome.result, outcome.unknown_fields),
        (Ok(Answer::Nothing), vec!["payload.kernal".into()])
    );
}

#[test]
fn broken_bodies_never_reach_the_loop() {
    let (client, inbox) = fake_api();
    for (verb, body, code) in [
        ("vm.create", "", Code::BadRequest),
        ("vm.create", "{", Code::MalformedJson),
        ("vm.create", r#"{"disks":7}"#, Code::MalformedJson),
        // All of its fields may be left out, but it is an object.
        ("vm.resize", "[]", Code::MalformedJson),
        ("vm.resize", " \n[null]", Code::MalformedJson),
        ("vm.boot", "{}", Code::BadRequest),
        ("vm.info", "{}", Code::BadRequest),
        ("vm.resize-disk", r#"{"id":"a"}"#, Code::MalformedJson),
    ] {
        assert_eq!(call(&client, verb, body).recv().unwrap().result.unwrap_err().code, code, "{verb} {body}");
    }
    assert!(inbox.next().is_none());
}

#[test]
fn a_dropped_reply_and_a_gone_loop_answer_unavailable() {
    let (client, inbox) = fake_api();
    let outcome = call(&client, "vm.boot", "");
    drop(inbox.next());
    assert_eq!(outcome.recv().unwrap().result.unwrap_err().code, Code::Unavailable);
    drop(inbox);
    let error = client.ask(|reply| Command::VmBoot { body: NoBody, reply }).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
}

/// `spec/rest-api.md` §3, with the codes of `spec/README.md`: what each verb answers in each state (0: it goes ahead). The last state, and
/// the snapshot of a running VM, are ours.
#[test]
fn the_legality_matrix() {
    const MATRIX: [(&str, [u16; 6]); 33] = [
        ("vmm.ping", [0, 0, 0, 0, 0, 0]),
        ("vmm.shutdown", [0, 0, 0, 0, 405, 0]),
        ("vm.info", [404, 0, 0, 0, 0, 0]),
        ("vm.counters", [404, 405, 0, 0, 405, 0]),
        ("vm.jobs", [0, 0, 0, 0, 0, 0]),
        ("vm.cancel-job", [0, 0, 0, 0, 0, 0]),
        ("vm.create", [0, 409, 409, 409, 405, 429]),
        ("vm.delete", [0, 0, 0, 0, 405, 0]),
        ("vm.boot", [404, 0, 405, 405, 405, 429]),
        ("vm.pause", [404, 405, 0, 405, 405, 429]),
        ("vm.resume", [404, 405, 405, 0, 405, 429]),
        ("vm.shutdown", [404, 405, 0, 0, 405, 0]),
        ("vm.reboot", [404, 405, 0, 0, 405, 0]),
        ("vm.power-button", [404, 405, 0, 0, 405, 0]),
        ("vm.nmi", [404, 405, 0, 0, 405, 0]),
        ("vm.resize", [404, 0, 0, 0, 405, 429]),
        ("vm.resize-disk", [404, 405, 0, 0, 405, 429]),
        ("vm.resize-zone", [404, 0, 0, 0, 405, 429]),
        ("vm.add-device", [404, 0, 0, 0, 405, 429]),
        ("vm.add-user-device", [404, 0, 0, 0, 405, 429]),
        ("vm.add-disk", [404, 0, 0, 0, 405, 429]),
        ("vm.add-fs", [404, 0, 0, 0, 405, 429]),
        ("vm.add-generic-vhost-user", [404, 0, 0, 0, 405, 429]),
        ("vm.add-net", [404, 0, 0, 0, 405, 429]),
        ("vm.add-pmem", [404, 0, 0, 0, 405, 429]),
        ("vm.add-vdpa", [404, 0, 0, 0, 405, 429]),
        ("vm.add-vsock", [404, 0, 0, 0, 405, 429]),
        ("vm.remove-device", [404, 0, 0, 0, 405, 429]),
        ("vm.snapshot", [404, 405, 0, 0, 405, 429]),
        ("vm.coredump", [404, 405, 0, 0, 405, 429]),
        ("vm.restore", [0, 409, 409, 409, 405, 429]),
        ("vm.send-migration", [404, 405, 0, 0, 405, 429]),
        ("vm.receive-migration", [0, 0, 405, 405, 405, 429]),
    ];
    assert_eq!(VERBS.len(), MATRIX.len());
    for (name, expected) in MATRIX {
        let verb = Verb::find(name).unwrap();
        let got = State::ALL.map(|state| verb.admit(state).map_or_else(|error| error.code.status(), |()| 0));
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn all_problems_are_told_and_the_first_stays_first() {
    let (mut config, _): (config::VmConfig, _) =
        config::from_json(br#"{"payload":{"kernel":"/k"},"disks":[{"path":"/d","queue_size":3}]}"#).unwrap();
    config.cpus.boot_vcpus = 2;
    let error = ApiError::from_problems(&config::check(config).unwrap_err());
    assert_eq!(error.chain()[1], "Max CPUs (1) lower than boot CPUs (2)");
    let problem: serde_json::Value = serde_json::from_str(&error.to_problem()).unwrap();
    let paths: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|e| e["path"].clone()).collect();
    assert_eq!(paths, ["cpus.max_vcpus", "disks[0].queue_size"]);
    assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(400), Some("invalid_config")));
}

#[test]
fn replies_may_come_from_any_thread() {
    let (client, inbox) = fake_api();
    let inbox = Mutex::new(inbox);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| client.ask(|reply| Command::VmPause { body: NoBody, reply }));
        let command = loop {
            if let Some(command) = inbox.lock().unwrap().next() {
                break command;
            }
            std::thread::yield_now();
        };
        assert_eq!(command.verb().name, "vm.pause");
        command.refuse(ApiError::new(Code::NotImplemented, ["x".into()]));
        assert_eq!(asked.join().unwrap().unwrap_err().code, Code::NotImplemented);
    });
}

#[test]
fn the_table_of_codes_is_whole() {
    for (i, code) in Code::ALL.into_iter().enumerate() {
        assert_eq!(code as usize, i, "{code} is out of order");
    }
    assert_eq!(Code::ALL.len(), Code::Unavailable as usize + 1);
    let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), Code::ALL.len());
    assert!(Code::ALL.is_sorted_by_key(|code| code.status()));
}

/// What the matrix answers is what the document promises.
#[test]
fn verbs_know_what_they_fail_with() {
    for verb in VERBS {
        let codes = verb.codes();
        for refused in State::ALL.iter().filter_map(|state| verb.admit(*state).err()) {
            assert!(codes.contains(&refused.code), "{} {}", verb.name, refused.code);
        }
    }
    let names =
        |verb: &str| Verb::find(verb).unwrap().codes().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names("vmm.ping"), ["bad_request", "too_large", "internal", "unavailable"]);
    let resize = [
        "bad_request",
        "malformed_json",
        "invalid_config",
        "vm_not_created",
        "vm_migrating",
        "too_large",
        "pending",
        "job_running",
        "internal",
        "not_implemented",
        "unavailable",
    ];
    assert_eq!(names("vm.resize"), resize);
}

#[test]
fn a_range_of_memory_reads_as_clients_know_it() {
    let range = Resource::MmioAddressRange(MmioAddressRange { base: 1 << 40, size: 2 << 20 });
    let text = r#"{"MmioAddressRange":{"base":1099511627776,"size":2097152}}"#;
    assert_eq!(serde_json::to_string(&range).unwrap(), text);
}

#[test]
fn a_bar_reads_as_clients_know_it() {
    let bar = PciBarResource {
        base: 0xc000_0000,
        index: 0,
        prefetchable: false,
        size: 0x8_0000,
        width: PciBarWidth::Mmio32,
    };
    let text =
        r#"{"PciBar":{"base":3221225472,"index":0,"prefetchable":false,"size":524288,"type_":"Mmio32"}}"#;
    assert_eq!(serde_json::to_string(&Resource::PciBar(bar)).unwrap(), text);
    assert_eq!(serde_json::from_str::<Resource>(text).unwrap(), Resource::PciBar(bar));
}
