//! The messages of a client behind its permit: another login among them must
//! prove the same identity, and none may slip past because it was padded, cut,
//! or put behind something else.

use super::nats::{self, Commands};
use super::phoenix;
use super::socketio;
use super::stream::{Frames, Packets};
use super::watch::LoginWatch;
use super::{Dialect, LoginMessage, MessageSource};

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Nothing of interest.
    Other,
    /// A login, or what a lenient reader could take for one.
    Login,
    /// It holds a login among other things, or what cannot be followed.
    Hidden,
}

/// Follows one client's messages, in their order.
pub struct Follower {
    stream: Stream,
    /// For a message that is too large to be seen whole.
    watches: Vec<LoginWatch>,
    /// Its beginning, where that matters.
    begun: Option<Begun>,
    broken: bool,
    /// A login has begun and goes on in the next message.
    awaits: bool,
}

/// The beginning of a message, and what makes it a login.
struct Begun {
    bytes: Vec<u8>,
    is_login: fn(&[u8]) -> bool,
}

enum Stream {
    /// Each message stands for itself.
    Messages,
    Mqtt(Packets),
    Stomp(Frames),
    Nats(Commands),
}

impl Follower {
    pub(super) fn new(dialect: &Dialect) -> Follower {
        let stream = match dialect {
            Dialect::Json(_)
            | Dialect::Text
            | Dialect::Graphql(_)
            | Dialect::Phoenix(_)
            | Dialect::Centrifuge(_)
            | Dialect::Socketio(_) => Stream::Messages,
            Dialect::Stomp(_) => Stream::Stomp(Frames::default()),
            Dialect::Mqtt => Stream::Mqtt(Packets::default()),
            Dialect::Nats(_) => Stream::Nats(Commands::default()),
        };
        Follower { stream, watches: Vec::new(), begun: None, broken: false, awaits: false }
    }

    /// Looks at a whole message.
    pub fn see(&mut self, source: &MessageSource, payload: &[u8], text: bool) -> Sight {
        if self.awaits {
            return Sight::Login;
        }
        let is_login = match (&mut self.stream, &source.dialect) {
            (Stream::Mqtt(packets), _) => {
                // Servers differ in whether they read text, so none may pass.
                let alone = packets.is_between() && is_connect(payload) && !text;
                return match alone {
                    true => Sight::Login,
                    false if text || packets.is_broken_by(payload) => Sight::Hidden,
                    false => Sight::Other,
                };
            }
            (Stream::Stomp(frames), _) => {
                let begins = Frames::begins_login(payload);
                return match (begins, frames.is_between()) {
                    (true, true) => Sight::Login,
                    (true, false) => Sight::Hidden,
                    (false, _) if frames.is_broken_by(payload) => Sight::Hidden,
                    (false, _) => Sight::Other,
                };
            }
            (Stream::Nats(commands), _) => {
                return match commands.is_between() && nats::begins_login(payload) {
                    true => Sight::Login,
                    false if commands.is_broken_by(payload) => Sight::Hidden,
                    false => Sight::Other,
                };
            }
            (Stream::Messages, Dialect::Json(login)) => login.matches(payload),
            (Stream::Messages, Dialect::Graphql(login)) => login.matches(payload),
            (Stream::Messages, Dialect::Phoenix(login)) => login.matches(payload),
            // Protobuf, in which logins are not followed.
            (Stream::Messages, Dialect::Centrifuge(_)) if !text => return Sight::Hidden,
            (Stream::Messages, Dialect::Centrifuge(login)) => login.matches(payload),
            (Stream::Messages, Dialect::Socketio(_)) => text && socketio::is_login(payload),
            (
                Stream::Messages,
                Dialect::Text | Dialect::Stomp(_) | Dialect::Mqtt | Dialect::Nats(_),
            ) => false,
        };
        if is_login { Sight::Login } else { Sight::Other }
    }

