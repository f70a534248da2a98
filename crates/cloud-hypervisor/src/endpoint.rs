//! `path=P`, `fd=N` or a bare path: where a socket or a file is.

use std::os::fd::RawFd;
use std::path::PathBuf;

use thiserror::Error;

/// Why an endpoint makes no sense.
#[derive(Debug, Error)]
pub(crate) enum EndpointError {
    /// `fd=` without a number.
    #[error("Unable to convert {0} for fd: give the number of an open descriptor")]
    NotANumber(String),
    /// No path.
    #[error("The path is empty: give a path, path=PATH or fd=N")]
    Empty,
    /// Nothing is open there.
    #[error(
        "Descriptor {0} was not left open for this process, or is named twice: let the parent process pass it on"
    )]
    Closed(RawFd, #[source] std::io::Error),
}

/// A path or an inherited descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// In the file system.
    Path(PathBuf),
    /// Left open by the parent process.
    Fd(RawFd),
}

impl Endpoint {
    /// Reads any of the three forms.
    pub(crate) fn parse(text: &str) -> Result<Self, EndpointError> {
        if let Some(number) = text.strip_prefix("fd=") {
            return number.parse().map(Self::Fd).map_err(|_| EndpointError::NotANumber(number.into()));
        }
        match text.strip_prefix("path=").unwrap_or(text) {
            "" => Err(EndpointError::Empty),
            path => Ok(Self::Path(path.into())),
        }
    }

    /// Reads `path=` and `fd=` in any order, separated by commas; `fd` wins.
    pub(crate) fn parse_strict(text: &str) -> Option<Self> {
        let parts: Option<Vec<_>> = text.split(',').map(|part| part.split_once('=')).collect();
        let parts = parts?;
        let value = |key| parts.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| *value);
        match (value("fd"), value("path")) {
            (Some(number), _) => number.parse().ok().map(Self::Fd),
            (None, path) => path.filter(|path| !path.is_empty()).map(|path| Self::Path(path.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_are_read() {
        for (text, expected) in
            [("path=/a", Endpoint::Path("/a".into())), ("/b=c", Endpoint::Path("/b=c".into()))]
        {
            assert_eq!(Endpoint::parse(text).unwrap(), expected);
        }
        assert_eq!(Endpoint::parse("fd=7").unwrap(), Endpoint::Fd(7));
        for text in ["fd=x", "fd=", "", "path="] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_monitor_needs_a_key() {
        assert_eq!(Endpoint::parse_strict("path=/a,fd=3"), Some(Endpoint::Fd(3)));
        assert_eq!(Endpoint::parse_strict("path=/a"), Some(Endpoint::Path("/a".into())));
        assert_eq!(Endpoint::parse_strict("/a"), None);
        assert_eq!(Endpoint::parse_strict("file=/a"), None);
        assert_eq!(Endpoint::parse_strict("path="), None);
    }
}
