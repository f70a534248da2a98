//! The one table of subcommands: name, verb, arguments. What a verb does and how it is called is in [`api::VERBS`].

use config::{
    DeviceConfig, DiskConfig, FsConfig, GenericVhostUserConfig, NetConfig, PmemConfig, RestoreConfig,
    UserDeviceConfig, VdpaConfig, VmCancelJob, VmCoredumpData, VmReceiveMigrationData, VmRemoveDevice,
    VmResize, VmResizeDisk, VmResizeZone, VmSendMigrationData, VmSnapshotConfig, VsockConfig,
};

use crate::payload::{self, Encoded, Given, Payload, json};

/// One line of the table.
pub(crate) struct Subcommand {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// The verb's name in [`api::VERBS`].
    pub(crate) verb: &'static str,
    /// What follows the name.
    pub(crate) input: Input,
}

/// What a subcommand takes and how it becomes a request.
pub(crate) enum Input {
    /// Nothing.
    Nothing,
    /// A file or `-`, sent as it is; `-` when absent.
    File,
    /// One value: its syntax, and its request.
    Value(&'static str, fn(&str) -> Encoded),
    /// Options, and their request.
    Options(&'static [Flag], fn(&Given<'_>) -> Encoded),
}

/// An option of a subcommand.
pub(crate) struct Flag {
    /// Its name without dashes.
    pub(crate) name: &'static str,
    /// What its value is.
    pub(crate) value: &'static str,
    /// Whether it must be given.
    pub(crate) required: bool,
    /// For `--help`.
    pub(crate) help: &'static str,
}

/// The name of the argument of [`Input::File`] and [`Input::Value`].
pub(crate) const VALUE: &str = "config";

impl Subcommand {
    /// The request that `given` asks for.
    ///
    /// # Errors
    /// [`payload::PayloadError`].
    pub(crate) fn payload(&self, given: &Given<'_>) -> Encoded {
        match &self.input {
            Input::Nothing => Ok(Payload::default()),
            Input::File => payload::file(given.text(VALUE).unwrap_or("-")),
            Input::Value(_, encode) => encode(given.required(VALUE)),
            Input::Options(_, encode) => encode(given),
        }
    }
}

/// The line of a subcommand.
pub(crate) fn find(name: &str) -> Option<&'static Subcommand> {
    SUBCOMMANDS.iter().find(|sub| sub.name == name)
}

const fn plain(name: &'static str, verb: &'static str) -> Subcommand {
    Subcommand { name, verb, input: Input::Nothing }
}

const fn value(
    name: &'static str,
    verb: &'static str,
    syntax: &'static str,
    encode: fn(&str) -> Encoded,
) -> Subcommand {
    Subcommand { name, verb, input: Input::Value(syntax, encode) }
}

