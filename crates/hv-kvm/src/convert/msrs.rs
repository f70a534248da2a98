//! Model-specific registers.

use std::collections::BTreeMap;

use hv::Error;
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::{Result, get};

/// What a guest can write and KVM's list leaves out. What a vCPU does not have is left out when it is read.
const UNLISTED: &[std::ops::RangeInclusive<u32>] = &[
    // IA32_DEBUGCTL.
    0x1d9..=0x1d9,
    // Memory types: the variable ranges, the fixed ones, the default.
    0x200..=0x20f,
    0x250..=0x250,
    0x258..=0x259,
    0x268..=0x26f,
    0x2ff..=0x2ff,
    // The 32 machine check banks of KVM, four registers each.
    0x400..=0x47f,
    // KVM's own: whether the guest may be migrated.
    0x4b56_4d08..=0x4b56_4d08,
];

/// What may be put in only while a guest's hypervisor is not in operation, and says what such a one can do: IA32_FEATURE_CONTROL and the
/// capabilities of VMX.
pub(super) const BEFORE_NESTED: [std::ops::RangeInclusive<u32>; 2] = [0x3a..=0x3a, 0x480..=0x491];

/// The MSRs of a vCPU's state, of a kernel that lists `listed`.
pub(crate) fn all(listed: &[u32]) -> Vec<u32> {
    let mut all: Vec<u32> = UNLISTED.iter().cloned().flatten().chain(listed.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Reads those of the listed MSRs that this vCPU has.
pub(super) fn read(fd: &VcpuFd, numbers: &[u32]) -> Result<BTreeMap<u32, u64>> {
    let mut values = BTreeMap::new();
    let mut rest = numbers;
    while !rest.is_empty() {
        let entries: Vec<_> =
            rest.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut batch = batch(&entries)?;
        let read = get("read a vCPU's MSRs", fd.get_msrs(&mut batch))?;
        values.extend(batch.as_slice().iter().take(read).map(|entry| (entry.index, entry.data)));
        // KVM stops at the first MSR it does not have.
        rest = rest.get(read + 1..).unwrap_or_default();
    }
    Ok(values)
}

/// Reads an MSR, if this vCPU has it.
pub(crate) fn read_one(fd: &VcpuFd, number: u32) -> Option<u64> {
    read(fd, &[number]).ok()?.remove(&number)
}

/// Sets MSRs in this order, but for those that this vCPU does not have or that cannot be written.
pub(crate) fn write(fd: &VcpuFd, values: impl IntoIterator<Item = (u32, u64)>) -> Result<()> {
    let entry = |(index, data)| kvm_msr_entry { index, data, ..Default::default() };
    let entries: Vec<_> = values.into_iter().map(entry).collect();
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let written = get("set a vCPU's MSRs", fd.set_msrs(&batch(rest)?))?;
        if let Some(refused) = rest.get(written) {
            let (number, value) = (refused.index, refused.data);
            // Some can only be read, and have the value already.
            if read_one(fd, number) != Some(value) {
                tracing::warn!("MSR {number:#x} cannot be set to {value:#x} here");
            }
        }
        rest = rest.get(written + 1..).unwrap_or_default();
    }
    Ok(())
}

fn batch(entries: &[kvm_msr_entry]) -> Result<Msrs> {
    Msrs::from_entries(entries)
        .map_err(|e| Error::operation("hold so many MSRs", std::io::Error::other(format!("{e:?}"))))
}
