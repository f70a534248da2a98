//! Interrupting a thread that is inside the kernel (a vCPU in `KVM_RUN`) with a real-time signal.
//!
//! The signal's handler sets one byte that the thread named in advance. KVM looks at that byte (`kvm_run.immediate_exit`) before it
//! enters the guest, so a kick that arrives between the thread's last look at its mail and the system call is not lost.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// The byte that the handler sets, or null.
    static FLAG: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

fn signal_number() -> libc::c_int {
    SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = FLAG.with(Cell::get);
    if !flag.is_null() {
        // SAFETY: `Target::arm` promised that the byte outlives this thread's use of it, and only this thread writes it.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler for the whole process. Calling it again changes nothing.
///
/// # Errors
/// The kernel's refusal to install a handler.
pub fn install() -> io::Result<()> {
    register_signal_handler(signal_number(), on_kick).map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

/// The thread to be kicked, as others see it. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Target(Arc<AtomicI32>);

impl Target {
    /// Makes the calling thread the target.
    ///
    /// # Safety
    /// `flag` must stay valid for writes until this thread calls [`Target::disarm`] or ends.
    pub unsafe fn arm(&self, flag: *mut u8) {
        FLAG.with(|f| f.set(flag));
        self.0.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::SeqCst);
    }

    /// Nobody is the target any more: later kicks do nothing.
    pub fn disarm(&self) {
        self.0.store(0, Ordering::SeqCst);
        FLAG.with(|f| f.set(ptr::null_mut()));
    }

    /// Interrupts the target thread, if there is one.
    pub fn kick(&self) {
        let tid = self.0.load(Ordering::SeqCst);
        if tid != 0 {
            // SAFETY: a system call without pointers; a thread id that is gone gives ESRCH, which is fine.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal_number()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_kick_sets_the_flag_and_interrupts_a_blocking_call() {
        install().unwrap();
        let target = Target::default();
        let (ready_tx, ready_rx) = mpsc::channel();
        let mine = target.clone();
        let thread = std::thread::spawn(move || {
            let mut flag = 0u8;
            // SAFETY: `flag` lives until `disarm` below.
            unsafe { mine.arm(&raw mut flag) };
            ready_tx.send(()).unwrap();
            // SAFETY: reads a local that the handler on this same thread may write.
            while unsafe { ptr::read_volatile(&raw const flag) } == 0 {
                std::thread::yield_now();
            }
            mine.disarm();
        });
        ready_rx.recv().unwrap();
        target.kick();
        thread.join().unwrap();
        target.kick();
    }
}
