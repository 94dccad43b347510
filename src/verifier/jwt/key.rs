//! Verification keys: what signs with what (RFC 7518 §3, RFC 8037), and which
//! keys are too weak. Each is parsed once, when the configuration is built.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::super::SignatureAlgorithm;
use super::token::Header;

/// The longest signature: that of an RSA key of 8192 bits.
const SIGNATURE_BYTES: usize = 1024;

/// How many keys are tried for one token.
pub(super) const TRIES: usize = 16;

/// One key under one algorithm. Has no `Debug`: it may be a secret.
pub(super) struct Key {
    id: Option<Box<str>>,
    algorithm: SignatureAlgorithm,
    check: Check,
}

enum Check {
    /// Boxed, being twenty times the size of the other.
    Mac(Box<hmac::Key>),
    Signature(ParsedPublicKey),
}

/// The keys of one verifier.
pub(super) struct Keys {
    /// Each key once for every algorithm that it is accepted under.
    pub(super) keys: Vec<Key>,
    /// Whether a token's `kid` picks the key; a key without a set has no id
    /// that it could have to agree with.
    pub(super) by_id: bool,
}

/// The kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A shared secret.
    Secret,
    /// RSA.
    Rsa,
    /// An elliptic curve, P-256.
    P256,
    /// An elliptic curve, P-384.
    P384,
    /// Ed25519.
    Ed25519,
}

/// A public key that is strong enough to be used.
pub(super) struct PublicKey {
    /// What it is.
    pub(super) kind: Kind,
    /// A DER, point or raw form that aws-lc reads.
    bytes: Vec<u8>,
}

/// Why a public key is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("holds a private key; give only the public one: openssl pkey -in FILE -pubout")]
    Private,
    #[error("holds a certificate; give only its public key: openssl x509 -in FILE -noout -pubkey")]
    Certificate,
    #[error("is not a PEM file with one PUBLIC KEY")]
    NotPem,
    #[error("is an RSA key of less than 2048 bits, or over 8192, or with a bad exponent")]
    WeakRsa,
    #[error("is of an unsupported kind (supported: RSA, P-256, P-384, Ed25519)")]
    Unsupported,
}

impl Keys {
    /// Whether one of the keys that `header` allows made `signature` over
    /// `signed`. `signature` is as sent: base64url without padding.
    pub(super) fn verify(&self, header: &Header, signed: &[u8], signature: &[u8]) -> bool {
        let mut buffer = [0; SIGNATURE_BYTES];
        let Ok(length) = URL_SAFE_NO_PAD.decode_slice(signature, &mut buffer) else {
            return false;
        };
        let signature = &buffer[..length];
        self.keys
            .iter()
            .filter(|key| key.algorithm == header.algorithm && self.is_meant(key, header))
            .take(TRIES)
            .any(|key| key.verify(signed, signature))
    }

    /// Whether `header` names a key that is none of these.
    pub(super) fn misses(&self, header: &Header) -> bool {
        self.by_id
            && header
                .key_id
                .as_deref()
                .is_some_and(|id| self.keys.iter().all(|key| key.id.as_deref() != Some(id)))
    }

    /// Whether a token without `kid` may be tried against only some of its keys.
    pub(super) fn is_crowded(&self) -> bool {
        SignatureAlgorithm::ALL.into_iter().any(|algorithm| {
            self.keys.iter().filter(|key| key.algorithm == algorithm).count() > TRIES
        })
    }

    fn is_meant(&self, key: &Key, header: &Header) -> bool {
        match &header.key_id {
            Some(id) if self.by_id => key.id.as_deref() == Some(id),
            Some(_) | None => true,
        }
    }
}

impl Key {
    /// A shared secret. The caller has checked its length against [`Kind`].
    pub(super) fn secret(algorithm: SignatureAlgorithm, secret: &[u8]) -> Option<Key> {
        let mac = match algorithm {
            SignatureAlgorithm::HS256 => hmac::HMAC_SHA256,
            SignatureAlgorithm::HS384 => hmac::HMAC_SHA384,
            SignatureAlgorithm::HS512 => hmac::HMAC_SHA512,
            _ => return None,
        };
        Some(Key { id: None, algorithm, check: Check::Mac(Box::new(hmac::Key::new(mac, secret))) })
    }

    /// Constant-time for secrets: `hmac::verify` compares so.
    fn verify(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.check {
            Check::Mac(key) => hmac::verify(key, signed, signature).is_ok(),
            Check::Signature(key) => key.verify_sig(signed, signature).is_ok(),
        }
    }
}

