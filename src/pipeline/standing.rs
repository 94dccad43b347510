//! What a login must pass before a live connection stands on it in place of the
//! one before, whether the client sent it or a verifier was asked again.

use std::sync::Arc;

use super::gate::Gate;
use super::judge_again;
use super::plan::{Plan, Plans};
use crate::clock;
use crate::close::Reason;
use crate::connection::Entry;
use crate::identity::Identity;

/// A connection whose login may be replaced, and the configuration that decides.
pub(super) struct Standing<'a> {
    pub(super) gate: &'a Gate,
    pub(super) plans: &'a Arc<Plans>,
    /// Of its route.
    pub(super) plan: &'a Plan,
    pub(super) entry: &'a Arc<Entry>,
}

/// Why a login cannot be stood on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It has been revoked.
    Revoked,
    /// Whether it has been revoked is not known yet.
    Unknown,
    /// `require` says no.
    NotAllowed,
}

impl Standing<'_> {
    /// Asks about revocations and `require`.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(super) fn judge(&self, proven: &Identity) -> Result<(), Unfit> {
        match self.gate.revocations.judge(proven, clock::unix_millis()) {
            Ok(()) => {}
            Err(Reason::VerifierUnavailable) => return Err(Unfit::Unknown),
            Err(_) => return Err(Unfit::Revoked),
        }
        match judge_again::may_stand(self.plan, proven, self.entry) {
            true => Ok(()),
            false => Err(Unfit::NotAllowed),
        }
    }

    /// The connection stands on `proven` now: whoever revoked that in between, or
    /// changed the policy, found one that stood on another.
    pub(super) fn settle(&self, proven: &Identity) {
        if self.judge(proven) == Err(Unfit::Revoked) {
            self.entry.close(Reason::Revoked);
        }
        judge_again::renewed(self.gate, self.plans, self.entry);
    }
}
