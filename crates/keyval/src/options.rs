//! One flag's options: the keys it knows, and the string cut into them.

use serde::de::DeserializeOwned;

use crate::{Error, de, split};

/// What a flag accepts. The help text is the list of keys: what stands before each `=` in it.
#[derive(Debug, Clone, Copy)]
pub struct Syntax {
    /// Shown by `--help`: `path=<file>,readonly=on|off`. Placeholders hold no `=` and no comma.
    pub help: &'static str,
    hidden: &'static [&'static str],
    words: &'static [&'static str],
    renamed: &'static [(&'static str, &'static str)],
}

impl Syntax {
    /// A syntax with the keys of `help`.
    pub const fn new(help: &'static str) -> Self {
        Self { help, hidden: &[], words: &[], renamed: &[] }
    }

    /// Keys that work and are not in the help text.
    pub const fn hidden(self, hidden: &'static [&'static str]) -> Self {
        Self { hidden, ..self }
    }

    /// Keys that need no value (`off`, `tty`).
    pub const fn words(self, words: &'static [&'static str]) -> Self {
        Self { words, ..self }
    }

    /// Keys whose serde field has another name: (key, field).
    pub const fn renamed(self, renamed: &'static [(&'static str, &'static str)]) -> Self {
        Self { renamed, ..self }
    }

    fn knows(&self, key: &str) -> bool {
        let mut in_help = self.help.split([',', '|']).filter_map(|part| part.split_once('='));
        in_help.any(|(known, _)| known == key) || self.hidden.contains(&key) || self.words.contains(&key)
    }

    fn field_of<'a>(&self, key: &'a str) -> &'a str {
        self.renamed.iter().find(|(from, _)| *from == key).map_or(key, |(_, field)| field)
    }

    /// Cuts `text` into options and checks the keys.
    ///
    /// # Errors
    /// `Syntax` and `Unknown`, in the order of the string.
    pub fn parse(&self, text: &str) -> Result<Options, Error> {
        let mut options = Options::default();
        for piece in pieces(text)? {
            let (key, value) = cut(piece);
            if !self.knows(key) {
                return Err(Error::Unknown(key.to_owned()));
            }
            if value.is_none() && !self.words.contains(&key) {
                return Err(Error::Syntax(piece.to_owned()));
            }
            options.set(key, self.field_of(key), value);
        }
        options.entries.retain(|entry| entry.value.as_deref() != Some(""));
        Ok(options)
    }
}

/// Options cut from a string: each key once, the last one given.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) field: String,
    /// `None` without `=`; empty for `key=`, which counts as not given.
    pub(crate) value: Option<String>,
}

impl Options {
    /// Cuts without a list of keys; the type read later knows them.
    pub(crate) fn unchecked(text: &str) -> Result<Self, Error> {
        let mut options = Self::default();
        for piece in pieces(text)? {
            let (key, value) = cut(piece);
            options.set(key, key, value);
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, field: &str, value: Option<&str>) {
        self.entries.retain(|entry| entry.field != field);
        let value = value.map(str::to_owned);
        self.entries.push(Entry { key: key.to_owned(), field: field.to_owned(), value });
    }

    /// Sets `field` to `value` unless it was given.
    #[must_use]
    pub fn or(mut self, field: &str, value: &str) -> Self {
        if !self.entries.iter().any(|entry| entry.field == field) {
            self.set(field, field, Some(value));
        }
        self
    }

    /// Removes `field` and says whether it was given.
    pub fn take_word(&mut self, field: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.field != field);
        self.entries.len() < before
    }

    /// Removes `field` and converts its value.
    ///
    /// # Errors
    /// `Convert` if the value is not a `T`.
    pub fn take<T: DeserializeOwned>(&mut self, field: &str) -> Result<Option<T>, Error> {
        let Some(at) = self.entries.iter().position(|entry| entry.field == field) else {
            return Ok(None);
        };
        let entry = self.entries.remove(at);
        de::value(&entry).map(Some)
    }

    /// Removes the options of the given fields, for a type of their own.
    #[must_use]
    pub fn split_off(&mut self, fields: &[&str]) -> Self {
        let (taken, kept) =
            self.entries.drain(..).partition(|entry: &Entry| fields.contains(&entry.field.as_str()));
        self.entries = kept;
        Self { entries: taken }
    }

    /// Converts what is left.
    ///
    /// # Errors
    /// `Unknown` for a key that is no field of `T`, `Convert`, `Missing`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(de::Root { entries: &self.entries })
    }
}

fn pieces(text: &str) -> Result<Vec<&str>, Error> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    split::at_commas(text).ok_or_else(|| Error::Syntax(text.to_owned()))
}

fn cut(piece: &str) -> (&str, Option<&str>) {
    match piece.split_once('=') {
        Some((key, value)) => (key, Some(value.trim())),
        None => (piece, None),
    }
}
