//! Asks verifiers again about the logins behind live connections, one look-up a
//! credential, and has each connection take the consequences (`lifetime.recheck`).
//!
//! A login that still stands brings its new end and its new claims. One that is
//! gone before its end closes with [`Reason::Revoked`]; so does one that belongs to
//! somebody else by now, since the login that was there is gone all the same. One
//! whose end has come anyway is left to `on_expiry` and `grace`.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::gate::Gate;
use super::plan::Plans;
use super::standing::{Standing, Unfit};
use crate::clock::{self, Ticker};
use crate::close::Reason;
use crate::connection::Entry;
use crate::identity::Identity;
use crate::recheck::Turn;
use crate::verifier::{Recheck, Unavailable, VerifyError};

/// What a verifier says of a login.
type Answer = Result<Arc<Identity>, VerifyError>;

/// How many connections take the consequences before others get a turn.
const AT_ONCE: usize = 64;

/// Rechecks for as long as it is polled.
pub async fn recheck(gate: Arc<Gate>) {
    let mut ticks = interval(Ticker::PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turns = JoinSet::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => gate.rechecks.forget(&gate.registry.departed()),
            Some(_) = turns.join_next() => {}
        }
        for turn in gate.rechecks.due(Instant::now()) {
            turns.spawn(take(Arc::clone(&gate), turn));
        }
    }
}

async fn take(gate: Arc<Gate>, turn: Turn) {
    let answer = ask(&gate, &turn).await;
    if turn.asks() {
        let outcome = match &answer {
            Ok(_) => "valid",
            Err(VerifyError::Rejected(_)) => "refused",
            Err(VerifyError::Unavailable(_)) => "unavailable",
        };
        gate.telemetry.metrics.recheck(turn.question().verifier(), outcome);
    }
    let plans = gate.plans.load_full();
    let answered = !matches!(answer, Err(VerifyError::Unavailable(_)));
    let members = match answered {
        true => turn.members(),
        false => turn.stale_members(Instant::now()),
    };
    for some in members.chunks(AT_ONCE) {
        some.iter().for_each(|entry| apply(&gate, &plans, &turn, entry, &answer));
        tokio::task::yield_now().await;
    }
    if answered {
        turn.settle();
    }
}

async fn ask(gate: &Gate, turn: &Turn) -> Answer {
    let question = turn.question();
    // A reload may have put another in its place, or left it out.
    let plans = gate.plans.load_full();
    let verifier = plans.verifiers.get(&**question.verifier()).map(|kept| &kept.built.verifier);
    match verifier.filter(|verifier| turn.asks() && verifier.recheck() != Recheck::Never) {
        Some(verifier) => question.ask(&**verifier, clock::unix_now()).await,
        None => Err(Unavailable("nobody is asked").into()),
    }
}

fn apply(gate: &Gate, plans: &Arc<Plans>, turn: &Turn, entry: &Arc<Entry>, answer: &Answer) {
    let now = clock::unix_millis();
    match answer {
        Ok(proven) => stand_on(gate, plans, turn, entry, proven),
        Err(VerifyError::Unavailable(_)) => {
            turn.if_holds(entry, || entry.close(Reason::VerifierUnavailable));
        }
        Err(VerifyError::Rejected(Reason::Expired)) => {
            turn.if_holds(entry, || entry.end_login(now));
        }
        // The store forgets it when it ends, give or take what a clock differs.
        Err(VerifyError::Rejected(_)) if has_ended(entry, now) => {}
        Err(VerifyError::Rejected(Reason::Forbidden)) => {
            turn.if_holds(entry, || entry.close(Reason::Forbidden));
        }
        Err(VerifyError::Rejected(_)) => {
            turn.if_holds(entry, || entry.close(Reason::Revoked));
        }
    }
}

/// Whether the login has come to its own end, or is about to.
fn has_ended(entry: &Entry, now_millis: i64) -> bool {
    const ABOUT: i64 = 1000;
    let end = entry.identity().deadline().map(|at| at.saturating_mul(1000));
    end.is_some_and(|end| end <= now_millis.saturating_add(ABOUT))
}

fn stand_on(
    gate: &Gate,
    plans: &Arc<Plans>,
    turn: &Turn,
    entry: &Arc<Entry>,
    proven: &Arc<Identity>,
) {
    let Some(plan) = plans.named(entry.route()) else { return };
    let standing = Standing { gate, plans, plan, entry };
    loop {
        let present = entry.identity();
        // In this order: what was loaded before the look is of this login.
        if !turn.holds(entry) {
            return;
        }
        // One that was found ended, and stands again as it was, is news.
        if proven.is_unchanged(&present) && entry.ends_with(&present) {
            return;
        }
        if !proven.is_same(&present) {
            return turn.if_holds(entry, || entry.close(Reason::Revoked));
        }
        match standing.judge(proven) {
            // Unknown: who could not be told yet has not been let in either.
            Ok(()) | Err(Unfit::Unknown) => {}
            Err(Unfit::Revoked) => {
                return turn.if_holds(entry, || entry.close(Reason::Revoked));
            }
            Err(Unfit::NotAllowed) => {
                return turn.if_holds(entry, || entry.close(Reason::Forbidden));
            }
        }
        if entry.renew(&present, proven) {
            return standing.settle(proven);
        }
        if !entry.state().has_login() {
            return;
        }
    }
}
