//! Logins, the connections that stand on them, and whose turn is when. Times are
//! handed in; where in its period a login comes is left to chance.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::MOST;
use super::question::{Key, Question};
use crate::connection::Entry;

/// How soon a verifier that could not answer is asked again, at the latest.
const RETRY: Duration = Duration::from_secs(10);

/// How soon a login is looked at again of which nobody wants to know.
const UNWANTED: Duration = Duration::from_secs(30);

/// How many that have waited too long are told so at once.
const OVERDUE: usize = 1024;

/// All of it. Every login is in `by_key`, and in its verifier's queue unless its
/// turn is now.
#[derive(Default)]
pub(super) struct Table {
    next: u64,
    logins: HashMap<u64, Login>,
    by_key: HashMap<Key, u64>,
    by_member: HashMap<u64, u64>,
    queues: HashMap<Arc<str>, Queue>,
}

struct Login {
    key: Key,
    question: Arc<Question>,
    /// In the order of their ids.
    members: Vec<Arc<Entry>>,
    last_yes: Instant,
    /// None while its turn is now.
    due: Option<Instant>,
}

/// The logins of one verifier.
#[derive(Default)]
struct Queue {
    schedule: BTreeSet<(Instant, u64)>,
    under_way: usize,
    /// Whether it could not answer the last time.
    failing: bool,
}

/// A login whose turn it is.
pub(super) struct Due {
    pub(super) login: u64,
    pub(super) question: Arc<Question>,
    pub(super) asks: bool,
}

impl Table {
    pub(super) fn watch(&mut self, entry: &Arc<Entry>, question: Question, now: Instant) {
        let key = question.key();
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => {
                self.next += 1;
                let members = Vec::with_capacity(1);
                let question = Arc::new(question);
                let login = Login { key, question, members, last_yes: now, due: Some(now) };
                self.by_key.insert(key, self.next);
                self.logins.insert(self.next, login);
                self.next
            }
        };
        let Some(login) = self.logins.get_mut(&id) else { return };
        // Whoever comes with it was just proven by it.
        login.last_yes = login.last_yes.max(now);
        if let Err(place) = login.members.binary_search_by_key(&entry.id, |member| member.id) {
            login.members.insert(place, Arc::clone(entry));
        }
        self.by_member.insert(entry.id, id);
        let queue = self.queues.entry(Arc::clone(login.question.verifier())).or_default();
        if let Some(due) = login.due {
            let is_new = login.members.len() == 1;
            let period = entry.limits().recheck;
            // Where it stands in the schedule it stays, unless somebody wants to know
            // sooner.
            if is_new || due > now + period {
                let first = now + spread(period, 0.1);
                queue.schedule.remove(&(due, id));
                queue.schedule.insert((first, id));
                login.due = Some(first);
            }
        }
    }

    pub(super) fn leave(&mut self, member: u64) {
        let Some(id) = self.by_member.remove(&member) else { return };
        let Some(login) = self.logins.get_mut(&id) else { return };
        if let Ok(place) = login.members.binary_search_by_key(&member, |member| member.id) {
            login.members.remove(place);
        }
        // While its turn is now, that turn ends first.
        if login.members.is_empty() && login.due.is_some() {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(login) = self.logins.remove(&id) else { return };
        self.by_key.remove(&login.key);
        let verifier = login.question.verifier();
        if let Some(queue) = self.queues.get_mut(verifier) {
            if let Some(due) = login.due {
                queue.schedule.remove(&(due, id));
            }
            if queue.schedule.is_empty() && queue.under_way == 0 {
                self.queues.remove(verifier);
            }
        }
    }

    pub(super) fn due(&mut self, now: Instant) -> Vec<Due> {
        let mut turns = Vec::new();
        for queue in self.queues.values_mut() {
            let room = MOST.saturating_sub(queue.under_way);
            let ready: Vec<(Instant, u64)> = queue
                .schedule
                .range(..=(now, u64::MAX))
                .take(if queue.failing { room + OVERDUE } else { room })
                .copied()
                .collect();
            let mut room = room;
            for (at, id) in ready {
                let Some(login) = self.logins.get_mut(&id) else { continue };
                if login.period().is_none() {
                    // A reload has turned it off, and may turn it on again.
                    queue.schedule.remove(&(at, id));
                    queue.schedule.insert((now + UNWANTED, id));
                    login.due = Some(now + UNWANTED);
                    continue;
                }
                let asks = room > 0;
                if !asks && !login.is_stale(now) {
                    continue;
                }
                if asks {
                    room -= 1;
                    queue.under_way += 1;
                }
                queue.schedule.remove(&(at, id));
                login.due = None;
                turns.push(Due { login: id, question: Arc::clone(&login.question), asks });
            }
        }
        turns
    }

    /// The turn of `id` is over.
    pub(super) fn done(
        &mut self,
        id: u64,
        verifier: &Arc<str>,
        asked: bool,
        answered: bool,
        now: Instant,
    ) {
        let queue = self.queues.entry(Arc::clone(verifier)).or_default();
        if asked {
            queue.under_way = queue.under_way.saturating_sub(1);
            queue.failing = !answered;
        }
        let Some(login) = self.logins.get_mut(&id) else { return };
        if answered {
            login.last_yes = now;
        }
        let period = login.period().unwrap_or(UNWANTED);
        let next = if answered {
            now + spread(period, 0.9)
        } else {
            let next = now + spread(period.min(RETRY), 0.5);
            // Who has been without a yes for too long learns of it in time.
            login.stale_at().filter(|at| *at > now).map_or(next, |at| at.min(next))
        };
        login.due = Some(next);
        queue.schedule.insert((next, id));
        if login.members.is_empty() {
            self.remove(id);
        }
    }

    pub(super) fn members(&self, id: u64) -> Vec<Arc<Entry>> {
        self.logins.get(&id).map(|login| login.members.clone()).unwrap_or_default()
    }

    pub(super) fn stale_members(&self, id: u64, now: Instant) -> Vec<Arc<Entry>> {
        let Some(login) = self.logins.get(&id) else { return Vec::new() };
        let since = now.saturating_duration_since(login.last_yes);
        let stale = |entry: &&Arc<Entry>| since >= entry.limits().recheck_stale;
        login.members.iter().filter(stale).cloned().collect()
    }

    pub(super) fn holds(&self, id: u64, member: u64) -> bool {
        self.by_member.get(&member) == Some(&id)
    }

    pub(super) fn logins(&self) -> usize {
        self.logins.len()
    }
}

impl Login {
    /// How often the most curious of its connections wants to know; none if none does.
    fn period(&self) -> Option<Duration> {
        let periods = self.members.iter().map(|member| member.limits().recheck);
        periods.filter(|period| !period.is_zero()).min()
    }

    /// When the first of its connections has been without a yes for too long.
    fn stale_at(&self) -> Option<Instant> {
        let stale = self.members.iter().map(|member| member.limits().recheck_stale).min();
        self.last_yes.checked_add(stale?)
    }

    fn is_stale(&self, now: Instant) -> bool {
        self.stale_at().is_some_and(|at| at <= now)
    }
}

/// Somewhere from `least` of `period` to all of it.
fn spread(period: Duration, least: f64) -> Duration {
    let chance = f64::from(rand::random::<u16>()) / f64::from(u16::MAX);
    period.mul_f64(least + (1.0 - least) * chance)
}

#[cfg(test)]
mod tests;
