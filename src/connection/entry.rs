//! A live connection: what it was opened with, the login that it stands on now,
//! and where it is in its life.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lifetime::{LiveLimits, Verdict};
use super::registry::Arrival;
use super::state::{Event, State};
use crate::clock::{self, Ticker};
use crate::close::{CloseCodes, Reason};
use crate::identity::Identity;
use crate::relay::{Control, Direction};
use crate::telemetry::{Flow, RouteMetrics};

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// An upgraded WebSocket.
    Socket,
    /// A plain HTTP response that may stream for long.
    Http,
}

/// A live connection.
pub struct Entry {
    /// Counts up from 1 since the start of the process.
    pub id: u64,
    /// The request id of the handshake, which joins the log lines.
    pub request_id: Arc<str>,
    /// The client's address.
    pub peer: IpAddr,
    /// When it was opened, in milliseconds since the Unix epoch.
    pub opened: i64,
    /// What carries it.
    pub carrier: Carrier,
    /// The close codes that its client understands.
    pub codes: CloseCodes,
    /// How to close it, and what it did last.
    pub control: Control,
    /// [`Grounds`](super::Grounds), which a reload judges it by again; none for plain HTTP.
    pub grounds: Option<Box<str>>,
    terms: Mutex<Terms>,
    /// When they end it, grace included: [`LiveLimits::ends`]. Written under their lock.
    ends: AtomicI64,
    opened_tick: u32,
    state: AtomicU8,
    /// Somebody wants to know when it has left the registry.
    told_of: AtomicBool,
    /// It is among those of its subject.
    counted: AtomicBool,
    metrics: Arc<RouteMetrics>,
}

/// What a connection stands on, and may come to stand on another of.
struct Terms {
    /// The login.
    identity: Arc<Identity>,
    /// The limits of its route.
    limits: Arc<LiveLimits>,
}

/// A live connection as its relay sees it.
pub struct Controlled(pub Arc<Entry>);

impl Deref for Controlled {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.0.control
    }
}

impl Entry {
    /// The entry `id` for whoever arrives at `tick`.
    pub(super) fn new(id: u64, arrival: Arrival<'_>, tick: u32) -> Entry {
        Entry {
            id,
            request_id: Arc::clone(arrival.request_id),
            peer: arrival.peer,
            opened: clock::unix_millis(),
            carrier: arrival.carrier,
            codes: arrival.codes,
            control: Control::new(tick),
            grounds: arrival.grounds,
            terms: Mutex::new(Terms {
                identity: Arc::clone(arrival.identity),
                limits: Arc::clone(arrival.limits),
            }),
            ends: AtomicI64::new(arrival.limits.ends(arrival.identity.deadline())),
            opened_tick: tick,
            state: AtomicU8::new(State::Deciding as u8),
            told_of: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            metrics: Arc::clone(arrival.metrics),
        }
    }

    /// When it was opened by a clock that says `now`, in milliseconds since the epoch:
    /// earlier than [`Entry::opened`] if that clock was set back since. `tick` is now.
    pub fn opened_by(&self, now: i64, tick: u32) -> i64 {
        /// A tick is a quarter of a second, and the task that counts them may be late.
        const SET_BACK: i64 = 2000;
        let age = i64::from(tick.wrapping_sub(self.opened_tick))
            .saturating_mul(Ticker::PERIOD.as_millis() as i64);
        let opened = now.saturating_sub(age);
        if opened < self.opened.saturating_sub(SET_BACK) { opened } else { self.opened }
    }

