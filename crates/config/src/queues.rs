//! Rules that every virtio section with queues shares.

use crate::check::Scope;

pub(crate) const SHARED_MEMORY: &str = "Using vhost-user requires using shared memory or huge pages";
pub(crate) const SHARED_MEMORY_HINT: &str = "set --memory shared=on";

/// A back end in another process maps guest RAM.
pub(crate) fn check_shared_memory(at: &mut Scope<'_, '_>, field: &str) {
    if !at.vm.memory.is_shareable() {
        at.invalid(field, SHARED_MEMORY, SHARED_MEMORY_HINT);
    }
}

/// A vhost-user disk or net: memory, socket, no limiter here.
pub(crate) fn check_vhost_user(at: &mut Scope<'_, '_>, socket: Option<&str>, limited: bool) {
    check_shared_memory(at, "vhost_user");
    if socket.is_none() {
        at.invalid("vhost_socket", "No socket provided when using vhost-user", "give the back end's socket");
    }
    if limited {
        let text = "Rate limiting is not supported with vhost-user";
        at.invalid("rate_limiter_config", text, "limit in the back end instead");
    }
}

/// No more queues (or pairs) than vCPUs; `shown` is what the user wrote.
pub(crate) fn check_count(at: &mut Scope<'_, '_>, used: usize, shown: usize) {
    let vcpus = at.vcpus();
    if u64::try_from(used).map_or(true, |used| used > u64::from(vcpus)) {
        let text = format!("Queue count ({shown}) must not exceed boot vCPUs ({vcpus})");
        at.invalid("num_queues", text, "lower num_queues or raise --cpus boot");
    }
}

/// A PCI function has a bell for each of 1024 queues. `with` are those that the device has besides.
pub(crate) fn check_limit(at: &mut Scope<'_, '_>, queues: usize, with: usize) {
    const LIMIT: usize = 1024;
    if queues.saturating_add(with) > LIMIT {
        let text = format!("Queue count ({queues}) must not exceed {}", LIMIT - with);
        at.invalid("num_queues", text, "use fewer queues: one for each vCPU that uses the device at once");
    }
}

/// A split virtqueue's size.
pub(crate) fn check_size(at: &mut Scope<'_, '_>, field: &str, size: u16) {
    if !size.is_power_of_two() {
        let text = format!("Queue size must be a power of 2 no greater than 32768: {size}");
        at.invalid(field, text, "use 256, for example");
    }
}
