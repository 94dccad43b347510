//! `format: stomp`: the CONNECT or STOMP frame (<https://stomp.github.io>, 1.0 to
//! 1.2), one frame in one message, text or binary.

use serde_json::{Map, Value};

use super::places::agreed;
use super::refusal::Refusal;
use super::{Content, LoginMessage};
use crate::close::Reason;
use crate::credential::config::MessageConfig;
use crate::problem::Problem;

/// What sockgate accepts of these before the upstream is asked.
pub(super) const SUBPROTOCOLS: [&str; 3] = ["v12.stomp", "v11.stomp", "v10.stomp"];

const PLACES: [&str; 3] = ["Authorization", "authorization", "passcode"];
const LOGIN: &str = "login";

/// Reads CONNECT.
pub(super) struct StompLogin {
    /// The headers that may hold the token.
    places: Box<[Box<str>]>,
}

/// A login frame, which has no body.
pub(super) struct Connect {
    command: &'static str,
    headers: Vec<(String, String)>,
}

impl StompLogin {
    pub(super) fn compile(
        config: &MessageConfig,
        problems: &mut Vec<Problem>,
    ) -> Option<StompLogin> {
        if !config.conditions.is_empty() {
            problems.push(Problem::new("message.where", "belongs to `format: json`"));
        }
        let places = match &config.token {
            None => PLACES.map(Into::into).into(),
            Some(written) => {
                let name = written.strip_prefix('/').filter(|name| is_name(name));
                let Some(name) = name.filter(|name| !name.contains(['/', '~'])) else {
                    let message = "must name a header of the frame, as \"/passcode\" does";
                    problems.push(Problem::new("message.token", message));
                    return None;
                };
                [name.into()].into()
            }
        };
        Some(StompLogin { places })
    }

    pub(super) fn read(&self, payload: &[u8], text: bool) -> Result<LoginMessage, Reason> {
        let connect = Connect::parse(payload)?;
        let token = agreed(self.places.iter().filter_map(|place| connect.header(place)).map(Some))?;
        let name = connect.login().map(str::to_owned);
        let headers = connect.headers.iter();
        let parsed: Map<String, Value> =
            headers.map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        let content = Content::Stomp(connect);
        let read = LoginMessage::new(token, Value::Object(parsed), content, payload, text);
        Ok(LoginMessage { name, ..read })
    }

    /// The frame without its token.
    pub(super) fn stripped(&self, connect: &Connect) -> Vec<u8> {
        connect.encode(connect.headers.iter().filter(|(name, _)| !self.is_place(name)))
    }

    /// The frame without token and login name, and with `fields`; one that is
    /// null is left out.
    ///
    /// # Errors
    /// [`Reason::Forbidden`] for what a header cannot hold.
    pub(super) fn rewritten(
        &self,
        connect: &Connect,
        fields: &Map<String, Value>,
    ) -> Result<Vec<u8>, Reason> {
        // Of two headers most servers take the first, and some fold their names.
        let is_kept = |name: &str| {
            let is_set = fields.keys().any(|field| field.eq_ignore_ascii_case(name));
            !name.eq_ignore_ascii_case(LOGIN) && !self.is_place(name) && !is_set
        };
        let mut headers: Vec<_> =
            connect.headers.iter().filter(|(name, _)| is_kept(name)).cloned().collect();
        for (name, value) in fields {
            let value = match value {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                    return Err(Reason::Forbidden);
                }
            };
            let is_login = name.eq_ignore_ascii_case(LOGIN);
            if !is_name(name)
                || value.contains(char::is_control)
                || is_login && has_two_readings(&value)
            {
                return Err(Reason::Forbidden);
            }
            headers.push((name.clone(), value));
        }
        Ok(connect.encode(headers.iter()))
    }

    fn is_place(&self, name: &str) -> bool {
        // As lenient as a server that folds the names of headers.
        self.places.iter().any(|place| place.eq_ignore_ascii_case(name))
    }
}

