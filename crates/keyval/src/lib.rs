//! A serde format for the `key=value` option strings of the command line (`spec/config.md` §0), as in
//! `path=/a.raw,readonly=on,queue_affinity=[0@[1-3],1@[4]]`.
//!
//! The same `#[derive(Deserialize)]` type serves JSON and the command line. What is natural here maps to
//! plain serde types: `bool` is `on`/`off`, `Vec<u16>` is `[0,2-4]`, `Vec<String>` is `[a,b]`, a vector of
//! two-field structs (or pairs) is `[k@v,k@[1-3]]`. A field spelled differently on the two sides uses
//! [`spelled`] or [`byte_size`]; they tell the formats apart by `is_human_readable()`, which is false here.
//!
//! Called from the thread that parses flags (main thread, or `ch-remote`); holds no state.

mod de;
mod error;
mod options;
mod split;
mod value;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use options::{Options, Syntax};
pub use value::{byte_size, byte_size_opt, parse_byte_size, parsed_by, parsed_opt_by, spelled, spelled_opt};

/// Reads `text` as a `T`; the keys are the field names of `T`.
///
/// # Errors
/// See [`Error`]; an unknown key is found before a value that does not convert.
pub fn from_str<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Error> {
    Options::unchecked(text)?.read()
}
