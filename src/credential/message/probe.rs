//! Whether some reader could take a JSON message for a login: lenient where
//! [`json`](crate::json) is strict. A name may occur twice and each
//! occurrence counts, in upper or lower case, so no spelling of a login slips past
//! to the upstream.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::places::is_same;
use super::pointer::{Pointer, array_index};
use super::watch::{LoginWatch, begins};
use super::wide::Decoder;

/// Whether some reader could find in `payload` all that is `sought`: at each pointer the
/// scalar, or else any value.
pub(super) fn could_meet(payload: &[u8], sought: &[(&Pointer, Option<&Value>)]) -> bool {
    let decoded = Decoder::default().decode(payload);
    if begins(&decoded) != Some(true) {
        return false;
    }
    let text = String::from_utf8_lossy(&decoded);
    if sought.iter().all(|(pointer, expected)| any_at(&text, pointer, *expected)) {
        return true;
    }
    // What is JSON has been read. What is not may be JSON to a reader with rules of its
    // own, of which the watch knows many.
    serde_json::from_str::<IgnoredAny>(unmarked(&text)).is_err()
        && LoginWatch::new(sought.iter().copied()).is_login(payload)
}

/// Whether a value at `pointer` in `text`, under any reading, is the scalar `expected`;
/// without one, whether there is a value at all.
pub(super) fn any_at(text: &str, pointer: &Pointer, expected: Option<&Value>) -> bool {
    let probe = Probe { tokens: pointer.tokens(), expected };
    let text = unmarked(text);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match probe.deserialize(&mut deserializer) {
        Ok(found) => found,
        // Well-formed JSON that cannot be represented here, such as a lone
        // surrogate, may be anything to another reader.
        Err(_) => serde_json::from_str::<IgnoredAny>(text).is_ok(),
    }
}

/// `text` without a byte order mark, which some decoders of UTF-8 take away.
fn unmarked(text: &str) -> &str {
    text.trim_start_matches('\u{feff}')
}

/// Whether two scalars are equal as JSON: `1` is `1.0`.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

/// Whether some reader takes `found` for `expected`: those that bind values to types read
/// `"2"` where they want 2, and `"true"` or 1 where they want true.
pub(super) fn could_equal(expected: &Value, found: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => number(text.trim()),
        Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let word = |value: &Value| match value {
        Value::String(text) => Some(text.trim().to_ascii_lowercase()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null => Some("null".to_owned()),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let same = match expected {
        Value::String(text) => match found {
            Value::Number(_) => number(expected).is_some() && number(expected) == number(found),
            Value::Bool(_) | Value::Null => word(found).as_deref() == Some(text),
            Value::String(_) | Value::Array(_) | Value::Object(_) => false,
        },
        Value::Number(_) => number(expected) == number(found),
        Value::Bool(_) => {
            word(expected) == word(found) || !found.is_string() && number(expected) == number(found)
        }
        Value::Null => word(expected) == word(found),
        Value::Array(_) | Value::Object(_) => false,
    };
    same || equal(expected, found)
}

/// The number that `text` is to readers that know more forms than JSON has.
fn number(text: &str) -> Option<f64> {
    let (minus, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let value = match hex {
        Some(hex) => u32::from_str_radix(hex, 16).ok().map(f64::from),
        None => digits.parse().ok(),
    };
    value.map(|value: f64| if minus { -value } else { value })
}

#[derive(Clone, Copy)]
struct Probe<'a> {
    tokens: &'a [Box<str>],
    expected: Option<&'a Value>,
}

impl<'a> Probe<'a> {
    /// The verdict on a scalar.
    fn scalar<E>(self, found: impl FnOnce() -> Value) -> Result<bool, E> {
        Ok(self.tokens.is_empty()
            && self.expected.is_none_or(|expected| could_equal(expected, &found())))
    }

    /// The probe for the member `name`, if the way leads there.
    fn into_member(self, name: &[u8]) -> Option<Probe<'a>> {
        let (first, rest) = self.tokens.split_first()?;
        is_same(&String::from_utf8_lossy(name), first).then_some(Probe { tokens: rest, ..self })
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
            return Ok(self.expected.is_none());
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
        let mut found = self.tokens.is_empty() && self.expected.is_none();
        while let Some(name) = map.next_key_seed(Name)? {
            match self.into_member(&name) {
                Some(inner) => found |= map.next_value_seed(inner)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// A member name as bytes, so that a lone surrogate (RFC 8259 §8.2) does not
/// end the search.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Vec<u8>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a member name")
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<Vec<u8>, E> {
        Ok(name.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn is_auth(text: &str) -> bool {
        any_at(text, &Pointer::parse("/type").unwrap(), Some(&json!("auth")))
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
    fn a_value_of_another_type_may_be_bound_to_the_one_that_is_sought() {
        let is = |expected: Value, found: Value| could_equal(&expected, &found);
        assert!(
            is(json!(2), json!("2")) && is(json!(2), json!(" 0x2")) && is(json!(-2), json!("-2.0"))
        );
        assert!(
            is(json!("2"), json!(2)) && is(json!("true"), json!(true)) && is(json!(1), json!(true))
        );
        assert!(is(json!(true), json!("True")) && is(json!(true), json!(1)));
        assert!(is(json!(null), json!("null")) && is(json!("auth"), json!("auth")));
        assert!(!is(json!(2), json!("3")) && !is(json!("auth"), json!("Auth")));
        assert!(
            !is(json!("auth"), json!(0))
                && !is(json!(true), json!("1"))
                && !is(json!(false), json!(null))
        );
    }

    #[test]
    fn ways_lead_through_arrays_and_numbers_equal_by_value() {
        let pointer = Pointer::parse("/l/1/op").unwrap();
        assert!(any_at(r#"{"l":[0,{"op":2.0}]}"#, &pointer, Some(&json!(2))));
        assert!(any_at(r#"{"l":[0,{"op":[]}]}"#, &pointer, None));
        assert!(!any_at(r#"{"l":[{"op":2}]}"#, &pointer, Some(&json!(2))));
        assert!(!any_at(r#"{"l":[]}"#, &pointer, None));
    }
}
