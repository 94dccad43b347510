//! A JSON Web Key Set (RFC 7517 §5): which of its keys may verify tokens. What
//! cannot is left out with a warning, since providers publish keys for other
//! uses in the same set.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::SignatureAlgorithm;
use super::key::{Key, Kind, PublicKey};

/// How many keys of a set are looked at.
pub(super) const MOST: usize = 128;

/// A key set as written.
#[derive(Deserialize)]
struct KeySet {
    keys: First,
}

/// The first keys of a list, and how many more there are. The rest is not held: a
/// set may come from elsewhere.
struct First {
    keys: Vec<Value>,
    more: usize,
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<First, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = First;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a list of keys")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<First, A::Error> {
                let mut first = First { keys: Vec::new(), more: 0 };
                while first.keys.len() < MOST {
                    match list.next_element()? {
                        Some(key) => first.keys.push(key),
                        None => return Ok(first),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    first.more += 1;
                }
                Ok(first)
            }
        }

        deserializer.deserialize_seq(List)
    }
}

/// The members of a key that matter here (RFC 7517 §4, RFC 7518 §6).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    /// Only to notice a private key.
    #[serde(default)]
    d: Option<IgnoredAny>,
}

/// The text is not a key set.
#[derive(Debug, thiserror::Error)]
#[error("is not a JSON Web Key Set: {{\"keys\": [...]}}")]
pub(super) struct NotAKeySet;

/// The usable keys of a set, once for each algorithm, and a sentence for every
/// key that is left out or deserves a look.
pub(super) struct Usable {
    pub(super) keys: Vec<Key>,
    pub(super) remarks: Vec<String>,
    /// How many keys there are beyond those that are looked at.
    pub(super) more: usize,
}

/// Reads a key set. With `algorithms` empty every algorithm of a key's kind is
/// taken, else only those; a key's own `alg` narrows that further.
pub(super) fn read(text: &str, algorithms: &[SignatureAlgorithm]) -> Result<Usable, NotAKeySet> {
    let set: KeySet = serde_json::from_str(text).map_err(|_| NotAKeySet)?;
    let mut usable = Usable { keys: Vec::new(), remarks: Vec::new(), more: set.keys.more };
    if set.keys.more > 0 {
        usable.remarks.push(format!("only the first {MOST} keys are looked at"));
    }
    for (index, written) in set.keys.keys.into_iter().enumerate() {
        let jwk = match serde_json::from_value::<Jwk>(written) {
            Ok(jwk) => jwk,
            Err(_) => {
                usable.remarks.push(format!("keys[{index}] is left out: not a JSON Web Key"));
                continue;
            }
        };
        if jwk.d.is_some() {
            let remark = "holds a private key, which has no business here";
            usable.remarks.push(format!("keys[{index}] {remark}"));
        }
        match jwk.keys(algorithms) {
            Ok(keys) => usable.keys.extend(keys),
            Err(why) => usable.remarks.push(format!("keys[{index}] is left out: {why}")),
        }
    }
    Ok(usable)
}

