//! A hypervisor for the tests of those above: its CPUs only wait, and keep the state they were given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use device::{Doorbells, Interrupt, Msi, MsiSource, MsiVector};

use crate::cpuid::Leaf;
use crate::{
    CpuState, Debugging, DirtyLog, EXIT_REASONS, Error, Exits, GuestClock, Hypervisor, IrqChip, Kicker,
    Mapping, RegionId, Registers, SystemRegisters, Vcpu, VcpuDebug, VcpuExit, VcpuIo, Vm,
};

/// Makes machines of [`FakeVm`]'s kind.
#[derive(Clone, Debug, Default)]
pub struct FakeHypervisor {
    /// What all its machines share.
    pub memory: Arc<FakeMemory>,
    /// What waits in the local APICs of all its machines.
    pub interrupts: Interrupts,
    /// How many vCPUs its machines may make from now on, all together; no limit if negative.
    pub vcpus_left: VcpusLeft,
}

/// Counts down with each vCPU.
#[derive(Clone, Debug)]
pub struct VcpusLeft(Arc<AtomicI64>);

impl Default for VcpusLeft {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(-1)))
    }
}

impl VcpusLeft {
    /// Sets the number, or takes the limit away.
    pub fn set(&self, count: i64) {
        self.0.store(count, Ordering::SeqCst);
    }

    fn take(&self) -> bool {
        let one_less = |left: i64| (left > 0).then(|| left - 1);
        self.0.load(Ordering::SeqCst) < 0
            || self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    }
}

/// Messages that have arrived. They are gone when a CPU gets another state, and its local APIC with it.
pub type Interrupts = Arc<Mutex<Vec<Msi>>>;

/// What of memory a fake machine was given.
#[derive(Debug, Default)]
pub struct FakeMemory {
    mapped: Mutex<BTreeMap<u32, u64>>,
    refuses: AtomicBool,
}

impl FakeMemory {
    /// First addresses of what is mapped.
    pub fn mapped(&self) -> Vec<u64> {
        let mut starts: Vec<u64> = self.lock().values().copied().collect();
        starts.sort_unstable();
        starts
    }

    /// Whether changes are refused from now on.
    pub fn refuse(&self, on: bool) {
        self.refuses.store(on, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, u64>> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<u32, u64>) -> T) -> Result<T, Error> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(Error::operation("change memory, as it was told", std::io::ErrorKind::Other));
        }
        Ok(change(&mut self.lock()))
    }
}

impl Hypervisor for FakeHypervisor {
    fn supported_cpuid(&self) -> Result<Vec<Leaf>, Error> {
        Ok(vec![Leaf { function: 0x8000_0008, index: None, eax: 46, ebx: 0, ecx: 0, edx: 0 }])
    }

    fn max_vcpus(&self) -> u32 {
        4
    }

    fn create_vm(&self) -> Result<Arc<dyn Vm>, Error> {
        Ok(Arc::new(FakeVm {
            memory: self.memory.clone(),
            interrupts: self.interrupts.clone(),
            vcpus_left: self.vcpus_left.clone(),
            apic_ids: Mutex::default(),
        }))
    }
}

struct FakeVm {
    memory: Arc<FakeMemory>,
    interrupts: Interrupts,
    vcpus_left: VcpusLeft,
    /// Of the vCPUs made so far.
    apic_ids: Mutex<BTreeSet<u32>>,
}

impl Vm for FakeVm {
    fn map(&self, mapping: Mapping) -> Result<RegionId, Error> {
        self.memory.change(|mapped| {
            let id = (0..).find(|id| !mapped.contains_key(id)).unwrap_or_default();
            mapped.insert(id, mapping.guest);
            RegionId(id)
        })
    }

    fn unmap(&self, id: RegionId) -> Result<(), Error> {
        self.memory.change(|mapped| {
            mapped.remove(&id.0);
        })
    }

    fn create_vcpu(&self, apic_id: u32, _: &[Leaf]) -> Result<Box<dyn Vcpu>, Error> {
        let is_new = self.apic_ids.lock().unwrap_or_else(PoisonError::into_inner).insert(apic_id);
        if !is_new {
            return Err(Error::operation("make the same vCPU twice", std::io::ErrorKind::AlreadyExists));
        }
        if !self.vcpus_left.take() {
            return Err(Error::operation("make a vCPU, as it was told", std::io::ErrorKind::Other));
        }
        let (state, interrupts) = (CpuState::default(), self.interrupts.clone());
        Ok(Box::new(FakeVcpu { kicked: Arc::default(), state, interrupts, debugging: None }))
    }

