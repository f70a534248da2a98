//! Snapshots, restores, and the jobs that they are.

use std::path::Path;

use api::{Code, Job, JobState, VmState};

use super::config;
use super::fake::{Rig, kernel};
use crate::Options;

fn url(directory: &Path) -> String {
    format!("file://{}", directory.display())
}

fn snapshot(rig: &Rig, directory: &Path) {
    rig.ok("vm.snapshot", &format!(r#"{{"destination_url":"{}"}}"#, url(directory)));
}

fn jobs(rig: &Rig) -> Vec<Job> {
    rig.client.reads().vm_jobs().jobs
}

#[test]
fn a_paused_vm_comes_back_as_it_was() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let directory = tempfile::tempdir().unwrap();
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    rig.ok("vm.pause", "");
    snapshot(&rig, directory.path());
    assert_eq!(rig.state(), Some(VmState::Paused), "it stays as it was");
    let before = rig.client.reads().vm_info().unwrap();
    rig.ok("vm.delete", "");
    drop(kernel);
    rig.ok("vm.restore", &format!(r#"{{"source_url":"{}"}}"#, url(directory.path())));
    assert_eq!(rig.state(), Some(VmState::Paused));
    let after = rig.client.reads().vm_info().unwrap();
    assert_eq!((after.config, after.device_tree), (before.config, before.device_tree));
    rig.ok("vm.resume", "");
    let told: Vec<_> = jobs(&rig).into_iter().map(|job| (job.id, job.verb, job.state)).collect();
    let done = |id, verb: &str| (id, verb.to_owned(), JobState::Done);
    assert_eq!(told, [done(1, "vm.snapshot"), done(2, "vm.restore")]);
}

#[test]
fn a_vm_comes_back_with_the_queues_of_vcpus_that_have_gone() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let (directory, image) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    image.as_file().set_len(1 << 20).unwrap();
    let disk = format!(r#"{{"path":"{}","image_type":"Raw","num_queues":2}}"#, image.path().display());
    let sections = format!(r#""cpus":{{"boot_vcpus":2,"max_vcpus":2}},"disks":[{disk}]"#);
    rig.ok("vm.create", &config(&kernel).replacen('{', &format!("{{{sections},"), 1));
    rig.ok("vm.boot", "");
    rig.ok("vm.resize", r#"{"desired_vcpus":1}"#);
    snapshot(&rig, directory.path());
    rig.ok("vm.delete", "");
    rig.ok("vm.restore", &format!(r#"{{"source_url":"{}"}}"#, url(directory.path())));
    assert_eq!(rig.client.reads().vm_info().unwrap().config.cpus.boot_vcpus, 1);
}

#[test]
fn a_running_vm_runs_on() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let directory = tempfile::tempdir().unwrap();
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    snapshot(&rig, directory.path());
    assert_eq!(rig.state(), Some(VmState::Running));
    assert!(jobs(&rig)[0].downtime_us.is_some());
    let again = rig.call("vm.snapshot", &format!(r#"{{"destination_url":"{}"}}"#, url(directory.path())));
    assert_eq!(again.unwrap_err().code, Code::InvalidConfig, "nothing is overwritten");
    let second = tempfile::tempdir().unwrap();
    let (destination, parent) = (url(second.path()), directory.path().display());
    rig.ok("vm.snapshot", &format!(r#"{{"destination_url":"{destination}","parent":"{parent}"}}"#));
    rig.ok("vm.delete", "");
    rig.ok("vm.restore", &format!(r#"{{"source_url":"{destination}","resume":true}}"#));
    assert_eq!(rig.state(), Some(VmState::Running));
    let events = rig.records();
    let tail: Vec<_> = events.iter().rev().take(6).rev().map(String::as_str).collect();
    let expected =
        ["vm/job-started", "vm/restoring", "vm/restored", "vm/resuming", "vm/resumed", "vm/job-ended"];
    assert_eq!(tail, expected);
}

#[test]
fn what_cannot_be_written_or_read_is_named() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let directory = tempfile::tempdir().unwrap();
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    for (url, text) in [
        ("/tmp", "Could not extract path from URL: /tmp"),
        ("file://", "Could not extract path from URL: file://"),
        ("file:///nonexistent/dir", "Destination is not a directory: /nonexistent/dir"),
    ] {
        let error = rig.call("vm.snapshot", &format!(r#"{{"destination_url":"{url}"}}"#)).unwrap_err();
        assert!(error.code == Code::InvalidConfig && error.to_string().contains(text), "{error}");
    }
    rig.ok("vm.delete", "");
    let restore = |body: &str| {
        let error = rig.call("vm.restore", body).unwrap_err();
        assert_eq!(rig.state(), None, "{error}");
        error
    };
    let here = url(directory.path());
    let error = restore(&format!(r#"{{"source_url":"{here}"}}"#));
    assert!(error.code == Code::InvalidConfig && error.to_string().contains("state.json"), "{error}");
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    snapshot(&rig, directory.path());
    rig.ok("vm.delete", "");
    for (field, text) in [
        (r#""disk_paths":[{"id":"_disk7","path":"/d"}]"#, "'disk_paths' names '_disk7'"),
        (r#""net_taps":[{"id":"_net7","tap":"t"}]"#, "'net_taps' names '_net7'"),
        (r#""vsock_cid":7"#, "vsock_cid"),
        (r#""zone_updates":[{"id":"z"}]"#, "'zone_updates' names 'z'"),
        (r#""serial":"nonsense""#, "--serial"),
    ] {
        let error = restore(&format!(r#"{{"source_url":"{here}",{field}}}"#));
        assert!(error.code == Code::InvalidConfig && error.to_string().contains(text), "{field}: {error}");
    }
    assert!(jobs(&rig).iter().any(|job| job.state == JobState::Failed && job.error.is_some()));
}

#[test]
fn a_job_that_is_over_cannot_be_cancelled() {
    let rig = Rig::new(Options::default());
    assert_eq!(rig.call("vm.cancel-job", r#"{"id":1}"#).unwrap_err().code, Code::NoSuchJob);
}

#[test]
fn a_change_of_the_snapshot_is_told() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    let directory = tempfile::tempdir().unwrap();
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    snapshot(&rig, directory.path());
    rig.ok("vm.delete", "");
    rig.ok("vm.restore", &format!(r#"{{"source_url":"{}"}}"#, url(directory.path())));
    assert!(!rig.records().contains(&"vm/snapshot-changed".into()));
    let memory =
        std::fs::OpenOptions::new().write(true).open(directory.path().join("memory-ranges")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&memory, b"x", 0).unwrap();
    rig.wait_for(|rig| rig.records().contains(&"vm/snapshot-changed".into()));
}

fn wait_for_job(rig: &Rig, state: JobState) -> Job {
    rig.wait_for(|rig| jobs(rig).last().is_some_and(|job| job.state == state));
    jobs(rig).pop().unwrap()
}

#[test]
fn a_vm_goes_to_another_process() {
    let kernel = kernel();
    for (memory, send) in [
        (r#"{"size":16777216}"#, ""),
        (r#"{"size":16777216}"#, r#","downtime_ms":1"#),
        (r#"{"size":16777216,"shared":true}"#, r#","local":true"#),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("unix:{}", directory.path().join("socket").display());
        let (mut source, destination) = (Rig::new(Options::default()), Rig::new(Options::default()));
        source.ok("vm.create", &config(&kernel).replacen(r#"{"size":16777216}"#, memory, 1));
        source.ok("vm.boot", "");
        let before = source.client.reads().vm_info().unwrap();
        let received = destination.start("vm.receive-migration", &format!(r#"{{"receiver_url":"{url}"}}"#));
        wait_for_job(&destination, JobState::Running);
        source.ok("vm.send-migration", &format!(r#"{{"destination_url":"{url}"{send}}}"#));
        received.recv().unwrap().unwrap();
        source.join().unwrap();
        assert_eq!(destination.state(), Some(VmState::Running), "{send}");
        let after = destination.client.reads().vm_info().unwrap();
        assert_eq!((after.config, after.device_tree), (before.config, before.device_tree));
        assert!(source.records().contains(&"vm/migration-finished".into()), "{:?}", source.records());
        assert!(destination.records().contains(&"vm/migration-receive-finished".into()));
    }
}

#[test]
fn a_vm_that_nobody_takes_stays() {
    let (rig, kernel) = (Rig::new(Options::default()), kernel());
    rig.ok("vm.create", &config(&kernel));
    rig.ok("vm.boot", "");
    for (body, text) in [
        (r#"{"destination_url":"nowhere"}"#, "destination_url must use"),
        (r#"{"destination_url":"tcp:h:1","local":true}"#, "local option is only supported"),
    ] {
        let error = rig.call("vm.send-migration", body).unwrap_err();
        assert!(error.code == Code::InvalidConfig && error.to_string().contains(text), "{error}");
    }
    rig.ok("vm.send-migration", r#"{"destination_url":"unix:/nonexistent/socket"}"#);
    let job = wait_for_job(&rig, JobState::Failed);
    assert!(job.error.unwrap().concat().contains("Cannot connect"));
    assert_eq!(rig.state(), Some(VmState::Running));
    rig.ok("vm.pause", "");
}

#[test]
fn a_receiver_can_be_cancelled() {
    let rig = Rig::new(Options::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let body = format!(r#"{{"receiver_url":"unix:{}"}}"#, path.display());
    let received = rig.start("vm.receive-migration", &body);
    let job = wait_for_job(&rig, JobState::Running);
    rig.ok("vm.cancel-job", &format!(r#"{{"id":{}}}"#, job.id));
    assert!(received.recv().unwrap().is_err());
    assert!(rig.state().is_none() && !path.exists());
}
