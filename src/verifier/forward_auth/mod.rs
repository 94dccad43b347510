//! `forward_auth`: an endpoint of your own judges the request, as with nginx's
//! `auth_request`.
//!
//! It is asked with a GET that looks like the client's request ([`question`]): the
//! credential where the client had it, and the client's other headers, but none
//! that belong to the client's connection, body or cache. What other credentials
//! the policy names are not among them: those stop at the gate. Its answer decides
//! ([`answer`]): a 2xx that says who it is admits.

mod answer;
mod question;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;

use self::answer::Judge;
use super::config::ForwardAuthConfig;
use super::endpoint::Endpoint;
use super::lookup::{Found, Lookups};
use super::{Built, Credential, Occasion, Recheck, Unavailable, Verification, Verifier};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::expression::Expression;
use crate::fetch::{Fetch, FetchSettings, Url};
use crate::problem::Problem;

/// Asks one endpoint.
struct ForwardAuth {
    url: Url,
    asker: Arc<Asker>,
    lookups: Lookups,
}

/// What a look-up takes along.
struct Asker {
    fetch: Arc<Fetch>,
    judge: Judge,
}

impl Verifier for ForwardAuth {
    fn name(&self) -> &Arc<str> {
        &self.asker.judge.name
    }

    /// What a credential looks like is the endpoint's business.
    fn recognises(&self, _: &Credential<'_>) -> bool {
        true
    }

    fn verify<'a>(
        &'a self,
        credential: &'a Credential<'a>,
        occasion: &'a Occasion<'a>,
        now: UnixSeconds,
    ) -> Verification<'a> {
        Box::pin(async move {
            // Put together even if somebody asks the same already: whether it can
            // be sent at all comes first, and what is the same is all of it.
            let request = question::of(&self.url, credential.value, occasion)
                .ok_or(Reason::MalformedCredential)?;
            let keys = question::keys(&request, credential.value, occasion);
            let asker = Arc::clone(&self.asker);
            let ask = || async move { asker.ask(request, now).await };
            self.lookups.find(keys, now, occasion.again, ask).await
        })
    }

    fn asks(&self) -> bool {
        true
    }

    fn recheck(&self) -> Recheck {
        Recheck::Request
    }

    fn has_authorization(&self) -> bool {
        self.url.has_userinfo()
    }

    fn is_degraded(&self) -> bool {
        self.lookups.are_failing()
    }
}

impl Asker {
    async fn ask(&self, request: Request<Bytes>, now: UnixSeconds) -> Found {
        let answer = self.fetch.send(request).await.map_err(|error| Unavailable(error.cause()))?;
        self.judge.judge(&answer, now)
    }
}

