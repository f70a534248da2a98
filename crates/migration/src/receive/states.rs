//! Which request is accepted when (`spec/lifecycle.md` §8).

use crate::wire::Command;

/// How far the conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A connection is there.
    Established,
    /// Version and session are known.
    Started,
    /// Some memory has come as descriptors.
    FdsReceived,
    /// RAM is there.
    Configured,
    /// The machine is whole, and still the source's.
    Holding,
    /// The machine is this side's.
    Completed,
}

impl State {
    pub(super) fn accepts(self, command: Command) -> bool {
        use Command as C;
        match self {
            _ if command == C::Abandon => self != Self::Completed,
            Self::Established => command == C::Start,
            Self::Started | Self::FdsReceived => matches!(command, C::MemoryFd | C::Config),
            Self::Configured => matches!(command, C::Memory | C::State),
            Self::Holding => matches!(command, C::Complete | C::CompletePaused),
            Self::Completed => command == C::Settled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Command as C, State};

    #[test]
    fn each_state_accepts_what_the_specification_says() {
        let all = [
            C::Start,
            C::Config,
            C::State,
            C::Memory,
            C::Complete,
            C::Abandon,
            C::MemoryFd,
            C::CompletePaused,
            C::PageFault,
            C::Settled,
        ];
        let accepted = |state: State| all.into_iter().filter(|c| state.accepts(*c)).collect::<Vec<_>>();
        assert_eq!(accepted(State::Established), [C::Start, C::Abandon]);
        assert_eq!(accepted(State::Started), [C::Config, C::Abandon, C::MemoryFd]);
        assert_eq!(accepted(State::FdsReceived), [C::Config, C::Abandon, C::MemoryFd]);
        assert_eq!(accepted(State::Configured), [C::State, C::Memory, C::Abandon]);
        assert_eq!(accepted(State::Holding), [C::Complete, C::Abandon, C::CompletePaused]);
        assert_eq!(accepted(State::Completed), [C::Settled]);
    }
}
