//! `format: socketio`: CONNECT of Socket.IO (<https://socket.io/docs/v4/socket-io-protocol/>)
//! in a message of Engine.IO 4, `40{…}`, or `40/namespace,{…}`. The server speaks
//! first: Engine.IO's open packet.

use serde_json::{Value, json};

use super::places::Places;
use super::refusal::Refusal;
use super::{Content, LoginMessage, strictly};
use crate::close::Reason;
use crate::credential::config::MessageConfig;
use crate::problem::Problem;

/// What sockgate accepts of these before the upstream is asked: clients offer none.
pub(super) const SUBPROTOCOLS: [&str; 0] = [];

/// Engine.IO's answer to a ping, which a client may send before it logs in.
pub(super) const PONG: &[u8] = b"3";

const PLACES: [&str; 1] = ["/token"];

/// Reads CONNECT.
pub(super) struct SocketioLogin {
    places: Places,
}

impl SocketioLogin {
    pub(super) fn compile(
        config: &MessageConfig,
        problems: &mut Vec<Problem>,
    ) -> Option<SocketioLogin> {
        Places::compile(config, &PLACES, problems).map(|places| SocketioLogin { places })
    }

    pub(super) fn read(&self, payload: &[u8], text: bool) -> Result<LoginMessage, Reason> {
        if !text || !is_login(payload) {
            return Err(Reason::MissingCredential);
        }
        let packet = std::str::from_utf8(payload).map_err(|_| Reason::MalformedCredential)?;
        let packet = packet.strip_prefix("40").ok_or(Reason::MalformedCredential)?;
        let (namespace, auth) = match packet.strip_prefix('/') {
            None => ("/", packet),
            Some(_) => packet.split_once(',').unwrap_or((packet, "")),
        };
        let auth = match auth {
            "" => Value::Null,
            auth => strictly(auth.as_bytes())?,
        };
        if !auth.is_null() && !auth.is_object() {
            return Err(Reason::MalformedCredential);
        }
        let token = self.places.token(&auth)?;
        let parsed = json!({ "namespace": namespace, "payload": auth });
        Ok(LoginMessage::new(token, parsed, Content::Whole, payload, true))
    }

    /// CONNECT without its token.
    pub(super) fn stripped(&self, parsed: &Value) -> Vec<u8> {
        let mut auth = parsed["payload"].clone();
        self.places.strip(&mut auth);
        rewritten(parsed, auth)
    }
}

/// CONNECT with another payload.
pub(super) fn rewritten(parsed: &Value, auth: Value) -> Vec<u8> {
    let auth = if auth.is_null() { String::new() } else { auth.to_string() };
    format!("40{}{auth}", namespace(parsed)).into_bytes()
}

/// The namespace as it stands in a packet.
fn namespace(parsed: &Value) -> String {
    match parsed.get("namespace").and_then(Value::as_str) {
        None | Some("/") => String::new(),
        Some(namespace) => format!("{namespace},"),
    }
}

/// Whether any reader could take a text message that begins so for a CONNECT: to the
/// parser of JavaScript a blank and the end are the digit 0, to Python's the digits of
/// every script are digits.
pub(super) fn is_login(text: &[u8]) -> bool {
    match text {
        [b'4', kind, ..] => !(b'1'..=b'9').contains(kind),
        [b'4'] => true,
        [first, ..] => !first.is_ascii(),
        [] => false,
    }
}

/// CONNECT_ERROR for the namespace that was asked for.
pub(super) fn refusal(reason: Reason, asked: Option<&Value>) -> Refusal {
    let namespace = asked.map(namespace).unwrap_or_default();
    let told = json!({ "message": reason.text() });
    Refusal { message: Some((true, format!("44{namespace}{told}").into_bytes())), code: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(config: Value) -> SocketioLogin {
        let mut problems = Vec::new();
        SocketioLogin::compile(&serde_json::from_value(config).unwrap(), &mut problems).unwrap()
    }

    fn socketio() -> SocketioLogin {
        login(json!({ "format": "socketio" }))
    }

    fn read(payload: &str) -> Result<Option<String>, Reason> {
        let token = socketio().read(payload.as_bytes(), true)?.token;
        Ok(token.map(|token| String::from_utf8(token.expose().to_vec()).unwrap()))
    }

    #[test]
    fn connect_gives_its_token_in_any_namespace() {
        assert_eq!(read(r#"40{"token":"t"}"#), Ok(Some("t".into())));
        assert_eq!(read(r#"40/admin,{"token":"Bearer t"}"#), Ok(Some("t".into())));
        for without in ["40", "40{}", "40/admin,", "40/admin", r#"40{"a":1}"#] {
            assert_eq!(read(without), Ok(None), "{without}");
        }
    }

    #[test]
    fn what_is_no_single_login_is_refused() {
        for (packet, reason) in [
            ("2", Reason::MissingCredential),
            ("2probe", Reason::MissingCredential),
            (r#"42["a",{"token":"t"}]"#, Reason::MissingCredential),
            (r#"4 {"token":"t"}"#, Reason::MalformedCredential),
            ("4", Reason::MalformedCredential),
            (r#"4012{"token":"t"}"#, Reason::AmbiguousCredential),
            (r#"40["t"]"#, Reason::MalformedCredential),
            (r#"40{"token":1}"#, Reason::MalformedCredential),
            (r#"40{"token":"t"}x"#, Reason::AmbiguousCredential),
            (r#"40{"token":"t","token":"u"}"#, Reason::AmbiguousCredential),
        ] {
            assert_eq!(read(packet), Err(reason), "{packet}");
        }
        let binary = socketio().read(br#"40{"token":"t"}"#, false).err();
        assert_eq!(binary, Some(Reason::MissingCredential));
    }

    #[test]
    fn what_is_sent_on_keeps_the_namespace() {
        let sent = |packet: &str| {
            let read = socketio().read(packet.as_bytes(), true).unwrap();
            String::from_utf8(socketio().stripped(&read.parsed)).unwrap()
        };
        assert_eq!(sent(r#"40{"token":"t"}"#), "40{}");
        assert_eq!(sent(r#"40/a,{"v":1,"token":"t"}"#), r#"40/a,{"v":1}"#);
        assert_eq!(sent("40/a,"), "40/a,");
        let read = socketio().read(br#"40/a,{"token":"t"}"#, true).unwrap();
        let other = rewritten(&read.parsed, json!({ "user": "ann" }));
        assert_eq!(String::from_utf8(other).unwrap(), r#"40/a,{"user":"ann"}"#);
    }

    #[test]
    fn every_spelling_of_a_connect_is_seen() {
        for login in ["40", "40{}", "4", "4 {}", "4\u{a0}{}", "4x", "4\u{660}{}", "\u{ff14}0{}"] {
            assert!(is_login(login.as_bytes()), "{login}");
        }
        for other in ["", "2", "3", "41", "42[]", "43[]", "451-[]", "0{}", "b40"] {
            assert!(!is_login(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn refusals_are_connect_errors_of_the_namespace() {
        let said = |asked: Option<&Value>| {
            let (text, packet) = refusal(Reason::Expired, asked).message.unwrap();
            assert!(text);
            String::from_utf8(packet).unwrap()
        };
        assert_eq!(said(None), r#"44{"message":"Session expired"}"#);
        let asked = json!({ "namespace": "/a" });
        assert_eq!(said(Some(&asked)), r#"44/a,{"message":"Session expired"}"#);
    }
}
