//! What a configuration must say.

use serde_json::{Value, json};

use super::sign::Signer;
use super::{SECRET, built};

#[test]
fn what_is_wrong_with_a_configuration_is_said_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("rsa.pem", &Signer::rsa().pem());
    write("p256.pem", &Signer::p256().pem());
    write("short", "canary-short\n");
    write("empty", "\n");
    write("jwks.json", &json!({"keys": [Signer::rsa().jwk()]}).to_string());
    write("none.json", r#"{"keys": []}"#);
    let hs = |rest: Value| {
        let mut jwt = json!({"secret": SECRET, "algorithms": ["HS256"]});
        for (name, value) in rest.as_object().unwrap() {
            jwt[name] = value.clone();
        }
        jwt
    };
    let discovered = |rest: Value| {
        let mut jwt = json!({"issuer": "https://id.example", "audience": "any"});
        for (name, value) in rest.as_object().unwrap() {
            jwt[name] = value.clone();
        }
        jwt
    };
    let published = |url: &str| json!({"jwks_url": url, "audience": "any"});
    let cases = [
        (json!({}), "jwt: needs a key source"),
        (json!({"issuer": ""}), "jwt.issuer: must not be empty"),
        (hs(json!({"jwks_url": "https://id.example/keys"})), "jwt: has more than one of"),
        (json!({"issuer": "https://id.example"}), "jwt.audience: is required with published keys"),
        (json!({"jwks_url": "https://id.example/k"}), "jwt.audience: is required with published"),
        (discovered(json!({"issuer": "id.example"})), "jwt.issuer: without a key source its keys"),
        (discovered(json!({"issuer": "http://id.example"})), "https://, or set `allow_http: true`"),
        (discovered(json!({"issuer": "https://a:canary@id.example"})), "without user name and"),
        (discovered(json!({"issuer": "https://id.example/?canary"})), "without user name and"),
        (discovered(json!({"algorithms": ["RS256", "HS256"]})), "jwt.algorithms[1]: HS256 needs"),
        (discovered(json!({"timeout": "0"})), "jwt.timeout: must be more than 0"),
        (discovered(json!({"refresh": "0"})), "jwt.refresh: must be 1s to 1h"),
        (discovered(json!({"refresh": "61m"})), "jwt.refresh: must be 1s to 1h"),
        (discovered(json!({"ca": "missing.pem"})), "jwt.ca: cannot read"),
        (discovered(json!({"ca": "empty"})), "jwt.ca: "),
        (discovered(json!({"audience": []})), "jwt.audience: must name an audience"),
        (published("http://id.example/keys"), "jwt.jwks_url: plain HTTP to another machine"),
        (published("canary"), "jwt.jwks_url: expected a URL such as"),
        (published(""), "jwt.jwks_url: the secret is empty"),
        (hs(json!({"public_key": "rsa.pem"})), "jwt: has more than one of"),
        (hs(json!({"jwks_file": "jwks.json"})), "jwt: has more than one of"),
        (
            json!({"secret": SECRET}),
            "jwt.algorithms: must be written out with a secret, e.g. [HS256]",
        ),
        (
            json!({"public_key": "rsa.pem"}),
            "jwt.algorithms: must be written out with an RSA key, e.g. [RS256]",
        ),
        (
            hs(json!({"algorithms": ["HS256", "RS256"]})),
            "jwt.algorithms[1]: RS256 needs an RSA key",
        ),
        (hs(json!({"algorithms": ["EdDSA"]})), "jwt.algorithms[0]: EdDSA needs an Ed25519 key"),
        (
            json!({"public_key": "rsa.pem", "algorithms": ["HS256"]}),
            "jwt.algorithms[0]: HS256 needs a secret",
        ),
        (
            json!({"public_key": "p256.pem", "algorithms": ["ES384"]}),
            "jwt.algorithms[0]: ES384 needs a P-384 key",
        ),
        (
            json!({"public_key": "rsa.pem", "algorithms": ["RS256", "ES256"]}),
            "jwt.algorithms[1]: ES256",
        ),
        (
            json!({"jwks_file": "jwks.json", "algorithms": ["RS256", "HS256"]}),
            "jwt.algorithms[1]: HS256",
        ),
        (
            json!({"jwks_file": "jwks.json", "algorithms": ["ES256"]}),
            "holds no key that can be used: keys[0]",
        ),
        (json!({"jwks_file": "none.json"}), "holds no key that can be used"),
        (json!({"jwks_file": "rsa.pem"}), "is not a JSON Web Key Set"),
        (json!({"jwks_file": "missing.json"}), "jwt.jwks_file: cannot read"),
        (
            json!({"public_key": "missing.pem", "algorithms": ["RS256"]}),
            "jwt.public_key: cannot read",
        ),
        (json!({"public_key": "jwks.json", "algorithms": ["RS256"]}), "is not a PEM file"),
        (hs(json!({"secret": "canary-short"})), "jwt.secret: HS256 needs at least 32 bytes"),
        (hs(json!({"secret": {"file": "short"}})), "jwt.secret: HS256 needs at least 32 bytes"),
        (hs(json!({"secret": [SECRET, "canary-short"]})), "jwt.secret[1]: HS256 needs at least 32"),
        (hs(json!({"secret": SECRET[..47], "algorithms": ["HS384"]})), "HS384 needs at least 48"),
        (hs(json!({"secret": SECRET[..63], "algorithms": ["HS512"]})), "HS512 needs at least 64"),
        (hs(json!({"secret": ""})), "jwt.secret: the secret is empty"),
        (hs(json!({"secret": {"file": "empty"}})), "jwt.secret: the secret is empty"),
        (hs(json!({"secret": {"env": "SOCKGATE_TEST_SURELY_UNSET"}})), "is not set"),
        (hs(json!({"secret": []})), "jwt.secret: must be one secret"),
        (hs(json!({"leeway": "301s"})), "jwt.leeway: must be at most 5m"),
        (hs(json!({"issuer": ""})), "jwt.issuer: must not be empty"),
        (hs(json!({"audience": []})), "jwt.audience: must name an audience"),
        (hs(json!({"audience": ["any", "chat"]})), "jwt.audience: `any` stands alone"),
        (hs(json!({"typ": ["logout+jwt"]})), "jwt.typ: logout+jwt is for another use"),
        (hs(json!({"required_claims": [""]})), "jwt.required_claims: the name of a claim"),
        (hs(json!({"subject": "claims."})), "jwt.subject: "),
        (hs(json!({"subject": "claim.sub"})), "jwt.subject: "),
        (hs(json!({"subject": ""})), "jwt.subject: "),
    ];
    for (jwt, expected) in cases {
        let problems = built(jwt.clone(), dir.path()).err().unwrap_or_else(|| panic!("{jwt}"));
        assert_eq!(problems.len(), 1, "{jwt}: {problems:?}");
        assert!(problems[0].contains(expected), "{jwt}: {problems:?}");
        assert!(!problems[0].contains("canary"), "{problems:?}");
    }
    let several = hs(json!({"secret": "canary-short", "leeway": "1h", "subject": "("}));
    assert_eq!(built(several, dir.path()).err().unwrap().len(), 3);
}

