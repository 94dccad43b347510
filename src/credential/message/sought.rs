//! What tells a login in JSON: a scalar at a place of it, or that there is anything at all.
//!
//! Readers differ in what they take for it, and each of them counts. But none finds what
//! is not there: most messages lack a word that every login has, which is seen at the
//! speed of memory, and so are not read at all.

use std::sync::Arc;

use memchr::memchr2_iter;
use memchr::memmem::Finder;
use serde_json::Value;

use super::pointer::{Pointer, array_index};

/// What a login has at one place.
#[derive(Clone)]
pub(super) struct Sought {
    pub(super) pointer: Pointer,
    /// None for any value.
    pub(super) expected: Option<Value>,
    clue: Option<Clue>,
}

/// What a message says somewhere if it has what is sought. Only some escapes, and encodings
/// with zeros, could hide it.
#[derive(Clone)]
enum Clue {
    /// The text that is sought.
    Text(Arc<Finder<'static>>),
    /// A name on the way to it, in upper or lower case.
    Name(Box<[u8]>),
}

impl Sought {
    /// The scalar `expected`, or else any value, at `pointer`.
    pub(super) fn new(pointer: Pointer, expected: Option<Value>) -> Sought {
        let clue = Clue::to(&pointer, expected.as_ref());
        Sought { pointer, expected, clue }
    }

    /// Whether no reader could find it in `message`; false where only reading tells.
    pub(super) fn is_absent_from(&self, message: &[u8]) -> bool {
        self.clue.as_ref().is_some_and(|clue| clue.is_absent_from(message))
    }

    /// Whether some reader takes the scalar `found` for it; none for one that is too large
    /// to be compared.
    pub(super) fn could_be(&self, found: Option<&Value>) -> bool {
        match (&self.expected, found) {
            (None, _) => true,
            (Some(expected), Some(found)) => could_equal(expected, found),
            (Some(_), None) => false,
        }
    }
}

impl Clue {
    fn to(pointer: &Pointer, expected: Option<&Value>) -> Option<Clue> {
        match expected {
            Some(Value::String(text)) if is_word(text) && is_plain(text) => {
                Some(Clue::Text(Arc::new(Finder::new(text).into_owned())))
            }
            _ => {
                let names = pointer.tokens().iter().filter(|name| array_index(name).is_none());
                let names = names.filter(|name| name.is_ascii() && is_plain(name));
                Some(Clue::Name(names.max_by_key(|name| name.len())?.as_bytes().into()))
            }
        }
    }

