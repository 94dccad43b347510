//! From a credential to a place among the live connections: verify, register,
//! then decide, so that a close between the two cannot be missed.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::exchange::Exchange;
use super::judge_again;
use crate::clock;
use crate::close::Reason;
use crate::connection::{Arrival, Carrier, Place};
use crate::credential::{Finding, Presented};
use crate::handshake::Kind;
use crate::identity::Identity;
use crate::policy::{Decision, Permit, Rule, decide};
use crate::telemetry::Record;
use crate::verifier::{Credential, Unavailable, VerifyError};

/// What the head of a request proves.
pub(super) enum Shown {
    /// Somebody, or the anonymous identity where that is allowed.
    Identity(Arc<Identity>),
    /// Nothing yet: the first message will have to.
    Nothing,
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
        Finding::Absent if access.anonymous => Ok(Shown::Identity(Arc::new(Identity::anonymous()))),
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
) -> Result<Arc<Identity>, Reason> {
    record.credential(presented.kind);
    let Some(chain) = exchange.plan.access.chains.get(presented.index) else {
        return Err(Reason::InvalidCredential);
    };
    let started = Instant::now();
    let credential = Credential { value: presented.value.expose(), basic: presented.basic };
    if let Some(spent) = chain.decider(&credential).filter(|decider| decider.tickets().is_some())
        && matches!(exchange.opening.kind, Kind::Plain)
    {
        // A ticket is for one upgrade: it stays open for that.
        record.verifier(spent.name());
        return Err(Reason::InvalidCredential);
    }
    let judged = match exchange.occasion(presented.index) {
        Some(occasion) => chain.verify(&credential, &occasion, clock::unix_now()).await,
        None => return Err(Reason::InvalidCredential),
    };
    if let Some(verifier) = &judged.verifier {
        record.verifier(verifier);
        exchange.gate.telemetry.metrics.auth_duration(verifier, started.elapsed().as_secs_f64());
    }
    match judged.result {
        Ok(identity) => {
            record.subject(identity.shared_subject());
            Ok(identity)
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
    identity: &Arc<Identity>,
    carrier: Carrier,
    message: Option<&Value>,
) -> Result<Admitted, Reason> {
    admit_by(exchange, identity, carrier, &exchange.plan.access.rule, message)
}

fn admit_by(
    exchange: &Exchange,
    identity: &Arc<Identity>,
    carrier: Carrier,
    rule: &Rule,
    message: Option<&Value>,
) -> Result<Admitted, Reason> {
    let plan = &exchange.plan;
    let mut variables = exchange.variables(Some(identity), |name| rule.uses(name));
    if rule.uses("message") {
        variables.insert("message", message.cloned().unwrap_or_default());
    }
    let grounds = (carrier == Carrier::Socket).then(|| exchange.grounds(&variables).kept());
    let mut place = exchange.gate.registry.enter(Arrival {
        request_id: &exchange.request_id,
        identity,
        peer: exchange.client.ip,
        carrier,
        codes: plan.access.codes,
        limits: &plan.live,
        metrics: &plan.metrics,
        grounds,
    });
    exchange.gate.revocations.judge(identity, place.entry().opened)?;
    let permit = match decide(rule, Arc::clone(identity), &variables, clock::unix_now()) {
        Decision::Allow(permit) => permit,
        Decision::Deny(denial) => return Err(denial.reason),
    };
    if carrier == Carrier::Socket {
        place.claim(identity).map_err(|_| Reason::LimitSubject)?;
    }
    // A reload in the meantime has not seen this connection.
    judge_again::late(exchange, place.entry());
    place.entry().admit()?;
    Ok(Admitted { permit, place })
}

/// Registers a CORS preflight, which the policy is not asked about: it carries
/// no credential and its answer holds nothing of the user's.
///
/// # Errors
/// As [`admit`], though no rule is asked.
pub(super) fn admit_preflight(
    exchange: &Exchange,
    nobody: &Arc<Identity>,
) -> Result<Admitted, Reason> {
    admit_by(exchange, nobody, Carrier::Http, &Rule::default(), None)
}
