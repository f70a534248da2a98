//! What a guest may have found in CPUID and rely on: a host that lacks it cannot go on with the guest.

use crate::cpuid::{Leaf, phys_bits};

/// A register of a leaf.
#[derive(Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

use Register::{Eax, Ebx, Ecx, Edx};

/// Registers in which each bit is a feature: function, sub-leaf, register, and its name.
const FEATURES: &[(u32, u32, Register, &str)] = &[
    (1, 0, Ecx, "1.ecx"),
    (1, 0, Edx, "1.edx"),
    (6, 0, Eax, "6.eax"),
    (7, 0, Ebx, "7.0.ebx"),
    (7, 0, Ecx, "7.0.ecx"),
    (7, 0, Edx, "7.0.edx"),
    (7, 1, Eax, "7.1.eax"),
    (7, 1, Edx, "7.1.edx"),
    (7, 2, Edx, "7.2.edx"),
    (0xd, 0, Eax, "d.0.eax"),
    (0xd, 1, Eax, "d.1.eax"),
    (0x4000_0001, 0, Eax, "40000001.eax"),
    (0x8000_0001, 0, Ecx, "80000001.ecx"),
    (0x8000_0001, 0, Edx, "80000001.edx"),
    (0x8000_0007, 0, Edx, "80000007.edx"),
    (0x8000_0008, 0, Ebx, "80000008.ebx"),
    (0x8000_000a, 0, Edx, "8000000a.edx"),
    (0x8000_0021, 0, Eax, "80000021.eax"),
];

/// Names of features by register and bit, as Linux has them in `/proc/cpuinfo`.
const NAMES: &[(&str, u32, &str)] = &[
    ("1.ecx", 0, "sse3"),
    ("1.ecx", 1, "pclmulqdq"),
    ("1.ecx", 5, "vmx"),
    ("1.ecx", 9, "ssse3"),
    ("1.ecx", 12, "fma"),
    ("1.ecx", 13, "cx16"),
    ("1.ecx", 17, "pcid"),
    ("1.ecx", 19, "sse4_1"),
    ("1.ecx", 20, "sse4_2"),
    ("1.ecx", 21, "x2apic"),
    ("1.ecx", 22, "movbe"),
    ("1.ecx", 23, "popcnt"),
    ("1.ecx", 24, "tsc_deadline_timer"),
    ("1.ecx", 25, "aes"),
    ("1.ecx", 26, "xsave"),
    ("1.ecx", 28, "avx"),
    ("1.ecx", 29, "f16c"),
    ("1.ecx", 30, "rdrand"),
    ("7.0.ebx", 0, "fsgsbase"),
    ("7.0.ebx", 1, "tsc_adjust"),
    ("7.0.ebx", 3, "bmi1"),
    ("7.0.ebx", 4, "hle"),
    ("7.0.ebx", 5, "avx2"),
    ("7.0.ebx", 7, "smep"),
    ("7.0.ebx", 8, "bmi2"),
    ("7.0.ebx", 9, "erms"),
    ("7.0.ebx", 10, "invpcid"),
    ("7.0.ebx", 11, "rtm"),
    ("7.0.ebx", 14, "mpx"),
    ("7.0.ebx", 16, "avx512f"),
    ("7.0.ebx", 17, "avx512dq"),
    ("7.0.ebx", 18, "rdseed"),
    ("7.0.ebx", 19, "adx"),
    ("7.0.ebx", 20, "smap"),
    ("7.0.ebx", 21, "avx512ifma"),
    ("7.0.ebx", 23, "clflushopt"),
    ("7.0.ebx", 24, "clwb"),
    ("7.0.ebx", 28, "avx512cd"),
    ("7.0.ebx", 29, "sha_ni"),
    ("7.0.ebx", 30, "avx512bw"),
    ("7.0.ebx", 31, "avx512vl"),
    ("7.0.ecx", 1, "avx512vbmi"),
    ("7.0.ecx", 2, "umip"),
    ("7.0.ecx", 3, "pku"),
    ("7.0.ecx", 6, "avx512_vbmi2"),
    ("7.0.ecx", 8, "gfni"),
    ("7.0.ecx", 9, "vaes"),
    ("7.0.ecx", 10, "vpclmulqdq"),
    ("7.0.ecx", 11, "avx512_vnni"),
    ("7.0.ecx", 16, "la57"),
    ("7.0.ecx", 22, "rdpid"),
    ("7.0.edx", 22, "amx_bf16"),
    ("7.0.edx", 23, "avx512_fp16"),
    ("7.0.edx", 24, "amx_tile"),
    ("7.0.edx", 25, "amx_int8"),
    ("7.0.edx", 26, "ibrs"),
    ("7.0.edx", 27, "stibp"),
    ("7.0.edx", 31, "ssbd"),
    ("7.1.eax", 4, "avx_vnni"),
    ("7.1.eax", 5, "avx512_bf16"),
    ("d.0.eax", 2, "the AVX state"),
    ("d.0.eax", 5, "the AVX-512 state"),
    ("d.0.eax", 18, "the AMX state"),
    ("d.1.eax", 0, "xsaveopt"),
    ("d.1.eax", 1, "xsavec"),
    ("d.1.eax", 3, "xsaves"),
    ("40000001.eax", 3, "kvmclock"),
    ("40000001.eax", 4, "KVM asynchronous page faults"),
    ("40000001.eax", 5, "KVM steal time"),
    ("40000001.eax", 6, "KVM paravirtual end of interrupt"),
    ("40000001.eax", 7, "KVM paravirtual spin locks"),
    ("80000001.ecx", 2, "svm"),
    ("80000001.ecx", 5, "abm"),
    ("80000001.ecx", 6, "sse4a"),
    ("80000001.edx", 26, "pdpe1gb"),
    ("80000001.edx", 27, "rdtscp"),
    ("80000007.edx", 8, "constant_tsc"),
    ("80000008.ebx", 0, "clzero"),
    ("80000008.ebx", 12, "ibpb"),
];

