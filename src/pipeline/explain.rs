//! A dry run of one request: the same rooms in the same order, told step by
//! step. Dials nothing, registers nothing, redeems nothing.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::ORIGIN;
use http::{HeaderMap, Method, request};
use serde_json::Value;

use super::exchange::{Exchange, sane_request_id};
use super::gate::Gate;
use super::upstream_path;
use crate::clock;
use crate::close::Reason;
use crate::credential::{Finding, LoginMessage, Presented, Progress};
use crate::handshake::{Host, Kind, Opening};
use crate::identity::Identity;
use crate::policy::{Decision, Reject, Rule, decide};
use crate::route::Match;
use crate::unit::Span;
use crate::verifier::{Credential, Recheck, Verifier, VerifyError};

/// The request to explain.
pub struct Question {
    /// Method, target and headers.
    pub head: request::Parts,
    /// The peer's address.
    pub peer: IpAddr,
    /// Whether the peer speaks TLS to the gate.
    pub tls: bool,
    /// The first message, where the policy wants one.
    pub message: Option<String>,
    /// Whether verifiers may ask others over a network.
    pub live: bool,
}

/// What would happen.
pub struct Report {
    /// The steps, one a line; no credential in them.
    pub text: String,
    /// What would become of the client.
    pub verdict: Verdict,
}

/// What would become of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It would be let in.
    Admit,
    /// It would be refused.
    Refuse,
    /// That depends on somebody who was not to be asked.
    Unknown,
}

/// Why there is no more to tell.
enum Stop {
    Refused(String),
    NotAsked,
    NotRedeemed,
    NotRead,
}

impl From<String> for Stop {
    fn from(refusal: String) -> Stop {
        Stop::Refused(refusal)
    }
}

struct Narrator {
    text: String,
}

impl Narrator {
    fn say(&mut self, what: &str, said: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{what:<12} {said}");
    }
}

/// Explains what `gate` would do with `question`. `names` tells what the
/// credentials of a policy are called.
pub async fn explain(
    gate: &Arc<Gate>,
    question: Question,
    names: &dyn Fn(&str) -> Vec<String>,
) -> Report {
    let mut narrator = Narrator { text: String::new() };
    let verdict = match narrate(&mut narrator, gate, question, names).await {
        Ok(()) => Verdict::Admit,
        Err(Stop::Refused(refusal)) => {
            narrator.say("verdict", refusal);
            Verdict::Refuse
        }
        Err(Stop::NotAsked) => {
            narrator
                .say("verdict", "unknown: this verifier asks over a network; let it with --live");
            Verdict::Unknown
        }
        Err(Stop::NotRedeemed) => {
            let unknown = "unknown: whose ticket it is shows when it is redeemed, and a dry run \
                           redeems none";
            narrator.say("verdict", unknown);
            Verdict::Unknown
        }
        Err(Stop::NotRead) => {
            let unknown = "unknown: the logout token in the body decides, and a dry run has none";
            narrator.say("verdict", unknown);
            Verdict::Unknown
        }
    };
    Report { text: narrator.text, verdict }
}

fn http_only(reason: Reason) -> String {
    format!("refuse: {} (HTTP {} \"{}\")", reason.label(), reason.status().as_u16(), reason.text())
}

