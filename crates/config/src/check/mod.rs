//! `check()`: from the wire form to a plan, or to everything that is wrong with it.
//!
//! The order of the rules is that of the reference (`spec/config.md` §22), so that the first problem here is
//! the one it reports. What the reference finds only while it builds the machine is checked here too, after
//! all else.

mod memory;
mod paths;

use std::collections::HashSet;
use std::fmt;

use crate::pci::{PciCommon, TRANSPORT};
use crate::plan::{self, Plan};
use crate::vm::VmConfig;
use crate::{devices, numa, payload, vfio};

/// Checks a whole configuration.
///
/// # Errors
/// All problems, in the order of the reference.
pub fn check(config: VmConfig) -> Result<Plan, Problems> {
    check_from(config, Former::default())
}

/// [`check`] for the configuration of a machine that has run: it may have had more vCPUs before.
///
/// # Errors
/// As [`check`].
pub fn check_saved(config: VmConfig) -> Result<Plan, Problems> {
    let most_vcpus = config.cpus.max_vcpus;
    check_from(config, Former { most_vcpus, ..Former::default() })
}

/// What a plan hands on to those that are made from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Former {
    /// The number that the next generated id gets.
    pub(crate) next_id: u32,
    /// The most vCPUs that there were: devices keep their queues when some go.
    pub(crate) most_vcpus: u32,
}

/// [`check`] for a configuration that was another one before.
pub(crate) fn check_from(config: VmConfig, former: Former) -> Result<Plan, Problems> {
    let former = Former { most_vcpus: former.most_vcpus.max(config.cpus.boot_vcpus), ..former };
    let mut findings = Findings { most_vcpus: former.most_vcpus, ..Findings::default() };
    let payload = run(&config, &mut findings);
    match payload {
        Some(payload) if findings.problems.is_empty() => {
            let plan = Plan::build(config, payload, former);
            // Only what is filled in now tells which devices there will be.
            let vm = plan.config();
            let plugs_ram = |device: &&plan::Device| matches!(device.kind, plan::DeviceKind::Mem(_));
            let others = plan.devices.iter().filter(plugs_ram).count();
            let mut at = Scope { vm, outer: None, path: String::new(), findings: &mut findings };
            devices::check_slots(others, &mut at);
            if findings.problems.is_empty() { Ok(plan) } else { Err(Problems(findings.problems)) }
        }
        // Without a payload there is at least the payload's problem.
        _ => Err(Problems(findings.problems)),
    }
}

/// Problems that are told. A body has room for a million, each a line of the log and of the reply.
const MOST: usize = 100;

/// What sort of problem it is; decides the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// A value that cannot be.
    Invalid,
    /// A name or device given twice.
    Duplicate,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field: `disks[1].num_queues`.
    pub path: String,
    /// What sort of problem it is.
    pub kind: ProblemKind,
    /// What the reference puts around the text, if anything.
    pub outer: Option<&'static str>,
    /// The reference's text.
    pub text: String,
    /// One next step.
    pub hint: String,
}

impl Problem {
    /// The texts of the error chain, outermost first.
    pub fn chain(&self) -> impl Iterator<Item = &str> {
        self.outer.into_iter().chain([self.text.as_str()])
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(outer) = self.outer {
            write!(f, "{outer}: ")?;
        }
        f.write_str(&self.text)
    }
}

impl std::error::Error for Problem {}

/// Everything that is wrong with a configuration, or the beginning of a long list; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// A single problem.
    pub(crate) fn one(problem: Problem) -> Self {
        Self(vec![problem])
    }

    /// The problems, the one the reference reports first.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// The sort of the first problem.
    pub fn kind(&self) -> ProblemKind {
        self.0.first().map_or(ProblemKind::Invalid, |first| first.kind)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Error validating configuration")
    }
}

impl std::error::Error for Problems {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.first().map(|first| first as _)
    }
}

#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    ids: HashSet<String>,
    most_vcpus: u32,
}

/// A place in the configuration to find problems at.
pub(crate) struct Scope<'f, 'c> {
    /// The whole configuration.
    pub(crate) vm: &'c VmConfig,
    /// Put around each text found here.
    pub(crate) outer: Option<&'static str>,
    path: String,
    findings: &'f mut Findings,
}