/// Makes a verifier of `config`; relative files are relative to `base`.
pub(super) fn build(
    name: &str,
    config: &ForwardAuthConfig,
    base: &Path,
) -> Result<Built, Vec<Problem>> {
    let mut problems = Vec::new();
    let settings = FetchSettings {
        ca: config.ca.clone(),
        allow_http: config.allow_http,
        timeout: config.timeout,
    };
    let endpoint =
        Endpoint::build(&config.url, &settings, base).map_err(|found| problems.extend(found)).ok();
    let subject = Expression::compile(&config.subject, &["body", "headers"])
        .map_err(|error| problems.push(Problem::new("subject", error.to_string())))
        .ok();
    let (Some(endpoint), Some(subject)) = (endpoint, subject) else { return Err(problems) };
    let judge = Judge { name: name.into(), subject };
    let verifier = Arc::new(ForwardAuth {
        url: endpoint.url,
        asker: Arc::new(Asker { fetch: endpoint.fetch, judge }),
        lookups: Lookups::new(config.timeout.0, config.cache.0),
    });
    Ok(Built { verifier, files: endpoint.files, warnings: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use http::HeaderValue;
    use serde_json::json;

    use super::*;
    use crate::credential::Place;
    use crate::verifier::contract::{self, Sample, Seen, serving};
    use crate::verifier::occasion::Asked;
    use crate::verifier::{VerifierConfig, VerifyError, build};

    const NOW: UnixSeconds = 1_700_000_000;

    fn verifier(address: SocketAddr, cache: &str) -> Arc<dyn Verifier> {
        let config: VerifierConfig = serde_json::from_value(json!({ "forward_auth": {
            "url": format!("http://{address}/check"),
            "subject": "headers[\"x-user\"]",
            "cache": cache,
            "timeout": "300ms",
        }}))
        .unwrap();
        build("login-app", &config, Path::new(".")).ok().unwrap().verifier
    }

    fn endpoint(seen: &Seen) -> (&'static str, String, String) {
        assert!(seen.head.starts_with("GET /check HTTP/1.1\r\n"), "{}", seen.head);
        assert_eq!(seen.header("x-forwarded-uri"), Some("/ws"));
        match seen.header("authorization") {
            Some("Bearer canary-good") => ("200 OK", "X-User: ada\r\n".into(), String::new()),
            _ => ("401 Unauthorized", String::new(), String::new()),
        }
    }

    #[tokio::test]
    async fn forward_auth_passes_the_contract_of_verifiers() {
        for cache in ["0s", "30s"] {
            contract::holds(Sample {
                verifier: verifier(serving(endpoint).await, cache),
                now: NOW,
                valid: b"canary-good".to_vec(),
                subject: "ada",
                method: "forward_auth",
                wrong: b"canary-bad".to_vec(),
                // The endpoint says 401 to both.
                expired: None,
                // A success without a subject is not the endpoint that it should be.
                without_subject: None,
            })
            .await;
        }
    }

    #[tokio::test]
    async fn requests_that_differ_in_a_header_are_judged_each_by_its_own() {
        let tenants = |seen: &Seen| match seen.header("x-tenant") {
            Some("a") => ("200 OK", "X-User: ada\r\n".to_owned(), String::new()),
            _ => ("403 Forbidden", String::new(), String::new()),
        };
        let verifier = verifier(serving(tenants).await, "0s");
        let judge = |tenant: &'static str| {
            let verifier = Arc::clone(&verifier);
            async move {
                let mut asked = Asked::default();
                asked.headers.insert("x-tenant", HeaderValue::from_static(tenant));
                let credential = Credential { value: b"t", basic: false };
                let found = verifier.verify(&credential, &asked.with(Place::Message), NOW).await;
                found.map(|_| ()).map_err(VerifyError::reason)
            }
        };
        let (a, b, c) = tokio::join!(judge("a"), judge("b"), judge("c"));
        assert_eq!((a, b, c), (Ok(()), Err(Reason::Forbidden), Err(Reason::Forbidden)));
        // Nor does the refusal of one stand for another.
        assert_eq!((judge("b").await, judge("a").await), (Err(Reason::Forbidden), Ok(())));
    }

    #[tokio::test]
    async fn forward_auth_survives_every_broken_server() {
        let timeout = Duration::from_millis(300);
        contract::survives(timeout, |address| verifier(address, "0s")).await;
    }

    #[test]
    fn the_subject_is_in_x_forwarded_user_unless_said_otherwise() {
        let written = json!({ "forward_auth": { "url": "http://127.0.0.1:3000/auth/check" } });
        let config: VerifierConfig = serde_json::from_value(written).unwrap();
        assert!(build("login-app", &config, Path::new(".")).is_ok());
        let subject = config.forward_auth.map(|config| config.subject);
        assert_eq!(subject.as_deref(), Some("headers[\"x-forwarded-user\"]"));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        let problems = |config: serde_json::Value| {
            let config: VerifierConfig =
                serde_json::from_value(json!({ "forward_auth": config })).unwrap();
            let problems = build("login-app", &config, Path::new(".")).err().unwrap();
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        let all = problems(json!({
            "url": "http://canary:canary@login.example/", "subject": "heders", "timeout": "0",
        }));
        for part in [
            "forward_auth.url: plain HTTP to another machine",
            "`allow_http: true`",
            "forward_auth.subject: unknown variable \"heders\" (known: body, headers)",
            "forward_auth.timeout: must be more than 0",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
        assert!(!all.contains("canary"), "{all}");
    }
}
