//! Machines of sixteen pages and a disk that one side only can hold.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, memfd_create};

use super::net::{Net, Side, die};
use crate::{
    Destination, DestinationMemory, MachineError, PAGE_LEN, Pages, Progress, Ram, Range, Source, SourceMemory,
};

const PAGES: u64 = 16;
const RAM_LEN: u64 = PAGES * PAGE_LEN;
/// RAM has a gap in it.
pub(crate) const RANGES: [Range; 2] = [(0, RAM_LEN / 2), (RAM_LEN, RAM_LEN / 2)];
/// Passes in which the guest writes.
const BUSY_PASSES: u32 = 4;

/// What both sides share: the disk, and who is alive.
#[derive(Default)]
pub(crate) struct World(Mutex<Facts>);

#[derive(Default)]
struct Facts {
    no_disk: bool,
    holder: Option<Side>,
    dead: Option<Side>,
    running: [bool; 2],
    /// Both ran at the same moment.
    doubled: bool,
}

impl World {
    /// A machine without anything that one side only could hold.
    pub(crate) fn without_disk() -> Self {
        Self(Mutex::new(Facts { no_disk: true, ..Facts::default() }))
    }

    pub(crate) fn kill(&self, side: Side) {
        let mut facts = self.0.lock().unwrap();
        facts.dead = Some(side);
        facts.running[side as usize] = false;
        if facts.holder == Some(side) {
            facts.holder = None;
        }
    }

    /// Ends the calling thread if it is of a dead process.
    pub(crate) fn live_on(&self, side: Side) {
        if self.is_dead(side) {
            die();
        }
    }

    pub(crate) fn is_dead(&self, side: Side) -> bool {
        self.0.lock().unwrap().dead == Some(side)
    }

    pub(crate) fn doubled(&self) -> bool {
        self.0.lock().unwrap().doubled
    }

    fn hold(&self, side: Side) -> Result<(), MachineError> {
        self.live_on(side);
        let mut facts = self.0.lock().unwrap();
        if !facts.no_disk && facts.holder.is_some_and(|holder| holder != side) {
            return Err("the disk is locked".into());
        }
        facts.holder = Some(side);
        Ok(())
    }

    fn let_go(&self, side: Side) {
        let mut facts = self.0.lock().unwrap();
        if facts.holder == Some(side) {
            facts.holder = None;
        }
    }

    fn holds(&self, side: Side) -> bool {
        let facts = self.0.lock().unwrap();
        facts.no_disk || facts.holder == Some(side)
    }

    fn run(&self, side: Side, run: bool) {
        self.live_on(side);
        let mut facts = self.0.lock().unwrap();
        facts.running[side as usize] = run;
        facts.doubled |= facts.running == [true, true];
    }

    fn runs(&self, side: Side) -> bool {
        self.0.lock().unwrap().running[side as usize]
    }
}

/// A file without a name, so that it can be handed over.
#[derive(Clone)]
struct Memory {
    file: Arc<File>,
    pages: Option<Arc<Pages>>,
}

