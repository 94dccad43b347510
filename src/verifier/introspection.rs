//! `introspection`: opaque tokens, judged by the server that issued them
//! (RFC 7662).
//!
//! The token goes to the endpoint in the body of a POST and nowhere else. Only
//! `active: true` in a 200 admits, and only if what else the answer says agrees:
//! the endpoint may know tokens that are meant for others. An answer that cannot
//! be read, or that refuses us rather than the token, says nothing about the
//! token: the verifier is unavailable then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use serde_json::{Map, Value};

use super::config::{ClientAuthentication, IntrospectionConfig};
use super::endpoint::Endpoint;
use super::jwt::{Audience, Times, is_for_another_use};
use super::lookup::{Found, Key, Lookups};
use super::{
    Built, Credential, Occasion, Recheck, Unavailable, Verification, Verifier, VerifyError,
};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::fetch::{Answer, Fetch, FetchSettings, Url, form_encoded};
use crate::identity::{self, Identity, Proof};
use crate::json;
use crate::problem::Problem;

/// How far the endpoint's clock may be ahead, in seconds: it has said itself that
/// the token is good now.
const AHEAD: i64 = 30;

/// The longest token that is asked about, in bytes.
const TOKEN: usize = 64 << 10;

/// Asks one endpoint.
struct Introspection {
    asker: Arc<Asker>,
    lookups: Lookups,
}

/// What a look-up takes along.
struct Asker {
    name: Arc<str>,
    fetch: Arc<Fetch>,
    url: Url,
    client: Client,
    audience: Audience,
}

/// How we prove ourselves.
enum Client {
    /// The value of `Authorization`.
    Basic(HeaderValue),
    /// What follows the token in the body.
    Post(Box<str>),
}

impl Verifier for Introspection {
    fn name(&self) -> &Arc<str> {
        &self.asker.name
    }

    /// An opaque token has no shape.
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
            let token = credential.value;
            // RFC 6749 appendix A.12.
            let sound = (1..=TOKEN).contains(&token.len())
                && token.iter().all(|byte| (0x20..=0x7e).contains(byte));
            if !sound {
                return Err(Reason::MalformedCredential.into());
            }
            let ask = || {
                let (asker, request) = (Arc::clone(&self.asker), self.asker.question(token));
                async move { asker.ask(request, now).await }
            };
            self.lookups.find(Key::of(&[token]), now, occasion.again, ask).await
        })
    }

    fn asks(&self) -> bool {
        true
    }

    fn recheck(&self) -> Recheck {
        Recheck::Credential
    }

    fn is_degraded(&self) -> bool {
        self.lookups.are_failing()
    }
}

impl Asker {
    /// RFC 7662 §2.1.
    fn question(&self, token: &[u8]) -> Request<Bytes> {
        let mut request = self.url.request(Method::POST);
        let mut body = format!("token={}&token_type_hint=access_token", form_encoded(token));
        match &self.client {
            Client::Basic(authorization) => {
                request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            }
            Client::Post(rest) => body.push_str(rest),
        }
        let headers = request.headers_mut();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, form);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        *request.body_mut() = body.into();
        request
    }

    async fn ask(&self, request: Request<Bytes>, now: UnixSeconds) -> Found {
        let answer = self.fetch.send(request).await.map_err(|error| Unavailable(error.cause()))?;
        self.judge(&answer, now)
    }

    /// RFC 7662 §2.2 and §2.3.
    fn judge(&self, answer: &Answer, now: UnixSeconds) -> Found {
        match answer.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                return unavailable("the endpoint refuses our client_id or client_secret");
            }
            StatusCode::FORBIDDEN => {
                return unavailable("the endpoint does not let our client_id ask");
            }
            _ => return unavailable("the endpoint answers with another status than 200"),
        }
        let Ok(Value::Object(claims)) = json::parse(&answer.body) else {
            return unavailable("the answer is not a JSON object that can be read in one way only");
        };
        match claims.get("active") {
            Some(Value::Bool(true)) => self.judge_active(claims, now),
            Some(Value::Bool(false)) => Err(Reason::InvalidCredential.into()),
            Some(_) | None => unavailable("the answer does not say whether the token is active"),
        }
    }

    fn judge_active(&self, claims: Map<String, Value>, now: UnixSeconds) -> Found {
        let Ok(times) = Times::read(&claims) else {
            return unavailable("the answer names an instant that is none");
        };
        // A token that is bound to a key would need its proof (RFC 8705 §3.2), again
        // with each recheck: not supported.
        let ours = self.audience.is_met(claims.get("aud"))
            && !claims.contains_key("cnf")
            && !is_for_another_use(&claims);
        if !ours {
            return Err(Reason::InvalidCredential.into());
        }
        if times.expires.is_some_and(|at| at <= now) {
            return Err(Reason::Expired.into());
        }
        if times.not_before.is_some_and(|at| at > now.saturating_add(AHEAD)) {
            return Err(Reason::NotYetValid.into());
        }
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        let identity = Identity::proven(Proof {
            // Nothing stands in for it: a client id is no user.
            subject: claims.get("sub").cloned().unwrap_or_default(),
            method: identity::Method::Introspection,
            verifier: Arc::clone(&self.name),
            issuer: text("iss"),
            session: text("sid"),
            token_id: text("jti"),
            // Without `iat`, when the server was asked.
            issued_at: times.issued_at.or(Some(now)),
            expires: times.expires,
            leeway: 0,
            claims: Value::Object(claims).to_string().into(),
        })?;
        Ok(Arc::new(identity))
    }
}

