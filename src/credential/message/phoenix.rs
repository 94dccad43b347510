//! `format: phoenix`: the join of a channel, `phx_join`, in both serializations of
//! Phoenix (`Phoenix.Socket.V1.JSONSerializer` and `V2.JSONSerializer`): an object,
//! or an array `[join_ref, ref, topic, event, payload]`.
//!
//! The token's pointer is one into the payload, since the two differ around it.

use serde_json::{Value, json};

use super::places::Places;
use super::pointer::Pointer;
use super::probe::could_meet;
use super::refusal::Refusal;
use super::sought::Sought;
use super::watch::LoginWatch;
use super::{Content, LoginMessage, strictly};
use crate::close::Reason;
use crate::credential::config::MessageConfig;
use crate::problem::Problem;

/// What sockgate accepts of these before the upstream is asked.
pub(super) const SUBPROTOCOLS: [&str; 1] = ["phoenix"];

const LOGIN: &str = "phx_join";
const PLACES: [&str; 1] = ["/token"];

/// The most that comes before the payload of a binary push: kind, four lengths
/// of one byte, and what they are the lengths of.
pub(super) const BINARY_HEAD: usize = 5 + 4 * 255;

/// Reads `phx_join`.
pub(super) struct PhoenixLogin {
    places: Places,
    /// Where the event is named in the two serializations.
    events: [Sought; 2],
}

impl PhoenixLogin {
    pub(super) fn compile(
        config: &MessageConfig,
        problems: &mut Vec<Problem>,
    ) -> Option<PhoenixLogin> {
        let events = [Pointer::parse("/event").ok()?, Pointer::parse("/3").ok()?];
        let places = Places::compile(config, &PLACES, problems)?;
        let events = events.map(|event| Sought::new(event, Some(LOGIN.into())));
        Some(PhoenixLogin { places, events })
    }

    /// Whether any reader could take `payload` for a join.
    pub(super) fn matches(&self, payload: &[u8]) -> bool {
        is_binary_join(payload) || self.events.chunks(1).any(|event| could_meet(payload, event))
    }

    /// [`PhoenixLogin::matches`] for the two texts, a piece at a time: either is
    /// enough.
    pub(super) fn watches(&self) -> [LoginWatch; 2] {
        self.events.each_ref().map(|event| LoginWatch::new(std::slice::from_ref(event)))
    }

    pub(super) fn read(&self, payload: &[u8], text: bool) -> Result<LoginMessage, Reason> {
        if is_binary_join(payload) {
            // A payload of bytes has no member for a token.
            return Err(Reason::MalformedCredential);
        }
        let message = strictly(payload)?;
        let parts = match &message {
            Value::Object(_) => ["join_ref", "ref", "topic", "event", "payload"]
                .map(|name| message.get(name).cloned().unwrap_or_default()),
            Value::Array(items) => match <[Value; 5]>::try_from(items.clone()) {
                Ok(parts) => parts,
                Err(_) => return Err(Reason::MissingCredential),
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return Err(Reason::MissingCredential);
            }
        };
        let [join, reference, topic, event, payload_of_join] = parts;
        if event != LOGIN {
            return Err(Reason::MissingCredential);
        }
        let token = self.places.token(&payload_of_join)?;
        let parsed = json!({
            "join_ref": join, "ref": reference, "topic": topic, "event": event,
            "payload": payload_of_join,
        });
        Ok(LoginMessage::new(token, parsed, Content::Phoenix(message), payload, text))
    }

    /// The join without its token.
    pub(super) fn stripped(&self, message: &Value, parsed: &Value) -> Vec<u8> {
        let mut payload = parsed["payload"].clone();
        self.places.strip(&mut payload);
        rewritten(message, payload)
    }
}

/// The join with another payload.
pub(super) fn rewritten(message: &Value, payload: Value) -> Vec<u8> {
    let mut message = message.clone();
    let place = match &mut message {
        Value::Array(items) => items.get_mut(4),
        other => other.get_mut("payload"),
    };
    if let Some(place) = place {
        *place = payload;
    }
    message.to_string().into_bytes()
}

/// Of a join what its refusal repeats.
pub(super) fn asked(parsed: &Value, content: &Content) -> Value {
    let part = |name: &str| parsed.get(name).cloned().unwrap_or_default();
    match content {
        Content::Phoenix(Value::Array(_)) => json!([part("join_ref"), part("ref"), part("topic")]),
        _ => json!({ "topic": part("topic"), "ref": part("ref") }),
    }
}

/// Whether `payload` begins as a binary push of the event `phx_join` does: kind 0,
/// the lengths of join_ref, ref, topic and event, then these.
pub(super) fn is_binary_join(payload: &[u8]) -> bool {
    let [0, join, reference, topic, event, rest @ ..] = payload else { return false };
    let before: usize =
        [join, reference, topic].into_iter().map(|length| usize::from(*length)).sum();
    rest.get(before..before + usize::from(*event)) == Some(LOGIN.as_bytes())
}

