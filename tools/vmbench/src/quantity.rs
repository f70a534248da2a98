//! What is measured, and what it should be.

use serde::{Deserialize, Serialize};

/// What does not grow with RAM is for eight times the RAM at most so many times as much: noise has its part in it.
const DOES_NOT_GROW: f64 = 1.5;

/// What is measured, in the order of the table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// Process start to the first API reply, ms.
    Start,
    /// Median latency of an API call on an open connection, ms.
    CallMedian,
    /// 99th percentile of the same, ms.
    CallTail,
    /// Median time of `vm.create` on an open connection, ms.
    Create,
    /// Proportional set size of the process when a VM is created and has not run, MiB.
    Created,
    /// 99th percentile of many `vm.info` while a boot hangs, ms.
    InfoWhileHung,
    /// The slowest of them, ms.
    InfoSlowest,
    /// Process start to the guest's init, ELF kernel, ms.
    InitElf,
    /// Process start to the guest's init, bzImage, ms.
    InitBzImage,
    /// Proportional set size beyond the guest's RAM at the guest's init, MiB.
    Running,
    /// 4 KiB random reads per second.
    RandomRead,
    /// 4 KiB random writes per second.
    RandomWrite,
    /// Sequential reading, MiB/s.
    SequentialRead,
    /// Sequential writing, MiB/s.
    SequentialWrite,
    /// TCP from the guest over a tap, Mbit/s.
    Send,
    /// TCP to the guest over a tap, Mbit/s.
    Receive,
    /// Request for a disk until a running guest has it, ms.
    LaterDisk,
    /// Request for a network device until a running guest has it, ms.
    LaterNet,
    /// Request for a GiB by virtio-mem until a running guest has all of it, ms.
    LaterMemory,
    /// Request for a vCPU until a running guest has it online, ms.
    LaterCpu,
    /// How long an idle guest of 256 MiB stands still for a snapshot, as its VMM has it, ms.
    PauseIdleSmall,
    /// The same of 2 GiB.
    PauseIdleLarge,
    /// How long a guest of 256 MiB stands still that writes to 32 MiB all the time, ms.
    PauseBusySmall,
    /// The same of 2 GiB.
    PauseBusyLarge,
    /// How long an idle guest of 2 GiB is not heard during a snapshot, ms.
    SilenceIdle,
    /// The same of one that writes.
    SilenceBusy,
    /// For how long it did not run by its own clock, ms.
    ClockBusy,
    /// Request for a snapshot of 2 GiB until it is on the disk, ms.
    SnapshotTime,
    /// What it occupies on the disk, MiB.
    SnapshotSize,
    /// The same for a snapshot that stores what has changed since, ms.
    IncrementalTime,
    /// What that occupies, MiB.
    IncrementalSize,
    /// Process start until the first word of a guest of 256 MiB whose RAM is copied first, ms.
    CopySmall,
    /// The same of 2 GiB.
    CopyLarge,
    /// Process start until the first word of a guest of 256 MiB whose RAM comes on demand, ms.
    DemandSmall,
    /// The same of 2 GiB.
    DemandLarge,
    /// Process start until the first word of a guest of 256 MiB whose RAM is mapped from the snapshot, ms.
    MappedSmall,
    /// The same of 2 GiB.
    MappedLarge,
    /// Start of 16 processes until the last of 16 clones of 256 MiB has spoken, ms.
    Clones,
    /// RAM in use that moves to another process a second over one TCP connection, MiB/s.
    MoveOne,
    /// The same over four.
    MoveFour,
    /// How long a guest of 2 GiB is not heard while it moves over one TCP connection, ms.
    SilenceOne,
    /// The same over four.
    SilenceFour,
    /// The same if its memory is handed over as descriptors.
    SilenceLocal,
    /// For how long it did not run then by its own clock, ms.
    ClockLocal,
    /// Size of the program's file, MiB.
    Program,
}

/// What a quantity of this VMM should be; the project's aims.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// The median is below this many units.
    Below(f64),
    /// The median is at most this many units.
    AtMost(f64),
    /// The median of the ratios to `-M microvm` is at most this.
    OfMicrovm(f64),
    /// The median of the ratios to `-M q35` is at most this.
    OfQ35(f64),
    /// The median is at most so many times that of another quantity of this VMM.
    Of(Quantity, f64),
}