fn unavailable(cause: &'static str) -> Result<Arc<Identity>, VerifyError> {
    Err(Unavailable(cause).into())
}

/// Makes a verifier of `config`; relative files are relative to `base`.
pub(super) fn build(
    name: &str,
    config: &IntrospectionConfig,
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
    if endpoint.as_ref().is_some_and(|endpoint| endpoint.url.has_userinfo()) {
        let message = "has a user of its own: say it as client_id and client_secret";
        problems.push(Problem::new("url", message));
    }
    let client = client(config, base).map_err(|problem| problems.push(problem)).ok();
    let audience = match config.audience.as_ref().map(|names| Audience::read(&names.0)) {
        Some(Ok(audience)) => Some(audience),
        Some(Err(message)) => {
            problems.push(Problem::new("audience", message));
            None
        }
        None => {
            let message = "is required: the endpoint may know tokens that are meant for others; \
                           name ours, or write `any`";
            problems.push(Problem::new("audience", message));
            None
        }
    };
    let (Some(endpoint), Some(client), Some(audience), true) =
        (endpoint, client, audience, problems.is_empty())
    else {
        return Err(problems);
    };
    let mut files: Vec<PathBuf> = endpoint.files;
    files.extend(config.client_secret.file().map(|file| base.join(file)));
    let asker =
        Asker { name: name.into(), fetch: endpoint.fetch, url: endpoint.url, client, audience };
    let lookups = Lookups::new(config.timeout.0, config.cache.0);
    let verifier = Arc::new(Introspection { asker: Arc::new(asker), lookups });
    Ok(Built { verifier, files, warnings: Vec::new() })
}