async fn narrate(
    narrator: &mut Narrator,
    gate: &Arc<Gate>,
    question: Question,
    names: &dyn Fn(&str) -> Vec<String>,
) -> Result<(), Stop> {
    let plans = gate.plans.load_full();
    let Question { head, peer, tls, message, live } = question;
    let client = plans.proxies.client(Some(peer), tls, &head.headers);
    let request_id = match head.headers.get("x-request-id").and_then(sane_request_id) {
        Some(id) if client.trusted => id.into(),
        Some(_) | None => "explain".into(),
    };
    let opening = Opening::read(head).map_err(http_only)?;
    let target = match &opening.query {
        Some(query) => format!("{}?{query}", opening.path),
        None => opening.path.clone(),
    };
    narrator.say("logged url", plans.redactor.url(&target));
    narrator.say(
        "client",
        format_args!("{} over {}", client.ip, if client.https { "https" } else { "http" }),
    );
    let host = plans.proxies.host(&client, &opening.headers).or_else(|| opening.host.clone());
    let host = host.unwrap_or(Host { name: "".into(), port: None });
    let Match::Found(plan, rest) = plans.router.find(&host.name, &opening.path) else {
        narrator.say("route", "none matches");
        return Err(http_only(Reason::NoRoute).into());
    };
    let base = plan.upstream.as_ref().and_then(|upstream| upstream.endpoint.base_path());
    let upstream_path = upstream_path(rest, &opening.path, base);
    let plan = Arc::clone(plan);
    narrator.say("route", &plan.name);
    narrator.say("policy", &plan.access.name);
    let is_upgrade = matches!(opening.kind, Kind::Upgrade(_));
    let carries =
        plan.upstream.as_ref().is_some_and(|upstream| upstream.endpoint.carries_upgrades());
    if plan.access.deny || (is_upgrade && !carries && !plan.is_desk()) {
        return Err(http_only(Reason::Forbidden).into());
    }
    if plan.logouts.is_some() {
        let posted = !is_upgrade && opening.method == Method::POST;
        return Err(if posted {
            Stop::NotRead
        } else {
            http_only(Reason::MethodNotAllowed).into()
        });
    }
    let mut exchange = Exchange {
        gate: Arc::clone(gate),
        plans: Arc::clone(&plans),
        plan: Arc::clone(&plan),
        client,
        host,
        request_id,
        opening,
        upstream_path,
        echo: None,
        ends: None,
        certificate: None,
    };
    let origin = exchange
        .opening
        .headers
        .get(ORIGIN)
        .map(|value| plans.redactor.origin(&String::from_utf8_lossy(value.as_bytes())));
    let allowed = exchange.origin_allowed();
    narrator.say(
        "origin",
        format_args!(
            "{}: {}",
            origin.as_deref().unwrap_or("none sent"),
            if allowed { "allowed" } else { "not allowed" }
        ),
    );
    if !allowed {
        return Err(http_only(Reason::OriginDenied).into());
    }
    let issues = plan.tickets.is_some();
    if issues && (is_upgrade || exchange.opening.method != Method::POST) {
        if exchange.opening.method == Method::OPTIONS {
            narrator.say("verdict", "admit: sockgate itself answers OPTIONS here");
            return Ok(());
        }
        return Err(http_only(Reason::MethodNotAllowed).into());
    }
    let finding = if issues { exchange.find_in_headers() } else { exchange.find() };
    exchange.clean();
    if exchange.is_preflight() {
        narrator.say("preflight", "passes without credential and without identity");
    } else {
        let decides = plan.access.sources.message().filter(|_| is_upgrade && message.is_some());
        tell_credentials(
            narrator,
            &finding,
            decides.map(|source| source.index()),
            &names(&plan.access.name),
        );
    }
    let readable = |reason: Reason| refusal(&exchange, is_upgrade, reason);
    let asked = if exchange.is_preflight() {
        (Arc::new(Identity::anonymous()), None)
    } else {
        let (shown, read) = match show(narrator, &exchange, finding, message.as_deref(), is_upgrade)
            .map_err(readable)?
        {
            Shown::Credential(presented, read) => (Some(presented), read),
            Shown::Nothing => (None, None),
        };
        match shown {
            Some(presented) if redeems(&exchange, &presented) => {
                return Err(match is_upgrade {
                    true => Stop::NotRedeemed,
                    false => readable(Reason::InvalidCredential).into(),
                });
            }
            Some(presented) if !live && asks(&exchange, &presented) => return Err(Stop::NotAsked),
            Some(presented) => {
                let identity = identify(narrator, &exchange, &presented).await.map_err(readable)?;
                (identity, read)
            }
            None => (Arc::new(Identity::anonymous()), None),
        }
    };
    let (identity, message) = asked;
    tell_revocation(narrator, gate, &identity, live).await.map_err(readable)?;
    let preview = message.is_some() && plan.previews.is_some();
    let nothing = Rule::default();
    let rule = if exchange.is_preflight() { &nothing } else { &plan.access.rule };
    let mut variables = exchange.variables(Some(&identity), |name| rule.uses(name));
    variables.insert("message", message.unwrap_or_default());
    if let Decision::Deny(denial) =
        decide(rule, Arc::clone(&identity), &variables, clock::unix_now())
    {
        return Err(readable(denial.reason).into());
    }
    if let Some(issuer) = &plan.tickets {
        if identity.is_anonymous() {
            return Err(http_only(Reason::MissingCredential).into());
        }
        narrator
            .say("verdict", format_args!("admit: a ticket of {} (none is issued)", issuer.name()));
        return Ok(());
    }
    if let Some(raw) = &plan.raw {
        if !is_upgrade {
            return Err(http_only(Reason::UpgradeRequired).into());
        }
        let preface = raw.preface(&exchange, &identity).map_err(readable)?;
        narrator.say("verdict", "admit");
        narrator.say("upstream", plan.upstream.as_ref().map_or("", |one| one.endpoint.label()));
        let said = format!("{}; {} bytes are sent first", raw.describe(), preface.len());
        narrator.say("raw", said);
        return Ok(());
    }
    let headers = match preview {
        true => exchange.upstream_headers(&Identity::anonymous()),
        false => exchange.upstream_headers(&identity),
    };
    let headers = headers.map_err(readable)?;
    narrator.say("verdict", "admit");
    if preview {
        narrator.say("dial", "first: the upstream has spoken before the login, unidentified");
    }
    let again = plans.verifiers.get(&**identity.verifier()).map(|kept| &kept.built.verifier);
    if again.is_some_and(|verifier| verifier.recheck() != Recheck::Never)
        && !plan.live.recheck.is_zero()
    {
        let (every, by) = (Span(plan.live.recheck), identity.verifier());
        narrator.say("recheck", format_args!("{by} is asked again every {every}"));
    }
    if is_upgrade && let Some(refresh) = &plan.access.refresh {
        let names: Vec<&str> =
            refresh.chain.verifiers().iter().map(|verifier| &**verifier.name()).collect();
        let by = names.join(", ");
        narrator.say("refresh", format_args!("by a later message, verified by {by}"));
    }
    tell_upstream(narrator, &exchange, &headers);
    Ok(())
}

