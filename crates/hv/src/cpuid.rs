//! What CPUID shows the guest: the host's leaves, cut down to what the machine has and marked with each vCPU's place in the topology
//! (Intel SDM vol. 2 "CPUID", AMD APM vol. 3 appendix E; `spec/devices.md` §14).

use config::plan::Topology;
use serde::{Deserialize, Serialize};

pub use crate::features::missing;

/// One CPUID answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Leaf {
    pub function: u32,
    /// The sub-leaf, where the function has any.
    pub index: Option<u32>,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What the machine shows, the same for all its vCPUs.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// How vCPUs are grouped.
    pub topology: Topology,
    /// Physical address bits.
    pub phys_bits: u8,
    /// Whether the guest may be a hypervisor itself.
    pub nested: bool,
    /// Whether the guest finds Hyper-V's interface in place of KVM's.
    pub hyperv: bool,
    /// The guest's time stamp counter, if its rate is known.
    pub tsc_khz: Option<u32>,
}

/// Physical address bits of the CPU that `leaves` describe: 36 if they do not say.
pub fn phys_bits(leaves: &[Leaf]) -> u8 {
    leaves.iter().find(|leaf| leaf.function == 0x8000_0008).map_or(36, |leaf| leaf.eax as u8)
}

/// KVM's timing leaf: TSC and APIC bus rate in kHz.
const TIMING: u32 = 0x4000_0010;
const APIC_BUS_KHZ: u32 = 1_000_000;

/// The leaves of the machine's vCPUs, but for each one's own APIC id: see [`personalise`].
pub fn build(supported: &[Leaf], model: &Model) -> Vec<Leaf> {
    let topology = model.topology;
    let is_topology = |function| matches!(function, 0xb | 0x1f);
    let amd = supported.iter().any(|leaf| leaf.function == 0 && leaf.ebx == u32::from_le_bytes(*b"Auth"));
    let mut leaves: Vec<Leaf> =
        supported.iter().filter(|leaf| !is_topology(leaf.function)).copied().collect();
    for leaf in &mut leaves {
        restrict(leaf, model, amd);
    }
    let max_basic = leaves.iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.eax);
    for function in [0xb, 0x1f].into_iter().filter(|function| *function <= max_basic) {
        leaves.extend(topology_leaves(function, topology));
    }
    if model.hyperv {
        leaves.retain(|leaf| leaf.function >> 16 != HYPERVISOR >> 16);
        leaves.extend(hyperv_leaves());
    } else if let Some(tsc_khz) = model.tsc_khz {
        leaves.retain(|leaf| leaf.function != TIMING);
        leaves.push(Leaf { function: TIMING, index: None, eax: tsc_khz, ebx: APIC_BUS_KHZ, ecx: 0, edx: 0 });
        for base in leaves.iter_mut().filter(|leaf| leaf.function == 0x4000_0000) {
            base.eax = base.eax.max(TIMING);
        }
    }
    leaves
}

/// The first of the leaves in which hypervisors say what they are.
const HYPERVISOR: u32 = 0x4000_0000;

/// What the guest finds of Hyper-V (Hypervisor Top-Level Functional Specification, chapter 2; `spec/devices2.md` §17).
fn hyperv_leaves() -> impl Iterator<Item = Leaf> {
    const INTERFACE: u32 = u32::from_le_bytes(*b"Hv#1");
    /// Run time, reference counter, synthetic interrupts and timers, APIC, hypercalls, virtual processor numbers, reference TSC,
    /// frequencies.
    const MSRS: u32 = 0x7f | 1 << 9 | 1 << 11;
    /// Hypercall parameters in XMM registers (and what goes with them), frequencies.
    const FEATURES: u32 = 1 << 3 | 1 << 4 | 1 << 8;
    /// Hypercalls to flush translations, MSRs for the APIC, relaxed timing, interrupts to several virtual processors at once, and more
    /// of them than 64.
    const RECOMMENDED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 10;
    /// Attempts before a guest tells of a lock that it spins on.
    const SPINS: u32 = 0xfff;
    const BUILD: [u32; 2] = [0x3839, 10 << 16];
    let [vendor_b, vendor_c, vendor_d] = [b"Linu", b"x KV", b"M Hv"].map(|part| u32::from_le_bytes(*part));
    [
        [HYPERVISOR + 10, vendor_b, vendor_c, vendor_d],
        [INTERFACE, 0, 0, 0],
        [BUILD[0], BUILD[1], 0, 0],
        [MSRS, 0, 0, FEATURES],
        [RECOMMENDED, SPINS, 0, 0],
    ]
    .into_iter()
    .chain([[0; 4]; 6])
    .zip(HYPERVISOR..)
    .map(|([eax, ebx, ecx, edx], function)| Leaf { function, index: None, eax, ebx, ecx, edx })
}

