//! Why there is no guest RAM.

use std::io;

use thiserror::Error;
use vm_memory::GuestRegionCollectionError;

/// Why guest RAM could not be had.
#[derive(Debug, Error)]
pub enum RamError {
    /// The memory file or the user's file could not be made, sized or opened.
    #[error("Cannot open the backing of memory zone '{zone}'")]
    Backing {
        /// The zone's id.
        zone: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The mapping failed.
    #[error("Cannot map {size} bytes for memory zone '{zone}': lower the size or free host memory")]
    Map {
        /// The zone's id.
        zone: String,
        /// Bytes asked for.
        size: u64,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The host's pool of huge pages is too small, or has none of that size.
    #[error(
        "The host has not enough free huge pages{} for {size} bytes of memory zone '{zone}': raise /proc/sys/vm/nr_hugepages \
         or the pool of that size, lower the size, or set hugepages=off",
        page.map(|page| format!(" of {page} bytes")).unwrap_or_default()
    )]
    HugePages {
        /// The zone's id.
        zone: String,
        /// Bytes asked for.
        size: u64,
        /// Bytes per page; the host's default if absent.
        page: Option<u64>,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The pages cannot come from the node that they are to come from.
    #[error(
        "Failed applying NUMA memory policy: memory zone '{zone}' cannot have its pages from node {node} of the host, see \
         /sys/devices/system/node; change its host_numa_node or leave it out"
    )]
    Policy {
        /// The zone's id.
        zone: String,
        /// The node's number.
        node: u32,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The kernel refused advice (huge pages, merging, prefault).
    #[error("Cannot prepare memory zone '{zone}'")]
    Advise {
        /// The zone's id.
        zone: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The regions do not form a map.
    #[error("Memory zones do not fit the guest's address space")]
    Layout(#[source] GuestRegionCollectionError),
    /// What is to be restored cannot have been saved by a machine with this configuration.
    #[error("Saved RAM at {base:#x} of memory zone '{zone}' cannot be restored: {reason}")]
    Saved {
        /// The range's first address.
        base: u64,
        /// The zone that it is said to be of.
        zone: String,
        /// What is wrong with it, and the next step.
        reason: &'static str,
    },
    /// The file that is to have a range's bytes ends before them.
    #[error(
        "The snapshot's file is too short for RAM at {base:#x}: it has {found} bytes and would need {needed}; it was cut off or \
         is still being copied"
    )]
    Short {
        /// The range's first address.
        base: u64,
        /// Bytes that the file would need.
        needed: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// Memory that only this process has.
    #[error(
        "Local migration requires shared memory or hugepages enabled: memory zone '{0}' has neither; boot with shared=on, or send it \
         without local=on"
    )]
    NotShared(String),
}
