//! The places of a JSON document where a dialect looks for its token.

use serde_json::{Map, Value};

use super::pointer::{Pointer, array_index};
use crate::close::Reason;
use crate::credential::config::MessageConfig;
use crate::problem::Problem;
use crate::secret::Secret;

/// Pointers of which one, or several that agree, hold the token.
pub(super) struct Places(Vec<Pointer>);

impl Places {
    /// The configured place, or else `defaults`.
    pub(super) fn compile(
        config: &MessageConfig,
        defaults: &[&str],
        problems: &mut Vec<Problem>,
    ) -> Option<Places> {
        if !config.conditions.is_empty() {
            let message = "belongs to `format: json`: the other formats know their logins";
            problems.push(Problem::new("message.where", message));
        }
        let written: Vec<&str> = match &config.token {
            Some(token) => vec![token],
            None => defaults.to_vec(),
        };
        let mut places = Vec::with_capacity(written.len());
        for one in written {
            match Pointer::parse(one) {
                Ok(pointer) if !pointer.tokens().is_empty() => places.push(pointer),
                Ok(_) => {
                    let message = "must point into the message, as \"/token\" does";
                    problems.push(Problem::new("message.token", message));
                }
                Err(message) => problems.push(Problem::new("message.token", message)),
            }
        }
        (!places.is_empty()).then_some(Places(places))
    }

    /// The one token in `document`; `null` is no token.
    ///
    /// # Errors
    /// [`Reason::AmbiguousCredential`] if two places hold different ones,
    /// [`Reason::MalformedCredential`] if one holds something else.
    pub(super) fn token(&self, document: &Value) -> Result<Option<Secret>, Reason> {
        agreed(self.0.iter().filter_map(|place| match place.of(document) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(Some(text.as_str())),
            Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Some(None)
            }
        }))
    }

    /// Whether beside a member on the way to a token there could be another one that
    /// a server takes for the same.
    pub(super) fn has_twin(&self, document: &Value) -> bool {
        self.0.iter().any(|place| has_twin_on(place, document))
    }

    /// `document` without the members that hold tokens.
    pub(super) fn strip(&self, document: &mut Value) {
        for place in &self.0 {
            place.remove_from(document);
        }
    }
}

/// The one token that all places agree on; an inner `None` cannot be a token.
///
/// # Errors
/// As [`Places::token`].
pub(super) fn agreed<'a>(
    found: impl Iterator<Item = Option<&'a str>>,
) -> Result<Option<Secret>, Reason> {
    let mut token = None;
    for one in found {
        let one = one.map(without_scheme).filter(|one| !one.is_empty());
        let one = one.ok_or(Reason::MalformedCredential)?;
        if token.is_some_and(|token| token != one) {
            return Err(Reason::AmbiguousCredential);
        }
        token = Some(one);
    }
    Ok(token.map(Secret::new))
}

/// Whether beside a member on the way of `place` there is one that a server could take
/// for the same.
pub(super) fn has_twin_on(place: &Pointer, document: &Value) -> bool {
    let mut value = document;
    for token in place.tokens() {
        let next = match value {
            Value::Object(members) => {
                if members.keys().any(|name| is_twin(name, token)) {
                    return true;
                }
                members.get(&**token)
            }
            Value::Array(items) => array_index(token).and_then(|index| items.get(index)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        };
        let Some(next) = next else { return false };
        value = next;
    }
    false
}

/// Whether a server that folds the case of names, as those in Go do, takes `name` for
/// `wanted`, which it is not.
pub(super) fn is_twin(name: &str, wanted: &str) -> bool {
    name != wanted && is_same(name, wanted)
}

/// Whether some server takes `name` for `wanted`.
pub(super) fn is_same(name: &str, wanted: &str) -> bool {
    // Upper case first: the long s is only then an s.
    let folded = |text: &str| text.to_uppercase().to_lowercase();
    name.eq_ignore_ascii_case(wanted)
        || !(name.is_ascii() && wanted.is_ascii()) && folded(name) == folded(wanted)
}

/// Sets the member `name`, or removes it for null, and with it every one that a server
/// could take for it.
pub(super) fn set_member(members: &mut Map<String, Value>, name: &str, value: &Value) {
    members.retain(|other, _| !is_same(other, name));
    if !value.is_null() {
        members.insert(name.to_owned(), value.clone());
    }
}

/// A token is often written as the header that it would have been.
fn without_scheme(text: &str) -> &str {
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_matches(' '),
        Some(_) | None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(document: &Value) -> Result<Option<String>, Reason> {
        let places = Places(vec![Pointer::parse("/a").unwrap(), Pointer::parse("/b/c").unwrap()]);
        let token = places.token(document)?;
        Ok(token.map(|token| String::from_utf8(token.expose().to_vec()).unwrap()))
    }

    #[test]
    fn any_place_gives_the_token_with_or_without_its_scheme() {
        assert_eq!(token(&json!({ "a": "t" })), Ok(Some("t".into())));
        assert_eq!(token(&json!({ "b": { "c": "bearer t" } })), Ok(Some("t".into())));
        assert_eq!(token(&json!({ "a": null, "c": "t" })), Ok(None));
        assert_eq!(token(&json!({ "a": "Basic dDp0" })), Ok(Some("Basic dDp0".into())));
    }

    #[test]
    fn two_places_must_agree() {
        assert_eq!(token(&json!({ "a": "Bearer t", "b": { "c": "t" } })), Ok(Some("t".into())));
        let differing = json!({ "a": "t", "b": { "c": "u" } });
        assert_eq!(token(&differing), Err(Reason::AmbiguousCredential));
    }

    #[test]
    fn names_that_differ_in_case_alone_are_twins() {
        let places = Places(vec![Pointer::parse("/connect/token").unwrap()]);
        assert!(!places.has_twin(&json!({ "connect": { "token": "t", "name": "js" }, "id": 1 })));
        assert!(places.has_twin(&json!({ "connect": { "token": "t" }, "Connect": {} })));
        assert!(places.has_twin(&json!({ "connect": { "to\u{212a}en": "t" } })));
        assert!(!places.has_twin(&json!({ "data": { "Token": "t" } })));
        let listed = Pointer::parse("/l/1/token").unwrap();
        assert!(has_twin_on(&listed, &json!({ "l": [0, { "token": 1, "TOKEN": 2 }] })));
        assert!(!has_twin_on(&listed, &json!({ "l": [{ "TOKEN": 2 }, { "token": 1 }] })));
    }

    #[test]
    fn what_is_no_text_is_malformed() {
        for wrong in [json!(1), json!(""), json!("Bearer "), json!(["t"]), json!({ "t": 1 })] {
            assert_eq!(token(&json!({ "a": wrong })), Err(Reason::MalformedCredential));
        }
    }
}
