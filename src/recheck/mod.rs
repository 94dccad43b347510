//! Whether the logins behind live connections still stand: which verifier is to be
//! asked again about whom, and when (`lifetime.recheck`).
//!
//! A credential is kept once, however many connections came with it, and asked
//! about once a period; it is let go with the last of them. Only connections whose
//! verifier can be asked again are here. The look-ups are spread over the period,
//! and a verifier gets [`MOST`] of them at a time: half of what it takes, so that
//! whoever logs in finds room. One that cannot answer delays nobody but its own.
//!
//! No task, no timer and no clock for a connection: one task asks [`Rechecks::due`]
//! who is next. What comes of an answer is not decided here (`pipeline`).

mod question;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

pub use self::question::Question;
use self::table::Table;
use crate::connection::Entry;

/// How many look-ups of one verifier are under way at most.
const MOST: usize = 32;

/// Every login that is asked about again.
#[derive(Default)]
pub struct Rechecks(Mutex<Table>);

/// A login whose turn it is. Without [`Turn::settle`] it has not been answered.
pub struct Turn {
    rechecks: Arc<Rechecks>,
    login: u64,
    question: Arc<Question>,
    asks: bool,
    answered: bool,
}

impl Rechecks {
    /// The connection of `entry` stands on the login that `question` is about from
    /// `now` on, when that was proven. While it stood on another, [`Rechecks::leave`]
    /// comes first.
    pub fn watch(&self, entry: &Arc<Entry>, question: Question, now: Instant) {
        entry.tell_of_leaving();
        self.table().watch(entry, question, now);
    }

    /// The connection `id` stands on its login no longer: from here on nothing that
    /// is found out about that touches it.
    pub fn leave(&self, id: u64) {
        self.table().leave(id);
    }

    /// Those connections have ended.
    pub fn forget(&self, departed: &[u64]) {
        let mut table = self.table();
        departed.iter().for_each(|id| table.leave(*id));
    }

    /// Every login whose turn has come, as far as there is room for it.
    pub fn due(self: &Arc<Self>, now: Instant) -> Vec<Turn> {
        let due = self.table().due(now);
        due.into_iter()
            .map(|due| Turn {
                rechecks: Arc::clone(self),
                login: due.login,
                question: due.question,
                asks: due.asks,
                answered: false,
            })
            .collect()
    }

    /// How many logins are watched.
    pub fn logins(&self) -> usize {
        self.table().logins()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Whole at any time, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// What to ask.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// Whether to ask at all: one that has waited too long for a verifier that does
    /// not answer is not asked about.
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// The connections that stand on the login.
    pub fn members(&self) -> Vec<Arc<Entry>> {
        self.rechecks.table().members(self.login)
    }

    /// Those that have stayed for `recheck_stale` without a yes.
    pub fn stale_members(&self, now: Instant) -> Vec<Arc<Entry>> {
        self.rechecks.table().stale_members(self.login, now)
    }

    /// Whether `entry` still stands on the login.
    pub fn holds(&self, entry: &Entry) -> bool {
        self.rechecks.table().holds(self.login, entry.id)
    }

    /// Does something to `entry` unless it stands on another login by now, which
    /// cannot come in between.
    pub fn if_holds(&self, entry: &Entry, act: impl FnOnce()) {
        let table = self.rechecks.table();
        if table.holds(self.login, entry.id) {
            act();
        }
    }

    /// The verifier has said yes or no.
    pub fn settle(mut self) {
        self.answered = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut table = self.rechecks.table();
        table.done(self.login, self.question.verifier(), self.asks, self.answered, Instant::now());
    }
}