    /// The login that it stands on now.
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.terms().identity)
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        State::of(self.state.load(Ordering::SeqCst))
    }

    /// Lets `event` happen; false if it cannot happen now.
    fn pass(&self, event: Event) -> bool {
        let next = |now| State::of(now).after(event).map(|state| state as u8);
        self.state.fetch_update(Ordering::SeqCst, Ordering::Acquire, next).is_ok()
    }

    /// It may stay.
    ///
    /// # Errors
    /// Why not: it has been asked to close meanwhile.
    pub fn admit(&self) -> Result<(), Reason> {
        match self.pass(Event::Admit) {
            true => Ok(()),
            false => Err(self.control.requested().map_or(Reason::Revoked, |(reason, _)| reason)),
        }
    }

    /// Asks the connection to close; the first cause wins.
    pub fn close(&self, reason: Reason) {
        // The reason first: who finds it closing finds out why, too.
        self.control.request_close(reason, reason.close_code(&self.codes));
        self.pass(Event::Close);
    }

    /// Puts the login `new` in the place of `old`; it ends the connection when it
    /// ends. False if that is too late: the connection is closing, or stands on
    /// another login by now. Whoever renews asks for revocations again afterwards.
    pub fn renew(&self, old: &Arc<Identity>, new: &Arc<Identity>) -> bool {
        {
            let mut terms = self.terms();
            if !Arc::ptr_eq(&terms.identity, old) {
                return false;
            }
            terms.identity = Arc::clone(new);
            self.reckon(&terms);
        }
        self.pass(Event::Renew)
    }

    /// Has the login end now, whatever it said itself; `now` in milliseconds since
    /// the Unix epoch. A grace that runs already runs on.
    pub fn end_login(&self, now: i64) {
        let terms = self.terms();
        if !terms.limits.ignore_expiry {
            self.ends.fetch_min(now.saturating_add(terms.limits.grace_millis), Ordering::Relaxed);
        }
    }

    /// Whether it ends when `login` says, and has not been told to end sooner.
    pub fn ends_with(&self, login: &Identity) -> bool {
        self.ends.load(Ordering::Relaxed) == self.terms().limits.ends(login.deadline())
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        // They are whole at any time, whoever panicked.
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reckons anew when `terms` end the connection.
    fn reckon(&self, terms: &Terms) {
        self.ends.store(terms.limits.ends(terms.identity.deadline()), Ordering::Relaxed);
    }

    /// What was relayed so far.
    pub fn flow(&self) -> Flow {
        let tallies =
            [Direction::Up, Direction::Down].map(|direction| self.control.tally(direction));
        Flow {
            bytes: tallies.map(|tally| tally.bytes()),
            frames: tallies.map(|tally| tally.frames()),
        }
    }

    /// The route's name.
    pub fn route(&self) -> &str {
        self.metrics.name()
    }

    /// Its route's counts.
    pub(super) fn route_metrics(&self) -> &RouteMetrics {
        &self.metrics
    }

    /// The limits that it is under now.
    pub fn limits(&self) -> Arc<LiveLimits> {
        Arc::clone(&self.terms().limits)
    }

    /// Has [`Registry::departed`](super::Registry::departed) tell when it has left.
    pub fn tell_of_leaving(&self) {
        self.told_of.store(true, Ordering::Release);
    }

    /// It is among those of its subject from now on.
    pub(super) fn count(&self) {
        // In one order with its state: who leaves sees this, or who counts sees that.
        self.counted.store(true, Ordering::SeqCst);
    }

    /// Whether it is among those of its subject.
    pub(super) fn is_counted(&self) -> bool {
        self.counted.load(Ordering::SeqCst)
    }

    /// It leaves the registry; whether somebody is to be told.
    pub(super) fn leave(&self) -> bool {
        self.pass(Event::Leave);
        self.told_of.load(Ordering::Acquire)
    }

    /// Puts the connection under other limits: a reload changed those of its route.
    pub fn limit(&self, limits: &Arc<LiveLimits>) {
        let mut terms = self.terms();
        terms.limits = Arc::clone(limits);
        self.reckon(&terms);
    }

    /// Asks it to close if its time is over: it may have been renewed since that was
    /// found out.
    pub(super) fn close_if_due(&self, now_millis: i64, tick: u32) {
        if let Some(reason) = self.judge(now_millis, tick) {
            self.close(reason);
        }
    }

    /// Judges it by the clock, and asks for a ping if one is due; why it must close, if
    /// its time is over.
    pub(super) fn judge(&self, now_millis: i64, tick: u32) -> Option<Reason> {
        let ends = self.ends.load(Ordering::Relaxed);
        if now_millis >= ends {
            return Some(Reason::Expired);
        }
        let limits = self.limits();
        let expired = limits.grace_millis != 0
            && now_millis >= ends.saturating_sub(limits.grace_millis)
            && self.pass(Event::Expire);
        if expired && self.ends.load(Ordering::Relaxed) != ends {
            // Renewed in between.
            self.pass(Event::Renew);
        }
        let socket = self.carrier == Carrier::Socket;
        match limits.judge(&self.control, self.opened_tick, tick, socket) {
            Verdict::Stay => None,
            Verdict::Ping => {
                self.control.request_ping();
                None
            }
            Verdict::Close(reason) => Some(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Place, Registry};
    use crate::identity::{Method, Proof};
    use crate::telemetry::Metrics;

    fn ada(expires: i64) -> Arc<Identity> {
        let proof = Proof {
            subject: "ada".into(),
            method: Method::Jwt,
            verifier: "app".into(),
            issuer: None,
            session: None,
            token_id: None,
            issued_at: None,
            expires: Some(expires),
            leeway: 30,
            claims: "{}".into(),
        };
        Arc::new(Identity::proven(proof).unwrap())
    }

    fn open(registry: &Arc<Registry>, login: &Arc<Identity>, grace: i64) -> Place {
        let limits = LiveLimits { grace_millis: grace, ..LiveLimits::default() };
        let place = registry.enter(Arrival {
            request_id: &"r".into(),
            identity: login,
            peer: [127, 0, 0, 1].into(),
            carrier: Carrier::Socket,
            codes: CloseCodes::default(),
            limits: &Arc::new(limits),
            metrics: &Metrics::new().unwrap().route("chat").unwrap(),
            grounds: None,
        });
        assert_eq!(place.entry().state(), State::Deciding);
        assert_eq!(place.entry().admit(), Ok(()));
        place
    }

    #[test]
    fn a_login_that_is_renewed_in_its_grace_counts_from_then_on() {
        let registry = Registry::new(Arc::default());
        let (first, second) = (ada(1_000), ada(2_000));
        let place = open(&registry, &first, 5_000);
        let entry = place.entry();
        registry.sweep(1_029_999, 1);
        assert_eq!(entry.state(), State::Open);
        registry.sweep(1_030_000, 2);
        assert_eq!(entry.state(), State::Expiring);
        assert!(entry.renew(&first, &second));
        assert_eq!(entry.state(), State::Open);
        registry.sweep(2_034_999, 3);
        assert_eq!((entry.state(), entry.control.requested()), (State::Expiring, None));
        registry.sweep(2_035_000, 4);
        assert_eq!(entry.control.requested(), Some((Reason::Expired, 4002)));
        assert_eq!(entry.state(), State::Closing);
    }

    #[test]
    fn nothing_is_renewed_behind_a_close_nor_behind_another_renewal() {
        let registry = Registry::new(Arc::default());
        let (first, second, third) = (ada(1_000), ada(2_000), ada(3_000));
        let place = open(&registry, &first, 0);
        assert!(place.entry().renew(&first, &second));
        assert!(!place.entry().renew(&first, &third), "it stands on another by now");
        assert!(Arc::ptr_eq(&place.entry().identity(), &second));
        place.entry().close(Reason::Revoked);
        assert!(!place.entry().renew(&second, &third));
        place.entry().close(Reason::Draining);
        assert_eq!(place.entry().control.requested(), Some((Reason::Revoked, 4001)));
        let entry = Arc::clone(place.entry());
        drop(place);
        assert_eq!(entry.state(), State::Gone);
    }

    #[test]
    fn a_login_may_become_shorter_and_end_at_once() {
        let registry = Registry::new(Arc::default());
        let (long, short) = (ada(2_000), ada(1_000));
        let place = open(&registry, &long, 0);
        assert!(place.entry().renew(&long, &short));
        registry.sweep(1_029_999, 1);
        assert_eq!(place.entry().state(), State::Open);
        place.entry().end_login(1_029_999);
        registry.sweep(1_029_999, 2);
        assert_eq!(place.entry().control.requested(), Some((Reason::Expired, 4002)));
    }

    #[test]
    fn who_is_closed_while_it_is_decided_is_not_admitted() {
        let registry = Registry::new(Arc::default());
        let place = open(&registry, &ada(1_000), 0);
        assert_eq!(place.entry().admit(), Err(Reason::Revoked), "nobody is admitted twice");
        place.entry().close(Reason::Draining);
        assert_eq!(place.entry().admit(), Err(Reason::Draining));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_connection_younger() {
        let registry = Registry::new(Arc::default());
        let place = open(&registry, &ada(1_000), 0);
        let entry = place.entry();
        assert_eq!(entry.opened_by(entry.opened + 60_000, 240), entry.opened);
        assert_eq!(entry.opened_by(entry.opened + 59_000, 240), entry.opened, "a late tick");
        assert_eq!(entry.opened_by(entry.opened + 9_999_999, 240), entry.opened, "set forward");
        let back = entry.opened + 60_000 - 3_600_000;
        assert_eq!(entry.opened_by(back, 240), back - 60_000);
    }

    #[test]
    fn an_entry_pays_no_more_than_it_needs() {
        assert!(size_of::<Entry>() <= 304, "{}", size_of::<Entry>());
    }
}
