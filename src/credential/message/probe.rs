//! Whether some reader could take a JSON message for a login: lenient where
//! [`json`](crate::json) is strict. A name may occur twice and each
//! occurrence counts, in upper or lower case, so no spelling of a login slips past
//! to the upstream.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::places::is_same;
use super::pointer::array_index;
use super::sought::Sought;
use super::watch::{LoginWatch, begins};
use super::wide::Decoder;

/// Whether some reader could find in `payload` all that is `sought`.
pub(super) fn could_meet(payload: &[u8], sought: &[Sought]) -> bool {
    if sought.iter().any(|one| one.is_absent_from(payload)) {
        return false;
    }
    let mut decoder = Decoder::default();
    let decoded = decoder.decode(payload);
    if begins(&decoded) != Some(true) {
        return false;
    }
    let text = match std::str::from_utf8(&decoded) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(&decoded),
    };
    for one in sought {
        match look(&text, one) {
            Some(true) => {}
            // What is JSON has been read.
            Some(false) => return false,
            // What is not may be JSON to a reader with rules of its own, of which the
            // watch knows many.
            None => return LoginWatch::new(sought).is_login(payload),
        }
    }
    true
}

/// Whether what is `sought` could be found in `text` under any reading of JSON.
pub(super) fn any_at(text: &str, sought: &Sought) -> bool {
    look(text, sought) == Some(true)
}

/// The same; none if it was not found, and `text` is not JSON from its beginning to its end.
fn look(text: &str, sought: &Sought) -> Option<bool> {
    let text = unmarked(text);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match (Probe { tokens: sought.pointer.tokens(), sought }).deserialize(&mut deserializer) {
        Ok(true) => Some(true),
        Ok(false) => deserializer.end().is_ok().then_some(false),
        // Well-formed JSON that cannot be represented here, such as a lone
        // surrogate, may be anything to another reader.
        Err(_) => serde_json::from_str::<IgnoredAny>(text).is_ok().then_some(true),
    }
}

/// `text` without a byte order mark, which some decoders of UTF-8 take away.
fn unmarked(text: &str) -> &str {
    text.trim_start_matches('\u{feff}')
}

#[derive(Clone, Copy)]
struct Probe<'a> {
    /// The rest of the way.
    tokens: &'a [Box<str>],
    sought: &'a Sought,
}

impl Probe<'_> {
    /// The verdict on a scalar.
    fn scalar<E>(self, found: impl FnOnce() -> Value) -> Result<bool, E> {
        Ok(self.tokens.is_empty() && self.sought.could_be(Some(&found())))
    }

    /// The verdict on an array or an object.
    fn container(self) -> bool {
        self.tokens.is_empty() && self.sought.expected.is_none()
    }
}

impl<'de> DeserializeSeed<'de> for Probe<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Probe<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        self.scalar(|| Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        self.scalar(|| Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<bool, E> {
        self.scalar(|| Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
        self.scalar(|| Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<bool, E> {
        self.scalar(|| Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<bool, E> {
        self.scalar(|| Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<bool, A::Error> {
        let Some((first, rest)) = self.tokens.split_first() else {
            while sequence.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(self.container());
        };
        let wanted = array_index(first);
        let mut found = false;
        for index in 0.. {
            let is_next = if Some(index) == wanted {
                let inner = sequence.next_element_seed(Probe { tokens: rest, ..self })?;
                found |= inner == Some(true);
                inner.is_some()
            } else {
                sequence.next_element::<IgnoredAny>()?.is_some()
            };
            if !is_next {
                break;
            }
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut found = self.container();
        let way = self.tokens.split_first();
        while let Some(leads) = map.next_key_seed(Leads { to: way.map(|(name, _)| &**name) })? {
            match way.filter(|_| leads) {
                Some((_, rest)) => found |= map.next_value_seed(Probe { tokens: rest, ..self })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// Whether a member is the one on the way. Its name is read as bytes, so that a lone
/// surrogate (RFC 8259 §8.2) does not end the search.
struct Leads<'a> {
    to: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for Leads<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Leads<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a member name")
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<bool, E> {
        Ok(self.to.is_some_and(|wanted| is_same(&String::from_utf8_lossy(name), wanted)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::pointer::Pointer;
    use super::*;

    fn is_at(pointer: &str, expected: Option<Value>, text: &str) -> bool {
        any_at(text, &Sought::new(Pointer::parse(pointer).unwrap(), expected))
    }

    fn is_auth(text: &str) -> bool {
        is_at("/type", Some(json!("auth")), text)
    }

    #[test]
    fn every_spelling_of_a_login_is_seen() {
        for text in [
            r#"{"type":"auth"}"#,
            r#" {"a":[[[{}]]],"type" : "\u0061uth"} "#,
            r#"{"type":"auth","type":"chat"}"#,
            r#"{"type":"chat","\u0074ype":"auth"}"#,
            r#"{"Type":"auth"}"#,
            r#"{"type":{"type":1},"type":"auth"}"#,
            r#"{"\ud800":1,"type":"auth"}"#,
            r#"{"type":"\ud800","type":"auth"}"#,
            r#"{"type":1e400,"type":"auth"}"#,
            r#"{"type":"auth"} trailing"#,
        ] {
            assert!(is_auth(text), "{text}");
        }
        let deep = format!(r#"{{"type":{}{},"type":"auth"}}"#, "[".repeat(500), "]".repeat(500));
        assert!(is_auth(&deep));
    }

    #[test]
    fn other_messages_are_not_logins() {
        let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        for text in [
            &deep,
            r#"{"type":"chat","text":"\"type\":\"auth\""}"#,
            r#"{"body":{"type":"auth"}}"#,
            r#"["type","auth"]"#,
            r#"{"type":["auth"]}"#,
            r#"{"type":"auth""#,
            "auth",
            "",
        ] {
            assert!(!is_auth(text), "{text}");
        }
    }

    #[test]
    fn ways_lead_through_arrays_and_numbers_equal_by_value() {
        let is = |expected, text| is_at("/l/1/op", expected, text);
        assert!(is(Some(json!(2)), r#"{"l":[0,{"op":2.0}]}"#));
        assert!(is(None, r#"{"l":[0,{"op":[]}]}"#));
        assert!(!is(Some(json!(2)), r#"{"l":[{"op":2}]}"#));
        assert!(!is(None, r#"{"l":[]}"#));
    }
}
