//! `format: graphql`: `connection_init` of the subprotocols
//! `graphql-transport-ws` (<https://github.com/enisdenjo/graphql-ws>, PROTOCOL.md)
//! and `graphql-ws`, the older one of subscriptions-transport-ws.

use serde_json::{Map, Value, json};

use super::places::{Places, is_twin};
use super::pointer::Pointer;
use super::probe::could_meet;
use super::refusal::{Cause, Refusal};
use super::sought::Sought;
use super::watch::LoginWatch;
use super::{Content, LoginMessage, strictly};
use crate::close::Reason;
use crate::credential::config::MessageConfig;
use crate::problem::Problem;

/// What sockgate accepts of these before the upstream is asked.
pub(super) const SUBPROTOCOLS: [&str; 2] = ["graphql-transport-ws", OLD];

const OLD: &str = "graphql-ws";
const LOGIN: &str = "connection_init";
const MEMBERS: [&str; 3] = ["id", "type", "payload"];
const PLACES: [&str; 3] =
    ["/payload/Authorization", "/payload/authorization", "/payload/headers/Authorization"];

/// Reads `connection_init`.
pub(super) struct GraphqlLogin {
    places: Places,
    kind: Sought,
}

impl GraphqlLogin {
    pub(super) fn compile(
        config: &MessageConfig,
        problems: &mut Vec<Problem>,
    ) -> Option<GraphqlLogin> {
        let kind = Pointer::parse("/type").ok()?;
        let places = Places::compile(config, &PLACES, problems)?;
        Some(GraphqlLogin { places, kind: Sought::new(kind, Some(LOGIN.into())) })
    }

    /// Whether any reader could take `payload` for a login.
    pub(super) fn matches(&self, payload: &[u8]) -> bool {
        could_meet(payload, std::slice::from_ref(&self.kind))
    }

    /// [`GraphqlLogin::matches`], a piece at a time.
    pub(super) fn watch(&self) -> LoginWatch {
        LoginWatch::new(std::slice::from_ref(&self.kind))
    }

    pub(super) fn read(&self, payload: &[u8], text: bool) -> Result<LoginMessage, Reason> {
        let parsed = strictly(payload)?;
        if !parsed.is_object() || self.kind.pointer.of(&parsed) != self.kind.expected.as_ref() {
            return Err(Reason::MissingCredential);
        }
        // To a server in Go, "Payload" is `payload` too, and the last of them counts. Below
        // that, names are data.
        let mut names = parsed.as_object().into_iter().flat_map(Map::keys);
        if names.any(|name| MEMBERS.iter().any(|member| is_twin(name, member))) {
            return Err(Reason::AmbiguousCredential);
        }
        let token = self.places.token(&parsed)?;
        Ok(LoginMessage::new(token, parsed, Content::Whole, payload, text))
    }

    /// The message without its token.
    pub(super) fn stripped(&self, parsed: &Value) -> Vec<u8> {
        let mut rest = parsed.clone();
        self.places.strip(&mut rest);
        rest.to_string().into_bytes()
    }
}

/// The message with another payload.
pub(super) fn rewritten(parsed: &Value, payload: Value) -> Vec<u8> {
    let mut message = parsed.clone();
    message["payload"] = payload;
    message.to_string().into_bytes()
}

