//! From a credential to a place among the live connections: verify, register,
//! then decide, so that a close between the two cannot be missed.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::exchange::Exchange;
use super::gate::Gate;
use super::judge_again;
use super::plan::Plans;
use crate::clock;
use crate::close::Reason;
use crate::connection::{Arrival, Carrier, Entry, Place};
use crate::credential::{Finding, Presented};
use crate::handshake::Kind;
use crate::identity::Identity;
use crate::policy::{Decision, Permit, Rule, decide};
use crate::recheck::Question;
use crate::telemetry::Record;
use crate::verifier::{
    Credential, Occasion, Original, Recheck, Redeemed, Unavailable, VerifyError,
};

/// What the head of a request proves.
pub(super) enum Shown {
    /// Somebody, or the anonymous identity where that is allowed.
    Identity(Proven),
    /// Nothing yet: the first message will have to.
    Nothing,
}

/// Who a credential proved.
pub(super) struct Proven {
    /// Who.
    pub(super) identity: Arc<Identity>,
    /// The credential, if its verifier can be asked again: of a ticket, the one
    /// that it was fetched with.
    pub(super) original: Option<Original>,
}

impl Proven {
    /// Nobody in particular.
    pub(super) fn nobody() -> Proven {
        Proven { identity: Arc::new(Identity::anonymous()), original: None }
    }
}

/// A client that may have what it asks for.
pub(super) struct Admitted {
    /// The proof of the decision.
    pub(super) permit: Permit,
    /// The connection's place among the live ones.
    pub(super) place: Place,
}

/// Looks at the head: the first credential present decides, valid or not.
///
/// # Errors
/// Why the credential, or the lack of one, is refused.
pub(super) async fn authenticate(
    exchange: &Exchange,
    finding: Finding,
    record: &mut Record,
) -> Result<Shown, Reason> {
    let access = &exchange.plan.access;
    match finding {
        Finding::Present(presented) => {
            verify(exchange, &presented, record).await.map(Shown::Identity)
        }
        Finding::Refused { kind, reason, .. } => {
            record.credential(kind);
            Err(reason)
        }
        Finding::Absent if access.sources.message().is_some() => Ok(Shown::Nothing),
        Finding::Absent if access.anonymous => Ok(Shown::Identity(Proven::nobody())),
        Finding::Absent => Err(Reason::MissingCredential),
    }
}

/// Has the source's verifiers judge what was presented.
///
/// # Errors
/// The reason of the rejection, or that nobody could judge.
pub(super) async fn verify(
    exchange: &Exchange,
    presented: &Presented,
    record: &mut Record,
) -> Result<Proven, Reason> {
    record.credential(presented.kind);
    let decided = exchange.plan.access.chains.get(presented.index);
    let Some((chain, occasion)) = decided.zip(exchange.occasion(presented.index)) else {
        return Err(Reason::InvalidCredential);
    };
    let credential = Credential { value: presented.value.expose(), basic: presented.basic };
    let Some(decider) = chain.decider(&credential) else { return Err(Reason::InvalidCredential) };
    record.verifier(decider.name());
    let tickets = decider.tickets();
    if tickets.is_some() && matches!(exchange.opening.kind, Kind::Plain) {
        // A ticket is for one upgrade: it stays open for that.
        return Err(Reason::InvalidCredential);
    }
    let started = Instant::now();
    let now = clock::unix_now();
    let judged = match tickets {
        Some(tickets) => tickets.redeem(&credential, now).await,
        None => decider.verify(&credential, &occasion, now).await.map(|identity| {
            let again = decider.recheck() != Recheck::Never;
            let original = again.then(|| Original::of(&credential, occasion.place));
            Redeemed { identity, original }
        }),
    };
    let seconds = started.elapsed().as_secs_f64();
    exchange.gate.telemetry.metrics.auth_duration(decider.name(), seconds);
    match judged {
        Ok(Redeemed { identity, original }) => {
            record.subject(identity.shared_subject());
            Ok(Proven { identity, original })
        }
        Err(VerifyError::Rejected(reason)) => Err(reason),
        Err(VerifyError::Unavailable(Unavailable(cause))) => {
            record.cause(cause);
            Err(Reason::VerifierUnavailable)
        }
    }
}

/// Registers the connection, then decides whether it may stay. `message` is the
/// one that authenticated, if one did.
///
/// # Errors
/// Why the identity may not.
pub(super) fn admit(
    exchange: &Exchange,
    proven: Proven,
    carrier: Carrier,
    message: Option<&Value>,
) -> Result<Admitted, Reason> {
    admit_by(exchange, proven, carrier, &exchange.plan.access.rule, message)
}

fn admit_by(
    exchange: &Exchange,
    proven: Proven,
    carrier: Carrier,
    rule: &Rule,
    message: Option<&Value>,
) -> Result<Admitted, Reason> {
    let plan = &exchange.plan;
    let Proven { identity, original } = &proven;
    let mut variables = exchange.variables(Some(identity), |name| rule.uses(name));
    if rule.uses("message") {
        variables.insert("message", message.cloned().unwrap_or_default());
    }
    let asked_again = carrier == Carrier::Socket || original.is_some();
    let grounds = asked_again.then(|| exchange.grounds(&variables).kept());
    let place = exchange.gate.registry.enter(Arrival {
        request_id: &exchange.request_id,
        identity,
        peer: exchange.client.ip,
        carrier,
        codes: plan.access.codes,
        limits: &plan.live,
        metrics: &plan.metrics,
        grounds,
    });
    // As with a revocation: a drain that begins behind this finds the connection, and
    // one that began before it is seen here.
    if exchange.gate.is_draining() {
        return Err(Reason::Draining);
    }
    exchange.gate.revocations.judge(identity, place.entry().opened)?;
    let permit = match decide(rule, Arc::clone(identity), &variables, clock::unix_now()) {
        Decision::Allow(permit) => permit,
        Decision::Deny(denial) => return Err(denial.reason),
    };
    if carrier == Carrier::Socket {
        place.claim().map_err(|_| Reason::LimitSubject)?;
    }
    // A reload in the meantime has not seen this connection.
    judge_again::late(exchange, place.entry());
    place.entry().admit()?;
    if let Some(original) = proven.original {
        let asked = exchange.occasion_at(crate::credential::Place::Message);
        watch(&exchange.gate, &exchange.plans, place.entry(), original, &asked);
    }
    Ok(Admitted { permit, place })
}

/// Has the login behind the connection of `entry` asked about again: `original`,
/// which was just proven, with the request `asked`.
pub(super) fn watch(
    gate: &Gate,
    plans: &Plans,
    entry: &Arc<Entry>,
    original: Original,
    asked: &Occasion<'_>,
) {
    if entry.limits().recheck.is_zero() {
        return;
    }
    let identity = entry.identity();
    let name = identity.verifier();
    let Some(kept) = plans.verifiers.get(&**name) else { return };
    let kind = kept.built.verifier.recheck();
    if let Some(question) = Question::new(name, kind, original, asked) {
        gate.rechecks.watch(entry, question, tokio::time::Instant::now());
    }
}

/// Registers a CORS preflight, which the policy is not asked about: it carries
/// no credential and its answer holds nothing of the user's.
///
/// # Errors
/// As [`admit`], though no rule is asked.
pub(super) fn admit_preflight(exchange: &Exchange) -> Result<Admitted, Reason> {
    admit_by(exchange, Proven::nobody(), Carrier::Http, &Rule::default(), None)
}
