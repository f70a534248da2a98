//! Values that are spelled differently in JSON and in an option string.
//!
//! Each function is for `#[serde(deserialize_with = "...")]`. A human-readable format (JSON) is read by the
//! type's own rules, so that nothing leaks from the command line into JSON.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};

/// Reads a byte count with the optional suffix `K`, `M` or `G` (powers of 1024). The last letter sets the
/// scale and all trailing ones are dropped, so `1KM` is 1 MiB. `None` if it is no number or does not fit.
pub fn parse_byte_size(text: &str) -> Option<u64> {
    let scale: u64 = match text.chars().next_back()? {
        'K' => 1 << 10,
        'M' => 1 << 20,
        'G' => 1 << 30,
        _ => 1,
    };
    text.trim_end_matches(['K', 'M', 'G']).parse::<u64>().ok()?.checked_mul(scale)
}

/// A `T` as JSON has it, or what `parse` makes of an option's text.
///
/// # Errors
/// The format's own, or that of `parse`.
pub fn parsed_by<'de, D, T, E>(from: D, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    E: Display,
{
    if from.is_human_readable() {
        return T::deserialize(from);
    }
    parse(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// [`parsed_by`] for an optional field.
///
/// # Errors
/// As [`parsed_by`].
pub fn parsed_opt_by<'de, D, T, E>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    E: Display,
{
    if from.is_human_readable() {
        return Option::deserialize(from);
    }
    parse(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

/// A `T` as JSON has it, or its `FromStr` in an option string.
///
/// # Errors
/// As [`parsed_by`].
pub fn spelled<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr<Err: Display>,
{
    parsed_by(from, T::from_str)
}

/// [`spelled`] for an optional field.
///
/// # Errors
/// As [`parsed_by`].
pub fn spelled_opt<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr<Err: Display>,
{
    parsed_opt_by(from, T::from_str)
}

/// A number of bytes: plain in JSON, with an optional suffix in an option string.
///
/// # Errors
/// As [`parsed_by`].
pub fn byte_size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    parsed_by(from, |text| parse_byte_size(text).ok_or("no byte size"))
}

/// [`byte_size`] for an optional field.
///
/// # Errors
/// As [`parsed_by`].
pub fn byte_size_opt<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    parsed_opt_by(from, |text| parse_byte_size(text).ok_or("no byte size"))
}
