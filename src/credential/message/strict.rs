//! JSON that every reader reads alike (RFC 8259 §4): no duplicate names at any
//! depth, nothing behind the value, bounded depth.
//!
//! Otherwise what sockgate verified and what the upstream acts on could be two
//! different tokens of one message.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::close::Reason;

/// How many arrays and objects may be open at once.
pub(super) const MAX_DEPTH: usize = 32;

/// Parses the whole of `text`.
pub(super) fn parse(text: &[u8]) -> Result<Value, Reason> {
    let ambiguous = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict { depth: 0, ambiguous: &ambiguous }.deserialize(&mut deserializer);
    match value {
        Ok(value) => deserializer.end().map(|()| value).map_err(|_| Reason::AmbiguousCredential),
        Err(_) if ambiguous.get() => Err(Reason::AmbiguousCredential),
        Err(_) => Err(Reason::MalformedCredential),
    }
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: usize,
    ambiguous: &'a Cell<bool>,
}

impl Strict<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return self.refuse();
        }
        Ok(Strict { depth: self.depth + 1, ..self })
    }

    fn refuse<T, E: Error>(self) -> Result<T, E> {
        self.ambiguous.set(true);
        Err(E::custom("ambiguous"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                return self.refuse();
            }
            let value = map.next_value_seed(inner)?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sound_json_is_read_as_it_is() {
        let text = r#"{"a":[1,-2,3.5,true,null,"x\n"],"b":{"a":{}}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap().to_string(), text);
        assert_eq!(parse(b" \"x\" \r\n"), Ok(Value::from("x")));
    }

    #[test]
    fn duplicates_at_any_depth_are_ambiguous() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"token":"x","\u0074oken":"y"}"#,
            r#"[{"b":{"c":1,"d":2,"c":3}}]"#,
            r#"{"a":1,"a":"#,
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Reason::AmbiguousCredential), "{text}");
        }
        assert!(parse(br#"{"a":{"b":1},"b":{"b":1}}"#).is_ok());
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(parse(nested(MAX_DEPTH + 1).as_bytes()), Err(Reason::AmbiguousCredential));
        assert_eq!(parse("[".repeat(100_000).as_bytes()), Err(Reason::AmbiguousCredential));
    }

    #[test]
    fn trailing_data_is_ambiguous_and_broken_json_malformed() {
        for text in ["{}{}", "{} x", "1 2", "{}\0"] {
            assert_eq!(parse(text.as_bytes()), Err(Reason::AmbiguousCredential), "{text}");
        }
        for text in [&b""[..], b"{", b"{'a':1}", b"\xef\xbb\xbf{}", b"\"\xff\"", b"1e400", b"nul"] {
            assert_eq!(parse(text), Err(Reason::MalformedCredential), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn json_like_text_never_panics(text in r#"[\[\]{}",:a\\u0-9 ]{0,80}"#) {
            let _ = parse(text.as_bytes());
        }
    }
}
