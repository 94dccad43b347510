//! The way of an upgrade whose head holds the credential: decide, dial, and only
//! after the upstream's valid 101 tell the client 101 (RFC 6455 §4.2.2).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Response, StatusCode};
use http_body_util::{Either, Full};
use tokio::time::error::Elapsed;

use super::IpSlot;
use super::admission::{self, Admitted, Shown};
use super::after::{After, Task};
use super::exchange::Exchange;
use super::gate::Link;
use super::login::Login;
use super::login_again::LoginTap;
use super::plain::{Live, StreamedBody};
use super::plan::{Plan, text_frame};
use super::raw;
use super::rejection::{Body, refusal};
use super::session::Session;
use crate::close::Reason;
use crate::connection::Carrier;
use crate::credential::{Finding, Progress};
use crate::expression::Variables;
use crate::handshake::{Kind, accept_for, tokens};
use crate::identity::Identity;
use crate::policy::{Preview, Reject};
use crate::relay::RelaySettings;
use crate::relay::frame::Extensions;
use crate::telemetry::Record;
use crate::upstream::{
    Endpoint, Previewed, UpgradeError, UpgradeRequest, Upgraded, connect, preview, strip_hop_by_hop,
};

/// An upgrade on its way.
pub(super) struct Upgrade<'a> {
    /// The client's connection.
    pub(super) link: &'a Link,
    /// The request.
    pub(super) exchange: Box<Exchange>,
    /// What is told of it.
    pub(super) record: Record,
    /// Its part in the count of its address.
    pub(super) ip_slot: Option<IpSlot>,
}

