//! `vm.resize`: vCPUs, then RAM, then the balloon (`spec/rest-api.md` §4).
//!
//! The configuration is changed in a copy and checked as a whole before anything happens, so that a refused request has changed nothing
//! and every machine built later has what was asked for.

use api::{ApiError, Command};
use config::VmResize;

use crate::Control;
use crate::verbs::Done;

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
        vm.plan = vm.plan.check_resized(wanted).map_err(|problems| ApiError::from_problems(&problems))?;
        self.publish();
        Ok(())
    }

    fn resize_running(&mut self, wanted: &VmResize) -> Done {
        let missing = [
            (wanted.desired_vcpus.is_some(), "changing the vCPUs of a running VM"),
            (wanted.desired_ram.is_some(), "changing the RAM of a running VM"),
        ];
        if let Some((_, what)) = missing.into_iter().find(|(asked, _)| *asked) {
            return Err(Command::not_implemented(what));
        }
        self.resize_balloon(wanted.desired_balloon)
    }

    /// Asks the guest for memory, or lets it have some back. What comes of it is the guest's business.
    fn resize_balloon(&mut self, size: Option<u64>) -> Done {
        let (Some(vm), Some(size)) = (self.vm.as_mut(), size) else { return Ok(()) };
        let wanted = VmResize { desired_balloon: Some(size), ..VmResize::default() };
        vm.plan = vm.plan.check_resized(&wanted).map_err(|problems| ApiError::from_problems(&problems))?;
        if let Some(machine) = &vm.machine {
            machine.set_balloon(size);
        }
        Ok(())
    }
}
