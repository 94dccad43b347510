//! The operator's listener: metrics, health, readiness, connections, drain,
//! revocations. Never on the main port; what changes anything needs the token.

mod revoke;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::clock;
use crate::connection::{Carrier, Entry, State};
use crate::pipeline::Gate;
use crate::relay::Direction;
use crate::secret::Secret;

/// What the operator's requests work on.
pub struct Admin {
    gate: Arc<Gate>,
    token: ArcSwapOption<Secret>,
    ready: AtomicBool,
    drain: Notify,
}

type Answer = Response<Full<Bytes>>;

/// Where the public keys of the assertions are (RFC 8615).
const JWKS: &str = "/.well-known/sockgate/jwks.json";

/// The most connections on a page of `/connections`.
const PAGE: usize = 1000;

impl Admin {
    /// An operator's view of `gate`, guarded by `token`.
    pub fn new(gate: Arc<Gate>, token: Option<Secret>) -> Admin {
        Admin {
            gate,
            token: ArcSwapOption::from_pointee(token),
            ready: AtomicBool::new(false),
            drain: Notify::new(),
        }
    }

    /// Replaces the token, as a reload does.
    pub fn set_token(&self, token: Option<Secret>) {
        self.token.store(token.map(Arc::new));
    }

    /// The listeners are bound and the configuration is live.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Waits until an operator asks for a drain.
    pub async fn drain_requested(&self) {
        self.drain.notified().await;
    }

    /// Answers one request from `peer`.
    pub async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Answer {
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/metrics" | "/healthz" | "/readyz" | "/connections" | JWKS if !get => {
                not_allowed("GET, HEAD")
            }
            "/metrics" => self.metrics(),
            "/healthz" => health(),
            "/readyz" => self.readiness(),
            JWKS => self.jwks(),
            "/connections" => match self.may_look(request.headers(), peer) {
                Ok(()) => self.connections(request.uri().query().unwrap_or_default()),
                Err(status) => denied(status),
            },
            "/drain" if *request.method() != Method::POST => not_allowed("POST"),
            "/drain" => match self.may_change(request.headers()) {
                Ok(()) => {
                    self.drain.notify_one();
                    json_answer(
                        StatusCode::ACCEPTED,
                        &json!({ "draining": true, "open": self.gate.registry.open() }),
                    )
                }
                Err(status) => denied(status),
            },
            "/revoke" if *request.method() != Method::POST => not_allowed("POST"),
            "/revoke" => match self.may_change(request.headers()) {
                Ok(()) => self.revoke(request.into_body()).await,
                Err(status) => denied(status),
            },
            _ => json_answer(StatusCode::NOT_FOUND, &json!({ "error": "Not found" })),
        }
    }

    fn metrics(&self) -> Answer {
        let metrics = &self.gate.telemetry.metrics;
        self.gate.registry.report_traffic(metrics);
        match metrics.render() {
            Ok(text) => answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
            Err(_) => json_answer(
                StatusCode::INTERNAL_SERVER_ERROR,
                &json!({ "error": "metrics cannot be encoded" }),
            ),
        }
    }

    /// Open: an upstream that asks for the keys has no token, and they are public.
    fn jwks(&self) -> Answer {
        answer(StatusCode::OK, "application/jwk-set+json", self.gate.plans.load().jwks.clone())
    }

    fn readiness(&self) -> Answer {
        let (status, word) = match (self.gate.is_unready(), self.ready.load(Ordering::Acquire)) {
            (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
            (false, true) => (StatusCode::OK, "ready"),
        };
        // Not a reason to be unready: that would take every replica out at once.
        let plans = self.gate.plans.load();
        let revocations = self.gate.revocations.is_degraded().then_some("revocation");
        let degraded: Vec<&str> = plans.degraded().chain(revocations).collect();
        json_answer(status, &json!({ "status": word, "degraded": degraded }))
    }

    /// Without a token, looking is for the loopback; with one, for its holder.
    fn may_look(&self, headers: &HeaderMap, peer: IpAddr) -> Result<(), StatusCode> {
        match &*self.token.load() {
            Some(token) => check(token, headers),
            None if peer.to_canonical().is_loopback() => Ok(()),
            None => Err(StatusCode::FORBIDDEN),
        }
    }

    /// Without a token, nobody changes anything.
    fn may_change(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        self.token.load().as_ref().map_or(Err(StatusCode::FORBIDDEN), |token| check(token, headers))
    }

    /// `GET /connections?subject=&route=&limit=&after=`.
    fn connections(&self, query: &str) -> Answer {
        let mut filter = Filter { limit: 100, ..Filter::default() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(value) = form_decoded(value) else {
                return bad_request("is not valid form encoding");
            };
            if value.is_empty() {
                continue;
            }
            match name {
                "subject" => filter.subject = Some(value),
                "route" => filter.route = Some(value),
                "limit" => match value.parse() {
                    Ok(limit) if (1..=PAGE).contains(&limit) => filter.limit = limit,
                    _ => return bad_request("limit is a number from 1 to 1000"),
                },
                "after" => match value.parse() {
                    Ok(after) => filter.after = after,
                    Err(_) => return bad_request("after is the `next` of the last page"),
                },
                _ => return bad_request("known parameters: subject, route, limit, after"),
            }
        }
        let entries = self.gate.registry.entries();
        let mut matching = entries.iter().filter(|entry| filter.admits(entry));
        let page: Vec<&Arc<Entry>> = matching.by_ref().take(filter.limit).collect();
        let next =
            page.last().filter(|_| matching.next().is_some()).map(|last| last.id.to_string());
        let connections: Vec<Value> = page.into_iter().map(|entry| listed(entry)).collect();
        json_answer(StatusCode::OK, &json!({ "connections": connections, "next": next }))
    }
}