impl Quantity {
    /// What the table calls it, with its unit.
    pub fn title(self) -> &'static str {
        match self {
            Self::Start => "start to first API reply, ms",
            Self::CallMedian => "API call, p50, ms",
            Self::CallTail => "API call, p99, ms",
            Self::Create => "vm.create, p50, ms",
            Self::Created => "Pss with a VM created, MiB",
            Self::InfoWhileHung => "vm.info during a boot that hangs, p99, ms",
            Self::InfoSlowest => "the same, slowest of 1000, ms",
            Self::InitElf => "start to guest init, vmlinux, ms",
            Self::InitBzImage => "start to guest init, bzImage, ms",
            Self::Running => "Pss beyond guest RAM, MiB",
            Self::RandomRead => "4 KiB random read, IOPS",
            Self::RandomWrite => "4 KiB random write, IOPS",
            Self::SequentialRead => "sequential read, MiB/s",
            Self::SequentialWrite => "sequential write, MiB/s",
            Self::Send => "TCP guest to host, Mbit/s",
            Self::Receive => "TCP host to guest, Mbit/s",
            Self::LaterDisk => "disk to a running guest, ms",
            Self::LaterNet => "network device to a running guest, ms",
            Self::LaterMemory => "1 GiB to a running guest, ms",
            Self::LaterCpu => "vCPU to a running guest, ms",
            Self::PauseIdleSmall => "snapshot's pause, 256 MiB idle, ms",
            Self::PauseIdleLarge => "snapshot's pause, 2 GiB idle, ms",
            Self::PauseBusySmall => "snapshot's pause, 256 MiB writing, ms",
            Self::PauseBusyLarge => "snapshot's pause, 2 GiB writing, ms",
            Self::SilenceIdle => "silence at a snapshot, 2 GiB idle, ms",
            Self::SilenceBusy => "silence at a snapshot, 2 GiB writing, ms",
            Self::ClockBusy => "the same by the guest's clock, ms",
            Self::SnapshotTime => "snapshot of 2 GiB, ms",
            Self::SnapshotSize => "snapshot of 2 GiB on the disk, MiB",
            Self::IncrementalTime => "incremental snapshot of 2 GiB, ms",
            Self::IncrementalSize => "incremental snapshot on the disk, MiB",
            Self::CopySmall => "restore to first word, copy, 256 MiB, ms",
            Self::CopyLarge => "restore to first word, copy, 2 GiB, ms",
            Self::DemandSmall => "restore to first word, ondemand, 256 MiB, ms",
            Self::DemandLarge => "restore to first word, ondemand, 2 GiB, ms",
            Self::MappedSmall => "restore to first word, copyonwrite, 256 MiB, ms",
            Self::MappedLarge => "restore to first word, copyonwrite, 2 GiB, ms",
            Self::Clones => "16 clones of 256 MiB at once, ms",
            Self::MoveOne => "migration, one connection, MiB/s",
            Self::MoveFour => "migration, four connections, MiB/s",
            Self::SilenceOne => "silence at a migration, one connection, ms",
            Self::SilenceFour => "silence at a migration, four connections, ms",
            Self::SilenceLocal => "silence at a local hand-over, ms",
            Self::ClockLocal => "the same by the guest's clock, ms",
            Self::Program => "program's file, MiB",
        }
    }

    /// Whether larger values are better.
    pub fn is_rate(self) -> bool {
        matches!(
            self,
            Self::RandomRead
                | Self::RandomWrite
                | Self::SequentialRead
                | Self::SequentialWrite
                | Self::Send
                | Self::Receive
                | Self::MoveOne
                | Self::MoveFour
        )
    }

    /// Digits behind the point.
    pub fn digits(self) -> usize {
        match self {
            Self::CallMedian | Self::CallTail | Self::Create | Self::Program => 3,
            Self::Start | Self::InfoWhileHung | Self::InfoSlowest | Self::Created | Self::Running => 2,
            Self::LaterDisk | Self::LaterNet | Self::LaterMemory | Self::LaterCpu => 1,
            Self::PauseIdleSmall | Self::PauseIdleLarge | Self::PauseBusySmall | Self::PauseBusyLarge => 1,
            Self::SnapshotSize | Self::IncrementalSize => 1,
            _ => 0,
        }
    }

    /// What it should be, as far as the project has set itself aims.
    pub fn targets(self) -> Vec<Target> {
        match self {
            Self::Start => vec![Target::Below(4.0)],
            Self::CallMedian => vec![Target::Below(0.04)],
            Self::Create => vec![Target::AtMost(0.2)],
            Self::Created => vec![Target::Below(3.0)],
            Self::InfoWhileHung => vec![Target::Below(5.0)],
            Self::InitElf => vec![Target::OfMicrovm(0.54)],
            Self::Running => vec![Target::AtMost(3.1)],
            Self::LaterDisk | Self::LaterNet | Self::LaterMemory | Self::LaterCpu => vec![Target::OfQ35(0.8)],
            Self::PauseIdleLarge => vec![Target::Of(Self::PauseIdleSmall, DOES_NOT_GROW)],
            Self::PauseBusyLarge => vec![Target::Of(Self::PauseBusySmall, DOES_NOT_GROW)],
            Self::IncrementalSize => vec![Target::Of(Self::SnapshotSize, 0.05)],
            Self::MappedLarge => {
                vec![Target::Of(Self::MappedSmall, DOES_NOT_GROW), Target::Of(Self::CopyLarge, 0.1)]
            }
            Self::SilenceLocal => vec![Target::Of(Self::SilenceOne, 0.5)],
            _ => Vec::new(),
        }
    }
}