/// RFC 6749 §2.3.1: both are form-encoded, in a header too.
fn client(config: &IntrospectionConfig, base: &Path) -> Result<Client, Problem> {
    if config.client_id.is_empty() {
        return Err(Problem::new("client_id", "must not be empty"));
    }
    let secret = config
        .client_secret
        .resolve(base)
        .map_err(|error| Problem::new("client_secret", error.to_string()))?;
    let (id, secret) = (form_encoded(config.client_id.as_bytes()), form_encoded(secret.expose()));
    Ok(match config.auth {
        ClientAuthentication::Post => {
            Client::Post(format!("&client_id={id}&client_secret={secret}").into())
        }
        ClientAuthentication::Basic => {
            let value = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| Problem::new("client_secret", "cannot be sent"))?;
            value.set_sensitive(true);
            Client::Basic(value)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::verifier::contract::{self, Sample, Seen, serving};
    use crate::verifier::occasion::Asked;
    use crate::verifier::{VerifierConfig, build};

    const NOW: UnixSeconds = 1_700_000_000;

    fn config(url: &str, changes: &Value) -> VerifierConfig {
        let mut config = json!({
            "url": url,
            "client_id": "gate way",
            "client_secret": "canary:secret",
            "audience": "chat",
            "timeout": "300ms",
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        serde_json::from_value(json!({ "introspection": config })).unwrap()
    }

    fn verifier(address: SocketAddr, changes: &Value) -> Arc<dyn Verifier> {
        let config = config(&format!("http://{address}/introspect"), changes);
        build("opaque", &config, Path::new(".")).ok().unwrap().verifier
    }

    fn endpoint(seen: &Seen) -> (&'static str, String, String) {
        assert!(seen.head.starts_with("POST /introspect HTTP/1.1\r\n"), "{}", seen.head);
        assert_eq!(seen.header("content-type"), Some("application/x-www-form-urlencoded"));
        assert_eq!(seen.header("authorization"), Some("Basic Z2F0ZSt3YXk6Y2FuYXJ5JTNBc2VjcmV0"));
        let answer = match seen.body.as_str() {
            "token=canary-good&token_type_hint=access_token" => {
                json!({ "active": true, "sub": "ada", "aud": ["chat"], "exp": NOW + 60 })
            }
            "token=canary-old&token_type_hint=access_token" => {
                json!({ "active": true, "sub": "ada", "aud": "chat", "exp": NOW - 60 })
            }
            "token=canary-nobody&token_type_hint=access_token" => {
                json!({ "active": true, "aud": "chat", "client_id": "x", "username": "ada" })
            }
            _ => json!({ "active": false }),
        };
        ("200 OK", String::new(), answer.to_string())
    }

    #[tokio::test]
    async fn introspection_passes_the_contract_of_verifiers() {
        for cache in ["0s", "30s"] {
            contract::holds(Sample {
                verifier: verifier(serving(endpoint).await, &json!({ "cache": cache })),
                now: NOW,
                valid: b"canary-good".to_vec(),
                subject: "ada",
                method: "introspection",
                wrong: b"canary-bad".to_vec(),
                expired: Some(b"canary-old".to_vec()),
                without_subject: Some(b"canary-nobody".to_vec()),
            })
            .await;
        }
    }

    #[tokio::test]
    async fn introspection_survives_every_broken_server() {
        let timeout = Duration::from_millis(300);
        contract::survives(timeout, |address| verifier(address, &json!({}))).await;
    }

    #[tokio::test]
    async fn the_secret_may_go_in_the_body_and_the_token_is_encoded() {
        let post = |seen: &Seen| {
            assert_eq!(seen.header("authorization"), None);
            assert_eq!(
                seen.body,
                "token=a%2Bb%26c+d&token_type_hint=access_token\
                 &client_id=gate+way&client_secret=canary%3Asecret"
            );
            ("200 OK", String::new(), r#"{"active":true,"sub":"ada","aud":"chat"}"#.to_owned())
        };
        let verifier = verifier(serving(post).await, &json!({ "auth": "post" }));
        let credential = Credential { value: b"a+b&c d", basic: false };
        let asked = Asked::default();
        let occasion = asked.with(crate::credential::Place::Message);
        assert!(verifier.verify(&credential, &occasion, NOW).await.is_ok());
    }

    fn judged(audience: &str, status: u16, body: &str) -> Result<Arc<Identity>, VerifyError> {
        let asker = Asker {
            name: "opaque".into(),
            fetch: Arc::new(
                Fetch::build(
                    &FetchSettings {
                        ca: None,
                        allow_http: true,
                        timeout: crate::fetch::default_timeout(),
                    },
                    Path::new("."),
                    false,
                )
                .ok()
                .unwrap(),
            ),
            url: Url::read("http://h/", true).ok().unwrap(),
            client: Client::Post("".into()),
            audience: Audience::read(&[audience.to_owned()]).unwrap(),
        };
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: http::HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        asker.judge(&answer, NOW)
    }

    #[tokio::test]
    async fn every_answer_is_admitted_refused_or_none() {
        let active = |changes: Value| {
            let mut answer = json!({ "active": true, "sub": "ada", "aud": "chat" });
            for (key, value) in changes.as_object().unwrap() {
                answer[key] = value.clone();
            }
            answer.to_string()
        };
        let refusals = [
            (r#"{"active":false}"#.to_owned(), Reason::InvalidCredential),
            (r#"{"active":false,"sub":"ada","aud":"chat"}"#.to_owned(), Reason::InvalidCredential),
            (active(json!({ "aud": "other" })), Reason::InvalidCredential),
            (active(json!({ "aud": null })), Reason::InvalidCredential),
            (r#"{"active":true,"sub":"ada"}"#.to_owned(), Reason::InvalidCredential),
            (active(json!({ "sub": null })), Reason::InvalidCredential),
            (active(json!({ "sub": "" })), Reason::InvalidCredential),
            (active(json!({ "sub": ["ada"] })), Reason::InvalidCredential),
            (active(json!({ "sub": "a\nb" })), Reason::InvalidCredential),
            (active(json!({ "token_use": "refresh" })), Reason::InvalidCredential),
            (active(json!({ "typ": "Refresh" })), Reason::InvalidCredential),
            (active(json!({ "cnf": { "jkt": "x" } })), Reason::InvalidCredential),
            (active(json!({ "exp": NOW })), Reason::Expired),
            (active(json!({ "nbf": NOW + 31 })), Reason::NotYetValid),
        ];
        for (body, reason) in refusals {
            assert_eq!(judged("chat", 200, &body).err(), Some(reason.into()), "{body}");
        }
        let nothing = [
            (200, String::new()),
            (200, "null".into()),
            (200, "true".into()),
            (200, "[]".into()),
            (200, "{}".into()),
            (200, "<html>".into()),
            (200, r#"{"active":"true","sub":"ada","aud":"chat"}"#.into()),
            (200, r#"{"active":1,"sub":"ada","aud":"chat"}"#.into()),
            (200, r#"{"active":false,"active":true,"sub":"ada","aud":"chat"}"#.into()),
            (200, active(json!({})) + "x"),
            (200, active(json!({ "exp": "soon" }))),
            (200, active(json!({ "exp": -1 }))),
            (201, active(json!({}))),
            (302, active(json!({}))),
            (400, active(json!({}))),
            (401, active(json!({}))),
            (403, active(json!({}))),
            (500, r#"{"active":false}"#.into()),
        ];
        for (status, body) in nothing {
            let judged = judged("chat", status, &body).err();
            assert!(matches!(judged, Some(VerifyError::Unavailable(_))), "{status} {body}");
        }
        let full = active(json!({
            "exp": NOW as f64 + 0.5, "nbf": NOW + 30, "iat": NOW - 5, "iss": "https://id.test",
            "jti": "j", "sid": "s", "scope": "a b",
        }));
        let identity = judged("any", 200, &full).ok().unwrap();
        assert_eq!((identity.subject(), identity.method()), ("ada", "introspection"));
        assert_eq!(identity.issuer(), Some("https://id.test"));
        assert_eq!((identity.token_id(), identity.session()), (Some("j"), Some("s")));
        assert_eq!((identity.expires(), identity.issued_at()), (Some(NOW + 1), Some(NOW - 5)));
        assert_eq!(identity.claims()["scope"], "a b");
        assert!(judged("any", 200, r#"{"active":true,"sub":7}"#).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        let problems = |url: &str, changes: Value| {
            let built = build("opaque", &config(url, &changes), Path::new("."));
            let problems = built.err().unwrap();
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        let url = "https://id.example/introspect";
        let own = json!({ "ca": "none.pem" });
        for (url, changes, expected) in [
            (url, json!({ "audience": null }), "introspection.audience: is required"),
            (
                url,
                json!({ "audience": ["any", "x"] }),
                "introspection.audience: `any` stands alone",
            ),
            (url, json!({ "client_id": "" }), "introspection.client_id: must not be empty"),
            (
                url,
                json!({ "client_secret": "" }),
                "introspection.client_secret: the secret is empty",
            ),
            (url, json!({ "timeout": "0" }), "introspection.timeout: must be more than 0"),
            (url, own, "introspection.ca: cannot read ./none.pem"),
            ("http://id.example/", json!({}), "introspection.url: plain HTTP to another machine"),
            ("canary", json!({}), "introspection.url: expected a URL such as"),
            ("https://canary:x@id.example/", json!({}), "introspection.url: has a user of its own"),
        ] {
            let all = problems(url, changes);
            assert!(all.contains(expected), "{expected} in {all}");
            assert!(!all.contains("canary"), "{all}");
        }
    }
}