/// The first thing of what a guest was shown that a host with the leaves `host` lacks, by name; `None`: the guest can go on there.
pub fn missing(shown: &[Leaf], host: &[Leaf]) -> Option<String> {
    let vendor = |leaves: &[Leaf]| register(leaves, 0, 0, Ebx);
    if vendor(shown) != vendor(host) {
        return Some("another vendor".into());
    }
    if phys_bits(shown) > phys_bits(host) {
        return Some(format!("{} bits of physical addresses", phys_bits(shown)));
    }
    FEATURES.iter().find_map(|(function, index, which, name)| {
        let lacking = register(shown, *function, *index, *which) & !register(host, *function, *index, *which);
        (lacking != 0).then(|| feature(name, lacking.trailing_zeros()))
    })
}

fn register(leaves: &[Leaf], function: u32, index: u32, which: Register) -> u32 {
    let leaf = leaves.iter().find(|leaf| leaf.function == function && leaf.index.unwrap_or(0) == index);
    leaf.map_or(0, |leaf| match which {
        Eax => leaf.eax,
        Ebx => leaf.ebx,
        Ecx => leaf.ecx,
        Edx => leaf.edx,
    })
}

fn feature(register: &str, bit: u32) -> String {
    let named = NAMES.iter().find(|(of, at, _)| (*of, *at) == (register, bit));
    named.map_or_else(|| format!("bit {bit} of CPUID {register}"), |(_, _, name)| format!("'{name}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: Option<u32>, ebx: u32, ecx: u32) -> Leaf {
        Leaf { function, index, eax: 0, ebx, ecx, edx: 0 }
    }

    #[test]
    fn a_feature_that_is_not_there_is_named() {
        const AVX2: u32 = 1 << 5;
        let host = [leaf(0, None, 7, 0), leaf(7, Some(0), AVX2, 0)];
        assert_eq!(missing(&host, &host), None);
        assert_eq!(missing(&[leaf(0, None, 7, 0)], &host), None, "less is enough");
        assert_eq!(missing(&host, &host[..1]).as_deref(), Some("'avx2'"));
        let odd = [leaf(0, None, 7, 0), leaf(7, Some(0), AVX2 | 1 << 2, 0)];
        assert_eq!(missing(&odd, &host).as_deref(), Some("bit 2 of CPUID 7.0.ebx"));
        assert_eq!(missing(&host, &[leaf(0, None, 8, 0)]).as_deref(), Some("another vendor"));
        let wide = Leaf { eax: 52, ..leaf(0x8000_0008, None, 0, 0) };
        let wide = [host[0], wide];
        assert_eq!(missing(&wide, &host).as_deref(), Some("52 bits of physical addresses"));
    }
}