    /// A message begins that is too large to be seen whole.
    pub fn begin(&mut self, source: &MessageSource, text: bool) {
        self.broken = match &source.dialect {
            Dialect::Mqtt => text,
            Dialect::Centrifuge(_) => !text,
            Dialect::Json(_)
            | Dialect::Text
            | Dialect::Graphql(_)
            | Dialect::Stomp(_)
            | Dialect::Phoenix(_)
            | Dialect::Nats(_)
            | Dialect::Socketio(_) => false,
        };
        // The rest of one that has begun would be as large.
        self.broken |= self.awaits;
        self.begun = None;
        self.watches = match &source.dialect {
            Dialect::Json(login) => vec![login.watch()],
            Dialect::Graphql(login) => vec![login.watch()],
            Dialect::Centrifuge(login) => vec![login.watch()],
            Dialect::Phoenix(login) => {
                self.begun = Some(Begun { bytes: Vec::new(), is_login: phoenix::is_binary_join });
                login.watches().into()
            }
            Dialect::Socketio(_) => {
                let is_login = |bytes: &[u8]| bytes.len() > 1 && socketio::is_login(bytes);
                self.begun = text.then_some(Begun { bytes: Vec::new(), is_login });
                Vec::new()
            }
            Dialect::Text | Dialect::Stomp(_) | Dialect::Mqtt | Dialect::Nats(_) => Vec::new(),
        };
    }

    /// Reads on in that message; whether a login is in what came so far.
    pub fn is_login(&mut self, piece: &[u8]) -> bool {
        match &mut self.stream {
            Stream::Messages => {}
            Stream::Mqtt(packets) => self.broken |= packets.is_broken_by(piece),
            Stream::Stomp(frames) => self.broken |= frames.is_broken_by(piece),
            Stream::Nats(commands) => self.broken |= commands.is_broken_by(piece),
        }
        if let Some(begun) = &mut self.begun {
            let lacking = phoenix::BINARY_HEAD.saturating_sub(begun.bytes.len());
            begun.bytes.extend(piece.iter().take(lacking));
            self.broken |= (begun.is_login)(&begun.bytes);
        }
        for watch in &mut self.watches {
            self.broken |= watch.is_login(piece);
        }
        self.broken
    }

    /// A login was seen that goes on in the next message.
    pub fn awaits_rest(&mut self) {
        self.awaits = true;
    }

    /// Goes on behind `login` with what came in the same message; false if another
    /// login is in it.
    pub fn goes_on(&mut self, login: &LoginMessage) -> bool {
        self.awaits = false;
        let behind = &login.behind;
        match &mut self.stream {
            Stream::Messages => true,
            Stream::Mqtt(packets) => !packets.is_broken_by(behind),
            Stream::Stomp(frames) => !frames.is_broken_by(behind),
            Stream::Nats(commands) => !commands.is_broken_by(behind),
        }
    }
}

