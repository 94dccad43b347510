//! What frameworks sign with a secret of the application: a session id
//! ([`express`]), or the whole session ([`django`], [`flask`], [`keygrip`]).
//!
//! Nothing of a text is read before its signature is verified. Every signature
//! has one spelling: what decodes to the same bytes in another way is refused.

pub(super) mod django;
pub(super) mod express;
pub(super) mod flask;
pub(super) mod keygrip;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::close::Reason;
use crate::secret::Secret;

/// The most that a compressed session may come to, in bytes.
const INFLATED: usize = 1 << 20;

/// Whether one of `keys` signs `message` with `signature`. All are tried, so that
/// the time tells nothing of which.
fn signed_by(keys: &[hmac::Key], message: &[u8], signature: &[u8]) -> bool {
    let mut found = false;
    for key in keys {
        let expected = hmac::sign(key, message);
        found |= verify_slices_are_equal(expected.as_ref(), signature).is_ok();
    }
    found
}

/// base64url without padding (RFC 4648 §5), in its one spelling.
fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// `head.tail`, cut at the last `separator`.
fn split_last(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().rposition(|byte| *byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

/// The payload of Django's and Flask's signers: base64url, and zlib
/// (RFC 1950) behind that if it begins with a point.
fn payload(text: &[u8]) -> Option<Vec<u8>> {
    match text.strip_prefix(b".") {
        None => base64url(text),
        Some(compressed) => {
            let compressed = base64url(compressed)?;
            miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(&compressed, INFLATED).ok()
        }
    }
}

/// The keys that `secrets` make.
fn keys(secrets: &[Secret], make: impl Fn(&[u8]) -> hmac::Key) -> Box<[hmac::Key]> {
    secrets.iter().map(|secret| make(secret.expose())).collect()
}

/// A session that a cookie holds.
pub(super) struct Unsigned {
    /// The session: JSON.
    pub(super) value: serde_json::Value,
    /// When the signature was made, in Unix seconds, where the format says so.
    pub(super) signed_at: Option<i64>,
}

/// A text that no signer of this format writes.
const MALFORMED: Reason = Reason::MalformedCredential;
/// A text that none of the secrets signed.
const FORGED: Reason = Reason::InvalidCredential;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_plain_or_compressed_and_never_larger_than_its_bound() {
        use miniz_oxide::deflate::compress_to_vec_zlib;
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        assert_eq!(payload(encode(b"{}").as_bytes()), Some(b"{}".to_vec()));
        let packed = |bytes: &[u8]| format!(".{}", encode(&compress_to_vec_zlib(bytes, 9)));
        assert_eq!(payload(packed(b"{}").as_bytes()), Some(b"{}".to_vec()));
        assert_eq!(payload(packed(&vec![b' '; INFLATED]).as_bytes()).unwrap().len(), INFLATED);
        assert_eq!(payload(packed(&vec![b' '; INFLATED + 1]).as_bytes()), None);
        for bad in ["", ".", ".AAAA", "e30=", "e31", "e 30", "+/+/"] {
            assert!(payload(bad.as_bytes()).is_none_or(|bytes| bytes.is_empty()), "{bad}");
        }
    }
}
