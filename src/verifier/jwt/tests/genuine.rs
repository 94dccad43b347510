//! Tokens that somebody real signed, and which key and verifier they find.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::super::super::occasion::Asked;
use super::super::super::{Chain, Credential, contract};
use super::super::Reason;
use super::sign::{Signer, b64};
use super::{
    INVALID, NOW, SECRET, admits, claims, hs256, judge, key_set, public, refuses, secret, verifier,
};
use crate::credential::Place;

#[tokio::test]
async fn jwt_passes_the_contract_of_verifiers() {
    for (signer, algorithm) in [
        (secret(), "HS256"),
        (Signer::rsa(), "RS256"),
        (Signer::p256(), "ES256"),
        (Signer::ed25519(), "EdDSA"),
    ] {
        let verifier = match &signer {
            Signer::Secret(_) => hs256(),
            public_key => public(public_key, &[algorithm]),
        };
        let other = Signer::Secret([7; 64].to_vec());
        contract::holds(contract::Sample {
            verifier,
            now: NOW,
            valid: signer.token(algorithm, &claims()).into_bytes(),
            subject: "alice",
            method: "jwt",
            wrong: other.token(algorithm, &claims()).into_bytes(),
            expired: Some(
                signer.token(algorithm, &json!({"sub": "canary", "exp": 1})).into_bytes(),
            ),
            without_subject: Some(signer.token(algorithm, &json!({"exp": NOW + 60})).into_bytes()),
        })
        .await;
    }
}

#[tokio::test]
async fn every_algorithm_verifies_and_no_other_passes_for_it() {
    let rsa = Signer::rsa();
    let (p256, p384, ed25519, secret) =
        (Signer::p256(), Signer::p384(), Signer::ed25519(), secret());
    let rows: [(&str, &Signer); 12] = [
        ("HS256", &secret),
        ("HS384", &secret),
        ("HS512", &secret),
        ("RS256", &rsa),
        ("RS384", &rsa),
        ("RS512", &rsa),
        ("PS256", &rsa),
        ("PS384", &rsa),
        ("PS512", &rsa),
        ("ES256", &p256),
        ("ES384", &p384),
        ("EdDSA", &ed25519),
    ];
    for (algorithm, signer) in rows {
        let verifier = match signer {
            Signer::Secret(_) => {
                verifier(json!({"secret": SECRET, "algorithms": [algorithm]}), Path::new("."))
            }
            public_key => public(public_key, &[algorithm]),
        };
        for (other, other_signer) in rows {
            let token = other_signer.token(other, &claims());
            let expected = if other == algorithm { None } else { Some(INVALID) };
            let got = judge(&verifier, token.as_bytes()).await.err();
            assert_eq!(got, expected, "{other} for {algorithm}");
            // The header of the one, the signature of the other.
            let header = format!(r#"{{"alg":"{algorithm}"}}"#);
            let mixed = other_signer.raw(other, &header, claims().to_string().as_bytes());
            let got = judge(&verifier, mixed.as_bytes()).await.err();
            assert_eq!(got, expected, "{algorithm} signed as {other}");
        }
    }
}

#[tokio::test]
async fn agrees_with_an_independent_library() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = encode(&Header::new(Algorithm::HS256), &claims(), &key).unwrap();
    assert_eq!(admits(&hs256(), "jsonwebtoken", &token).await.subject(), "alice");
}

