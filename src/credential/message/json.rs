//! `format: json`: an object that `where` recognises and `token` points into.

use serde_json::Value;

use super::places::has_twin_on;
use super::pointer::Pointer;
use super::probe::could_meet;
use super::sought::{Sought, equal};
use super::watch::{LoginWatch, begins};
use super::wide::Decoder;
use super::{Content, LoginMessage, strictly};
use crate::close::Reason;
use crate::credential::config::MessageConfig;
use crate::problem::Problem;
use crate::secret::Secret;

/// What a login looks like as JSON.
pub(super) struct JsonLogin {
    conditions: Vec<Sought>,
    token: Sought,
}

impl JsonLogin {
    pub(super) fn compile(
        config: &MessageConfig,
        problems: &mut Vec<Problem>,
    ) -> Option<JsonLogin> {
        let mut conditions = Vec::new();
        for (written, expected) in &config.conditions {
            let path = format!("message.where.{written}");
            if expected.is_array() || expected.is_object() {
                let message = "must be a string, a number, true, false or null";
                problems.push(Problem::new(path.as_str(), message));
            }
            match Pointer::parse(written) {
                Ok(pointer) => conditions.push(Sought::new(pointer, Some(expected.clone()))),
                Err(message) => problems.push(Problem::new(path, message)),
            }
        }
        let token = match config.token.as_deref().map(Pointer::parse) {
            Some(Ok(token)) if !token.tokens().is_empty() => Some(token),
            Some(Ok(_)) | None => {
                let message = "say where the token is, as a JSON Pointer such as \"/token\"";
                problems.push(Problem::new("message.token", message));
                None
            }
            Some(Err(message)) => {
                problems.push(Problem::new("message.token", message));
                None
            }
        };
        token.map(|token| JsonLogin { conditions, token: Sought::new(token, None) })
    }

    /// Whether any reader could take `payload` for a login. Without conditions,
    /// whatever holds something where the token would be.
    pub(super) fn matches(&self, payload: &[u8]) -> bool {
        could_meet(payload, self.sought())
    }

    /// Whether what begins with `begun` could become a login.
    pub(super) fn could_match(&self, begun: &[u8]) -> bool {
        let mut decoder = Decoder::default();
        let decoded = decoder.decode(begun);
        // Of less than a character's worth without zeros the encoding is plain enough.
        let is_short = decoded.is_empty() && !begun.contains(&0);
        begins(if is_short { begun } else { &decoded }) != Some(false)
    }

    /// [`JsonLogin::matches`], a piece at a time; a credential counts before all that
    /// tells that it is one has been seen.
    pub(super) fn watch(&self) -> LoginWatch {
        LoginWatch::new(self.sought()).with_credential(&self.token)
    }

    fn sought(&self) -> &[Sought] {
        match &self.conditions[..] {
            [] => std::slice::from_ref(&self.token),
            conditions => conditions,
        }
    }

    pub(super) fn read(&self, payload: &[u8], text: bool) -> Result<LoginMessage, Reason> {
        let parsed = strictly(payload)?;
        let is_login = parsed.is_object()
            && self.conditions.iter().all(|one| {
                one.pointer.of(&parsed).zip(one.expected.as_ref()).is_some_and(|(a, b)| equal(a, b))
            });
        if !is_login {
            return Err(Reason::MissingCredential);
        }
        // A server that folds the case of names could read another login.
        let mut places = self.conditions.iter().chain([&self.token]).map(|one| &one.pointer);
        if places.any(|place| has_twin_on(place, &parsed)) {
            return Err(Reason::AmbiguousCredential);
        }
        match self.token.pointer.of(&parsed) {
            Some(Value::String(token)) if !token.is_empty() => {
                let token = Some(Secret::new(token.as_str()));
                Ok(LoginMessage::new(token, parsed, Content::Whole, payload, text))
            }
            Some(_) | None => Err(Reason::MalformedCredential),
        }
    }

