//! Revocations and live connections together; with a real Redis in `tests/it`.

use std::sync::Arc;

use super::*;
use crate::close::CloseCodes;
use crate::connection::{Arrival, Carrier, Place};
use crate::identity::{Method, Proof};
use crate::telemetry::{Log, LogConfig, Metrics};

/// An identity of the verifier `app`, by a token issued long ago.
pub(super) fn identity(subject: &str, session: Option<&str>, token: Option<&str>) -> Identity {
    proven(Method::Jwt, subject, session, token, Some(1_000))
}

/// One that the verifier `app` proved by `method`.
pub(super) fn of_method(method: Method, subject: &str, issued_at: Option<i64>) -> Identity {
    proven(method, subject, None, None, issued_at)
}

/// One that the verifier `app` proved by a token of `issuer`.
pub(super) fn by_issuer(subject: &str, issuer: &str) -> Identity {
    proven_by(Some(issuer), Method::Jwt, subject, None, None, Some(1_000))
}

fn proven(
    method: Method,
    subject: &str,
    session: Option<&str>,
    token: Option<&str>,
    issued_at: Option<i64>,
) -> Identity {
    proven_by(None, method, subject, session, token, issued_at)
}

fn proven_by(
    issuer: Option<&str>,
    method: Method,
    subject: &str,
    session: Option<&str>,
    token: Option<&str>,
    issued_at: Option<i64>,
) -> Identity {
    Identity::proven(Proof {
        subject: subject.into(),
        method,
        verifier: "app".into(),
        issuer: issuer.map(str::to_owned),
        session: session.map(str::to_owned),
        token_id: token.map(str::to_owned),
        issued_at,
        expires: None,
        leeway: 30,
        claims: "{}".into(),
    })
    .unwrap()
}

fn revocations(config: &str) -> Arc<Revocations> {
    let config = serde_json::from_str(config).unwrap();
    let terms = Terms::or_new(None, Some(&config), std::path::Path::new("/")).ok().unwrap();
    let log = Log::to(&LogConfig::default(), std::io::sink()).unwrap();
    let telemetry = Telemetry::new(Metrics::new().unwrap(), log).unwrap();
    Revocations::new(terms, Registry::new(Arc::default()), Arc::new(telemetry))
}

fn open(revocations: &Revocations, identity: Identity) -> Place {
    revocations.registry.enter(Arrival {
        request_id: &"r".into(),
        identity: &Arc::new(identity),
        peer: [127, 0, 0, 1].into(),
        carrier: Carrier::Socket,
        codes: CloseCodes::default(),
        limits: &Arc::default(),
        metrics: &Metrics::new().unwrap().route("chat").unwrap(),
        grounds: None,
    })
}

fn asked(place: &Place) -> Option<(Reason, u16)> {
    place.entry().control.requested()
}

#[tokio::test]
async fn a_revocation_closes_what_is_open_and_refuses_what_comes() {
    let revocations = revocations("{}");
    let ada = open(&revocations, identity("ada", Some("s-1"), None));
    let other = open(&revocations, identity("ada", Some("s-2"), None));
    let target = Target::new(Kind::Session, "s-1", Scope::Verifier("app"));
    let revoked = revocations.revoke(target, Source::Admin).await;
    assert_eq!(revoked, Ok(Revoked { closed: 1, shared: false }));
    assert_eq!((asked(&ada), asked(&other)), (Some((Reason::Revoked, 4001)), None));
    let late = identity("ada", Some("s-1"), None);
    assert_eq!(revocations.judge(&late, clock::unix_millis()), Err(Reason::Revoked));
    assert_eq!(revocations.judge(&other.entry().identity(), other.entry().opened), Ok(()));
    // Asked to close already: not counted again.
    let again = revocations.revoke(target, Source::Admin).await;
    assert_eq!(again, Ok(Revoked { closed: 0, shared: false }));
    let text = revocations.telemetry.metrics.render().unwrap();
    assert!(text.contains("sockgate_revocations_total{source=\"admin\"} 2"), "{text}");
    assert!(text.contains("sockgate_revocations_total{source=\"redis\"} 0"), "{text}");
}

