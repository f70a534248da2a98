//! Metrics as a scraper reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::{
    ApiError, Code, Counters, DeviceNode, EventLog, EventRecord, Meters, Reads, Removal, Timestamp, VmInfo,
    VmState, VmmPing,
};
use meter::{Histogram, QueueReading};

use super::{House, PING, put};
use crate::metrics;

struct Vm(Arc<EventLog>);

impl Reads for Vm {
    fn vmm_ping(&self) -> VmmPing {
        VmmPing { build_version: "v54\"\\\n".into(), version: "54.0.0".into(), pid: 7, features: Vec::new() }
    }

    fn vm_info(&self) -> Result<VmInfo, ApiError> {
        let (config, _) = config::from_json(b"{}").unwrap();
        let node = |removal| DeviceNode { removal, ..DeviceNode::default() };
        let tree = [("a".into(), node(None)), ("b".into(), node(Some(Removal::Overdue)))];
        let device_tree = Some(BTreeMap::from(tree));
        Ok(VmInfo {
            config,
            state: VmState::Paused,
            memory_actual_size: 512 << 20,
            restored_memory: None,
            device_tree,
        })
    }

    fn vm_counters(&self) -> Result<Counters, ApiError> {
        let counters = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, n)| ((*name).into(), *n)).collect();
        let disk: BTreeMap<String, u64> = counters(&[
            ("read_bytes", 512),
            ("read_latency_avg", 1_500_000),
            ("read_latency_max", u64::MAX),
            ("write_latency_avg", u64::MAX / 10_000),
        ]);
        let other = counters(&[("read_bytes", u64::MAX), ("read_latency_avg", 3)]);
        Ok(Counters::from([("_disk0".into(), disk), ("a\"b".into(), other)]))
    }

    fn vm_meters(&self) -> Option<Meters> {
        static BOUNDS_US: [u64; 2] = [10, 1000];
        let latency = Histogram::new(&BOUNDS_US);
        latency.record(Duration::from_micros(700));
        let reading = QueueReading {
            queue: 1,
            counts: vec![("read_bytes", 256)],
            latencies: vec![("read", latency.read())],
        };
        let vcpu_exits = vec![vec![("port_read", 3)], vec![("port_read", 4)]];
        Some(Meters { vcpu_exits, queues: vec![("_disk0".into(), reading)] })
    }

    fn events(&self) -> &Arc<EventLog> {
        &self.0
    }
}

fn samples(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap()).collect()
}

/// The format's rules: a family is told once, before its samples, and its samples stand together.
fn check_format(text: &str) {
    let mut told = BTreeSet::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap();
            assert!(told.insert(current), "{current} is told twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest.split(' ').next(), Some(current));
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(name == current || base == Some(current), "{line} is out of place");
            assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(text.ends_with('\n'));
}

#[test]
fn a_vm_and_its_devices() {
    let log = EventLog::new();
    let timestamp = Timestamp { secs: 0, nanos: 0 };
    for event in ["booting", "booted", "booting"] {
        log.push(Arc::new(EventRecord { timestamp, source: "vm", event, properties: None }));
    }
    let (client, _inbox) = api::channel(Arc::new(Vm(log))).unwrap();
    let text = metrics::render(&client);
    check_format(&text);
    let samples = samples(&text);
    for (sample, value) in [
        (r#"build_info{version="54.0.0",build_version="v54\"\\\n"}"#, "1"),
        (r#"vm_state{state="None"}"#, "0"),
        (r#"vm_state{state="Running"}"#, "0"),
        (r#"vm_state{state="Paused"}"#, "1"),
        ("memory_actual_bytes", "536870912"),
        (r#"device_removals{state="pending"}"#, "0"),
        (r#"device_removals{state="overdue"}"#, "1"),
        (r#"events_total{source="vm",event="booting"}"#, "2"),
        (r#"device_read_bytes_total{device="_disk0"}"#, "512"),
        (r#"device_read_bytes_total{device="a\"b"}"#, "18446744073709551615"),
        (r#"device_read_latency_avg_seconds{device="_disk0"}"#, "1.5"),
        (r#"device_read_latency_avg_seconds{device="a\"b"}"#, "0.000003"),
        (r#"vcpu_exits_total{vcpu="1",reason="port_read"}"#, "4"),
        (r#"queue_read_bytes_total{device="_disk0",queue="1"}"#, "256"),
        (r#"queue_request_duration_seconds_bucket{device="_disk0",queue="1",op="read",le="0.00001"}"#, "0"),
        (r#"queue_request_duration_seconds_bucket{device="_disk0",queue="1",op="read",le="0.001"}"#, "1"),
        (r#"queue_request_duration_seconds_sum{device="_disk0",queue="1",op="read"}"#, "0.0007"),
    ] {
        assert_eq!(
            samples.get(format!("cloud_hypervisor_{sample}").as_str()),
            Some(&value),
            "{sample}\n{text}"
        );
    }
    assert!(!text.contains("latency_max_seconds{") && !text.contains("write_latency_avg_seconds{"));
}

#[test]
fn calls_are_counted_through_the_door() {
    let house = House::new();
    let mut peer = house.connect();
    for request in
        [PING.to_owned(), PING.to_owned(), put("vm.boot", "x"), "GET /metrics HTTP/1.1\r\n\r\n".into()]
    {
        peer.ask(&request);
    }
    let reply = peer.ask("GET /api/v1/metrics HTTP/1.1\r\n\r\n");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    check_format(&reply.body);
    let samples = samples(&reply.body);
    for (sample, value) in [
        (r#"api_request_duration_seconds_count{verb="vmm.ping"}"#, "2"),
        (r#"api_request_duration_seconds_bucket{verb="vmm.ping",le="+Inf"}"#, "2"),
        (r#"api_request_duration_seconds_count{verb="vm.boot"}"#, "1"),
        (r#"api_errors_total{code="bad_request"}"#, "1"),
        (r#"vm_state{state="None"}"#, "1"),
    ] {
        assert_eq!(samples.get(format!("cloud_hypervisor_{sample}").as_str()), Some(&value), "{sample}");
    }
    assert!(samples.contains_key(
        r#"cloud_hypervisor_api_request_duration_seconds_bucket{verb="vmm.ping",le="0.0001"}"#
    ));
    let failures = Code::ALL.len();
    assert_eq!(samples.keys().filter(|name| name.contains("api_errors_total")).count(), failures);
    assert!(!reply.body.contains("memory_actual_bytes"));
}
