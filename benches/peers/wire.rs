//! What travels: opening handshakes, frames and tokens, made by hand so that the
//! load costs as little as it can.
//!
//! Client frames are masked with the key 0 (RFC 6455 §5.3 lets a client choose
//! any): legal, and neither end has to touch the payload.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The secret that every verifier knows; 48 bytes.
pub(crate) const SECRET: &str = "the-secret-of-the-bench-which-is-long-enough-..";
/// The key that sockgate's `api_keys` file knows.
pub(crate) const API_KEY: &str = "the-key-of-the-bench-which-nobody-else-may-have";

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What the answer to [`KEY`] holds (RFC 6455 §1.3).
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What a client shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// Nothing: the route is open.
    None,
    /// A JWT (HS256), another one for every connection.
    Fresh,
    /// One JWT, the same for all.
    Repeated,
    /// A JWT with a signature that is not valid, another one for every connection.
    Forged,
    /// An API key.
    ApiKey,
    /// A fresh JWT, on a route where every message is looked at for another.
    Renewed,
}

/// Makes the opening handshakes of one scenario.
pub(crate) struct Openings {
    token: Token,
    signer: hmac::Key,
    serial: u64,
    expires: u64,
}

impl Openings {
    pub(crate) fn new(token: Token) -> Openings {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Openings {
            token,
            signer: hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()),
            // No token of an earlier run comes again.
            serial: (now / 1000) as u64,
            expires: (now / 1_000_000_000) as u64 + 3600,
        }
    }

    /// The next client's request.
    pub(crate) fn next(&mut self) -> String {
        let path = match self.token {
            Token::None => "/open",
            Token::Fresh | Token::Repeated | Token::Forged => "/jwt",
            Token::ApiKey => "/key",
            Token::Renewed => "/renewed",
        };
        let shown = match self.token {
            Token::None => String::new(),
            Token::ApiKey => format!("Authorization: Bearer {API_KEY}\r\n"),
            Token::Fresh | Token::Repeated | Token::Forged | Token::Renewed => {
                format!("Authorization: Bearer {}\r\n", self.jwt())
            }
        };
        format!(
            "GET {path} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: bench\r\n{shown}\
             Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n\r\n"
        )
    }

    fn jwt(&mut self) -> String {
        if self.token != Token::Repeated {
            self.serial += 1;
        }
        let claims = format!(
            r#"{{"iss":"bench","sub":"user-{0}","jti":"{0}","exp":{1},"name":"A. User","roles":["member"]}}"#,
            self.serial, self.expires
        );
        let mut text = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut text);
        let tag = hmac::sign(&self.signer, text.as_bytes());
        let mut signature = [0; 32];
        signature.copy_from_slice(tag.as_ref());
        if self.token == Token::Forged {
            signature[7] ^= 1;
        }
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut text);
        text
    }
}

/// Whether a bearer token is one of ours: for the auth server that nginx asks.
pub(crate) fn is_genuine(key: &hmac::Key, token: &[u8]) -> bool {
    let Some(dot) = token.iter().rposition(|byte| *byte == b'.') else { return false };
    let signature = URL_SAFE_NO_PAD.decode(&token[dot + 1..]).unwrap_or_default();
    hmac::verify(key, &token[..dot], &signature).is_ok()
}

/// The key that [`is_genuine`] wants.
pub(crate) fn verifying_key() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes())
}

/// The entry of [`API_KEY`] in a key file.
pub(crate) fn api_key_entry() -> String {
    let hash = digest::digest(&digest::SHA256, API_KEY.as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("- {{ sha256: {hex}, subject: acme }}\n")
}

/// The secret as a JWK's `k`.
pub(crate) fn secret_base64url() -> String {
    URL_SAFE_NO_PAD.encode(SECRET)
}

/// What the answer to a handshake is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// A valid 101, so many bytes long.
    Switched(usize),
    /// Another status.
    Refused(u16),
    /// A 101 without the right Accept, or not HTTP.
    Strange,
    /// More bytes are needed.
    Incomplete,
}

/// Reads the answer to one of [`Openings`].
pub(crate) fn answer(bytes: &[u8]) -> Answer {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Answer::Incomplete };
    let status = bytes.get(9..12).and_then(|text| std::str::from_utf8(text).ok());
    match status.and_then(|text| text.parse().ok()) {
        Some(101) if find(&bytes[..end], ACCEPT).is_some() => Answer::Switched(end + 4),
        Some(101) | None => Answer::Strange,
        Some(status) => Answer::Refused(status),
    }
}

/// Where `wanted` begins in `bytes`.
pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The value of a header of a request head, by its lower-case name.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(field, value)| field.trim().eq_ignore_ascii_case(name).then_some(value.trim()))
}

/// A whole frame; `masked` as a client sends it, with the key 0.
pub(crate) fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut frame = head(opcode, payload.len() as u64, masked);
    frame.extend_from_slice(payload);
    frame
}

/// `length` bytes of JSON, a message of an application with this `text` in it.
pub(crate) fn json(text: &str, length: usize) -> Vec<u8> {
    let (begin, end) = (format!(r#"{{"type":"say","text":"{text}","list":["#), "7]}");
    let items: String = "7,".chars().cycle().take(length - begin.len() - end.len()).collect();
    [&begin, &items, end].concat().into_bytes()
}

/// The head of a final frame.
pub(crate) fn head(opcode: u8, length: u64, masked: bool) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let mut head = vec![0x80 | opcode];
    match length {
        0..126 => head.push(bit | length as u8),
        126..65_536 => {
            head.push(bit | 126);
            head.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            head.push(bit | 127);
            head.extend_from_slice(&length.to_be_bytes());
        }
    }
    if masked {
        head.extend_from_slice(&[0; 4]);
    }
    head
}

/// A text message, which makes the backend close first.
pub(crate) const FAREWELL: &[u8] = b"close, please";
/// Another, which makes it send without an end.
pub(crate) const FLOOD: &[u8] = b"flood, please";
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
/// The payload of every Close here: 1000.
pub(crate) const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();
