//! Flask's session cookie: `payload.timestamp.signature` as itsdangerous'
//! `URLSafeTimedSerializer` writes it, with an HMAC-SHA1 under a key that is
//! itself the HMAC-SHA1 of the salt under the secret; the payload is Flask's
//! tagged JSON (`flask/json/tag.py`).

use aws_lc_rs::hmac;
use serde_json::{Map, Value};

use super::{FORGED, MALFORMED, Unsigned, base64url, keys, payload, signed_by, split_last};
use crate::close::Reason;
use crate::json;
use crate::secret::Secret;

/// The salt of Flask's sessions.
pub(in super::super) const SALT: &str = "cookie-session";

/// Verifies Flask's cookies.
pub(in super::super) struct Flask(Box<[hmac::Key]>);

impl Flask {
    pub(in super::super) fn new(secrets: &[Secret], salt: &str) -> Flask {
        let sha1 = hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
        Flask(keys(secrets, |secret| {
            let derived = hmac::sign(&hmac::Key::new(sha1, secret), salt.as_bytes());
            hmac::Key::new(sha1, derived.as_ref())
        }))
    }

    /// The session in `cookie`.
    pub(in super::super) fn session(&self, cookie: &[u8]) -> Result<Unsigned, Reason> {
        let (signed, signature) = split_last(cookie, b'.').ok_or(MALFORMED)?;
        let signature = base64url(signature).ok_or(MALFORMED)?;
        if !signed_by(&self.0, signed, &signature) {
            return Err(FORGED);
        }
        let (session, timestamp) = split_last(signed, b'.').ok_or(MALFORMED)?;
        let text = payload(session).ok_or(MALFORMED)?;
        let value = json::parse(&text).map_err(|_| MALFORMED)?;
        let signed_at = base64url(timestamp).and_then(|bytes| big_endian(&bytes));
        Ok(Unsigned { value: untagged(value), signed_at: Some(signed_at.ok_or(MALFORMED)?) })
    }
}

fn big_endian(bytes: &[u8]) -> Option<i64> {
    (1..=7)
        .contains(&bytes.len())
        .then(|| bytes.iter().fold(0, |number, byte| number << 8 | i64::from(*byte)))
}

/// What a tag stands for, where JSON has a form for it: tuples are lists; UUIDs,
/// bytes, markup and dates are the text that Flask wrote. Depth is bounded by
/// the parser.
fn untagged(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(untagged).collect(),
        Value::Object(members) => object(members),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

fn object(members: Map<String, Value>) -> Value {
    let mut members: Vec<(String, Value)> = members.into_iter().collect();
    if let [(tag, value)] = members.as_mut_slice() {
        let value = value.take();
        match tag.as_str() {
            " t" | " b" | " m" | " d" => return untagged(value),
            " u" => return Value::String(hyphenated(value.as_str().unwrap_or_default())),
            " di" => {
                // A map of the one key that would itself have been taken for a tag.
                let Value::Object(inner) = value else { return untagged(value) };
                let inner = inner.into_iter().map(|(key, value)| {
                    let key = key.strip_suffix("__").map_or(key.clone(), str::to_owned);
                    (key, untagged(value))
                });
                return Value::Object(inner.collect());
            }
            _ => return Value::Object(Map::from_iter([(std::mem::take(tag), untagged(value))])),
        }
    }
    members.into_iter().map(|(name, value)| (name, untagged(value))).collect()
}

/// 32 hex digits in the form of a UUID (RFC 9562 §4).
fn hyphenated(hex: &str) -> String {
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    match parts.map(|(from, to)| hex.get(from..to)) {
        [Some(a), Some(b), Some(c), Some(d), Some(e)] if hex.len() == 32 => {
            [a, b, c, d, e].join("-")
        }
        _ => hex.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // Made by Flask 3.1 at 1700000000 under the secret "canary-flask".
    const SMALL: &str =
        "eyJ1c2VyX2lkIjo3LCJ0Ijp7IiB0IjpbMSwyXX19.ZVPxAA.2LeEfnKoi-7biSRj0f2GJuB37Kw";
    const COMPRESSED: &str = ".eJyrViotTi2Kz0xRsjLXUSpJrShRslKqGAVEAyUdpfiC1KLcxLzUPGDYlRSVptYCAJsimn8\
                              .ZVPxAA.q-eSZOL0XC6j-4M6PQ1wT5hXINQ";

    fn session(secrets: &[&str], salt: &str, text: &str) -> Result<Unsigned, Reason> {
        let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::new(*secret)).collect();
        Flask::new(&secrets, salt).session(text.as_bytes())
    }

    #[test]
    fn what_flask_signed_is_read_under_any_of_the_secrets_and_its_salt() {
        for text in [SMALL, COMPRESSED] {
            let read = session(&["new", "canary-flask"], SALT, text).ok().unwrap();
            assert_eq!(read.value["user_id"], 7);
            assert_eq!(read.signed_at, Some(1_700_000_000));
            assert_eq!(session(&["new"], SALT, text).err(), Some(FORGED));
            assert_eq!(session(&["canary-flask"], "other", text).err(), Some(FORGED));
        }
        assert_eq!(session(&["canary-flask"], SALT, SMALL).ok().unwrap().value["t"][1], 2);
    }

    #[test]
    fn every_change_is_refused() {
        let flask = Flask::new(&[Secret::new("canary-flask")], SALT);
        for index in 0..SMALL.len() {
            let mut changed = SMALL.as_bytes().to_vec();
            changed[index] ^= 1;
            assert!(flask.session(&changed).is_err(), "{index}");
            assert!(flask.session(&SMALL.as_bytes()[..index]).is_err(), "{index}");
        }
        for bad in ["", ".", "..", "e30.AAAA.", "e30..AAAA"] {
            assert!(flask.session(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_are_taken_off() {
        let tagged = json!({
            "tuple": {" t": [1, {" u": "0123456789abcdef0123456789abcdef"}]},
            "bytes": {" b": "AAE="},
            "date": {" d": "Sun, 22 Nov 2026 12:00:00 GMT"},
            "map": {" di": {" t__": 1}},
            "plain": {"a": {"b": null}},
            "one": {"x": [true]},
        });
        let expected = json!({
            "tuple": [1, "01234567-89ab-cdef-0123-456789abcdef"],
            "bytes": "AAE=",
            "date": "Sun, 22 Nov 2026 12:00:00 GMT",
            "map": {" t": 1},
            "plain": {"a": {"b": null}},
            "one": {"x": [true]},
        });
        assert_eq!(untagged(tagged), expected);
    }
}
