//! Tokens that nobody entitled to signed, that bring their own key, or whose
//! claims do not hold.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::sign::{Signer, b64};
use super::{INVALID, NOW, admits, claims, hs256, key_set, public, refuses, secret};
use crate::close::Reason;

#[tokio::test]
async fn unsigned_tokens_are_invalid() {
    let payload = claims().to_string();
    let good = secret().token("HS256", &claims());
    let signature = good.rsplit('.').next().unwrap();
    let mut table = Vec::new();
    for algorithm in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None"}"#,
        r#"{"alg":"NONE"}"#,
        r#"{"alg":"nOnE","typ":"JWT"}"#,
        r#"{"alg":["none"]}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":"none","kid":"1"}"#,
        r#"{"alg":null}"#,
        r#"{"alg":0}"#,
        r#"{"alg":""}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS256 "}"#,
        r#"{"alg":"HS256\u0000"}"#,
        r#"{"typ":"JWT"}"#,
        r#"{}"#,
    ] {
        let signed = format!("{}.{}", b64(algorithm), b64(&payload));
        table.push((algorithm, format!("{signed}."), INVALID));
        table.push((algorithm, format!("{signed}.{signature}"), INVALID));
        table.push((algorithm, secret().raw("HS256", algorithm, payload.as_bytes()), INVALID));
    }
    let signed = good.rsplit_once('.').unwrap().0;
    table.push(("no signature", format!("{signed}."), INVALID));
    table.push(("half a signature", format!("{signed}.{}", &signature[..20]), INVALID));
    table.push(("a long signature", format!("{signed}.{}", "A".repeat(10_000)), INVALID));
    refuses(&hs256(), table).await;
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let rsa = Signer::rsa();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key.pem"), rsa.pem()).unwrap();
    let verifiers =
        [public(&rsa, &["RS256"]), key_set(json!([rsa.jwk()]), json!({})).unwrap().verifier];
    let keys: [(&str, Vec<u8>); 8] = [
        ("PEM", rsa.pem().into_bytes()),
        ("PEM without newline", rsa.pem().trim_end().as_bytes().to_vec()),
        ("DER", rsa.der()),
        ("base64 of DER", STANDARD.encode(rsa.der()).into_bytes()),
        ("raw n", rsa.modulus()),
        ("base64url n", b64(rsa.modulus()).into_bytes()),
        ("the JWK", rsa.jwk().to_string().into_bytes()),
        ("the empty key", Vec::new()),
    ];
    for verifier in verifiers {
        let mut table = Vec::new();
        for (what, key) in &keys {
            for algorithm in ["HS256", "HS384", "HS512"] {
                let forged = Signer::Secret(key.clone()).token(algorithm, &claims());
                table.push((*what, forged, INVALID));
                let header = r#"{"alg":"RS256"}"#;
                let payload = claims().to_string();
                let forged = Signer::Secret(key.clone()).raw(algorithm, header, payload.as_bytes());
                table.push((*what, forged, INVALID));
            }
        }
        refuses(&verifier, table).await;
    }
}

#[tokio::test]
async fn headers_that_bring_a_key_or_an_extension_are_invalid() {
    let attacker = Signer::rsa();
    let jwk = attacker.jwk();
    let mut table = Vec::new();
    for header in [
        json!({"alg": "HS256", "jwk": jwk}),
        json!({"alg": "HS256", "jwk": null}),
        json!({"alg": "HS256", "jku": "http://127.0.0.1:1/jwks.json"}),
        json!({"alg": "HS256", "x5u": "http://127.0.0.1:1/cert.pem"}),
        json!({"alg": "HS256", "x5c": ["AAAA"]}),
        json!({"alg": "HS256", "crit": ["exp"], "exp": NOW + 60}),
        json!({"alg": "HS256", "crit": ["http://example.com/unknown"]}),
        json!({"alg": "HS256", "crit": []}),
        json!({"alg": "HS256", "crit": null}),
        json!({"alg": "HS256", "b64": false, "crit": ["b64"]}),
        json!({"alg": "HS256", "b64": false}),
        json!({"alg": "HS256", "b64": true}),
        json!({"alg": "HS256", "typ": 1}),
        json!({"alg": "HS256", "typ": "logout+jwt"}),
        json!({"alg": "HS256", "typ": "application/LOGOUT+JWT"}),
        json!({"alg": "HS256", "typ": "secevent+jwt"}),
        json!({"alg": "HS256", "typ": "sockgate+jwt"}),
        json!({"alg": "HS256", "typ": "refresh"}),
        json!({"alg": "HS256", "typ": "Refresh"}),
        json!({"alg": "HS256", "kid": 1}),
        json!({"alg": "HS256", "kid": null}),
        json!({"alg": "HS256", "kid": ["a"]}),
        json!({"alg": "HS256", "kid": "k".repeat(257)}),
    ] {
        let token = secret().raw("HS256", &header.to_string(), claims().to_string().as_bytes());
        table.push(("good signature, bad header", token, INVALID));
        let token = attacker.raw("RS256", &header.to_string(), claims().to_string().as_bytes());
        table.push(("own key, bad header", token, INVALID));
    }
    refuses(&hs256(), table).await;
    let own = json!({"alg": "RS256", "jwk": jwk}).to_string();
    let token = attacker.raw("RS256", &own, claims().to_string().as_bytes());
    let table = vec![("signed by the key in the header", token, INVALID)];
    refuses(&public(&Signer::rsa(), &["RS256"]), table).await;
}

