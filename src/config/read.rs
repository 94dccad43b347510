//! Reads a tree of values into a type. Every fault knows its whole path and
//! holds no value, only what kind of value stood there, so that printing it
//! cannot show a secret.
//!
//! figment's own deserializer does neither, and it takes the number 1 for the
//! second variant of any enum.

use std::collections::BTreeSet;
use std::fmt;

use figment::value::{Dict, Value};
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};

/// One step from the top of the file down to a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The way to a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyPath(pub(super) Vec<Step>);

/// What is wrong with one value.
#[derive(Debug)]
pub(super) struct Fault {
    path: Option<KeyPath>,
    pub(super) kind: FaultKind,
}

#[derive(Debug)]
pub(super) enum FaultKind {
    /// A value of another type.
    Type {
        found: &'static str,
        expected: String,
    },
    /// What a type of ours said; those never repeat the value.
    Message(String),
    UnknownField(&'static [&'static str]),
    /// The word is for comparison, not for printing.
    UnknownVariant(String, &'static [&'static str]),
    Missing(&'static str),
}

/// What to read in place of what is written, so that reading can go on behind
/// a fault and find the next one.
#[derive(Default)]
pub(super) struct Patch {
    /// As if not written.
    pub(super) skipped: BTreeSet<KeyPath>,
    /// As if something harmless were written.
    pub(super) neutral: BTreeSet<KeyPath>,
}

/// Reads `tree` as patched.
pub(super) fn read<'a, T: serde::Deserialize<'a>>(
    tree: &'a Dict,
    patch: &'a Patch,
) -> Result<T, Fault> {
    let root = Node { written: Written::Dict(tree), path: KeyPath::default(), patch };
    T::deserialize(root)
}

impl KeyPath {
    pub(super) fn child(&self, step: Step) -> KeyPath {
        let mut steps = self.0.clone();
        steps.push(step);
        KeyPath(steps)
    }

    pub(super) fn key(&self, key: &str) -> KeyPath {
        self.child(Step::Key(key.to_owned()))
    }

    /// Whether `self` is `other` or leads to it.
    pub(super) fn leads_to(&self, other: &KeyPath) -> bool {
        other.0.starts_with(&self.0)
    }