impl Kind {
    /// The kind of key that `algorithm` works with.
    pub(super) fn of(algorithm: SignatureAlgorithm) -> Kind {
        match algorithm {
            SignatureAlgorithm::HS256 | SignatureAlgorithm::HS384 | SignatureAlgorithm::HS512 => {
                Kind::Secret
            }
            SignatureAlgorithm::RS256
            | SignatureAlgorithm::RS384
            | SignatureAlgorithm::RS512
            | SignatureAlgorithm::PS256
            | SignatureAlgorithm::PS384
            | SignatureAlgorithm::PS512 => Kind::Rsa,
            SignatureAlgorithm::ES256 => Kind::P256,
            SignatureAlgorithm::ES384 => Kind::P384,
            SignatureAlgorithm::EdDSA => Kind::Ed25519,
        }
    }

    /// The algorithms that work with such a key.
    pub(super) fn algorithms(self) -> impl Iterator<Item = SignatureAlgorithm> {
        SignatureAlgorithm::ALL.into_iter().filter(move |algorithm| Kind::of(*algorithm) == self)
    }

    /// The kind as a sentence names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Secret => "a secret",
            Kind::Rsa => "an RSA key",
            Kind::P256 => "a P-256 key",
            Kind::P384 => "a P-384 key",
            Kind::Ed25519 => "an Ed25519 key",
        }
    }
}

impl PublicKey {
    /// Reads a PEM file (RFC 7468 §13) with a `PUBLIC KEY`, or the older `RSA
    /// PUBLIC KEY`.
    pub(super) fn from_pem(text: &str) -> Result<PublicKey, KeyError> {
        if text.contains("PRIVATE KEY-----") {
            return Err(KeyError::Private);
        }
        match (pem_section(text, "PUBLIC KEY"), pem_section(text, "RSA PUBLIC KEY")) {
            (Some(der), None) => PublicKey::from_der(&der),
            (None, Some(der)) => PublicKey::rsa(&der),
            (None, None) if text.contains("-----BEGIN CERTIFICATE-----") => {
                Err(KeyError::Certificate)
            }
            _ => Err(KeyError::NotPem),
        }
    }

    /// Reads a `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7).
    fn from_der(der: &[u8]) -> Result<PublicKey, KeyError> {
        match PublicKey::rsa(der) {
            Err(KeyError::Unsupported) => {}
            decided => return decided,
        }
        [Kind::P256, Kind::P384, Kind::Ed25519]
            .into_iter()
            .map(|kind| PublicKey { kind, bytes: der.to_vec() })
            .find(|key| key.is_readable())
            .ok_or(KeyError::Unsupported)
    }

    fn rsa(der: &[u8]) -> Result<PublicKey, KeyError> {
        let parsed = ParsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, der)
            .map_err(|_| KeyError::Unsupported)?;
        let info: PublicKeyX509Der<'_> = parsed.as_der().map_err(|_| KeyError::Unsupported)?;
        match PublicEncryptingKey::from_der(info.as_ref()) {
            Ok(key) if (2048..=8192).contains(&key.key_size_bits()) => {
                Ok(PublicKey { kind: Kind::Rsa, bytes: info.as_ref().to_vec() })
            }
            Ok(_) | Err(_) => Err(KeyError::WeakRsa),
        }
    }

    /// From modulus and exponent, big-endian (RFC 7518 §6.3.1).
    pub(super) fn rsa_components(modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, KeyError> {
        let components = RsaPublicKeyComponents { n: trimmed(modulus), e: trimmed(exponent) };
        let parsed = components
            .to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256)
            .map_err(|_| KeyError::WeakRsa)?;
        let info: PublicKeyX509Der<'_> = parsed.as_der().map_err(|_| KeyError::WeakRsa)?;
        PublicKey::rsa(info.as_ref()).map_err(|_| KeyError::WeakRsa)
    }

    /// From the two coordinates of a point, in full length (RFC 7518 §6.2.1).
    pub(super) fn point(kind: Kind, x: &[u8], y: &[u8]) -> Result<PublicKey, KeyError> {
        let length = if kind == Kind::P256 { 32 } else { 48 };
        let key = PublicKey { kind, bytes: [&[4], x, y].concat() };
        let sound = x.len() == length && y.len() == length && key.is_readable();
        if sound { Ok(key) } else { Err(KeyError::Unsupported) }
    }

    /// From the 32 bytes of an Ed25519 key (RFC 8037 §2).
    pub(super) fn ed25519(bytes: &[u8]) -> Result<PublicKey, KeyError> {
        let key = PublicKey { kind: Kind::Ed25519, bytes: bytes.to_vec() };
        if bytes.len() == 32 && key.is_readable() { Ok(key) } else { Err(KeyError::Unsupported) }
    }

    fn is_readable(&self) -> bool {
        self.kind.algorithms().all(|algorithm| self.key(algorithm, None).is_some())
    }

    /// The key as `algorithm` uses it; none if it is of another kind.
    pub(super) fn key(&self, algorithm: SignatureAlgorithm, id: Option<&str>) -> Option<Key> {
        let scheme: &'static dyn VerificationAlgorithm = match algorithm {
            SignatureAlgorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            SignatureAlgorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            SignatureAlgorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            SignatureAlgorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
            SignatureAlgorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
            SignatureAlgorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
            SignatureAlgorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
            SignatureAlgorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
            SignatureAlgorithm::EdDSA => &signature::ED25519,
            SignatureAlgorithm::HS256 | SignatureAlgorithm::HS384 | SignatureAlgorithm::HS512 => {
                return None;
            }
        };
        if Kind::of(algorithm) != self.kind {
            return None;
        }
        let parsed = ParsedPublicKey::new(scheme, &self.bytes).ok()?;
        Some(Key { id: id.map(Into::into), algorithm, check: Check::Signature(parsed) })
    }
}

