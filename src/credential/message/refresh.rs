//! A credential that a client sends in the middle of its connection, to renew
//! its login. It is told apart by its shape alone, so it is JSON, and recognised
//! as leniently as any login: no spelling of one slips past to the upstream.

use std::collections::BTreeMap;

use serde_json::Value;

use super::json::JsonLogin;
use super::watch::LoginWatch;
use crate::close::Reason;
use crate::credential::config::{MessageConfig, MessageFormat};
use crate::problem::Problem;
use crate::secret::Secret;

/// What a renewal looks like.
pub struct RefreshMessage(JsonLogin);

/// Follows a message that is too large to be seen whole.
pub struct RefreshWatch(LoginWatch);

impl RefreshMessage {
    /// The message that holds `conditions` and, at `token`, the credential.
    ///
    /// # Errors
    /// Every problem, with paths such as `token` and `where./type`.
    pub fn compile(
        conditions: &BTreeMap<String, Value>,
        token: &str,
    ) -> Result<RefreshMessage, Vec<Problem>> {
        let written = MessageConfig {
            format: MessageFormat::Json,
            conditions: conditions.clone(),
            token: Some(token.to_owned()),
            dial: None,
        };
        let mut problems = Vec::new();
        let login = JsonLogin::compile(&written, &mut problems);
        match login.filter(|_| problems.is_empty()) {
            Some(login) => Ok(RefreshMessage(login)),
            None => Err(problems.into_iter().map(as_our_own).collect()),
        }
    }

    /// Whether any reader could take `payload` for a renewal.
    pub fn matches(&self, payload: &[u8]) -> bool {
        self.0.matches(payload)
    }

    /// Whether what begins with `begun` could become one.
    pub fn could_match(&self, begun: &[u8]) -> bool {
        self.0.could_match(begun)
    }

    /// [`RefreshMessage::matches`], a piece at a time.
    pub fn watch(&self) -> RefreshWatch {
        RefreshWatch(self.0.watch())
    }

    /// The credential that `payload` holds.
    ///
    /// # Errors
    /// [`Reason::MalformedCredential`], [`Reason::MissingCredential`] if a strict
    /// reader finds no renewal, [`Reason::AmbiguousCredential`] if two readers could
    /// read it differently.
    pub fn read(&self, payload: &[u8]) -> Result<Secret, Reason> {
        self.0.read(payload, true)?.token.ok_or(Reason::MissingCredential)
    }
}

impl RefreshWatch {
    /// Reads on; whether the message is a renewal by what came so far.
    pub fn is_refresh(&mut self, piece: &[u8]) -> bool {
        self.0.is_login(piece)
    }
}

/// `message.token` is `token` here.
fn as_our_own(problem: Problem) -> Problem {
    match problem.path.strip_prefix("message.") {
        Some(own) => Problem::new(own, problem.message),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refresh(conditions: Value, token: &str) -> Result<RefreshMessage, Vec<Problem>> {
        RefreshMessage::compile(&serde_json::from_value(conditions).unwrap(), token)
    }

    #[test]
    fn a_refresh_is_recognised_leniently_and_read_strictly() {
        let refresh = refresh(json!({ "/type": "auth" }), "/token").ok().unwrap();
        let good = br#"{"type":"auth","token":"abc"}"#;
        assert!(refresh.matches(good));
        assert_eq!(refresh.read(good).ok().unwrap().expose(), b"abc");
        for (odd, reason) in [
            (&br#"{"type":"auth","type":"chat","token":"a"}"#[..], Reason::AmbiguousCredential),
            (br#"{"type":"auth"}"#, Reason::MalformedCredential),
            (br#"[{"type":"auth"}]"#, Reason::MissingCredential),
        ] {
            assert_eq!(refresh.read(odd).err(), Some(reason));
        }
        assert!(refresh.matches(br#"{"type":"auth","type":"chat","token":"a"}"#));
        assert!(!refresh.matches(br#"{"type":"chat","token":"a"}"#));
        assert!(refresh.could_match(b" {\"to") && refresh.could_match(b""));
        assert!(refresh.could_match(b"\xef\xbb\xbf[") && !refresh.could_match(b"hello"));
        let mut watch = refresh.watch();
        assert!(!watch.is_refresh(br#"{"type""#) && watch.is_refresh(br#":"auth""#));
    }

    #[test]
    fn problems_are_named_by_the_keys_of_the_section() {
        let found = refresh(json!({ "type": 1, "/a": [] }), "token").err().unwrap();
        let paths: Vec<&str> = found.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["where./a", "where.type", "token"]);
    }
}
