//! The signed session id of express-session (and cookie-parser): `s:` id `.`
//! signature, percent-encoded, the signature base64 without padding of an
//! HMAC-SHA256 over the id (npm `cookie-signature`).

use std::borrow::Cow;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use percent_encoding::percent_decode;

use super::{FORGED, MALFORMED, keys, signed_by, split_last};
use crate::close::Reason;
use crate::secret::Secret;

/// Verifies signed ids.
pub(in super::super) struct Express(Box<[hmac::Key]>);

impl Express {
    pub(in super::super) fn new(secrets: &[Secret]) -> Express {
        Express(keys(secrets, |secret| hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// The id in `cookie`.
    pub(in super::super) fn id(&self, cookie: &[u8]) -> Result<String, Reason> {
        // As npm `cookie` does: only what holds an escape is decoded.
        let decoded: Cow<'_, [u8]> = percent_decode(cookie).into();
        let signed = decoded.strip_prefix(b"s:").ok_or(MALFORMED)?;
        let (id, signature) = split_last(signed, b'.').ok_or(MALFORMED)?;
        let signature = STANDARD_NO_PAD.decode(signature).map_err(|_| MALFORMED)?;
        if id.is_empty() || !signed_by(&self.0, id, &signature) {
            return Err(FORGED);
        }
        String::from_utf8(id.to_vec()).map_err(|_| MALFORMED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by npm cookie-signature 1.2: sign('hello', 'tobiiscool').
    const SIGNED: &str = "s%3Ahello.DGDUkGlIkCzPz%2BC0B064FNgHdEjox7ch8tOBGslZ5QI";

    fn express(secrets: &[&str]) -> Express {
        Express::new(&secrets.iter().map(|secret| Secret::new(*secret)).collect::<Vec<_>>())
    }

    #[test]
    fn an_id_signed_by_express_is_read_under_any_of_the_secrets() {
        let id = |secrets: &[&str]| express(secrets).id(SIGNED.as_bytes());
        assert_eq!(id(&["tobiiscool"]).as_deref(), Ok("hello"));
        assert_eq!(id(&["new", "tobiiscool"]).as_deref(), Ok("hello"));
        assert_eq!(id(&["new"]), Err(FORGED));
        let plain = percent_decode(SIGNED.as_bytes()).decode_utf8().unwrap();
        assert_eq!(express(&["tobiiscool"]).id(plain.as_bytes()).as_deref(), Ok("hello"));
    }

    #[test]
    fn every_change_is_refused() {
        let express = express(&["tobiiscool"]);
        for index in 0..SIGNED.len() {
            let mut changed = SIGNED.as_bytes().to_vec();
            changed[index] ^= 1;
            assert!(express.id(&changed).is_err(), "{index}");
            assert!(express.id(&SIGNED.as_bytes()[..index]).is_err(), "{index}");
        }
        for bad in ["", "s:", "s:.", "hello", "j:{}", "s:hello.", "s:hello.====", "%", "s:%ff.%ff"]
        {
            assert!(express.id(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
