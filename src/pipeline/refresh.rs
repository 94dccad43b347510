//! A login that is renewed in the middle of its connection (`lifetime.refresh`):
//! the client sends a new credential, which the upstream never sees.
//!
//! A good one of the same identity takes the place of the present login, after
//! revocations and `require` have been asked about it. A bad one extends nothing;
//! [`MOST_REFUSED`] of them in a row end the connection. One a second is verified;
//! what comes sooner counts as refused without asking anybody. A verifier that
//! cannot answer is not the client's fault: that counts as none.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::admission::watch;
use super::exchange::{Exchange, request_of, told};
use super::gate::Gate;
use super::plan::{Plan, Plans, Refresh, text_frame};
use super::standing::{Standing, Unfit};
use crate::clock;
use crate::close::Reason;
use crate::connection::{Entry, Grounds};
use crate::credential::{Place, RefreshWatch};
use crate::expression::Variables;
use crate::identity::Identity;
use crate::relay::{Tap, TapVerdict, Watch};
use crate::verifier::{Credential, KeptOccasion, Original, VerifyError};

/// How many refusals in a row end the connection.
const MOST_REFUSED: u8 = 5;

/// How long after one renewal the next is verified.
const PACE: Duration = Duration::from_secs(1);

/// Takes the messages of a connection that renew its login, and leaves the others
/// to the tap that it stands before.
pub(super) struct RefreshTap {
    desk: Arc<Desk>,
    behind: Option<Box<dyn Tap>>,
}

/// What judging a renewal needs.
struct Desk {
    gate: Arc<Gate>,
    /// The plan that the connection was opened under.
    plan: Arc<Plan>,
    entry: Arc<Entry>,
    occasion: KeptOccasion,
    pace: Mutex<Pace>,
}

/// How often the client has tried.
#[derive(Default)]
struct Pace {
    refused: u8,
    last: Option<Instant>,
}

/// Why a login is not renewed.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// The credential is not good.
    Refused(Reason),
    /// Nobody could tell.
    Unanswered,
    /// The connection ends.
    Close(Reason),
}

impl RefreshTap {
    /// A tap in front of `behind` if the policy of `exchange` renews logins; else
    /// `behind` itself.
    pub(super) fn around(
        behind: Option<Box<dyn Tap>>,
        exchange: &Exchange,
        entry: &Arc<Entry>,
    ) -> Option<Box<dyn Tap>> {
        if exchange.plan.access.refresh.is_none() {
            return behind;
        }
        let desk = Desk {
            gate: Arc::clone(&exchange.gate),
            plan: Arc::clone(&exchange.plan),
            entry: Arc::clone(entry),
            occasion: exchange.occasion_at(Place::Message).bare(),
            pace: Mutex::default(),
        };
        Some(Box::new(RefreshTap { desk: Arc::new(desk), behind }))
    }

    fn is_refresh(&self, message: &[u8]) -> bool {
        self.desk.refresh().is_some_and(|refresh| refresh.message.matches(message))
    }
}

impl Tap for RefreshTap {
    fn max_bytes(&self) -> usize {
        self.desk.plan.limits.auth_message_bytes.0 as usize
    }

    fn takes(&self, message: &[u8], text: bool) -> bool {
        self.is_refresh(message)
            || self.behind.as_ref().is_some_and(|behind| behind.takes(message, text))
    }

    fn take(
        &mut self,
        message: Vec<u8>,
        text: bool,
    ) -> Pin<Box<dyn Future<Output = TapVerdict> + Send>> {
        if !self.is_refresh(&message)
            && let Some(behind) = &mut self.behind
        {
            return behind.take(message, text);
        }
        let desk = Arc::clone(&self.desk);
        Box::pin(async move { desk.answer(&message).await })
    }

    fn could_take(&self, begun: &[u8], text: bool) -> bool {
        self.desk.refresh().is_some_and(|refresh| refresh.message.could_match(begun))
            || self.behind.as_ref().is_some_and(|behind| behind.could_take(begun, text))
    }

    fn watch(&self, text: bool) -> Option<Box<dyn Watch>> {
        let behind = self.behind.as_ref().and_then(|behind| behind.watch(text));
        let Some(refresh) = self.desk.refresh() else { return behind };
        let code = Reason::AuthMessageTooLarge.close_code(&self.desk.plan.access.codes);
        Some(Box::new(LargeRefresh { watch: refresh.message.watch(), code, behind }))
    }
}

/// Recognises a renewal that is larger than one may be: its end is kept from the
/// upstream, which has no use for a part of a token.
struct LargeRefresh {
    watch: RefreshWatch,
    code: u16,
    behind: Option<Box<dyn Watch>>,
}

impl Watch for LargeRefresh {
    fn follow(&mut self, payload: &[u8]) -> Option<(Reason, u16)> {
        if self.watch.is_refresh(payload) {
            return Some((Reason::AuthMessageTooLarge, self.code));
        }
        self.behind.as_mut().and_then(|behind| behind.follow(payload))
    }
}

impl Desk {
    fn refresh(&self) -> Option<&Refresh> {
        self.plan.access.refresh.as_ref()
    }

