//! PCI as the guest sees it: configuration space, BARs, MSI-X, and who sits in which slot (PCI Local Bus 3.0, PCI Express 5.0).
//!
//! Each function is one [`device::Device`]: its configuration registers are a region of [`device::Space::Config`], its decoded BARs
//! are regions of memory space. How a configuration access finds its function is [`address`]'s business.

pub mod address;
mod bridge;
mod config;
mod function;
mod msix;
mod segment;

pub use address::{Address, ConfigLatch, ConfigPorts};
pub use bridge::HostBridge;
pub use config::{BarKind, ConfigSpace, ConfigState, Identity, REGION_CONFIG};
pub use function::{BarNeed, BuildContext, Built, Function, Handle, Learned, OwnMemory, Place};
#[cfg(any(test, feature = "fake-vectors"))]
pub use msix::fake::FakeSource;
pub use msix::{Msix, MsixState, NO_VECTOR, Vector, VectorCountError, Vectors};
pub use segment::{BarLease, MemoryLease, PlaceError, Segment, Segments, SlotLease, Windows};
