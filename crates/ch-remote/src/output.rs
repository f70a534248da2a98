//! Replies on standard output: JSON as it came, or tables for people.

use std::fmt::Write;

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::report::printable;

/// How a reply is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns
    Table,
    /// The reply as it came, in one line
    Json,
}

/// The text of `verb`'s reply. Scripts that ask for no format get JSON; so does a person, but for `info`, `counters` and `jobs`.
pub(crate) fn render(verb: &str, body: &[u8], format: Option<Format>, terminal: bool) -> Vec<u8> {
    let people = terminal && matches!(verb, "vm.info" | "vm.counters" | "vm.jobs");
    let wanted = format.unwrap_or(if people { Format::Table } else { Format::Json });
    // What cannot be shown as a table is shown as it is.
    let table = match wanted {
        Format::Json => None,
        Format::Table => serde_json::from_slice(body).ok().and_then(|reply| table(verb, &reply)),
    };
    table.map_or_else(|| [body, b"\n"].concat(), String::into_bytes)
}

fn table(verb: &str, reply: &Value) -> Option<String> {
    let fields = reply.as_object()?;
    Some(match verb {
        "vm.info" => info(reply),
        "vm.counters" => counters(fields),
        "vm.jobs" => jobs(reply),
        _ => {
            columns(&fields.iter().map(|(name, value)| vec![name.clone(), plain(value)]).collect::<Vec<_>>())
        }
    })
}

/// The state, what the VM is made of, and its devices.
fn info(reply: &Value) -> String {
    let text = |path| reply.pointer(path).map(plain);
    let size = |path| reply.pointer(path).and_then(Value::as_u64).map(size);
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: Option<String>| {
        rows.extend(value.map(|value| vec![name.to_owned(), value]));
    };
    row("State", text("/state"));
    let most = text("/config/cpus/max_vcpus").unwrap_or_default();
    row("vCPUs", text("/config/cpus/boot_vcpus").map(|now| format!("{now} (at most {most})")));
    row("Memory", size("/memory_actual_size"));
    row("Kernel", text("/config/payload/kernel"));
    row("Firmware", text("/config/payload/firmware"));
    row("Command line", text("/config/payload/cmdline"));
    row("Serial", stream(reply.pointer("/config/serial")));
    row("Console", stream(reply.pointer("/config/console")));
    let mut table = columns(&rows);
    if let Some(devices) = reply.pointer("/device_tree").and_then(Value::as_object) {
        let column =
            |node: &Value, key: &str| node.get(key).filter(|v| !v.is_null()).map_or("-".into(), plain);
        let mut rows = vec![["DEVICE", "ADDRESS", "BEHIND"].map(String::from).to_vec()];
        rows.extend(
            devices
                .iter()
                .map(|(id, node)| vec![id.clone(), column(node, "pci_bdf"), column(node, "parent")]),
        );
        table.push('\n');
        table.push_str(&columns(&rows));
    }
    table
}

/// A line for each job.
fn jobs(reply: &Value) -> String {
    let mut rows =
        vec![["JOB", "CALL", "STATE", "PHASE", "DONE", "LEFT", "DOWNTIME"].map(String::from).to_vec()];
    let text = |job: &Value, key: &str| job.get(key).map_or("-".into(), plain);
    let bytes = |job: &Value, key: &str| job.get(key).and_then(Value::as_u64).map_or("-".into(), size);
    let downtime = |job: &Value| {
        let micros = job.get("downtime_us").and_then(Value::as_u64);
        micros.map_or("-".into(), |micros| format!("{}.{:03} ms", micros / 1000, micros % 1000))
    };
    for job in reply["jobs"].as_array().into_iter().flatten() {
        let mut row: Vec<String> = ["id", "verb", "state", "phase"].map(|key| text(job, key)).to_vec();
        row.extend([bytes(job, "bytes_done"), bytes(job, "bytes_left"), downtime(job)]);
        rows.push(row);
    }
    columns(&rows)
}

/// A console's mode and where it is found.
fn stream(config: Option<&Value>) -> Option<String> {
    let config = config?;
    let mode = config.get("mode").map(plain)?;
    let place =
        ["file", "socket"].into_iter().filter_map(|key| config.get(key)).find(|place| place.is_string());
    Some(place.map_or_else(|| mode.clone(), |place| format!("{mode} {}", plain(place))))
}

/// Bytes in the largest unit that gives a whole number.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes} bytes"), |(unit, name)| format!("{} {name}", bytes / unit))
}

fn counters(devices: &Map<String, Value>) -> String {
    let mut rows = vec![["DEVICE", "COUNTER", "VALUE"].map(String::from).to_vec()];
    for (device, counters) in devices {
        let counters = counters.as_object().into_iter().flatten();
        rows.extend(counters.map(|(name, value)| vec![device.clone(), name.clone(), plain(value)]));
    }
    columns(&rows)
}

/// A value without the quotes of JSON.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Aligned columns.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| cell_text(cell)).collect()).collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or_default()).collect();
    let mut table = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

/// A cell stays on its line.
fn cell_text(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = r#"{"config":{"cpus":{"boot_vcpus":2,"max_vcpus":4},"payload":{"kernel":"/k"},
        "serial":{"mode":"Pty","file":"/dev/pts/3"},"console":{"mode":"Off","file":null}},"state":"Running",
        "memory_actual_size":1610612736,"device_tree":{"_disk0":{"id":"_disk0","pci_bdf":"0000:00:02.0"},
        "__rng":{"id":"__rng","parent":"a\u001b[2J"}}}"#;

    fn text(verb: &str, body: &str, format: Option<Format>, terminal: bool) -> String {
        String::from_utf8(render(verb, body.as_bytes(), format, terminal)).unwrap()
    }

    #[test]
    fn scripts_get_the_reply_as_it_came() {
        for verb in ["vm.info", "vm.counters", "vmm.ping", "vm.add-disk"] {
            assert_eq!(text(verb, r#"{"b":1, "a":2}"#, None, false), "{\"b\":1, \"a\":2}\n");
        }
        assert_eq!(text("vmm.shutdown", "", None, false), "\n");
        assert_eq!(text("vm.info", INFO, Some(Format::Json), true), format!("{INFO}\n"));
        assert_eq!(text("vmm.ping", "{}", None, true), "{}\n");
        assert_eq!(text("vm.info", "no JSON", None, true), "no JSON\n");
    }

    #[test]
    fn people_get_tables() {
        let table = "State    Running\nvCPUs    2 (at most 4)\nMemory   1536 MiB\nKernel   /k\nSerial   Pty /dev/pts/3\n\
                     Console  Off\n\nDEVICE  ADDRESS       BEHIND\n__rng   -             a\\u{1b}[2J\n\
                     _disk0  0000:00:02.0  -\n";
        assert_eq!(text("vm.info", INFO, None, true), table);
        let counters = r#"{"_net0":{"rx_bytes":10,"tx_bytes":7},"_disk0":{"read_ops":1}}"#;
        assert_eq!(
            text("vm.counters", counters, Some(Format::Table), false),
            "DEVICE  COUNTER   VALUE\n_disk0  read_ops  1\n_net0   rx_bytes  10\n_net0   tx_bytes  7\n"
        );
        assert_eq!(
            text("vmm.ping", r#"{"pid":7,"version":"54"}"#, Some(Format::Table), false),
            "pid      7\nversion  54\n"
        );
    }
}