/// aws-lc wants no leading zeros; some providers send one.
fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// The bytes of the only section of that label.
fn pem_section(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, rest) = rest.split_once(&format!("-----END {label}-----"))?;
    if rest.contains("-----BEGIN") {
        return None;
    }
    let body: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(body).ok()
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;

    #[test]
    fn reads_every_supported_kind_of_pem_file() {
        for (scheme, kind) in [
            (&rcgen::PKCS_RSA_SHA256, Kind::Rsa),
            (&rcgen::PKCS_ECDSA_P256_SHA256, Kind::P256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Kind::P384),
            (&rcgen::PKCS_ED25519, Kind::Ed25519),
        ] {
            let pem = KeyPair::generate_for(scheme).unwrap().public_key_pem();
            assert_eq!(PublicKey::from_pem(&pem).ok().unwrap().kind, kind);
            assert_eq!(PublicKey::from_pem(&pem.replace('\n', "\r\n")).ok().unwrap().kind, kind);
        }
    }

    #[test]
    fn what_is_no_usable_public_key_is_named() {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        let error = |text: &str| PublicKey::from_pem(text).err().unwrap();
        assert_eq!(error(&pair.serialize_pem()), KeyError::Private);
        assert_eq!(error(&p521.public_key_pem()), KeyError::Unsupported);
        assert_eq!(error("-----BEGIN CERTIFICATE-----\nAA==\n"), KeyError::Certificate);
        assert_eq!(error(""), KeyError::NotPem);
        assert_eq!(error(&pair.public_key_pem().repeat(2)), KeyError::NotPem);
        assert_eq!(
            error("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
            KeyError::Unsupported
        );
    }

    #[test]
    fn weak_rsa_keys_are_refused() {
        let weak = |bytes: usize, exponent: &[u8]| {
            let mut modulus = vec![0xc5; bytes];
            modulus[bytes - 1] = 0x0b;
            PublicKey::rsa_components(&modulus, exponent).err()
        };
        assert_eq!(weak(256, &[1, 0, 1]), None);
        assert_eq!(weak(128, &[1, 0, 1]), Some(KeyError::WeakRsa));
        assert_eq!(weak(255, &[1, 0, 1]), Some(KeyError::WeakRsa));
        assert_eq!(weak(2048, &[1, 0, 1]), Some(KeyError::WeakRsa));
        assert_eq!(weak(64, &[1, 0, 1]), Some(KeyError::WeakRsa));
        assert_eq!(weak(256, &[1]), Some(KeyError::WeakRsa));
        assert_eq!(weak(256, &[2]), Some(KeyError::WeakRsa));
        assert_eq!(weak(256, &[]), Some(KeyError::WeakRsa));
    }

    #[test]
    fn a_key_works_only_under_the_algorithms_of_its_kind() {
        for scheme in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
            let pem = KeyPair::generate_for(scheme).unwrap().public_key_pem();
            let key = PublicKey::from_pem(&pem).ok().unwrap();
            for algorithm in SignatureAlgorithm::ALL {
                let fits = Kind::of(algorithm) == key.kind;
                assert_eq!(key.key(algorithm, None).is_some(), fits, "{algorithm:?}");
            }
        }
    }
}
