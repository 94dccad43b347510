//! Keys that are fetched, from a place that the test has in hand, in time that the
//! test moves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::super::remote::{Asking, KeyPlace, KeysError, Remote};
use super::super::schedule::Cause;
use super::super::{Jwt, Source, build};
use super::sign::Signer;
use super::{NOW, claims};
use crate::close::Reason;
use crate::credential::Place;
use crate::fetch::FetchError;
use crate::telemetry::Telemetry;
use crate::verifier::contract::{Lines, telemetry};
use crate::verifier::occasion::Asked;
use crate::verifier::{
    Credential, JwtConfig, SignatureAlgorithm, Unavailable, Verifier, VerifyError, contract,
};

const REFRESH: Duration = Duration::from_secs(600);

/// What an issuer does when asked.
#[derive(Clone)]
enum Does {
    Answers(Value),
    Says(&'static str),
    Fails,
    Hangs,
}

#[derive(Default)]
struct Issuer {
    does: Mutex<VecDeque<Does>>,
    asked: Mutex<Vec<Cause>>,
    go_on: Notify,
}

impl Issuer {
    /// From now on it does `does`; the last of it for ever.
    fn does(&self, does: impl IntoIterator<Item = Does>) {
        *self.does.lock().unwrap() = does.into_iter().collect();
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

struct At(Arc<Issuer>);

impl KeyPlace for At {
    fn ask(&self, cause: Cause) -> Asking<'_> {
        self.0.asked.lock().unwrap().push(cause);
        let mut queue = self.0.does.lock().unwrap();
        let does = if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() };
        let failed = || KeysError::Fetch { what: "the key set", error: FetchError::Connect };
        Box::pin(async move {
            match does.unwrap() {
                Does::Answers(keys) => Ok(json!({ "keys": keys }).to_string()),
                Does::Says(text) => Ok(text.to_owned()),
                Does::Fails => Err(failed()),
                Does::Hangs => {
                    self.0.go_on.notified().await;
                    Err(failed())
                }
            }
        })
    }

    fn url(&self) -> &str {
        "https://id.example"
    }
}

/// A verifier of an issuer's keys, and what it says about itself.
struct Gate {
    verifier: Arc<dyn Verifier>,
    issuer: Arc<Issuer>,
    telemetry: Arc<Telemetry>,
    lines: Lines,
}

impl Gate {
    fn new(does: impl IntoIterator<Item = Does>) -> Gate {
        Gate::with(vec![], does)
    }

    fn with(algorithms: Vec<SignatureAlgorithm>, does: impl IntoIterator<Item = Does>) -> Gate {
        let issuer = Arc::new(Issuer::default());
        issuer.does(does);
        let config: JwtConfig =
            serde_json::from_value(json!({"issuer": "https://x", "audience": "any"})).unwrap();
        let (telemetry, lines) = telemetry();
        let place = Box::new(At(Arc::clone(&issuer)));
        let remote = Remote::new("app".into(), place, algorithms, REFRESH, Duration::from_secs(3));
        let jwt: Jwt = build::for_tests("app", &config, Source::Remote(remote));
        Gate { verifier: Arc::new(jwt), issuer, telemetry, lines }
    }

