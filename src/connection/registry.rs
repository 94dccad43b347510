//! What is open now: one entry a live connection, entered before the policy is
//! asked and left by a guard, so that a close can always find it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::entry::{Carrier, Entry};
use super::lifetime::{LiveLimits, SubjectLimit};
use crate::clock::Ticker;
use crate::close::{CloseCodes, Reason};
use crate::identity::Identity;
use crate::telemetry::{Metrics, RouteMetrics};

/// Every live connection of the process.
pub struct Registry {
    shards: Vec<Mutex<HashMap<u64, Arc<Entry>>>>,
    subjects: Mutex<HashMap<SubjectKey, BTreeSet<u64>>>,
    next: AtomicU64,
    open: AtomicUsize,
    emptied: Notify,
    departed: Mutex<Vec<u64>>,
    ticker: Arc<Ticker>,
}

/// A subject is one only together with who vouches for it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct SubjectKey {
    verifier: Arc<str>,
    issuer: Option<Box<str>>,
    subject: Box<str>,
}

/// What a connection brings along to the registry.
pub struct Arrival<'a> {
    /// The request id of the handshake.
    pub request_id: &'a Arc<str>,
    /// Who.
    pub identity: &'a Arc<Identity>,
    /// The client's address.
    pub peer: IpAddr,
    /// What carries it.
    pub carrier: Carrier,
    /// The close codes of its policy.
    pub codes: CloseCodes,
    /// Its limits, shared by the route.
    pub limits: &'a Arc<LiveLimits>,
    /// Its route, which counts its traffic.
    pub metrics: &'a Arc<RouteMetrics>,
    /// [`Grounds`](super::Grounds), which a reload judges it by again.
    pub grounds: Option<Box<str>>,
}

/// Why a connection may not enter.
#[derive(Debug, PartialEq, Eq)]
pub struct SubjectFull;

/// The place of a connection in the registry; leaving is dropping it.
pub struct Place {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
}