fn tell_credentials(
    narrator: &mut Narrator,
    finding: &Finding,
    message: Option<usize>,
    names: &[String],
) {
    let (decided, said) = match finding {
        Finding::Absent => (message.unwrap_or(names.len()), "present, decides"),
        Finding::Present(presented) => (presented.index, "present, decides"),
        Finding::Refused { index, reason, .. } => (*index, reason.label()),
    };
    for (index, name) in names.iter().enumerate() {
        let said = match index.cmp(&decided) {
            std::cmp::Ordering::Less => "absent",
            std::cmp::Ordering::Equal => said,
            std::cmp::Ordering::Greater => "not tried",
        };
        narrator.say("credential", format_args!("{name}: {said}"));
    }
}

/// What the client shows.
enum Shown {
    /// A credential, and the message that it stood in.
    Credential(Presented, Option<Value>),
    /// None, and none is needed.
    Nothing,
}

fn show(
    narrator: &mut Narrator,
    exchange: &Exchange,
    finding: Finding,
    message: Option<&str>,
    is_upgrade: bool,
) -> Result<Shown, Reason> {
    let access = &exchange.plan.access;
    match finding {
        Finding::Present(presented) => return Ok(Shown::Credential(presented, None)),
        Finding::Refused { reason, .. } => return Err(reason),
        Finding::Absent => {}
    }
    match (access.sources.message().filter(|_| is_upgrade), message) {
        (Some(source), Some(message)) => {
            let most = exchange.plan.limits.auth_message_bytes.0 as usize;
            let message = source.completed(message);
            let read = source.read(&mut Progress::default(), message.as_bytes(), true, most)?;
            let LoginMessage { token, parsed, .. } = read.ok_or(Reason::MalformedCredential)?;
            let value = token.ok_or(Reason::MissingCredential)?;
            let presented =
                Presented { index: source.index(), kind: "message", value, basic: false };
            Ok(Shown::Credential(presented, Some(parsed)))
        }
        (None, _) if access.anonymous => {
            narrator.say("identity", "anonymous");
            Ok(Shown::Nothing)
        }
        (Some(_), None) => {
            narrator.say(
                "message",
                "the client would be upgraded and asked for its first message; give it with \
                 --message",
            );
            Err(Reason::MissingCredential)
        }
        (None, _) => Err(Reason::MissingCredential),
    }
}

