//! `format: nats`: CONNECT of the NATS client protocol
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol#connect>),
//! one line that messages may cut anywhere. The server speaks first: INFO.

mod commands;

use serde_json::{Map, Value};

pub(super) use self::commands::Commands;
use super::places::{Places, is_twin, set_member};
use super::refusal::{Cause, Refusal};
use super::{Content, LoginMessage, strictly};
use crate::close::Reason;
use crate::credential::config::MessageConfig;
use crate::problem::Problem;

/// What sockgate accepts of these before the upstream is asked: clients offer none.
pub(super) const SUBPROTOCOLS: [&str; 0] = [];

const CONNECT: &[u8] = b"CONNECT";
const PLACES: [&str; 3] = ["/auth_token", "/jwt", "/pass"];
const USER: &str = "user";

/// The code that clients of nats-server know.
const VIOLATION: u16 = 1008;

/// Reads CONNECT.
pub(super) struct NatsLogin {
    places: Places,
}

impl NatsLogin {
    pub(super) fn compile(
        config: &MessageConfig,
        problems: &mut Vec<Problem>,
    ) -> Option<NatsLogin> {
        Places::compile(config, &PLACES, problems).map(|places| NatsLogin { places })
    }

    /// Reads a login from all `bytes` so far, the last of a message that is `text`;
    /// none if more must come.
    pub(super) fn read(&self, bytes: &[u8], text: bool) -> Result<Option<LoginMessage>, Reason> {
        let begun =
            bytes.iter().zip(CONNECT).all(|(byte, letter)| byte.eq_ignore_ascii_case(letter));
        if !begun {
            return Err(Reason::MissingCredential);
        }
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let (line, behind) = bytes.split_at(end);
        let behind = behind.get(1..).unwrap_or_default().to_vec();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let [b' ' | b'\t', options @ ..] = line.get(CONNECT.len()..).unwrap_or_default() else {
            return Err(Reason::MalformedCredential);
        };
        // The server takes any for the end of the line, and drops its last byte.
        if options.contains(&b'\r') {
            return Err(Reason::MalformedCredential);
        }
        let parsed = strictly(options)?;
        let Value::Object(fields) = &parsed else { return Err(Reason::MalformedCredential) };
        // To Go, "USER" is `user` too.
        if self.places.has_twin(&parsed) || fields.keys().any(|name| is_twin(name, USER)) {
            return Err(Reason::AmbiguousCredential);
        }
        let name = match fields.get(USER) {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => Some(name.clone()),
            Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                return Err(Reason::MalformedCredential);
            }
        };
        let token = self.places.token(&parsed)?;
        let read = LoginMessage::new(token, parsed, Content::Whole, bytes, text);
        Ok(Some(LoginMessage { name, behind, ..read }))
    }

    /// CONNECT without its token.
    pub(super) fn stripped(&self, parsed: &Value) -> Vec<u8> {
        let mut options = parsed.clone();
        self.places.strip(&mut options);
        line(&options)
    }

    /// CONNECT without token and user, and with `fields`; one that is null is left
    /// out.
    pub(super) fn rewritten(&self, parsed: &Value, fields: &Map<String, Value>) -> Vec<u8> {
        let mut options = parsed.clone();
        self.places.strip(&mut options);
        if let Value::Object(options) = &mut options {
            options.shift_remove(USER);
            for (name, value) in fields {
                set_member(options, name, value);
            }
        }
        line(&options)
    }
}

fn line(options: &Value) -> Vec<u8> {
    format!("CONNECT {options}\r\n").into_bytes()
}

/// Whether a command that begins so can be a CONNECT.
pub(super) fn begins_login(message: &[u8]) -> bool {
    message.first().is_some_and(|first| first.eq_ignore_ascii_case(&b'c'))
}

