//! The first message as the credential: recognised, read, and turned into what
//! the upstream gets of it. One file per dialect.
//!
//! Pure: the caller reads the messages, bounded in bytes and time.

mod centrifuge;
mod follow;
mod forward;
mod graphql;
mod json;
mod mqtt;
mod nats;
mod phoenix;
mod places;
mod pointer;
mod probe;
mod refresh;
mod refusal;
mod rewrite;
mod socketio;
mod sought;
mod stomp;
mod stream;
mod text;
mod watch;
mod wide;

use serde_json::{Value, json};

use self::centrifuge::CentrifugeLogin;
pub use self::follow::{Follower, Sight};
use self::forward::Forward;
pub use self::forward::Forwarded;
use self::graphql::GraphqlLogin;
use self::json::JsonLogin;
use self::nats::NatsLogin;
use self::phoenix::PhoenixLogin;
pub use self::refresh::{RefreshMessage, RefreshWatch};
pub use self::refusal::Refusal;
pub use self::rewrite::harmless_text;
use self::socketio::SocketioLogin;
use self::stomp::StompLogin;
use super::config::{ForwardConfig, MessageConfig, MessageFormat};
use crate::close::Reason;
use crate::json::JsonError;
use crate::problem::Problem;
use crate::secret::Secret;

/// How a policy reads a login message, and what it forwards of it.
pub struct MessageSource {
    index: usize,
    dialect: Dialect,
    forward: Forward,
    dials_first: bool,
}

/// What one client has said towards its login.
#[derive(Default)]
pub struct Progress {
    /// The bytes so far, where a login may take several messages.
    bytes: Vec<u8>,
    /// What a refusal answers, without any credential.
    asked: Option<Value>,
    /// The client has answered a ping of its server, which goes on with the login.
    pong: bool,
}

/// A login message that was read.
pub struct LoginMessage {
    /// The credential, if there is one.
    pub token: Option<Secret>,
    /// `message` as CEL sees it: the JSON, the text, or the fields of the dialect.
    pub parsed: Value,
    /// The login name of the dialect.
    name: Option<String>,
    content: Content,
    whole: Vec<u8>,
    /// What follows the login in the same message, where messages cut a stream.
    behind: Vec<u8>,
    text: bool,
}

enum Dialect {
    Json(JsonLogin),
    Text,
    Graphql(GraphqlLogin),
    Stomp(StompLogin),
    Mqtt,
    Phoenix(PhoenixLogin),
    Centrifuge(CentrifugeLogin),
    Nats(NatsLogin),
    Socketio(SocketioLogin),
}

/// What a dialect keeps of a login to write another one.
enum Content {
    /// Nothing: all of it is in `parsed`.
    Whole,
    Stomp(stomp::Connect),
    Mqtt(mqtt::Connect),
    /// The join as it was serialized.
    Phoenix(Value),
    /// The commands behind `connect`.
    Centrifuge(Vec<Value>),
}

impl MessageSource {
    /// The label of the kind.
    pub const KIND: &'static str = "message";

    pub(super) fn compile(
        config: &MessageConfig,
        forward: Option<&ForwardConfig>,
        dials_first: bool,
        index: usize,
    ) -> Result<MessageSource, Vec<Problem>> {
        let mut problems = Vec::new();
        let dialect = Dialect::compile(config, &mut problems);
        let forward = Forward::compile(config.format, forward, &mut problems);
        match (dialect, forward) {
            (Some(dialect), Some(forward)) if problems.is_empty() => {
                Ok(MessageSource { index, dialect, forward, dials_first })
            }
            _ => Err(problems),
        }
    }

    /// Which entry of `credentials` this is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether the upstream is dialled before there is a login, since it speaks first.
    pub fn dials_first(&self) -> bool {
        self.dials_first
    }

