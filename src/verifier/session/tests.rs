//! Of what the file says, and of what a session comes to; real stores are asked
//! in `tests/it`.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::store::{Fetching, Record};
use super::*;
use crate::verifier::contract::{self, Sample};
use crate::verifier::occasion::Asked;

const NOW: UnixSeconds = 1_700_000_000;

fn built(config: Value) -> Result<Arc<dyn Verifier>, Vec<String>> {
    let config: SessionConfig = serde_json::from_value(config).unwrap();
    match build("sessions", &config, Path::new("/nowhere")) {
        Ok(built) => Ok(built.verifier),
        Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
    }
}

/// A cookie as Flask makes it.
fn flask(secret: &str, at: i64, session: &Value) -> Vec<u8> {
    let sha1 = hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
    let derived = hmac::sign(&hmac::Key::new(sha1, secret.as_bytes()), b"cookie-session");
    let key = hmac::Key::new(sha1, derived.as_ref());
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let time = encode(&u32::try_from(at).unwrap().to_be_bytes());
    let signed = format!("{}.{time}", encode(session.to_string().as_bytes()));
    let signature = encode(hmac::sign(&key, signed.as_bytes()).as_ref());
    format!("{signed}.{signature}").into_bytes()
}

#[tokio::test]
async fn sessions_in_a_cookie_pass_the_contract_of_verifiers() {
    let verifier = built(json!({
        "store": "cookie",
        "cookie_format": { "format": "flask", "secrets": ["canary-new", "canary-old"], "max_age": "10m" },
        "subject": "value.user_id",
    }));
    let alice = json!({ "user_id": "alice" });
    contract::holds(Sample {
        verifier: verifier.unwrap(),
        now: NOW,
        valid: flask("canary-old", NOW - 599, &alice),
        subject: "alice",
        method: "session",
        wrong: flask("canary-other", NOW, &alice),
        expired: Some(flask("canary-old", NOW - 600, &alice)),
        without_subject: Some(flask("canary-new", NOW, &json!({ "user": "alice" }))),
    })
    .await;
}

