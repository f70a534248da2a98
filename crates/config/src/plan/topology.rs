//! How vCPUs are grouped, and the APIC ids that follow from it.

/// Groups of vCPUs; no part is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// 1 or 2.
    pub threads_per_core: u16,
    /// From 1.
    pub cores_per_die: u16,
    /// From 1.
    pub dies_per_package: u16,
    /// From 1.
    pub packages: u16,
}

impl Topology {
    /// Bits of an APIC id below the core, the die and the package number.
    pub fn shifts(self) -> [u32; 3] {
        let core = bits_for(self.threads_per_core);
        let die = core + bits_for(self.cores_per_die);
        [core, die, die + bits_for(self.dies_per_package)]
    }

    /// The APIC id of the vCPU with this number: its place in each group, in fields wide enough for the group.
    pub fn apic_id(self, vcpu: u32) -> u32 {
        let [core_shift, die_shift, package_shift] = self.shifts();
        let split = |n: u32, count: u16| (n % u32::from(count), n / u32::from(count));
        let (thread, rest) = split(vcpu, self.threads_per_core);
        let (core, rest) = split(rest, self.cores_per_die);
        let (die, package) = split(rest, self.dies_per_package);
        thread | core << core_shift | die << die_shift | package << package_shift
    }

    /// vCPUs of a die.
    pub fn threads_per_die(self) -> u32 {
        u32::from(self.threads_per_core) * u32::from(self.cores_per_die)
    }

    /// vCPUs of a package.
    pub fn threads_per_package(self) -> u32 {
        self.threads_per_die() * u32::from(self.dies_per_package)
    }
}

fn bits_for(count: u16) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apic_ids_leave_room_for_every_group() {
        let flat = Topology { threads_per_core: 1, cores_per_die: 4, dies_per_package: 1, packages: 1 };
        assert_eq!((0..4).map(|n| flat.apic_id(n)).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let odd = Topology { threads_per_core: 2, cores_per_die: 3, dies_per_package: 1, packages: 2 };
        assert_eq!(
            (0..12).map(|n| odd.apic_id(n)).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]
        );
    }
}
