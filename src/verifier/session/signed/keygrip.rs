//! npm `cookie-session`: the cookie holds the session as JSON in base64, and a
//! second cookie, named `<name>.sig`, signs `<name>=<value>` with HMAC-SHA1 in
//! base64url (npm `keygrip`). Nothing says when it was made.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::{FORGED, MALFORMED, Unsigned, base64url, keys, signed_by, split_last};
use crate::close::Reason;
use crate::json;
use crate::secret::Secret;

/// Verifies sessions of `cookie-session`.
pub(in super::super) struct Keygrip(Box<[hmac::Key]>);

impl Keygrip {
    pub(in super::super) fn new(secrets: &[Secret]) -> Keygrip {
        let sha1 = hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
        Keygrip(keys(secrets, |secret| hmac::Key::new(sha1, secret)))
    }

    /// The session in the cookie `name`; `cookie` is its value, a line end, and the
    /// value of the cookie that signs it.
    pub(in super::super) fn session(&self, name: &str, cookie: &[u8]) -> Result<Unsigned, Reason> {
        let (value, signature) = split_last(cookie, b'\n').ok_or(MALFORMED)?;
        let signature = base64url(signature).ok_or(MALFORMED)?;
        let signed = [name.as_bytes(), b"=", value].concat();
        if !signed_by(&self.0, &signed, &signature) {
            return Err(FORGED);
        }
        let text = STANDARD.decode(value).or_else(|_| STANDARD_NO_PAD.decode(value));
        let text = text.map_err(|_| MALFORMED)?;
        let value = json::parse(&text).map_err(|_| MALFORMED)?;
        Ok(Unsigned { value, signed_at: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by npm keygrip 1.1 and cookie-session 2.1: { user: { id: 7 } } under 'k1'.
    const VALUE: &str = "eyJ1c2VyIjp7ImlkIjo3fX0=";

    fn signature(name: &str, secret: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
        let signed = hmac::sign(&key, format!("{name}={VALUE}").as_bytes());
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(signed)
    }

    #[test]
    fn what_keygrip_signed_is_read() {
        let cookie = format!("{VALUE}\nR4UcR2MUUPPWdjepIFgi4UST-qY");
        assert!(Keygrip::new(&[Secret::new("k1")]).session("session", cookie.as_bytes()).is_ok());
    }

    #[test]
    fn a_session_is_read_if_its_second_cookie_signs_name_and_value() {
        let keygrip = Keygrip::new(&[Secret::new("k1"), Secret::new("k0")]);
        for secret in ["k0", "k1"] {
            let cookie = format!("{VALUE}\n{}", signature("session", secret));
            let session = keygrip.session("session", cookie.as_bytes()).ok().unwrap();
            assert_eq!(session.value["user"]["id"], 7);
            assert!(keygrip.session("other", cookie.as_bytes()).is_err());
        }
        let forged = format!("{VALUE}\n{}", signature("session", "k2"));
        assert_eq!(keygrip.session("session", forged.as_bytes()).err(), Some(FORGED));
        for bad in ["", VALUE, "\n", "e30=\n", "\n\n"] {
            assert!(keygrip.session("session", bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
