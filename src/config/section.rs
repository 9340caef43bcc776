//! Reads one mapping of the configuration file the way craned's YAML reader
//! does, and notes what a person should know.
//!
//! Called by `file` only. Of a key written twice the first counts; a key
//! without a value is as good as absent; both, and keys we do not know, are
//! noted with their line instead of failing the read.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::cell::RefCell;
use std::fmt;

/// What was noted while reading, one line each.
#[derive(Debug, Default)]
pub struct Notes(RefCell<Vec<String>>);

impl Notes {
    /// The notes in the order of the file.
    pub fn into_lines(self) -> Vec<String> {
        self.0.into_inner()
    }

    fn add(&self, line: String) {
        self.0.borrow_mut().push(line);
    }
}

/// Whether a section has such a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The value was read.
    Known,
    /// It has none; the value is still to be skipped.
    Unknown,
}

/// A mapping of the file.
pub trait Section: Default {
    /// Its name in notes, such as `Container.Dns`; empty for the whole file.
    const NAME: &'static str;
    /// Whether keys it does not know are somebody else's business.
    const SHARED: bool = false;

    /// Reads the value of `key`.
    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, values: &mut A, notes: &Notes) -> Result<Key, A::Error>;
}

/// Puts a value, if there is one, where `target` says.
pub fn value<'de, A: MapAccess<'de>, T: Deserialize<'de>>(values: &mut A, target: &mut T) -> Result<Key, A::Error> {
    if let Some(value) = values.next_value::<Option<T>>()? {
        *target = value;
    }
    Ok(Key::Known)
}

/// Reads a section within a section.
pub fn section<'de, A: MapAccess<'de>, T: Section>(
    values: &mut A,
    target: &mut T,
    notes: &Notes,
) -> Result<Key, A::Error> {
    *target = values.next_value_seed(Read::new(notes))?;
    Ok(Key::Known)
}

/// Reads a list of sections.
pub fn sections<'de, A: MapAccess<'de>, T: Section>(
    values: &mut A,
    target: &mut Vec<T>,
    notes: &Notes,
) -> Result<Key, A::Error> {
    *target = values.next_value_seed(ReadList(Read::new(notes)))?;
    Ok(Key::Known)
}

/// Reads a `T` from one mapping, or from nothing at all.
pub struct Read<'a, T> {
    notes: &'a Notes,
    section: std::marker::PhantomData<T>,
}

impl<'a, T> Read<'a, T> {
    /// Notes go to `notes`.
    pub fn new(notes: &'a Notes) -> Self {
        Self { notes, section: std::marker::PhantomData }
    }
}

impl<'de, T: Section> DeserializeSeed<'de> for Read<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de, T: Section> Visitor<'de> for Read<'_, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a mapping of keys to values")
    }

    fn visit_none<E: Error>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<T, A::Error> {
        let mut section = T::default();
        let mut seen = Vec::new();
        while let Some(key) = values.next_key::<Spanned<String>>()? {
            let (name, line) = (key.value, key.referenced.line());
            if seen.contains(&name) {
                values.next_value::<IgnoredAny>()?;
                self.notes
                    .add(format!("line {line}: {} is written twice: the first one counts", full_name::<T>(&name)));
                continue;
            }
            if section.read(&name, &mut values, self.notes)? == Key::Unknown {
                values.next_value::<IgnoredAny>()?;
                if !T::SHARED {
                    self.notes.add(format!("line {line}: {} is not a key we know: ignored", full_name::<T>(&name)));
                }
                continue;
            }
            seen.push(name);
        }
        Ok(section)
    }
}

struct ReadList<'a, T>(Read<'a, T>);

impl<'de, T: Section> DeserializeSeed<'de> for ReadList<'_, T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de, T: Section> Visitor<'de> for ReadList<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a list of mappings")
    }

    fn visit_none<E: Error>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Read::new(self.0.notes))? {
            list.push(item);
        }
        Ok(list)
    }
}

fn full_name<T: Section>(key: &str) -> String {
    match T::NAME {
        "" => key.to_owned(),
        section => format!("{section}.{key}"),
    }
}
