//! `vm.resize`: vCPUs, then RAM, then the balloon (`spec/rest-api.md` §4).
//!
//! The configuration is changed in a copy and checked as a whole before anything happens, so that a refused request has changed nothing
//! and every machine built later has what was asked for.

use api::{ApiError, Command};
use config::{Plan, VmResize};
use machine::Machine;

use crate::control::Vm;
use crate::verbs::Done;
use crate::{Control, blame};

impl Control {
    pub(crate) fn resize(&mut self, wanted: &VmResize) -> Done {
        if self.machine_is_absent() {
            return self.resize_at_rest(wanted);
        }
        self.tell("resizing");
        self.resize_running(wanted)?;
        self.publish();
        self.tell("resized");
        Ok(())
    }

    /// There is no machine: the next one is built from what is noted here.
    fn resize_at_rest(&mut self, wanted: &VmResize) -> Done {
        let Some(vm) = self.vm.as_mut() else { return Ok(()) };
        vm.plan = checked(&vm.plan, wanted)?;
        self.publish();
        Ok(())
    }

    fn resize_running(&mut self, wanted: &VmResize) -> Done {
        let Some(vm) = self.vm.as_mut() else { return Ok(()) };
        let missing = [(wanted.desired_ram.is_some(), "changing the RAM of a running VM")];
        if let Some((_, what)) = missing.into_iter().find(|(asked, _)| *asked) {
            return Err(Command::not_implemented(what));
        }
        checked(&vm.plan, wanted)?;
        if let Some(vcpus) = wanted.desired_vcpus {
            let part = VmResize { desired_vcpus: Some(vcpus), ..VmResize::default() };
            vm.change(&part, |machine| machine.resize_vcpus(vcpus).map_err(|e| blame::resize_failed(&e)))?;
        }
        if let Some(size) = wanted.desired_balloon {
            let part = VmResize { desired_balloon: Some(size), ..VmResize::default() };
            // What comes of it is the guest's business.
            vm.change(&part, |machine| {
                machine.set_balloon(size);
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Vm {
    /// Changes a part of the running machine, and notes it for those that will be built later.
    fn change(&mut self, part: &VmResize, act: impl FnOnce(&mut Machine) -> Done) -> Done {
        let plan = checked(&self.plan, part)?;
        if let Some(machine) = self.machine.as_mut() {
            act(machine)?;
        }
        self.plan = plan;
        Ok(())
    }
}

fn checked(plan: &Plan, wanted: &VmResize) -> Result<Plan, ApiError> {
    plan.check_resized(wanted).map_err(|problems| ApiError::from_problems(&problems))
}
