//! AML: how a device tells the guest what the guest cannot discover by itself (ACPI 6.3, chapters 19 and 20). What is built here goes
//! into the DSDT.

use acpi_tables::aml::{Device, EISAName, Name, Path};
use acpi_tables::{Aml, AmlSink};

/// AML that is already bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw(pub Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// The bytes of an object or a table.
pub fn encode(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

/// `Name (path, value)`.
pub fn name(path: &str, value: &dyn Aml) -> Name {
    Name::new(Path::new(path), value)
}

/// `Name (_HID, EisaId (id))`.
pub fn hid(id: &str) -> Name {
    name("_HID", &EISAName::new(id))
}

/// `Device (path) { body }`.
pub fn device(path: &str, body: Vec<&dyn Aml>) -> Vec<u8> {
    encode(&Device::new(Path::new(path), body))
}
