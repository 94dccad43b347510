//! Tickets that only this process knows; a restart forgets them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::Unavailable;
use super::sealed::{Holder, Id};
use super::{MOST_PER_HOLDER, Redeemed};

/// How many tickets are open at most: more than are fetched within a `ttl`.
const MOST: usize = 100_000;

/// The open tickets of one verifier.
#[derive(Default)]
pub(super) struct Memory(Mutex<Table>);

#[derive(Default)]
struct Table {
    open: HashMap<Id, Open>,
    /// The open ones of each holder, the oldest first.
    holders: HashMap<Holder, VecDeque<Id>>,
    /// When the table was last looked through for what has ended.
    swept: Option<Instant>,
}

struct Open {
    redeemed: Redeemed,
    holder: Holder,
    until: Instant,
}

/// How often what has ended is looked for.
const SWEEP: Duration = Duration::from_secs(10);

impl Memory {
    /// Keeps a ticket of `holder` for `open` from `now`; the eleventh is kept in
    /// the place of the oldest.
    ///
    /// # Errors
    /// That there are too many.
    pub(super) fn put(
        &self,
        id: Id,
        holder: Holder,
        redeemed: Redeemed,
        open: Duration,
        now: Instant,
    ) -> Result<(), Unavailable> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.sweep(now);
        table.forget_ended_of(&holder, now);
        while table.holders.get(&holder).is_some_and(|ids| ids.len() >= MOST_PER_HOLDER) {
            let oldest = table.holders.get_mut(&holder).and_then(VecDeque::pop_front);
            oldest.map(|id| table.open.remove(&id));
        }
        if table.open.len() >= MOST {
            return Err(Unavailable("too many open tickets"));
        }
        table.holders.entry(holder).or_default().push_back(id);
        table.open.insert(id, Open { redeemed, holder, until: now + open });
        Ok(())
    }

    /// Takes a ticket out: nobody gets it again.
    pub(super) fn take(&self, id: &Id, now: Instant) -> Option<Redeemed> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = table.remove(id)?;
        (open.until > now).then_some(open.redeemed)
    }
}

impl Table {
    fn remove(&mut self, id: &Id) -> Option<Open> {
        let open = self.open.remove(id)?;
        if let Some(ids) = self.holders.get_mut(&open.holder) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.holders.remove(&open.holder);
            }
        }
        Some(open)
    }

    /// So that they do not count among its open ones.
    fn forget_ended_of(&mut self, holder: &Holder, now: Instant) {
        let ids = self.holders.get(holder).into_iter().flatten();
        let has_ended = |id: &&Id| self.open.get(id).is_none_or(|open| open.until <= now);
        let ended: Vec<Id> = ids.filter(has_ended).copied().collect();
        for id in ended {
            self.remove(&id);
        }
    }

    fn sweep(&mut self, now: Instant) {
        let due = self.swept.is_none_or(|swept| swept + SWEEP <= now);
        if !due && self.open.len() < MOST {
            return;
        }
        self.swept = Some(now);
        let ended = self.open.iter().filter(|(_, open)| open.until <= now);
        let ended: Vec<Id> = ended.map(|(id, _)| *id).collect();
        for id in ended {
            self.remove(&id);
        }
    }
}
