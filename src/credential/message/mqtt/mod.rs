//! `format: mqtt`: the CONNECT packet of MQTT 3.1.1 (§3.1) and 5.0 (§3.1), read
//! strictly from binary messages that may split it anywhere.

use serde_json::{Map, Value, json};

use super::refusal::{Cause, Refusal};
use super::{Content, LoginMessage};
use crate::close::Reason;
use crate::credential::config::MessageConfig;
use crate::problem::Problem;
use crate::secret::Secret;

/// What sockgate accepts of these before the upstream is asked.
pub(super) const SUBPROTOCOLS: [&str; 1] = ["mqtt"];

const CONNECT: u8 = 1;
const USER_NAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL_QOS: u8 = 0x18;
const WILL: u8 = 0x04;
const RESERVED: u8 = 0x01;

/// Properties of 5.0 by which a client logs in another way (§3.1.2.11.9).
const AUTHENTICATION: [u8; 2] = [0x15, 0x16];

/// The versions that have answers of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V3,
    V5,
}

/// A CONNECT packet.
pub(super) struct Connect {
    version: Version,
    /// The connect flags without those of user name and password.
    flags: u8,
    keep_alive: [u8; 2],
    /// 5.0: the properties with their length, as they came.
    properties: Vec<u8>,
    client_id: String,
    /// Will properties, topic and payload, as they came.
    will: Vec<u8>,
    user_name: Option<String>,
}

/// No key but `format` says anything here.
pub(super) fn check(config: &MessageConfig, problems: &mut Vec<Problem>) {
    if config.token.is_some() {
        let message = "an MQTT client shows its token as the password: leave this out";
        problems.push(Problem::new("message.token", message));
    }
    if !config.conditions.is_empty() {
        problems.push(Problem::new("message.where", "belongs to `format: json`"));
    }
}

/// Whether a packet with this first byte is a CONNECT.
pub(super) fn is_login(first: u8) -> bool {
    first >> 4 == CONNECT
}

/// The version of a CONNECT that has begun, as soon as it can be told.
pub(super) fn version(bytes: &[u8]) -> Option<Version> {
    let (_, head) = split_packet(bytes)?.ok()?;
    match bytes.get(head..)? {
        [0, 4, b'M', b'Q', b'T', b'T', 4, ..] => Some(Version::V3),
        [0, 4, b'M', b'Q', b'T', b'T', 5, ..] => Some(Version::V5),
        _ => None,
    }
}

/// Reads a login from all `bytes` so far; none if more must come.
///
/// # Errors
/// [`Reason::MissingCredential`] if it is another packet,
/// [`Reason::MalformedCredential`] if it is none, [`Reason::AuthMessageTooLarge`]
/// if it will be over `max_bytes`.
pub(super) fn read(bytes: &[u8], max_bytes: usize) -> Result<Option<LoginMessage>, Reason> {
    match bytes.first() {
        None => return Ok(None),
        Some(first) if !is_login(*first) => return Err(Reason::MissingCredential),
        // The other half of the byte is reserved (3.1.1 §2.2.2).
        Some(first) if first & 15 != 0 => return Err(Reason::MalformedCredential),
        Some(_) => {}
    }
    let Some(packet) = split_packet(bytes) else { return Ok(None) };
    let (length, head) = packet.map_err(|_| Reason::MalformedCredential)?;
    let end = head + length;
    if end > max_bytes {
        return Err(Reason::AuthMessageTooLarge);
    }
    let Some(body) = bytes.get(head..end) else { return Ok(None) };
    let (connect, password) = Connect::parse(body).ok_or(Reason::MalformedCredential)?;
    // Later packets, or the beginning of one, may come at once (3.1.1 §3.1.4).
    let behind = bytes.get(end..).unwrap_or_default().to_vec();
    // A token is text; what is not was never meant to be one.
    let password = password
        .map(|password| std::str::from_utf8(password).ok().filter(|text| !text.is_empty()))
        .map(|text| text.ok_or(Reason::MalformedCredential))
        .transpose()?;
    let parsed = json!({
        "client_id": connect.client_id,
        "username": connect.user_name,
        "password": password,
        "version": match connect.version { Version::V3 => 4, Version::V5 => 5 },
    });
    let token = password.map(Secret::new);
    let name = connect.user_name.clone();
    let read = LoginMessage::new(token, parsed, Content::Mqtt(connect), bytes, false);
    Ok(Some(LoginMessage { name, behind, ..read }))
}

