//! The server's side of the opening handshake (RFC 6455 §4.2.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub fn accept_for(key: &[u8]) -> HeaderValue {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64(context.finish().as_ref())
}

/// A fresh `Sec-WebSocket-Key`: 16 random bytes.
pub fn fresh_key() -> HeaderValue {
    base64(&rand::random::<[u8; 16]>())
}

/// Up to 20 bytes in base64, which is always a valid field value.
fn base64(bytes: &[u8]) -> HeaderValue {
    let mut text = [0; 28];
    let length = STANDARD.encode_slice(bytes, &mut text).unwrap_or(0);
    HeaderValue::from_bytes(&text[..length]).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept_for(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