const fn options(
    name: &'static str,
    verb: &'static str,
    flags: &'static [Flag],
    encode: fn(&Given<'_>) -> Encoded,
) -> Subcommand {
    Subcommand { name, verb, input: Input::Options(flags, encode) }
}

/// All subcommands that are one call.
#[rustfmt::skip]
pub(crate) static SUBCOMMANDS: [Subcommand; 33] = [
    value("add-device", "vm.add-device", DeviceConfig::SYNTAX.help, payload::device),
    value("add-disk", "vm.add-disk", DiskConfig::SYNTAX.help, |text| json(&DiskConfig::from_flag(text)?)),
    value("add-fs", "vm.add-fs", FsConfig::SYNTAX.help, |text| json(&FsConfig::from_flag(text)?)),
    value("add-generic-vhost-user", "vm.add-generic-vhost-user", GenericVhostUserConfig::SYNTAX.help, |text| json(&GenericVhostUserConfig::from_flag(text)?)),
    value("add-net", "vm.add-net", NetConfig::SYNTAX.help, payload::net),
    value("add-pmem", "vm.add-pmem", PmemConfig::SYNTAX.help, |text| json(&PmemConfig::from_flag(text)?)),
    value("add-user-device", "vm.add-user-device", UserDeviceConfig::SYNTAX.help, |text| json(&UserDeviceConfig::from_flag(text)?)),
    value("add-vdpa", "vm.add-vdpa", VdpaConfig::SYNTAX.help, |text| json(&VdpaConfig::from_flag(text)?)),
    value("add-vsock", "vm.add-vsock", VsockConfig::SYNTAX.help, |text| json(&VsockConfig::from_flag(text)?)),
    plain("boot", "vm.boot"),
    options("cancel-job", "vm.cancel-job", &CANCEL_JOB, cancel_job),
    value("coredump", "vm.coredump", "file:// and a path that does not exist", |text| json(&VmCoredumpData { destination_url: text.into() })),
    plain("counters", "vm.counters"),
    Subcommand { name: "create", verb: "vm.create", input: Input::File },
    plain("delete", "vm.delete"),
    plain("info", "vm.info"),
    plain("jobs", "vm.jobs"),
    plain("nmi", "vm.nmi"),
    plain("pause", "vm.pause"),
    plain("ping", "vmm.ping"),
    plain("power-button", "vm.power-button"),
    plain("reboot", "vm.reboot"),
    value("receive-migration", "vm.receive-migration", VmReceiveMigrationData::SYNTAX.help, payload::receive_migration),
    value("remove-device", "vm.remove-device", "id of the device", |text| json(&VmRemoveDevice { id: text.into() })),
    options("resize", "vm.resize", &RESIZE, resize),
    options("resize-disk", "vm.resize-disk", &RESIZE_DISK, resize_disk),
    options("resize-zone", "vm.resize-zone", &RESIZE_ZONE, resize_zone),
    value("restore", "vm.restore", RestoreConfig::SYNTAX.help, payload::restore),
    plain("resume", "vm.resume"),
    value("send-migration", "vm.send-migration", VmSendMigrationData::SYNTAX.help, |text| json(&VmSendMigrationData::from_flag(text)?)),
    plain("shutdown", "vm.shutdown"),
    plain("shutdown-vmm", "vmm.shutdown"),
    value("snapshot", "vm.snapshot", VmSnapshotConfig::SYNTAX.help, |text| json(&VmSnapshotConfig::from_flag(text)?)),
];

const SIZE: &str = "bytes; K, M and G multiply by powers of 1024";

const RESIZE: [Flag; 3] = [
    Flag { name: "cpus", value: "COUNT", required: false, help: "vCPUs wanted" },
    Flag { name: "memory", value: "SIZE", required: false, help: SIZE },
    Flag { name: "balloon", value: "SIZE", required: false, help: SIZE },
];

const CANCEL_JOB: [Flag; 1] =
    [Flag { name: "id", value: "NUMBER", required: true, help: "number of the job, as jobs lists it" }];

const RESIZE_DISK: [Flag; 2] = [
    Flag { name: "disk", value: "ID", required: true, help: "id of the disk" },
    Flag { name: "size", value: "SIZE", required: true, help: SIZE },
];

const RESIZE_ZONE: [Flag; 2] = [
    Flag { name: "id", value: "ID", required: true, help: "id of the memory zone" },
    Flag { name: "size", value: "SIZE", required: true, help: SIZE },
];

fn resize(given: &Given<'_>) -> Encoded {
    json(&VmResize {
        desired_vcpus: given.count("cpus")?,
        desired_ram: given.size("memory")?,
        desired_balloon: given.size("balloon")?,
    })
}

fn cancel_job(given: &Given<'_>) -> Encoded {
    json(&VmCancelJob { id: given.count("id")?.unwrap_or_default().into() })
}

fn resize_disk(given: &Given<'_>) -> Encoded {
    let desired_size = given.size("size")?.unwrap_or_default();
    json(&VmResizeDisk { id: given.required("disk").into(), desired_size })
}

fn resize_zone(given: &Given<'_>) -> Encoded {
    let desired_ram = given.size("size")?.unwrap_or_default();
    json(&VmResizeZone { id: given.required("id").into(), desired_ram })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_its_subcommand() {
        for verb in api::VERBS {
            assert_eq!(SUBCOMMANDS.iter().filter(|sub| sub.verb == verb.name).count(), 1, "{}", verb.name);
        }
        for sub in &SUBCOMMANDS {
            let verb = api::Verb::find(sub.verb).unwrap();
            assert_eq!(verb.has_body, !matches!(sub.input, Input::Nothing), "{}", sub.name);
        }
    }
}
