//! What is allowed, in one place. A change here is a change of the house rules (`CONTRIBUTING.md`, `ARCHITECTURE.md`).

/// Lines a `.rs` file may have; aim for 300.
pub const MAX_FILE_LINES: usize = 800;
/// Lines a function may have, from its first attribute-free line to its closing brace.
pub const MAX_FUNCTION_LINES: usize = 80;

/// Crates that may contain `unsafe`.
pub const UNSAFE_CRATES: &[&str] = &["host", "sandbox", "memory", "hv-kvm", "block", "net"];

/// Files that hold test support for other crates' tests: they may panic as tests may.
pub const TEST_SUPPORT: &[&str] = &[
    "crates/api/src/testing.rs",
    "crates/dbus/src/testing.rs",
    "crates/device/src/contract.rs",
    "crates/memory/src/testing.rs",
    "crates/sandbox/src/seccomp/testing.rs",
    "crates/virtio/src/fake.rs",
];

/// Layer of each workspace crate. A crate may use its own layer and lower ones.
pub const LAYERS: &[(&str, u8)] = &[
    // Knows no VM.
    ("host", 0),
    ("keyval", 0),
    ("sandbox", 0),
    ("limiter", 0),
    ("meter", 0),
    // Vocabulary.
    ("memory", 1),
    ("config", 1),
    ("api", 1),
    ("device", 1),
    ("hv", 1),
    // Mechanisms.
    ("irqchip", 2),
    ("hv-kvm", 2),
    ("x86", 2),
    ("hv-soft", 2),
    ("pci", 2),
    ("snapshot", 2),
    ("stream", 2),
    ("virtio", 2),
    ("vhost", 2),
    ("vfio", 2),
    ("block", 2),
    ("net", 2),
    ("coredump", 2),
    ("pager", 2),
    ("migration", 2),
    // Devices.
    ("chipset", 3),
    ("virtio-devices", 3),
    // Assembly.
    ("boot", 4),
    ("machine", 4),
    // Process.
    ("control", 5),
    ("http", 5),
    ("dbus", 5),
    ("gdb", 5),
    ("cloud-hypervisor", 6),
    ("ch-remote", 6),
    // Tools stand above everything.
    ("xtask", 7),
    ("vmbench", 7),
    ("vmguest", 7),
    ("vmtest", 7),
    ("tidy", 7),
    ("fuzz-targets", 7),
];

/// Dependencies the layer numbers would allow and the design does not: (crate, may not use, why).
pub const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("chipset", "hv", "a device never learns what runs the CPU"),
    ("virtio-devices", "hv", "a device never learns what runs the CPU"),
    ("chipset", "hv-kvm", "a device never learns what runs the CPU"),
    ("virtio-devices", "hv-kvm", "a device never learns what runs the CPU"),
    ("machine", "hv-kvm", "the machine knows the hypervisor traits, not a back end"),
    ("machine", "hv-soft", "the machine knows the hypervisor traits, not a back end"),
    ("migration", "machine", "migration sees traits, never the machine's inside"),
    ("http", "control", "a door stands over the api crate only"),
    ("dbus", "control", "a door stands over the api crate only"),
];

/// Crates with a closed list of workspace dependencies: (crate, all it may use).
pub const CLOSED: &[(&str, &[&str])] = &[("ch-remote", &["api", "config", "keyval", "snapshot"])];

/// Crates that may start threads by themselves: the one that confines all others, and a program that is no VMM.
pub const SPAWNING_CRATES: &[&str] = &["sandbox", "ch-remote"];

/// The list of the kinds of device, a line each.
pub const CATALOGUE: &str = "crates/machine/src/catalogue.rs";

/// Other places outside of its folder that name a virtio device: (file, device or `*`, why).
pub const DEVICE_HANDLES: &[(&str, &str, &str)] = &[
    ("crates/machine/src/lib.rs", "console", "a verb tells consoles that their terminal has another size"),
    ("crates/machine/src/ram_size.rs", "balloon", "how much RAM the guest has is for its balloon to say"),
    ("crates/machine/src/ram_size.rs", "mem", "and for the devices that plug it"),
    ("crates/machine/src/lib.rs", "blk", "a verb gives a disk another size"),
    ("crates/machine/src/tests.rs", "blk", "a test looks for a disk's handle"),
    ("tools/fuzz-targets/src/rig.rs", "*", "fuzzing reaches into devices, behind their builders"),
];

/// Methods that panic on the unexpected value.
pub const PANICKING_METHODS: &[&str] = &["unwrap", "expect", "unwrap_err", "expect_err"];
/// Macros that panic.
pub const PANICKING_MACROS: &[&str] = &["panic", "todo", "unimplemented", "unreachable"];
