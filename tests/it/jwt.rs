//! JSON Web Tokens: forgeries at the gate, and the end of a live connection.

use std::time::{Duration, Instant};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use tempfile::TempDir;

use super::support::{
    Gate, Request, SECRET, Socket, Token, Upstream, canary, policy, token, unix_now,
};

const KEY: &[u8] = SECRET.as_bytes();

fn strict(upstream: &str) -> String {
    policy("credentials: [{ header: authorization, verifier: app }]", upstream).replace(
        "algorithms: [HS256]",
        "algorithms: [HS256], issuer: \"https://id.test\", audience: [chat], leeway: 0s",
    )
}

fn sound() -> Token {
    Token::of("alice").claim("iss", "https://id.test").claim("aud", "chat")
}

fn raw(payload: &str) -> String {
    Token::sign_raw(r#"{"alg":"HS256"}"#, payload, KEY)
}

fn payload(rest: &str) -> String {
    format!(
        r#"{{"sub":"alice","iss":"https://id.test","aud":"chat","exp":{}{rest}}}"#,
        unix_now() + 600
    )
}

#[test]
fn sound_tokens_are_admitted_under_their_subject() {
    let upstream = Upstream::start();
    let gate = Gate::start(&strict(&upstream.ws()));
    let cases = [
        ("alice", sound().sign()),
        ("alice", raw(&payload(""))),
        ("alice", sound().header("typ", "at+jwt").sign()),
        ("alice", sound().claim("aud", json!(["other", "chat"])).sign()),
        ("alice", sound().claim("exp", unix_now() as f64 + 600.5).sign()),
        ("alice", sound().claim("nbf", unix_now() - 5).claim("iat", unix_now()).sign()),
        ("42", sound().claim("sub", 42).sign()),
        ("Zoë", sound().claim("sub", "Zoë").sign()),
    ];
    for (subject, token) in cases {
        Request::upgrade("/ws/a").bearer(&token).open(gate.address()).echoes("hello");
        assert_eq!(upstream.last().header("x-forwarded-user"), Some(subject));
    }
}

#[test]
fn forged_and_malformed_tokens_are_refused_with_their_reason() {
    let upstream = Upstream::start();
    let gate = Gate::start(&strict(&upstream.ws()));
    let sound_token = sound().sign();
    let parts: Vec<&str> = sound_token.split('.').collect();
    let unsigned = |alg: serde_json::Value| {
        let header = json!({ "alg": alg }).to_string();
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), parts[1])
    };
    // The last character of a 32-byte signature carries two bits of nothing.
    let last = parts[2].chars().last().expect("a signature");
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let position = alphabet.find(last).expect("base64url");
    let twin = &alphabet[position + 1..position + 2];
    let noncanonical = format!("{}{twin}", &sound_token[..sound_token.len() - 1]);
    let cases = [
        ("no alg none", "invalid_credential", unsigned(json!("none"))),
        ("no alg NONE", "invalid_credential", unsigned(json!("NoNe"))),
        ("alg array", "", unsigned(json!(["HS256"]))),
        ("no alg", "", Token::sign_raw("{}", &payload(""), KEY)),
        ("empty signature", "", format!("{}.{}.", parts[0], parts[1])),
        ("another alg", "invalid_credential", sound().header("alg", "HS512").sign()),
        ("another key", "invalid_credential", sound().sign_with(&[7; 32])),
        ("an empty key", "invalid_credential", sound().sign_with(b"")),
        ("unknown crit", "invalid_credential", sound().header("crit", json!(["x"])).sign()),
        ("empty crit", "invalid_credential", sound().header("crit", json!([])).sign()),
        (
            "b64 false",
            "invalid_credential",
            sound().header("b64", false).header("crit", json!(["b64"])).sign(),
        ),
        ("a logout token", "invalid_credential", sound().header("typ", "logout+jwt").sign()),
        ("an event token", "invalid_credential", sound().header("typ", "secevent+jwt").sign()),
        ("our own assertion", "invalid_credential", sound().header("typ", "sockgate+jwt").sign()),
        ("a refresh token", "invalid_credential", sound().claim("typ", "refresh").sign()),
        ("a Refresh token", "invalid_credential", sound().claim("typ", "Refresh").sign()),
        ("token_use refresh", "invalid_credential", sound().claim("token_use", "refresh").sign()),
        ("no exp", "invalid_credential", sound().without("exp").sign()),
        ("exp text", "invalid_credential", sound().claim("exp", "9999999999").sign()),
        ("exp null", "invalid_credential", sound().claim("exp", json!(null)).sign()),
        (
            "exp array",
            "invalid_credential",
            sound().claim("exp", json!([9_999_999_999_u64])).sign(),
        ),
        (
            "exp huge",
            "",
            raw(r#"{"sub":"alice","iss":"https://id.test","aud":"chat","exp":1e400}"#),
        ),
        ("nbf text", "invalid_credential", sound().claim("nbf", "1").sign()),
        ("expired", "expired", sound().expires_in(-2).sign()),
        ("early", "not_yet_valid", sound().claim("nbf", unix_now() + 600).sign()),
        ("no iss", "invalid_credential", sound().without("iss").sign()),
        ("iss slash", "invalid_credential", sound().claim("iss", "https://id.test/").sign()),
        (
            "iss array",
            "invalid_credential",
            sound().claim("iss", json!(["https://id.test"])).sign(),
        ),
        ("no aud", "invalid_credential", sound().without("aud").sign()),
        ("aud prefix", "invalid_credential", sound().claim("aud", "chatter").sign()),
        ("aud number", "invalid_credential", sound().claim("aud", 7).sign()),
        ("duplicate claim", "", raw(&payload(r#","sub":"bob""#))),
        ("duplicate by escape", "", raw(&payload(r#","\u0073ub":"bob""#))),
        (
            "duplicate header",
            "",
            Token::sign_raw(r#"{"alg":"HS256","alg":"HS256"}"#, &payload(""), KEY),
        ),
        ("a BOM", "", raw(&format!("\u{feff}{}", payload("")))),
        ("trailing garbage", "", raw(&format!("{} x", payload("")))),
        ("an array", "", raw("[]")),
        ("deep", "", raw(&payload(&format!(r#","x":{}{}"#, "[".repeat(1500), "]".repeat(1500))))),
        ("no sub", "invalid_credential", sound().without("sub").sign()),
        ("empty sub", "invalid_credential", sound().claim("sub", "").sign()),
        ("sub with space", "invalid_credential", sound().claim("sub", " alice").sign()),
        ("sub with newline", "invalid_credential", sound().claim("sub", "a\r\nX-Admin: 1").sign()),
        ("sub array", "invalid_credential", sound().claim("sub", json!(["alice"])).sign()),
        ("sub too long", "invalid_credential", sound().claim("sub", "a".repeat(256)).sign()),
        ("padding", "", format!("{sound_token}=")),
        ("noncanonical bits", "", noncanonical),
        ("two parts", "", format!("{}.{}", parts[0], parts[1])),
        ("four parts", "", format!("{sound_token}.x")),
        ("five parts", "", format!("{sound_token}.x.y")),
        ("garbage", "", "x".to_owned()),
    ];
    assert!(!cases.is_empty());
    for (number, (name, reason, token)) in cases.into_iter().enumerate() {
        let path = format!("/ws/case-{number}");
        let closed = Request::upgrade(&path).bearer(&token).closed(gate.address());
        let code = if reason == "expired" { 4002 } else { 4001 };
        assert_eq!(closed.code, code, "{name}");
        let label = gate.reason(&path);
        if reason.is_empty() {
            let known = ["malformed_credential", "invalid_credential"].contains(&label.as_str());
            assert!(known, "{name}: {label}");
        } else {
            assert_eq!(label, reason, "{name}");
        }
    }
    upstream.saw_nothing();
}

#[test]
fn a_token_with_an_audience_needs_one_configured() {
    let upstream = Upstream::start();
    let gate = Gate::start(&policy(
        "credentials: [{ header: authorization, verifier: app }]",
        &upstream.ws(),
    ));
    let token = Token::of("alice").claim("aud", "chat").sign();
    let closed = Request::upgrade("/ws/a").bearer(&token).closed(gate.address());
    assert_eq!(closed.says(), (4001, "Unauthorized"));
    assert_eq!(gate.reason("/ws/a"), "invalid_credential");
}

#[test]
fn an_rsa_key_verifies_rs256_and_is_no_hmac_secret() {
    let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key");
    let spki = aws_lc_rs::signature::KeyPair::public_key(&pair).as_der().expect("DER");
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(spki.as_ref())
    );
    let directory = TempDir::new().expect("a directory");
    std::fs::write(directory.path().join("key.pem"), &pem).expect("written");
    let upstream = Upstream::start();
    let config = policy("credentials: [{ header: authorization, verifier: app }]", &upstream.ws())
        .replace(
            &format!("secret: {SECRET}, algorithms: [HS256]"),
            "public_key: key.pem, algorithms: [RS256]",
        );
    let gate = Gate::start_in(directory, &config, &[]);

    let claims = Token::of("alice").claims();
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#),
        URL_SAFE_NO_PAD.encode(&claims)
    );
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .expect("signed");
    let token = canary(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&signature)));
    Request::upgrade("/ws/a").bearer(&token).open(gate.address()).echoes("hello");

    for key in [pem.as_bytes(), pem.trim().as_bytes(), spki.as_ref(), b""] {
        let forged = Token::of("mallory").sign_with(key);
        let closed = Request::upgrade("/ws/forged").bearer(&forged).closed(gate.address());
        assert_eq!(closed.says(), (4001, "Unauthorized"));
    }
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn every_secret_of_a_rotation_verifies() {
    let upstream = Upstream::start();
    let next = canary("canary-next-secret-of-32-bytes-or-more");
    let config = policy("credentials: [{ header: authorization, verifier: app }]", &upstream.ws())
        .replace(&format!("secret: {SECRET}"), &format!("secret: [{SECRET}, {next}]"));
    let gate = Gate::start(&config);
    for key in [SECRET, &next] {
        let token = Token::of("alice").sign_with(key.as_bytes());
        Request::upgrade("/ws/a").bearer(&token).open(gate.address()).echoes("hello");
    }
}

fn living(lifetime: &str, leeway: &str, upstream: &Upstream) -> Gate {
    let config = policy(
        &format!("credentials: [{{ cookie: session, verifier: app }}], lifetime: {{ {lifetime} }}"),
        &upstream.ws(),
    )
    .replace("algorithms: [HS256]", &format!("algorithms: [HS256], leeway: {leeway}"));
    Gate::start(&config)
}

fn expiring(gate: &Gate, seconds: i64) -> (Socket, i64) {
    let at = unix_now() + seconds;
    let token = Token::of("alice").claim("exp", at).sign();
    let mut socket = Request::upgrade("/ws/a").cookie(&token).open(gate.address());
    socket.echoes("hello");
    (socket, at)
}

/// Waits for the close with 4002 and asserts that it came at `at`, not before.
fn closes_at(socket: Socket, at: i64, upstream: &Upstream) {
    assert_eq!(socket.closed().says(), (4002, "Session expired"));
    let now = unix_now();
    assert!((at..=at + 3).contains(&now), "closed at {now}, expected at {at}");
    assert_eq!(upstream.close(), Some(4002));
}

#[test]
fn an_expired_token_closes_the_open_connection_on_both_sides() {
    let upstream = Upstream::start();
    let gate = living("on_expiry: close", "0s", &upstream);
    let (socket, at) = expiring(&gate, 3);
    closes_at(socket, at, &upstream);
    let line = gate.line("of the close", |line| line["code"] == 4002);
    assert_eq!((&line["initiator"], &line["reason"]), (&json!("sockgate"), &json!("expired")));
}

#[test]
fn leeway_counts_for_the_live_connection_too() {
    let upstream = Upstream::start();
    let gate = living("on_expiry: close", "2s", &upstream);
    let (socket, at) = expiring(&gate, 1);
    closes_at(socket, at + 2, &upstream);
}

#[test]
fn grace_lets_a_connection_live_past_its_expiry() {
    let upstream = Upstream::start();
    let gate = living("grace: 2s", "0s", &upstream);
    let (socket, at) = expiring(&gate, 3);
    closes_at(socket, at + 2, &upstream);
}

#[test]
fn a_token_within_its_leeway_is_admitted_at_the_gate() {
    let upstream = Upstream::start();
    let gate = living("on_expiry: close", "30s", &upstream);
    expiring(&gate, -5).0.echoes("still");
}

#[test]
fn expiry_may_be_ignored() {
    let upstream = Upstream::start();
    let gate = living("on_expiry: ignore", "0s", &upstream);
    let (mut socket, at) = expiring(&gate, 3);
    super::support::eventually("the token has expired for two seconds", || unix_now() > at + 2);
    socket.echoes("still here");
    socket.finish();
}

#[test]
fn no_connection_outlives_the_maximum() {
    let upstream = Upstream::start();
    let gate = living("max: 1s, on_expiry: ignore", "0s", &upstream);
    let began = Instant::now();
    let mut socket = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    socket.echoes("hello");
    assert_eq!(socket.closed().says(), (4002, "Session expired"));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
