//! Time stamp counters: reading them beside the host's real time, and having them go on after a save.
//!
//! KVM adds an offset to the host's counter, which it scales first where the guest's has another rate. What a guest sees is right if the first
//! vCPU's offset is; that those of the others agree with it to the tick is what makes it a counter of the whole machine. KVM
//! itself sees to that for counters that are written as MSRs: a value less than a second from what it expects gets the last one's
//! offset. So does this module, but from the offsets as they were, so that counters which a guest has set apart stay so. A
//! kernel that does not tell offsets (before Linux 5.16), and a state that comes from one, go the MSR's way.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use hv::{Error, TscReading};
use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::convert::msrs;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// IA32_TIME_STAMP_COUNTER.
pub(crate) const MSR: u32 = 0x10;

/// How often a counter is read for the sake of one reading in which nobody interrupts.
const TRIES: usize = 3;

/// What the counters of a machine's vCPUs have in common since a state was put in.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Agreement>);

#[derive(Clone, Copy, Debug, Default)]
struct Agreement {
    /// Their rate, in kHz; `None`: the host's.
    khz: Option<u32>,
    /// By how much more than the offset it had been saved with the last one got, modulo 2^64.
    shift: Option<u64>,
}

impl Counters {
    /// Gives a vCPU the others' rate and counter, if those came out of a state.
    pub(crate) fn join(&self, fd: &VcpuFd) -> Result<(), Error> {
        let Some(khz) = self.agreement(|agreed| agreed.khz) else { return Ok(()) };
        set_rate(fd, khz)?;
        // KVM takes a zero for the wish to go with the others.
        msrs::write(fd, [(MSR, 0)])
    }

    /// Puts a counter in as it is now, if it stood as `saved` says.
    pub(crate) fn go_on(&self, fd: &VcpuFd, saved: &TscReading) -> Result<(), Error> {
        set_rate(fd, saved.khz)?;
        self.agreement(|agreed| agreed.khz = Some(saved.khz));
        let now = read(fd).ok_or_else(|| Error::operation("read a vCPU's TSC", std::io::ErrorKind::Other))?;
        let wanted = saved.at(now.host_ns);
        match (saved.offset, now.offset) {
            (Some(saved_offset), Some(offset)) => {
                let offset = offset.wrapping_add(wanted.wrapping_sub(now.ticks));
                set_offset(fd, self.agree(saved_offset, offset, saved.khz))?;
            }
            _ => msrs::write(fd, [(MSR, wanted)])?,
        }
        if read(fd).is_some_and(|now| !is_within_a_second(now.ticks, saved.at(now.host_ns), saved.khz)) {
            // A KVM that gives guests the host's own counter takes any value and does nothing.
            tracing::warn!(
                "This KVM cannot move a guest's TSC: a guest that counts time by it has a wrong clock"
            );
        }
        Ok(())
    }

    /// The offset of a counter that was saved with the offset `saved` and would get `measured`: the distance to those before it is kept if it
    /// explains the measurement to a second.
    fn agree(&self, saved: u64, measured: u64, khz: u32) -> u64 {
        let own = measured.wrapping_sub(saved);
        let is_near = |shift: &u64| is_within_a_second(own, *shift, khz);
        saved.wrapping_add(self.agreement(|agreed| {
            let shift = agreed.shift.filter(is_near).unwrap_or(own);
            agreed.shift = Some(shift);
            shift
        }))
    }

    fn agreement<T>(&self, change: impl FnOnce(&mut Agreement) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn is_within_a_second(one: u64, other: u64, khz: u32) -> bool {
    const HERTZ_PER_KHZ: u64 = 1000;
    one.wrapping_sub(other).cast_signed().unsigned_abs() < u64::from(khz) * HERTZ_PER_KHZ
}

/// The host's real time.
pub(crate) fn real_time() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads a counter; `None`: KVM does not tell its rate, or does not let it be read.
pub(crate) fn read(fd: &VcpuFd) -> Option<TscReading> {
    let khz = fd.get_tsc_khz().ok().filter(|khz| *khz > 0)?;
    let reading = || {
        let (before, ticks, after) = (real_time(), msrs::read_one(fd, MSR)?, real_time());
        Some((after.saturating_sub(before), before, ticks))
    };
    // The shortest is the one that was held up least.
    let (lasted, before, ticks) = (0..TRIES).filter_map(|_| reading()).min()?;
    Some(TscReading { ticks, host_ns: before.saturating_add(lasted / 2), khz, offset: offset(fd) })
}

fn set_rate(fd: &VcpuFd, khz: u32) -> Result<(), Error> {
    // A host that cannot scale keeps its own rate; it refuses only a rate too far off.
    fd.set_tsc_khz(khz).map_err(|e| Error::operation("set a vCPU's TSC rate", e))
}

fn attribute(value: *const u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: value.expose_provenance() as u64,
        ..kvm_device_attr::default()
    }
}

fn offset(fd: &VcpuFd) -> Option<u64> {
    let mut value = 0u64;
    let attribute = attribute(&raw mut value);
    // SAFETY: KVM writes the eight bytes at the attribute's address, which are `value`'s, and reads the attribute.
    let answer = unsafe { ioctl_with_ref(fd, KVM_GET_DEVICE_ATTR(), &attribute) };
    (answer == 0).then_some(value)
}

fn set_offset(fd: &VcpuFd, value: u64) -> Result<(), Error> {
    let attribute = attribute(&raw const value);
    // SAFETY: KVM reads the attribute, and the eight bytes at its address, which are `value`'s.
    let answer = unsafe { ioctl_with_ref(fd, KVM_SET_DEVICE_ATTR(), &attribute) };
    match answer {
        0 => Ok(()),
        _ => Err(Error::operation("set a vCPU's TSC", std::io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests;