#[tokio::test]
async fn a_revocation_lasts_as_long_as_any_credential_that_it_was_seen_to_mean() {
    let revocations = revocations(r#"{"keep":"1h"}"#);
    let now = clock::unix_now();
    let until = |target| {
        let all = revocations.read(|set| set.all(now * 1000).collect::<Vec<_>>());
        all.iter().find(|one| one.target == target).unwrap().until
    };
    let expiring = |expires: i64| {
        let identity = identity("ada", None, Some("j-1"));
        let mut proof = Proof {
            subject: identity.subject().into(),
            method: identity.kind(),
            verifier: Arc::clone(identity.verifier()),
            issuer: None,
            session: None,
            token_id: Some("j-1".to_owned()),
            issued_at: Some(1_000),
            expires: None,
            leeway: 30,
            claims: "{}".into(),
        };
        proof.expires = Some(now + expires);
        Identity::proven(proof).unwrap()
    };
    let _short = open(&revocations, expiring(60));
    let token = Target::new(Kind::TokenId, "j-1", Scope::Verifier("app"));
    revocations.revoke(token, Source::Admin).await.unwrap();
    assert_eq!(until(token), (now + 60 + 30) * 1000 + MARGIN);
    // Another verifier may have a token of this id that lasts longer.
    let any = Target::new(Kind::TokenId, "j-1", Scope::Any);
    revocations.revoke(any, Source::Admin).await.unwrap();
    assert!((until(any) - (now + 3600) * 1000).abs() < 10_000);
    let _long = open(&revocations, expiring(90_000));
    let subject = Target::new(Kind::Subject, "ada", Scope::Any);
    revocations.revoke(subject, Source::Admin).await.unwrap();
    assert_eq!(until(subject), (now + 90_000 + 30) * 1000 + MARGIN);
}

#[tokio::test]
async fn a_clock_that_was_set_back_hides_no_connection_from_a_revocation() {
    let revocations = revocations("{}");
    let place = open(&revocations, of_method(Method::Session, "ada", None));
    let other = open(&revocations, of_method(Method::Session, "eve", None));
    // A minute has passed, and the clock says what it said at the beginning.
    revocations.registry.sweep(0, 240);
    let target = Target::new(Kind::Subject, "ada", Scope::Any);
    let now = place.entry().opened;
    let message = format!("{target} {} {}", now - 30_000, now + 1_000_000);
    revocations.hear(message.as_bytes());
    while asked(&place).is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(asked(&other), None);
}

#[tokio::test]
async fn nobody_is_let_in_before_what_is_stored_is_loaded() {
    let revocations = revocations(r#"{"redis":"redis://127.0.0.1:1/0","timeout":"100ms"}"#);
    let ada = identity("ada", None, None);
    assert_eq!(revocations.judge(&ada, 0), Err(Reason::VerifierUnavailable));
    assert_eq!(revocations.judge(&Identity::anonymous(), 0), Ok(()));
    assert!(revocations.is_degraded());
    let place = open(&revocations, ada);
    let revoked =
        revocations.revoke(Target::new(Kind::Subject, "ada", Scope::Any), Source::Admin).await;
    assert_eq!(revoked, Ok(Revoked { closed: 1, shared: false }));
    assert_eq!(asked(&place), Some((Reason::Revoked, 4001)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_that_races_with_a_connection_never_misses_it() {
    let revocations = revocations("{}");
    for round in 0..500 {
        let session = format!("s-{round}");
        let entering = {
            let (revocations, session) = (Arc::clone(&revocations), session.clone());
            tokio::spawn(async move {
                let place = open(&revocations, identity("ada", Some(&session), None));
                let entry = Arc::clone(place.entry());
                (revocations.judge(&entry.identity(), entry.opened), place)
            })
        };
        let target = Target::new(Kind::Session, &session, Scope::Any);
        let (entered, revoked) = tokio::join!(entering, revocations.revoke(target, Source::Admin));
        let (judged, place) = entered.unwrap();
        let closed = asked(&place).is_some();
        assert!(judged.is_err() || closed, "round {round}: open although revoked");
        assert_eq!(revoked.unwrap().closed == 1, closed);
    }
}
