//! One-time tickets: a browser that cannot send a header, and should not put a
//! long-lived token into a URL, fetches a ticket and shows it once.
//!
//! A ticket stands for the whole identity that its holder had proven. It is 128
//! random bits; a store knows only what is derived of them (`sealed.rs`), so
//! that whoever reads the store can neither use a ticket nor read an identity.
//! Taking one out is a single step of the store: of a hundred who show the same
//! ticket at once, on whatever replica, one gets in. So nothing is remembered
//! here and nothing coalesced, unlike before other verifiers with a network.
//!
//! What revocation goes by (subject, session, token id, time of issue) is part of
//! the identity and comes along. So does the credential that the ticket was fetched
//! with, if its verifier can be asked again (`Recheck`): the connection is rechecked
//! as if it had been shown itself. In Redis it is in what is sealed, as safe as the
//! identity: only the ticket opens that, and Redis does not know it. The verifier of
//! the tickets has nothing more to say about the connection.

mod memory;
mod sealed;
mod shared;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant};

use self::memory::Memory;
use self::sealed::{Holder, Ticket};
use self::shared::Shared;
use super::config::{MEMORY, TicketConfig};
use super::lookup::IN_FLIGHT;
use super::{
    Built, Credential, Occasion, Original, Unavailable, Verification, Verifier, VerifyError,
};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::identity::Identity;
use crate::problem::Problem;
use crate::unit::Span;

/// How many open tickets a subject has at most; one more and the oldest is gone.
const MOST_PER_HOLDER: usize = 10;

/// The tickets of one verifier.
pub struct Tickets {
    name: Arc<str>,
    ttl: Duration,
    store: Store,
}

enum Store {
    Memory(Memory),
    /// At most [`IN_FLIGHT`] questions at once; one more is unavailable at once.
    Shared(Box<Shared>, Semaphore),
}

/// A ticket for the client. Has no `Debug`: it is a secret.
pub struct Issued {
    /// What the client shows.
    pub ticket: String,
    /// For how long, in whole seconds.
    pub expires_in: i64,
}

/// What a ticket stands for. Has no `Debug`: it holds a secret.
pub struct Redeemed {
    /// Whoever fetched it.
    pub identity: Arc<Identity>,
    /// What it was fetched with, if its verifier can be asked again.
    pub original: Option<Original>,
}

impl Tickets {
    /// A new ticket for `identity`, which is proven at `now`. It is good no longer
    /// than the identity is valid, and is kept for its whole time all the same: who shows it late is
    /// told that the login has expired, and not that there is no such ticket. `original` is what proved it, if the connection
    /// is to be rechecked by that.
    ///
    /// # Errors
    /// Expired, or that the store cannot take it.
    pub async fn issue(
        &self,
        identity: &Arc<Identity>,
        original: Option<Original>,
        now: UnixSeconds,
    ) -> Result<Issued, VerifyError> {
        let whole = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let left = identity.deadline().map(|deadline| deadline.saturating_sub(now));
        let expires_in = whole.min(left.unwrap_or(whole));
        if expires_in < 1 {
            return Err(Reason::Expired.into());
        }
        let ticket = Ticket::fresh().ok_or(Unavailable("the system gives no random bytes"))?;
        let holder = Holder::of(identity);
        let redeemed = Redeemed { identity: Arc::clone(identity), original };
        match &self.store {
            Store::Memory(memory) => {
                memory.put(ticket.id(), holder, redeemed, self.ttl, Instant::now())?;
            }
            Store::Shared(shared, places) => {
                let _place = places.try_acquire().map_err(|_| CROWDED)?;
                shared.put(&ticket, &holder, &redeemed, self.ttl).await?;
            }
        }
        Ok(Issued { ticket: ticket.text(), expires_in })
    }

    /// What the ticket stands for; it stands for nothing from now on.
    ///
    /// # Errors
    /// That it is none, or none any more; that the store cannot tell.
    pub async fn redeem(
        &self,
        credential: &Credential<'_>,
        now: UnixSeconds,
    ) -> Result<Redeemed, VerifyError> {
        let ticket = Ticket::read(credential.value).ok_or(Reason::InvalidCredential)?;
        let redeemed = match &self.store {
            Store::Memory(memory) => memory.take(&ticket.id(), Instant::now()),
            Store::Shared(shared, places) => {
                let _place = places.try_acquire().map_err(|_| CROWDED)?;
                shared.take(&ticket).await?
            }
        };
        let redeemed = redeemed.ok_or(Reason::InvalidCredential)?;
        match redeemed.identity.deadline() {
            Some(deadline) if deadline <= now => Err(Reason::Expired.into()),
            Some(_) | None => Ok(redeemed),
        }
    }
}

const CROWDED: Unavailable = Unavailable("too many tickets at once");

impl Verifier for Tickets {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn recognises(&self, credential: &Credential<'_>) -> bool {
        credential.value.starts_with(sealed::PREFIX.as_bytes())
    }

    fn verify<'a>(
        &'a self,
        credential: &'a Credential<'a>,
        _: &'a Occasion<'a>,
        now: UnixSeconds,
    ) -> Verification<'a> {
        Box::pin(async move { self.redeem(credential, now).await.map(|one| one.identity) })
    }

    fn asks(&self) -> bool {
        matches!(self.store, Store::Shared(..))
    }

    fn is_degraded(&self) -> bool {
        match &self.store {
            Store::Memory(_) => false,
            Store::Shared(shared, _) => shared.is_down(),
        }
    }

    fn tickets(&self) -> Option<&Tickets> {
        Some(self)
    }
}

/// Makes the store that `config` names; opens nothing.
pub(super) fn build(name: &str, config: &TicketConfig, base: &Path) -> Result<Built, Vec<Problem>> {
    let mut problems = Vec::new();
    let allowed = Span::secs(1)..=Span::secs(600);
    if !allowed.contains(&config.ttl) {
        problems.push(Problem::new("ttl", "must be 1s to 10m: a ticket is used at once"));
    }
    let store = match store(name, config, base) {
        Ok(store) => Some(store),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    let (Some(store), true) = (store, problems.is_empty()) else { return Err(problems) };
    let tickets = Arc::new(Tickets { name: name.into(), ttl: config.ttl.0, store });
    let files = config.files().map(|file| base.join(file)).collect();
    Ok(Built { verifier: tickets, files, warnings: Vec::new() })
}

fn store(name: &str, config: &TicketConfig, base: &Path) -> Result<Store, Problem> {
    let written = config.store.resolve(base);
    let written = written.map_err(|error| Problem::new("store", error.to_string()))?;
    if written == MEMORY {
        if config.ca.is_some() {
            return Err(Problem::new("ca", "has no effect: a store in memory has no server"));
        }
        return Ok(Store::Memory(Memory::default()));
    }
    let shared = Shared::new(name, written, config, base)?;
    Ok(Store::Shared(Box::new(shared), Semaphore::new(IN_FLIGHT)))
}

#[cfg(test)]
mod tests;
