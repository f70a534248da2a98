//! `local`: RAM is handed over as descriptors.

use std::os::fd::AsFd;

use super::{SendError, Sending, link, machine};
use crate::connection::{Connection, Limit, LinkError};
use crate::wire::{Command, Request};

impl Sending<'_> {
    pub(super) fn send_fds(&mut self, main: &mut Connection) -> Result<(), SendError> {
        let fds = self.source.memory_fds().map_err(machine("share the machine's memory"))?;
        for (slot, fd) in fds {
            let send = |main: &mut Connection| -> Result<(), LinkError> {
                let number = slot.to_le_bytes();
                main.ask(Request::new(Command::MemoryFd, number.len() as u64))?;
                main.write_with_fd(&number, fd.as_fd())?;
                main.answer(Limit::Within(self.settings.limits.memory)).map(drop)
            };
            send(main).map_err(link("hand the machine's memory over"))?;
        }
        Ok(())
    }
}
