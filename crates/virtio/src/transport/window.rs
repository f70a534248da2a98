//! The vendor capabilities that say where registers lie, one of which is itself a window into the BAR (§4.1.4).

use pci::{ConfigSpace, Msix};

use super::{
    BAR_SIZE, DEVICE, ISR, MSIX_PENDING, MSIX_TABLE, NOTIFY, NOTIFY_LEN, NOTIFY_MULTIPLIER, VirtioPci,
};
use crate::Info;

const VENDOR: u8 = 0x09;
/// `virtio_pci_cap.cfg_type`.
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;
/// Offsets in the window capability.
const WINDOW_BAR: usize = 4;
const WINDOW_OFFSET: usize = 8;
const WINDOW_LENGTH: usize = 12;
const WINDOW_DATA: usize = 16;

/// Adds all capabilities; answers where the window and MSI-X lie.
pub(super) fn add_capabilities(config: &mut ConfigSpace, info: &Info, msix: &Msix) -> (usize, usize) {
    let mut add = |kind, offset, length, more: &[u8], writable: &[u8]| {
        // cap_len, cfg_type, bar, id, two bytes of padding, offset, length.
        let mut body = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
        body.extend(u32::to_le_bytes(offset));
        body.extend(u32::to_le_bytes(length));
        body.extend(more);
        config.add_capability(VENDOR, &body, writable)
    };
    add(COMMON_CFG, 0, 56, &[], &[]);
    add(ISR_CFG, ISR as u32, 1, &[], &[]);
    if info.config_len != 0 {
        add(DEVICE_CFG, DEVICE as u32, 0x1000, &[], &[]);
    }
    add(NOTIFY_CFG, NOTIFY as u32, NOTIFY_LEN, &NOTIFY_MULTIPLIER.to_le_bytes(), &[]);
    // The guest points the window by writing its bar, offset and length.
    let pointable = [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let window = add(PCI_CFG, 0, 0, &[0; 4], &pointable);
    let (id, body, writable) = msix.capability(0, MSIX_TABLE as u32, MSIX_PENDING as u32);
    (window, config.add_capability(id, &body, &writable))
}

impl VirtioPci {
    /// Where in the BAR an access to the window's data leads, and how many of its bytes.
    pub(super) fn window_target(&self, offset: u64, len: usize) -> Option<(u64, usize)> {
        let at = |field: usize| self.config.dword(self.window + field);
        let length = at(WINDOW_LENGTH) as usize;
        let open = offset == (self.window + WINDOW_DATA) as u64
            && at(WINDOW_BAR) & 0xff == 0
            && matches!(length, 1 | 2 | 4)
            && length <= len;
        let target = u64::from(at(WINDOW_OFFSET));
        (open && target.is_multiple_of(length as u64) && target + length as u64 <= BAR_SIZE)
            .then_some((target, length))
    }
}