impl Upgrade<'_> {
    /// Answers the upgrade; what follows the 101 is left on the link.
    pub(super) async fn answer(mut self, finding: Finding) -> Response<Body> {
        let presented = !matches!(finding, Finding::Absent);
        let proven = match admission::authenticate(&self.exchange, finding, &mut self.record).await
        {
            Ok(Shown::Identity(proven)) => proven,
            Ok(Shown::Nothing) => return self.ask_for_message(),
            Err(reason) => return self.refuse(reason, presented),
        };
        let identity = Arc::clone(&proven.identity);
        let admitted = match admission::admit(&self.exchange, proven, Carrier::Socket, None) {
            Ok(admitted) => admitted,
            Err(reason) => return self.refuse(reason, presented),
        };
        self.link.permitted();
        match dial(&self.exchange, &admitted, &identity, None).await {
            Ok(upgraded) => self.connect_through(admitted, &identity, upgraded),
            Err(Failure::Reason(reason)) => self.refuse(reason, presented),
            Err(Failure::Answered(response)) => {
                self.record.refused(Reason::UpstreamRefused, response.status().as_u16(), None);
                let (mut head, body) = response.into_parts();
                strip_hop_by_hop(&mut head.headers);
                head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
                // Nobody says that it is short: a stream ends with the login too.
                let live = Live::new(admitted.place, self.ip_slot.take());
                Response::from_parts(head, Either::Right(StreamedBody::new(body, live)))
            }
        }
    }

    fn connect_through(
        self,
        admitted: Admitted,
        identity: &Arc<Identity>,
        upgraded: Upgraded,
    ) -> Response<Body> {
        let Upgraded { stream, ahead, mut headers } = upgraded;
        let settings = relay_settings(&self.exchange, identity, None, &headers);
        strip_hop_by_hop(&mut headers);
        headers.remove(SEC_WEBSOCKET_ACCEPT);
        // A 101 has none (RFC 9110 §8.6), whatever the upstream says.
        headers.remove(CONTENT_LENGTH);
        // A browser that offered nothing but a marker and its token fails without an
        // answer; a raw upstream has none.
        if (self.exchange.offered_subprotocols().is_empty() || self.exchange.plan.raw.is_some())
            && let Some(marker) = self.echo()
        {
            headers.entry(SEC_WEBSOCKET_PROTOCOL).or_insert(marker);
        }
        let response = self.switching(headers);
        let Upgrade { link, exchange, record, ip_slot } = self;
        let spoken = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
        let spoken = spoken.and_then(|spoken| spoken.to_str().ok());
        let tap = LoginTap::for_second_logins(&exchange, identity, None, spoken);
        let session = Session::new(exchange, record, admitted.place, ip_slot, settings, tap);
        link.leave(After::new(Task::Relay { session, upstream: stream, ahead }));
        response
    }

    /// Upgrades first, without extensions, to read the first message.
    fn ask_for_message(mut self) -> Response<Body> {
        let preview = match self.exchange.preview() {
            Ok(preview) => preview,
            Err(reason) => {
                self.record.refused(reason, reason.status().as_u16(), None);
                return refusal(reason, false);
            }
        };
        let chosen = chosen_subprotocol(&self.exchange).map(str::to_owned);
        let mut headers = HeaderMap::new();
        if let Some(value) = chosen.as_deref().and_then(|chosen| HeaderValue::from_str(chosen).ok())
        {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
        }
        let response = self.switching(headers);
        self.record.credential("message");
        let Upgrade { link, exchange, record, ip_slot } = self;
        link.leave(After::new(Task::Login(Box::new(Login {
            exchange,
            record,
            ip_slot,
            subprotocol: chosen,
            progress: Progress::default(),
            preview,
        }))));
        response
    }

    /// Refuses so that the client can read it, unless the policy wants HTTP.
    fn refuse(self, reason: Reason, presented: bool) -> Response<Body> {
        let access = &self.exchange.plan.access;
        // A drain is told to whoever balances the load, not to the page.
        if access.reject == Reject::Http || reason == Reason::Draining {
            self.record.refused(reason, reason.status().as_u16(), None);
            return refusal(reason, presented);
        }
        let code = reason.close_code(&access.codes);
        let message = self.exchange.reject_message(reason);
        let mut headers = HeaderMap::new();
        if let Some(echo) = self.echo() {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, echo);
        }
        let response = self.switching(headers);
        self.record.refused(reason, 101, Some(code));
        let message = message.map(|message| (true, message.into_bytes()));
        self.link.leave(After::new(Task::Refuse { message, code, text: reason.text() }));
        response
    }

    fn echo(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(self.exchange.echo.as_deref()?).ok()
    }

    fn switching(&self, mut headers: HeaderMap) -> Response<Body> {
        let Kind::Upgrade(offer) = &self.exchange.opening.kind else {
            return refusal(Reason::ProtocolError, false);
        };
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept_for(offer.key.as_bytes()));
        let mut response = Response::new(Either::Left(Full::new(Bytes::new())));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        response
    }
}

/// Why the upstream is not there.
pub(super) enum Failure {
    /// Ours to tell.
    Reason(Reason),
    /// It answered for itself.
    Answered(Box<Response<hyper::body::Incoming>>),
}

/// Reaches the upstream for `identity`. With `only`, that subprotocol alone is
/// offered and no extension: the client has its answer already.
///
/// # Errors
/// [`Failure`]; both are counted here.
pub(super) async fn dial(
    exchange: &Exchange,
    admitted: &Admitted,
    identity: &Identity,
    only: Option<&Option<String>>,
) -> Result<Upgraded, Failure> {
    let plan = &exchange.plan;
    if let Some(raw) = &plan.raw {
        return raw::dial(plan, raw, exchange, admitted, identity).await;
    }
    let (endpoint, request) = asked(exchange, identity, only).map_err(Failure::Reason)?;
    let started = Instant::now();
    let timeout = plan.limits.upstream_connect_timeout.0;
    // Not by a function that takes the future: a handshake would hold it twice.
    let reached = tokio::time::timeout(timeout, connect(&admitted.permit, endpoint, request)).await;
    counted(plan, started, reached)
}

