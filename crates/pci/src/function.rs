//! A function on its way into a slot: what it is built from, what it needs of its place, and what it hands out.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use config::VmConfig;
use device::{Events, MsiSource, Slot};
use memory::{DmaRam, HostMemory};
use meter::CounterSet;
use stream::Stream;

use crate::{Address, BarKind};

/// What a device is built with besides its settings.
#[derive(Clone, Copy)]
pub struct BuildContext<'a> {
    /// The id the user knows it by, which also names its threads.
    pub id: &'a str,
    /// Guest RAM as it reaches it.
    pub ram: &'a DmaRam,
    /// Where it reports what others must hear of.
    pub events: &'a Events,
    /// Descriptors that somebody opened for it. They stay the caller's: the next machine needs them again.
    pub descriptors: &'a [OwnedFd],
    /// The other end of a console.
    pub stream: Option<&'a Stream>,
    /// For devices that firmware boots from: its BARs have 32 bits, and it knows the first segment only. Elsewhere, and where there is no
    /// room, 64 bits.
    pub boot_bar: BarKind,
}

/// A device that is built and has no place yet.
pub struct Built {
    /// The function itself.
    pub function: Box<dyn Function>,
    /// Whether it is a virtio device behind its transport: `vm.info` shows the two apart.
    pub is_virtio: bool,
    /// What it counts.
    pub counters: Option<Arc<dyn CounterSet>>,
    /// What the machine may do to it later, as a type of the device's own.
    pub handle: Option<Handle>,
    /// What it has found out that clients are to be shown.
    pub learned: Option<Learned>,
}

/// What a device hands out for later: the machine asks for it by type.
pub type Handle = Box<dyn Any + Send>;

/// Writes what a device has found out into the configuration that clients see.
pub type Learned = Box<dyn Fn(&mut VmConfig) + Send>;

impl Built {
    /// A device of which there is nothing more to say.
    pub fn new(function: impl Function + 'static) -> Self {
        let function = Box::new(function);
        Self { function, is_virtio: false, counters: None, handle: None, learned: None }
    }

    /// The same with something to be asked for by its type.
    #[must_use]
    pub fn handle(self, handle: impl Any + Send) -> Self {
        Self { handle: Some(Box::new(handle)), ..self }
    }

    /// The same with something for clients to see.
    #[must_use]
    pub fn learned(self, learned: impl Fn(&mut VmConfig) + Send + 'static) -> Self {
        Self { learned: Some(Box::new(learned)), ..self }
    }
}

/// What a function can do before it has a place.
pub trait Function {
    /// The BARs it wants addresses for.
    fn bars(&self) -> Vec<BarNeed>;

    /// Memory of its own that the guest is to see.
    fn memory(&self) -> Option<OwnMemory> {
        None
    }

    /// Takes its place.
    ///
    /// # Errors
    /// The kernel's, if there is no descriptor left.
    fn settle(self: Box<Self>, place: &Place<'_>) -> io::Result<Slot>;
}

/// Addresses that a function wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarNeed {
    /// Which BAR, 0 to 5.
    pub index: usize,
    /// How wide its register is.
    pub kind: BarKind,
    /// Bytes, a power of two.
    pub size: u64,
    /// A power of two that its base must be a multiple of.
    pub align: u64,
}

/// Memory that a function brings into the guest's address space, such as a file. It is no BAR: it stays where it is put, in the segment's
/// 64-bit window. Devices do not reach it, because it is not RAM.
#[derive(Clone)]
pub struct OwnMemory {
    /// The memory.
    pub memory: Arc<dyn HostMemory>,
    /// A power of two that its first guest address must be a multiple of.
    pub align: u64,
}

/// Where a function sits.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Its slot.
    pub address: Address,
    /// Where its BARs start, in the order of [`Function::bars`].
    pub bars: &'a [u64],
    /// Where its own memory starts, if it has some.
    pub memory: Option<u64>,
    /// Where its vectors come from.
    pub msi: &'a dyn MsiSource,
}