/// The reply that a join gets whose channel refuses it; a client that has not
/// tried to join gets none.
pub(super) fn refusal(reason: Reason, join: Option<&Value>) -> Refusal {
    let reply = join.map(|join| {
        let payload = json!({ "status": "error", "response": { "reason": reason.text() } });
        let reply = match join {
            Value::Array(items) => {
                let part = |index: usize| items.get(index).cloned().unwrap_or_default();
                json!([part(0), part(1), part(2), "phx_reply", payload])
            }
            object => json!({
                "topic": object.get("topic").cloned().unwrap_or_default(),
                "ref": object.get("ref").cloned().unwrap_or_default(),
                "event": "phx_reply",
                "payload": payload,
            }),
        };
        (true, reply.to_string().into_bytes())
    });
    Refusal { message: reply, code: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(config: Value) -> PhoenixLogin {
        let mut problems = Vec::new();
        PhoenixLogin::compile(&serde_json::from_value(config).unwrap(), &mut problems).unwrap()
    }

    fn phoenix() -> PhoenixLogin {
        login(json!({ "format": "phoenix" }))
    }

    fn read(payload: &str) -> Result<Option<String>, Reason> {
        let token = phoenix().read(payload.as_bytes(), true)?.token;
        Ok(token.map(|token| String::from_utf8(token.expose().to_vec()).unwrap()))
    }

    const V1: &str =
        r#"{"topic":"room:1","event":"phx_join","payload":{"token":"t","v":1},"ref":"1"}"#;
    const V2: &str = r#"["1","1","room:1","phx_join",{"token":"t","v":1}]"#;

    #[test]
    fn a_join_gives_its_token_in_both_serializations() {
        assert_eq!(read(V1), Ok(Some("t".into())));
        assert_eq!(read(V2), Ok(Some("t".into())));
        assert_eq!(read(r#"["1","1","room:1","phx_join",{}]"#), Ok(None));
    }

    #[test]
    fn what_is_no_join_is_refused() {
        for message in [
            r#"[null,"1","phoenix","heartbeat",{}]"#,
            r#"["1","1","room:1","phx_join"]"#,
            r#"{"topic":"room:1","event":"say","payload":{"token":"t"}}"#,
            "1",
        ] {
            assert_eq!(read(message), Err(Reason::MissingCredential), "{message}");
        }
        let twice = r#"["1","1","a","phx_join",{"token":"t","token":"t"}]"#;
        assert_eq!(read(twice), Err(Reason::AmbiguousCredential));
    }

    #[test]
    fn what_is_sent_on_keeps_the_serialization() {
        for (message, expected) in [
            (V1, r#"{"topic":"room:1","event":"phx_join","payload":{"v":1},"ref":"1"}"#),
            (V2, r#"["1","1","room:1","phx_join",{"v":1}]"#),
        ] {
            let read = phoenix().read(message.as_bytes(), true).unwrap();
            let Content::Phoenix(whole) = &read.content else { panic!("another dialect") };
            let stripped = phoenix().stripped(whole, &read.parsed);
            assert_eq!(String::from_utf8(stripped).unwrap(), expected);
            assert_eq!(rewritten(whole, json!({ "v": 1 })), expected.as_bytes());
        }
    }

    #[test]
    fn a_binary_join_is_seen_and_refused() {
        let push = |event: &str| {
            let lengths = [0, 1, 1, 6, event.len() as u8];
            [&lengths[..], b"11room:1", event.as_bytes(), b"bytes"].concat()
        };
        assert!(phoenix().matches(&push("phx_join")) && !phoenix().matches(&push("say")));
        let refused = phoenix().read(&push("phx_join"), false).err();
        assert_eq!(refused, Some(Reason::MalformedCredential));
        assert!(!is_binary_join(&[0, 255, 255, 255, 255]) && !is_binary_join(b""));
    }

    #[test]
    fn later_joins_are_seen() {
        assert!(phoenix().matches(V1.as_bytes()) && phoenix().matches(V2.as_bytes()));
        assert!(!phoenix().matches(br#"["1","2","room:1","say",{"event":"phx_join"}]"#));
    }

    #[test]
    fn refusals_answer_the_join() {
        let reply = |join: Option<&str>| {
            let join = join.map(|join| serde_json::from_str(join).unwrap());
            refusal(Reason::Expired, join.as_ref())
                .message
                .map(|(_, reply)| String::from_utf8(reply).unwrap())
        };
        let payload = r#"{"status":"error","response":{"reason":"Session expired"}}"#;
        let expected = format!(r#"["1","1","room:1","phx_reply",{payload}]"#);
        assert_eq!(reply(Some(V2)), Some(expected));
        assert!(reply(Some(V1)).is_some_and(|reply| reply.contains(payload)));
        assert_eq!(reply(None), None);
    }
}
