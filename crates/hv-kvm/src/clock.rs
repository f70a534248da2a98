//! The KVM clock. KVM reads it together with the host's real time, and sets it forward itself, where it can: nothing comes between
//! the two readings then.

use std::sync::Arc;

use hv::{ClockReading, Error, GuestClock};
use kvm_bindings::{KVM_CLOCK_REALTIME, kvm_clock_data};
use kvm_ioctls::{Cap, VmFd};

use crate::tsc::real_time;

pub(crate) struct KvmClock {
    fd: Arc<VmFd>,
    /// KVM takes the real time of a reading (Linux 5.16).
    pub(crate) sets_forward: bool,
}

impl KvmClock {
    /// The clock of a machine, if its KVM lets anybody read it.
    pub(crate) fn new(fd: &Arc<VmFd>) -> Option<Self> {
        let flags =
            u32::try_from(fd.check_extension_int(Cap::AdjustClock)).ok().filter(|flags| *flags != 0)?;
        Some(Self { fd: fd.clone(), sets_forward: flags & KVM_CLOCK_REALTIME != 0 })
    }
}

impl GuestClock for KvmClock {
    fn read(&self) -> Result<ClockReading, Error> {
        let data = self.fd.get_clock().map_err(|e| Error::operation("read the guest's clock", e))?;
        // KVM tells the real time only while the host itself runs on its time stamp counter.
        let host_ns = if data.flags & KVM_CLOCK_REALTIME != 0 { data.realtime } else { real_time() };
        Ok(ClockReading { guest_ns: data.clock, host_ns })
    }

    fn set(&self, reading: ClockReading) -> Result<(), Error> {
        let data = if self.sets_forward {
            let ClockReading { guest_ns: clock, host_ns: realtime } = reading;
            kvm_clock_data { clock, realtime, flags: KVM_CLOCK_REALTIME, ..kvm_clock_data::default() }
        } else {
            kvm_clock_data { clock: reading.at(real_time()), ..kvm_clock_data::default() }
        };
        self.fd.set_clock(&data).map_err(|e| Error::operation("set the guest's clock", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::machine;
    use config::plan::Zone;
    use hv::{Mapping, MappingKind, Vm};
    use memory::{Bytes, GuestAddress, GuestRam};

    const HOUR: u64 = 3_600_000_000_000;

    /// Clocks of fresh machines: as this host's KVM is, and as one that leaves the arithmetic to us.
    fn clocks() -> impl Iterator<Item = KvmClock> {
        let clock = |ours: bool| {
            let mut clock = KvmClock::new(&machine()?.fd)?;
            clock.sets_forward &= !ours;
            Some(clock)
        };
        [clock(false), clock(true)].into_iter().flatten()
    }

    #[test]
    fn a_clock_is_set_forward_by_the_real_time_that_passed() {
        for clock in clocks() {
            let before = clock.read().unwrap();
            clock.set(ClockReading { host_ns: before.host_ns - HOUR, ..before }).unwrap();
            let after = clock.read().unwrap();
            let jump = after.guest_ns - before.guest_ns;
            assert!((HOUR..HOUR + HOUR / 2).contains(&jump), "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_host_set_back_does_not_set_the_guest_back() {
        for clock in clocks() {
            let before = clock.read().unwrap();
            clock.set(ClockReading { host_ns: before.host_ns + HOUR, ..before }).unwrap();
            let after = clock.read().unwrap();
            assert!(
                (before.guest_ns..before.guest_ns + HOUR / 2).contains(&after.guest_ns),
                "{before:?} {after:?}"
            );
        }
    }

    /// Why the clock is set before the vCPUs' registers.
    #[test]
    fn the_guest_s_boot_time_goes_into_ram_as_the_clock_has_it() {
        const WALL_CLOCK: u32 = 0x4b56_4d00;
        const AT: u64 = 0x1000;
        const NANOS: u64 = 1_000_000_000;
        let Some(vm) = machine() else { return };
        let ram = GuestRam::allocate(&[Zone::new("z", 1 << 20)]).unwrap();
        let (_, memory) = ram.host_memory().remove(0);
        vm.map(Mapping { guest: 0, memory, kind: MappingKind::Ram }).unwrap();
        let mut vcpu = vm.create_vcpu(0, &[]).unwrap();
        let host_ns = real_time();
        vm.clock().unwrap().set(ClockReading { guest_ns: HOUR, host_ns }).unwrap();
        vcpu.set_msrs(&[(WALL_CLOCK, AT)]).unwrap();
        // A version, seconds and nanoseconds.
        let [_, seconds, _]: [u32; 3] = ram.map().read_obj(GuestAddress(AT)).unwrap();
        let booted = (host_ns - HOUR) / NANOS;
        assert!(u64::from(seconds).abs_diff(booted) < 60, "{seconds} {booted}");
    }

    #[test]
    fn a_reading_carries_the_host_s_real_time() {
        for clock in clocks() {
            let (from, reading, to) = (real_time(), clock.read().unwrap(), real_time());
            // Somebody may set the host's clock meanwhile, but hardly by an hour.
            assert!((from - HOUR..to + HOUR).contains(&reading.host_ns), "{reading:?}");
        }
    }
}
