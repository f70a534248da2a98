//! Threads as the server of a device's queues.

use std::time::Instant;

use crate::worker::{Message, STOP_LIMIT, Worker};
use crate::{Activation, ActiveQueue, QueueServer};

/// All workers of a device. Each owns the queues with certain indices. Dropping it ends the threads.
pub struct Workers {
    pub(crate) workers: Vec<(Worker, Vec<u16>)>,
    /// Workers whose queues have not come back yet, by position, while the device runs or stops.
    pending: Vec<usize>,
    returned: Vec<ActiveQueue>,
    /// Since when a stop is waited for.
    pub(crate) stopping_since: Option<Instant>,
}

impl Workers {
    /// `workers` with the indices of the queues each serves.
    pub fn new(workers: Vec<(Worker, Vec<u16>)>) -> Self {
        Self { workers, pending: Vec::new(), returned: Vec::new(), stopping_since: None }
    }
}

impl QueueServer for Workers {
    fn start(&mut self, activation: Activation) {
        let Activation { ram, features, mut queues, signals } = activation;
        self.pending.clear();
        self.stopping_since = None;
        for (position, (worker, indices)) in self.workers.iter().enumerate() {
            let (mine, rest): (Vec<_>, Vec<_>) = queues.into_iter().partition(|q| indices.contains(&q.index));
            queues = rest;
            if !mine.is_empty() {
                self.pending.push(position);
                let (ram, signals) = (ram.clone(), signals.clone());
                worker.send(Message::Start(Activation { ram, features, queues: mine, signals }));
            }
        }
        // Queues that nobody serves (a control queue without its feature) wait here.
        self.returned = queues;
    }

    fn stop(&mut self) {
        self.stopping_since.get_or_insert_with(Instant::now);
        for position in &self.pending {
            if let Some((worker, _)) = self.workers.get(*position) {
                worker.send(Message::Stop);
            }
        }
    }

    fn stopped(&mut self, deadline: Instant) -> Option<Vec<ActiveQueue>> {
        let Self { workers, pending, returned, .. } = self;
        pending.retain(|position| {
            let queues = workers
                .get(*position)
                .map_or_else(|| Some(Vec::new()), |(worker, _)| worker.receive(deadline));
            let missing = queues.is_none();
            returned.extend(queues.into_iter().flatten());
            missing
        });
        if !self.pending.is_empty() {
            return None;
        }
        // Who is dropped long after a pause has all of its time to end.
        self.stopping_since = None;
        let mut queues = std::mem::take(&mut self.returned);
        queues.sort_by_key(|q| q.index);
        Some(queues)
    }
}

impl Drop for Workers {
    /// Asks all, then waits for all.
    fn drop(&mut self) {
        self.workers.iter().for_each(|(worker, _)| worker.send(Message::Exit));
        let deadline = self.stopping_since.unwrap_or_else(Instant::now) + STOP_LIMIT;
        self.workers.iter_mut().for_each(|(worker, _)| worker.join(deadline));
    }
}
