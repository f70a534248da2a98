//! Spellings of enums on the command line; JSON has the variants' own names.

/// A word that is none of an option's values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown word: {0}")]
pub struct UnknownWord(pub String);

/// Finds `word` among spellings that must match exactly.
pub(crate) fn exact<T: Copy>(word: &str, spellings: &[(&str, T)]) -> Result<T, UnknownWord> {
    let found = spellings.iter().find(|(spelling, _)| *spelling == word);
    found.map(|(_, value)| *value).ok_or_else(|| UnknownWord(word.to_owned()))
}

/// Finds `word` among spellings in lower case, whatever its own case.
pub(crate) fn any_case<T: Copy>(word: &str, spellings: &[(&str, T)]) -> Result<T, UnknownWord> {
    exact(&word.to_ascii_lowercase(), spellings)
}
