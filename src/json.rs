//! JSON that every reader reads alike (RFC 8259 §4): no duplicate names at any
//! depth, nothing behind the value, bounded depth.
//!
//! Otherwise what sockgate verified and what the upstream acts on could be two
//! different tokens of one message, or two different claims of one token.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

/// How many arrays and objects may be open at once.
pub const MAX_DEPTH: usize = 32;

/// Why a text is not taken for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is not JSON: not UTF-8, a BOM, a number out of range, a syntax error.
    #[error("is not JSON")]
    Malformed,
    /// Two readers could read it differently.
    #[error("can be read in more than one way")]
    Ambiguous,
}

/// Parses the whole of `text`.
///
/// # Errors
/// [`JsonError`]; holds nothing of the text.
pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    let ambiguous = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict { depth: 0, ambiguous: &ambiguous }.deserialize(&mut deserializer);
    match value {
        Ok(value) => deserializer.end().map(|()| value).map_err(|_| JsonError::Ambiguous),
        Err(_) if ambiguous.get() => Err(JsonError::Ambiguous),
        Err(_) => Err(JsonError::Malformed),
    }
}

/// The member `name` of an object that has few: to look through them is cheaper than
/// to hash a name.
pub fn member<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    members.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
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
            match members.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(map.next_value_seed(inner)?);
                }
                Entry::Occupied(_) => return self.refuse(),
            }
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
            assert_eq!(parse(text.as_bytes()), Err(JsonError::Ambiguous), "{text}");
        }
        assert!(parse(br#"{"a":{"b":1},"b":{"b":1}}"#).is_ok());
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(parse(nested(MAX_DEPTH + 1).as_bytes()), Err(JsonError::Ambiguous));
        assert_eq!(parse("[".repeat(100_000).as_bytes()), Err(JsonError::Ambiguous));
    }

    #[test]
    fn trailing_data_is_ambiguous_and_broken_json_malformed() {
        for text in ["{}{}", "{} x", "1 2", "{}\0"] {
            assert_eq!(parse(text.as_bytes()), Err(JsonError::Ambiguous), "{text}");
        }
        for text in [&b""[..], b"{", b"{'a':1}", b"\xef\xbb\xbf{}", b"\"\xff\"", b"1e400", b"nul"] {
            assert_eq!(parse(text), Err(JsonError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let refused: [&[u8]; 8] = [
            b"{}x",
            br#"{"a":1,"\u0061":2}"#,
            b"{\"a\":\"\xff\"}",
            br#"{"a":"\ud800"}"#,
            br#"{"a":1e400}"#,
            br#"{"a":NaN}"#,
            br#"{"a":1,}"#,
            b"{\"a\":\"\n\"}",
        ];
        for text in refused {
            assert!(parse(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
        assert!(parse("{\"a\":".repeat(100_000).as_bytes()).is_err());
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
