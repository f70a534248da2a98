use super::*;
use device::NoSink;
use hv::{EXIT_REASONS, Kicker, Registers, SystemRegisters, VcpuExit};
use std::sync::{Condvar, Mutex};

/// What a vCPU does until it is kicked, and whether a kick helps.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut open = self.0.1.wait_while(self.0.0.lock().unwrap(), |open| !*open).unwrap();
        *open = false;
    }
}

impl Kicker for Gate {
    fn kick(&self) {
        self.open();
    }
}

struct Deaf;

impl Kicker for Deaf {
    fn kick(&self) {}
}

struct FakeVcpu {
    number: usize,
    gate: Gate,
    hears: bool,
    /// Told its number each time it is reset.
    reset: Sender<usize>,
    /// Told its number each time it runs.
    entered: Sender<usize>,
    /// Shows whether the vCPU is gone.
    _life: Arc<()>,
}

impl Vcpu for FakeVcpu {
    fn run(&mut self, _: &dyn VcpuIo) -> Result<VcpuExit, Error> {
        let _ = self.entered.send(self.number);
        self.gate.pass();
        Ok(VcpuExit::Stopped)
    }

    fn exits(&self) -> Arc<Exits> {
        Arc::new(Exits::new(&EXIT_REASONS))
    }

    fn kicker(&self) -> Box<dyn Kicker> {
        if self.hears { Box::new(self.gate.clone()) } else { Box::new(Deaf) }
    }

    fn inject_nmi(&mut self) -> Result<(), Error> {
        Err(Error::Stuck("no NMIs here".into()))
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        Ok(CpuState::default())
    }