    async fn answer(&self, message: &[u8]) -> TapVerdict {
        let failure = match self.renew(message).await {
            Ok(()) => {
                self.paced(Pace::succeeded);
                return TapVerdict::Continue { reply: None, instead: None };
            }
            Err(Failure::Refused(_)) if self.paced(Pace::is_last_refusal) => {
                Failure::Close(Reason::InvalidCredential)
            }
            Err(failure) => failure,
        };
        match failure {
            Failure::Refused(reason) => {
                TapVerdict::Continue { reply: self.reply(reason), instead: None }
            }
            Failure::Unanswered => {
                let reply = self.reply(Reason::VerifierUnavailable);
                TapVerdict::Continue { reply, instead: None }
            }
            Failure::Close(reason) => {
                self.entry.close(reason);
                TapVerdict::Continue { reply: None, instead: None }
            }
        }
    }

    fn paced<T>(&self, change: impl FnOnce(&mut Pace) -> T) -> T {
        change(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Verifies what the message holds and has the connection stand on it.
    async fn renew(&self, message: &[u8]) -> Result<(), Failure> {
        let refresh = self.refresh().ok_or(Failure::Refused(Reason::Forbidden))?;
        if !self.paced(|pace| pace.may_ask(Instant::now())) {
            return Err(Failure::Refused(Reason::LimitRate));
        }
        let token = refresh.message.read(message).map_err(Failure::Refused)?;
        if token.expose().len() as u64 > self.plan.limits.credential_bytes.0 {
            return Err(Failure::Refused(Reason::MalformedCredential));
        }
        let plans = self.gate.plans.load_full();
        // A reload may have changed who verifies, and what is required. Nobody verifies
        // by what is configured no longer: it may have been taken out for a reason.
        let plan = plans.named(&self.plan.name);
        let present;
        let chain = match plan.map(|plan| &plan.access.refresh) {
            Some(Some(now)) => &now.chain,
            Some(None) => return Err(Failure::Refused(Reason::InvalidCredential)),
            None => {
                present = plans.present(&refresh.chain);
                &present
            }
        };
        let plan = plan.unwrap_or(&self.plan);
        let credential = Credential { value: token.expose(), basic: false };
        let started = Instant::now();
        let verdict = chain.verify(&credential, &self.occasion.lent(), clock::unix_now()).await;
        if let Some(verifier) = &verdict.verifier {
            let seconds = started.elapsed().as_secs_f64();
            self.gate.telemetry.metrics.auth_duration(verifier, seconds);
        }
        match verdict.result {
            Ok(proven) => {
                self.stand_on(&proven, &plans, plan)?;
                let original = Original::of(&credential, Place::Message);
                watch(&self.gate, &plans, &self.entry, original, &self.occasion.lent());
                Ok(())
            }
            Err(VerifyError::Rejected(reason)) => Err(Failure::Refused(reason)),
            Err(VerifyError::Unavailable(_)) => Err(Failure::Unanswered),
        }
    }

    fn stand_on(
        &self,
        proven: &Arc<Identity>,
        plans: &Arc<Plans>,
        plan: &Plan,
    ) -> Result<(), Failure> {
        let entry = &self.entry;
        if !proven.is_same(&entry.identity()) {
            return Err(Failure::Close(Reason::Forbidden));
        }
        let standing = Standing { gate: &self.gate, plans, plan, entry };
        standing.judge(proven).map_err(|unfit| match unfit {
            Unfit::Revoked => Failure::Refused(Reason::Revoked),
            Unfit::Unknown => Failure::Unanswered,
            Unfit::NotAllowed => Failure::Close(Reason::Forbidden),
        })?;
        // What is found out about the login before is about nobody from here on. It
        // can only have been renewed as the same identity.
        self.gate.rechecks.leave(entry.id);
        while !entry.renew(&entry.identity(), proven) {
            if !entry.state().has_login() {
                // Too late: it is closing, and the client will hear why.
                return Ok(());
            }
        }
        standing.settle(proven);
        Ok(())
    }

    /// `reject_message` for `reason`, as a frame; none if there is nothing to say.
    fn reply(&self, reason: Reason) -> Option<bytes::Bytes> {
        let access = &self.plan.access;
        let expression = access.reject_message.as_ref()?;
        let code = reason.close_code(&access.codes);
        let reason = json!({ "code": code, "text": reason.text() });
        let mut variables = Variables::from([("reason", reason)]);
        if expression.uses("request") {
            let grounds = self.entry.grounds.as_deref().map(Grounds::of).unwrap_or_default();
            variables.insert("request", request_of(&grounds, self.entry.peer));
        }
        told(expression, &variables).map(|text| text_frame(&text))
    }
}

impl Pace {
    /// Whether a credential may be verified at `now`.
    fn may_ask(&mut self, now: Instant) -> bool {
        let may = self.last.is_none_or(|last| now.duration_since(last) >= PACE);
        if may {
            self.last = Some(now);
        }
        may
    }

    fn succeeded(&mut self) {
        self.refused = 0;
    }

    /// Counts a refusal; whether it is one too many.
    fn is_last_refusal(&mut self) -> bool {
        self.refused = self.refused.saturating_add(1);
        self.refused >= MOST_REFUSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_is_verified() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert!(pace.may_ask(at(0)));
        assert!(!pace.may_ask(at(1)) && !pace.may_ask(at(999)));
        assert!(pace.may_ask(at(1000)));
        assert!(!pace.may_ask(at(1500)), "who was too soon has not moved the second");
        assert!(pace.may_ask(at(2000)));
    }

    #[test]
    fn five_refusals_in_a_row_are_too_many() {
        let mut pace = Pace::default();
        assert!((0..4).all(|_| !pace.is_last_refusal()));
        pace.succeeded();
        assert!((0..4).all(|_| !pace.is_last_refusal()));
        assert!(pace.is_last_refusal());
    }
}