const SHARDS: usize = 16;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not stop expiry: the maps are whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// An empty registry that tells time by `ticker`.
    pub fn new(ticker: Arc<Ticker>) -> Arc<Registry> {
        Arc::new(Registry {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            subjects: Mutex::default(),
            next: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            emptied: Notify::new(),
            departed: Mutex::default(),
            ticker,
        })
    }

    /// Enters a connection; from here on a close finds it.
    pub fn enter(self: &Arc<Self>, arrival: Arrival<'_>) -> Place {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry::new(id, arrival, self.ticker.now()));
        lock(self.shard(id)).insert(id, Arc::clone(&entry));
        self.open.fetch_add(1, Ordering::Relaxed);
        Place { registry: Arc::clone(self), entry }
    }

    fn enter_subject(&self, entry: &Entry, limit: SubjectLimit) -> Result<(), SubjectFull> {
        let mut subjects = lock(&self.subjects);
        let ids = subjects.entry(SubjectKey::of(&entry.identity())).or_default();
        let most = limit.most as usize;
        // A reload may have counted it while it was decided.
        ids.remove(&entry.id);
        if ids.len() >= most {
            // Who has been asked to close does not count any more: that may take seconds,
            // and a client that hears of it comes back at once.
            ids.retain(|id| self.find(*id).is_some_and(|entry| !entry.state().is_ending()));
        }
        // One at a time, unless a reload has lowered the limit.
        while ids.len() >= most {
            if !limit.close_oldest {
                return Err(SubjectFull);
            }
            let oldest = ids.pop_first();
            if let Some(entry) = oldest.and_then(|oldest| self.find(oldest)) {
                entry.close(Reason::LimitSubject);
            }
        }
        ids.insert(entry.id);
        entry.count();
        Ok(())
    }

    /// Counts a connection among those of its subject that was open before they were
    /// limited. It stays, however many there are: the limit is reached with the next.
    pub fn count(&self, entry: &Entry) {
        let identity = entry.identity();
        if entry.limits().per_subject.is_none() || identity.is_anonymous() || entry.is_counted() {
            return;
        }
        lock(&self.subjects).entry(SubjectKey::of(&identity)).or_default().insert(entry.id);
        entry.count();
        // It may have left in between, and have found itself uncounted.
        if entry.state().is_ending() {
            self.leave_subject(entry);
        }
    }

    fn leave_subject(&self, entry: &Entry) {
        // Its login may have been renewed, but only as the same subject.
        let key = SubjectKey::of(&entry.identity());
        let mut subjects = lock(&self.subjects);
        if let Some(ids) = subjects.get_mut(&key) {
            ids.remove(&entry.id);
            if ids.is_empty() {
                subjects.remove(&key);
            }
        }
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<Entry>>> {
        &self.shards[id as usize % SHARDS]
    }

    fn find(&self, id: u64) -> Option<Arc<Entry>> {
        lock(self.shard(id)).get(&id).cloned()
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Waits until none is open.
    pub async fn emptied(&self) {
        loop {
            let notified = self.emptied.notified();
            if self.open() == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Every open connection, oldest first.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self
            .shards
            .iter()
            .flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>())
            .collect();
        entries.sort_unstable_by_key(|entry| entry.id);
        entries
    }

    /// Every connection that `fits` and has not been asked to close; `fits` is told when
    /// it was opened by a clock that says `now` ([`Entry::opened_by`]). Looks at all of
    /// them: an index would cost each connection memory for what rarely happens.
    pub fn find_open(
        &self,
        now: i64,
        mut fits: impl FnMut(&Entry, i64) -> bool,
    ) -> Vec<Arc<Entry>> {
        let (mut found, tick) = (Vec::new(), self.ticker.now());
        for shard in &self.shards {
            let shard = lock(shard);
            let open = shard.values().filter(|entry| entry.control.requested().is_none());
            found.extend(open.filter(|entry| fits(entry, entry.opened_by(now, tick))).cloned());
        }
        found
    }

    /// The ids of those that have left since the last call, of which somebody wanted
    /// to know ([`Entry::tell_of_leaving`]).
    pub fn departed(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.departed))
    }

    /// Adds to `metrics` what was relayed since the last call.
    pub fn report_traffic(&self, metrics: &Metrics) {
        metrics.report_traffic(|found| {
            for shard in &self.shards {
                for entry in lock(shard).values() {
                    found(entry.route_metrics(), &entry.flow());
                }
            }
        });
    }

    /// Judges every connection by the clock; those whose time is over, and who have not
    /// been asked to close.
    pub fn due(&self, now_millis: i64, tick: u32) -> Vec<Arc<Entry>> {
        self.ticker.set(tick);
        let mut due = Vec::new();
        for shard in &self.shards {
            for entry in lock(shard).values() {
                if entry.judge(now_millis, tick).is_some() && entry.control.requested().is_none() {
                    due.push(Arc::clone(entry));
                }
            }
        }
        due
    }

    /// The same, and closes them all at once.
    #[cfg(test)]
    pub(crate) fn sweep(&self, now_millis: i64, tick: u32) {
        for entry in self.due(now_millis, tick) {
            entry.close_if_due(now_millis, tick);
        }
    }
}

impl SubjectKey {
    fn of(identity: &Identity) -> SubjectKey {
        SubjectKey {
            verifier: Arc::clone(identity.verifier()),
            issuer: identity.issuer().map(Into::into),
            subject: identity.subject().into(),
        }
    }
}