#[test]
fn a_good_configuration_names_its_files_and_what_deserves_a_look() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), SECRET).unwrap();
    let jwt = json!({"secret": {"file": "secret"}, "algorithms": ["HS512"], "leeway": "5m",
                     "required_claims": []});
    let built = built(jwt, dir.path()).ok().unwrap();
    assert_eq!(built.files, [dir.path().join("secret")]);
    assert_eq!(built.warnings.len(), 1);
    assert!(built.warnings[0].to_string().starts_with("jwt.required_claims: without exp"));
}

#[test]
fn what_concerns_fetching_has_no_effect_on_keys_at_hand() {
    let jwt = json!({"secret": SECRET, "algorithms": ["HS256"], "allow_http": true, "ca": "x"});
    let built = built(jwt, ".".as_ref()).ok().unwrap();
    let warnings: Vec<String> = built.warnings.iter().map(ToString::to_string).collect();
    let message = "has no effect: the keys of this verifier are not fetched";
    assert_eq!(warnings, [format!("jwt.ca: {message}"), format!("jwt.allow_http: {message}")]);
}

#[test]
fn the_files_of_fetched_keys_are_watched_and_nothing_is_asked_yet() {
    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.path().join("ca.pem"), pair.cert.pem()).unwrap();
    std::fs::write(dir.path().join("url"), "https://a:canary@id.example/keys\n").unwrap();
    let jwt = json!({"jwks_url": {"file": "url"}, "audience": "any", "ca": "ca.pem"});
    let built = built(jwt, dir.path()).ok().unwrap();
    assert_eq!(built.files, ["ca.pem", "url"].map(|name| dir.path().join(name)));
    assert!(built.verifier.is_degraded() && built.verifier.asks());
    assert!(built.warnings[0].to_string().starts_with("jwt.issuer: is not checked"));
}
