//! Keeping in touch with the other replicas: what they revoke is heard of at
//! once, and what was missed, on either side, is made up for.
//!
//! Whoever has lost touch first listens, then loads everything that is stored,
//! then stores what only it knows: in this order nothing falls between. So a
//! revocation outlives an outage of Redis, and even the loss of what it held.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::set::{Noted, Revocation};
use super::store::{Store, read_message};
use super::{Revocations, Source};
use crate::clock;
use crate::close::Reason;
use crate::connection::{Entry, close_in_turn};
use crate::redis::{Channel, RedisError};
use crate::telemetry::LogLevel;

/// The pause before the first new attempt to get in touch, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How often a connection that nobody speaks on is asked whether it lives.
const PING: Duration = Duration::from_secs(5);

/// How often everything is loaded and compared although nothing was missed: what
/// Redis has lost without a word (FLUSHALL, another primary) is stored anew.
const COMPARE: Duration = Duration::from_secs(300);

/// What is stored about one target: when it was revoked, and until when.
type Stored = HashMap<super::Target, (i64, i64)>;

/// Keeps in touch for as long as it is polled.
pub async fn keep_in_touch(revocations: Arc<Revocations>) {
    let mut terms = revocations.terms.subscribe();
    loop {
        let present = Arc::clone(&terms.borrow_and_update());
        let changed = terms.changed();
        let alive = match &present.store {
            // What one process knows is all there is.
            None => {
                revocations.loaded.send_replace(true);
                changed.await.is_ok()
            }
            Some(store) => tokio::select! {
                alive = changed => alive.is_ok(),
                () = revocations.stay_in_touch(store) => true,
            },
        };
        revocations.in_touch.store(false, Ordering::Relaxed);
        if !alive {
            return;
        }
    }
}

impl Revocations {
    /// Never done: one connection after the other.
    async fn stay_in_touch(&self, store: &Store) {
        let (first, longest) = PAUSES;
        let mut pause = first;
        let mut told = false;
        loop {
            let lost = match store.listen().await {
                Ok(channel) => self.listen(store, channel).await,
                Err(error) => error,
            };
            if self.in_touch.swap(false, Ordering::Relaxed) {
                (pause, told) = (first, false);
            }
            if !told {
                let message =
                    "revocations of other replicas are not heard of; Redis is tried again";
                let error = Value::from(lost.to_string());
                self.telemetry.log.event(LogLevel::Warn, message, &[("error", error)]);
                told = true;
            }
            sleep(pause).await;
            pause = longest.min(pause * 2);
        }
    }

    /// Makes up for what was missed and listens, until the connection is lost.
    async fn listen(&self, store: &Store, mut channel: Channel) -> RedisError {
        let mut ping = interval(PING);
        let mut compare = interval(COMPARE);
        for interval in [&mut ping, &mut compare] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        // The first tick of an interval is at once: so is the first comparison.
        let mut comparing = None;
        loop {
            tokio::select! {
                message = channel.next() => match message {
                    Some(message) => self.hear(&message),
                    None => return RedisError::Broken(std::io::ErrorKind::ConnectionAborted),
                },
                compared = pending(&mut comparing) => {
                    comparing = None;
                    if let Err(error) = compared {
                        return error;
                    }
                    self.say_in_touch();
                }
                () = self.unstored.notified(), if comparing.is_none() => {
                    comparing = Some(Box::pin(self.compare(store)));
                }
                _ = compare.tick(), if comparing.is_none() => {
                    comparing = Some(Box::pin(self.compare(store)));
                }
                _ = ping.tick() => if let Err(error) = channel.ping().await {
                    return error;
                }
            }
        }
    }

    fn say_in_touch(&self) {
        self.loaded.send_replace(true);
        if !self.in_touch.swap(true, Ordering::Relaxed) {
            let message = "revocations are shared";
            self.telemetry.log.event(LogLevel::Info, message, &[]);
        }
    }

    /// Takes note of a published revocation.
    pub(super) fn hear(&self, message: &[u8]) {
        // What cannot be read was not published by any sockgate.
        let Some(revocation) = read_message(message).map(heard) else { return };
        match self.write(|set| set.note(revocation, clock::unix_millis())) {
            Noted::News => {
                let closed = self.close(self.meant(&revocation));
                self.say(revocation.target.kind(), Source::Redis, closed, true);
            }
            Noted::Known => {}
            Noted::Full => {
                self.close(self.meant(&revocation));
                self.say_full();
            }
        }
    }

    /// Closes `entries` and says how many; whoever is next is heard meanwhile.
    fn close(&self, entries: Vec<Arc<Entry>>) -> usize {
        let closed = entries.len();
        tokio::spawn(close_in_turn(entries, Reason::Revoked));
        closed
    }

    /// Learns everything that is stored, and stores what is not.
    async fn compare(&self, store: &Store) -> Result<(), RedisError> {
        let mut stored = Stored::new();
        let mut full = false;
        let mut news = 0;
        let now = clock::unix_millis();
        store
            .load(|found| {
                stored.insert(found.target, (found.at, found.until));
                match self.write(|set| set.note(heard(found), now)) {
                    Noted::News => news += 1,
                    Noted::Known => {}
                    Noted::Full => full = true,
                }
            })
            .await?;
        if full {
            self.say_full();
        }
        if news > 0 {
            self.close_revoked(news);
        }
        let known = |one: &Revocation| {
            stored.get(&one.target).is_some_and(|(at, until)| *at >= one.at && *until >= one.until)
        };
        let now = clock::unix_millis();
        let missing: Vec<Revocation> =
            self.read(|set| set.all(now).filter(|one| !known(one)).collect());
        store.put(&missing).await
    }

    /// Closes whatever is revoked by now, after `news` were learnt together.
    fn close_revoked(&self, news: usize) {
        let now = clock::unix_millis();
        let refused =
            |entry: &Entry, opened| self.read(|set| set.refuses(&entry.identity(), opened, now));
        let closed = self.close(self.registry.find_open(now, refused));
        self.telemetry.metrics.revocations(Source::Redis.label(), news);
        let fields = [("revocations", Value::from(news)), ("closed", closed.into())];
        self.telemetry.log.event(LogLevel::Info, "revocations loaded", &fields);
    }
}

/// A clock that is ahead must not refuse the logins of its future.
fn heard(revocation: Revocation) -> Revocation {
    Revocation { at: revocation.at.min(clock::unix_millis()), ..revocation }
}

/// Waits for `future`, for ever if there is none.
async fn pending<T>(future: &mut Option<impl Future<Output = T> + Unpin>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