/// Clients try again with fresh parameters after 4403, and never after 4401.
pub(super) fn refusal(reason: Reason, subprotocol: Option<&str>) -> Refusal {
    let code = match Cause::of(reason) {
        Cause::Expired | Cause::Forbidden => Some(4403),
        Cause::Timeout => Some(4408),
        Cause::Unauthorized => Some(4401),
        Cause::Elsewhere => None,
    };
    let old = subprotocol == Some(OLD);
    let told = || json!({ "type": "connection_error", "payload": { "message": reason.text() } });
    let message = old.then(|| (true, told().to_string().into_bytes()));
    Refusal { message, code }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(config: Value) -> GraphqlLogin {
        let mut problems = Vec::new();
        GraphqlLogin::compile(&serde_json::from_value(config).unwrap(), &mut problems).unwrap()
    }

    fn read(payload: &str) -> Result<Option<String>, Reason> {
        let read = login(json!({ "format": "graphql" })).read(payload.as_bytes(), true)?;
        Ok(read.token.map(|token| String::from_utf8(token.expose().to_vec()).unwrap()))
    }

    #[test]
    fn connection_init_gives_its_token_from_each_place() {
        for payload in [
            r#"{"Authorization":"Bearer t"}"#,
            r#"{"authorization":"t"}"#,
            r#"{"headers":{"Authorization":"Bearer t"}}"#,
            r#"{"Authorization":"t","authorization":"Bearer t"}"#,
        ] {
            let message = format!(r#"{{"type":"connection_init","payload":{payload}}}"#);
            assert_eq!(read(&message), Ok(Some("t".into())), "{message}");
        }
        assert_eq!(read(r#"{"type":"connection_init"}"#), Ok(None));
    }

    #[test]
    fn other_messages_are_no_login_and_two_tokens_are_ambiguous() {
        assert_eq!(read(r#"{"type":"ping"}"#), Err(Reason::MissingCredential));
        assert_eq!(read(r#"[{"type":"connection_init"}]"#), Err(Reason::MissingCredential));
        assert_eq!(read("hello"), Err(Reason::MalformedCredential));
        for payload in [
            r#"{"type":"connection_init","payload":{"Authorization":"t","authorization":"u"}}"#,
            r#"{"type":"connection_init","payload":{"x":{"y":1,"y":2},"Authorization":"t"}}"#,
            r#"{"type":"connection_init","payload":{"Authorization":"t"}} {}"#,
            r#"{"type":"connection_init","payload":{"Authorization":"t"},"Payload":{"user":"x"}}"#,
            r#"{"Type":"ping","type":"connection_init","payload":{"Authorization":"t"}}"#,
        ] {
            assert_eq!(read(payload), Err(Reason::AmbiguousCredential), "{payload}");
        }
    }

    #[test]
    fn a_configured_place_replaces_the_usual_ones() {
        let login = login(json!({ "format": "graphql", "token": "/payload/token" }));
        let message = br#"{"type":"connection_init","payload":{"token":"t","Authorization":"u"}}"#;
        let read = login.read(message, true).unwrap();
        assert_eq!(read.token.unwrap().expose(), b"t");
        let stripped = String::from_utf8(login.stripped(&read.parsed)).unwrap();
        assert_eq!(stripped, r#"{"type":"connection_init","payload":{"Authorization":"u"}}"#);
    }

    #[test]
    fn a_rewrite_replaces_the_payload_alone() {
        let message = json!({ "type": "connection_init", "id": "1", "payload": { "a": 1 } });
        let rewritten = rewritten(&message, json!({ "user": "ann" }));
        let expected = r#"{"type":"connection_init","id":"1","payload":{"user":"ann"}}"#;
        assert_eq!(String::from_utf8(rewritten).unwrap(), expected);
    }

    #[test]
    fn refusals_say_whether_to_try_again() {
        let code = |reason| refusal(reason, Some("graphql-transport-ws")).code;
        assert_eq!(code(Reason::Expired), Some(4403));
        assert_eq!(code(Reason::Forbidden), Some(4403));
        assert_eq!(code(Reason::InvalidCredential), Some(4401));
        assert_eq!(code(Reason::MissingCredential), Some(4401));
        assert_eq!(code(Reason::AuthTimeout), Some(4408));
        assert_eq!(code(Reason::VerifierUnavailable), None);
        assert!(refusal(Reason::Expired, Some("graphql-transport-ws")).message.is_none());
        let (text, message) = refusal(Reason::Expired, Some(OLD)).message.unwrap();
        let expected = r#"{"type":"connection_error","payload":{"message":"Session expired"}}"#;
        assert_eq!((text, String::from_utf8(message).unwrap().as_str()), (true, expected));
    }

    #[test]
    fn a_later_login_is_seen_however_it_is_written() {
        let login = login(json!({ "format": "graphql" }));
        assert!(login.matches(br#"{"type":"x","\u0074ype":"connection_init"}"#));
        assert!(login.matches(br#"{"TYPE":"connection_init"}"#));
        assert!(!login.matches(br#"{"type":"subscribe","payload":{"type":"connection_init"}}"#));
    }
}
