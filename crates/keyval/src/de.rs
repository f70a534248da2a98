//! The serde side: options as a map, values as scalars, lists and `k@v` pairs.

use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::options::Entry;
use crate::{Error, split};

/// `0-4294967295` in a list is a typing error, not a reason to run out of memory.
const LIST_LIMIT: usize = 65536;

/// Converts the value of one option.
pub(crate) fn value<T: DeserializeOwned>(entry: &Entry) -> Result<T, Error> {
    convert(entry, std::marker::PhantomData)
}

fn convert<'de, S: DeserializeSeed<'de>>(entry: &Entry, seed: S) -> Result<S::Value, Error> {
    let Some(text) = entry.value.as_deref() else {
        return Err(Error::Syntax(entry.key.clone()));
    };
    let unable = || Error::Convert { value: text.to_owned(), key: entry.key.clone() };
    seed.deserialize(Text(text)).map_err(|error| match error {
        Error::Unknown(_) => Error::Unknown(entry.key.clone()),
        _ => unable(),
    })
}

/// All options of a flag; a struct or a map.
pub(crate) struct Root<'a> {
    pub(crate) entries: &'a [Entry],
}

impl<'de> Deserializer<'de> for Root<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Map { rest: self.entries.iter(), current: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.entries.iter().find(|entry| !fields.contains(&entry.field.as_str())) {
            Some(entry) => Err(Error::Unknown(entry.key.clone())),
            None => self.deserialize_any(visitor),
        }
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Map<'a> {
    rest: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Map<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.current = self.rest.find(|entry| entry.value.as_deref() != Some(""));
        let Some(entry) = self.current else { return Ok(None) };
        seed.deserialize(StrDeserializer::new(&entry.field)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let entry = self.current.take().ok_or_else(|| Error::Syntax(String::new()))?;
        convert(entry, seed)
    }
}

/// The text of one value.
struct Text<'a>(&'a str);

fn bad(text: &str) -> Error {
    Error::Invalid(text.to_owned())
}

impl<'de> Text<'_> {
    fn visit_integer<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let plain = split::dequote(self.0);
        if let Ok(number) = plain.parse::<u64>() {
            return visitor.visit_u64(number);
        }
        visitor.visit_i64(plain.parse().map_err(|_| bad(self.0))?)
    }
}

/// Every width of integer is read alike; the visitor checks the range.
macro_rules! integers {
    ($read:ident: $($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.$read(visitor)
        }
    )* };
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(split::dequote(self.0))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match split::dequote(self.0).to_ascii_lowercase().as_str() {
            "on" | "true" => visitor.visit_bool(true),
            "off" | "false" => visitor.visit_bool(false),
            _ => Err(bad(self.0)),
        }
    }

    integers! { visit_integer: deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // A list put in quotes as a whole loses them; quotes inside belong to the elements.
        let unquoted = self.0.starts_with('"').then(|| split::dequote(self.0));
        let (inner, bracketed) = split::unbracket(unquoted.as_deref().unwrap_or(self.0));
        let items = match inner {
            "" => Vec::new(),
            inner => split::at_commas(inner).ok_or_else(|| bad(self.0))?,
        };
        visitor.visit_seq(List { items: items.into_iter(), bracketed, range: None, count: 0 })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let name: StringDeserializer<Error> = split::dequote(self.0).into_deserializer();
        name.deserialize_enum("", &[], visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::Unknown(String::new()))
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier
    }
}

/// The elements of a list. Ranges are unfolded as the elements are asked for, when it is known that they are
/// integers.
struct List<'a> {
    items: std::vec::IntoIter<&'a str>,
    bracketed: bool,
    range: Option<std::ops::RangeInclusive<u64>>,
    count: usize,
}

impl<'de> SeqAccess<'de> for List<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.count = self.count.saturating_add(1);
        if self.count > LIST_LIMIT {
            return Err(bad("too many elements"));
        }
        if let Some(number) = self.range.as_mut().and_then(Iterator::next) {
            return seed.deserialize(number.into_deserializer()).map(Some);
        }
        let Some(text) = self.items.next() else { return Ok(None) };
        let item = Item { text: text.trim(), bracketed: self.bracketed, range: &mut self.range };
        seed.deserialize(item).map(Some)
    }
}

/// One element of a list.
struct Item<'a, 'l> {
    text: &'a str,
    bracketed: bool,
    range: &'l mut Option<std::ops::RangeInclusive<u64>>,
}

impl<'de> Item<'_, '_> {
    fn visit_integer<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Some((first, last)) = self.text.split_once('-') else {
            return Text(self.text).visit_integer(visitor);
        };
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| bad(text));
        let (first, last) = (number(first)?, number(last)?);
        if first >= last {
            return Err(bad(self.text));
        }
        *self.range = Some(first.saturating_add(1)..=last);
        visitor.visit_u64(first)
    }

    fn visit_pair<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.text.split_once('@') {
            Some((key, value)) if self.bracketed && !key.is_empty() && !value.contains('@') => {
                visitor.visit_seq(Pair([Some(key), Some(value)]))
            }
            _ => Err(bad(self.text)),
        }
    }
}

impl<'de> Deserializer<'de> for Item<'_, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text.to_owned())
    }

    integers! { visit_integer: deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.visit_pair(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.visit_pair(visitor)
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! {
        bool i128 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple_struct map enum identifier ignored_any
    }
}

/// The two halves of `k@v`, read as the first two fields of a struct.
struct Pair<'a>([Option<&'a str>; 2]);

impl<'de> SeqAccess<'de> for Pair<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        match self.0.iter_mut().find_map(Option::take) {
            Some(text) => seed.deserialize(Text(text.trim())).map(Some),
            None => Ok(None),
        }
    }
}
