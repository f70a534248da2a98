//! CPUID leaves between KVM's form and the neutral one.

use hv::cpuid::Leaf;
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

pub(crate) fn leaf(entry: &kvm_cpuid_entry2) -> Leaf {
    let indexed = entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
    let &kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, .. } = entry;
    Leaf { function, index: indexed.then_some(index), eax, ebx, ecx, edx }
}

pub(crate) fn to_kvm(leaves: &[Leaf]) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let entry = |leaf: &Leaf| kvm_cpuid_entry2 {
        function: leaf.function,
        index: leaf.index.unwrap_or(0),
        flags: if leaf.index.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax: leaf.eax,
        ebx: leaf.ebx,
        ecx: leaf.ecx,
        edx: leaf.edx,
        ..kvm_cpuid_entry2::default()
    };
    CpuId::from_entries(&leaves.iter().map(entry).collect::<Vec<_>>())
}