/// Whether the leaves promise Hyper-V's synthetic interrupt controller, which the back end must then switch on.
pub fn promise_synic(leaves: &[Leaf]) -> bool {
    const SYNIC: u32 = 1 << 2;
    let is_hyperv =
        leaves.iter().any(|leaf| leaf.function == HYPERVISOR + 1 && leaf.eax.to_le_bytes() == *b"Hv#1");
    is_hyperv && leaves.iter().any(|leaf| leaf.function == HYPERVISOR + 3 && leaf.eax & SYNIC != 0)
}

fn restrict(leaf: &mut Leaf, model: &Model, amd: bool) {
    let topology = model.topology;
    match (leaf.function, leaf.index.unwrap_or(0)) {
        (1, _) => {
            const HTT: u32 = 1 << 28;
            const VMX: u32 = 1 << 5;
            const TSC_DEADLINE: u32 = 1 << 24;
            const HYPERVISOR: u32 = 1 << 31;
            leaf.ecx |= TSC_DEADLINE | HYPERVISOR;
            leaf.ebx = leaf.ebx & 0xff00_ffff | topology.threads_per_package().min(255) << 16;
            if topology.threads_per_package() > 1 {
                leaf.edx |= HTT;
            }
            if !model.nested {
                leaf.ecx &= !VMX;
            }
        }
        (4, _) if leaf.eax & 0x1f != 0 => share_cache(leaf, topology),
        (7, 0) => {
            // AMX (BF16, TILE, INT8) needs the guest's opt-in.
            leaf.edx &= !(1 << 22 | 1 << 24 | 1 << 25);
        }
        (0xd, 0) => leaf.eax &= !(3 << 17),
        (0xd, 17 | 18) | (0x1d | 0x1e, _) => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
        (0x4000_0001, _) => {
            const MSI_EXT_DEST_ID: u32 = 1 << 15;
            leaf.eax |= MSI_EXT_DEST_ID;
        }
        (0x8000_0001, _) => {
            const SVM: u32 = 1 << 2;
            const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
            if !model.nested {
                leaf.ecx &= !SVM;
            }
            if amd {
                leaf.ecx |= TOPOLOGY_EXTENSIONS;
            }
        }
        (0x8000_0008, _) => {
            leaf.eax = leaf.eax & !0xff | u32::from(model.phys_bits);
            let [.., package_shift] = topology.shifts();
            if amd {
                leaf.ecx = package_shift << 12 | (topology.threads_per_package() - 1).min(255);
            }
        }
        (0x8000_001e, _) => {
            leaf.ebx = (u32::from(topology.threads_per_core) - 1) << 8;
            leaf.ecx = (u32::from(topology.dies_per_package) - 1) << 8;
        }
        _ => {}
    }
}

/// Clamps the number of threads that share a cache to those of a die, and tells the cores per package.
fn share_cache(leaf: &mut Leaf, topology: Topology) {
    let [core_shift, die_shift, package_shift] = topology.shifts();
    let level = leaf.eax >> 5 & 7;
    let sharing = if level < 3 { core_shift } else { die_shift };
    let cores = (1u32 << (package_shift - core_shift)).min(64) - 1;
    leaf.eax = leaf.eax & 0x3fff | ((1u32 << sharing).min(4096) - 1) << 14 | cores << 26;
}

fn topology_leaves(function: u32, topology: Topology) -> Vec<Leaf> {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    const DIE: u32 = 5;
    let [core_shift, die_shift, package_shift] = topology.shifts();
    let mut levels = vec![(THREAD, core_shift, u32::from(topology.threads_per_core))];
    if function == 0x1f && topology.dies_per_package > 1 {
        levels.push((CORE, die_shift, topology.threads_per_die()));
        levels.push((DIE, package_shift, topology.threads_per_package()));
    } else {
        levels.push((CORE, package_shift, topology.threads_per_package()));
    }
    levels.push((0, 0, 0));
    let leaf = |(index, (kind, shift, threads)): (u32, (u32, u32, u32))| Leaf {
        function,
        index: Some(index),
        eax: shift,
        ebx: threads,
        ecx: kind << 8 | index,
        edx: 0,
    };
    (0..).zip(levels).map(leaf).collect()
}

