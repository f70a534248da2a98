//! What becomes of a machine whose memory the host does not have: it is told of, see [`memory::missing`].

use std::sync::Arc;

use memory::HostMemory;
use memory::missing::{Guard, Missing, Shortened};

use crate::Machine;

impl Machine {
    /// Memory that was not there when a thread of ours touched it, since the last call. The guest has lost it.
    pub fn take_missing(&self) -> Vec<Missing> {
        self.of_each(Guard::take_missing)
    }

    /// Files behind guest memory that have become too short since the last call.
    pub fn take_shortened(&self) -> Vec<Shortened> {
        self.of_each(Guard::take_shortened)
    }

    /// Whether there are files to look at.
    pub fn has_files_behind_memory(&self) -> bool {
        !self.of_each(|guard| guard.has_file().then_some(())).is_empty()
    }

    fn of_each<T>(&self, mut ask: impl FnMut(&Guard) -> Option<T>) -> Vec<T> {
        let ram = self.ram.guest().host_memory().into_iter().map(|(_, memory)| memory);
        let all = ram.chain(self.nodes.own_memory().cloned());
        all.filter_map(|memory: Arc<dyn HostMemory>| ask(memory.guard()?)).collect()
    }
}