impl Connect {
    /// The packet from its variable header on, and the password in it.
    fn parse(body: &[u8]) -> Option<(Connect, Option<&[u8]>)> {
        let mut rest = Reader(body);
        let version = match (rest.binary()?, rest.byte()?) {
            (b"MQTT", 4) => Version::V3,
            (b"MQTT", 5) => Version::V5,
            _ => return None,
        };
        let flags = rest.byte()?;
        let has = |flag| flags & flag != 0;
        let will_qos = flags & WILL_QOS;
        let no_will = !has(WILL) && (will_qos != 0 || has(WILL_RETAIN));
        let bare_password = version == Version::V3 && has(PASSWORD) && !has(USER_NAME);
        if has(RESERVED) || will_qos == WILL_QOS || no_will || bare_password {
            return None;
        }
        let keep_alive = [rest.byte()?, rest.byte()?];
        let properties = match version {
            Version::V3 => Vec::new(),
            Version::V5 => rest.properties(&AUTHENTICATION)?.to_vec(),
        };
        let client_id = rest.text()?.to_owned();
        let before_will = rest.0;
        if has(WILL) {
            if version == Version::V5 {
                rest.properties(&[])?;
            }
            rest.text()?;
            rest.binary()?;
        }
        let will = before_will.get(..before_will.len() - rest.0.len())?.to_vec();
        let user_name = if has(USER_NAME) { Some(rest.text()?.to_owned()) } else { None };
        let password = if has(PASSWORD) { Some(rest.binary()?) } else { None };
        let flags = flags & !(USER_NAME | PASSWORD);
        rest.0.is_empty().then_some((
            Connect { version, flags, keep_alive, properties, client_id, will, user_name },
            password,
        ))
    }

    /// The packet with the subject as user name and without a password; nobody's
    /// subject is no user name.
    pub(super) fn stripped(&self, subject: &str) -> Result<Vec<u8>, Reason> {
        let user_name = Some(subject).filter(|subject| !subject.is_empty());
        self.encode(&self.client_id, user_name, None)
    }

    /// The packet with other `fields`: `client_id` stays unless it is named,
    /// `username` and `password` are left out unless they are.
    ///
    /// # Errors
    /// [`Reason::Forbidden`] for any other field, or a value that is no text.
    pub(super) fn rewritten(&self, fields: &Map<String, Value>) -> Result<Vec<u8>, Reason> {
        let (mut client_id, mut user_name, mut password) = (self.client_id.as_str(), None, None);
        for (name, value) in fields {
            let text = match value {
                Value::Null => None,
                Value::String(text) if !text.contains(char::is_control) => Some(text.as_str()),
                _ => return Err(Reason::Forbidden),
            };
            match name.as_str() {
                "client_id" => client_id = text.unwrap_or_default(),
                "username" => user_name = text,
                "password" => password = text,
                _ => return Err(Reason::Forbidden),
            }
        }
        if password.is_some() && self.version == Version::V3 {
            // 3.1.1 has no password without a user name.
            user_name = user_name.or(Some(""));
        }
        self.encode(client_id, user_name, password)
    }

    fn encode(
        &self,
        client_id: &str,
        user_name: Option<&str>,
        password: Option<&str>,
    ) -> Result<Vec<u8>, Reason> {
        let mut body = vec![0, 4];
        body.extend_from_slice(b"MQTT");
        body.push(match self.version {
            Version::V3 => 4,
            Version::V5 => 5,
        });
        let user_flag = if user_name.is_some() { USER_NAME } else { 0 };
        let password_flag = if password.is_some() { PASSWORD } else { 0 };
        body.push(self.flags | user_flag | password_flag);
        body.extend_from_slice(&self.keep_alive);
        body.extend_from_slice(&self.properties);
        push_text(&mut body, client_id)?;
        body.extend_from_slice(&self.will);
        for text in [user_name, password].into_iter().flatten() {
            push_text(&mut body, text)?;
        }
        let mut packet = vec![CONNECT << 4];
        push_length(&mut packet, body.len());
        packet.append(&mut body);
        Ok(packet)
    }
}