/// Reaches an upstream that speaks first, for a client of whom nothing is known but
/// that it was answered `chosen`.
///
/// # Errors
/// As [`dial`].
pub(super) async fn dial_first(
    exchange: &Exchange,
    proof: Preview,
    chosen: &Option<String>,
) -> Result<Previewed, Failure> {
    let nobody = Identity::anonymous();
    let (endpoint, request) = asked(exchange, &nobody, Some(chosen)).map_err(Failure::Reason)?;
    let most = exchange.plan.limits.auth_message_bytes.0 as usize;
    let plan = &exchange.plan;
    let started = Instant::now();
    let timeout = plan.limits.upstream_connect_timeout.0;
    let reached = tokio::time::timeout(timeout, preview(proof, endpoint, request, most)).await;
    counted(plan, started, reached)
}

fn asked<'a>(
    exchange: &'a Exchange,
    identity: &Identity,
    only: Option<&Option<String>>,
) -> Result<(&'a Endpoint, UpgradeRequest), Reason> {
    let plan = &exchange.plan;
    let (Some(upstream), Kind::Upgrade(offer)) = (&plan.upstream, &exchange.opening.kind) else {
        return Err(Reason::Forbidden);
    };
    // A raw server is dialled elsewhere, and not before the permit.
    if plan.raw.is_some() {
        return Err(Reason::Forbidden);
    }
    let inspected = plan.access.inspects_messages();
    let request = UpgradeRequest {
        target: exchange.target(),
        fields: exchange.upstream_fields(identity)?,
        subprotocols: match only {
            Some(chosen) => chosen.iter().cloned().collect(),
            None => offer.subprotocols.clone(),
        },
        // Where messages are looked at they must not be compressed.
        extensions: offer.extensions.clone().filter(|_| !inspected),
    };
    Ok((&upstream.endpoint, request))
}

/// What dialling since `started` gave, if it came in time; counted either way.
fn counted<T>(
    plan: &Plan,
    started: Instant,
    reached: Result<Result<T, UpgradeError>, Elapsed>,
) -> Result<T, Failure> {
    let (failure, kind) = match reached {
        Ok(Ok(reached)) => {
            plan.metrics.upstream_connect(started.elapsed().as_secs_f64());
            return Ok(reached);
        }
        Ok(Err(UpgradeError::Refused(response))) => (Failure::Answered(response), "refused"),
        Ok(Err(error)) => (Failure::Reason(Reason::UpstreamUnavailable), error.kind()),
        Err(_) => (Failure::Reason(Reason::UpstreamTimeout), "timeout"),
    };
    plan.metrics.upstream_error(kind);
    Err(failure)
}

/// What the relay of an admitted connection is told; `headers` are those of the
/// upstream's 101.
pub(super) fn relay_settings(
    exchange: &Exchange,
    identity: &Identity,
    message: Option<&serde_json::Value>,
    headers: &HeaderMap,
) -> RelaySettings {
    RelaySettings {
        message_bytes: exchange.plan.message_bytes(),
        extensions: Extensions::agreed(tokens(headers, &SEC_WEBSOCKET_EXTENSIONS)),
        greeting: greeting(exchange, identity, message),
    }
}

/// `accept_message` as a frame; no bytes if there is none.
fn greeting(
    exchange: &Exchange,
    identity: &Identity,
    message: Option<&serde_json::Value>,
) -> Bytes {
    let Some(expression) = &exchange.plan.access.accept_message else { return Bytes::new() };
    let extra = Variables::from([("message", message.cloned().unwrap_or_default())]);
    exchange
        .message(expression, extra, Some(identity))
        .map(|text| text_frame(&text))
        .unwrap_or_default()
}

/// What sockgate accepts before the upstream is asked: what the route names, else
/// what the dialect speaks, else whatever comes first.
fn chosen_subprotocol(exchange: &Exchange) -> Option<&str> {
    let configured: Vec<&str> = exchange.plan.subprotocols.iter().map(String::as_str).collect();
    let accepted = match exchange.plan.access.sources.message()?.subprotocols() {
        _ if !configured.is_empty() => &configured,
        Some(spoken) => spoken,
        None => return exchange.echo.as_deref(),
    };
    exchange.offered_subprotocols().into_iter().find(|offered| accepted.contains(offered))
}