#[tokio::test]
async fn ecdsa_signatures_are_two_numbers_of_full_length() {
    for (signer, algorithm, length) in
        [(Signer::p256(), "ES256", 32_usize), (Signer::p384(), "ES384", 48)]
    {
        let verifier = public(&signer, &[algorithm]);
        let token = signer.token(algorithm, &claims());
        let signed = token.rsplit_once('.').unwrap().0;
        let with = |signature: Vec<u8>| format!("{signed}.{}", b64(signature));
        let good = signer.signature(algorithm, signed.as_bytes());
        let (r, s) = good.split_at(length);
        let integer = |number: &[u8]| {
            let mut positive = vec![0x02, u8::try_from(number.len() + 1).unwrap(), 0];
            positive.extend_from_slice(number);
            positive
        };
        let body = [integer(r), integer(s)].concat();
        let der = [vec![0x30, u8::try_from(body.len()).unwrap()], body].concat();
        let mut table = vec![
            ("r = s = 0", with(vec![0; 2 * length]), INVALID),
            ("r = 0", with([&vec![0; length], s].concat()), INVALID),
            ("s = 0", with([r, &vec![0; length]].concat()), INVALID),
            ("all ones", with(vec![0xff; 2 * length]), INVALID),
            ("DER", with(der), INVALID),
            ("one byte less", with(good[..good.len() - 1].to_vec()), INVALID),
            ("one byte more", with([&good[..], &[0]].concat()), INVALID),
            ("r and s padded", with([&[0], r, &[0], s].concat()), INVALID),
            ("r alone", with(r.to_vec()), INVALID),
            ("nothing", with(vec![]), INVALID),
            ("s before r", with([s, r].concat()), INVALID),
        ];
        let other = if length == 32 { Signer::p384() } else { Signer::p256() };
        table.push(("a key of the other curve", other.token(algorithm, &claims()), INVALID));
        refuses(&verifier, table).await;
        admits(&verifier, "as signed", &with(good)).await;
    }
}

/// n - s for the order n of P-256.
fn other_s(s: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63,
        0x25, 0x51,
    ];
    let mut difference = vec![0; 32];
    let mut borrow = 0;
    for index in (0..32).rev() {
        let digit = i16::from(ORDER[index]) - i16::from(s[index]) - borrow;
        borrow = i16::from(digit < 0);
        difference[index] = digit.rem_euclid(256) as u8;
    }
    difference
}

#[tokio::test]
async fn either_s_of_an_es256_signature_is_valid() {
    let signer = Signer::p256();
    let verifier = public(&signer, &["ES256"]);
    let token = signer.token("ES256", &claims());
    let signed = token.rsplit_once('.').unwrap().0;
    let signature = signer.signature("ES256", signed.as_bytes());
    let other = [&signature[..32], &other_s(&signature[32..])].concat();
    assert_ne!(other, signature);
    admits(&verifier, "the one s", &format!("{signed}.{}", b64(&signature))).await;
    admits(&verifier, "the other s", &format!("{signed}.{}", b64(other))).await;
}

#[tokio::test]
async fn a_forged_token_is_invalid_whatever_its_claims_say() {
    let attacker = Signer::Secret([9; 64].to_vec());
    let table = vec![
        ("expired", attacker.token("HS256", &json!({"sub": "a", "exp": 1})), INVALID),
        (
            "not yet",
            attacker.token("HS256", &json!({"sub": "a", "nbf": NOW * 2, "exp": NOW * 3})),
            INVALID,
        ),
        ("no JSON", attacker.raw("HS256", r#"{"alg":"HS256"}"#, b"{"), INVALID),
    ];
    refuses(&hs256(), table).await;
}

#[tokio::test]
async fn claims_are_judged_after_the_signature() {
    let signed = |claims: Value| secret().token("HS256", &claims);
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        secret().token("HS256", &claims)
    };
    let table = vec![
        ("no exp", signed(json!({"sub": "alice"})), INVALID),
        ("exp as a string", with("exp", json!("1700000060")), INVALID),
        ("exp null", with("exp", json!(null)), INVALID),
        ("exp in an array", with("exp", json!([NOW + 60])), INVALID),
        ("exp negative", with("exp", json!(-1)), INVALID),
        ("exp past", with("exp", json!(NOW - 31)), Reason::Expired),
        ("exp at the end of the leeway", with("exp", json!(NOW - 30)), Reason::Expired),
        ("nbf in an hour", with("nbf", json!(NOW + 3600)), Reason::NotYetValid),
        ("nbf as a string", with("nbf", json!("1")), INVALID),
        ("iat as a string", with("iat", json!("1")), INVALID),
        ("aud without audience configured", with("aud", json!("chat")), INVALID),
        ("cnf", with("cnf", json!({"x5t#S256": "x"})), INVALID),
        ("token_use", with("token_use", json!("refresh")), INVALID),
        ("sub empty", with("sub", json!("")), INVALID),
        ("sub null", with("sub", json!(null)), INVALID),
        ("sub a list", with("sub", json!(["alice"])), INVALID),
        ("sub with outer space", with("sub", json!(" alice")), INVALID),
        ("sub with a newline", with("sub", json!("a\nb")), INVALID),
        ("sub too long", with("sub", json!("a".repeat(256))), INVALID),
        ("sub a fraction", with("sub", json!(1.5)), INVALID),
    ];
    refuses(&hs256(), table).await;
    admits(&hs256(), "exp within the leeway", &with("exp", json!(NOW - 29))).await;
    admits(&hs256(), "exp as a float", &with("exp", json!(NOW as f64 + 60.5))).await;
    admits(&hs256(), "nbf within the leeway", &with("nbf", json!(NOW + 30))).await;
    let integer = admits(&hs256(), "an integer as sub", &with("sub", json!(42))).await;
    assert_eq!(integer.subject(), "42");
}