    fn irqchip(&self) -> Arc<dyn IrqChip> {
        Arc::new(FakeIrqChip(self.interrupts.clone()))
    }

    fn doorbells(&self) -> Option<Arc<dyn Doorbells>> {
        None
    }

    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        Some(self)
    }

    fn clock(&self) -> Option<&dyn GuestClock> {
        None
    }
}

/// A guest whose CPUs only wait writes nothing.
impl DirtyLog for FakeVm {
    fn start(&self) -> Result<(), Error> {
        Ok(())
    }

    fn stop(&self) -> Result<(), Error> {
        Ok(())
    }

    fn take(&self, _: RegionId) -> Result<Vec<u64>, Error> {
        Ok(Vec::new())
    }
}

struct FakeIrqChip(Interrupts);

impl IrqChip for FakeIrqChip {
    fn send(&self, msi: Msi) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(msi);
    }

    fn watch_level_pin(&self, _: u8, _: Option<Msi>) {}
}

impl MsiSource for FakeIrqChip {
    fn vector(&self) -> Box<dyn MsiVector> {
        Box::new(FakeVector)
    }
}

struct FakeVector;

impl Interrupt for FakeVector {
    fn fire(&self) {}
}

impl MsiVector for FakeVector {
    fn unmask(&self, _: Msi) {}
    fn mask(&self) {}
}

type Kicked = Arc<(Mutex<bool>, Condvar)>;

/// Runs until it is kicked, or does at once what a debugger asked for.
struct FakeVcpu {
    kicked: Kicked,
    state: CpuState,
    interrupts: Interrupts,
    debugging: Option<Debugging>,
}

impl FakeVcpu {
    /// Where the next step leads, or which breakpoint comes next: all instructions have one byte.
    fn next_stop(&self) -> Option<u64> {
        let (wanted, rip) = (self.debugging.as_ref()?, self.state.registers.rip);
        if wanted.step {
            return Some(rip + 1);
        }
        let all = wanted.hardware.iter().flatten().chain(wanted.software.iter());
        all.copied().filter(|address| *address > rip).min()
    }
}

impl VcpuDebug for FakeVcpu {
    fn set(&mut self, wanted: Option<&Debugging>) -> Result<(), Error> {
        self.debugging = wanted.cloned();
        Ok(())
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), Error> {
        self.state.registers = *registers;
        Ok(())
    }
}

impl Vcpu for FakeVcpu {
    fn run(&mut self, _: &dyn VcpuIo) -> Result<VcpuExit, Error> {
        let (kicked, changed) = &*self.kicked;
        let kicked = kicked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = self.next_stop().filter(|_| !*kicked) {
            self.state.registers.rip = stop;
            return Ok(VcpuExit::Debug);
        }
        let mut kicked =
            changed.wait_while(kicked, |kicked| !*kicked).unwrap_or_else(PoisonError::into_inner);
        *kicked = false;
        Ok(VcpuExit::Stopped)
    }

    fn exits(&self) -> Arc<Exits> {
        Arc::new(Exits::new(&EXIT_REASONS))
    }

    fn kicker(&self) -> Box<dyn Kicker> {
        Box::new(FakeKicker(self.kicked.clone()))
    }

    fn inject_nmi(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        Ok(self.state.clone())
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        self.state = state.clone();
        self.interrupts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Error> {
        self.state = CpuState::default();
        Ok(())
    }

    fn set_boot_registers(&mut self, registers: &Registers, system: &SystemRegisters) -> Result<(), Error> {
        (self.state.registers, self.state.system) = (*registers, *system);
        Ok(())
    }

    fn set_msrs(&mut self, _: &[(u32, u64)]) -> Result<(), Error> {
        Ok(())
    }

    fn system_registers(&mut self) -> Result<SystemRegisters, Error> {
        Ok(SystemRegisters::default())
    }

    fn debug(&mut self) -> Option<&mut dyn VcpuDebug> {
        Some(self)
    }
}

struct FakeKicker(Kicked);

impl Kicker for FakeKicker {
    fn kick(&self) {
        let (kicked, changed) = &*self.0;
        *kicked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}
