//! The private keys that assertions are signed with, and the public half that
//! others verify them by (RFC 7517, RFC 7518 §6, RFC 8037).

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value, json};

/// A key that signs. Has no `Debug`: it is a secret.
pub(super) struct SigningKey {
    pair: Pair,
    algorithm: &'static str,
    id: Box<str>,
    /// The public half, as a JSON Web Key.
    jwk: Value,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Why a text is not used as a signing key. Holds nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("is encrypted; give the plain key: openssl pkey -in FILE -out PLAIN")]
    Encrypted,
    #[error("holds no private key, only a public key or a certificate")]
    Public,
    #[error(
        "is not a PEM private key; make one: openssl genpkey -algorithm EC -pkeyopt \
         ec_paramgen_curve:P-256 -out FILE"
    )]
    NotPem,
    #[error("holds more than one private key: make a list of them, one file each")]
    Several,
    #[error(
        "is of an unsupported kind (supported: EC P-256 and P-384, Ed25519, RSA of 2048 to 8192 \
         bits)"
    )]
    Unsupported,
}

impl SigningKey {
    /// Reads one PEM private key (RFC 7468): PKCS#8, SEC1 or PKCS#1.
    pub(super) fn from_pem(pem: &[u8]) -> Result<SigningKey, KeyError> {
        let holds = |mark: &str| pem.windows(mark.len()).any(|piece| piece == mark.as_bytes());
        if holds("ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let mut keys = PrivateKeyDer::pem_slice_iter(pem);
        let key = match keys.next() {
            Some(Ok(key)) => key,
            Some(Err(_)) => return Err(KeyError::NotPem),
            None if holds("PUBLIC KEY-----") || holds("CERTIFICATE-----") => {
                return Err(KeyError::Public);
            }
            None => return Err(KeyError::NotPem),
        };
        if keys.next().is_some() {
            return Err(KeyError::Several);
        }
        SigningKey::of(pair(&key).ok_or(KeyError::Unsupported)?)
    }

    fn of(pair: Pair) -> Result<SigningKey, KeyError> {
        let (algorithm, members) = match &pair {
            Pair::Ec(key) => ec_members(key).ok_or(KeyError::Unsupported)?,
            Pair::Rsa(key) => {
                let public = key.public_key();
                let number = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
                let exponent = number(public.exponent().big_endian_without_leading_zero());
                let modulus = number(public.modulus().big_endian_without_leading_zero());
                ("RS256", json!({ "e": exponent, "kty": "RSA", "n": modulus }))
            }
            Pair::Ed25519(key) => {
                let point = URL_SAFE_NO_PAD.encode(key.public_key());
                ("EdDSA", json!({ "crv": "Ed25519", "kty": "OKP", "x": point }))
            }
        };
        let id = thumbprint(&members);
        let mut jwk = members;
        jwk["use"] = "sig".into();
        jwk["alg"] = algorithm.into();
        jwk["kid"] = id.as_str().into();
        Ok(SigningKey { pair, algorithm, id: id.into(), jwk })
    }

    /// The thumbprint of the public half (RFC 7638), by which others pick it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// `alg` (RFC 7518 §3.1, RFC 8037 §3.1).
    pub(super) fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// The public half, for a key set (RFC 7517 §4).
    pub(super) fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// The signature over `message` in the form of JWS; none if the system gives no
    /// random bytes.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(key) => Some(key.sign(&random, message).ok()?.as_ref().to_vec()),
            Pair::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Pair::Ed25519(key) => Some(key.try_sign(message).ok()?.as_ref().to_vec()),
        }
    }
}

fn pair(key: &PrivateKeyDer<'_>) -> Option<Pair> {
    const CURVES: [&EcdsaSigningAlgorithm; 2] =
        [&ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P384_SHA384_FIXED_SIGNING];
    match key {
        PrivateKeyDer::Pkcs1(der) => {
            RsaKeyPair::from_der(der.secret_pkcs1_der()).ok().map(Pair::Rsa)
        }
        PrivateKeyDer::Sec1(der) => CURVES
            .into_iter()
            .find_map(|curve| EcdsaKeyPair::from_private_key_der(curve, der.secret_sec1_der()).ok())
            .map(Pair::Ec),
        PrivateKeyDer::Pkcs8(der) => {
            let der = der.secret_pkcs8_der();
            let ec =
                || CURVES.into_iter().find_map(|curve| EcdsaKeyPair::from_pkcs8(curve, der).ok());
            // OpenSSL writes Ed25519 keys without their public half.
            let edwards =
                || Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(Pair::Ed25519);
            let rsa = || RsaKeyPair::from_pkcs8(der).ok().map(Pair::Rsa);
            ec().map(Pair::Ec).or_else(edwards).or_else(rsa)
        }
        _ => None,
    }
}