impl Memory {
    fn new() -> Self {
        let file = File::from(memfd_create("ram", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(2 * RAM_LEN).unwrap();
        Self { file: Arc::new(file), pages: None }
    }

    fn all(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(2 * RAM_LEN).unwrap()];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

fn inside(gpa: u64, len: usize) -> Result<(), MachineError> {
    let known = crate::ranges::contain(&RANGES, (gpa, len as u64));
    if known { Ok(()) } else { Err(io::Error::other("no RAM").into()) }
}

impl SourceMemory for Memory {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        inside(gpa, bytes.len())?;
        Ok(self.file.read_exact_at(bytes, gpa)?)
    }
}

impl DestinationMemory for Memory {
    fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), MachineError> {
        inside(gpa, bytes.len())?;
        Ok(self.file.write_all_at(bytes, gpa)?)
    }

    fn clear(&self, gpa: u64, len: u64) -> Result<(), MachineError> {
        self.write(gpa, &vec![0; usize::try_from(len)?])
    }
}

/// xorshift64.
pub(crate) struct Dice(pub(super) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

type OnProgress = Box<dyn FnMut(&Progress) + Send>;

pub(crate) struct FakeSource {
    world: Arc<World>,
    memory: Memory,
    ran: bool,
    tracked: bool,
    dirty: Vec<Range>,
    passes: u32,
    dice: Dice,
    pub(crate) busy_passes: u32,
    pub(crate) throttled: Vec<u8>,
    pub(crate) on_progress: Option<OnProgress>,
}

impl FakeSource {
    pub(crate) fn new(net: &Net, seed: u64) -> Self {
        let source = Self::paused(net, seed);
        source.world.run(Side::Source, true);
        Self { ran: true, ..source }
    }

    pub(crate) fn paused(net: &Net, seed: u64) -> Self {
        let mut source = Self {
            world: Arc::clone(&net.world),
            memory: Memory::new(),
            ran: false,
            tracked: false,
            dirty: Vec::new(),
            passes: 0,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            busy_passes: BUSY_PASSES,
            throttled: Vec::new(),
            on_progress: None,
        };
        source.world.hold(Side::Source).unwrap();
        for _ in 0..PAGES / 2 {
            source.write_somewhere();
        }
        source
    }

    pub(crate) fn world(&self) -> &Arc<World> {
        &self.world
    }

    pub(crate) fn ram(&self) -> Vec<u8> {
        self.memory.all()
    }

    pub(crate) fn is_running_now(&self) -> bool {
        self.world.runs(Side::Source)
    }

    pub(crate) fn holds(&self) -> bool {
        self.world.holds(Side::Source)
    }

    pub(crate) fn is_tracked(&self) -> bool {
        self.tracked
    }

    /// Somebody tells it to run.
    pub(crate) fn tell(&mut self) -> bool {
        let told = self.take_back().is_ok();
        if told {
            self.world.run(Side::Source, true);
        }
        told
    }

    /// A page gets other bytes, or none.
    fn write_somewhere(&mut self) {
        let page = self.dice.below(PAGES);
        let base = RANGES[usize::from(page >= PAGES / 2)].0 + page % (PAGES / 2) * PAGE_LEN;
        let byte = u8::try_from(self.dice.below(4)).unwrap();
        self.memory.file.write_all_at(&vec![byte; usize::try_from(PAGE_LEN).unwrap()], base).unwrap();
        self.dirty.push((base, PAGE_LEN));
    }
}

impl Source for FakeSource {
    fn is_running(&self) -> bool {
        self.ran
    }

    fn ranges(&self) -> Vec<Range> {
        RANGES.to_vec()
    }

    fn occupied(&mut self) -> Result<Vec<Range>, MachineError> {
        Ok(self.ranges())
    }

    fn memory(&self) -> Arc<dyn SourceMemory> {
        Arc::new(self.memory.clone())
    }

    fn memory_fds(&mut self) -> Result<Vec<(u32, OwnedFd)>, MachineError> {
        Ok(vec![(7, self.memory.file.try_clone()?.into())])
    }

    fn config(&mut self) -> Result<Vec<u8>, MachineError> {
        self.world.live_on(Side::Source);
        Ok(b"a configuration".to_vec())
    }

    fn track(&mut self, on: bool) -> Result<(), MachineError> {
        self.tracked = on;
        self.dirty.clear();
        Ok(())
    }

    fn take_dirty(&mut self) -> Result<Vec<Range>, MachineError> {
        self.world.live_on(Side::Source);
        assert!(self.tracked);
        self.passes += 1;
        if self.is_running_now() && self.passes <= self.busy_passes {
            (0..self.dice.below(6) + 1).for_each(|_| self.write_somewhere());
        }
        Ok(std::mem::take(&mut self.dirty))
    }

    fn throttle(&mut self, percent: u8) -> Result<(), MachineError> {
        self.throttled.push(percent);
        Ok(())
    }

    fn pause(&mut self) -> Result<(), MachineError> {
        assert!(self.is_running_now());
        // What it writes until it stands still.
        self.write_somewhere();
        self.world.run(Side::Source, false);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), MachineError> {
        assert!(self.holds(), "a guest runs without its disk");
        self.world.run(Side::Source, true);
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<u8>, MachineError> {
        assert!(!self.is_running_now());
        self.write_somewhere();
        Ok(vec![0x5a; 300])
    }

    fn release(&mut self) -> Result<(), MachineError> {
        self.world.live_on(Side::Source);
        self.world.let_go(Side::Source);
        Ok(())
    }

    fn take_back(&mut self) -> Result<(), MachineError> {
        self.world.hold(Side::Source)
    }

    fn progress(&mut self, progress: &Progress) {
        self.world.live_on(Side::Source);
        if let Some(on_progress) = &mut self.on_progress {
            on_progress(progress);
        }
    }
}

pub(crate) struct FakeDestination {
    world: Arc<World>,
    memory: Option<Memory>,
    /// Its state is here.
    whole: bool,
}

impl FakeDestination {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self { world, memory: None, whole: false }
    }

    pub(crate) fn ram(&self) -> Vec<u8> {
        self.memory.as_ref().unwrap().all()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.world.runs(Side::Destination)
    }

    pub(crate) fn is_there(&self) -> bool {
        self.memory.is_some() || self.holds()
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    fn holds(&self) -> bool {
        self.world.holds(Side::Destination)
    }

    /// Somebody tells it to run.
    pub(crate) fn tell(&mut self) -> bool {
        let told = self.holds();
        if told {
            self.world.run(Side::Destination, true);
        }
        told
    }

    /// The guest touches all of its RAM.
    pub(crate) fn fill(&mut self) {
        let memory = self.memory.as_mut().unwrap();
        let pages = memory.pages.take().unwrap();
        for (base, len) in RANGES {
            for at in (base..base + len).step_by(usize::try_from(PAGE_LEN).unwrap()) {
                let mut page = vec![0; usize::try_from(PAGE_LEN).unwrap()];
                pages.read(at, &mut page).unwrap();
                memory.file.write_all_at(&page, at).unwrap();
            }
        }
        pages.finish();
    }
}

impl Destination for FakeDestination {
    fn memory_fd(&mut self, slot: u32, fd: OwnedFd) -> Result<(), MachineError> {
        assert_eq!(slot, 7);
        self.memory = Some(Memory { file: Arc::new(fd.into()), pages: None });
        Ok(())
    }

    fn config(&mut self, bytes: &[u8]) -> Result<Ram, MachineError> {
        self.world.live_on(Side::Destination);
        if bytes != b"a configuration" {
            return Err("no such machine".into());
        }
        let memory = self.memory.get_or_insert_with(Memory::new).clone();
        Ok(Ram { ranges: RANGES.to_vec(), memory: Arc::new(memory) })
    }

    fn fill_from(&mut self, pages: Arc<Pages>) -> Result<(), MachineError> {
        self.memory.as_mut().ok_or("no RAM")?.pages = Some(pages);
        Ok(())
    }

    fn state(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        self.world.hold(Side::Destination)?;
        if bytes != [0x5a; 300] {
            self.world.let_go(Side::Destination);
            return Err("no such state".into());
        }
        self.whole = true;
        Ok(())
    }

    fn complete(&mut self, run: bool) -> Result<(), MachineError> {
        if !(self.holds() && self.whole) {
            // A process that was killed a moment ago holds nothing any more.
            self.world.live_on(Side::Destination);
            panic!("it was never offered");
        }
        self.world.run(Side::Destination, run);
        Ok(())
    }

    fn abandon(&mut self) {
        self.world.live_on(Side::Destination);
        assert!(!self.is_running());
        *self = Self::new(Arc::clone(&self.world));
        self.world.let_go(Side::Destination);
    }
}
