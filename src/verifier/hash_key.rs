//! Entries for a file of API keys: what `sockgate hash-key` prints.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::hex::hex;
use crate::secret::Secret;

/// The system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

/// A new API key: 256 random bits as base64url.
///
/// # Errors
/// If the system gives no random bytes.
pub fn generate() -> Result<Secret, NoRandomness> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// The line for a key file that admits `key`, without the newline at its end.
pub fn hash_entry(key: &[u8]) -> String {
    format!("- {{ sha256: {}, subject: CHANGE-ME }}", hex(digest(&SHA256, key).as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_one_line_with_the_hash_and_not_the_key() {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_entry(b"abc"), format!("- {{ sha256: {hash}, subject: CHANGE-ME }}"));
    }

    #[test]
    fn a_new_key_has_256_bits_and_differs_each_time() {
        let (one, other) = (generate().ok().unwrap(), generate().ok().unwrap());
        assert_eq!(URL_SAFE_NO_PAD.decode(one.expose()).unwrap().len(), 32);
        assert_ne!(one.expose(), other.expose());
    }
}