/// A store that has what a test says.
struct Known(HashMap<&'static str, (Value, Option<UnixSeconds>)>);

impl Store for Known {
    fn fetch<'a>(&'a self, key: &'a str, _: UnixSeconds) -> Fetching<'a> {
        let found = self.0.get(key).cloned();
        Box::pin(async move {
            let bytes = vec!["raw".to_owned()];
            Ok(found.map(|(value, ends)| Record { id: None, value, bytes, ends }))
        })
    }
}

fn stored(
    key: &str,
    ends: Ends,
    records: impl IntoIterator<Item = (&'static str, Value, Option<UnixSeconds>)>,
) -> Arc<dyn Verifier> {
    let records = records.into_iter().map(|(key, value, ends)| (key, (value, ends)));
    let stored = Stored {
        signature: None,
        key: Expression::compile(key, &["credential"]).unwrap(),
        store: Arc::new(Known(records.collect())),
        lookups: Lookups::new(Duration::from_secs(3), Duration::ZERO),
        unending: Arc::default(),
        degraded: Arc::default(),
    };
    let subject = Expression::compile("value.user", &["value"]).unwrap();
    let rules = Arc::new(Rules { verifier: "sessions".into(), subject, ends });
    Arc::new(Session { name: "sessions".into(), source: Source::Stored(Box::new(stored)), rules })
}

#[tokio::test]
async fn stored_sessions_pass_the_contract_of_verifiers() {
    let user = |name: &str| json!({ "user": name });
    let records = [
        ("sess:canary-good", user("alice"), Some(NOW + 9)),
        ("sess:canary-old", user("alice"), Some(NOW)),
        ("sess:canary-nobody", json!({ "user": null }), Some(NOW + 9)),
        ("sess:canary-text", json!("alice"), Some(NOW + 9)),
    ];
    contract::holds(Sample {
        verifier: stored("'sess:' + credential", Ends::ByItself, records),
        now: NOW,
        valid: b"canary-good".to_vec(),
        subject: "alice",
        method: "session",
        wrong: b"canary-text".to_vec(),
        expired: Some(b"canary-old".to_vec()),
        without_subject: Some(b"canary-nobody".to_vec()),
    })
    .await;
}

async fn judged(verifier: &dyn Verifier, id: &str) -> Result<Arc<Identity>, Reason> {
    let asked = Asked::default();
    let credential = Credential { value: id.as_bytes(), basic: false };
    let judged = verifier.verify(&credential, &asked.with(Place::Cookie("session")), NOW).await;
    judged.map_err(VerifyError::reason)
}

#[tokio::test]
async fn the_end_is_what_the_expression_says_and_its_absence_refuses() {
    let at = |expression: &str| Ends::At(Expression::compile(expression, &["value"]).unwrap());
    let record = |ends: Value| json!({ "user": 7, "ends": ends });
    let verifier = stored(
        "credential",
        at("value.ends"),
        [
            ("later", record(json!("2030-01-01 00:00:00")), Some(NOW - 1)),
            ("past", record(json!(NOW)), None),
            ("null", record(Value::Null), None),
            ("odd", record(json!("tomorrow")), None),
            ("none", json!({ "user": 7 }), None),
        ],
    );
    let later = judged(&*verifier, "later").await.ok().unwrap();
    assert_eq!((later.subject(), later.expires()), ("7", Some(1_893_456_000)));
    assert_eq!(judged(&*verifier, "past").await.err(), Some(Reason::Expired));
    for id in ["null", "odd", "none"] {
        assert_eq!(judged(&*verifier, id).await.err(), Some(Reason::InvalidCredential), "{id}");
    }
    let never = stored("credential", Ends::Never, [("a", json!({ "user": 7 }), Some(NOW - 1))]);
    assert_eq!(judged(&*never, "a").await.ok().unwrap().expires(), None);
}

#[tokio::test]
async fn bytes_are_no_time_however_their_digits_read_and_claims_all_the_same() {
    let ends = |written| Ends::At(Expression::compile(written, &["value"]).unwrap());
    let record = || [("a", json!({ "user": "alice", "raw": "3333333333" }), None)];
    for written in ["value.raw", "value['raw']", "value.raw + ''"] {
        let verifier = stored("credential", ends(written), record());
        assert_eq!(judged(&*verifier, "a").await.err(), Some(Reason::InvalidCredential));
    }
    let verifier = stored("credential", ends("3333333333"), record());
    let identity = judged(&*verifier, "a").await.ok().unwrap();
    assert!(identity.claims()["raw"] == "3333333333");
}

#[tokio::test]
async fn an_identity_has_the_id_as_its_session_and_the_record_as_its_claims() {
    let record = json!({ "user": "alice", "roles": ["a"], "n": 9_007_199_254_740_993_i64 });
    let verifier =
        stored("sha256('x' + credential)", Ends::ByItself, [("unused", Value::Null, None)]);
    assert_eq!(judged(&*verifier, "a").await.err(), Some(Reason::InvalidCredential));
    let verifier = stored("'s:' + credential", Ends::ByItself, [("s:a", record, Some(NOW + 5))]);
    let identity = judged(&*verifier, "a").await.ok().unwrap();
    assert_eq!(identity.session(), Some("a"));
    assert_eq!(identity.expires(), Some(NOW + 5));
    assert_eq!(identity.claims()["n"], 9_007_199_254_740_993_i64);
    assert_eq!(identity.claims()["roles"][0], "a");
}

#[tokio::test]
async fn a_session_that_its_store_never_forgets_is_none_unless_that_is_written() {
    let records = || [("a", json!({ "user": 7 }), None)];
    let verifier = stored("credential", Ends::ByItself, records());
    let (telemetry, lines) = contract::telemetry();
    verifier.start(&telemetry);
    for _ in 0..3 {
        assert_eq!(judged(&*verifier, "a").await.err(), Some(Reason::InvalidCredential));
        assert_eq!(judged(&*verifier, "b").await.err(), Some(Reason::InvalidCredential));
    }
    telemetry.log.flush();
    let said = lines.text();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("no time to live") && said.contains("sessions"), "{said}");
    assert!(judged(&*stored("credential", Ends::Never, records()), "a").await.is_ok());
}

#[tokio::test]
async fn a_cookie_from_the_future_is_refused_where_its_framework_refuses_it() {
    let flask_app = built(json!({
        "store": "cookie",
        "cookie_format": { "format": "flask", "secrets": "k" },
        "subject": "value.id",
        "expires": "never",
    }));
    let flask_app = flask_app.unwrap();
    for (at, expected) in [(NOW, None), (NOW + 1, Some(Reason::NotYetValid))] {
        let cookie = String::from_utf8(flask("k", at, &json!({ "id": 7 }))).unwrap();
        assert_eq!(judged(&*flask_app, &cookie).await.err(), expected);
    }
    // Made by Django 5.2 at this very second; Django asks only whether it is too old.
    let cookie = "eyJfYXV0aF91c2VyX2lkIjoiNyIsIm4iOjF9:1r31eq:\
                  TyeG_4vkdP9v5rlBAlrUzX1zzMney4Ja750IQOWqGIE";
    let django = built(json!({
        "store": "cookie",
        "cookie_format": { "format": "django", "secrets": "canary-django" },
        "subject": "value._auth_user_id",
    }));
    let asked = Asked::default();
    let credential = Credential { value: cookie.as_bytes(), basic: false };
    let place = asked.with(Place::Cookie("session"));
    assert!(django.unwrap().verify(&credential, &place, NOW - 60).await.is_ok());
}

#[tokio::test]
async fn cookie_session_is_two_cookies_of_one_name() {
    let verifier = built(json!({
        "store": "cookie",
        "cookie_format": { "format": "express", "secrets": "k1" },
        "subject": "value.user.id",
        "expires": "never",
    }));
    let verifier = verifier.unwrap();
    assert!(verifier.wants_signature_cookie());
    let cookie = "eyJ1c2VyIjp7ImlkIjo3fX0=\nR4UcR2MUUPPWdjepIFgi4UST-qY";
    assert_eq!(judged(&*verifier, cookie).await.ok().unwrap().subject(), "7");
    let asked = Asked::default();
    let credential = Credential { value: cookie.as_bytes(), basic: false };
    for place in [Place::Cookie("other"), Place::Message, Place::Query("session")] {
        assert!(verifier.verify(&credential, &asked.with(place), NOW).await.is_err());
    }
}

#[test]
fn what_does_not_go_together_is_refused_with_what_would() {
    let cases = [
        (json!({ "store": "mysql://h/db" }), "store: expected redis://"),
        (json!({ "store": "redis://h:x/" }), "store: the port of the URL"),
        (json!({ "store": "sqlite:" }), "store: expected the file"),
        (json!({ "store": "redis://h", "query": "SELECT $1" }), "query: is SQL"),
        (json!({ "store": "redis://h" }), "subject: is missing"),
        (json!({ "store": "sqlite:a.db", "expires": "never" }), "query: is missing"),
        (json!({ "store": "sqlite:a.db", "query": "SELECT 1", "expires": "never" }), "must use $1"),
        (json!({ "store": "sqlite:a.db", "query": "SELECT $1" }), "expires: is missing"),
        (
            json!({ "store": "sqlite:a.db", "query": "SELECT $1", "value": "hash" }),
            "value: a query gives rows",
        ),
        (json!({ "store": "sqlite:a.db", "query": "SELECT $1", "ca": "x" }), "ca: has no effect"),
        (
            json!({ "store": "postgres://h/db", "query": "SELECT $1" }),
            "store: the URL names no user",
        ),
        (json!({ "store": "redis://h", "ca": "ca.pem" }), "store: `ca` has no effect without TLS"),
        (
            json!({ "store": "redis://h", "cookie_format": { "format": "flask" } }),
            "cookie_format: is for sessions that the cookie itself holds",
        ),
        (json!({ "store": "cookie" }), "cookie_format: is missing"),
        (
            json!({ "store": "cookie", "cookie_format": { "format": "flask" } }),
            "cookie_format.secrets: needs the application's secret",
        ),
        (
            json!({ "store": "cookie", "cookie_format": { "format": "flask", "secrets": [""] } }),
            "cookie_format.secrets: the secret is empty",
        ),
        (
            json!({ "store": "cookie", "cookie_format": { "format": "express", "secrets": "k" } }),
            "expires: is missing: cookie-session",
        ),
        (
            json!({ "store": "cookie",
                    "cookie_format": { "format": "express", "secrets": "k", "max_age": "1h" } }),
            "cookie_format.max_age: has no effect with express",
        ),
        (
            json!({ "store": "cookie", "value": "json",
                    "cookie_format": { "format": "flask", "secrets": "k" } }),
            "value: has no effect",
        ),
        (
            json!({ "store": "cookie", "key": "'a' + credential",
                    "cookie_format": { "format": "flask", "secrets": "k" } }),
            "key: has no effect",
        ),
        (json!({ "store": "redis://h", "key": "credentail" }), "key: unknown variable"),
        (json!({ "store": "redis://h", "timeout": "0" }), "timeout: must be more than 0"),
        (
            json!({ "store": "redis://h", "cookie_signature": { "format": "express", "secrets": [] } }),
            "cookie_signature.secrets: needs",
        ),
    ];
    for (config, expected) in cases {
        let problems = built(config.clone()).err().unwrap_or_default();
        assert!(problems.iter().any(|one| one.contains(expected)), "{config}: {problems:?}");
    }
}

#[test]
fn words_of_the_file_are_read_and_bare_django_is_told_what_it_lacks() {
    let value = |value: Value| {
        let config = json!({ "store": "redis://h", "value": value });
        serde_json::from_value::<SessionConfig>(config).map(|_| ()).map_err(|e| e.to_string())
    };
    for good in [json!("json"), json!("string"), json!("hash"), json!({"django": {"secrets": "x"}})]
    {
        assert_eq!(value(good), Ok(()));
    }
    assert!(value(json!("django")).unwrap_err().contains("{django: {secrets: …}}"));
    assert!(value(json!("pickle")).unwrap_err().contains("json, string, hash"));
    assert!(value(json!({"django": {}})).unwrap_err().contains("secrets"));
}

#[test]
fn of_a_store_only_the_kind_is_shown_but_for_a_file() {
    let shown = |store: Value| {
        let config = json!({ "store": store, "subject": "value.id" });
        let config: SessionConfig = serde_json::from_value(config).unwrap();
        let text = serde_json::to_value(&config).unwrap()["store"].to_string();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!text.contains("hunter2"), "{text}");
        text
    };
    assert_eq!(shown(json!("redis://:hunter2@h/0")), r#""redis:********""#);
    assert_eq!(shown(json!("postgres://h/db?password=hunter2")), r#""postgres:********""#);
    assert_eq!(shown(json!("unix:/r?password=hunter2")), r#""unix:********""#);
    assert_eq!(shown(json!("hunter2")), r#""********""#);
    assert_eq!(shown(json!("sqlite:app.db")), r#""sqlite:app.db""#);
    assert_eq!(shown(json!("cookie")), r#""cookie""#);
    assert_eq!(shown(json!({ "env": "STORE" })), r#"{"env":"STORE"}"#);
}

#[test]
fn the_database_is_no_file_whose_change_is_a_reload() {
    let config: SessionConfig = serde_json::from_value(json!({
        "store": { "file": "store.url" },
        "value": { "django": { "secrets": [{ "file": "django.key" }] } },
        "cookie_signature": { "format": "express", "secrets": { "file": "express.key" } },
        "ca": "ca.pem",
    }))
    .unwrap();
    let files: Vec<_> = config.files().map(|file| file.display().to_string()).collect();
    assert_eq!(files, ["store.url", "django.key", "express.key", "ca.pem"]);
    let config: SessionConfig =
        serde_json::from_value(json!({ "store": "sqlite:app.db" })).unwrap();
    assert_eq!(config.files().count(), 0);
}

#[test]
fn a_key_of_redis_without_a_prefix_deserves_a_look() {
    let warns = |value: &str, key: &str| {
        let written = json!({ "store": "redis://h", "value": value, "key": key, "subject": "'a'" });
        let config = serde_json::from_value(written).unwrap();
        !build("sessions", &config, Path::new("/")).ok().unwrap().warnings.is_empty()
    };
    assert!(warns("string", "credential"));
    assert!(warns("hash", " credential "));
    assert!(!warns("hash", "'sess:' + credential"));
    assert!(!warns("json", "credential"));
}
