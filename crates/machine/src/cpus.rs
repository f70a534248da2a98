//! vCPUs that come and go: making them, bringing them to the guest, and parking those that it has let go of.
//!
//! A hypervisor does not destroy a vCPU while its machine lives, so one that goes is parked, and is the first to come back.

use std::sync::Arc;

use boot::boot_msrs;
use chipset::acpi::Cause;
use config::{CoreScheduling, plan};
use hv::cpuid::{self, Leaf, Model};
use hv::{Vcpu, Vm};

use crate::{Machine, ResizeError};

/// Makes the vCPUs of a machine, at boot and later.
pub(crate) struct CpuMaker {
    vm: Arc<dyn Vm>,
    /// What all of them show the guest, but for each one's own id.
    leaves: Vec<Leaf>,
    cpus: plan::Cpus,
}

impl CpuMaker {
    /// Of a host that shows the leaves `supported`; the guest sees `phys_bits` of addresses.
    pub(crate) fn new(vm: Arc<dyn Vm>, cpus: &plan::Cpus, supported: &[Leaf], phys_bits: u8) -> Self {
        let model = Model {
            topology: cpus.topology,
            phys_bits,
            nested: cpus.nested,
            hyperv: cpus.kvm_hyperv,
            tsc_khz: None,
        };
        Self { vm, leaves: cpuid::build(supported, &model), cpus: cpus.clone() }
    }

    /// What CPUID shows the guest, but for each vCPU's own id.
    pub(crate) fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// Shows the guest what a machine showed it before.
    pub(crate) fn show(&mut self, leaves: &[Leaf]) {
        self.leaves = leaves.to_vec();
    }

    /// The vCPU with this number, in its power-on state.
    pub(crate) fn make(&self, number: u32) -> Result<Box<dyn Vcpu>, hv::Error> {
        let topology = self.cpus.topology;
        let apic_id = topology.apic_id(number);
        let mut leaves = self.leaves.clone();
        cpuid::personalise(&mut leaves, topology, apic_id);
        let mut vcpu = self.vm.create_vcpu(apic_id, &leaves)?;
        vcpu.set_msrs(&boot_msrs())?;
        Ok(vcpu)
    }

    /// The host CPUs that it may run on, if not all.
    pub(crate) fn hosts(&self, number: u32) -> Option<&[usize]> {
        self.cpus.affinity.iter().find(|(vcpu, _)| *vcpu == number).map(|(_, hosts)| hosts.as_slice())
    }

    /// Who may share a core with the vCPUs.
    pub(crate) fn core_scheduling(&self) -> CoreScheduling {
        self.cpus.core_scheduling
    }
}

impl Machine {
    /// Gives the guest `wanted` vCPUs, at least one and as many as there may be. More come at once, and the guest finds them when it
    /// looks. Fewer are the guest's business: it is asked to let go of the last ones, and asked again if this is called again.
    ///
    /// # Errors
    /// [`ResizeError`].
    pub fn resize_vcpus(&mut self, wanted: u32) -> Result<(), ResizeError> {
        self.park_ejected();
        let (staying, are_leaving) = (self.cpu_slots.staying(), self.cpu_slots.are_leaving());
        if are_leaving && wanted != staying {
            return Err(ResizeError::Pending(staying));
        }
        if wanted > staying {
            self.bring_up(wanted).inspect_err(|_| self.park_ejected())?;
            self.cpu_slots.insert(wanted);
        } else if are_leaving || wanted < staying {
            self.cpu_slots.ask_to_leave(wanted);
        } else {
            return Ok(());
        }
        self.notifier.notify(Cause::Cpu);
        Ok(())
    }

    /// Has the first `count` vCPUs in use: they wait for the guest to start them.
    fn bring_up(&mut self, count: u32) -> Result<(), ResizeError> {
        for number in 0..count {
            if number < self.vcpus.count() {
                self.vcpus.take_into_use(number)?;
            } else {
                let vcpu = self.maker.make(number)?;
                self.vcpus.add(vcpu, self.maker.hosts(number)).map_err(ResizeError::Threads)?;
            }
        }
        if !self.paused {
            self.vcpus.run();
        }
        Ok(())
    }

    /// Parks the vCPUs that the guest does not have.
    pub(crate) fn park_ejected(&mut self) {
        self.vcpus.park_unless(|number| self.cpu_slots.is_present(number));
    }
}