    /// One that has asked its issuer once.
    async fn started(does: impl IntoIterator<Item = Does>) -> Gate {
        let gate = Gate::new(does);
        gate.verifier.start(&gate.telemetry);
        gate.pass(Duration::from_millis(1)).await;
        gate
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn judge(&self, token: &str) -> Result<String, VerifyError> {
        let credential = Credential { value: token.as_bytes(), basic: false };
        let asked = Asked::default();
        let occasion = asked.with(Place::Message);
        let identity = self.verifier.verify(&credential, &occasion, NOW).await?;
        Ok(identity.subject().to_owned())
    }

    fn log(&self) -> Vec<String> {
        self.telemetry.log.flush();
        self.lines.text().lines().map(str::to_owned).collect()
    }

    fn refreshes(&self, outcome: &str) -> u64 {
        let text = self.telemetry.metrics.render().unwrap();
        let name =
            format!("sockgate_key_refreshes_total{{outcome=\"{outcome}\",verifier=\"app\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    }
}

fn jwk(signer: &Signer, kid: &str) -> Value {
    let mut jwk = signer.jwk();
    jwk["kid"] = json!(kid);
    jwk
}

fn signed(signer: &Signer, kid: &str, claims: &Value) -> String {
    let header = json!({"alg": "ES256", "kid": kid}).to_string();
    let mut claims = claims.clone();
    claims["iss"] = json!("https://x");
    signer.raw("ES256", &header, claims.to_string().as_bytes())
}

const UNKNOWN: Result<String, VerifyError> = Err(VerifyError::Rejected(Reason::InvalidCredential));

fn alice() -> Result<String, VerifyError> {
    Ok("alice".to_owned())
}

fn unavailable() -> Result<String, VerifyError> {
    Err(Unavailable("its keys cannot be fetched").into())
}

#[tokio::test(start_paused = true)]
async fn fetched_keys_pass_the_contract_of_verifiers() {
    let key = Signer::p256();
    let gate = Gate::started([Does::Answers(json!([jwk(&key, "canary-1")]))]).await;
    let with = |change: Value| {
        let mut claims = claims();
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        signed(&key, "canary-1", &claims).into_bytes()
    };
    contract::holds(contract::Sample {
        verifier: Arc::clone(&gate.verifier),
        now: NOW,
        valid: with(json!({})),
        subject: "alice",
        method: "jwt",
        wrong: signed(&Signer::p256(), "canary-1", &claims()).into_bytes(),
        expired: Some(with(json!({"exp": NOW - 60}))),
        without_subject: Some(with(json!({"sub": null}))),
    })
    .await;
    // Not one of all those made-up tokens was worth a second request, but the first
    // that named another key.
    assert!(gate.issuer.asked() <= 2, "{}", gate.issuer.asked());
    assert!(!gate.log().concat().contains("canary"));
}

#[tokio::test]
async fn whatever_is_wrong_with_a_server_is_no_verdict_on_the_token() {
    let timeout = Duration::from_millis(300);
    let (telemetry, lines) = telemetry();
    let token = signed(&Signer::p256(), "canary", &claims());
    contract::survives_with(token.as_bytes(), timeout, |address| {
        let url = format!("http://{address}/keys");
        let jwt = json!({"jwks_url": url, "audience": "any", "timeout": "300ms"});
        let verifier = super::verifier(jwt, ".".as_ref());
        verifier.start(&telemetry);
        verifier
    })
    .await;
    telemetry.log.flush();
    let said = lines.text();
    assert!(said.lines().count() >= 10, "{said}");
    assert!(!said.contains("canary"), "{said}");
}

#[tokio::test]
async fn discovery_leads_to_the_keys_and_an_unknown_one_asks_for_those_alone() {
    let key = Signer::p256();
    let keys = json!({"keys": [jwk(&key, "1")]}).to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let paths = Arc::clone(&asked);
    let address = contract::serving(move |seen| {
        let path = seen.head.split(' ').nth(1).unwrap().to_owned();
        let host = seen.header("host").unwrap();
        let base = format!("http://{host}");
        let document = json!({"issuer": format!("{base}/realm"), "jwks_uri": format!("{base}/k")});
        let body = if path == "/k" { keys.clone() } else { document.to_string() };
        paths.lock().unwrap().push(path);
        ("200 OK", String::new(), body)
    })
    .await;
    let issuer = format!("http://{address}/realm");
    let verifier = super::verifier(json!({"issuer": &issuer, "audience": "any"}), ".".as_ref());
    verifier.start(&telemetry().0);
    for (kid, admitted) in [("1", true), ("2", false), ("3", false)] {
        let header = json!({"alg": "ES256", "kid": kid}).to_string();
        let mut claims = claims();
        claims["iss"] = json!(issuer);
        let token = key.raw("ES256", &header, claims.to_string().as_bytes());
        let judged = super::judge(&verifier, token.as_bytes()).await;
        assert_eq!(judged.is_ok(), admitted, "{kid}: {:?}", judged.err());
    }
    let document = "/realm/.well-known/openid-configuration";
    assert_eq!(*asked.lock().unwrap(), [document, "/k", "/k"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_before_the_verifier_is_live() {
    let key = Signer::p256();
    let gate = Gate::new([Does::Answers(json!([jwk(&key, "1")]))]);
    assert_eq!(gate.judge(&signed(&key, "1", &claims())).await, unavailable());
    assert_eq!(gate.judge("x").await, Err(Reason::MalformedCredential.into()));
    assert_eq!(gate.issuer.asked(), 0);
    assert!(gate.verifier.is_degraded());
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_first_waits_for_the_first_keys() {
    let key = Signer::p256();
    let gate = Gate::new([Does::Answers(json!([jwk(&key, "1")]))]);
    gate.verifier.start(&gate.telemetry);
    gate.verifier.start(&gate.telemetry);
    assert_eq!(gate.judge(&signed(&key, "1", &claims())).await, alice());
    assert_eq!(gate.issuer.asked(), 1);
    assert!(!gate.verifier.is_degraded());
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_hangs_holds_nobody_for_longer_than_the_timeout() {
    let key = Signer::p256();
    let gate = Gate::started([Does::Hangs]).await;
    let began = tokio::time::Instant::now();
    let late = Err(Unavailable("its keys did not come in time").into());
    assert_eq!(gate.judge(&signed(&key, "1", &claims())).await, late);
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(gate.judge("a.b.c").await, Err(Reason::MalformedCredential.into()));
    assert_eq!(began.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_down_at_first_is_found_when_it_comes_up() {
    let key = Signer::p256();
    let good = Does::Answers(json!([jwk(&key, "1")]));
    let gate = Gate::started([Does::Fails, Does::Fails, Does::Says("<html>"), good]).await;
    let token = signed(&key, "1", &claims());
    assert_eq!(gate.judge(&token).await, unavailable());
    assert!(gate.verifier.is_degraded());
    gate.pass(Duration::from_secs(8)).await;
    assert_eq!(gate.judge(&token).await, alice());
    assert!(!gate.verifier.is_degraded());
    assert_eq!((gate.refreshes("success"), gate.refreshes("failure")), (1, 3));
    // One line for each change, not for each failure.
    let log = gate.log();
    assert_eq!(log.len(), 2, "{log:?}");
    assert!(log[0].contains("keys cannot be fetched; this verifier refuses"), "{log:?}");
    assert!(log[0].contains("the key set: nobody takes the connection"), "{log:?}");
    assert!(log[1].contains("keys fetched again"), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn keys_are_refreshed_ahead_of_time_and_the_same_ones_keep_their_tokens() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let gate = Gate::started([Does::Answers(json!([jwk(&old, "1")]))]).await;
    let token = signed(&old, "1", &claims());
    assert_eq!(gate.judge(&token).await, alice());
    gate.pass(REFRESH).await;
    assert_eq!(gate.issuer.asked(), 2);
    assert_eq!(gate.judge(&token).await, alice());
    gate.issuer.does([Does::Answers(json!([jwk(&new, "2")]))]);
    gate.pass(REFRESH).await;
    // The old key is gone, and with it the token that was verified before.
    assert_eq!(gate.judge(&token).await, UNKNOWN);
    assert_eq!(gate.judge(&signed(&new, "2", &claims())).await, alice());
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_fetched_for_all_who_bring_it_at_once() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let gate = Gate::started([Does::Answers(json!([jwk(&old, "1")]))]).await;
    gate.issuer.does([Does::Answers(json!([jwk(&old, "1"), jwk(&new, "2")]))]);
    let token = signed(&new, "2", &claims());
    let all = (0..50).map(|_| gate.judge(&token));
    for judged in futures_util::future::join_all(all).await {
        assert_eq!(judged, alice());
    }
    assert_eq!(gate.issuer.asked(), 2);
    assert_eq!(*gate.issuer.asked.lock().unwrap(), [Cause::Time, Cause::UnknownKey]);
    assert_eq!(gate.judge(&signed(&old, "1", &claims())).await, alice());
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_unknown_keys_costs_one_request_in_half_a_minute() {
    let key = Signer::p256();
    let gate = Gate::started([Does::Answers(json!([jwk(&key, "1")]))]).await;
    let storm: Vec<String> =
        (0..200).map(|n| signed(&key, &format!("made-up-{n}"), &claims())).collect();
    for expected in [2, 2, 2, 3] {
        let all = storm.iter().map(|token| gate.judge(token));
        for judged in futures_util::future::join_all(all).await {
            assert_eq!(judged, UNKNOWN);
        }
        assert_eq!(gate.issuer.asked(), expected);
        gate.pass(Duration::from_secs(10)).await;
    }
    assert_eq!(gate.judge(&signed(&key, "1", &claims())).await, alice());
    assert!(!gate.verifier.is_degraded());
}

#[tokio::test(start_paused = true)]
async fn keys_count_for_an_hour_while_the_issuer_is_down() {
    let key = Signer::p256();
    let gate = Gate::started([Does::Answers(json!([jwk(&key, "1")]))]).await;
    let token = signed(&key, "1", &claims());
    assert_eq!(gate.judge(&token).await, alice());
    gate.issuer.does([Does::Fails]);
    gate.pass(REFRESH).await;
    assert!(gate.verifier.is_degraded());
    assert_eq!(gate.judge(&token).await, alice());
    // Whether this key exists, nobody can tell now.
    assert_eq!(gate.judge(&signed(&key, "2", &claims())).await, unavailable());
    gate.pass(Duration::from_secs(2990)).await;
    assert_eq!(gate.judge(&token).await, alice());
    gate.pass(Duration::from_secs(20)).await;
    // Also the token that was verified before.
    assert_eq!(gate.judge(&token).await, unavailable());
    gate.pass(Duration::from_secs(60)).await;
    gate.issuer.does([Does::Answers(json!([jwk(&key, "1")]))]);
    gate.pass(Duration::from_secs(31)).await;
    assert_eq!(gate.judge(&token).await, alice());
    assert_eq!(gate.log().len(), 4, "{:#?}", gate.log());
}

#[tokio::test(start_paused = true)]
async fn a_set_without_a_usable_key_changes_nothing() {
    let key = Signer::p256();
    for bad in [
        Does::Answers(json!([])),
        Does::Answers(json!([{"kty": "oct", "k": "canary", "kid": "1"}])),
        Does::Says("null"),
        Does::Says(r#"{"keys":"#),
    ] {
        let gate = Gate::started([Does::Answers(json!([jwk(&key, "1")]))]).await;
        gate.issuer.does([bad]);
        gate.pass(REFRESH).await;
        assert!(gate.verifier.is_degraded());
        assert_eq!(gate.judge(&signed(&key, "1", &claims())).await, alice());
        assert!(!gate.log().concat().contains("canary"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_in_the_set_verifies_nothing() {
    let key = Signer::p256();
    let secret = Signer::Secret(vec![7; 64]);
    let mut oct = secret.jwk();
    oct["kid"] = json!("s");
    let gate = Gate::started([Does::Answers(json!([oct, jwk(&key, "1")]))]).await;
    let header = r#"{"alg":"HS256","kid":"s"}"#;
    let forged = secret.raw("HS256", header, claims().to_string().as_bytes());
    assert_eq!(gate.judge(&forged).await, UNKNOWN);
}

#[tokio::test(start_paused = true)]
async fn what_no_published_key_could_verify_is_refused_while_the_issuer_is_down() {
    let forged = |algorithm: &str| {
        let header = json!({"alg": algorithm, "kid": "1"}).to_string();
        Signer::p256().raw("ES256", &header, claims().to_string().as_bytes())
    };
    let gate = Gate::started([Does::Fails]).await;
    for (algorithm, expected) in [("HS256", UNKNOWN), ("HS512", UNKNOWN), ("RS256", unavailable())]
    {
        assert_eq!(gate.judge(&forged(algorithm)).await, expected, "{algorithm}");
    }
    let algorithms = vec![SignatureAlgorithm::ES256];
    let gate = Gate::with(algorithms, [Does::Fails]);
    gate.verifier.start(&gate.telemetry);
    gate.pass(Duration::from_millis(1)).await;
    for (algorithm, expected) in [("HS256", UNKNOWN), ("RS256", UNKNOWN), ("ES256", unavailable())]
    {
        assert_eq!(gate.judge(&forged(algorithm)).await, expected, "{algorithm}");
    }
    // Nor does it make anybody ask while the issuer is up.
    let gate = Gate::started([Does::Answers(json!([jwk(&Signer::p256(), "2")]))]).await;
    gate.pass(Duration::from_secs(60)).await;
    assert_eq!((gate.judge(&forged("HS256")).await, gate.issuer.asked()), (UNKNOWN, 1));
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_cut_is_told_once_for_each_set() {
    let key = Signer::p256();
    let set = |count: usize| {
        let keys: Vec<Value> = (0..count).map(|n| jwk(&key, &n.to_string())).collect();
        Does::Answers(Value::from(keys))
    };
    let gate = Gate::started([set(130)]).await;
    let told = || gate.log().iter().filter(|line| line.contains("too large")).count();
    assert_eq!(told(), 1, "{:?}", gate.log());
    assert!(gate.log().concat().contains(r#""left_out":2"#), "{:?}", gate.log());
    gate.pass(3 * REFRESH).await;
    assert!(gate.issuer.asked() > 2);
    assert_eq!(told(), 1);
    gate.issuer.does([set(131)]);
    gate.pass(2 * REFRESH).await;
    assert_eq!(told(), 2);
    gate.issuer.does([set(128)]);
    gate.pass(2 * REFRESH).await;
    assert_eq!(told(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_in_a_token_says_where_to_ask() {
    let key = Signer::p256();
    let gate = Gate::started([Does::Answers(json!([jwk(&key, "1")]))]).await;
    let payload = claims().to_string();
    for header in [
        json!({"alg": "ES256", "kid": "1", "jku": "https://evil.example/keys"}),
        json!({"alg": "ES256", "kid": "1", "x5u": "https://evil.example/cert"}),
        json!({"alg": "ES256", "kid": "1", "jwk": key.jwk()}),
    ] {
        let token = key.raw("ES256", &header.to_string(), payload.as_bytes());
        assert_eq!(gate.judge(&token).await, UNKNOWN, "{header}");
    }
    assert_eq!(gate.issuer.asked(), 1);
    let by_url = json!({"alg": "ES256", "kid": "https://evil.example/keys"}).to_string();
    assert_eq!(gate.judge(&key.raw("ES256", &by_url, payload.as_bytes())).await, UNKNOWN);
    assert_eq!(gate.issuer.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_kid_is_tried_against_what_fits() {
    let (one, two) = (Signer::p256(), Signer::p256());
    let gate = Gate::started([Does::Answers(json!([jwk(&one, "1"), jwk(&two, "2")]))]).await;
    let mut claims = claims();
    claims["iss"] = json!("https://x");
    assert_eq!(gate.judge(&two.token("ES256", &claims)).await, alice());
    // And causes no request, for anybody can leave it out.
    assert_eq!(gate.judge(&Signer::p256().token("ES256", &claims)).await, UNKNOWN);
    assert_eq!(gate.issuer.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_a_reload_has_replaced_asks_only_for_who_is_still_connected() {
    let key = Signer::p256();
    let gate = Gate::started([Does::Answers(json!([jwk(&key, "1")]))]).await;
    gate.verifier.retire();
    gate.pass(Duration::from_secs(3590)).await;
    assert_eq!(gate.judge(&signed(&key, "1", &claims())).await, alice());
    gate.pass(Duration::from_secs(3600)).await;
    assert_eq!(gate.issuer.asked(), 1);
    assert_eq!(gate.judge(&signed(&key, "1", &claims())).await, alice());
    assert_eq!(gate.issuer.asked(), 2);
    gate.issuer.does([Does::Fails]);
    gate.pass(Duration::from_secs(3601)).await;
    assert_eq!(gate.judge(&signed(&key, "1", &claims())).await, unavailable());
    assert_eq!(gate.issuer.asked(), 3);
    assert_eq!(gate.log().len(), 1, "{:?}", gate.log());
}

#[tokio::test(start_paused = true)]
async fn with_the_verifier_ends_the_asking() {
    let key = Signer::p256();
    let gate = Gate::started([Does::Answers(json!([jwk(&key, "1")]))]).await;
    let Gate { verifier, issuer, .. } = gate;
    drop(verifier);
    tokio::time::sleep(3 * REFRESH).await;
    assert_eq!(issuer.asked(), 1);
    assert_eq!(Arc::strong_count(&issuer), 1);
}
