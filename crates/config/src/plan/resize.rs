//! A plan with other numbers: of vCPUs, of RAM, of the balloon.

use super::Plan;
use crate::check::{Problem, ProblemKind, Problems, check_from};
use crate::memory::{HotplugMethod, MemoryConfig};
use crate::requests::{VmResize, VmResizeZone};
use crate::vm::VmConfig;

/// Whether a machine has been built from the plan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// None has: what the next one begins with changes.
    AtRest,
    /// One runs: RAM beyond what it began with is plugged.
    Running,
}

impl Plan {
    /// The plan with other numbers of vCPUs, RAM or balloon, checked as a whole. The next machine begins with them.
    ///
    /// # Errors
    /// All problems of the whole, or that there is no balloon.
    pub fn check_resized(&self, wanted: &VmResize) -> Result<Self, Problems> {
        self.resized(wanted, Stage::AtRest)
    }

    /// The same for a machine that runs: RAM beyond what it began with is to be plugged.
    ///
    /// # Errors
    /// All problems of the whole, or what there is not: a balloon, or RAM that can be plugged.
    pub fn check_resized_running(&self, wanted: &VmResize) -> Result<Self, Problems> {
        self.resized(wanted, Stage::Running)
    }

    /// The plan with another size of a zone, checked as a whole. The next machine begins with it.
    ///
    /// # Errors
    /// All problems of the whole, or that there is no such zone.
    pub fn check_zone_resized(&self, wanted: &VmResizeZone) -> Result<Self, Problems> {
        self.zone_resized(wanted, Stage::AtRest)
    }

    /// The same for a machine that runs: RAM beyond what the zone began with is to be plugged.
    ///
    /// # Errors
    /// All problems of the whole, that there is no such zone, or nothing that can be plugged in it.
    pub fn check_zone_resized_running(&self, wanted: &VmResizeZone) -> Result<Self, Problems> {
        self.zone_resized(wanted, Stage::Running)
    }

    fn resized(&self, wanted: &VmResize, stage: Stage) -> Result<Self, Problems> {
        let mut config = self.config.clone();
        if let Some(vcpus) = wanted.desired_vcpus {
            check_vcpus(vcpus, config.cpus.max_vcpus)?;
            config.cpus.boot_vcpus = vcpus;
        }
        if let Some(ram) = wanted.desired_ram {
            resize_whole(&mut config.memory, ram, stage)?;
        }
        if let Some(size) = wanted.desired_balloon {
            config.balloon.as_mut().ok_or_else(no_balloon)?.device.size = size;
        }
        self.check_changed(config)
    }

    fn zone_resized(&self, wanted: &VmResizeZone, stage: Stage) -> Result<Self, Problems> {
        let mut config = self.config.clone();
        let method = config.memory.hotplug_method;
        let zone = config.memory.zones.iter_mut().flatten().find(|zone| zone.id == wanted.id);
        let zone = zone.ok_or_else(|| no_zone(&wanted.id))?;
        match stage {
            Stage::AtRest => zone.size = wanted.desired_ram,
            Stage::Running => {
                check_pluggable(method, zone.hotplug_size)?;
                zone.hotplugged_size = Some(beyond(zone.size, wanted.desired_ram)?);
            }
        }
        self.check_changed(config)
    }

    fn check_changed(&self, config: VmConfig) -> Result<Self, Problems> {
        Ok(check_from(config, self.former)?.after(self))
    }
}

fn resize_whole(memory: &mut MemoryConfig, ram: u64, stage: Stage) -> Result<(), Problems> {
    if stage == Stage::AtRest {
        memory.size = ram;
        return Ok(());
    }
    if memory.zones.as_ref().is_some_and(|zones| !zones.is_empty()) {
        let text = "Impossible to resize guest memory if it is backed by user defined memory regions";
        return Err(refused("desired_ram", text, "resize a zone with vm.resize-zone"));
    }
    if memory.hotplug_method == HotplugMethod::Acpi {
        // Whether the machine can have more is for it to say. Less is what the next one begins with.
        memory.size = ram;
        return Ok(());
    }
    check_pluggable(memory.hotplug_method, memory.hotplug_size)?;
    memory.hotplugged_size = Some(beyond(memory.size, ram)?);
    Ok(())
}

/// What of `wanted` is to be plugged in memory that had `size` bytes at boot.
fn beyond(size: u64, wanted: u64) -> Result<u64, Problems> {
    wanted.checked_sub(size).ok_or_else(|| {
        let text = format!("Invalid resize request: desired_size = {wanted} below boot size = {size}");
        refused("desired_ram", &text, "ask for what the VM booted with, or more")
    })
}

fn check_pluggable(method: HotplugMethod, room: Option<u64>) -> Result<(), Problems> {
    if method == HotplugMethod::VirtioMem && room.is_some() {
        return Ok(());
    }
    let hint = "create the VM with hotplug_method=virtio-mem and a hotplug_size";
    Err(refused("desired_ram", "No virtio-mem resizing handler found", hint))
}

fn check_vcpus(wanted: u32, max: u32) -> Result<(), Problems> {
    match wanted {
        0 => Err(refused("desired_vcpus", "Requested zero vCPUs", "ask for 1 or more")),
        _ if wanted > max => {
            let hint = format!("ask for at most {max}, cpus.max_vcpus");
            Err(refused("desired_vcpus", "Requested vCPUs exceed maximum", &hint))
        }
        _ => Ok(()),
    }
}

fn no_zone(id: &str) -> Problems {
    refused("id", &format!("There is no memory zone '{id}'"), "see memory.zones in vm.info")
}

fn no_balloon() -> Problems {
    let hint = "create the VM with a balloon; its size may be 0";
    refused("balloon", "Missing virtio-balloon, can't proceed as expected", hint)
}

fn refused(path: &str, text: &str, hint: &str) -> Problems {
    let (path, kind) = (path.into(), ProblemKind::Invalid);
    Problems::one(Problem { path, kind, outer: None, text: text.into(), hint: hint.into() })
}
