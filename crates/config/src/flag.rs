//! Errors and the common step of reading one flag's value.

use keyval::Syntax;
use serde::de::DeserializeOwned;

/// Why a flag's value was refused. The binary prints `Error parsing config` before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// The option string is wrong.
    #[error("Error parsing {flag}")]
    Options {
        /// The flag with its dashes.
        flag: &'static str,
        /// What is wrong with the string.
        source: keyval::Error,
    },
    /// An option without a default was not given.
    #[error("Error parsing {flag}: {key} missing")]
    Missing {
        /// The flag with its dashes.
        flag: &'static str,
        /// The option.
        key: &'static str,
    },
    /// A rule of this flag alone.
    #[error("Error parsing {flag}: {text}")]
    Rule {
        /// The flag with its dashes.
        flag: &'static str,
        /// What the rule says.
        text: &'static str,
    },
    /// A CPU feature that cannot be switched.
    #[error("Invalid feature in --cpus features list: {0}")]
    CpuFeature(String),
    /// The debug console's port is not `0x...`.
    #[error("The IO port was not properly provided in hex or a `0x` prefix is missing: {0}")]
    IoPort(String),
}

impl FlagError {
    /// Puts a flag's name on an option string's error.
    pub(crate) fn of(flag: &'static str) -> impl Fn(keyval::Error) -> Self {
        move |source| match source {
            keyval::Error::Missing(key) => Self::Missing { flag, key },
            source => Self::Options { flag, source },
        }
    }
}

/// Reads a flag that has no rules beyond its syntax.
pub(crate) fn read<T: DeserializeOwned>(
    flag: &'static str,
    syntax: &Syntax,
    text: &str,
) -> Result<T, FlagError> {
    syntax.parse(text).and_then(|options| options.read()).map_err(FlagError::of(flag))
}
