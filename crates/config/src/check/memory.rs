//! Rules of guest RAM (`spec/config.md` §3): those of the reference's validation, and those it applies while
//! it maps the memory.

use super::Scope;
use crate::memory::{HotplugMethod, MemoryConfig, MemoryZoneConfig, WHOLE};

const PAGE: u64 = 4096;
/// virtio-mem regions start and end on Linux memory blocks.
const BLOCK: u64 = 128 << 20;
/// What virtio-mem plugs at once.
const PLUGGED_BLOCK: u64 = 2 << 20;

/// Huge pages, sharing and merging, of the memory and of each zone.
pub(super) fn check_pages(memory: &MemoryConfig, at: &mut Scope<'_, '_>) {
    check_backing(memory.hugepages, memory.hugepage_size, memory.shared && memory.mergeable, at);
    for (i, zone) in memory.zones.iter().flatten().enumerate() {
        let at = &mut at.within(format!("memory.zones[{i}]"));
        check_backing(zone.hugepages, zone.hugepage_size, zone.shared && zone.mergeable, at);
    }
}

fn check_backing(hugepages: bool, hugepage_size: Option<u64>, shared_merged: bool, at: &mut Scope<'_, '_>) {
    if let Some(size) = hugepage_size {
        if !hugepages {
            let text = "Huge page size specified but huge pages not enabled";
            at.invalid("hugepage_size", text, "set hugepages=on");
        }
        if !size.is_power_of_two() {
            at.invalid("hugepage_size", format!("Huge page size is not power of 2: {size}"), "use 2M or 1G");
        }
    }
    if shared_merged {
        let text = "Invalid to set both 'mergeable' and 'shared' for memory";
        at.invalid("mergeable", text, "turn one of the two off");
    }
}

/// Sizes, and what goes with what.
pub(super) fn check_layout(memory: &MemoryConfig, at: &mut Scope<'_, '_>) {
    let zones = memory.zones.as_deref().unwrap_or_default();
    if memory.size == 0 && zones.is_empty() {
        at.invalid("size", "Memory size is 0 and there are no memory zones", "set the size or add zones");
    }
    if memory.size != 0 && !zones.is_empty() {
        let text = "Memory size and memory zones are both given";
        at.invalid("size", text, "set size=0 when zones hold the memory");
    }
    check_aligned("size", memory.size, memory.hugepage_size, at);
    check_hotplug(memory.hotplug_method, memory.hotplug_size, memory.hotplugged_size, at);
    if memory.hotplug_method == HotplugMethod::VirtioMem {
        check_room(memory.hotplug_size, memory.hugepage_size, at);
    }
    if memory.hotplug_method == HotplugMethod::VirtioMem && zones.is_empty() && memory.hotplug_size.is_some()
    {
        // The device that plugs it has this id.
        at.claim(Some(WHOLE));
    }
    for (i, zone) in zones.iter().enumerate() {
        check_zone(memory.hotplug_method, zone, &mut at.within(format!("memory.zones[{i}]")));
    }
    if sum(memory).is_none() {
        at.invalid("size", "Memory sizes add up to more than 64 bits hold", "use less memory");
    }
}

fn check_zone(method: HotplugMethod, zone: &MemoryZoneConfig, at: &mut Scope<'_, '_>) {
    if zone.size == 0 {
        at.invalid("size", "Memory zone size is 0", "set the zone's size");
    }
    if zone.shared && zone.file.is_some() && zone.host_numa_node.is_some() {
        let text = "A shared memory zone with a file cannot be bound to a host NUMA node";
        at.invalid("host_numa_node", text, "leave out file, shared or host_numa_node");
    }
    if zone.hotplug_size.is_some() && method == HotplugMethod::Acpi {
        let text = "Memory zones cannot be hot-plugged through ACPI";
        at.invalid("hotplug_size", text, "set --memory hotplug_method=virtio-mem");
    }
    check_aligned("size", zone.size, zone.hugepage_size, at);
    check_hotplug(method, zone.hotplug_size, zone.hotplugged_size, at);
    if method == HotplugMethod::VirtioMem {
        check_room(zone.hotplug_size, zone.hugepage_size, at);
    }
}

fn check_aligned(field: &str, size: u64, page: Option<u64>, at: &mut Scope<'_, '_>) {
    let page = page.filter(|page| page.is_power_of_two()).unwrap_or(PAGE);
    if !size.is_multiple_of(page) {
        let text = format!("Memory size ({size}) is not a multiple of the page size ({page})");
        at.invalid(field, text, "use a multiple of the page size");
    }
}

fn check_hotplug(method: HotplugMethod, room: Option<u64>, plugged: Option<u64>, at: &mut Scope<'_, '_>) {
    if let Some(plugged) = plugged {
        match room {
            None => {
                let text = "Memory hotplugged_size is given without hotplug_size";
                at.invalid("hotplugged_size", text, "set hotplug_size");
            }
            Some(room) if plugged > room => {
                let text =
                    format!("Memory hotplugged_size ({plugged}) is greater than hotplug_size ({room})");
                at.invalid("hotplugged_size", text, "raise hotplug_size");
            }
            Some(_) => {}
        }
        if !plugged.is_multiple_of(PLUGGED_BLOCK) {
            let text = format!("Memory hotplugged_size ({plugged}) is not a multiple of {PLUGGED_BLOCK}");
            at.invalid("hotplugged_size", text, "use a multiple of 2M");
        }
        if method == HotplugMethod::Acpi {
            let text = "Memory hotplugged_size needs virtio-mem";
            at.invalid("hotplugged_size", text, "set hotplug_method=virtio-mem");
        }
    }
}

/// The region that virtio-mem plugs blocks in.
fn check_room(room: Option<u64>, page: Option<u64>, at: &mut Scope<'_, '_>) {
    let Some(room) = room else { return };
    if room == 0 || !room.is_multiple_of(BLOCK) {
        let text = format!("Memory hotplug_size ({room}) is 0 or not a multiple of {BLOCK}");
        at.invalid("hotplug_size", text, "use a multiple of 128M");
    }
    check_aligned("hotplug_size", room, page, at);
}

/// All RAM there can ever be.
fn sum(memory: &MemoryConfig) -> Option<u64> {
    let own = [Some(memory.size), memory.hotplug_size];
    let zones = memory.zones.iter().flatten().flat_map(|zone| [Some(zone.size), zone.hotplug_size]);
    own.into_iter().chain(zones).flatten().try_fold(0u64, u64::checked_add)
}
