//! Which format an image file has, by its first and last bytes (`spec/devices.md` §7, "Block back ends").

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use config::ImageType;

use crate::SECTOR;

const QCOW2_MAGIC: &[u8] = b"QFI\xfb";
const VHDX_MAGIC: &[u8] = b"vhdxfile";
const VMDK_TITLE: &[u8] = b"# Disk DescriptorFile";
const VHD_COOKIE: &[u8] = b"conectix";
/// Offset of the disk type in a VHD footer, and the type of fixed disks.
const VHD_TYPE: (usize, [u8; 4]) = (60, [0, 0, 0, 2]);

/// The format of `file`, which has `len` bytes.
pub(crate) fn detect(file: &File, len: u64) -> io::Result<ImageType> {
    let mut sector = [0; SECTOR as usize];
    read(file, &mut sector, 0)?;
    if sector.starts_with(QCOW2_MAGIC) {
        return Ok(ImageType::Qcow2);
    }
    if sector.starts_with(VHDX_MAGIC) {
        return Ok(ImageType::Vhdx);
    }
    if sector.starts_with(VMDK_TITLE) {
        return Ok(ImageType::FlatVmdk);
    }
    let Some(footer) = len.checked_sub(SECTOR) else { return Ok(ImageType::Raw) };
    sector = [0; SECTOR as usize];
    read(file, &mut sector, footer)?;
    let (at, fixed) = VHD_TYPE;
    let is_vhd = sector.starts_with(VHD_COOKIE) && sector.get(at..at + 4) == Some(&fixed);
    Ok(if is_vhd { ImageType::FixedVhd } else { ImageType::Raw })
}

/// Reads as much as there is; a file shorter than a sector leaves zeroes.
fn read(file: &File, mut into: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !into.is_empty() {
        match file.read_at(into, offset) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                into = into.get_mut(n..).unwrap_or_default();
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format_of(content: &[u8]) -> ImageType {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        detect(&file, content.len() as u64).unwrap()
    }

    #[test]
    fn each_format_is_known_by_its_magic() {
        assert_eq!(format_of(b""), ImageType::Raw);
        assert_eq!(format_of(&[0x55; 700]), ImageType::Raw);
        assert_eq!(format_of(b"QFI\xfb\0\0\0\x03"), ImageType::Qcow2);
        assert_eq!(format_of(b"vhdxfile"), ImageType::Vhdx);
        assert_eq!(format_of(b"# Disk DescriptorFile\nversion=1\n"), ImageType::FlatVmdk);
        let mut vhd = [0; 2048];
        vhd[1536..1544].copy_from_slice(b"conectix");
        assert_eq!(format_of(&vhd), ImageType::Raw);
        vhd[1536 + 63] = 2;
        assert_eq!(format_of(&vhd), ImageType::FixedVhd);
    }
}