impl Connect {
    /// A whole message as one frame. Nothing is unescaped: in these frames a
    /// backslash stands for itself (1.2, "Value Encoding").
    fn parse(payload: &[u8]) -> Result<Connect, Reason> {
        let text = std::str::from_utf8(payload).map_err(|_| Reason::MalformedCredential)?;
        let (head, behind) = text.split_once('\0').ok_or(Reason::MalformedCredential)?;
        if behind.contains(|character| character != '\n' && character != '\r') {
            return Err(Reason::AmbiguousCredential);
        }
        let mut lines = head.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        let command = match lines.next() {
            Some("CONNECT") => "CONNECT",
            Some("STOMP") => "STOMP",
            Some(_) | None => return Err(Reason::MissingCredential),
        };
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines.by_ref() {
            if line.is_empty() {
                // A body would be read by a server that does not know better.
                return match lines.next() {
                    Some("") if lines.next().is_none() => Ok(Connect { command, headers }),
                    Some(_) | None => Err(Reason::MalformedCredential),
                };
            }
            let (name, value) = line.split_once(':').ok_or(Reason::MalformedCredential)?;
            if !is_name(name) || value.contains(char::is_control) {
                return Err(Reason::MalformedCredential);
            }
            // Which of two a server takes depends on its version.
            if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                return Err(Reason::AmbiguousCredential);
            }
            headers.push((name.to_owned(), value.to_owned()));
        }
        Err(Reason::MalformedCredential)
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// The login name, also where only a server that folds the names of headers sees it.
    fn login(&self) -> Option<&str> {
        let is_login = |(name, _): &&(String, String)| name.eq_ignore_ascii_case(LOGIN);
        self.headers.iter().find(is_login).map(|(_, value)| value.as_str())
    }

    fn encode<'a>(&self, headers: impl Iterator<Item = &'a (String, String)>) -> Vec<u8> {
        let mut frame = format!("{}\n", self.command);
        for (name, value) in headers {
            frame.extend([name, ":", value, "\n"]);
        }
        frame.push_str("\n\0");
        frame.into_bytes()
    }
}

/// Whether servers differ in who a `login` is: to most a backslash in these frames stands
/// for itself (1.2, "Value Encoding"), and RabbitMQ takes escapes out of them too.
pub(super) fn has_two_readings(login: &str) -> bool {
    login.contains('\\')
}

/// Nothing that would end the name, or be read as an escape of another name.
fn is_name(name: &str) -> bool {
    let bad = |character: char| character.is_control() || character == ':' || character == '\\';
    !name.is_empty() && name.trim() == name && !name.contains(bad)
}