/// Length of the body and of the fixed header of the packet that
/// `bytes` begin with; none if more must come.
fn split_packet(bytes: &[u8]) -> Option<Result<(usize, usize), BadLength>> {
    let mut length = Length::default();
    for (index, byte) in bytes.iter().skip(1).enumerate() {
        match length.read(*byte) {
            Ok(Some(length)) => return Some(Ok((length, index + 2))),
            Ok(None) => {}
            Err(bad) => return Some(Err(bad)),
        }
    }
    None
}

/// A Variable Byte Integer (5.0 §1.5.5; "remaining length" in 3.1.1 §2.2.3),
/// read byte by byte.
#[derive(Clone, Copy, Default)]
pub(super) struct Length {
    value: usize,
    bytes: u32,
}

/// A length of more than four bytes.
#[derive(Debug)]
pub(super) struct BadLength;

impl Length {
    pub(super) fn read(&mut self, byte: u8) -> Result<Option<usize>, BadLength> {
        if self.bytes == 4 {
            return Err(BadLength);
        }
        self.value |= usize::from(byte & 0x7f) << (7 * self.bytes);
        self.bytes += 1;
        match byte & 0x80 {
            0 => Ok(Some(self.value)),
            _ if self.bytes == 4 => Err(BadLength),
            _ => Ok(None),
        }
    }
}

/// Fields from the front of a packet; none if it ends too early.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn binary(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes([self.byte()?, self.byte()?]);
        self.take(usize::from(length))
    }

    /// UTF-8 without control characters (3.1.1 §1.5.3).
    fn text(&mut self) -> Option<&'a str> {
        let text = std::str::from_utf8(self.binary()?).ok()?;
        (!text.contains(char::is_control)).then_some(text)
    }

    fn length(&mut self) -> Option<usize> {
        let mut length = Length::default();
        loop {
            if let Some(length) = length.read(self.byte()?).ok()? {
                return Some(length);
            }
        }
    }

    /// Properties with their length (5.0 §2.2.2), none of which is `refused`.
    fn properties(&mut self, refused: &[u8]) -> Option<&'a [u8]> {
        let whole = self.0;
        let length = self.length()?;
        let mut inner = Reader(self.take(length)?);
        let mut seen: u64 = 0;
        while let Some(kind) = inner.byte() {
            const USER_PROPERTY: u8 = 0x26;
            if refused.contains(&kind) || kind >= 64 {
                return None;
            }
            // Only user properties may come more than once.
            if kind != USER_PROPERTY && seen & (1 << kind) != 0 {
                return None;
            }
            seen |= 1 << kind;
            match kind {
                0x01 | 0x17 | 0x19 => inner.take(1)?,
                0x21 | 0x22 => inner.take(2)?,
                0x02 | 0x11 | 0x18 | 0x27 => inner.take(4)?,
                0x03 | 0x08 | 0x09 | 0x15 | 0x16 => inner.binary()?,
                USER_PROPERTY => {
                    inner.binary()?;
                    inner.binary()?
                }
                _ => return None,
            };
        }
        whole.get(..whole.len() - self.0.len())
    }
}

fn push_text(packet: &mut Vec<u8>, text: &str) -> Result<(), Reason> {
    let length = u16::try_from(text.len()).map_err(|_| Reason::Forbidden)?;
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(text.as_bytes());
    Ok(())
}

fn push_length(packet: &mut Vec<u8>, mut length: usize) {
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            packet.push(low);
            return;
        }
        packet.push(low | 0x80);
    }
}

/// CONNACK (3.1.1 §3.2.2.3, 5.0 §3.2.2.2). A client that has not said CONNECT in
/// a known version understands none.
pub(super) fn refusal(reason: Reason, version: Option<Version>) -> Refusal {
    let elsewhere = Cause::of(reason) == Cause::Elsewhere;
    let packet = version.map(|version| match (version, elsewhere) {
        (Version::V3, false) => vec![0x20, 2, 0, 5],
        (Version::V3, true) => vec![0x20, 2, 0, 3],
        (Version::V5, false) => vec![0x20, 3, 0, 0x87, 0],
        (Version::V5, true) => vec![0x20, 3, 0, 0x88, 0],
    });
    Refusal { message: packet.map(|packet| (false, packet)), code: None }
}

#[cfg(test)]
mod tests;