/// Marks the machine's leaves as those of one vCPU.
pub fn personalise(leaves: &mut [Leaf], topology: Topology, apic_id: u32) {
    let [core_shift, die_shift, package_shift] = topology.shifts();
    for leaf in leaves {
        match leaf.function {
            1 => leaf.ebx = leaf.ebx & 0x00ff_ffff | apic_id << 24,
            0xb | 0x1f => leaf.edx = apic_id,
            0x8000_001e => {
                let die = apic_id >> die_shift & ((1 << (package_shift - die_shift)) - 1);
                leaf.eax = apic_id;
                leaf.ebx = leaf.ebx & !0xff | apic_id >> core_shift & 0xff;
                leaf.ecx = leaf.ecx & !0xff | die;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: Topology =
        Topology { threads_per_core: 1, cores_per_die: 4, dies_per_package: 1, packages: 1 };
    const ODD: Topology =
        Topology { threads_per_core: 2, cores_per_die: 3, dies_per_package: 1, packages: 2 };

    fn leaf(function: u32, index: Option<u32>) -> Leaf {
        Leaf { function, index, eax: 0, ebx: 0, ecx: 0, edx: 0 }
    }

    fn model(topology: Topology, nested: bool) -> Model {
        Model { topology, phys_bits: 46, nested, hyperv: false, tsc_khz: Some(2_000_000) }
    }

    #[test]
    fn topology_leaves_tell_threads_and_cores() {
        let mut leaves = build(&[Leaf { eax: 0xb, ..leaf(0, None) }, leaf(1, None)], &model(ODD, true));
        personalise(&mut leaves, ODD, 9);
        let levels: Vec<_> = leaves.iter().filter(|l| l.function == 0xb).collect();
        assert_eq!((levels[0].eax, levels[0].ebx, levels[0].ecx, levels[0].edx), (1, 2, 0x100, 9));
        assert_eq!((levels[1].eax, levels[1].ebx, levels[1].ecx, levels[1].edx), (3, 6, 0x201, 9));
        let first = leaves.iter().find(|l| l.function == 1).unwrap();
        assert_eq!((first.ebx >> 24, first.ebx >> 16 & 0xff, first.edx >> 28 & 1), (9, 6, 1));
    }

    #[test]
    fn nested_off_hides_vmx_and_svm() {
        let host = [Leaf { ecx: 1 << 5, ..leaf(1, None) }, Leaf { ecx: 1 << 2, ..leaf(0x8000_0001, None) }];
        let shown = build(&host, &model(FLAT, false));
        assert_eq!(shown[0].ecx & 1 << 5 | shown[1].ecx & 1 << 2, 0);
        let shown = build(&host, &model(FLAT, true));
        assert_ne!(shown[0].ecx & 1 << 5, 0);
    }

    #[test]
    fn address_width_and_timing_are_the_machine_s() {
        let host = [
            Leaf { eax: 0x3034, ..leaf(0x8000_0008, None) },
            Leaf { eax: 0x4000_0001, ..leaf(0x4000_0000, None) },
        ];
        let shown = build(&host, &model(FLAT, true));
        assert_eq!((phys_bits(&host), phys_bits(&shown)), (0x34, 46));
        assert_eq!(shown[1].eax, TIMING);
        assert_eq!(shown[2].eax, 2_000_000);
    }
    #[test]
    fn hyper_v_comes_in_place_of_kvm() {
        let host = [
            leaf(0x4000_0000, None),
            Leaf { eax: 0xff, ..leaf(0x4000_0001, None) },
            Leaf { eax: 7, ..leaf(0x8000_0001, None) },
        ];
        let shown = build(&host, &Model { hyperv: true, ..model(FLAT, true) });
        let numbers: Vec<_> = shown.iter().map(|leaf| leaf.function).collect();
        assert_eq!(numbers[0], 0x8000_0001);
        assert!(numbers[1..].iter().copied().eq(0x4000_0000..=0x4000_000a), "{numbers:x?}");
        let text: Vec<u8> =
            [shown[1].ebx, shown[1].ecx, shown[1].edx].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!((shown[1].eax, text.as_slice()), (0x4000_000a, &b"Linux KVM Hv"[..]));
        assert_eq!((shown[4].eax, shown[4].edx, shown[5].eax, shown[5].ebx), (0xa7f, 0x118, 0x62e, 0xfff));
        assert!(promise_synic(&shown) && !promise_synic(&build(&host, &model(FLAT, true))));
    }
}