/// What nats-server says before it closes. Of what is no fault of the login a client
/// must not be told that it is: it would stop trying.
pub(super) fn refusal(reason: Reason) -> Refusal {
    match Cause::of(reason) {
        Cause::Unauthorized | Cause::Expired | Cause::Forbidden | Cause::Timeout => Refusal {
            message: Some((false, b"-ERR 'Authorization Violation'\r\n".to_vec())),
            code: Some(VIOLATION),
        },
        Cause::Elsewhere => Refusal::default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn login(config: Value) -> NatsLogin {
        let mut problems = Vec::new();
        NatsLogin::compile(&serde_json::from_value(config).unwrap(), &mut problems).unwrap()
    }

    fn nats() -> NatsLogin {
        login(json!({ "format": "nats" }))
    }

    fn read(payload: &str) -> Result<Option<String>, Reason> {
        let token = nats().read(payload.as_bytes(), false)?.unwrap().token;
        Ok(token.map(|token| String::from_utf8(token.expose().to_vec()).unwrap()))
    }

    #[test]
    fn connect_gives_its_token_from_each_place() {
        for line in [
            "CONNECT {\"verbose\":false,\"auth_token\":\"t\"}\r\n",
            "connect\t {\"jwt\":\"t\",\"sig\":\"x\"}\n",
            "CONNECT {\"user\":\"ann\",\"pass\":\"t\"}\r\nPING\r\n",
            "CONNECT {\"auth_token\":\"t\",\"jwt\":\"Bearer t\"}\r\n",
        ] {
            assert_eq!(read(line), Ok(Some("t".into())), "{line:?}");
        }
        assert_eq!(read("CONNECT {}\r\n"), Ok(None));
    }

    #[test]
    fn a_line_may_come_in_pieces_and_bring_what_follows() {
        let whole = b"CONNECT {\"auth_token\":\"t\"}\r\nPING\r\nPU";
        for end in 0..27 {
            assert!(nats().read(&whole[..end], false).unwrap().is_none(), "{end}");
        }
        let login = nats().read(whole, false).unwrap().unwrap();
        assert_eq!(login.behind, b"PING\r\nPU");
    }

    #[test]
    fn what_is_no_single_login_is_refused() {
        for (line, reason) in [
            ("PING\r\n", Reason::MissingCredential),
            ("SUB a 1\r\n", Reason::MissingCredential),
            ("CONNECT{\"auth_token\":\"t\"}\r\n", Reason::MalformedCredential),
            ("CONNECT []\r\n", Reason::MalformedCredential),
            ("CONNECT \r\n", Reason::MalformedCredential),
            ("CONNECT {\"user\":1,\"pass\":\"t\"}\r\n", Reason::MalformedCredential),
            ("CONNECT {\"pass\":1}\r\n", Reason::MalformedCredential),
            ("CONNECT {\"pass\":\"t\",\r\"a\":1}}\r\n", Reason::MalformedCredential),
            ("CONNECT {\"pass\":\"t\"} {}\r\n", Reason::AmbiguousCredential),
            ("CONNECT {\"pass\":\"t\",\"pass\":\"t\"}\r\n", Reason::AmbiguousCredential),
            ("CONNECT {\"pass\":\"t\",\"Pass\":\"u\"}\r\n", Reason::AmbiguousCredential),
            ("CONNECT {\"pass\":\"t\",\"pa\u{17f}s\":\"u\"}\r\n", Reason::AmbiguousCredential),
            ("CONNECT {\"pass\":\"t\",\"USER\":\"root\"}\r\n", Reason::AmbiguousCredential),
            ("CONNECT {\"pass\":\"t\",\"auth_token\":\"u\"}\r\n", Reason::AmbiguousCredential),
        ] {
            assert_eq!(read(line), Err(reason), "{line:?}");
        }
    }

    #[test]
    fn what_is_sent_on_is_another_connect() {
        let line = b"CONNECT {\"verbose\":false,\"user\":\"ann\",\"pass\":\"t\"}\r\n";
        let login = nats().read(line, false).unwrap().unwrap();
        assert_eq!(login.name.as_deref(), Some("ann"));
        let stripped = String::from_utf8(nats().stripped(&login.parsed)).unwrap();
        assert_eq!(stripped, "CONNECT {\"verbose\":false,\"user\":\"ann\"}\r\n");
        let fields = json!({ "auth_token": "of-the-gate", "verbose": null });
        let rewritten = nats().rewritten(&login.parsed, fields.as_object().unwrap());
        let rewritten = String::from_utf8(rewritten).unwrap();
        assert_eq!(rewritten, "CONNECT {\"auth_token\":\"of-the-gate\"}\r\n");
    }

    #[test]
    fn nothing_panics() {
        let nats = nats();
        let whole = b"CONNECT \t{\"pass\":\"t\",\"user\":null}\r\nPUB a 1\r\nx\r\n";
        for index in 0..whole.len() {
            for byte in [0, b' ', b'\r', b'\n', b'{', b'"', 0xff] {
                let mut other = whole.to_vec();
                other[index] = byte;
                let _ = nats.read(&other, false);
                let _ = Commands::default().is_broken_by(&other);
            }
        }
    }

    #[test]
    fn refusals_are_those_of_the_server_unless_it_is_not_the_logins_fault() {
        let said = refusal(Reason::Expired);
        assert_eq!(said.code, Some(1008));
        let (text, line) = said.message.unwrap();
        assert_eq!((text, &line[..]), (false, &b"-ERR 'Authorization Violation'\r\n"[..]));
        assert_eq!(refusal(Reason::VerifierUnavailable), Refusal::default());
    }
}
