//! Tokens, and the memory of every secret that a test showed to the gate.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// The HS256 secret that the tests' verifier `app` knows; itself a canary.
pub(crate) const SECRET: &str = "canary-secret-of-32-bytes-or-more-0001";

/// Everything that must never appear in what the gate prints.
static CANARIES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Remembers `secret`: no gate may print it from now on.
pub(crate) fn canary(secret: &str) -> String {
    CANARIES.lock().expect("no test died here").insert(secret.to_owned());
    secret.to_owned()
}

/// Fails if `output` holds anything that [`canary`] remembers, as it is or
/// percent-encoded.
#[track_caller]
pub(crate) fn assert_no_canary(output: &str) {
    let decoded = percent_decode(output);
    let canaries = CANARIES.lock().expect("no test died here");
    for canary in canaries.iter().map(String::as_str).chain([SECRET]) {
        for output in [output, &decoded] {
            if let Some(line) = output.lines().find(|line| line.contains(canary)) {
                panic!("the gate printed a secret: {canary}\nin {line}");
            }
        }
    }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A valid token of `subject`, for an hour.
pub(crate) fn token(subject: &str) -> String {
    Token::of(subject).sign()
}

/// A token in the making: header, claims, HS256 signature.
pub(crate) struct Token {
    header: Value,
    claims: Map<String, Value>,
}

impl Token {
    /// `sub`, and `exp` in an hour.
    pub(crate) fn of(subject: &str) -> Token {
        let claims = Map::from_iter([("sub".to_owned(), json!(subject))]);
        Token { header: json!({"alg": "HS256", "typ": "JWT"}), claims }.expires_in(3600)
    }

    /// With `exp` that many seconds from now.
    pub(crate) fn expires_in(self, seconds: i64) -> Token {
        let at = unix_now() + seconds;
        self.claim("exp", at)
    }

    /// With `name` set to `value`.
    pub(crate) fn claim(mut self, name: &str, value: impl Into<Value>) -> Token {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Without `name`.
    pub(crate) fn without(mut self, name: &str) -> Token {
        self.claims.remove(name);
        self
    }

    /// With the header parameter `name` set to `value`.
    pub(crate) fn header(mut self, name: &str, value: impl Into<Value>) -> Token {
        self.header[name] = value.into();
        self
    }

    /// The claims as JSON.
    pub(crate) fn claims(&self) -> String {
        Value::Object(self.claims.clone()).to_string()
    }

    /// Signed with [`SECRET`].
    pub(crate) fn sign(&self) -> String {
        self.sign_with(SECRET.as_bytes())
    }

    /// Signed with another key.
    pub(crate) fn sign_with(&self, key: &[u8]) -> String {
        Token::sign_raw(&self.header.to_string(), &self.claims(), key)
    }

    #[allow(dead_code, reason = "for the crowds of `scale`")]
    /// Signed with [`SECRET`], but not remembered as a secret: to look for thousands in
    /// thousands of lines would take minutes.
    pub(crate) fn sign_one_of_many(&self) -> String {
        signed(&self.header.to_string(), &self.claims(), SECRET.as_bytes())
    }

    /// Signs any header and payload, however malformed.
    pub(crate) fn sign_raw(header: &str, payload: &str, key: &[u8]) -> String {
        let token = signed(header, payload, key);
        canary(token.rsplit('.').next().expect("a signature"));
        canary(&token)
    }
}

fn signed(header: &str, payload: &str, key: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// Every byte as `%XX`: what a redaction that compares names must see through.
pub(crate) fn percent_encode_all(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Seconds since the epoch.
pub(crate) fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64
}