impl Place {
    /// The entry.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Counts the connection among those of its subject, where they are limited.
    /// Comes after the decision: a refused client must not push out another.
    ///
    /// # Errors
    /// [`SubjectFull`] if the subject has as many as it may and the newest is
    /// the one to refuse.
    pub fn claim(&self) -> Result<(), SubjectFull> {
        match self.entry.limits().per_subject {
            Some(limit) if !self.entry.identity().is_anonymous() => {
                self.registry.enter_subject(&self.entry, limit)
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let registry = &self.registry;
        if self.entry.leave() {
            lock(&registry.departed).push(self.entry.id);
        }
        lock(registry.shard(self.entry.id)).remove(&self.entry.id);
        self.entry.route_metrics().ended(&self.entry.flow());
        if self.entry.is_counted() {
            registry.leave_subject(&self.entry);
        }
        if registry.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            registry.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(edit: impl FnOnce(&mut LiveLimits)) -> Arc<LiveLimits> {
        let mut limits = LiveLimits::default();
        edit(&mut limits);
        Arc::new(limits)
    }

    fn identity(subject: &str, expires: Option<i64>) -> Arc<Identity> {
        let identity = Identity::proven(crate::identity::Proof {
            subject: subject.into(),
            method: crate::identity::Method::Jwt,
            verifier: "app".into(),
            issuer: None,
            session: None,
            token_id: None,
            issued_at: None,
            expires,
            leeway: 30,
            claims: "{}".into(),
        });
        Arc::new(identity.unwrap())
    }

    fn enter(
        registry: &Arc<Registry>,
        identity: &Arc<Identity>,
        limits: &Arc<LiveLimits>,
    ) -> Result<Place, SubjectFull> {
        let place = registry.enter(Arrival {
            request_id: &"r".into(),
            identity,
            peer: [127, 0, 0, 1].into(),
            carrier: Carrier::Socket,
            codes: CloseCodes::default(),
            limits,
            metrics: &crate::telemetry::Metrics::new().unwrap().route("chat").unwrap(),
            grounds: None,
        });
        place.claim().map(|()| place)
    }

    fn requested(place: &Place) -> Option<(Reason, u16)> {
        place.entry().control.requested()
    }

    #[test]
    fn an_expired_credential_closes_after_leeway_and_grace() {
        let registry = Registry::new(Arc::default());
        let limits = limits(|limits| limits.grace_millis = 5_000);
        let place = enter(&registry, &identity("ada", Some(1_000)), &limits).unwrap();
        registry.sweep(1_034_999, 1);
        assert_eq!(requested(&place), None);
        registry.sweep(1_035_000, 2);
        assert_eq!(requested(&place), Some((Reason::Expired, 4002)));
    }

    #[test]
    fn other_limits_hold_for_what_is_open_already() {
        let registry = Registry::new(Arc::default());
        let before = limits(|limits| limits.ignore_expiry = true);
        let place = enter(&registry, &identity("ada", Some(1_000)), &before).unwrap();
        registry.sweep(2_000_000, 1);
        assert_eq!(requested(&place), None);
        place.entry().limit(&limits(|_| {}));
        registry.sweep(2_000_000, 2);
        assert_eq!(requested(&place), Some((Reason::Expired, 4002)));
    }

    #[test]
    fn a_login_ends_by_the_wall_clock_and_a_lifetime_by_the_steady_one() {
        let registry = Registry::new(Arc::default());
        let by_login = enter(&registry, &identity("ada", Some(1_000)), &limits(|_| {})).unwrap();
        let by_max =
            enter(&registry, &identity("eve", None), &limits(|limits| limits.max = 8)).unwrap();
        let ends = |place: &Place| requested(place).map(|(reason, _)| reason);
        // The wall clock is set a day back, and forward again to just before.
        for (millis, tick) in [(900_000, 1), (-86_400_000, 2), (1_029_999, 3)] {
            registry.sweep(millis, tick);
            assert_eq!((ends(&by_login), ends(&by_max)), (None, None), "{millis}");
        }
        registry.sweep(86_400_000, 4);
        assert_eq!((ends(&by_login), ends(&by_max)), (Some(Reason::Expired), None));
        registry.sweep(0, 7);
        assert_eq!(ends(&by_max), None);
        registry.sweep(0, 8);
        assert_eq!(ends(&by_max), Some(Reason::Expired));
    }

    #[test]
    fn a_limit_that_was_lowered_is_reached_with_the_next_login() {
        let registry = Registry::new(Arc::default());
        let under = |most| {
            limits(|limits| {
                limits.per_subject = Some(SubjectLimit { most, close_oldest: true });
            })
        };
        let ada = identity("ada", None);
        let places: Vec<_> = (0..4).map(|_| enter(&registry, &ada, &under(4)).unwrap()).collect();
        let newest = enter(&registry, &ada, &under(2)).unwrap();
        let asked: Vec<bool> = places.iter().map(|place| requested(place).is_some()).collect();
        assert_eq!(asked, [true, true, true, false]);
        assert_eq!(requested(&newest), None);
    }

    #[test]
    fn leaving_empties_every_map() {
        let registry = Registry::new(Arc::default());
        let limits = limits(|limits| {
            limits.per_subject = Some(SubjectLimit { most: 1, close_oldest: false });
        });
        let place = enter(&registry, &identity("ada", None), &limits).unwrap();
        assert_eq!(enter(&registry, &identity("ada", None), &limits).err(), Some(SubjectFull));
        assert!(enter(&registry, &identity("grace", None), &limits).is_ok());
        assert_eq!(registry.entries().len(), 1);
        drop(place);
        assert_eq!(registry.open(), 0);
        assert!(lock(&registry.subjects).is_empty());
        assert!(enter(&registry, &identity("ada", None), &limits).is_ok());
    }

    #[test]
    fn who_has_been_asked_to_close_makes_room() {
        let registry = Registry::new(Arc::default());
        let limits = limits(|limits| {
            limits.per_subject = Some(SubjectLimit { most: 1, close_oldest: false });
        });
        let ada = identity("ada", None);
        let expired = enter(&registry, &ada, &limits).unwrap();
        assert_eq!(enter(&registry, &ada, &limits).err(), Some(SubjectFull));
        expired.entry().close(Reason::Expired);
        let next = enter(&registry, &ada, &limits).unwrap();
        assert_eq!(enter(&registry, &ada, &limits).err(), Some(SubjectFull));
        drop(expired);
        assert_eq!(enter(&registry, &ada, &limits).err(), Some(SubjectFull));
        drop(next);
        assert!(lock(&registry.subjects).is_empty());
    }

    #[test]
    fn who_was_open_before_there_was_a_limit_counts_from_then_on() {
        let registry = Registry::new(Arc::default());
        let limited = limits(|limits| {
            limits.per_subject = Some(SubjectLimit { most: 2, close_oldest: false });
        });
        let ada = identity("ada", None);
        let places: Vec<_> =
            (0..3).map(|_| enter(&registry, &ada, &limits(|_| {})).unwrap()).collect();
        let gone = enter(&registry, &ada, &limits(|_| {})).unwrap();
        for place in places.iter().chain([&gone]) {
            place.entry().limit(&limited);
        }
        let late = Arc::clone(gone.entry());
        drop(gone);
        for entry in places.iter().map(Place::entry).chain([&late]) {
            registry.count(entry);
            registry.count(entry);
        }
        assert_eq!(lock(&registry.subjects).values().map(BTreeSet::len).sum::<usize>(), 3);
        assert!(places.iter().all(|place| requested(place).is_none()));
        assert_eq!(enter(&registry, &ada, &limited).err(), Some(SubjectFull));
        let mut places = places.into_iter();
        drop((places.next(), places.next()));
        let newest = enter(&registry, &ada, &limited).unwrap();
        assert_eq!(enter(&registry, &ada, &limited).err(), Some(SubjectFull));
        drop((places, newest));
        assert!(lock(&registry.subjects).is_empty());
    }

    #[test]
    fn the_oldest_connection_of_a_subject_gives_way() {
        let registry = Registry::new(Arc::default());
        let limits = limits(|limits| {
            limits.per_subject = Some(SubjectLimit { most: 2, close_oldest: true });
        });
        let places: Vec<_> =
            (0..3).map(|_| enter(&registry, &identity("ada", None), &limits).unwrap()).collect();
        assert_eq!(requested(&places[0]), Some((Reason::LimitSubject, 4029)));
        assert_eq!((requested(&places[1]), requested(&places[2])), (None, None));
    }
}
