//! File descriptor numbers. Only a command line may name them: in JSON a number means nothing to this
//! process, so it is read as -1 and only the count is kept; the descriptors themselves come with the message
//! (`spec/config.md` §0).

use serde::{Deserialize, Deserializer};

/// Stands for a descriptor that came in JSON.
pub const UNKNOWN: i32 = -1;

pub(crate) fn one<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i32>, D::Error> {
    let trusted = !from.is_human_readable();
    let fd = Option::<i32>::deserialize(from)?;
    Ok(fd.map(|fd| if trusted { fd } else { UNKNOWN }))
}

pub(crate) fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<i32>>, D::Error> {
    let trusted = !from.is_human_readable();
    let fds = Option::<Vec<i32>>::deserialize(from)?;
    Ok(fds.map(|fds| fds.into_iter().map(|fd| if trusted { fd } else { UNKNOWN }).collect()))
}
