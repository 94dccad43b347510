//! The JWS compact serialization (RFC 7515 §7.1) and what its header may say.
//! Reads; proves nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::super::SignatureAlgorithm;
use crate::close::Reason;
use crate::json;

/// The longest token that is looked at.
const TOKEN_BYTES: usize = 16 * 1024;

/// The longest `kid` that is looked up.
const KEY_ID_BYTES: usize = 256;

/// Header members that bring their own key, or change what the signature means
/// (RFC 7515 §4.1, RFC 7797 §3): never followed, so never tolerated.
const FORBIDDEN: [&str; 6] = ["crit", "b64", "jwk", "jku", "x5u", "x5c"];

/// The `typ` of tokens that are signed by the same issuer but prove no login:
/// logout tokens, security events, sockgate's own assertions, refresh tokens.
pub(super) const FOREIGN: [&str; 4] = ["logout+jwt", "secevent+jwt", "sockgate+jwt", "refresh"];

/// The three parts of a token, still encoded.
pub(super) struct Token<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    /// Header and payload as the signature covers them.
    pub(super) signed: &'a [u8],
    /// The signature.
    pub(super) signature: &'a [u8],
}

/// What the header says about the key.
#[derive(Clone)]
pub(super) struct Header {
    /// `alg`.
    pub(super) algorithm: SignatureAlgorithm,
    /// `kid`.
    pub(super) key_id: Option<String>,
}

/// The `typ` that is accepted.
pub(super) enum Types {
    /// Any but [`FOREIGN`], and none at all.
    Any,
    /// One of these.
    OneOf(Vec<Box<str>>),
    /// That of a logout token; none, and `JWT`, which says nothing, as most issuers
    /// still write it (OpenID Connect Back-Channel Logout 1.0 §2.4).
    Logout,
}

impl<'a> Token<'a> {
    /// Splits a token, and checks no more than its form.
    pub(super) fn parse(text: &'a [u8]) -> Result<Token<'a>, Reason> {
        if text.len() > TOKEN_BYTES {
            return Err(Reason::MalformedCredential);
        }
        let mut parts = text.split(|byte| *byte == b'.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(header), Some(payload), Some(signature), None) if !header.is_empty() => {
                let signed = &text[..header.len() + 1 + payload.len()];
                Ok(Token { header, payload, signed, signature })
            }
            _ => Err(Reason::MalformedCredential),
        }
    }

    /// The header as it was sent: which [`Token::header`] it gives depends on
    /// nothing else.
    pub(super) fn header_text(&self) -> &'a [u8] {
        self.header
    }

    /// Reads the header.
    pub(super) fn header(&self, types: &Types) -> Result<Header, Reason> {
        let (mut members, _) = object(self.header).ok_or(Reason::MalformedCredential)?;
        read_header(&mut members, types).ok_or(Reason::InvalidCredential)
    }

    /// The payload, if it is a strict JSON object; and as it is written.
    pub(super) fn claims(&self) -> Option<(Map<String, Value>, String)> {
        object(self.payload)
    }
}

impl Types {
    fn accept(&self, typ: Option<&str>) -> bool {
        let Some(typ) = typ else { return matches!(self, Types::Any | Types::Logout) };
        let is = |known: &str| short(known).eq_ignore_ascii_case(short(typ));
        match self {
            Types::Any => !is_foreign(typ),
            Types::OneOf(types) => !is_foreign(typ) && types.iter().any(|known| is(known)),
            Types::Logout => is("logout+jwt") || is("JWT"),
        }
    }
}

/// Whether `typ` says that the token is for another use than to log in.
pub(super) fn is_foreign(typ: &str) -> bool {
    FOREIGN.iter().any(|foreign| foreign.eq_ignore_ascii_case(short(typ)))
}

/// A media type without the `application/` that may be left out (RFC 7515 §4.1.9).
fn short(typ: &str) -> &str {
    const PREFIX: &str = "application/";
    match typ.split_at_checked(PREFIX.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
        _ => typ,
    }
}

/// base64url without padding and with zero trailing bits, of a JSON object.
fn object(encoded: &[u8]) -> Option<(Map<String, Value>, String)> {
    // As long as it is: the text is kept.
    let mut text = vec![0; encoded.len() * 3 / 4];
    let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut text).ok()?;
    text.truncate(length);
    let text = String::from_utf8(text).ok()?;
    match json::parse(text.as_bytes()) {
        Ok(Value::Object(members)) => Some((members, text)),
        Ok(_) | Err(_) => None,
    }
}

