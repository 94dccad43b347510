//! Makes tokens for tests, good ones and such as no library would make.

use aws_lc_rs::encoding::{AsBigEndian, EcPublicKeyUncompressedBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use aws_lc_rs::{encoding, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Something that signs.
pub(in crate::verifier::jwt) enum Signer {
    Secret(Vec<u8>),
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

pub(in crate::verifier::jwt) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(in crate::verifier::jwt) fn rsa() -> Signer {
        Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(in crate::verifier::jwt) fn p256() -> Signer {
        Signer::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(in crate::verifier::jwt) fn p384() -> Signer {
        Signer::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub(in crate::verifier::jwt) fn ed25519() -> Signer {
        Signer::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    /// Signs `header` and `payload`, which may be any text.
    pub(in crate::verifier::jwt) fn raw(
        &self,
        algorithm: &str,
        header: &str,
        payload: &[u8],
    ) -> String {
        let signed = format!("{}.{}", b64(header), b64(payload));
        format!("{signed}.{}", b64(self.signature(algorithm, signed.as_bytes())))
    }

    pub(in crate::verifier::jwt) fn token(&self, algorithm: &str, claims: &Value) -> String {
        let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#);
        self.raw(algorithm, &header, claims.to_string().as_bytes())
    }

    pub(in crate::verifier::jwt) fn signature(&self, algorithm: &str, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Signer::Secret(secret) => {
                let mac = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(mac, secret), signed).as_ref().to_vec()
            }
            Signer::Rsa(pair) => {
                let padding: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, signed, &mut signature).unwrap();
                signature
            }
            Signer::P256(pair) | Signer::P384(pair) => {
                pair.sign(&random, signed).unwrap().as_ref().to_vec()
            }
            Signer::Ed25519(pair) => pair.sign(signed).as_ref().to_vec(),
        }
    }

    /// The public key as SubjectPublicKeyInfo.
    pub(in crate::verifier::jwt) fn der(&self) -> Vec<u8> {
        fn der(key: &impl encoding::AsDer<encoding::PublicKeyX509Der<'static>>) -> Vec<u8> {
            key.as_der().unwrap().as_ref().to_vec()
        }
        match self {
            Signer::Secret(_) => panic!("a secret has no public key"),
            Signer::Rsa(pair) => der(pair.public_key()),
            Signer::P256(pair) | Signer::P384(pair) => der(pair.public_key()),
            Signer::Ed25519(pair) => der(pair.public_key()),
        }
    }

    pub(in crate::verifier::jwt) fn pem(&self) -> String {
        let body = STANDARD.encode(self.der());
        let lines: Vec<&str> =
            body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// The modulus of an RSA key.
    pub(in crate::verifier::jwt) fn modulus(&self) -> Vec<u8> {
        let Signer::Rsa(pair) = self else { panic!("not RSA") };
        // RSAPublicKey is SEQUENCE { INTEGER n, INTEGER e = 65537 }: 5 bytes at the end.
        let der = pair.public_key().as_ref();
        der[der.len() - 5 - pair.public_modulus_len()..der.len() - 5].to_vec()
    }

    pub(in crate::verifier::jwt) fn jwk(&self) -> Value {
        match self {
            Signer::Secret(secret) => json!({"kty": "oct", "k": b64(secret)}),
            Signer::Rsa(_) => json!({"kty": "RSA", "n": b64(self.modulus()), "e": "AQAB"}),
            Signer::P256(pair) => point("P-256", pair),
            Signer::P384(pair) => point("P-384", pair),
            Signer::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref())})
            }
        }
    }
}

fn point(curve: &str, pair: &EcdsaKeyPair) -> Value {
    let point: EcPublicKeyUncompressedBin<'_> = pair.public_key().as_be_bytes().unwrap();
    let (x, y) = point.as_ref()[1..].split_at(point.as_ref().len() / 2);
    json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)})
}