#[tokio::test]
async fn issuer_audience_and_type_are_checked_as_configured() {
    let strict = verifier(
        json!({"secret": SECRET, "algorithms": ["HS256"], "issuer": "https://id.example",
               "audience": ["chat"], "typ": "at+jwt", "required_claims": ["exp", "iat"]}),
        Path::new("."),
    );
    let good = json!({"sub": "alice", "iss": "https://id.example", "aud": ["web", "chat"],
                      "iat": NOW - 5, "exp": NOW + 60});
    let token = |typ: &str, changes: Value| {
        let mut claims = good.clone();
        for (name, change) in changes.as_object().unwrap() {
            claims[name] = change.clone();
        }
        let header = json!({"alg": "HS256", "typ": typ}).to_string();
        secret().raw("HS256", &header, claims.to_string().as_bytes())
    };
    let table = vec![
        ("another type", token("JWT", json!({})), INVALID),
        (
            "no type",
            secret().raw("HS256", r#"{"alg":"HS256"}"#, good.to_string().as_bytes()),
            INVALID,
        ),
        ("another issuer", token("at+jwt", json!({"iss": "https://evil.example"})), INVALID),
        ("a slash more", token("at+jwt", json!({"iss": "https://id.example/"})), INVALID),
        ("issuer in an array", token("at+jwt", json!({"iss": ["https://id.example"]})), INVALID),
        ("another audience", token("at+jwt", json!({"aud": "web"})), INVALID),
        ("a prefix of the audience", token("at+jwt", json!({"aud": "cha"})), INVALID),
        ("the audience as a prefix", token("at+jwt", json!({"aud": "chats"})), INVALID),
        ("iat null", token("at+jwt", json!({"iat": null})), INVALID),
    ];
    refuses(&strict, table).await;
    admits(&strict, "as configured", &token("at+jwt", json!({}))).await;
    admits(&strict, "typ in full", &token("application/AT+jwt", json!({}))).await;
}

#[tokio::test]
async fn the_identity_holds_what_the_token_says() {
    let verifier = verifier(
        json!({"secret": SECRET, "algorithms": ["HS256"], "audience": "any", "leeway": "5s",
               "subject": "claims.org + \"/\" + claims.user.name"}),
        Path::new("."),
    );
    let claims = json!({"org": "acme", "user": {"name": "bob"}, "iss": "us", "aud": "you",
                        "sid": "s1", "jti": "t1", "iat": 12.5, "exp": NOW as f64 + 0.5});
    let identity = admits(&verifier, "all of it", &secret().token("HS256", &claims)).await;
    assert_eq!(identity.subject(), "acme/bob");
    assert_eq!(identity.method(), "jwt");
    assert_eq!(&**identity.verifier(), "app");
    assert_eq!(identity.issuer(), Some("us"));
    assert_eq!(identity.session(), Some("s1"));
    assert_eq!(identity.token_id(), Some("t1"));
    assert_eq!(identity.issued_at(), Some(12));
    // A fraction of a second is not taken away.
    assert_eq!(identity.expires(), Some(NOW + 1));
    assert_eq!(identity.deadline(), Some(NOW + 6));
    assert_eq!(Value::Object(identity.claims()), claims);
    let missing = secret().token("HS256", &json!({"org": "acme", "exp": NOW + 60}));
    refuses(&verifier, vec![("a missing claim", missing, INVALID)]).await;
}

#[tokio::test]
async fn every_secret_of_a_rotation_verifies() {
    let next = "next-secret-0123456789-0123456789";
    let jwt = json!({"secret": [next, SECRET], "algorithms": ["HS256"]});
    let verifier = verifier(jwt, Path::new("."));
    admits(&verifier, "the old one", &secret().token("HS256", &claims())).await;
    let new = Signer::Secret(next.as_bytes().to_vec());
    admits(&verifier, "the new one", &new.token("HS256", &claims())).await;
    // A key without a set has no id: one that the token names is no contradiction.
    let named = r#"{"alg":"HS256","kid":"2024-1"}"#;
    let token = new.raw("HS256", named, claims().to_string().as_bytes());
    admits(&verifier, "with a kid", &token).await;
}

#[tokio::test]
async fn a_key_id_picks_the_key_of_a_set() {
    let (one, two, rsa) = (Signer::p256(), Signer::p256(), Signer::rsa());
    let named = |signer: &Signer, id: &str| {
        let mut jwk = signer.jwk();
        jwk["kid"] = json!(id);
        jwk
    };
    let set = json!([named(&one, "one"), named(&two, "two"), named(&rsa, "rsa")]);
    let verifier = key_set(set, json!({})).unwrap().verifier;
    let token = |signer: &Signer, algorithm: &str, header: Value| {
        signer.raw(algorithm, &header.to_string(), claims().to_string().as_bytes())
    };
    let es = |signer: &Signer, id: &str| token(signer, "ES256", json!({"alg": "ES256", "kid": id}));
    admits(&verifier, "the first", &es(&one, "one")).await;
    admits(&verifier, "the second", &es(&two, "two")).await;
    let bare = json!({"alg": "ES256"});
    admits(&verifier, "the second without kid", &token(&two, "ES256", bare.clone())).await;
    let rs = json!({"alg": "PS384", "kid": "rsa"});
    admits(&verifier, "another kind", &token(&rsa, "PS384", rs)).await;
    refuses(
        &verifier,
        vec![
            ("the id of the other", es(&one, "two"), INVALID),
            ("an unknown id", es(&one, "three"), INVALID),
            ("a path", es(&one, "../../../../dev/null"), INVALID),
            ("an injection", es(&one, "one' OR '1'='1"), INVALID),
            ("the empty id", es(&one, ""), INVALID),
            ("the id of another kind", es(&one, "rsa"), INVALID),
            ("a stranger's key", token(&Signer::p256(), "ES256", bare), INVALID),
        ],
    )
    .await;
}

#[tokio::test]
async fn secrets_in_a_set_are_never_used() {
    let rsa = Signer::rsa();
    let mut oct = secret().jwk();
    oct["kid"] = json!("oct");
    let built = key_set(json!([oct, rsa.jwk()]), json!({})).unwrap();
    assert!(built.warnings[0].to_string().contains("keys[0] is left out: a shared secret"));
    let header = r#"{"alg":"HS256","kid":"oct"}"#;
    let token = secret().raw("HS256", header, claims().to_string().as_bytes());
    refuses(&built.verifier, vec![("oct", token, INVALID)]).await;
    let only = key_set(json!([oct]), json!({})).err().unwrap();
    assert!(only[0].starts_with("jwt.jwks_file: "), "{only:?}");
    assert!(only[0].contains("holds no key that can be used"), "{only:?}");
    assert!(!only[0].contains(&b64(SECRET)), "{only:?}");
}

#[tokio::test]
async fn a_key_without_id_does_not_serve_a_token_with_one() {
    let signer = Signer::ed25519();
    let verifier = key_set(json!([signer.jwk()]), json!({})).unwrap().verifier;
    let header = r#"{"alg":"EdDSA","kid":"x"}"#;
    let named = signer.raw("EdDSA", header, claims().to_string().as_bytes());
    refuses(&verifier, vec![("kid", named, INVALID)]).await;
    admits(&verifier, "no kid", &signer.token("EdDSA", &claims())).await;
}

#[tokio::test]
async fn a_chain_goes_by_three_parts_and_the_issuer() {
    let of = |issuer: &str| {
        verifier(
            json!({"secret": SECRET, "algorithms": ["HS256"], "issuer": issuer}),
            Path::new("."),
        )
    };
    let chain = Chain::new(vec![of("one"), of("two")]);
    let token = |issuer: Value| {
        secret().token("HS256", &json!({"sub": "alice", "exp": NOW + 60, "iss": issuer}))
    };
    let decides = |token: &str| {
        let credential = Credential { value: token.as_bytes(), basic: false };
        let position = chain.verifiers().iter().position(|one| one.recognises(&credential));
        (position, chain.decider(&credential).is_some())
    };
    assert_eq!(decides(&token(json!("one"))), (Some(0), true));
    assert_eq!(decides(&token(json!("two"))), (Some(1), true));
    for nobody in [
        token(json!("three")),
        token(json!(["one"])),
        token(json!("one/")),
        "opaque".to_owned(),
        "a.b.c".to_owned(),
        format!("{}.x", token(json!("one"))),
        "A".repeat(1 << 20),
    ] {
        assert_eq!(decides(&nobody), (None, false));
    }
}

#[tokio::test]
async fn the_work_for_one_token_is_bounded() {
    let signers: Vec<Signer> = (0..17).map(|_| Signer::ed25519()).collect();
    let set = json!(signers.iter().map(Signer::jwk).collect::<Vec<_>>());
    let built = key_set(set, json!({})).ok().unwrap();
    assert!(built.warnings[0].message.contains("tried against 16"), "{}", built.warnings[0]);
    admits(&built.verifier, "the 16th key", &signers[15].token("EdDSA", &claims())).await;
    let last = signers[16].token("EdDSA", &claims());
    refuses(&built.verifier, vec![("the 17th key", last, INVALID)]).await;
}

#[tokio::test]
async fn a_token_that_comes_again_is_judged_by_the_clock_again() {
    let claims = json!({"sub": "alice", "nbf": NOW, "exp": NOW as f64 + 60.5});
    let token = secret().token("HS256", &claims);
    let config = json!({"secret": SECRET, "algorithms": ["HS256"], "leeway": "30s"});
    let verifier = verifier(config, Path::new("."));
    let credential = Credential { value: token.as_bytes(), basic: false };
    let asked = Asked::default();
    let occasion = asked.with(Place::Message);
    let at = async |now| {
        verifier
            .verify(&credential, &occasion, now)
            .await
            .map(|_| ())
            .map_err(|error| error.reason())
    };
    for _ in 0..2 {
        // A refusal is not remembered, and an admission does not outlive its time.
        assert_eq!(at(NOW - 31).await, Err(Reason::NotYetValid));
        assert_eq!(at(NOW + 91).await, Err(Reason::Expired));
        assert_eq!(at(NOW - 30).await, Ok(()));
        assert_eq!(at(NOW + 90).await, Ok(()));
    }
}

#[tokio::test]
async fn a_token_that_comes_again_is_the_same_identity_and_a_forged_one_is_not() {
    let verifier = hs256();
    let token = secret().token("HS256", &claims());
    let first = admits(&verifier, "the first time", &token).await;
    let second = admits(&verifier, "the second time", &token).await;
    assert!(Arc::ptr_eq(&first, &second));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let other = secret().token("HS256", &json!({"sub": "bob", "exp": NOW + 60}));
    let (other_signed, other_signature) = other.rsplit_once('.').unwrap();
    for forged in [format!("{other_signed}.{signature}"), format!("{signed}.{other_signature}")] {
        assert_eq!(judge(&verifier, forged.as_bytes()).await.err(), Some(INVALID));
    }
}

#[tokio::test]
async fn what_one_verifier_remembers_no_other_knows() {
    let token = secret().token("HS256", &claims());
    admits(&hs256(), "under its secret", &token).await;
    let after_a_reload = json!({"secret": "x".repeat(64), "algorithms": ["HS256"]});
    let after_a_reload = verifier(after_a_reload, Path::new("."));
    assert_eq!(judge(&after_a_reload, token.as_bytes()).await.err(), Some(INVALID));
    let stricter = json!({"secret": SECRET, "algorithms": ["HS256"], "issuer": "https://a"});
    let stricter = verifier(stricter, Path::new("."));
    assert_eq!(judge(&stricter, token.as_bytes()).await.err(), Some(INVALID));
}

#[tokio::test]
async fn a_header_that_is_remembered_says_nothing_about_another() {
    let verifier = hs256();
    let raw = |header: &str, sub: &str| {
        let claims = json!({"sub": sub, "exp": NOW + 60}).to_string();
        secret().raw("HS256", header, claims.as_bytes())
    };
    let plain = r#"{"alg":"HS256"}"#;
    admits(&verifier, "the first of its header", &raw(plain, "alice")).await;
    admits(&verifier, "the second", &raw(plain, "bob")).await;
    for header in
        [r#"{"alg":"none"}"#, r#"{"alg":"HS384"}"#, r#"{"alg":"HS256","typ":"logout+jwt"}"#]
    {
        let refused = judge(&verifier, raw(header, "carol").as_bytes()).await.err();
        assert_eq!(refused, Some(INVALID), "{header}");
    }
    admits(&verifier, "another header", &raw(r#"{"alg":"HS256","typ":"JWT"}"#, "dan")).await;
    admits(&verifier, "the first header again", &raw(plain, "eve")).await;
}

#[tokio::test]
async fn a_token_for_one_certificate_is_good_beside_it_alone_however_often_it_comes() {
    let thumbprint = b64(digest(&SHA256, b"of ada").as_ref());
    let mut claims = claims();
    claims["cnf"] = json!({ "x5t#S256": thumbprint });
    let token = secret().token("HS256", &claims);
    let verifier = hs256();
    let credential = Credential { value: token.as_bytes(), basic: false };
    let beside = async |certificate: Option<&[u8]>| {
        let asked = Asked { certificate: certificate.map(Arc::from), ..Asked::default() };
        let judged = verifier.verify(&credential, &asked.with(Place::Message), NOW).await;
        judged.map(|_| ()).map_err(|error| error.reason())
    };
    for _ in 0..2 {
        assert_eq!(beside(None).await, Err(INVALID));
        assert_eq!(beside(Some(b"of ada")).await, Ok(()));
        assert_eq!(beside(Some(b"of eve")).await, Err(INVALID));
    }
}