/// An ERROR frame; clients tell their application its `message`.
pub(super) fn refusal(reason: Reason) -> Refusal {
    let frame = format!("ERROR\nmessage:{}\ncontent-length:0\n\n\0", reason.text());
    Refusal { message: Some((true, frame.into_bytes())), code: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn login(config: Value) -> StompLogin {
        let mut problems = Vec::new();
        StompLogin::compile(&serde_json::from_value(config).unwrap(), &mut problems).unwrap()
    }

    fn stomp() -> StompLogin {
        login(json!({ "format": "stomp" }))
    }

    fn read(payload: &str) -> Result<Option<String>, Reason> {
        let token = stomp().read(payload.as_bytes(), true)?.token;
        Ok(token.map(|token| String::from_utf8(token.expose().to_vec()).unwrap()))
    }

    fn content(login: &LoginMessage) -> &Connect {
        match &login.content {
            Content::Stomp(connect) => connect,
            _ => panic!("another dialect"),
        }
    }

    #[test]
    fn connect_gives_its_token_from_each_place() {
        for frame in [
            "CONNECT\nAuthorization:Bearer t\n\n\0",
            "STOMP\r\nauthorization:t\r\n\r\n\0\n",
            "CONNECT\naccept-version:1.2\nlogin:ann\npasscode:t\n\n\0\r\n",
            "CONNECT\nAuthorization:Bearer t\npasscode:t\n\n\0",
        ] {
            // A frame has no body: its head ends in an empty line, then the NUL.
            assert_eq!(read(frame), Ok(Some("t".into())), "{frame:?}");
        }
        assert_eq!(read("CONNECT\naccept-version:1.2\n\n\0"), Ok(None));
    }

    #[test]
    fn what_is_no_single_login_frame_is_refused() {
        for (frame, reason) in [
            ("SEND\ndestination:/a\n\n\0", Reason::MissingCredential),
            ("\n", Reason::MalformedCredential),
            ("connect\n\n\0", Reason::MissingCredential),
            ("CONNECT\npasscode:t\n\n", Reason::MalformedCredential),
            ("CONNECT\npasscode:t\n\nbody\0", Reason::MalformedCredential),
            ("CONNECT\npasscode:t\n\0", Reason::MalformedCredential),
            ("CONNECT\npasscode\n\n\0", Reason::MalformedCredential),
            ("CONNECT\npasscode:a\rb\n\n\0", Reason::MalformedCredential),
            ("CONNECT\n passcode:a\n\n\0", Reason::MalformedCredential),
            ("CONNECT\npass\\ccode:a\n\n\0", Reason::MalformedCredential),
            ("CONNECT\npasscode:t\n\n\0CONNECT\npasscode:u\n\n\0", Reason::AmbiguousCredential),
            ("CONNECT\npasscode:t\npasscode:u\n\n\0", Reason::AmbiguousCredential),
            ("CONNECT\npasscode:t\npasscode:t\n\n\0", Reason::AmbiguousCredential),
            ("CONNECT\npasscode:t\nPasscode:t\n\n\0", Reason::AmbiguousCredential),
            ("CONNECT\nlogin:a\nlogin:b\n\n\0", Reason::AmbiguousCredential),
            ("CONNECT\nAuthorization:t\npasscode:u\n\n\0", Reason::AmbiguousCredential),
            ("CONNECT\npasscode:\n\n\0", Reason::MalformedCredential),
        ] {
            assert_eq!(read(frame), Err(reason), "{frame:?}");
        }
        assert_eq!(
            stomp().read(b"CONNECT\npasscode:\xff\n\n\0", false).err(),
            Some(Reason::MalformedCredential)
        );
    }

    #[test]
    fn strip_leaves_all_but_the_token() {
        let frame =
            "STOMP\naccept-version:1.1,1.2\nlogin:ann\npasscode:t\nAuthorization:Bearer t\n\n\0";
        let login = stomp().read(frame.as_bytes(), true).unwrap();
        assert_eq!(login.name.as_deref(), Some("ann"));
        let stripped = String::from_utf8(stomp().stripped(content(&login))).unwrap();
        assert_eq!(stripped, "STOMP\naccept-version:1.1,1.2\nlogin:ann\n\n\0");
    }

    #[test]
    fn a_rewrite_sets_headers_and_drops_what_the_client_claimed() {
        let frame = "CONNECT\naccept-version:1.2\nlogin:root\npasscode:t\nhost:/\n\n\0";
        let login = stomp().read(frame.as_bytes(), true).unwrap();
        let rewritten = |fields: Value| {
            let fields = fields.as_object().unwrap().clone();
            let bytes = stomp().rewritten(content(&login), &fields)?;
            Ok(String::from_utf8(bytes).unwrap())
        };
        assert_eq!(
            rewritten(json!({ "login": "ann", "passcode": "s", "host": null })),
            Ok("CONNECT\naccept-version:1.2\nlogin:ann\npasscode:s\n\n\0".into())
        );
        let folded = stomp().read(b"CONNECT\nLogin:root\nHost:x\n\n\0", true).unwrap();
        assert_eq!(folded.name.as_deref(), Some("root"));
        let fields = json!({ "login": "ann", "host": "/" });
        let bytes = stomp().rewritten(content(&folded), fields.as_object().unwrap()).unwrap();
        assert_eq!(bytes, b"CONNECT\nlogin:ann\nhost:/\n\n\0");
        assert_eq!(rewritten(json!({ "login": "a\\cb" })), Err(Reason::Forbidden));
        for bad in [json!({ "login": "a\nb:c" }), json!({ "a:b": "c" }), json!({ "login": [1] })] {
            assert_eq!(rewritten(bad), Err(Reason::Forbidden));
        }
    }

    #[test]
    fn a_configured_header_replaces_the_usual_ones() {
        let login = login(json!({ "format": "stomp", "token": "/X-Token" }));
        let read = login.read(b"CONNECT\nX-Token:t\npasscode:u\n\n\0", true).unwrap();
        assert_eq!(read.token.unwrap().expose(), b"t");
        let mut problems = Vec::new();
        for token in ["X-Token", "/a/b", "/", "/a:b"] {
            let config = serde_json::from_value(json!({ "token": token })).unwrap();
            assert!(StompLogin::compile(&config, &mut problems).is_none(), "{token}");
        }
        assert_eq!(problems.len(), 4);
    }

    #[test]
    fn refusals_are_error_frames() {
        let (text, frame) = refusal(Reason::Expired).message.unwrap();
        let expected = "ERROR\nmessage:Session expired\ncontent-length:0\n\n\0";
        assert_eq!((text, String::from_utf8(frame).unwrap().as_str()), (true, expected));
    }
}