    fn is_absent_from(&self, message: &[u8]) -> bool {
        match self {
            Clue::Text(finder) => finder.find(message).is_none() && hides_nothing(message),
            // Letters beyond ASCII can be ASCII in the other case.
            Clue::Name(name) => {
                !says(message, name) && message.is_ascii() && hides_nothing(message)
            }
        }
    }
}

/// The escapes of JSON for single characters, which stand for none that a clue has (RFC 8259
/// §7), and the one of JSON5 for its other quote.
const HARMLESS: &[u8] = br#""\/bfnrt'"#;

/// Whether the message says its words as they are. A backslash that is itself escaped counts
/// for what would come of it if it were not.
fn hides_nothing(message: &[u8]) -> bool {
    memchr2_iter(b'\\', 0, message).all(|at| {
        let next = message.get(at + 1);
        message[at] == b'\\' && next.is_some_and(|next| HARMLESS.contains(next))
    })
}

/// Whether `text` has nothing in it that is said by a harmless escape, or by bytes that are
/// no UTF-8.
fn is_plain(text: &str) -> bool {
    let is_said_otherwise =
        |one: char| one.is_ascii_control() || matches!(one, '"' | '\\' | '/' | '\'' | '\u{fffd}');
    !text.chars().any(is_said_otherwise)
}

/// Whether `name` is somewhere in `message`, in upper or lower case.
fn says(message: &[u8], name: &[u8]) -> bool {
    let Some(first) = name.first() else { return true };
    memchr2_iter(first.to_ascii_lowercase(), first.to_ascii_uppercase(), message).any(|at| {
        message[at..].get(..name.len()).is_some_and(|there| there.eq_ignore_ascii_case(name))
    })
}

/// Whether nothing but a string says `text`: others stand for scalars that are written in
/// many ways.
fn is_word(text: &str) -> bool {
    number(text.trim()).is_none() && !matches!(text, "true" | "false" | "null")
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
fn could_equal(expected: &Value, found: &Value) -> bool {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::probe::any_at;
    use super::super::watch::LoginWatch;
    use super::*;

    fn sought(pointer: &str, expected: Option<Value>) -> Sought {
        Sought::new(Pointer::parse(pointer).unwrap(), expected)
    }

    #[test]
    fn what_lacks_the_clue_is_not_read() {
        let auth = sought("/type", Some(json!("auth")));
        for text in [r#"{"type":"chat","text":"grüß dich"}"#, r#"{"text":"a \"b\"\n\\n\/"}"#] {
            assert!(auth.is_absent_from(text.as_bytes()), "{text}");
        }
        for text in [
            r#"{"type":"auth"}"#,
            r#"{"type":"\u0061uth"}"#,
            "{\0\"\0",
            "{'type':auth}",
            r#"{"\\u0061"#,
            "{\\",
        ] {
            assert!(!auth.is_absent_from(text.as_bytes()), "{text}");
        }
        // Where the value has many spellings, and where any will do, the name tells.
        for sought in [
            sought("/op/0", Some(json!(2))),
            sought("/op", None),
            sought("/op", Some(json!("2"))),
            sought("/op", Some(json!(" 2 "))),
            sought("/op", Some(json!("\u{fffd}"))),
        ] {
            assert!(sought.is_absent_from(br#"{"type":"say","o":2}"#));
            for text in [r#"{"OP":[2]}"#, r#"{"o\u0070":2}"#, "{\u{212a}", "drop"] {
                assert!(!sought.is_absent_from(text.as_bytes()), "{text}");
            }
        }
        for nothing_tells in [sought("/0", None), sought("/a~1b", None)] {
            assert!(!nothing_tells.is_absent_from(b"{}"));
        }
        // Readers put that character in the place of what is no UTF-8.
        let replaced = sought("/op", Some(json!("a\u{fffd}")));
        assert!(!replaced.is_absent_from(b"{\"op\":\"a\xff\"}"));
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

    /// A character as somebody could write it.
    fn written(one: char, how: u8) -> String {
        match how {
            0 => format!("\\u{:04x}", one as u32),
            1 => format!("\\x{:02x}", one as u32),
            2 => format!("\\{one}"),
            3 => format!("\\\n{one}"),
            4 => format!("\\\\{one}"),
            5 => format!("{one}\\n"),
            6 => format!("/**/{one}"),
            7 => one.to_uppercase().to_string(),
            8 => one.to_string().replace('k', "\u{212a}"),
            _ => one.to_string(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nobody_finds_what_is_absent(
            login in prop::sample::select(vec![
                r#"{"kind":"auth","n":2}"#, "{'kind':2,kind:auth}", r#"{"kind":"2"}"#,
            ]),
            wide in prop::sample::select(vec![false, false, true]),
            changes in prop::collection::vec((0_usize..24, 0_u8..9), 0..4),
        ) {
            let how = |at: usize| changes.iter().find(|(place, _)| *place == at);
            let text: String = login
                .chars()
                .enumerate()
                .map(|(at, one)| written(one, how(at).map_or(9, |(_, how)| *how)))
                .collect();
            let bytes = match wide {
                true => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                false => text.clone().into_bytes(),
            };
            for expected in [Some(json!("auth")), Some(json!("2")), Some(json!(2)), None] {
                let sought = sought("/kind", expected);
                let mut watch = LoginWatch::new(std::slice::from_ref(&sought));
                let found = watch.is_login(&bytes) || !wide && any_at(&text, &sought);
                prop_assert!(!(found && sought.is_absent_from(&bytes)), "{}", text);
            }
        }
    }
}
