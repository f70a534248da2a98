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