impl Jwk {
    fn keys(&self, algorithms: &[SignatureAlgorithm]) -> Result<Vec<Key>, String> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("its `use` is not sig".to_owned());
        }
        if self.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("its `key_ops` do not name verify".to_owned());
        }
        let public = self.public_key()?;
        let own = match self.alg.as_deref() {
            None => None,
            Some(name) => match SignatureAlgorithm::named(name) {
                Some(algorithm) if Kind::of(algorithm) == public.kind => Some(algorithm),
                Some(_) | None => return Err("its `alg` is not one for such a key".to_owned()),
            },
        };
        let keys: Vec<Key> = public
            .kind
            .algorithms()
            .filter(|algorithm| own.is_none_or(|own| own == *algorithm))
            .filter(|algorithm| algorithms.is_empty() || algorithms.contains(algorithm))
            .filter_map(|algorithm| public.key(algorithm, self.kid.as_deref()))
            .collect();
        if keys.is_empty() {
            return Err("it works with none of `algorithms`".to_owned());
        }
        Ok(keys)
    }

    fn public_key(&self) -> Result<PublicKey, String> {
        let bytes = |member: &Option<String>| {
            let encoded = member.as_deref().unwrap_or_default().trim_end_matches('=');
            URL_SAFE_NO_PAD.decode(encoded).unwrap_or_default()
        };
        let read = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => PublicKey::rsa_components(&bytes(&self.n), &bytes(&self.e)),
            ("EC", Some("P-256")) => PublicKey::point(Kind::P256, &bytes(&self.x), &bytes(&self.y)),
            ("EC", Some("P-384")) => PublicKey::point(Kind::P384, &bytes(&self.x), &bytes(&self.y)),
            ("OKP", Some("Ed25519")) => PublicKey::ed25519(&bytes(&self.x)),
            // A secret in a public set would let anybody sign.
            ("oct", _) => return Err("a shared secret (kty oct) is never used".to_owned()),
            _ => {
                let kinds = "(supported: RSA, P-256, P-384, Ed25519)";
                return Err(format!("its kind is not supported {kinds}"));
            }
        };
        read.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::sign::Signer;
    use super::*;

    fn usable(keys: Value, algorithms: &[SignatureAlgorithm]) -> (usize, Vec<String>) {
        let usable = read(&json!({ "keys": keys }).to_string(), algorithms).ok().unwrap();
        (usable.keys.len(), usable.remarks)
    }

    fn with(mut jwk: Value, changes: Value) -> Value {
        for (name, change) in changes.as_object().unwrap() {
            jwk[name] = change.clone();
        }
        jwk
    }

    #[test]
    fn a_key_counts_for_every_algorithm_of_its_kind() {
        assert_eq!(usable(json!([Signer::rsa().jwk()]), &[]), (6, vec![]));
        assert_eq!(usable(json!([Signer::p256().jwk()]), &[]), (1, vec![]));
        assert_eq!(usable(json!([Signer::p384().jwk()]), &[]), (1, vec![]));
        assert_eq!(usable(json!([Signer::ed25519().jwk()]), &[]), (1, vec![]));
    }

    #[test]
    fn configured_algorithms_and_the_keys_own_narrow_that() {
        let rsa = Signer::rsa().jwk();
        let two = [SignatureAlgorithm::RS256, SignatureAlgorithm::PS256];
        assert_eq!(usable(json!([rsa]), &two).0, 2);
        let own = with(rsa, json!({"alg": "PS256"}));
        assert_eq!(usable(json!([own]), &[]).0, 1);
        assert_eq!(usable(json!([own]), &two).0, 1);
        assert_eq!(usable(json!([own]), &two[..1]).0, 0);
    }

    #[test]
    fn keys_that_must_not_verify_are_left_out_and_named() {
        let rsa = Signer::rsa().jwk();
        let p256 = Signer::p256().jwk();
        let p521 = "A".repeat(88);
        let cases = [
            (with(rsa.clone(), json!({"use": "enc"})), "`use`"),
            (with(rsa.clone(), json!({"key_ops": ["encrypt"]})), "`key_ops`"),
            (with(rsa.clone(), json!({"alg": "RSA-OAEP"})), "`alg`"),
            (with(rsa.clone(), json!({"alg": "HS256"})), "`alg`"),
            (with(rsa.clone(), json!({"alg": "ES256"})), "`alg`"),
            (with(rsa.clone(), json!({"n": "AQAB"})), "2048"),
            (with(rsa.clone(), json!({"n": null})), "2048"),
            (with(rsa.clone(), json!({"n": "!"})), "2048"),
            (with(p256.clone(), json!({"y": "AAAA"})), "unsupported"),
            (with(p256.clone(), json!({"crv": "P-384"})), "unsupported"),
            (with(p256.clone(), json!({"crv": "secp256k1"})), "not supported"),
            (json!({"kty": "EC", "crv": "P-521", "x": p521, "y": p521}), "not supported"),
            (json!({"kty": "oct", "k": "canary", "alg": "HS256"}), "never used"),
            (json!({"kty": "OKP", "crv": "X25519", "x": "AAAA"}), "not supported"),
            (json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}), "unsupported"),
            (json!({"kty": 1}), "not a JSON Web Key"),
            (json!("canary"), "not a JSON Web Key"),
        ];
        for (jwk, expected) in cases {
            let (count, remarks) = usable(json!([jwk]), &[]);
            assert_eq!(count, 0, "{jwk}");
            assert!(remarks[0].contains(expected), "{remarks:?} for {jwk}");
            assert!(!remarks[0].contains("canary"));
        }
    }

    #[test]
    fn what_may_verify_is_kept() {
        let rsa = Signer::rsa().jwk();
        let modulus = URL_SAFE_NO_PAD.decode(rsa["n"].as_str().unwrap()).unwrap();
        let padded = URL_SAFE_NO_PAD.encode([&[0], &modulus[..]].concat());
        for jwk in [
            with(rsa.clone(), json!({"use": "sig", "key_ops": ["verify"], "alg": "RS256"})),
            with(rsa.clone(), json!({"n": padded, "alg": "RS256"})),
            with(rsa.clone(), json!({"alg": "RS256", "x5c": ["..."], "unknown": 1})),
        ] {
            assert_eq!(usable(json!([jwk]), &[]), (1, vec![]));
        }
        let private = with(rsa, json!({"alg": "RS256", "d": "canary"}));
        let (count, remarks) = usable(json!([private]), &[]);
        assert_eq!(count, 1);
        assert_eq!(remarks, ["keys[0] holds a private key, which has no business here"]);
    }

    #[test]
    fn a_set_without_end_has_one() {
        let key = Signer::p256().jwk();
        let (count, remarks) = usable(json!(vec![key; MOST + 50]), &[]);
        assert_eq!(count, MOST);
        assert_eq!(remarks, ["only the first 128 keys are looked at"]);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["", "[]", "{}", r#"{"keys": {}}"#, r#"{"kty": "RSA"}"#, "-----BEGIN"] {
            assert!(read(text, &[]).is_err(), "{text}");
        }
        assert_eq!(usable(json!([]), &[]), (0, vec![]));
    }
}
