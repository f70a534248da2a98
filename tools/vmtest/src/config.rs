//! A VM configuration as JSON, and the same on the command line.

use serde_json::Value;

/// The command line flags that mean the same as this `VmConfig`; only the sections that tests use.
///
/// # Panics
/// The configuration has a section or value this does not know.
pub fn flags(config: &Value) -> Vec<String> {
    let mut flags = Vec::new();
    for (section, value) in config.as_object().into_iter().flatten() {
        match section.as_str() {
            "cpus" => {
                push(&mut flags, "--cpus", [options(value, &[("boot_vcpus", "boot"), ("max_vcpus", "max")])]);
            }
            "memory" => push(&mut flags, "--memory", [options(value, &[])]),
            "payload" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    push(&mut flags, &format!("--{name}"), [scalar(value)]);
                }
            }
            "disks" => push(&mut flags, "--disk", list(value, &[("vhost_socket", "socket")])),
            "net" => push(&mut flags, "--net", list(value, &[("vhost_socket", "socket")])),
            "serial" | "console" => push(&mut flags, &format!("--{section}"), [console(value)]),
            "rng" => push(&mut flags, "--rng", [options(value, &[])]),
            "pvpanic" | "watchdog" => {
                if value == true {
                    flags.push(format!("--{section}"));
                }
            }
            "landlock_rules" => push(&mut flags, "--landlock-rules", list(value, &[])),
            "landlock_enable" => {
                if value == true {
                    flags.push("--landlock".to_owned());
                }
            }
            other => panic!("no command line for the section {other}"),
        }
    }
    flags
}

fn push(flags: &mut Vec<String>, flag: &str, values: impl IntoIterator<Item = String>) {
    flags.push(flag.to_owned());
    flags.extend(values);
}

fn list(value: &Value, names: &[(&str, &str)]) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|entry| options(entry, names)).collect()
}

/// `a=b,c=d`; `names` has the keys that are called otherwise on the command line.
fn options(value: &Value, names: &[(&str, &str)]) -> String {
    let pairs = value.as_object().into_iter().flatten().map(|(key, value)| {
        let name = names.iter().find(|(json, _)| json == key).map_or(key.as_str(), |(_, flag)| flag);
        let text = if name == "image_type" { scalar(value).to_lowercase() } else { scalar(value) };
        format!("{name}={text}")
    });
    pairs.collect::<Vec<_>>().join(",")
}

fn console(value: &Value) -> String {
    let mode = scalar(&value["mode"]).to_lowercase();
    match mode.as_str() {
        "file" => format!("file={}", scalar(&value["file"])),
        "socket" => format!("socket={}", scalar(&value["socket"])),
        _ => mode,
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        other => panic!("no command line for {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn command_line() {
        let config = json!({
            "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
            "disks": [{"path": "/a", "readonly": true, "image_type": "Raw"}, {"path": "/b"}],
            "serial": {"mode": "Socket", "socket": "/s"},
            "console": {"mode": "Off"},
            "payload": {"kernel": "/k", "cmdline": "a b"},
            "pvpanic": true,
            "watchdog": false,
            "landlock_enable": true,
        });
        let flags = flags(&config).join(" ");
        for part in [
            "--cpus boot=2,max=2",
            "--disk image_type=raw,path=/a,readonly=on path=/b",
            "--serial socket=/s",
            "--console off",
            "--kernel /k",
            "--cmdline a b",
            "--pvpanic",
            "--landlock",
        ] {
            assert!(flags.contains(part), "{part} in {flags}");
        }
        assert!(!flags.contains("--watchdog"));
    }
}
