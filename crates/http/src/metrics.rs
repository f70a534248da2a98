//! Metrics in Prometheus' text format, version 0.0.4 (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! All of it is read without the control loop, on the `http-server` thread, and counted anyway: a scrape costs the guest nothing.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

use api::{Client, Counters, Meters, Removal, VmInfo, VmState};
use meter::Latency;

/// The format's media type.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Latencies from here on stand for "no sample yet" (`spec/rest-api.md` §4, vm.counters).
const NO_LATENCY_US: u64 = u64::MAX / 10_000;

/// States besides "None", which is without a VM.
const STATES: [VmState; 5] =
    [VmState::Created, VmState::Running, VmState::Paused, VmState::Shutdown, VmState::BreakPoint];

/// All metrics.
pub(crate) fn render(client: &Client) -> String {
    let mut text = Text::default();
    let reads = client.reads();
    let ping = reads.vmm_ping();
    text.family("build_info", "gauge", "Who answers.");
    text.sample("build_info", &[("version", &ping.version), ("build_version", &ping.build_version)], 1);
    let info = reads.vm_info().ok();
    let state = info.as_ref().map(|info| info.state);
    text.family("vm_state", "gauge", "The VM's state, as vm.info names it: 1 for the one it is in.");
    text.sample("vm_state", &[("state", "None")], u8::from(state.is_none()));
    for known in STATES {
        text.sample("vm_state", &[("state", &format!("{known:?}"))], u8::from(state == Some(known)));
    }
    if let Some(info) = &info {
        text.family("memory_actual_bytes", "gauge", "RAM the VM has now.");
        text.sample("memory_actual_bytes", &[], info.memory_actual_size);
        removals(&mut text, info);
    }
    text.family("events_total", "counter", "Event records, by source and event.");
    for ((source, event), count) in reads.events().counts() {
        text.sample("events_total", &[("source", source), ("event", event)], count);
    }
    calls(&mut text, client);
    if let Ok(counters) = reads.vm_counters() {
        devices(&mut text, &counters);
    }
    if let Some(meters) = reads.vm_meters() {
        vcpus(&mut text, &meters);
        queues(&mut text, &meters);
    }
    text.0
}

/// Devices that the guest was asked to let go of.
fn removals(text: &mut Text, info: &VmInfo) {
    text.family(
        "device_removals",
        "gauge",
        "Devices that the guest has not let go of yet, by how long it takes.",
    );
    let tree = info.device_tree.iter().flat_map(|tree| tree.values());
    let removals: Vec<_> = tree.filter_map(|node| node.removal).collect();
    for (state, removal) in [("pending", Removal::Pending), ("overdue", Removal::Overdue)] {
        let count = removals.iter().filter(|other| **other == removal).count();
        text.sample("device_removals", &[("state", state)], count);
    }
}

fn calls(text: &mut Text, client: &Client) {
    let name = "api_request_duration_seconds";
    text.family(name, "histogram", "How long calls of a verb took, from the whole request to the reply.");
    for (verb, latency) in client.calls().latencies() {
        text.histogram(name, &[("verb", verb)], &latency);
    }
    text.family("api_errors_total", "counter", "Calls that failed, by code.");
    for (code, count) in client.calls().failures() {
        text.sample("api_errors_total", &[("code", &code.to_string())], count);
    }
}

/// What `vm.counters` tells. A family's samples must stand together, so counters go before devices here.
fn devices(text: &mut Text, counters: &Counters) {
    let mut families: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
    for (device, own) in counters {
        for (name, value) in own {
            families.entry(name).or_default().push((device, *value));
        }
    }
    for (counter, samples) in families {
        if counter.contains("_latency_") {
            let name = format!("device_{counter}_seconds");
            text.family(&name, "gauge", "As the counter of vm.counters, over all requests so far.");
            for (device, value_us) in samples.into_iter().filter(|(_, value)| *value < NO_LATENCY_US) {
                text.sample(&name, &[("device", device)], Duration::from_micros(value_us).as_secs_f64());
            }
        } else {
            let name = format!("device_{counter}_total");
            text.family(&name, "counter", "As the counter of vm.counters.");
            for (device, value) in samples {
                text.sample(&name, &[("device", device)], value);
            }
        }
    }
}

fn vcpus(text: &mut Text, meters: &Meters) {
    text.family("vcpu_exits_total", "counter", "How often a vCPU came to the VMM, by reason.");
    for (number, exits) in meters.vcpu_exits.iter().enumerate() {
        for (reason, count) in exits {
            text.sample("vcpu_exits_total", &[("vcpu", &number.to_string()), ("reason", reason)], count);
        }
    }
}

fn queues(text: &mut Text, meters: &Meters) {
    let mut counts: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (device, reading) in &meters.queues {
        for (name, value) in &reading.counts {
            counts.entry(name).or_default().push((device, reading.queue.to_string(), value));
        }
    }
    for (counter, samples) in counts {
        let name = format!("queue_{counter}_total");
        text.family(&name, "counter", "As the device's counter, of one queue.");
        for (device, queue, value) in samples {
            text.sample(&name, &[("device", device), ("queue", &queue)], value);
        }
    }
    let name = "queue_request_duration_seconds";
    text.family(name, "histogram", "How long requests took, from the guest's notice to the answer.");
    for (device, reading) in &meters.queues {
        for (operation, latency) in &reading.latencies {
            let queue = reading.queue.to_string();
            text.histogram(name, &[("device", device), ("queue", &queue), ("op", operation)], latency);
        }
    }
}

/// The text as far as it is written. Writing to a string cannot fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ =
            writeln!(self.0, "# HELP cloud_hypervisor_{name} {help}\n# TYPE cloud_hypervisor_{name} {kind}");
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], latency: &Latency) {
        let bucket = format!("{name}_bucket");
        let mut bounded = |bound: &str, count: u64| {
            self.sample(&bucket, &[labels, &[("le", bound)]].concat(), count);
        };
        for (bound, count) in &latency.buckets {
            bounded(&bound.as_secs_f64().to_string(), *count);
        }
        bounded("+Inf", latency.count);
        self.sample(&format!("{name}_sum"), labels, latency.total.as_secs_f64());
        self.sample(&format!("{name}_count"), labels, latency.count);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "cloud_hypervisor_{name}");
        for (i, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{value}\"", if i == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}
