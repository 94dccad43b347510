//! `format: centrifuge`: the `connect` command of Centrifuge and Centrifugo in
//! JSON (<https://centrifugal.dev/docs/transports/client_protocol>). A message may
//! hold several commands, one per line; `connect` comes first.

use serde_json::{Map, Value, json};

use super::places::{Places, set_member};
use super::pointer::Pointer;
use super::probe::any_at;
use super::refusal::{Cause, Refusal};
use super::sought::Sought;
use super::watch::LoginWatch;
use super::{Content, LoginMessage, strictly};
use crate::close::Reason;
use crate::credential::config::MessageConfig;
use crate::problem::Problem;

const PLACES: [&str; 1] = ["/connect/token"];

/// Reads `connect`.
pub(super) struct CentrifugeLogin {
    places: Places,
    connect: Sought,
}

impl CentrifugeLogin {
    pub(super) fn compile(
        config: &MessageConfig,
        problems: &mut Vec<Problem>,
    ) -> Option<CentrifugeLogin> {
        let connect = Pointer::parse("/connect").ok()?;
        let places = Places::compile(config, &PLACES, problems)?;
        Some(CentrifugeLogin { places, connect: Sought::new(connect, None) })
    }

    /// Whether any reader could take a command in `payload` for a login.
    pub(super) fn matches(&self, payload: &[u8]) -> bool {
        // As a whole too: commands need not be on lines of their own.
        !self.connect.is_absent_from(payload)
            && (self.watch().is_login(payload)
                || String::from_utf8_lossy(payload)
                    .split('\n')
                    .any(|line| any_at(line, &self.connect)))
    }

    /// [`CentrifugeLogin::matches`], a piece at a time.
    pub(super) fn watch(&self) -> LoginWatch {
        LoginWatch::new(std::slice::from_ref(&self.connect))
    }

    pub(super) fn read(&self, payload: &[u8], text: bool) -> Result<LoginMessage, Reason> {
        let mut lines = payload.split(|byte| *byte == b'\n');
        let parsed = strictly(lines.next().unwrap_or_default())?;
        if !parsed.get("connect").is_some_and(Value::is_object) {
            return Err(Reason::MissingCredential);
        }
        let mut behind = Vec::new();
        for line in lines.filter(|line| !line.trim_ascii().is_empty()) {
            let command = strictly(line)?;
            if !command.is_object() || command.get("connect").is_some() {
                return Err(Reason::AmbiguousCredential);
            }
            behind.push(command);
        }
        // To Go, "Connect" is `connect` too.
        if std::iter::once(&parsed).chain(&behind).any(|command| self.places.has_twin(command)) {
            return Err(Reason::AmbiguousCredential);
        }
        let token = self.places.token(&parsed)?;
        Ok(LoginMessage::new(token, parsed, Content::Centrifuge(behind), payload, text))
    }

    /// The commands without the token.
    pub(super) fn stripped(&self, parsed: &Value, behind: &[Value]) -> Vec<u8> {
        let mut command = parsed.clone();
        self.places.strip(&mut command);
        lines(&command, behind)
    }

    /// The commands without the token and with other `fields` of `connect`; one
    /// that is null is left out.
    pub(super) fn rewritten(
        &self,
        parsed: &Value,
        behind: &[Value],
        fields: &Map<String, Value>,
    ) -> Vec<u8> {
        let mut command = parsed.clone();
        self.places.strip(&mut command);
        if let Some(Value::Object(connect)) = command.get_mut("connect") {
            for (name, value) in fields {
                set_member(connect, name, value);
            }
        }
        lines(&command, behind)
    }
}

fn lines(command: &Value, behind: &[Value]) -> Vec<u8> {
    let all: Vec<String> = std::iter::once(command).chain(behind).map(Value::to_string).collect();
    all.join("\n").into_bytes()
}

