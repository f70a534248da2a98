//! `vm.resize`: vCPUs, then RAM, then the balloon; `vm.resize-zone` (`spec/rest-api.md` §4).
//!
//! The configuration is changed in a copy and checked as a whole before anything happens, so that a refused request has changed nothing
//! and every machine built later has what was asked for.

use api::ApiError;
use config::{Plan, Problems, VmResize, VmResizeZone};

use crate::control::Vm;
use crate::verbs::Done;
use crate::{Control, blame};

impl Control {
    pub(crate) fn resize(&mut self, wanted: &VmResize) -> Done {
        if self.machine_is_absent() {
            return self.resize_at_rest(wanted);
        }
        self.tell("resizing");
        let resized = self.resize_running(wanted);
        // Parts that came before one that failed have changed.
        self.publish();
        resized?;
        self.tell("resized");
        Ok(())
    }

    /// There is no machine: the next one is built from what is noted here.
    fn resize_at_rest(&mut self, wanted: &VmResize) -> Done {
        let Some(vm) = self.vm.as_mut() else { return Ok(()) };
        vm.plan = vm.plan.check_resized(wanted).map_err(refused)?;
        self.publish();
        Ok(())
    }

    fn resize_running(&mut self, wanted: &VmResize) -> Done {
        let Some(vm) = self.vm.as_mut() else { return Ok(()) };
        let parts = [
            VmResize { desired_vcpus: wanted.desired_vcpus, ..VmResize::default() },
            VmResize { desired_ram: wanted.desired_ram, ..VmResize::default() },
            VmResize { desired_balloon: wanted.desired_balloon, ..VmResize::default() },
        ];
        let plan = vm.plan.check_resized_running(wanted).map_err(refused)?;
        if let Some(machine) = vm.machine.as_ref().filter(|_| wanted.desired_ram.is_some()) {
            machine.check_ram(&plan).map_err(|e| blame::grow_failed(&e))?;
        }
        for part in parts.into_iter().filter(|part| *part != VmResize::default()) {
            let plan = vm.plan.check_resized_running(&part).map_err(refused)?;
            vm.change(plan, &part)?;
        }
        Ok(())
    }

    /// `vm.resize-zone`: without a machine, what the zone begins with; with one, what is plugged beyond that.
    pub(crate) fn resize_zone(&mut self, wanted: &VmResizeZone) -> Done {
        let Some(vm) = self.vm.as_mut() else { return Ok(()) };
        if vm.machine.is_none() {
            vm.plan = vm.plan.check_zone_resized(wanted).map_err(refused)?;
        } else {
            let plan = vm.plan.check_zone_resized_running(wanted).map_err(refused)?;
            vm.change(plan, &VmResize { desired_ram: Some(wanted.desired_ram), ..VmResize::default() })?;
        }
        self.publish();
        Ok(())
    }
}

impl Vm {
    /// Changes a part of the running machine to what `plan` says, and keeps the plan for machines that will be built later.
    fn change(&mut self, plan: Plan, part: &VmResize) -> Done {
        if let Some(machine) = self.machine.as_mut() {
            if let Some(vcpus) = part.desired_vcpus {
                machine.resize_vcpus(vcpus).map_err(|e| blame::resize_failed(&e))?;
            }
            if part.desired_ram.is_some() {
                machine.resize_ram(&plan).map_err(|e| blame::grow_failed(&e))?;
            }
            // What comes of it is the guest's business.
            if let Some(size) = part.desired_balloon {
                machine.set_balloon(size);
            }
        }
        self.plan = plan;
        Ok(())
    }
}

fn refused(problems: Problems) -> ApiError {
    ApiError::from_problems(&problems)
}
