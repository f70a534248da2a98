//! Landlock for a VM: from its creation on, the control thread and the threads it starts use the VM's files only (`spec/lifecycle.md` §12).
//! This lasts as long as the process: a second VM gets what both configurations name.

use api::{ApiError, Code};
use config::Plan;
use sandbox::{Confinement, FilesError};

use crate::Control;

impl Control {
    /// Confines this thread, if the plan asks for it. Its consoles are open, and the hypervisor and the list of this process's pages are
    /// opened here: no rule names them.
    pub(crate) fn confine(&mut self, plan: &Plan) -> Result<(), ApiError> {
        let Some(grants) = plan.grants() else { return Ok(()) };
        // The same once more changes nothing, and the kernel counts how often a thread is confined.
        if self.confined.contains(&grants) {
            return Ok(());
        }
        self.hypervisor()?;
        memory::open_pagemap();
        let confined = Confinement::new(&grants).and_then(Confinement::enter);
        confined.map_err(|e| refused(&e).within("Failed to apply landlock config during vm_create"))?;
        self.confined.push(grants);
        Ok(())
    }
}

fn refused(error: &FilesError) -> ApiError {
    let code = match error {
        FilesError::Path { .. } | FilesError::Rule { .. } => Code::InvalidConfig,
        // What earlier VMs left behind.
        FilesError::Apply(_) => Code::IllegalState,
        FilesError::Unsupported(_) => Code::Internal,
    };
    ApiError::from_error(code, error)
}
