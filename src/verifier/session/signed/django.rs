//! What Django's `signing.dumps` writes (`django/core/signing.py`):
//! `payload:timestamp:signature`, the signature an HMAC-SHA256 under
//! SHA-256(salt + "signer" + secret), the timestamp Unix seconds in base 62.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;

use super::{FORGED, MALFORMED, Unsigned, base64url, keys, payload, signed_by, split_last};
use crate::close::Reason;
use crate::json;
use crate::secret::Secret;

/// The salt of `session_data` in a database.
pub(in super::super) const DATABASE_SALT: &str = "django.contrib.sessions.SessionStore";
/// The salt of a cookie that holds the session.
pub(in super::super) const COOKIE_SALT: &str = "django.contrib.sessions.backends.signed_cookies";

/// Verifies what Django signed with one salt.
pub(in super::super) struct Django(Box<[hmac::Key]>);

impl Django {
    pub(in super::super) fn new(secrets: &[Secret], salt: &str) -> Django {
        Django(keys(secrets, |secret| {
            let key = digest(&SHA256, &[salt.as_bytes(), b"signer", secret].concat());
            hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())
        }))
    }

    /// The session in `text`.
    pub(in super::super) fn session(&self, text: &[u8]) -> Result<Unsigned, Reason> {
        let (signed, signature) = split_last(text, b':').ok_or(MALFORMED)?;
        let signature = base64url(signature).ok_or(MALFORMED)?;
        if !signed_by(&self.0, signed, &signature) {
            return Err(FORGED);
        }
        let (session, timestamp) = split_last(signed, b':').ok_or(MALFORMED)?;
        let text = payload(session).ok_or(MALFORMED)?;
        let value = json::parse(&text).map_err(|_| MALFORMED)?;
        Ok(Unsigned { value, signed_at: Some(base62(timestamp).ok_or(MALFORMED)?) })
    }
}

/// Digits, capital letters, small letters; the most significant first.
fn base62(text: &[u8]) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_i64, |number, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A' + 10,
            b'a'..=b'z' => byte - b'a' + 36,
            _ => return None,
        };
        number.checked_mul(62)?.checked_add(i64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by Django 5.2 at 1700000000 under the secret "canary-django".
    const SMALL: &str = "eyJfYXV0aF91c2VyX2lkIjoiNyIsIm4iOjF9:1r31eq:\
                         aMZ1Wb029tyqK-rUZK1VF5d2HdUF79Dv2xOtNu3st2o";
    const COMPRESSED: &str = ".eJyrVopPLC3JiC8tTi2Kz0xRslIyV9JRKkmtKAEyK0YB0UCpFgB1tpag:1r31eq:\
                              peoRPt772p1BeGq-tCyxdNsyxeTOb89tf8r6gradZXo";
    const COOKIE: &str = "eyJfYXV0aF91c2VyX2lkIjoiNyIsIm4iOjF9:1r31eq:\
                          TyeG_4vkdP9v5rlBAlrUzX1zzMney4Ja750IQOWqGIE";

    fn session(secrets: &[&str], salt: &str, text: &str) -> Result<Unsigned, Reason> {
        let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::new(*secret)).collect();
        Django::new(&secrets, salt).session(text.as_bytes())
    }

    #[test]
    fn what_django_signed_is_read_under_any_of_the_secrets_and_its_own_salt() {
        for (salt, text) in
            [(DATABASE_SALT, SMALL), (DATABASE_SALT, COMPRESSED), (COOKIE_SALT, COOKIE)]
        {
            let read = session(&["new", "canary-django"], salt, text).ok().unwrap();
            assert_eq!(read.value["_auth_user_id"], "7");
            assert_eq!(read.signed_at, Some(1_700_000_000));
            assert_eq!(session(&["new"], salt, text).err(), Some(FORGED));
        }
        assert_eq!(session(&["canary-django"], COOKIE_SALT, SMALL).err(), Some(FORGED));
    }

    #[test]
    fn every_change_is_refused() {
        for text in [SMALL, COMPRESSED] {
            for index in 0..text.len() {
                let mut changed = text.as_bytes().to_vec();
                changed[index] ^= 1;
                let django = Django::new(&[Secret::new("canary-django")], DATABASE_SALT);
                assert!(django.session(&changed).is_err(), "{index}");
                assert!(django.session(&text.as_bytes()[..index]).is_err(), "{index}");
            }
        }
        for bad in ["", ":", "::", "e30:0:", "e30:0:AAAA"] {
            assert!(session(&["canary-django"], DATABASE_SALT, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn base62_is_read_as_django_writes_it() {
        assert_eq!(base62(b"0"), Some(0));
        assert_eq!(base62(b"1r31eq"), Some(1_700_000_000));
        assert_eq!(base62(b"10"), Some(62));
        assert_eq!(base62(b"z"), Some(61));
        assert_eq!(base62(b""), None);
        assert_eq!(base62(b"-1"), None);
        assert_eq!(base62(b"zzzzzzzzzzzzzzzz"), None);
    }
}
