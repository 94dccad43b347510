//! JSON Pointers (RFC 6901), parsed once.

use serde_json::Value;

use crate::json::MAX_DEPTH;

/// Where in a document: the reference tokens, unescaped.
#[derive(Clone)]
pub(super) struct Pointer(Vec<Box<str>>);

impl Pointer {
    /// Parses `text`; deeper than a message may be, it could never match.
    pub(super) fn parse(text: &str) -> Result<Pointer, &'static str> {
        if text.is_empty() {
            return Ok(Pointer(Vec::new()));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err("must be a JSON Pointer: it begins with \"/\", as in \"/token\"");
        };
        let tokens = rest.split('/').map(unescaped).collect::<Option<Vec<_>>>();
        let tokens =
            tokens.ok_or("must be a JSON Pointer: \"~\" is written \"~0\", \"/\" \"~1\"")?;
        if tokens.len() > MAX_DEPTH {
            return Err("must be a JSON Pointer of at most 32 parts");
        }
        Ok(Pointer(tokens))
    }

    /// The reference tokens.
    pub(super) fn tokens(&self) -> &[Box<str>] {
        &self.0
    }

    /// The value that the pointer points at.
    pub(super) fn of<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, token| match value {
            Value::Object(members) => members.get(&**token),
            Value::Array(items) => items.get(array_index(token)?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        })
    }

    /// Removes the member that the pointer points at; the item of an array
    /// becomes null, so that the others keep their places.
    pub(super) fn remove_from(&self, document: &mut Value) {
        let Some((last, parents)) = self.0.split_last() else {
            return;
        };
        let parent = parents.iter().try_fold(document, |value, token| match value {
            Value::Object(members) => members.get_mut(&**token),
            Value::Array(items) => items.get_mut(array_index(token)?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        });
        match parent {
            Some(Value::Object(members)) => {
                members.shift_remove(&**last);
            }
            Some(Value::Array(items)) => {
                if let Some(item) = array_index(last).and_then(|index| items.get_mut(index)) {
                    *item = Value::Null;
                }
            }
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => {}
        }
    }
}

/// An array index (RFC 6901 §4): no sign, no leading zero.
pub(super) fn array_index(token: &str) -> Option<usize> {
    let is_index = token == "0" || (!token.starts_with('0') && !token.starts_with('+'));
    is_index.then(|| token.parse().ok()).flatten()
}

fn unescaped(token: &str) -> Option<Box<str>> {
    let mut text = String::with_capacity(token.len());
    let mut characters = token.chars();
    while let Some(character) = characters.next() {
        match character {
            '~' => match characters.next()? {
                '0' => text.push('~'),
                '1' => text.push('/'),
                _ => return None,
            },
            other => text.push(other),
        }
    }
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pointers_follow_rfc_6901() {
        let document = json!({ "a/b": 1, "m~n": 2, "": 3, "l": [4, { "x": 5 }], "01": 6 });
        let of = |text| Pointer::parse(text).unwrap().of(&document).cloned();
        assert_eq!(of("/a~1b"), Some(json!(1)));
        assert_eq!(of("/m~0n"), Some(json!(2)));
        assert_eq!(of("/"), Some(json!(3)));
        assert_eq!(of("/l/0"), Some(json!(4)));
        assert_eq!(of("/l/1/x"), Some(json!(5)));
        assert_eq!(of("/01"), Some(json!(6)));
        for absent in ["/l/00", "/l/+0", "/l/-", "/l/2", "/x", "/l/0/x"] {
            assert_eq!(of(absent), None, "{absent}");
        }
        for bad in ["token", "/a~2", "/a~"] {
            assert!(Pointer::parse(bad).is_err(), "{bad}");
        }
        assert!(Pointer::parse(&"/a".repeat(33)).is_err());
    }

    #[test]
    fn removal_takes_the_member_alone() {
        let removed = |text, mut document: Value| {
            Pointer::parse(text).unwrap().remove_from(&mut document);
            document.to_string()
        };
        assert_eq!(removed("/b", json!({ "a": 1, "b": 2, "c": 3 })), r#"{"a":1,"c":3}"#);
        assert_eq!(removed("/b/x", json!({ "b": { "x": 2 } })), r#"{"b":{}}"#);
        assert_eq!(removed("/b/0", json!({ "b": [1, 2] })), r#"{"b":[null,2]}"#);
        assert_eq!(removed("/z/x", json!({ "b": 1 })), r#"{"b":1}"#);
    }
}
