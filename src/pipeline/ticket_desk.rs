//! Where a page fetches a ticket: a POST with a cookie or a header that proves
//! who asks. sockgate answers it itself, CORS (Fetch §3.2) included.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONNECTION,
    CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use serde_json::json;

use super::IpSlot;
use super::admission::{self, Proven, Shown};
use super::exchange::Exchange;
use super::gate::Link;
use super::rejection::{Body, refusal};
use crate::clock;
use crate::close::Reason;
use crate::connection::Carrier;
use crate::credential::Finding;
use crate::handshake::Kind;
use crate::policy::Origins;
use crate::telemetry::Record;
use crate::verifier::Issued;

/// What the route takes.
const METHODS: &str = "POST, OPTIONS";

/// How long a browser may remember a preflight, in seconds.
const PREFLIGHT: &str = "600";

/// How much of a body is read, to be ignored.
const BODY: usize = 16 << 10;

/// A request on a route that issues tickets.
pub(super) struct TicketDesk<'a> {
    /// The client's connection.
    pub(super) link: &'a Link,
    /// The request; its Origin is allowed.
    pub(super) exchange: Box<Exchange>,
    /// What is told of it.
    pub(super) record: Record,
    /// Its part in the count of its address.
    pub(super) _ip_slot: Option<IpSlot>,
}

impl TicketDesk<'_> {
    /// Issues a ticket, or says why not.
    /// Upgrades have no body.
    pub(super) async fn answer(self, body: Option<Incoming>) -> Response<Body> {
        let cors = cors(&self.exchange);
        let body = body.filter(|_| matches!(self.exchange.opening.kind, Kind::Plain));
        let mut response = match (&self.exchange.opening.method, body) {
            (&Method::POST, Some(body)) => self.issue(body).await,
            (&Method::OPTIONS, _) => {
                self.record.answered(StatusCode::NO_CONTENT.as_u16(), true);
                options(&self.exchange)
            }
            _ => {
                let reason = Reason::MethodNotAllowed;
                self.record.refused(reason, reason.status().as_u16(), None);
                let mut response = refusal(reason, false);
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
                response
            }
        };
        response.headers_mut().extend(cors);
        response
    }

    async fn issue(mut self, body: Incoming) -> Response<Body> {
        let finding = self.exchange.find_in_headers();
        self.exchange.clean();
        let presented = !matches!(finding, Finding::Absent);
        match self.issued(finding, body).await {
            Ok((issued, all_read)) => {
                self.record.answered(StatusCode::OK.as_u16(), true);
                let Issued { ticket, expires_in } = issued;
                let told = json!({ "ticket": ticket, "expires_in": expires_in });
                let mut response = Response::new(Either::Left(Full::from(told.to_string())));
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                if !all_read {
                    headers.insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
            Err(reason) => {
                self.record.refused(reason, reason.status().as_u16(), None);
                refusal(reason, presented)
            }
        }
    }

    async fn issued(&mut self, finding: Finding, body: Incoming) -> Result<(Issued, bool), Reason> {
        let exchange = &self.exchange;
        let shown = admission::authenticate(exchange, finding, &mut self.record).await?;
        let Proven { identity, original } = match shown {
            Shown::Identity(proven) if !proven.identity.is_anonymous() => proven,
            Shown::Identity(_) | Shown::Nothing => return Err(Reason::MissingCredential),
        };
        // In the registry while it is decided, as everybody who is let in.
        let proven = Proven { identity: Arc::clone(&identity), original: None };
        let _admitted = admission::admit(exchange, proven, Carrier::Http, None)?;
        self.link.permitted();
        let all_read = ignore(body, exchange.plan.limits.header_timeout.0).await;
        let issuer = exchange.plan.tickets.as_ref().and_then(|verifier| verifier.tickets());
        let tickets = issuer.ok_or(Reason::Forbidden)?;
        let issued = tickets.issue(&identity, original, clock::unix_now()).await;
        Ok((issued.map_err(|error| error.reason())?, all_read))
    }
}

/// What lets the page that asks read the answer, whatever it is. `any` page may,
/// but not with the cookies of somebody who merely visits it.
fn cors(exchange: &Exchange) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(VARY, HeaderValue::from_static("origin"));
    let mut origins = exchange.opening.headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else { return headers };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    let access = &exchange.plan.access;
    let with_cookies = access.sources.cookie_names().next().is_some();
    if with_cookies && !matches!(access.origins, Origins::Any) {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    headers
}

/// The answer to OPTIONS, a preflight or not.
fn options(exchange: &Exchange) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::new())));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(METHODS));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if exchange.is_preflight() {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT));
        // Nobody needs the last: but many a client sends it without a body.
        let mut names: Vec<&str> =
            exchange.plan.access.sources.header_names().map(|name| name.as_str()).collect();
        names.push(CONTENT_TYPE.as_str());
        names.dedup();
        if let Ok(names) = HeaderValue::try_from(names.join(", ")) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
    }
    response
}

/// Reads a body that means nothing, a little of it and not for long; whether that
/// was all.
async fn ignore(mut body: Incoming, most: Duration) -> bool {
    let read = async {
        let mut left = BODY;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    };
    tokio::time::timeout(most, read).await.unwrap_or(false)
}