    /// The subprotocols of the dialect, which are all that may be accepted before
    /// the upstream is asked; none if the dialect has nothing to say about them.
    pub fn subprotocols(&self) -> Option<&'static [&'static str]> {
        match self.dialect {
            Dialect::Json(_) | Dialect::Text => None,
            Dialect::Graphql(_) => Some(&graphql::SUBPROTOCOLS),
            Dialect::Stomp(_) => Some(&stomp::SUBPROTOCOLS),
            Dialect::Mqtt => Some(&mqtt::SUBPROTOCOLS),
            Dialect::Phoenix(_) => Some(&phoenix::SUBPROTOCOLS),
            Dialect::Centrifuge(_) => Some(&[]),
            Dialect::Nats(_) => Some(&nats::SUBPROTOCOLS),
            Dialect::Socketio(_) => Some(&socketio::SUBPROTOCOLS),
        }
    }

    /// Whether a client that is in by another credential says the dialect's hello again
    /// and again: for every channel, every namespace.
    pub fn greets_often(&self) -> bool {
        matches!(self.dialect, Dialect::Phoenix(_) | Dialect::Socketio(_))
    }

    /// `message` with the end that its dialect wants and a command line cannot hold.
    pub fn completed(&self, message: &str) -> String {
        match &self.dialect {
            Dialect::Stomp(_) if !message.contains('\0') => {
                format!("{}\n\n\0", message.trim_end_matches('\n'))
            }
            Dialect::Nats(_) if !message.contains('\n') => format!("{message}\r\n"),
            Dialect::Json(_)
            | Dialect::Text
            | Dialect::Graphql(_)
            | Dialect::Stomp(_)
            | Dialect::Mqtt
            | Dialect::Phoenix(_)
            | Dialect::Centrifuge(_)
            | Dialect::Nats(_)
            | Dialect::Socketio(_) => message.to_owned(),
        }
    }

    /// Follows the messages behind a permit; none where a login has no shape to be
    /// known by.
    pub fn follows(&self) -> bool {
        !matches!(self.dialect, Dialect::Text)
    }

    /// For a client that has not sent a login.
    pub fn follower(&self) -> Follower {
        Follower::new(&self.dialect)
    }

    /// For a client whose login is `login`.
    ///
    /// # Errors
    /// [`Reason::AmbiguousCredential`] if another login came with it.
    pub fn follower_behind(&self, login: &LoginMessage) -> Result<Follower, Reason> {
        let mut follower = self.follower();
        if follower.goes_on(login) { Ok(follower) } else { Err(Reason::AmbiguousCredential) }
    }

    /// Whether a login that comes behind the permit never reaches the upstream,
    /// whatever becomes of the first.
    pub fn consumes_later(&self) -> bool {
        matches!(self.dialect, Dialect::Json(_) | Dialect::Text)
    }

    /// Whether what begins with `begun` could become a login that never reaches the
    /// upstream.
    pub fn could_match(&self, begun: &[u8]) -> bool {
        match &self.dialect {
            Dialect::Json(login) => login.could_match(begun),
            Dialect::Text
            | Dialect::Graphql(_)
            | Dialect::Stomp(_)
            | Dialect::Mqtt
            | Dialect::Phoenix(_)
            | Dialect::Centrifuge(_)
            | Dialect::Nats(_)
            | Dialect::Socketio(_) => false,
        }
    }

    /// Reads the next message, text or binary, of a login of at most `max_bytes`;
    /// none if the login goes on in another one.
    ///
    /// # Errors
    /// [`Reason::MissingCredential`] if it is no login message,
    /// [`Reason::MalformedCredential`] if it is one without a usable token or
    /// cannot be read, [`Reason::AmbiguousCredential`] if two readers could
    /// read it differently, [`Reason::AuthMessageTooLarge`].
    pub fn read(
        &self,
        progress: &mut Progress,
        payload: &[u8],
        text: bool,
        max_bytes: usize,
    ) -> Result<Option<LoginMessage>, Reason> {
        match &self.dialect {
            Dialect::Json(login) => login.read(payload, text).map(Some),
            Dialect::Text => text::read(payload, text).map(Some),
            Dialect::Graphql(login) => login.read(payload, text).map(Some),
            Dialect::Stomp(login) => login.read(payload, text).map(Some),
            Dialect::Mqtt => {
                // Packets travel in binary messages only (3.1.1 §6).
                if text {
                    return Err(Reason::MalformedCredential);
                }
                progress.bytes.extend_from_slice(payload);
                if progress.bytes.len() > max_bytes {
                    return Err(Reason::AuthMessageTooLarge);
                }
                mqtt::read(&progress.bytes, max_bytes)
            }
            Dialect::Phoenix(login) => {
                let read = login.read(payload, text)?;
                progress.asked = Some(phoenix::asked(&read.parsed, &read.content));
                Ok(Some(read))
            }
            Dialect::Centrifuge(login) => {
                let read = login.read(payload, text)?;
                progress.asked = Some(json!({ "id": read.parsed.get("id") }));
                Ok(Some(read))
            }
            Dialect::Nats(login) => {
                progress.bytes.extend_from_slice(payload);
                if progress.bytes.len() > max_bytes {
                    return Err(Reason::AuthMessageTooLarge);
                }
                login.read(&progress.bytes, text)
            }
            Dialect::Socketio(_) if text && payload == socketio::PONG => {
                progress.pong = true;
                Ok(None)
            }
            Dialect::Socketio(login) => {
                let read = login.read(payload, text)?;
                progress.asked = Some(json!({ "namespace": read.parsed.get("namespace") }));
                Ok(Some(read))
            }
        }
    }

    /// What a client is told whose login came as far as `progress`; nothing if the
    /// dialect has no words for it.
    pub fn refusal(
        &self,
        progress: &Progress,
        subprotocol: Option<&str>,
        reason: Reason,
    ) -> Option<Refusal> {
        match self.dialect {
            Dialect::Json(_) | Dialect::Text => None,
            Dialect::Graphql(_) => Some(graphql::refusal(reason, subprotocol)),
            Dialect::Stomp(_) => Some(stomp::refusal(reason)),
            Dialect::Mqtt => Some(mqtt::refusal(reason, mqtt::version(&progress.bytes))),
            Dialect::Phoenix(_) => Some(phoenix::refusal(reason, progress.asked.as_ref())),
            Dialect::Centrifuge(_) => Some(centrifuge::refusal(reason, progress.asked.as_ref())),
            Dialect::Nats(_) => Some(nats::refusal(reason)),
            Dialect::Socketio(_) => Some(socketio::refusal(reason, progress.asked.as_ref())),
        }
    }
}

