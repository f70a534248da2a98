//! What KVM keeps of a hypervisor inside the guest (`KVM_GET_NESTED_STATE`): whether it is in operation, and the state of the CPU that it
//! left for its guest. A KVM may have none, and one that says it has some may still refuse to tell it.

use std::io::ErrorKind;

use hv::Error;
use kvm_bindings::{KVM_STATE_NESTED_FORMAT_SVM, KVM_STATE_NESTED_FORMAT_VMX, KVM_STATE_NESTED_GIF_SET};
use kvm_ioctls::{KvmNestedStateBuffer, VcpuFd};
use rustix::io::Errno;

use super::Result;

/// Bytes before the state of a guest's guest.
const HEADER: usize = size_of::<kvm_bindings::kvm_nested_state>();
const LIMIT: usize = size_of::<KvmNestedStateBuffer>();

pub(super) fn read(fd: &VcpuFd) -> Result<Option<Vec<u8>>> {
    let mut buffer = KvmNestedStateBuffer::empty();
    match fd.nested_state(&mut buffer) {
        Ok(_) => {
            let size = (buffer.size as usize).clamp(HEADER, LIMIT);
            // SAFETY: the buffer began as zeroes, so that all of its bytes are initialised, and `size` is not more than it has.
            let bytes = unsafe { std::slice::from_raw_parts((&raw const buffer).cast::<u8>(), size) };
            Ok(Some(bytes.to_vec()))
        }
        Err(e) => match Errno::from_raw_os_error(e.errno()) {
            Errno::INVAL | Errno::NOTTY | Errno::NOSYS => Ok(None),
            _ => Err(Error::operation("read what a vCPU has of a guest's guest", e)),
        },
    }
}

/// A state to be put in.
///
/// # Errors
/// [`Error::Operation`]: it is none of KVM's.
pub(super) fn to_kvm(saved: &[u8]) -> Result<KvmNestedStateBuffer> {
    let mut buffer = KvmNestedStateBuffer::empty();
    if !(HEADER..=LIMIT).contains(&saved.len()) {
        return Err(broken());
    }
    // SAFETY: not more bytes than the buffer has, and any bytes are a value of its type.
    unsafe { saved.as_ptr().copy_to_nonoverlapping((&raw mut buffer).cast(), saved.len()) };
    // KVM reads as many bytes as the state itself says.
    if buffer.size as usize == saved.len() { Ok(buffer) } else { Err(broken()) }
}

fn broken() -> Error {
    Error::operation("put back what a vCPU had of a guest's guest: its size is wrong", ErrorKind::InvalidData)
}

/// Puts a state in. One that says nothing need not be taken: this host may have no such thing.
pub(super) fn write(fd: &VcpuFd, state: &KvmNestedStateBuffer) -> Result<()> {
    match fd.set_nested_state(state) {
        Err(e) if !is_idle(state) => {
            let what = "put back what a vCPU had of a guest's guest: use a host whose CPU and KVM are like those of the one before";
            Err(Error::operation(what, e))
        }
        _ => Ok(()),
    }
}

/// Whether no hypervisor is in operation in the guest.
fn is_idle(state: &KvmNestedStateBuffer) -> bool {
    const NOWHERE: u64 = u64::MAX;
    match u32::from(state.format) {
        // SAFETY: any bytes are a value of this member.
        KVM_STATE_NESTED_FORMAT_VMX => unsafe { state.hdr.vmx.vmxon_pa == NOWHERE },
        // Interrupts are not masked by the instruction that a hypervisor begins with.
        KVM_STATE_NESTED_FORMAT_SVM => u32::from(state.flags) == KVM_STATE_NESTED_GIF_SET,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::machine;

    /// A state of this size with the given flags, format and first eight bytes of the part after them.
    fn state(flags: u16, format: u16, size: u32, first: u64) -> Vec<u8> {
        let mut bytes = [&flags.to_le_bytes()[..], &format.to_le_bytes()].concat();
        bytes.extend(size.to_le_bytes());
        bytes.extend(first.to_le_bytes());
        bytes.resize(HEADER, 0);
        bytes
    }

    #[test]
    fn what_is_not_in_operation_is_seen() {
        let size = HEADER as u32;
        for (saved, idle) in [
            (state(0, 0, size, u64::MAX), true),
            (state(0, 0, size, 0x1000), false),
            (state(0x100, 1, size, 0), true),
            (state(0, 1, size, 0), false),
            (state(0x101, 1, size, 0), false),
            (state(0, 2, size, u64::MAX), false),
        ] {
            assert_eq!(is_idle(&to_kvm(&saved).unwrap()), idle, "{saved:?}");
        }
    }

    #[test]
    fn a_wrong_size_is_refused() {
        let right = state(0, 0, HEADER as u32, u64::MAX);
        assert!(to_kvm(&right[..HEADER - 1]).is_err());
        assert!(to_kvm(&[right.clone(), vec![0]].concat()).is_err());
        assert!(to_kvm(&state(0, 0, LIMIT as u32, 0)).is_err());
        assert!(to_kvm(&vec![0; LIMIT + 1]).is_err());
    }

    #[test]
    fn the_kernel_takes_back_what_it_told() {
        let Some(vm) = machine() else { return };
        let fd = vm.fd.create_vcpu(0).unwrap();
        let Some(told) = read(&fd).unwrap() else {
            eprintln!("skipped: this KVM does not tell");
            return;
        };
        write(&fd, &to_kvm(&told).unwrap()).unwrap();
        assert_eq!(read(&fd).unwrap(), Some(told));
    }

    #[test]
    fn what_is_in_operation_is_not_lost_in_silence() {
        let Some(vm) = machine() else { return };
        let fd = vm.fd.create_vcpu(0).unwrap();
        // This vCPU has no CPUID, and so nothing that could be in operation.
        let in_operation = to_kvm(&state(0, 0, HEADER as u32, 0x1000)).unwrap();
        assert!(write(&fd, &in_operation).is_err());
        let idle = to_kvm(&state(0, 0, HEADER as u32, u64::MAX)).unwrap();
        write(&fd, &idle).unwrap();
    }
}
