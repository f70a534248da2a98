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
            (wanted.desired_balloon.is_some(), "changing the balloon of a running VM"),
        ];
        match missing.into_iter().find(|(asked, _)| *asked) {
            Some((_, what)) => Err(Command::not_implemented(what)),
            None => Ok(()),
        }
    }
}