impl Dialect {
    fn compile(config: &MessageConfig, problems: &mut Vec<Problem>) -> Option<Dialect> {
        match config.format {
            MessageFormat::Json => JsonLogin::compile(config, problems).map(Dialect::Json),
            MessageFormat::Text => {
                text::check(config, problems);
                Some(Dialect::Text)
            }
            MessageFormat::Graphql => GraphqlLogin::compile(config, problems).map(Dialect::Graphql),
            MessageFormat::Stomp => StompLogin::compile(config, problems).map(Dialect::Stomp),
            MessageFormat::Mqtt => {
                mqtt::check(config, problems);
                Some(Dialect::Mqtt)
            }
            MessageFormat::Phoenix => PhoenixLogin::compile(config, problems).map(Dialect::Phoenix),
            MessageFormat::Centrifuge => {
                CentrifugeLogin::compile(config, problems).map(Dialect::Centrifuge)
            }
            MessageFormat::Nats => NatsLogin::compile(config, problems).map(Dialect::Nats),
            MessageFormat::Socketio => {
                SocketioLogin::compile(config, problems).map(Dialect::Socketio)
            }
        }
    }
}

impl LoginMessage {
    fn new(
        token: Option<Secret>,
        parsed: Value,
        content: Content,
        whole: &[u8],
        text: bool,
    ) -> LoginMessage {
        let (whole, behind) = (whole.to_vec(), Vec::new());
        LoginMessage { token, parsed, name: None, content, whole, behind, text }
    }
}