fn is_connect(payload: &[u8]) -> bool {
    payload.first().is_some_and(|first| super::mqtt::is_login(*first))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Progress;
    use super::*;

    fn source(format: &str) -> MessageSource {
        let config = serde_json::from_value(json!({ "format": format })).unwrap();
        MessageSource::compile(&config, None, false, 0).unwrap_or_else(|_| panic!("{format}"))
    }

    #[test]
    fn a_login_among_others_is_hidden() {
        let source = source("stomp");
        let mut follower = source.follower();
        let mut see = |text: &str| follower.see(&source, text.as_bytes(), true);
        assert_eq!(see("SEND\n\nCONNECT\n\0"), Sight::Other);
        assert_eq!(see("\n"), Sight::Other);
        assert_eq!(see("CONNECT\nlogin:x\n\n\0"), Sight::Login);
        assert_eq!(see("SEND\n\nbegun"), Sight::Other);
        assert_eq!(see("CONNECT\nlogin:x\n\n\0"), Sight::Hidden);
        assert_eq!(see("\0STOMP\n\n\0"), Sight::Hidden);
    }

    #[test]
    fn mqtt_is_followed_over_messages_and_never_as_text() {
        let source = source("mqtt");
        let mut follower = source.follower();
        let mut see = |bytes: &[u8], text| follower.see(&source, bytes, text);
        assert_eq!(see(&[0x30, 2, 0x10], false), Sight::Other);
        assert_eq!(see(&[0x10, 0xc0], false), Sight::Other);
        assert_eq!(see(&[0, 0xc0, 0], false), Sight::Other);
        assert_eq!(see(&[0x10, 0], false), Sight::Login);
        assert_eq!(see(&[0xc0, 0, 0x10, 0], false), Sight::Hidden);
        assert_eq!(see(&[0xc0, 0], true), Sight::Hidden);
    }

    #[test]
    fn nats_is_followed_over_messages() {
        let source = source("nats");
        let mut follower = source.follower();
        let mut see = |text: &str| follower.see(&source, text.as_bytes(), false);
        assert_eq!(see("PUB a 9\r\nCONNECT"), Sight::Other);
        assert_eq!(see(" {\r\nPING\r\n"), Sight::Other);
        assert_eq!(see("CONNECT {}\r\n"), Sight::Login);
        assert_eq!(see("PING\r\nCON"), Sight::Hidden);
    }

    #[test]
    fn a_socketio_login_is_text_and_begins_its_message() {
        let source = source("socketio");
        let mut follower = source.follower();
        assert_eq!(follower.see(&source, b"40/a,{}", true), Sight::Login);
        assert_eq!(follower.see(&source, b"40/a,{}", false), Sight::Other);
        assert_eq!(follower.see(&source, br#"42["40{}"]"#, true), Sight::Other);
    }

    #[test]
    fn what_comes_behind_a_second_login_is_followed() {
        let source = source("nats");
        let mut follower = source.follower();
        let message = b"CONNECT {\"pass\":\"t\"}\r\nPUB a 40\r\n";
        assert_eq!(follower.see(&source, message, false), Sight::Login);
        let login = source.read(&mut Progress::default(), message, false, 99).unwrap().unwrap();
        assert!(follower.goes_on(&login));
        // A payload of 40 bytes, whatever it looks like, then another login.
        let payload = b"PUB b 999999\r\n                          \r\n";
        assert_eq!(follower.see(&source, payload, false), Sight::Other);
        assert_eq!(follower.see(&source, b"CONNECT {}\r\n", false), Sight::Login);
    }

    #[test]
    fn centrifuge_is_followed_in_text_alone() {
        let source = source("centrifuge");
        let mut follower = source.follower();
        assert_eq!(follower.see(&source, b"\x04\x08\x01\x22\x00", false), Sight::Hidden);
        assert_eq!(follower.see(&source, b"{}", true), Sight::Other);
        follower.begin(&source, false);
        assert!(follower.is_login(b"\xff\x01"));
    }

    #[test]
    fn a_login_in_a_large_message_is_found() {
        let padding = "x".repeat(100);
        let large = |format: &str, message: &[u8]| {
            let source = source(format);
            let mut follower = source.follower();
            follower.begin(&source, matches!(format, "socketio" | "centrifuge"));
            message.chunks(3).any(|piece| follower.is_login(piece))
        };
        let graphql = format!(r#"{{"pad":"{padding}","type":"connection_init"}}"#);
        assert!(large("graphql", graphql.as_bytes()));
        assert!(!large("graphql", format!(r#"{{"type":"{padding}"}}"#).as_bytes()));
        let join = format!(r#"[1,1,"{padding}","phx_join",{{}}]"#);
        assert!(large("phoenix", join.as_bytes()));
        assert!(large(
            "phoenix",
            &[&[0, 0, 0, 0, 8][..], b"phx_join", padding.as_bytes()].concat()
        ));
        let connect = format!("{{}}\n{{\"connect\":{{\"x\":\"{padding}\"}}}}");
        assert!(large("centrifuge", connect.as_bytes()));
        assert!(large("stomp", format!("SEND\n\n{padding}\0CONNECT\n").as_bytes()));
        assert!(large("nats", format!("PUB a 100\r\n{padding}\r\nCONNECT").as_bytes()));
        assert!(!large("nats", format!("PUB a 107\r\n{padding}CONNECT\r\n").as_bytes()));
        assert!(large("socketio", format!(r#"40/a,{{"pad":"{padding}"}}"#).as_bytes()));
        assert!(!large("socketio", format!(r#"42["40{padding}"]"#).as_bytes()));
        assert!(large("mqtt", &[&[0x30, 100][..], padding.as_bytes(), &[0x10]].concat()));
        assert!(!large("mqtt", &[&[0x30, 102][..], padding.as_bytes(), &[0x10, 0x10]].concat()));
    }
}