fn read_header(members: &mut Map<String, Value>, types: &Types) -> Option<Header> {
    if FORBIDDEN.iter().any(|name| members.contains_key(*name)) {
        return None;
    }
    let typ = match members.get("typ") {
        None => None,
        Some(Value::String(typ)) => Some(typ.as_str()),
        Some(_) => return None,
    };
    if !types.accept(typ) {
        return None;
    }
    let algorithm =
        members.get("alg").and_then(Value::as_str).and_then(SignatureAlgorithm::named)?;
    let key_id = match members.remove("kid") {
        None => None,
        Some(Value::String(id)) if id.len() <= KEY_ID_BYTES => Some(id),
        Some(_) => return None,
    };
    Some(Header { algorithm, key_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(json: &str, types: &Types) -> Result<Header, Reason> {
        let text = format!("{}.e30.", URL_SAFE_NO_PAD.encode(json));
        Token::parse(text.as_bytes())?.header(types)
    }

    #[test]
    fn the_signature_covers_header_and_payload_as_they_were_sent() {
        let token = Token::parse(b"aa.bb.cc").ok().unwrap();
        assert_eq!((token.signed, token.signature), (&b"aa.bb"[..], &b"cc"[..]));
    }

    #[test]
    fn a_type_may_leave_out_application_and_has_no_case() {
        let types = Types::OneOf(vec!["at+jwt".into()]);
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
            let json = format!(r#"{{"alg":"HS256","typ":"{typ}"}}"#);
            assert!(header(&json, &types).is_ok(), "{typ}");
        }
        for json in [
            r#"{"alg":"HS256"}"#,
            r#"{"alg":"HS256","typ":"JWT"}"#,
            r#"{"alg":"HS256","typ":"at+jwtx"}"#,
            r#"{"alg":"HS256","typ":["at+jwt"]}"#,
            r#"{"alg":"HS256","typ":"application/application/at+jwt"}"#,
        ] {
            assert_eq!(header(json, &types).err(), Some(Reason::InvalidCredential), "{json}");
        }
    }

    #[test]
    fn any_type_is_any_but_those_of_other_uses() {
        for json in [r#"{"alg":"HS256"}"#, r#"{"alg":"HS256","typ":"JWT"}"#] {
            assert!(header(json, &Types::Any).is_ok(), "{json}");
        }
        for foreign in FOREIGN {
            for typ in [
                foreign.to_owned(),
                foreign.to_uppercase(),
                format!("application/{foreign}"),
                format!("APPLICATION/{foreign}"),
            ] {
                assert!(is_foreign(&typ));
                let json = format!(r#"{{"alg":"HS256","typ":"{typ}"}}"#);
                let refused = header(&json, &Types::Any).err();
                assert_eq!(refused, Some(Reason::InvalidCredential), "{typ}");
            }
        }
    }

    fn plain(json: &[u8]) -> Option<Map<String, Value>> {
        object(URL_SAFE_NO_PAD.encode(json).as_bytes()).map(|(members, _)| members)
    }

    #[test]
    fn reads_what_is_plain() {
        let text =
            r#" {"a": [1, -2, 3.5, "x", null, true], "b": {"a": {}}, "\u00e4": "\ud83d\ude00"} "#;
        let expected: Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(plain(text.as_bytes()), Some(expected));
    }

    #[test]
    fn refuses_what_two_readers_could_read_differently() {
        let refused: [&[u8]; 17] = [
            b"",
            b"null",
            b"[]",
            b"\"text\"",
            b"\xef\xbb\xbf{}",
            b"{}x",
            b"{}{}",
            b"{}\0",
            br#"{"a":1,"a":2}"#,
            br#"{"a":1,"\u0061":2}"#,
            br#"{"x":[{"a":1,"b":0,"a":2}]}"#,
            b"{\"a\":\"\xff\"}",
            br#"{"a":"\ud800"}"#,
            br#"{"a":1e400}"#,
            br#"{"a":NaN}"#,
            br#"{"a":1,}"#,
            b"{'a':1}",
        ];
        for text in refused {
            assert_eq!(plain(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn depth_is_bounded_without_harm() {
        let nested =
            |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(plain(nested(32).as_bytes()).is_some());
        assert!(plain(nested(33).as_bytes()).is_none());
        assert!(plain(nested(100_000).as_bytes()).is_none());
        assert!(plain("{\"a\":".repeat(100_000).as_bytes()).is_none());
    }
}