/// The answer to the command: after 109 a client asks its application for a fresh
/// token, after 103 it gives up, and a temporary error it tries again.
pub(super) fn refusal(reason: Reason, command: Option<&Value>) -> Refusal {
    let (code, temporary) = match Cause::of(reason) {
        Cause::Expired => (109, false),
        Cause::Unauthorized | Cause::Forbidden | Cause::Timeout => (103, false),
        Cause::Elsewhere => (100, true),
    };
    let reply = command.map(|command| {
        let mut error = json!({ "code": code, "message": reason.text() });
        if temporary {
            error["temporary"] = Value::from(true);
        }
        let id = command.get("id").cloned().unwrap_or_default();
        (true, json!({ "id": id, "error": error }).to_string().into_bytes())
    });
    Refusal { message: reply, code: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(config: Value) -> CentrifugeLogin {
        let mut problems = Vec::new();
        CentrifugeLogin::compile(&serde_json::from_value(config).unwrap(), &mut problems).unwrap()
    }

    fn centrifuge() -> CentrifugeLogin {
        login(json!({ "format": "centrifuge" }))
    }

    fn read(payload: &str) -> Result<Option<String>, Reason> {
        let token = centrifuge().read(payload.as_bytes(), true)?.token;
        Ok(token.map(|token| String::from_utf8(token.expose().to_vec()).unwrap()))
    }

    const LOGIN: &str = r#"{"connect":{"token":"t","name":"js"},"id":1}"#;

    #[test]
    fn connect_gives_its_token() {
        assert_eq!(read(LOGIN), Ok(Some("t".into())));
        assert_eq!(read(r#"{"connect":{},"id":1}"#), Ok(None));
        let batch = format!("{LOGIN}\n{}\n", r#"{"id":2,"subscribe":{"channel":"a"}}"#);
        assert_eq!(read(&batch), Ok(Some("t".into())));
    }

    #[test]
    fn what_is_no_login_or_two_is_refused() {
        assert_eq!(read(r#"{"id":1,"ping":{}}"#), Err(Reason::MissingCredential));
        assert_eq!(read("\n"), Err(Reason::MalformedCredential));
        assert_eq!(read("\u{1}\u{2}"), Err(Reason::MalformedCredential));
        for message in [
            format!("{LOGIN}\n{LOGIN}"),
            format!("{LOGIN}{LOGIN}"),
            format!("{LOGIN}\n[1]"),
            r#"{"connect":{"token":"t"},"\u0063onnect":{"token":"u"}}"#.to_owned(),
            r#"{"connect":{"token":"t"},"Connect":{"token":"u"}}"#.to_owned(),
            r#"{"connect":{"token":"t","TOKEN":"u"},"id":1}"#.to_owned(),
            format!("{LOGIN}\n{}", r#"{"CONNECT":{"token":"u"},"id":2}"#),
        ] {
            assert_eq!(read(&message), Err(Reason::AmbiguousCredential), "{message}");
        }
    }

    #[test]
    fn what_is_sent_on_keeps_the_other_commands() {
        let batch = format!("{LOGIN}\n{}", r#"{"id":2,"subscribe":{"channel":"a"}}"#);
        let read = centrifuge().read(batch.as_bytes(), true).unwrap();
        let Content::Centrifuge(behind) = &read.content else { panic!("another dialect") };
        let stripped = centrifuge().stripped(&read.parsed, behind);
        assert_eq!(
            String::from_utf8(stripped).unwrap(),
            "{\"connect\":{\"name\":\"js\"},\"id\":1}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}"
        );
        let fields = json!({ "data": { "user": "ann" }, "name": null });
        let fields = fields.as_object().unwrap();
        let rewritten = centrifuge().rewritten(&read.parsed, &[], fields);
        let expected = r#"{"connect":{"data":{"user":"ann"}},"id":1}"#;
        assert_eq!(String::from_utf8(rewritten).unwrap(), expected);
        // To a server in Go, theirs could count.
        let twin = json!({ "connect": { "token": "t", "Data": { "user": "root" } }, "id": 1 });
        let rewritten = centrifuge().rewritten(&twin, &[], fields);
        assert_eq!(String::from_utf8(rewritten).unwrap(), expected);
    }

    #[test]
    fn a_later_login_is_seen_in_any_command() {
        let centrifuge = centrifuge();
        assert!(centrifuge.matches(LOGIN.as_bytes()));
        let second = format!("{}\n{LOGIN}", r#"{"id":2,"ping":{}}"#);
        assert!(centrifuge.matches(second.as_bytes()));
        let unsplit = format!("{}{LOGIN}", r#"{"id":2,"ping":{}}"#);
        assert!(centrifuge.matches(unsplit.as_bytes()));
        assert!(centrifuge.matches(br#"{"\u0063onnect":1}"#));
        assert!(centrifuge.matches(br#"{"Connect":{}}"#));
        assert!(!centrifuge.matches(br#"{"id":3,"publish":{"data":{"connect":{}}}}"#));
    }

    #[test]
    fn refusals_say_whether_a_fresh_token_helps() {
        let command = json!({ "id": 7, "connect": {} });
        let reply = |reason| {
            let (_, reply) = refusal(reason, Some(&command)).message.unwrap();
            String::from_utf8(reply).unwrap()
        };
        let expired = r#"{"id":7,"error":{"code":109,"message":"Session expired"}}"#;
        assert_eq!(reply(Reason::Expired), expired);
        assert!(reply(Reason::InvalidCredential).contains("103"));
        assert!(reply(Reason::VerifierUnavailable).contains(r#""temporary":true"#));
        assert_eq!(refusal(Reason::Expired, None), Refusal::default());
    }
}