#[derive(Default)]
struct Filter {
    subject: Option<String>,
    route: Option<String>,
    limit: usize,
    after: u64,
}

impl Filter {
    fn admits(&self, entry: &Entry) -> bool {
        entry.carrier == Carrier::Socket
            && entry.state() != State::Deciding
            && entry.id > self.after
            && self.subject.as_ref().is_none_or(|subject| subject == entry.identity().subject())
            && self.route.as_ref().is_none_or(|route| **route == *entry.route())
    }
}

fn listed(entry: &Entry) -> Value {
    let identity = entry.identity();
    json!({
        "id": &*entry.request_id,
        "route": entry.route(),
        "subject": identity.subject(),
        "method": identity.method(),
        "verifier": &**identity.verifier(),
        "peer": entry.peer.to_string(),
        "opened": clock::rfc3339(entry.opened),
        "expires": identity.expires().map(|at| clock::rfc3339(at.saturating_mul(1000))),
        "bytes_up": entry.control.tally(Direction::Up).bytes(),
        "bytes_down": entry.control.tally(Direction::Down).bytes(),
    })
}

/// Alive, as which process, and with how many tasks: where that number goes on growing
/// while connections come and go, something is left behind.
fn health() -> Answer {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let told = json!({ "status": "ok", "pid": std::process::id(), "tasks": tasks });
    json_answer(StatusCode::OK, &told)
}

fn check(token: &Secret, headers: &HeaderMap) -> Result<(), StatusCode> {
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match shown {
        Some((_, shown)) if token.matches(shown.trim().as_bytes()) => Ok(()),
        Some(_) | None => Err(StatusCode::UNAUTHORIZED),
    }
}

fn denied(status: StatusCode) -> Answer {
    let error = if status == StatusCode::UNAUTHORIZED {
        "Unauthorized"
    } else {
        "Forbidden: set admin.token to use this"
    };
    let mut answer = json_answer(status, &json!({ "error": error }));
    if status == StatusCode::UNAUTHORIZED {
        answer
            .headers_mut()
            .insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

fn not_allowed(allow: &'static str) -> Answer {
    let mut answer =
        json_answer(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "Method not allowed" }));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

fn bad_request(error: &str) -> Answer {
    json_answer(StatusCode::BAD_REQUEST, &json!({ "error": error }))
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    answer(status, "application/json", body.to_string())
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// application/x-www-form-urlencoded, one value.
fn form_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}
