//! The virtio devices, one module each: `front` is what vCPUs enter through the transport, `worker` what runs on the device's thread.

pub mod console;
pub mod rng;
pub mod watchdog;
