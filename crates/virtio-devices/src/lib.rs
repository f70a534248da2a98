//! The virtio devices, one folder each: front, workers, state, tests. Each is built by `build(settings, context)`, from its part of the
//! plan, and says what came of it as [`Built`].

pub mod blk;
pub mod console;
pub mod net;
pub mod rng;
pub mod watchdog;

use std::any::Any;
use std::os::fd::OwnedFd;

use config::VmConfig;
use device::Events;
use pci::BarKind;
use stream::Stream;
use virtio::VirtioDevice;

/// What a device is built with besides its settings.
#[derive(Clone, Copy)]
pub struct BuildContext<'a> {
    /// The id the user knows it by, which also names its threads.
    pub id: &'a str,
    /// Where it reports what others must hear of.
    pub events: &'a Events,
    /// Descriptors that somebody opened for it. They stay the caller's: the next machine needs them again.
    pub descriptors: &'a [OwnedFd],
    /// The other end of a console.
    pub stream: Option<&'a Stream>,
}

/// A device that is built and has no place yet.
pub struct Built {
    /// Its registers.
    pub front: Box<dyn VirtioDevice>,
    /// Where its BAR goes.
    pub bar: BarKind,
    /// What the machine may do to it later, as a type of the device's own: see [`Built::handle`].
    pub handle: Option<Handle>,
    /// What it has found out that clients are to be shown.
    pub learned: Option<Learned>,
}

/// What a device hands out for later: the machine asks for it by type.
pub type Handle = Box<dyn Any + Send>;

/// Writes what a device has found out into the configuration that clients see.
pub type Learned = Box<dyn Fn(&mut VmConfig) + Send>;

impl Built {
    /// A device with a 64-bit BAR that nobody asks for anything later.
    pub fn new(front: impl VirtioDevice + 'static) -> Self {
        Self { front: Box::new(front), bar: BarKind::Memory64, handle: None, learned: None }
    }

    /// The same with a 32-bit BAR.
    #[must_use]
    pub fn below_4g(self) -> Self {
        Self { bar: BarKind::Memory32, ..self }
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