fn decider<'a>(exchange: &'a Exchange, presented: &Presented) -> Option<&'a Arc<dyn Verifier>> {
    let credential = Credential { value: presented.value.expose(), basic: presented.basic };
    exchange.plan.access.chains.get(presented.index)?.decider(&credential)
}

/// Whether verifying would use the credential up.
fn redeems(exchange: &Exchange, presented: &Presented) -> bool {
    decider(exchange, presented).is_some_and(|verifier| verifier.tickets().is_some())
}

/// Whether the verifier that decides asks over a network.
fn asks(exchange: &Exchange, presented: &Presented) -> bool {
    decider(exchange, presented).is_some_and(|verifier| verifier.asks())
}

async fn identify(
    narrator: &mut Narrator,
    exchange: &Exchange,
    presented: &Presented,
) -> Result<Arc<Identity>, Reason> {
    let decided = decider(exchange, presented).zip(exchange.occasion(presented.index));
    let Some((verifier, occasion)) = decided else {
        narrator.say("verifier", "none recognises the credential");
        return Err(Reason::InvalidCredential);
    };
    narrator.say("verifier", verifier.name());
    verifier.start(&exchange.gate.telemetry);
    let credential = Credential { value: presented.value.expose(), basic: presented.basic };
    let verified = verifier.verify(&credential, &occasion, clock::unix_now()).await;
    let identity = verified.map_err(|error| {
        if let VerifyError::Unavailable(unavailable) = error {
            narrator.say("unavailable", unavailable);
        }
        error.reason()
    })?;
    let expires =
        identity.expires().map_or("never".to_owned(), |at| clock::rfc3339(at.saturating_mul(1000)));
    narrator.say(
        "identity",
        format_args!("{} by {}, expires {expires}", identity.subject(), identity.method()),
    );
    Ok(identity)
}

/// Whether the login was revoked, as far as that can be found out here.
async fn tell_revocation(
    narrator: &mut Narrator,
    gate: &Gate,
    identity: &Identity,
    live: bool,
) -> Result<(), Reason> {
    if identity.is_anonymous() {
        return Ok(());
    }
    let revocations = &gate.revocations;
    let said = match (revocations.is_shared(), live) {
        (false, _) => "not known: what is revoked is known to the running process alone",
        (true, false) => "not asked: what is revoked is known to Redis; ask it with --live",
        (true, true) => {
            let judged = revocations.look_up(identity).await;
            narrator.say(
                "revocation",
                match judged {
                    Ok(()) => "none",
                    Err(Reason::Revoked) => "revoked",
                    Err(_) => "not known: Redis does not answer",
                },
            );
            return judged;
        }
    };
    narrator.say("revocation", said);
    Ok(())
}

fn refusal(exchange: &Exchange, is_upgrade: bool, reason: Reason) -> String {
    let access = &exchange.plan.access;
    if !is_upgrade || access.reject == Reject::Http {
        return http_only(reason);
    }
    format!(
        "refuse: {} (101, then Close {} \"{}\")",
        reason.label(),
        reason.close_code(&access.codes),
        reason.text()
    )
}

fn tell_upstream(narrator: &mut Narrator, exchange: &Exchange, headers: &HeaderMap) {
    if let Some(upstream) = &exchange.plan.upstream {
        narrator.say("upstream", upstream.endpoint.label());
    }
    narrator.say("request", format_args!("{} {}", exchange.opening.method, exchange.target()));
    let offered = exchange.offered_subprotocols();
    if !offered.is_empty() {
        narrator.say("header", format_args!("sec-websocket-protocol: {}", offered.join(", ")));
    }
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        narrator.say("header", format_args!("{name}: {}", exchange.plans.redactor.text(&value)));
    }
}
