//! What only building the devices could find out, and what clients want to know of it: they see it in the configuration that `vm.info`
//! shows, for as long as the machine is there. The next machine finds it out anew.

use std::collections::BTreeMap;

use block::Format;
use config::{ImageType, VmConfig};

/// By device id.
#[derive(Debug, Default)]
pub struct Found {
    images: BTreeMap<String, Format>,
    taps: BTreeMap<String, String>,
}

impl Found {
    /// The format that disk `id` has.
    pub(crate) fn note_image(&mut self, id: &str, format: Format) {
        self.images.insert(id.into(), format);
    }

    /// The interface that network device `id` is connected to.
    pub(crate) fn note_tap(&mut self, id: &str, name: &str) {
        self.taps.insert(id.into(), name.into());
    }

    /// Writes it into the configuration that clients see. An interface whose descriptors a client handed over is that client's affair.
    pub fn amend(&self, config: &mut VmConfig) {
        for disk in config.disks.iter_mut().flatten() {
            if let Some(format) = disk.pci.id.as_ref().and_then(|id| self.images.get(id)) {
                disk.image_type = image_type(*format);
            }
        }
        for net in config.net.iter_mut().flatten().filter(|net| net.fds.is_none()) {
            if let Some(name) = net.pci.id.as_ref().and_then(|id| self.taps.get(id)) {
                net.tap = Some(name.clone());
            }
        }
    }
}

fn image_type(format: Format) -> ImageType {
    match format {
        Format::Raw => ImageType::Raw,
        Format::Qcow2 => ImageType::Qcow2,
        Format::FixedVhd => ImageType::FixedVhd,
        Format::Vhdx => ImageType::Vhdx,
        Format::FlatVmdk => ImageType::FlatVmdk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_device_gets_its_own() {
        let mut found = Found::default();
        found.note_image("d0", Format::Raw);
        found.note_image("d1", Format::FixedVhd);
        found.note_tap("n0", "pc7");
        found.note_tap("n2", "theirs");
        let mut config: VmConfig = serde_json::from_value(json!({
            "payload": {"kernel": "/k"},
            "disks": [{"id": "d0", "path": "/a"}, {"id": "d1", "path": "/b"}, {"id": "other", "path": "/c"}],
            "net": [{"id": "n0", "tap": "pc%d"}, {"id": "n1", "tap": "kept"}, {"id": "n2", "fds": [5]}],
        }))
        .unwrap();
        found.amend(&mut config);
        let types: Vec<_> = config.disks.unwrap().iter().map(|disk| disk.image_type).collect();
        assert_eq!(types, [ImageType::Raw, ImageType::FixedVhd, ImageType::Unknown]);
        let taps: Vec<_> = config.net.unwrap().iter().map(|net| net.tap.clone()).collect();
        assert_eq!(taps, [Some("pc7".into()), Some("kept".into()), None]);
    }
}
