//! A hypervisor whose CPUs only wait, a kernel it could load, and a control loop around them.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::JoinHandle;

use api::{Answer, ApiError, Client, EventLog, Outcome, Verb, VmmPing};
use device::{Doorbells, EventSink, Events, Interrupt, Msi, MsiSource, MsiVector, Record};
use host::signals::Signals;
use hv::cpuid::Leaf;
use hv::{
    CpuState, DirtyLog, EXIT_REASONS, Error, Exits, GuestClock, Hypervisor, IrqChip, Kicker, RegionId,
    Registers, SystemRegisters, Vcpu, VcpuExit, VcpuIo, Vm,
};

use crate::{Control, Ended, Options, Published};

pub(super) struct FakeHypervisor;

impl Hypervisor for FakeHypervisor {
    fn supported_cpuid(&self) -> Result<Vec<Leaf>, Error> {
        Ok(vec![Leaf { function: 0x8000_0008, index: None, eax: 46, ebx: 0, ecx: 0, edx: 0 }])
    }

    fn max_vcpus(&self) -> u32 {
        4
    }

    fn create_vm(&self) -> Result<Arc<dyn Vm>, Error> {
        Ok(Arc::new(FakeVm))
    }
}

struct FakeVm;

impl Vm for FakeVm {
    fn map(&self, _: hv::Mapping) -> Result<RegionId, Error> {
        Ok(RegionId(0))
    }

    fn unmap(&self, _: RegionId) -> Result<(), Error> {
        Ok(())
    }

    fn create_vcpu(&self, _: u32, _: &[Leaf]) -> Result<Box<dyn Vcpu>, Error> {
        Ok(Box::new(FakeVcpu(Arc::default())))
    }

    fn irqchip(&self) -> Arc<dyn IrqChip> {
        Arc::new(FakeIrqChip)
    }

    fn doorbells(&self) -> Option<Arc<dyn Doorbells>> {
        None
    }

    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        None
    }

    fn clock(&self) -> Option<&dyn GuestClock> {
        None
    }
}

struct FakeIrqChip;

impl IrqChip for FakeIrqChip {
    fn send(&self, _: Msi) {}
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

/// Runs until it is kicked.
struct FakeVcpu(Kicked);

impl Vcpu for FakeVcpu {
    fn run(&mut self, _: &dyn VcpuIo) -> Result<VcpuExit, Error> {
        let (kicked, changed) = &*self.0;
        let mut kicked = changed.wait_while(kicked.lock().unwrap(), |kicked| !*kicked).unwrap();
        *kicked = false;
        Ok(VcpuExit::Stopped)
    }

    fn exits(&self) -> Arc<Exits> {
        Arc::new(Exits::new(&EXIT_REASONS))
    }

    fn kicker(&self) -> Box<dyn Kicker> {
        Box::new(FakeKicker(self.0.clone()))
    }

    fn inject_nmi(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        Ok(CpuState::default())
    }

    fn set_state(&mut self, _: &CpuState) -> Result<(), Error> {
        Ok(())
    }

    fn set_boot_registers(&mut self, _: &Registers, _: &SystemRegisters) -> Result<(), Error> {
        Ok(())
    }

    fn set_msrs(&mut self, _: &[(u32, u64)]) -> Result<(), Error> {
        Ok(())
    }

    fn system_registers(&mut self) -> Result<SystemRegisters, Error> {
        Ok(SystemRegisters::default())
    }
}

struct FakeKicker(Kicked);

impl Kicker for FakeKicker {
    fn kick(&self) {
        let (kicked, changed) = &*self.0;
        *kicked.lock().unwrap() = true;
        changed.notify_all();
    }
}

/// An ELF file with a PVH entry and nothing else.
pub(super) fn kernel() -> tempfile::NamedTempFile {
    const NOTE_AT: u64 = 64 + 2 * 56;
    const NOTE: [u8; 20] = [4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0, 0, 0x10, 0];
    let header = |kind: u32, at: u64, address: u64, len: u64| -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(5u32.to_le_bytes());
        [at, address, address, len, len, 4].iter().for_each(|field| bytes.extend(field.to_le_bytes()));
        bytes
    };
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0];
    [0x10_0000u64, 64, 0].iter().for_each(|field| elf.extend(field.to_le_bytes()));
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    elf.extend(header(1, 0, 0x10_0000, NOTE_AT + NOTE.len() as u64));
    elf.extend(header(4, NOTE_AT, 0, NOTE.len() as u64));
    elf.extend(NOTE);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&elf).unwrap();
    file
}

/// Remembers the names of records: `source/event`.
#[derive(Default)]
struct Names(Mutex<Vec<String>>);

impl EventSink for Names {
    fn record(&self, record: Record) {
        self.0.lock().unwrap().push(format!("{}/{}", record.source, record.event));
    }
}

/// A control loop on a thread of its own.
pub(super) struct Rig {
    pub(super) client: Client,
    pub(super) events: Events,
    names: Arc<Names>,
    thread: Option<JoinHandle<Result<(), Ended>>>,
}

impl Rig {
    pub(super) fn new(options: Options) -> Self {
        Self::opening(options, || Ok(Arc::new(FakeHypervisor)))
    }

    /// With a hypervisor that is opened by `open`, on the loop's thread.
    pub(super) fn opening(
        options: Options,
        open: impl Fn() -> Result<Arc<dyn Hypervisor>, Error> + Send + 'static,
    ) -> Self {
        let ping =
            VmmPing { build_version: String::new(), version: String::new(), pid: 1, features: Vec::new() };
        let published = Published::new(ping, EventLog::new());
        let (client, inbox) = api::channel(published.clone()).unwrap();
        let names = Arc::new(Names::default());
        let events = Events::new(names.clone()).unwrap();
        let mine = events.clone();
        let thread = std::thread::spawn(move || {
            let control = Control::new(inbox, mine, published, Box::new(open), options);
            control.run(&Signals::take().unwrap())
        });
        Self { client, events, names, thread: Some(thread) }
    }

    /// Calls a verb as a door does.
    pub(super) fn call(&self, verb: &str, body: &str) -> Result<Answer, ApiError> {
        self.start(verb, body).recv().unwrap()
    }

    /// As [`Rig::call`], without waiting.
    pub(super) fn start(&self, verb: &str, body: &str) -> mpsc::Receiver<Result<Answer, ApiError>> {
        let (sender, outcome) = mpsc::channel();
        let done = move |outcome: Outcome| sender.send(outcome.result).unwrap();
        Verb::find(verb).unwrap().call(&self.client, body.as_bytes(), done);
        outcome
    }

    pub(super) fn ok(&self, verb: &str, body: &str) {
        self.call(verb, body).unwrap_or_else(|e| panic!("{verb}: {e}"));
    }

    /// What `vm.info` says of the state, or nothing without a VM.
    pub(super) fn state(&self) -> Option<api::VmState> {
        self.client.reads().vm_info().ok().map(|info| info.state)
    }

    pub(super) fn wait_for(&self, what: impl Fn(&Self) -> bool) {
        while !what(self) {
            std::thread::yield_now();
        }
    }

    pub(super) fn records(&self) -> Vec<String> {
        self.names.0.lock().unwrap().clone()
    }

    /// Waits for the loop to end by itself.
    pub(super) fn join(&mut self) -> Result<(), Ended> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            drop(self.call("vmm.shutdown", ""));
            drop(thread.join());
        }
    }
}