/// Algorithm and public members of a key on a curve.
fn ec_members(key: &EcdsaKeyPair) -> Option<(&'static str, Value)> {
    // An uncompressed point: 4, x, y.
    let (form, point) = key.public_key().as_ref().split_first()?;
    let (x, y) = point.split_at_checked(point.len() / 2)?;
    let (algorithm, curve) = match (form, x.len()) {
        (4, 32) => ("ES256", "P-256"),
        (4, 48) => ("ES384", "P-384"),
        _ => return None,
    };
    let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let members = json!({ "crv": curve, "kty": "EC", "x": coordinate(x), "y": coordinate(y) });
    Some((algorithm, members))
}

/// RFC 7638 §3: the hash of the required members alone, in the order of their
/// names, which is how `members` has them.
fn thumbprint(members: &Value) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, members.to_string().as_bytes()))
}

/// A key set (RFC 7517 §5) of `keys`, each once.
pub(super) fn key_set<'k>(keys: impl Iterator<Item = &'k SigningKey>) -> Value {
    let mut set: Map<String, Value> = Map::new();
    for key in keys {
        set.entry(key.id()).or_insert_with(|| key.jwk().clone());
    }
    json!({ "keys": set.into_iter().map(|(_, jwk)| jwk).collect::<Vec<_>>() })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A fresh key, as `rcgen` writes it: PKCS#8.
    pub(in crate::identity) fn pem(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
        rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem()
    }

    #[test]
    fn the_thumbprint_is_that_of_the_rfc() {
        // RFC 7638 §3.1 and RFC 8037 appendix A.3.
        let rsa = json!({
            "e": "AQAB",
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        });
        assert_eq!(thumbprint(&rsa), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        let edwards = json!({
            "crv": "Ed25519",
            "kty": "OKP",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        });
        assert_eq!(thumbprint(&edwards), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn every_kind_of_key_is_read_and_named() {
        let kinds = [
            (&rcgen::PKCS_ECDSA_P256_SHA256, "ES256", "EC"),
            (&rcgen::PKCS_ECDSA_P384_SHA384, "ES384", "EC"),
            (&rcgen::PKCS_ED25519, "EdDSA", "OKP"),
            (&rcgen::PKCS_RSA_SHA256, "RS256", "RSA"),
        ];
        for (algorithm, name, kind) in kinds {
            let key = SigningKey::from_pem(pem(algorithm).as_bytes()).ok().unwrap();
            assert_eq!((key.algorithm(), key.jwk()["kty"].as_str()), (name, Some(kind)));
            assert_eq!(key.jwk()["kid"], key.id());
            assert_eq!(key.id().len(), 43);
            let private = ["d", "p", "q", "dp", "dq", "qi", "k"];
            assert!(private.iter().all(|member| key.jwk().get(member).is_none()), "{name}");
        }
    }

    #[test]
    fn what_is_no_signing_key_is_named() {
        let refused = |pem: &str| SigningKey::from_pem(pem.as_bytes()).err().unwrap();
        assert_eq!(refused(""), KeyError::NotPem);
        assert_eq!(refused("hunter2"), KeyError::NotPem);
        let key = rcgen::KeyPair::generate().unwrap();
        assert_eq!(refused(&key.public_key_pem()), KeyError::Public);
        let private = key.serialize_pem();
        assert_eq!(
            refused(&private.replace(" PRIVATE", " ENCRYPTED PRIVATE")),
            KeyError::Encrypted
        );
        assert_eq!(refused(&format!("{private}{private}")), KeyError::Several);
        let p521 = pem(&rcgen::PKCS_ECDSA_P521_SHA512);
        assert_eq!(refused(&p521), KeyError::Unsupported);
    }

    #[test]
    fn a_key_set_has_each_key_once() {
        let key = SigningKey::from_pem(pem(&rcgen::PKCS_ED25519).as_bytes()).ok().unwrap();
        let set = key_set([&key, &key].into_iter());
        assert_eq!(set["keys"].as_array().unwrap().len(), 1);
    }
}
