//! The story of one request, top to bottom: limits → route → origin → credential
//! → verifier → policy → identity → upstream. Each step is a room of its own;
//! this one only puts them in order and turns every failure into an answer.

mod admission;
mod after;
mod build;
mod exchange;
mod explain;
mod gate;
mod judge_again;
mod login;
mod login_again;
mod logout_desk;
mod plain;
mod plan;
mod raw;
mod recheck;
mod refresh;
mod rejection;
mod session;
mod slots;
mod standing;
mod ticket_desk;
mod upgrade;

use std::sync::Arc;
use std::time::Instant;

use http::header::ORIGIN;
use http::{Response, request};
use hyper::body::Incoming;

pub use self::after::Stage;
pub use self::build::{Built, Unusable, build};
use self::exchange::{Exchange, fresh_request_id, sane_request_id};
pub use self::explain::{Question, Report, Verdict, explain};
pub use self::gate::{Gate, Link};
pub use self::judge_again::judge_again;
use self::logout_desk::LogoutDesk;
use self::plain::Plain;
pub use self::plan::{Access, Plan, Plans};
pub use self::recheck::recheck;
use self::rejection::refusal;
pub use self::rejection::{Body, raw_refusal};
pub use self::slots::{Counts, Slots};
use self::ticket_desk::TicketDesk;
use self::upgrade::Upgrade;
use crate::close::Reason;
use crate::handshake::{Client, Host, Kind, MOST_TARGET, Opening, readable_target};
use crate::policy::{self, IpKey, LimitsConfig, RateLimiter};
use crate::route::{Match, upstream_path};
use crate::telemetry::Record;

/// A connection's part in the count of its address.
pub type IpSlot = policy::Slot<IpKey>;

/// Answers one request; the head of an upgrade may come without a body. A 101
/// leaves what follows it on the link.
pub async fn serve(
    gate: Arc<Gate>,
    link: Arc<Link>,
    head: request::Parts,
    body: Option<Incoming>,
) -> Response<Body> {
    // Read before anything is awaited: the verdict is on this very head.
    let fault = link.fault.reason(&head.headers);
    let plans = gate.plans.load_full();
    let client = plans.proxies.client(link.peer, link.tls, &head.headers);
    let request_id = match head.headers.get("x-request-id").and_then(sane_request_id) {
        Some(id) if client.trusted => id.into(),
        Some(_) | None => fresh_request_id(),
    };
    let mut record = Record::open(&gate.telemetry, &request_id, Some(client.ip));
    let (method, uri) = (head.method.clone(), head.uri.clone());
    let is_sound = fault.is_none();
    let opening = match fault.map_or_else(|| Opening::read(head), Err) {
        Ok(opening) => opening,
        Err(reason) => {
            if let Some(target) = readable_target(&uri).filter(|_| is_sound) {
                record.request(&plans.redactor, method.as_str(), || target, None);
            }
            return refuse(record, reason);
        }
    };
    let origin = opening.headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    record.request(&plans.redactor, method.as_str(), || full_path(&opening), origin);
    if let Err(reason) = link.begin(&gate) {
        return refuse(record, reason);
    }
    let host = plans.proxies.host(&client, &opening.headers).or_else(|| opening.host.clone());
    let host = host.unwrap_or(Host { name: "".into(), port: None });
    let is_upgrade = matches!(opening.kind, Kind::Upgrade(_));
    let (plan, upstream_path) = match plans.router.find(&host.name, &opening.path) {
        Match::Found(plan, rest) => {
            let base = plan.upstream.as_ref().and_then(|upstream| upstream.endpoint.base_path());
            (Arc::clone(plan), upstream_path(rest, &opening.path, base))
        }
        Match::None => {
            // Also whoever tries paths is counted.
            let (limits, rate) = (&plans.limits, plans.rate.as_deref());
            let entered = enter_limits(&gate, &link, limits, rate, &client, is_upgrade, is_upgrade);
            return refuse(record, entered.err().unwrap_or(Reason::NoRoute));
        }
    };
    record.route(&plan.metrics);
    let query = opening.query.as_ref().map_or(0, |query| query.len() + 1);
    if upstream_path.len() + query > MOST_TARGET {
        // The upstream's base path made it longer than a target can be.
        return refuse(record, Reason::LimitHeader);
    }
    if let Some(upstream) = &plan.upstream {
        record.upstream(upstream.endpoint.label());
    }
    let counts = is_upgrade || plan.tickets.is_some();
    let rate = plan.rate.as_deref();
    let ip_slot = match enter_limits(&gate, &link, &plan.limits, rate, &client, is_upgrade, counts)
    {
        Ok(slot) => slot,
        Err(reason) => return refuse(record, reason),
    };
    let carries =
        plan.upstream.as_ref().is_some_and(|upstream| upstream.endpoint.carries_upgrades());
    if plan.access.deny || (is_upgrade && !carries && !plan.is_desk()) {
        return refuse(record, Reason::Forbidden);
    }
    // What a raw server would make of HTTP is nothing that anybody meant.
    if !is_upgrade && plan.raw.is_some() {
        return refuse(record, Reason::UpgradeRequired);
    }
    // Boxed: it is handed on from step to step.
    let mut exchange = Box::new(Exchange {
        gate,
        plans,
        plan,
        client,
        host,
        request_id,
        opening,
        upstream_path,
        echo: None,
        ends: link.ends,
        certificate: link.certificate.clone(),
    });
    if !exchange.origin_allowed() {
        return refuse(record, Reason::OriginDenied);
    }
    // Boxed, but for upgrades: a task is as large as the largest that it may have to do.
    if exchange.plan.tickets.is_some() {
        let desk = TicketDesk { link: &link, exchange, record, _ip_slot: ip_slot };
        return Box::pin(desk.answer(body)).await;
    }
    if exchange.plan.logouts.is_some() {
        let desk = LogoutDesk { link: &link, exchange, record, _ip_slot: ip_slot };
        return Box::pin(desk.answer(body)).await;
    }
    let finding = exchange.find();
    exchange.clean();
    match body {
        _ if is_upgrade => Upgrade { link: &link, exchange, record, ip_slot }.answer(finding).await,
        Some(body) => {
            let plain = Plain { link: &link, exchange, record, ip_slot };
            Box::pin(plain.answer(finding, body)).await
        }
        None => refuse(record, Reason::ProtocolError),
    }
}

/// The limits that count by address, and an upgrade's among the unauthenticated;
/// `counts` among the handshakes.
fn enter_limits(
    gate: &Gate,
    link: &Link,
    limits: &LimitsConfig,
    rate: Option<&RateLimiter>,
    client: &Client,
    is_upgrade: bool,
    counts: bool,
) -> Result<Option<IpSlot>, Reason> {
    let key = IpKey::of(client.ip);
    if is_upgrade {
        link.unproven(gate)?;
    }
    if counts
        && let Some(rate) = rate
        && !rate.admit(key, Instant::now())
    {
        return Err(Reason::LimitRate);
    }
    match limits.connections_per_ip {
        0 => Ok(None),
        most => gate.per_ip.try_enter(key, most).map(Some).ok_or(Reason::LimitIp),
    }
}

/// A refusal that is always plain HTTP.
fn refuse(record: Record, reason: Reason) -> Response<Body> {
    record.refused(reason, reason.status().as_u16(), None);
    refusal(reason, false)
}

/// Path and query as the client sent them, but for the normal form of the path.
fn full_path(opening: &Opening) -> String {
    match &opening.query {
        Some(query) => format!("{}?{query}", opening.path),
        None => opening.path.clone(),
    }
}