/// A message as JSON that has one reading.
fn strictly(payload: &[u8]) -> Result<Value, Reason> {
    crate::json::parse(payload).map_err(|error| match error {
        JsonError::Malformed => Reason::MalformedCredential,
        JsonError::Ambiguous => Reason::AmbiguousCredential,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::Variables;

    fn source(format: &str, forward: Value) -> MessageSource {
        let config = serde_json::from_value(json!({ "format": format })).unwrap();
        let forward: Option<ForwardConfig> = serde_json::from_value(forward).unwrap();
        MessageSource::compile(&config, forward.as_ref(), false, 0)
            .unwrap_or_else(|_| panic!("{format} does not compile"))
    }

    fn sent(source: &MessageSource, payload: &[u8], text: bool) -> Result<Vec<u8>, Reason> {
        let login = source.read(&mut Progress::default(), payload, text, 1000)?.unwrap();
        let variables = Variables::from([("identity", json!({ "subject": "ann" }))]);
        let forwarded = source.forwarded(&login, "ann", &variables)?.unwrap();
        assert_eq!(forwarded.text, text);
        Ok(forwarded.payload)
    }

    const STOMP: &str = "CONNECT\nlogin:ann\npasscode:t\n\n\0";

    #[test]
    fn a_dialects_login_is_sent_on_without_its_token_unless_told_otherwise() {
        let stripped = sent(&source("stomp", Value::Null), STOMP.as_bytes(), true);
        assert_eq!(stripped, Ok(b"CONNECT\nlogin:ann\n\n\0".to_vec()));
        let whole = sent(&source("stomp", json!(true)), STOMP.as_bytes(), true);
        assert_eq!(whole, Ok(STOMP.into()));
        let rewrite = json!({ "rewrite": r#"{"login": identity.subject + "!"}"# });
        let rewritten = sent(&source("stomp", rewrite), STOMP.as_bytes(), true);
        assert_eq!(rewritten, Ok(b"CONNECT\nlogin:ann!\n\n\0".to_vec()));
    }

    #[test]
    fn a_strangers_login_name_is_forbidden_unless_it_is_rewritten() {
        let stranger = STOMP.replace("login:ann", "login:bob");
        for forward in [Value::Null, json!(true), json!(false)] {
            let found = sent(&source("stomp", forward), stranger.as_bytes(), true);
            assert_eq!(found, Err(Reason::Forbidden));
        }
        let rewrite = json!({ "rewrite": r#"{"passcode": "s"}"# });
        let rewritten = sent(&source("stomp", rewrite), stranger.as_bytes(), true);
        assert_eq!(rewritten, Ok(b"CONNECT\npasscode:s\n\n\0".to_vec()));
        let nameless = STOMP.replace("login:ann", "login:");
        assert!(sent(&source("stomp", Value::Null), nameless.as_bytes(), true).is_ok());
    }

    #[test]
    fn mqtt_is_put_together_from_messages_within_its_bounds() {
        let source = source("mqtt", Value::Null);
        let packet = b"\x10\x15\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01a\x00\x03ann\x00\x01t";
        let mut progress = Progress::default();
        let (last, first) = packet.split_last().unwrap();
        for byte in first {
            assert!(source.read(&mut progress, &[*byte], false, 1000).unwrap().is_none());
        }
        let login = source.read(&mut progress, &[*last], false, 1000).unwrap().unwrap();
        assert!(source.follower_behind(&login).is_ok());
        let forwarded = source.forwarded(&login, "ann", &Variables::new()).unwrap().unwrap();
        let expected = b"\x10\x12\x00\x04MQTT\x04\x82\x00\x3c\x00\x01a\x00\x03ann";
        assert_eq!(forwarded.payload, expected);
        let refusal = source.refusal(&progress, None, Reason::Forbidden).unwrap();
        assert_eq!(refusal.message, Some((false, vec![0x20, 2, 0, 5])));

        let twice = [&packet[..], packet].concat();
        let login = source.read(&mut Progress::default(), &twice, false, 1000).unwrap().unwrap();
        assert_eq!(source.follower_behind(&login).err(), Some(Reason::AmbiguousCredential));
        let small = source.read(&mut Progress::default(), packet, false, 10).err();
        assert_eq!(small, Some(Reason::AuthMessageTooLarge));
        let text = source.read(&mut Progress::default(), packet, true, 1000).err();
        assert_eq!(text, Some(Reason::MalformedCredential));
    }

    #[test]
    fn a_rewrite_gives_the_fields_of_its_dialect() {
        let rewrite = |format: &str, expression: &str, payload: &str| {
            let source = source(format, json!({ "rewrite": expression }));
            sent(&source, payload.as_bytes(), true).map(|sent| String::from_utf8(sent).unwrap())
        };
        let user = r#"{"user": identity.subject}"#;
        assert_eq!(
            rewrite("graphql", user, r#"{"type":"connection_init","payload":{"a":1}}"#),
            Ok(r#"{"type":"connection_init","payload":{"user":"ann"}}"#.into())
        );
        assert_eq!(
            rewrite("phoenix", user, r#"["1","1","room","phx_join",{"token":"t"}]"#),
            Ok(r#"["1","1","room","phx_join",{"user":"ann"}]"#.into())
        );
        assert_eq!(
            rewrite("centrifuge", user, r#"{"connect":{"token":"t","name":"js"},"id":1}"#),
            Ok(r#"{"connect":{"name":"js","user":"ann"},"id":1}"#.into())
        );
        assert_eq!(rewrite("stomp", r#""as it is""#, STOMP), Ok("as it is".into()));
        assert_eq!(rewrite("stomp", "[1]", STOMP), Err(Reason::Forbidden));
    }

    #[test]
    fn what_follows_a_login_stays_whatever_becomes_of_it() {
        let nats = b"CONNECT {\"pass\":\"t\"}\r\nPING\r\n";
        let sent = |forward| {
            let sent = sent(&source("nats", forward), nats, false);
            sent.map(|sent| String::from_utf8(sent).unwrap())
        };
        assert_eq!(sent(json!(false)), Ok("PING\r\n".into()));
        assert_eq!(sent(Value::Null), Ok("CONNECT {}\r\nPING\r\n".into()));
        let rewrite = json!({ "rewrite": r#"{"user": identity.subject}"# });
        assert_eq!(sent(rewrite), Ok("CONNECT {\"user\":\"ann\"}\r\nPING\r\n".into()));
    }

    #[test]
    fn a_command_line_needs_no_ends_of_lines() {
        for (format, message) in
            [("stomp", "CONNECT\npasscode:t"), ("nats", r#"CONNECT {"pass":"t"}"#)]
        {
            let source = source(format, Value::Null);
            let whole = source.completed(message);
            let read = source.read(&mut Progress::default(), whole.as_bytes(), true, 100);
            assert!(read.unwrap().unwrap().token.is_some(), "{format}");
            assert_eq!(source.completed(&whole), whole, "{format}");
        }
    }

    #[test]
    fn keys_of_other_formats_are_refused() {
        for config in [
            json!({ "format": "mqtt", "token": "/password" }),
            json!({ "format": "mqtt", "where": { "/a": 1 } }),
            json!({ "format": "stomp", "where": { "/a": 1 } }),
            json!({ "format": "graphql", "where": { "/a": 1 } }),
            json!({ "format": "phoenix", "token": "token" }),
            json!({ "format": "centrifuge", "token": "" }),
        ] {
            let read = serde_json::from_value(config.clone()).unwrap();
            let problems = MessageSource::compile(&read, None, false, 0).err().unwrap_or_default();
            assert_eq!(problems.len(), 1, "{config}");
        }
    }
}
