//! Core scheduling: whose threads may run on the other hardware thread of a vCPU's core (`prctl(2)`, `PR_SCHED_CORE`;
//! `spec/devices2.md` §17). Threads with the same cookie may.

use config::CoreScheduling;
use libc::SYS_prctl;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{
    CoreSchedulingScope, core_scheduling_cookie, create_core_scheduling_cookie, gettid,
    pull_core_scheduling_cookie,
};
use sandbox::call::{Call, equal};

/// What a thread asks for to get its cookie.
pub(super) const COOKIE: &[Call] = &[equal(SYS_prctl, 0, libc::PR_SCHED_CORE)];

/// Whom the next vCPU's thread shares its core with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbours {
    /// Any thread.
    Any,
    /// None, or those that will have its cookie later.
    None,
    /// Those with the cookie of this thread.
    Of(Pid),
}

impl Neighbours {
    /// Of the first vCPU.
    pub(super) fn first(wanted: CoreScheduling) -> Self {
        match wanted {
            CoreScheduling::Off => Self::Any,
            CoreScheduling::Vm | CoreScheduling::Vcpu => Self::None,
        }
    }

    /// Those of the next vCPU, after one whose thread has a cookie or not.
    pub(super) fn next(self, wanted: CoreScheduling, claimed: Option<Pid>) -> Self {
        match (wanted, claimed) {
            (CoreScheduling::Vm, Some(thread)) => Self::Of(thread),
            _ => self,
        }
    }

    /// Gets the calling thread, that of vCPU `number`, its cookie. The thread comes out if it has one now: a host without hardware threads
    /// or with an old kernel gives none.
    pub(super) fn claim(self, number: usize) -> Result<Option<Pid>, Errno> {
        let (me, scope) = (gettid(), CoreSchedulingScope::Thread);
        let claimed = match self {
            Self::Any => return Ok(None),
            Self::None => create_core_scheduling_cookie(me, scope),
            Self::Of(thread) => pull_core_scheduling_cookie(thread, scope),
        };
        match claimed {
            Ok(()) => {
                let cookie = core_scheduling_cookie(me, scope)?;
                tracing::info!("vCPU {number} is scheduled on cores with cookie {cookie:#x}");
                Ok(Some(me))
            }
            // No two threads share a core here.
            Err(Errno::NODEV) => Ok(None),
            Err(Errno::INVAL) => {
                if number == 0 {
                    tracing::warn!(
                        "This kernel has no core scheduling: other threads of the host may share a core with vCPUs"
                    );
                }
                Ok(None)
            }
            Err(refusal) => Err(refusal),
        }
    }
}
