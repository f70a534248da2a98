//! RAM as a snapshot has it.

use serde::{Deserialize, Serialize};

use crate::{GuestRam, layout};

/// One region of RAM, by which it is found again in a snapshot and made again when that is restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRange {
    /// First guest-physical address, a multiple of 4 KiB.
    pub base: u64,
    /// Bytes, a multiple of 4 KiB.
    pub len: u64,
    /// Id of the zone that it is of.
    pub zone: String,
    /// Bytes of the zone's file before it, if the zone has one.
    pub offset: u64,
    /// It is room for more (virtio-mem): only what the guest has plugged of it is RAM.
    pub is_room: bool,
    /// Its bytes lie in a file of the user's, which keeps them: a snapshot leaves them out.
    pub in_users_file: bool,
}

impl SavedRange {
    /// Its addresses.
    pub fn addresses(&self) -> layout::Range {
        (self.base, self.len)
    }
}

impl GuestRam {
    /// All regions, in ascending order.
    pub fn ranges(&self) -> Vec<SavedRange> {
        self.0.load().parts.values().map(|part| part.saved.clone()).collect()
    }
}
