//! What a connection was admitted on. It is kept for as long as the connection
//! is, and read only by a reload: so it is kept as text, without what is usual.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a connection was admitted on, besides its identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grounds<'a> {
    /// All that `require` may ask of the request, if the rule looked at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Cow<'a, Value>>,
    /// The path that was asked for.
    pub path: Cow<'a, str>,
    /// The query, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<Cow<'a, str>>,
    /// The subprotocols that were offered.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub subprotocols: Cow<'a, [String]>,
    /// The message that authenticated, if the rule looked at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Cow<'a, Value>>,
    /// `Origin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Cow<'a, str>>,
    /// The host that the client asked for.
    pub host: Cow<'a, str>,
    /// Its port, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether the client came by TLS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub https: bool,
}

impl Grounds<'_> {
    /// As an entry keeps it.
    pub fn kept(&self) -> Box<str> {
        // Text keys and plain values: it cannot fail; nothing kept refuses later.
        // Copied, which takes less than to have the text give back what it has too much.
        serde_json::to_string(self).unwrap_or_default().as_str().into()
    }

    /// What was kept; without anything, a rule that asks fails, which refuses.
    pub fn of(kept: &str) -> Grounds<'static> {
        serde_json::from_str(kept).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_usual_takes_no_room() {
        let usual = Grounds { path: "/ws".into(), host: "a".into(), ..Grounds::default() };
        assert_eq!(&*usual.kept(), r#"{"path":"/ws","host":"a"}"#);
        assert_eq!(Grounds::of(&usual.kept()), usual);
    }

    #[test]
    fn everything_comes_back() {
        let all = Grounds {
            request: Some(Cow::Owned(json!({ "path": "/ws", "headers": { "x": "y" } }))),
            path: "/ws".into(),
            query: Some("a=1".into()),
            subprotocols: vec!["chat".to_owned()].into(),
            message: Some(Cow::Owned(json!({ "type": "auth" }))),
            origin: Some("https://app.example".into()),
            host: "app.example".into(),
            port: Some(8443),
            https: true,
        };
        assert_eq!(Grounds::of(&all.kept()), all);
        let null = Grounds { message: Some(Cow::Owned(Value::Null)), ..all };
        assert_eq!(Grounds::of(&null.kept()).message, None);
    }
}