impl<'c> Scope<'_, 'c> {
    /// The same for a deeper place.
    pub(crate) fn within(&mut self, path: String) -> Scope<'_, 'c> {
        Scope { vm: self.vm, outer: self.outer, path, findings: self.findings }
    }

    pub(crate) fn invalid(&mut self, field: &str, text: impl Into<String>, hint: impl Into<String>) {
        self.report(ProblemKind::Invalid, field, text.into(), hint.into());
    }

    pub(crate) fn duplicate(&mut self, field: &str, text: impl Into<String>, hint: impl Into<String>) {
        self.report(ProblemKind::Duplicate, field, text.into(), hint.into());
    }

    fn report(&mut self, kind: ProblemKind, field: &str, text: String, hint: String) {
        let dot = if self.path.is_empty() || field.is_empty() { "" } else { "." };
        let path = format!("{}{dot}{field}", self.path);
        let problem = match self.findings.problems.len() {
            ..MOST => Problem { path, kind, outer: self.outer, text, hint },
            MOST => {
                let (text, hint) =
                    ("There are more problems from here on".into(), "mend the others first".into());
                Problem { path, kind, outer: self.outer, text, hint }
            }
            _ => return,
        };
        self.findings.problems.push(problem);
    }

    /// vCPUs that devices may have a queue for each of.
    pub(crate) fn vcpus(&self) -> u32 {
        self.findings.most_vcpus
    }

    /// Takes an id out of the name space.
    pub(crate) fn claim(&mut self, id: Option<&str>) {
        let Some(id) = id else { return };
        // Names that the machine gives: a device's would be taken for another's transport.
        let is_reserved = id.starts_with("__") || id.starts_with(TRANSPORT);
        // What has no letters, or breaks lines, names nothing in a log or a table.
        if is_reserved || id.is_empty() || id.contains(char::is_control) {
            let hint = format!(
                "choose an id of printable characters that does not begin with two underscores or {TRANSPORT}"
            );
            self.invalid("id", format!("Identifier {id} is not valid"), hint);
        }
        if !self.findings.ids.insert(id.to_owned()) {
            self.duplicate("id", format!("Identifier {id} is not unique"), "choose another id");
        }
    }

    /// The rules of place and id together.
    pub(crate) fn place(&mut self, pci: &PciCommon) {
        pci.check(self);
        self.claim(pci.id.as_deref());
    }

    /// A segment that exists.
    pub(crate) fn segment(&mut self, field: &str, segment: u16) {
        if segment >= self.vm.platform().num_pci_segments {
            let hint = "use a lower segment or raise --platform num_pci_segments";
            self.invalid(field, format!("Invalid PCI segment id: {segment}"), hint);
        }
    }

    fn each<T>(&mut self, section: &str, items: Option<&Vec<T>>, rules: impl Fn(&T, &mut Scope<'_, '_>)) {
        for (i, item) in items.into_iter().flatten().enumerate() {
            rules(item, &mut self.within(format!("{section}[{i}]")));
        }
    }

    fn one<T>(&mut self, section: &str, item: Option<&T>, rules: impl Fn(&T, &mut Scope<'_, '_>)) {
        if let Some(item) = item {
            rules(item, &mut self.within(section.to_owned()));
        }
    }
}

/// All rules in the order of the reference.
fn run(vm: &VmConfig, findings: &mut Findings) -> Option<plan::Payload> {
    let mut at = Scope { vm, outer: None, path: String::new(), findings };
    let payload = payload::check(vm.payload.as_ref(), &mut at.within("payload".into()));
    at.one("console", Some(&vm.console), |console, at| console.check(at));
    at.one("serial", Some(&vm.serial), |serial, at| serial.check(at));
    at.one("cpus", Some(&vm.cpus), |cpus, at| cpus.check_counts(at));
    at.each("rate_limit_groups", vm.rate_limit_groups.as_ref(), |group, at| group.check(at));
    at.each("disks", vm.disks.as_ref(), |disk, at| disk.check(at));
    at.each("net", vm.net.as_ref(), |net, at| net.check(at));
    at.each("fs", vm.fs.as_ref(), |fs, at| fs.check(at));
    at.each("generic_vhost_user", vm.generic_vhost_user.as_ref(), |device, at| device.check(at));
    at.each("pmem", vm.pmem.as_ref(), |pmem, at| at.place(&pmem.pci));
    at.one("rng", Some(&vm.rng), |rng, at| at.place(&rng.pci));
    at.one("rtc", vm.rtc.as_ref(), |rtc, at| at.place(&rtc.pci));
    at.one("console", Some(&vm.console), |console, at| at.place(&console.pci));
    at.one("cpus", Some(&vm.cpus), |cpus, at| cpus.check_topology(at));
    at.one("memory", Some(&vm.memory), memory::check_pages);
    at.each("user_devices", vm.user_devices.as_ref(), |device, at| device.check(at));
    at.each("vdpa", vm.vdpa.as_ref(), |vdpa, at| at.place(&vdpa.pci));
    at.one("vsock", vm.vsock.as_ref(), |vsock, at| vsock.check_cid(at));
    at.one("balloon", vm.balloon.as_ref(), |balloon, at| balloon.check(at));
    vfio::check_paths(vm.devices.as_deref().unwrap_or_default(), &mut at);
    at.each("devices", vm.devices.as_ref(), |device, at| device.check(at));
    at.one("vsock", vm.vsock.as_ref(), |vsock, at| at.place(&vsock.pci));
    numa::check(vm.numa.as_deref().unwrap_or_default(), &mut at);
    at.each("memory.zones", vm.memory.zones.as_ref(), |zone, at| at.claim(Some(&zone.id)));
    at.each("pci_segments", vm.pci_segments.as_ref(), |segment, at| segment.check(at));
    at.one("platform", vm.platform.as_ref(), |platform, at| platform.check(at));
    at.each("landlock_rules", vm.landlock_rules.as_ref(), |rule, at| rule.check(at));
    at.one("ivshmem", vm.ivshmem.as_ref(), |ivshmem, at| ivshmem.check(at));
    at.one("memory", Some(&vm.memory), memory::check_layout);
    numa::check_references(vm.numa.as_deref().unwrap_or_default(), &mut at);
    at.one("serial", Some(&vm.serial), |serial, at| serial.check_socket(at));
    at.one("console", Some(&vm.console), |console, at| console.check_no_socket(at));
    at.each("net", vm.net.as_ref(), |net, at| net.check_interface(at));
    at.one("payload", vm.payload.as_ref(), payload::check_cmdline);
    at.one("platform", vm.platform.as_ref(), |platform, at| platform.check_identity(at));
    devices::check(&mut at);
    paths::check(&mut at);
    payload
}
