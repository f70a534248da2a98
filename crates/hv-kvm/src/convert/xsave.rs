//! The XSAVE area: 4 KiB, and more where guests may have a feature that needs it (`KVM_CAP_XSAVE2`).

use std::io::ErrorKind;

use hv::Error;
use kvm_bindings::{Xsave, kvm_xsave};
use kvm_ioctls::{Cap, VcpuFd, VmFd};

use super::{Result, get};

/// Bytes of an area's part that every KVM has.
const BASE: usize = size_of::<kvm_xsave>();
const WORD: usize = size_of::<u32>();

/// The size of this machine's areas. A process asks for features before it makes a machine, so this does not change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AreaSize(usize);

impl AreaSize {
    pub(crate) fn of(fd: &VmFd) -> Self {
        let size = usize::try_from(fd.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        Self(size.max(BASE).next_multiple_of(WORD))
    }

    fn area(self) -> Result<Xsave> {
        Xsave::new((self.0 - BASE) / WORD)
            .map_err(|e| Error::operation("hold an XSAVE area", std::io::Error::other(format!("{e:?}"))))
    }
}

pub(super) fn read(fd: &VcpuFd, size: AreaSize) -> Result<Vec<u8>> {
    const WHAT: &str = "read a vCPU's XSAVE area";
    if size.0 == BASE {
        return Ok(bytes(&get(WHAT, fd.get_xsave())?.region).collect());
    }
    let mut area = size.area()?;
    // SAFETY: the area has the size that KVM told for this machine's.
    get(WHAT, unsafe { fd.get_xsave2(&mut area) })?;
    Ok(bytes(&area.as_fam_struct_ref().xsave.region).chain(bytes(area.as_slice())).collect())
}

/// An area to be put in.
///
/// # Errors
/// [`Error::Operation`] if there is something in it that this machine's areas have no room for.
pub(super) fn to_kvm(saved: &[u8], size: AreaSize) -> Result<Xsave> {
    if saved.get(size.0..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0)) {
        return Err(Error::operation(
            "put so large an XSAVE area back: use a host with the CPU features of the one before (AMX?)",
            ErrorKind::Unsupported,
        ));
    }
    let mut area = size.area()?;
    let (base, more) = saved.split_at(saved.len().min(BASE));
    put(more, area.as_mut_slice());
    // SAFETY: the length, which the wrapper relies on, stays as it is.
    put(base, unsafe { &mut area.as_mut_fam_struct().xsave.region });
    Ok(area)
}

pub(super) fn write(fd: &VcpuFd, area: &Xsave) -> Result<()> {
    // SAFETY: `to_kvm` made the area, with the size that KVM told for this machine's.
    get("set a vCPU's XSAVE area", unsafe { fd.set_xsave2(area) })
}

fn bytes(words: &[u32]) -> impl Iterator<Item = u8> {
    words.iter().flat_map(|word| word.to_le_bytes())
}

fn put(bytes: &[u8], words: &mut [u32]) {
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(WORD)) {
        *word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_unless_it_is_nothing() {
        let mut saved: Vec<u8> = (0..BASE + 8).map(|n| n as u8 | 1).collect();
        for (size, fits) in [(BASE, false), (BASE + 4, false), (BASE + 8, true), (BASE + 64, true)] {
            assert_eq!(to_kvm(&saved, AreaSize(size)).is_ok(), fits, "{size}");
        }
        saved[BASE + 4..].fill(0);
        let kept = to_kvm(&saved, AreaSize(BASE + 4)).unwrap();
        let region = &kept.as_fam_struct_ref().xsave.region;
        assert_eq!(bytes(region).chain(bytes(kept.as_slice())).collect::<Vec<_>>(), saved[..BASE + 4]);
        let small = to_kvm(&saved[..64], AreaSize(BASE)).unwrap();
        assert_eq!(bytes(&small.as_fam_struct_ref().xsave.region).skip(64).find(|byte| *byte != 0), None);
    }
}
