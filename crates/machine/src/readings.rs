//! What a machine counts, read without a lock and without the machine, on the doors' own threads.

use std::sync::Arc;

use api::{Counters, Meters};
use hv::Exits;
use meter::CounterSet;

use crate::ram_size::RamSize;

/// A view of a machine's counters. It outlives changes of the machine.
pub struct Readings {
    pub(crate) devices: Vec<(String, Arc<dyn CounterSet>)>,
    pub(crate) vcpus: Vec<Arc<Exits>>,
    pub(crate) ram_size: RamSize,
}

impl Readings {
    /// What `vm.counters` answers.
    pub fn counters(&self) -> Counters {
        let named =
            |values: Vec<(&'static str, u64)>| values.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        self.devices.iter().map(|(id, source)| (id.clone(), named(source.read()))).collect()
    }

    /// Bytes of RAM that the guest has now.
    pub fn ram_size(&self) -> u64 {
        self.ram_size.read()
    }

    /// What metrics tell besides.
    pub fn meters(&self) -> Meters {
        let queues = self
            .devices
            .iter()
            .flat_map(|(id, source)| source.queues().into_iter().map(|reading| (id.clone(), reading)));
        Meters { vcpu_exits: self.vcpus.iter().map(|exits| exits.read()).collect(), queues: queues.collect() }
    }
}