    fn set_state(&mut self, _: &CpuState) -> Result<(), Error> {
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Error> {
        let _ = self.reset.send(self.number);
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

struct NoIo;

impl VcpuIo for NoIo {
    fn pio_read(&self, _: u16, _: &mut [u8]) {}
    fn pio_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: u64, _: &mut [u8]) {}
    fn mmio_write(&self, _: u64, _: &[u8]) {}
    fn end_of_interrupt(&self, _: u8) {}
}

struct Rig {
    vcpus: Vcpus,
    gates: Vec<Gate>,
    entered: Receiver<usize>,
    reset: Receiver<usize>,
    life: Arc<()>,
}

/// One vCPU for each of `hear`, which says whether it hears kicks.
fn rig(hear: &[bool]) -> Rig {
    let (enter, entered) = mpsc::channel();
    let (tell_reset, reset) = mpsc::channel();
    let life = Arc::new(());
    let mut vcpus = Vcpus::new(Arc::new(NoIo), Events::new(Arc::new(NoSink)).unwrap(), CoreScheduling::Vm);
    let mut gates = Vec::new();
    for (number, &hears) in hear.iter().enumerate() {
        let gate = Gate::default();
        gates.push(gate.clone());
        let (entered, reset) = (enter.clone(), tell_reset.clone());
        let vcpu = FakeVcpu { number, gate, hears, reset, entered, _life: life.clone() };
        vcpus.add(Box::new(vcpu), None).unwrap();
    }
    Rig { vcpus, gates, entered, reset, life }
}

/// Waits until vCPU `number` runs. Others may have come and gone meanwhile: posting mail kicks.
fn await_run(entered: &Receiver<usize>, number: usize) {
    while entered.recv().unwrap() != number {}
}

#[test]
fn all_are_held_saved_and_ended() {
    let Rig { vcpus, entered, life, .. } = rig(&[true, true]);
    vcpus.run();
    await_run(&entered, 0);
    vcpus.pause().unwrap();
    assert_eq!(vcpus.save().unwrap(), [(0, CpuState::default()), (1, CpuState::default())].into());
    drop(vcpus);
    assert_eq!(Arc::strong_count(&life), 1, "a thread is left");
}

#[test]
fn a_refusal_names_the_vcpu() {
    let Rig { vcpus, .. } = rig(&[true, true]);
    assert!(matches!(vcpus.nmi(), Err(VcpuError::Hypervisor { vcpu: 0, .. })));
}

#[test]
fn one_that_does_not_come_back_is_named_and_holds_up_nobody() {
    let Rig { mut vcpus, gates, entered, life, .. } = rig(&[true, false]);
    vcpus.patience = Duration::from_millis(1);
    vcpus.run();
    await_run(&entered, 1);
    // The first may be slow as well, with so little patience.
    let error = vcpus.pause().unwrap_err();
    assert!(matches!(error, VcpuError::Silent { .. }), "{error}");
    let error = std::iter::repeat_with(|| vcpus.pause()).find_map(|answer| match answer {
        Err(VcpuError::Silent { vcpu: 0, .. }) => None,
        other => Some(other.unwrap_err()),
    });
    assert!(error.unwrap().to_string().starts_with("Thread vcpu1 does not answer"));
    drop(vcpus);
    // It has the vCPU still, and ends as soon as it comes back.
    assert!(Arc::strong_count(&life) > 1);
    gates[1].open();
    while Arc::strong_count(&life) > 1 {
        std::thread::yield_now();
    }
}

#[test]
fn a_thread_that_is_gone_is_an_error() {
    let Rig { vcpus, .. } = rig(&[true]);
    vcpus.threads[0].post.send(Mail::Exit);
    assert!(matches!(vcpus.pause(), Err(VcpuError::Ended(0))));
}

#[test]
fn a_parked_vcpu_is_fresh_and_out_of_it_until_it_is_used_again() {
    let Rig { mut vcpus, entered, reset, .. } = rig(&[true, true]);
    vcpus.run();
    await_run(&entered, 1);
    vcpus.park_unless(|number| number == 0);
    assert_eq!(reset.recv().unwrap(), 1);
    vcpus.park_unless(|number| number == 0);
    vcpus.pause().unwrap();
    assert_eq!(vcpus.save().unwrap().into_keys().collect::<Vec<_>>(), [0]);
    // It holds: all of its runs were before.
    entered.try_iter().for_each(drop);
    vcpus.run();
    await_run(&entered, 0);
    vcpus.pause().unwrap();
    assert!(entered.try_iter().all(|number| number == 0));
    vcpus.take_into_use(0).unwrap();
    vcpus.take_into_use(1).unwrap();
    assert_eq!((reset.recv().unwrap(), reset.try_recv().is_err()), (1, true));
    assert_eq!((vcpus.count(), vcpus.save().unwrap().len()), (2, 2));
    vcpus.run();
    await_run(&entered, 1);
}

#[test]
fn a_parked_vcpu_that_does_not_come_back_is_not_used_again() {
    let Rig { mut vcpus, gates, entered, .. } = rig(&[true, false]);
    vcpus.patience = Duration::from_millis(1);
    vcpus.run();
    await_run(&entered, 1);
    vcpus.park_unless(|number| number == 0);
    assert!(matches!(vcpus.take_into_use(1), Err(VcpuError::Silent { vcpu: 1, .. })));
    gates[1].open();
    vcpus.patience = PATIENCE;
    vcpus.take_into_use(1).unwrap();
}

#[test]
fn cookies_are_shared_as_wanted() {
    use rustix::process::Pid;
    let (first, second) = (Pid::from_raw(7), Pid::from_raw(8));
    let chain = |wanted, claims: [Option<Pid>; 2]| {
        let begin = Neighbours::first(wanted);
        let next = begin.next(wanted, claims[0]);
        [begin, next, next.next(wanted, claims[1])]
    };
    use Neighbours::{Any, None as Alone, Of};
    assert_eq!(chain(CoreScheduling::Off, [None, None]), [Any, Any, Any]);
    assert_eq!(chain(CoreScheduling::Vcpu, [first, second]), [Alone, Alone, Alone]);
    let shared = chain(CoreScheduling::Vm, [first, second]);
    assert_eq!(
        shared,
        [Alone, Of(first.unwrap()), Of(second.unwrap())],
        "the cookie goes on from thread to thread"
    );
    // Whatever this kernel can do, nobody is refused.
    for neighbours in [Any, Alone] {
        std::thread::spawn(move || neighbours.claim(0).unwrap()).join().unwrap();
    }
}
