//! What can be wrong with an option string, in the words clients know (`spec/config.md` §0).

use std::fmt::Display;

/// Why an option string was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Unbalanced quotes or brackets (the whole string), or an option without `=` (that option).
    #[error("Invalid syntax: {0}")]
    Syntax(String),
    /// A key this flag does not have.
    #[error("Unknown option: {0}")]
    Unknown(String),
    /// A value that is not of its key's type.
    #[error("Unable to convert {value} for {key}")]
    Convert {
        /// The value as it was written.
        value: String,
        /// The key as it was written.
        key: String,
    },
    /// A value of the right type that makes no sense.
    #[error("Invalid value: {0}")]
    Invalid(String),
    /// A key without a default was not given.
    #[error("{0} missing")]
    Missing(&'static str),
}

impl serde::de::Error for Error {
    fn custom<T: Display>(message: T) -> Self {
        Self::Invalid(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }
}
