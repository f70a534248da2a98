//! For tests: a network of the calling thread's own, so that a test may make interfaces and addresses at will.

/// Moves the calling thread into a fresh network namespace with its loopback up. Answers false, with a message, where that is not
/// permitted: the test should end there.
///
/// # Panics
/// If the host lets us in but the loopback is broken: this is a test.
#[must_use]
pub fn enter() -> bool {
    // SAFETY: CLONE_NEWNET touches only what the calling thread sees of the network; no memory or descriptors are unshared.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        eprintln!("skipped: no network namespace: {}", std::io::Error::last_os_error());
        return false;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("skipped: no /dev/net/tun");
        return false;
    }
    crate::interface::Interface::new("lo").and_then(|lo| lo.set_up()).is_ok()
}