    /// The message without the member that held the token.
    pub(super) fn without_token(&self, parsed: &Value) -> Value {
        let mut rest = parsed.clone();
        self.token.pointer.remove_from(&mut rest);
        rest
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn login(config: Value) -> JsonLogin {
        let config = serde_json::from_value(config).unwrap();
        let mut problems = Vec::new();
        JsonLogin::compile(&config, &mut problems).unwrap()
    }

    fn auth() -> JsonLogin {
        login(json!({ "where": { "/type": "auth" }, "token": "/token" }))
    }

    fn read(payload: &str) -> Result<String, Reason> {
        let token = auth().read(payload.as_bytes(), true)?.token.unwrap();
        Ok(String::from_utf8(token.expose().to_vec()).unwrap())
    }

    #[test]
    fn a_login_gives_its_token() {
        assert_eq!(read(r#"{"type":"auth","token":"abc"}"#), Ok("abc".into()));
        assert_eq!(read(r#"{"type":"auth","token":"\u0061bc"}"#), Ok("abc".into()));
    }

    #[test]
    fn what_is_no_login_is_a_missing_credential() {
        for payload in [r#"{"type":"chat","token":"abc"}"#, "{}", "[]", "null", r#""auth""#] {
            assert_eq!(read(payload), Err(Reason::MissingCredential), "{payload}");
        }
    }

    #[test]
    fn a_login_without_a_usable_token_is_malformed() {
        for token in
            ["", r#","token":"""#, r#","token":1"#, r#","token":null"#, r#","token":["a"]"#]
        {
            let payload = format!(r#"{{"type":"auth"{token}}}"#);
            assert_eq!(read(&payload), Err(Reason::MalformedCredential), "{payload}");
        }
        assert_eq!(read("hello"), Err(Reason::MalformedCredential));
    }

    #[test]
    fn two_readings_are_ambiguous() {
        for payload in [
            r#"{"type":"auth","token":"a","token":"b"}"#,
            r#"{"type":"auth","token":"a","token":"a"}"#,
            r#"{"type":"auth","token":"a"}{"#,
            r#"{"type":"auth","token":"a","Token":"b"}"#,
            r#"{"TYPE":"x","type":"auth","token":"a"}"#,
        ] {
            assert_eq!(read(payload), Err(Reason::AmbiguousCredential), "{payload}");
        }
    }

    #[test]
    fn a_second_login_is_recognised_however_it_is_written() {
        let auth = auth();
        assert!(auth.matches(br#"{"type":"auth"}"#));
        assert!(auth.matches(b"\xef\xbb\xbf {\"\xff\":1,\"type\":\"auth\"}"));
        assert!(auth.matches(br#"{"type":"auth","type":"chat"}"#));
        assert!(auth.matches(br#"{"Type":"auth"}"#));
        // What readers take that serde does not: Python, Gson, Newtonsoft, Ruby.
        assert!(auth.matches(br#"{"n":NaN,"type":"auth"}"#));
        assert!(auth.matches(b"/* \" */ {'type':'auth',}"));
        assert!(auth.matches(br#"{type:auth,token:abc}"#));
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        assert!(auth.matches(&wide(r#"{"type":"auth"}"#)));
        assert!(!auth.matches(&wide(r#"{"type":"chat"}"#)));
        assert!(!auth.matches(b"[see] type: \"auth\", {"));
        assert!(!auth.matches(br#"{"type":"chat","token":"x"}"#));
        assert!(!auth.matches(b"hello"));
        for begun in [&wide("{")[..], b"\0", b"\0{\0\"", b"\0\0\0{\0", b"{", b"", b" "] {
            assert!(auth.could_match(begun), "{begun:?}");
        }
        for begun in [&b"hello"[..], b"he", b"\0h\0e\0l", b"\0\0\0h"] {
            assert!(!auth.could_match(begun), "{begun:?}");
        }
        let bare = login(json!({ "token": "/token" }));
        assert!(bare.matches(br#"{"token":1}"#));
        assert!(!bare.matches(br#"{"text":"token"}"#));
    }

    #[test]
    fn an_empty_object_stays_without_its_token() {
        let login = login(json!({ "token": "/auth/token" }));
        let rest = login.without_token(&json!({ "v": 1, "auth": { "token": "x" } }));
        assert_eq!(rest.to_string(), r#"{"v":1,"auth":{}}"#);
    }

    #[test]
    fn pointers_are_checked() {
        for config in [
            json!({}),
            json!({ "token": "token" }),
            json!({ "token": "" }),
            json!({ "token": "/t", "where": { "type": 1 } }),
            json!({ "token": "/t", "where": { "/type": [] } }),
        ] {
            let mut problems = Vec::new();
            JsonLogin::compile(&serde_json::from_value(config.clone()).unwrap(), &mut problems);
            assert_eq!(problems.len(), 1, "{config}");
        }
    }
}
