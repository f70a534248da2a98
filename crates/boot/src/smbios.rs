//! The SMBIOS tables that name the machine (DMTF DSP0134 3.2, `spec/devices.md` §5): the entry point at 0xf0000, the structures
//! 32 bytes after it.
//!
//! No MP table follows: it would repeat what the MADT says, for guests without ACPI only.

use config::plan::Smbios;
use memory::{Bytes, GuestAddress, GuestMemoryError, GuestRam, layout};
use thiserror::Error;

const ENTRY_POINT_SIZE: u64 = 32;
/// The tables end where high RAM starts.
const LIMIT: u64 = layout::HIGH_RAM - layout::SMBIOS - ENTRY_POINT_SIZE;

/// Why the tables could not be written.
#[derive(Debug, Error)]
pub enum SmbiosError {
    /// The system UUID is not one.
    #[error("Invalid system UUID '{0}': write it like 01234567-89ab-cdef-0123-456789abcdef")]
    Uuid(String),
    /// A string would end early, because SMBIOS closes strings with a NUL.
    #[error("The SMBIOS {0} contains a NUL character")]
    Nul(&'static str),
    /// SMBIOS cannot express an empty OEM string.
    #[error("An SMBIOS OEM string is empty")]
    EmptyOemString,
    /// A structure counts its strings in one byte.
    #[error("There are {0} SMBIOS OEM strings, and at most 255 fit")]
    TooMany(usize),
    /// The tables would run into RAM.
    #[error("The SMBIOS tables need {0:#x} bytes, and {LIMIT:#x} fit: shorten the platform's strings")]
    TooLarge(usize),
    /// RAM cannot be written.
    #[error("Cannot write the SMBIOS tables")]
    Ram(#[source] GuestMemoryError),
}

/// Writes the tables.
///
/// # Errors
/// [`SmbiosError`].
pub fn write(ram: &GuestRam, strings: &Smbios) -> Result<(), SmbiosError> {
    let tables = structures(strings)?;
    let size = u32::try_from(tables.len()).ok().filter(|&size| u64::from(size) <= LIMIT);
    let size = size.ok_or(SmbiosError::TooLarge(tables.len()))?;
    let address = layout::SMBIOS + ENTRY_POINT_SIZE;
    ram.map()
        .write_slice(&entry_point(address, size), GuestAddress(layout::SMBIOS))
        .and_then(|()| ram.map().write_slice(&tables, GuestAddress(address)))
        .map_err(SmbiosError::Ram)
}

/// The 64-bit entry point (5.2.2).
fn entry_point(tables: u64, size: u32) -> Vec<u8> {
    const LENGTH: u8 = 24;
    const VERSION: [u8; 3] = [3, 2, 0];
    const REVISION: u8 = 1;
    let mut entry = b"_SM3_\0".to_vec();
    entry.push(LENGTH);
    entry.extend(VERSION);
    entry.extend([REVISION, 0]);
    entry.extend(size.to_le_bytes());
    entry.extend(tables.to_le_bytes());
    let sum = entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = entry.get_mut(5) {
        *checksum = sum.wrapping_neg();
    }
    entry
}

fn structures(strings: &Smbios) -> Result<Vec<u8>, SmbiosError> {
    let mut all = vec![firmware()?, system(strings)?];
    if let Some(tag) = present(&strings.chassis_asset_tag) {
        all.push(chassis(tag)?);
    }
    if !strings.oem_strings.is_empty() {
        all.push(oem_strings(&strings.oem_strings)?);
    }
    all.push(Structure::new(127));
    Ok((0u16..).zip(all).flat_map(|(handle, structure)| structure.encode(handle)).collect())
}

/// Type 0.
fn firmware() -> Result<Structure, SmbiosError> {
    const CHARACTERISTICS_UNKNOWN: u64 = 1 << 3;
    const VIRTUAL_MACHINE: u8 = 1 << 4;
    const NOT_SUPPORTED: u8 = 0xff;
    let mut bios = Structure::new(0);
    bios.string("firmware vendor", Some("cloud-hypervisor"))?;
    bios.string("firmware version", Some("0"))?;
    // Start segment, release date (no string) and ROM size.
    bios.fields.extend([0; 4]);
    bios.fields.extend(CHARACTERISTICS_UNKNOWN.to_le_bytes());
    bios.fields.extend([0, VIRTUAL_MACHINE]);
    // Releases of the firmware and of an embedded controller, and the extended ROM size.
    bios.fields.extend([0, 0, NOT_SUPPORTED, NOT_SUPPORTED, 0, 0]);
    Ok(bios)
}

/// Type 1.
fn system(strings: &Smbios) -> Result<Structure, SmbiosError> {
    const POWER_SWITCH: u8 = 6;
    let mut system = Structure::new(1);
    let manufacturer = present(&strings.manufacturer).unwrap_or("Cloud Hypervisor");
    let product = present(&strings.product_name).unwrap_or("cloud-hypervisor");
    system.string("system manufacturer", Some(manufacturer))?;
    system.string("system product name", Some(product))?;
    system.string("system version", present(&strings.version))?;
    system.string("system serial number", present(&strings.serial_number))?;
    system.fields.extend(strings.uuid.as_deref().map_or(Ok([0; 16]), parse_uuid)?);
    system.fields.push(POWER_SWITCH);
    system.string("system SKU number", present(&strings.sku_number))?;
    system.string("system family", present(&strings.family))?;
    Ok(system)
}

/// Type 3.
fn chassis(asset_tag: &str) -> Result<Structure, SmbiosError> {
    const OTHER: u8 = 1;
    const SAFE: u8 = 3;
    const UNKNOWN: u8 = 2;
    let mut chassis = Structure::new(3);
    chassis.string("chassis manufacturer", Some("Cloud Hypervisor"))?;
    chassis.fields.push(OTHER);
    chassis.string("chassis version", None)?;
    chassis.string("chassis serial number", None)?;
    chassis.string("chassis asset tag", Some(asset_tag))?;
    // States at the last boot: boot-up, power supply, thermal, security.
    chassis.fields.extend([SAFE, SAFE, SAFE, UNKNOWN]);
    // OEM data, height, power cords; no contained elements; SKU number (no string).
    chassis.fields.extend([0; 9]);
    Ok(chassis)
}

/// Type 11.
fn oem_strings(strings: &[String]) -> Result<Structure, SmbiosError> {
    let count = u8::try_from(strings.len()).map_err(|_| SmbiosError::TooMany(strings.len()))?;
    let mut oem = Structure::new(11);
    oem.fields.push(count);
    for string in strings {
        if string.is_empty() {
            return Err(SmbiosError::EmptyOemString);
        }
        oem.add("OEM string", string)?;
    }
    Ok(oem)
}

/// An empty string would end the strings of a structure.
fn present(string: &Option<String>) -> Option<&str> {
    string.as_deref().filter(|string| !string.is_empty())
}

/// SMBIOS has the first three groups in little endian (7.2.1).
fn parse_uuid(text: &str) -> Result<[u8; 16], SmbiosError> {
    let bad = || SmbiosError::Uuid(text.into());
    let groups: Vec<_> = text.split('-').collect();
    let lengths: Vec<_> = groups.iter().map(|group| group.len()).collect();
    let digits = groups.concat();
    let formed = matches!(lengths[..], [8, 4, 4, 4, 12] | [32]);
    // The parser itself would take a sign.
    if !formed || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let [a, b, c, d, e, f, g, h, rest @ ..] =
        u128::from_str_radix(&digits, 16).map_err(|_| bad())?.to_be_bytes();
    let mut uuid = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
    if let Some(tail) = uuid.last_chunk_mut::<8>() {
        *tail = rest;
    }
    Ok(uuid)
}

/// One structure: fixed fields and the strings they refer to by number (6.1).
struct Structure {
    kind: u8,
    fields: Vec<u8>,
    strings: Vec<u8>,
    count: u8,
}

impl Structure {
    fn new(kind: u8) -> Self {
        Self { kind, fields: Vec::new(), strings: Vec::new(), count: 0 }
    }

    /// Adds a field that refers to a string; 0 says that there is none.
    fn string(&mut self, what: &'static str, string: Option<&str>) -> Result<(), SmbiosError> {
        let number = string.map_or(Ok(0), |string| self.add(what, string))?;
        self.fields.push(number);
        Ok(())
    }

    fn add(&mut self, what: &'static str, string: &str) -> Result<u8, SmbiosError> {
        if string.contains('\0') {
            return Err(SmbiosError::Nul(what));
        }
        self.strings.extend(string.bytes());
        self.strings.push(0);
        self.count = self.count.saturating_add(1);
        Ok(self.count)
    }

    fn encode(&self, handle: u16) -> Vec<u8> {
        const HEADER: u8 = 4;
        // Fields are of fixed size, far below the limit of a byte.
        let length = HEADER.saturating_add(self.fields.len() as u8);
        let mut bytes = vec![self.kind, length];
        bytes.extend(handle.to_le_bytes());
        bytes.extend(&self.fields);
        bytes.extend(&self.strings);
        // Without strings there are two closing zeros, otherwise one after the last string's own.
        bytes.extend(if self.strings.is_empty() { &[0, 0][..] } else { &[0] });
        bytes
    }
}

#[cfg(test)]
mod tests {
    use memory::test_ram;

    use super::*;

    fn written(strings: &Smbios) -> Vec<u8> {
        let ram = test_ram(&[(0, 2 << 20)]);
        write(&ram, strings).unwrap();
        let mut bytes = vec![0; 0x1_0000];
        ram.map().read_slice(&mut bytes, GuestAddress(0xf_0000)).unwrap();
        bytes
    }

    /// Type, fixed part and strings of each structure.
    fn walk(memory: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
        let size = u32::from_le_bytes(memory[12..16].try_into().unwrap()) as usize;
        let mut rest = &memory[32..32 + size];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (fixed, tail) = rest.split_at(rest[1].into());
            let end = tail.windows(2).position(|pair| pair == [0, 0]).unwrap();
            let strings = tail[..end].split(|byte| *byte == 0).filter(|string| !string.is_empty());
            let strings = strings.map(|string| String::from_utf8(string.to_vec()).unwrap()).collect();
            found.push((fixed[0], fixed.to_vec(), strings));
            rest = &tail[end + 2..];
        }
        found
    }

    #[test]
    fn the_entry_point_leads_to_the_structures() {
        let memory = written(&Smbios::default());
        assert_eq!(&memory[..5], b"_SM3_");
        assert_eq!(memory[..24].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!((memory[6], &memory[16..24]), (24, &0xf_0020u64.to_le_bytes()[..]));
        let found = walk(&memory);
        let kinds: Vec<_> = found.iter().map(|(kind, fixed, _)| (*kind, fixed.len(), fixed[2])).collect();
        assert_eq!(kinds, [(0, 26, 0), (1, 27, 1), (127, 4, 2)]);
        assert_eq!(found[0].2, ["cloud-hypervisor", "0"]);
        assert_eq!(found[1].2, ["Cloud Hypervisor", "cloud-hypervisor"]);
        assert_eq!(found[1].1[4..8], [1, 2, 0, 0]);
    }

    #[test]
    fn everything_given_is_told() {
        let strings = Smbios {
            manufacturer: Some("maker".into()),
            product_name: Some(String::new()),
            serial_number: Some("42".into()),
            uuid: Some("00112233-4455-6677-8899-AABBCCDDEEFF".into()),
            family: Some("clan".into()),
            chassis_asset_tag: Some("tag".into()),
            oem_strings: vec!["one".into(), "two".into()],
            ..Smbios::default()
        };
        let found = walk(&written(&strings));
        let kinds: Vec<_> = found.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(kinds, [0, 1, 3, 11, 127]);
        assert_eq!(found[1].2, ["maker", "cloud-hypervisor", "42", "clan"]);
        assert_eq!(found[1].1[4..8], [1, 2, 0, 3]);
        let uuid =
            [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
        assert_eq!(found[1].1[8..24], uuid);
        assert_eq!(found[1].1[24..], [6, 0, 4]);
        assert_eq!((found[2].1.len(), found[2].1[8], &found[2].2[1]), (22, 2, &"tag".to_owned()));
        assert_eq!((found[3].1[4], &found[3].2[..]), (2, &["one".to_owned(), "two".to_owned()][..]));
    }

    #[test]
    fn bad_strings_are_refused() {
        let ram = test_ram(&[(0, 2 << 20)]);
        let refused = |strings: Smbios| write(&ram, &strings).unwrap_err();
        for uuid in
            ["", "x", "+0112233445566778899aabbccddeeff", "0011-2233", "00112233-4455-6677-8899-AABBCCDDEEF"]
        {
            let strings = Smbios { uuid: Some(uuid.into()), ..Smbios::default() };
            assert!(matches!(refused(strings), SmbiosError::Uuid(_)), "{uuid}");
        }
        let nul = Smbios { serial_number: Some("a\0b".into()), ..Smbios::default() };
        assert!(matches!(refused(nul), SmbiosError::Nul("system serial number")));
        let oem = |oem_strings| refused(Smbios { oem_strings, ..Smbios::default() });
        assert!(matches!(oem(vec![String::new()]), SmbiosError::EmptyOemString));
        assert!(matches!(oem(vec!["x".into(); 256]), SmbiosError::TooMany(256)));
        assert!(matches!(oem(vec!["x".repeat(0x1_0000)]), SmbiosError::TooLarge(_)));
        let small = test_ram(&[(0, 0x8000)]);
        assert!(matches!(write(&small, &Smbios::default()), Err(SmbiosError::Ram(_))));
    }
}
