//! Where the guest is to stop. gdb takes breakpoints out while the guest stands still, and puts them in again before it goes on.

use std::collections::BTreeMap;

use hv::{BREAKPOINTS, Debugging};
use machine::Debugger;

const INT3: u8 = 0xcc;

/// All breakpoints of a session.
#[derive(Debug, Default)]
pub(crate) struct Breakpoints {
    /// Linear addresses.
    hardware: [Option<u64>; BREAKPOINTS],
    /// By guest-physical address: pages may be mapped elsewhere when it is to go.
    software: BTreeMap<u64, Software>,
}

/// An INT3 in the guest's RAM.
#[derive(Debug)]
struct Software {
    linear: u64,
    /// What stood there.
    original: u8,
}

impl Breakpoints {
    /// Takes one of the CPU's breakpoints; whether there was one left.
    pub(crate) fn add_hardware(&mut self, linear: u64) -> bool {
        let free = self.hardware.iter_mut().find(|place| place.is_none());
        free.map(|place| *place = Some(linear)).is_some()
    }

    /// Whether there was one.
    pub(crate) fn remove_hardware(&mut self, linear: u64) -> bool {
        let taken = self.hardware.iter_mut().find(|place| **place == Some(linear));
        taken.map(|place| *place = None).is_some()
    }

    /// Puts INT3 where `linear` leads; whether that is RAM.
    pub(crate) fn add_software(&mut self, machine: &Debugger, linear: u64, physical: u64) -> bool {
        let mut original = [0];
        if self.software.contains_key(&physical) || !machine.read(physical, &mut original) {
            return false;
        }
        let is_there = machine.write(physical, &[INT3]);
        if is_there {
            self.software.insert(physical, Software { linear, original: original[0] });
        }
        is_there
    }

    /// Whether there was one.
    pub(crate) fn remove_software(&mut self, machine: &Debugger, linear: u64) -> bool {
        let at =
            self.software.iter().find(|(_, other)| other.linear == linear).map(|(physical, _)| *physical);
        let Some((physical, software)) = at.and_then(|at| self.software.remove_entry(&at)) else {
            return false;
        };
        machine.write(physical, &[software.original])
    }

    /// Takes all of them out of the guest.
    pub(crate) fn clear(&mut self, machine: &Debugger) {
        self.hardware = Default::default();
        for (physical, Software { original, .. }) in std::mem::take(&mut self.software) {
            machine.write(physical, &[original]);
        }
    }

    /// Reads RAM as it is without them; whether all of it is RAM.
    pub(crate) fn read(&self, machine: &Debugger, physical: u64, bytes: &mut [u8]) -> bool {
        let is_ram = machine.read(physical, bytes);
        for (at, software) in self.software.range(physical..physical.saturating_add(bytes.len() as u64)) {
            bytes[(at - physical) as usize] = software.original;
        }
        is_ram
    }

    /// Writes RAM, and leaves them where they are; whether all of it is RAM.
    pub(crate) fn write(&mut self, machine: &Debugger, physical: u64, bytes: &[u8]) -> bool {
        let mut bytes = bytes.to_vec();
        let range = physical..physical.saturating_add(bytes.len() as u64);
        for (at, software) in self.software.range_mut(range) {
            software.original = std::mem::replace(&mut bytes[(at - physical) as usize], INT3);
        }
        machine.write(physical, &bytes)
    }

    /// What a vCPU is asked for.
    pub(crate) fn debugging(&self, step: bool) -> Debugging {
        let mut software: Vec<u64> = self.software.values().map(|software| software.linear).collect();
        software.sort_unstable();
        Debugging { hardware: self.hardware, software: software.into(), step }
    }
}