    /// The path with `*` for each name in a map of names and `[]` for each
    /// index; `pattern` is such a path.
    pub(super) fn matches(&self, pattern: &str) -> bool {
        let mut parts = pattern.split('.');
        let same = self.0.iter().all(|step| match (step, parts.next()) {
            (Step::Index(_), Some("[]")) | (Step::Key(_), Some("*")) => true,
            (Step::Key(key), Some(part)) => key == part,
            (Step::Index(_) | Step::Key(_), _) => false,
        });
        same && parts.next().is_none()
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(formatter, "[{index}]")?,
                Step::Key(key) => {
                    if position > 0 {
                        formatter.write_str(".")?;
                    }
                    if super::source::shows_as_key(key) {
                        formatter.write_str(key)?;
                    } else {
                        write!(formatter, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Fault {
    /// Where; the top of the file if nothing knew better.
    pub(super) fn path(&self) -> KeyPath {
        self.path.clone().unwrap_or_default()
    }

    fn new(kind: FaultKind) -> Fault {
        Fault { path: None, kind }
    }

    /// The innermost place wins.
    fn at(mut self, path: &KeyPath) -> Fault {
        self.path.get_or_insert_with(|| path.clone());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a fault in the configuration")
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Fault {
        Fault::new(FaultKind::Message(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        let found = match found {
            Unexpected::Bool(_) => "true or false",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
            Unexpected::Char(_) | Unexpected::Str(_) | Unexpected::Bytes(_) => "text",
            Unexpected::Unit | Unexpected::Option => "nothing",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a table",
            _ => "something else",
        };
        Fault::new(FaultKind::Type { found, expected: expected.to_string() })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        Fault::invalid_type(found, expected)
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Fault {
        Fault::new(FaultKind::UnknownVariant(word.to_owned(), known))
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Fault {
        Fault::new(FaultKind::UnknownField(known))
    }

    fn missing_field(field: &'static str) -> Fault {
        Fault::new(FaultKind::Missing(field))
    }
}

#[derive(Clone, Copy)]
enum Written<'a> {
    Value(&'a Value),
    Dict(&'a Dict),
    /// A neutral value of whatever type is asked for.
    Neutral,
}

struct Node<'a> {
    written: Written<'a>,
    path: KeyPath,
    patch: &'a Patch,
}

impl<'a> Node<'a> {
    fn child(&self, value: Option<&'a Value>, path: KeyPath) -> Node<'a> {
        let written = match value {
            Some(value) if !self.patch.neutral.contains(&path) => Written::Value(value),
            Some(_) | None => Written::Neutral,
        };
        Node { written, path, patch: self.patch }
    }

    fn is_nothing(&self) -> bool {
        matches!(self.written, Written::Neutral | Written::Value(Value::Empty(..)))
    }

    fn items(&self) -> Items<'a> {
        let values = match self.written {
            Written::Value(Value::Array(_, values)) => values.as_slice(),
            Written::Value(_) | Written::Dict(_) | Written::Neutral => &[],
        };
        let items = values.iter().enumerate().map(|(index, value)| {
            let path = self.path.child(Step::Index(index));
            self.child(Some(value), path)
        });
        let items = items.filter(|node| !self.patch.skipped.contains(&node.path));
        Items(items.collect::<Vec<_>>().into_iter())
    }

    fn entries(&self) -> Entries<'a> {
        let written = match self.written {
            Written::Dict(dict) | Written::Value(Value::Dict(_, dict)) => Some(dict),
            Written::Value(_) | Written::Neutral => None,
        };
        let mut entries: Vec<(String, Node<'a>)> = written
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), self.child(Some(value), self.path.key(key))))
            .filter(|(_, node)| !self.patch.skipped.contains(&node.path))
            .collect();
        for path in &self.patch.neutral {
            if let Some((Step::Key(key), above)) = path.0.split_last()
                && above == self.path.0
                && !entries.iter().any(|(known, _)| known == key)
            {
                entries.push((key.clone(), self.child(None, path.clone())));
            }
        }
        Entries { entries: entries.into_iter(), value: None }
    }
}

struct Items<'a>(std::vec::IntoIter<Node<'a>>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        self.0.next().map(|node| seed.deserialize(node)).transpose()
    }
}

struct Entries<'a> {
    entries: std::vec::IntoIter<(String, Node<'a>)>,
    value: Option<Node<'a>>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        let name: StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        let read = seed.deserialize(name).map_err(|fault| fault.at(&node.path))?;
        self.value = Some(node);
        Ok(Some(read))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        match self.value.take() {
            Some(node) => seed.deserialize(node),
            None => Err(de::Error::custom("a value without a key")),
        }
    }
}

/// Numbers and truth: of a neutral node a zero, else whatever is written.
macro_rules! or_neutral {
    ($($name:ident => $visit:ident($zero:expr),)+) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.written {
                Written::Neutral => visitor.$visit($zero).map_err(|fault: Fault| fault.at(&self.path)),
                Written::Value(_) | Written::Dict(_) => self.deserialize_any(visitor),
            }
        }
    )+};
}

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let read = match self.written {
            // "0" is a string, a duration, a size and a share.
            Written::Neutral => visitor.visit_str("0"),
            Written::Dict(_) | Written::Value(Value::Dict(..)) => visitor.visit_map(self.entries()),
            Written::Value(Value::Array(..)) => visitor.visit_seq(self.items()),
            Written::Value(Value::String(_, text)) => visitor.visit_str(text),
            Written::Value(Value::Char(_, character)) => visitor.visit_char(*character),
            Written::Value(Value::Bool(_, truth)) => visitor.visit_bool(*truth),
            Written::Value(Value::Empty(..)) => visitor.visit_unit(),
            Written::Value(number @ Value::Num(..)) => {
                if let Some(number) = number.to_u128().and_then(|n| u64::try_from(n).ok()) {
                    visitor.visit_u64(number)
                } else if let Some(number) = number.to_i128().and_then(|n| i64::try_from(n).ok()) {
                    visitor.visit_i64(number)
                } else {
                    visitor.visit_f64(number.to_f64().unwrap_or(f64::MAX))
                }
            }
        };
        read.map_err(|fault: Fault| fault.at(&self.path))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.is_nothing() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    // A section whose keys are all commented out is written as nothing.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.is_nothing() {
            return visitor.visit_map(self.entries()).map_err(|fault: Fault| fault.at(&self.path));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.is_nothing() {
            return visitor.visit_seq(self.items()).map_err(|fault: Fault| fault.at(&self.path));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        // serde's derive would take a list for the fields in their order.
        if let Written::Value(Value::Array(..)) = self.written {
            let fault: Fault = de::Error::invalid_type(Unexpected::Seq, &"a map");
            return Err(fault.at(&self.path));
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let word: &str = match self.written {
            Written::Neutral => known.first().copied().unwrap_or_default(),
            Written::Value(Value::String(_, word)) => word,
            Written::Value(_) | Written::Dict(_) => {
                let fault = FaultKind::UnknownVariant(String::new(), known);
                return Err(Fault::new(fault).at(&self.path));
            }
        };
        let word: StrDeserializer<'_, Fault> = word.into_deserializer();
        visitor.visit_enum(word).map_err(|fault: Fault| fault.at(&self.path))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    or_neutral! {
        deserialize_bool => visit_bool(false),
        deserialize_u8 => visit_u64(0),
        deserialize_u16 => visit_u64(0),
        deserialize_u32 => visit_u64(0),
        deserialize_u64 => visit_u64(0),
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple_struct tuple identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_and_match() {
        let path = KeyPath::default().key("routes").child(Step::Index(0)).key("policy");
        assert_eq!(path.to_string(), "routes[0].policy");
        assert!(path.matches("routes.[].policy"));
        assert!(!path.matches("routes.[]"));
        assert!(!path.matches("routes.[].policy.x"));
        let path = KeyPath::default().key("verifiers").key("my app").key("jwt");
        assert_eq!(path.to_string(), "verifiers.\"my app\".jwt");
        assert!(path.matches("verifiers.*.jwt"));
    }
}
