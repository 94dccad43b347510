//! What stands in front of every verifier with a network behind it, so that one
//! that is slow, down or under attack is bounded and delays nobody else:
//!
//! - at most [`IN_FLIGHT`] look-ups at once; one more is unavailable at once;
//! - identical ones are one: whoever comes while it is under way waits for it. It
//!   runs on its own, so that a client that leaves takes nobody's answer along;
//! - each is bounded by a timeout, whatever it does;
//! - a refusal is remembered for [`REFUSED`], so that a client that tries again
//!   and again costs the other side nothing;
//! - an identity is remembered for as long as the configuration says, never past
//!   its own end. That nobody could answer is never remembered.
//!
//! A look-up is known by the hash of all that its answer depends on ([`Key`]):
//! neither a credential nor anything else of the request is kept. Who fills the
//! memories has to make look-ups for it, and cannot make them larger. Where more is
//! asked than an identity may be remembered under, there are two keys ([`Keys`]).
//!
//! What is remembered here is never asked whether it has been revoked: that comes
//! after the verifier. Whoever asks again about a live connection is told nothing
//! that is remembered, but what is found out then is remembered for everybody.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::{Unavailable, VerifyError};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::identity::Identity;

/// How many look-ups of one verifier are under way at most.
pub(super) const IN_FLIGHT: usize = 64;

/// How long a refusal is remembered.
pub(super) const REFUSED: Duration = Duration::from_secs(5);

/// How many refusals are remembered at most: a megabyte.
const REFUSALS: usize = 8192;

/// How many identities are remembered at most.
const IDENTITIES: usize = 4096;

/// The longest claims that are remembered, in bytes.
const CLAIMS: usize = 16 << 10;

/// What a look-up gives.
pub(super) type Found = Result<Arc<Identity>, VerifyError>;

/// The SHA-256 of everything that the answer of a look-up depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// The key of these parts, in this order.
    pub(super) fn of(parts: &[&[u8]]) -> Key {
        let mut context = Context::new(&SHA256);
        for part in parts {
            // Its length first: two parts are not one that is as long.
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Key(bytes)
    }
}

/// What a look-up is known by.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    /// Of all that is asked: what is identical, and what has been refused.
    pub(super) question: Key,
    /// Of what an identity is remembered under.
    pub(super) identity: Key,
}

impl From<Key> for Keys {
    fn from(key: Key) -> Keys {
        Keys { question: key, identity: key }
    }
}

/// The look-ups of one verifier.
pub(super) struct Lookups {
    timeout: Duration,
    cache: Duration,
    places: Arc<Semaphore>,
    table: Arc<Mutex<Table>>,
    /// Whether the last one found nobody who could answer.
    failing: Arc<AtomicBool>,
}

/// What is known, and what is being found out.
#[derive(Default)]
struct Table {
    under_way: HashMap<Key, watch::Receiver<Option<Found>>>,
    refused: Memory<Reason>,
    identified: Memory<Arc<Identity>>,
}

impl Lookups {
    /// No look-up takes longer than `timeout`; an identity is remembered for
    /// `cache`, which may be none.
    pub(super) fn new(timeout: Duration, cache: Duration) -> Lookups {
        Lookups {
            timeout,
            cache,
            places: Arc::new(Semaphore::new(IN_FLIGHT)),
            table: Arc::default(),
            failing: Arc::default(),
        }
    }

    /// Whether the last look-up found nobody who could answer.
    pub(super) fn are_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// What is known under `keys` at `now`, or what `ask` finds out; `again`, only
    /// the latter. `ask` is called only if nobody else is asking the same.
    ///
    /// # Errors
    /// What `ask` says; [`Unavailable`] if there are too many look-ups, or if
    /// this one takes too long.
    pub(super) async fn find<F>(
        &self,
        keys: impl Into<Keys>,
        now: UnixSeconds,
        again: bool,
        ask: impl FnOnce() -> F,
    ) -> Found
    where
        F: Future<Output = Found> + Send + 'static,
    {
        let mut answer = match self.known(keys.into(), now, again) {
            Known::Answer(found) => return found,
            Known::UnderWay(answer) => answer,
            Known::Nothing(asking) => {
                let answer = asking.answer.subscribe();
                tokio::spawn(asking.run(self.timeout, ask()));
                answer
            }
        };
        // The sender is gone without an answer only if the look-up has panicked.
        let found = answer.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        found.unwrap_or(Err(Unavailable("the look-up broke off").into()))
    }

    fn known(&self, keys: Keys, now: UnixSeconds, again: bool) -> Known {
        let mut table = lock(&self.table);
        if let Some(found) = table.remembered(&keys, now).filter(|_| !again) {
            return Known::Answer(found);
        }
        if let Some(answer) = table.under_way.get(&keys.question) {
            return Known::UnderWay(answer.clone());
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Known::Answer(Err(Unavailable("too many look-ups at once").into()));
        };
        let (answer, receiver) = watch::channel(None);
        table.under_way.insert(keys.question, receiver);
        Known::Nothing(Asking {
            keys,
            cache: self.cache,
            table: Arc::clone(&self.table),
            failing: Arc::clone(&self.failing),
            answer,
            _place: place,
        })
    }
}

impl Table {
    fn remembered(&self, keys: &Keys, now: UnixSeconds) -> Option<Found> {
        let instant = Instant::now();
        if let Some(reason) = self.refused.find(&keys.question, instant) {
            return Some(Err(reason.into()));
        }
        let identity = self.identified.find(&keys.identity, instant)?;
        let lasts = identity.deadline().is_none_or(|deadline| deadline > now);
        lasts.then_some(Ok(identity))
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // Every entry is whole at any time, whoever panicked.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Known {
    Answer(Found),
    UnderWay(watch::Receiver<Option<Found>>),
    Nothing(Asking),
}

/// A look-up under way. When it goes, however it ends, the next one may ask.
struct Asking {
    keys: Keys,
    cache: Duration,
    table: Arc<Mutex<Table>>,
    failing: Arc<AtomicBool>,
    answer: watch::Sender<Option<Found>>,
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl Asking {
    async fn run(self, timeout: Duration, asking: impl Future<Output = Found>) {
        let found = tokio::time::timeout(timeout, asking).await;
        let found = found.unwrap_or(Err(Unavailable("no answer in time").into()));
        let failed = matches!(found, Err(VerifyError::Unavailable(_)));
        self.failing.store(failed, Ordering::Relaxed);
        self.remember(&found);
        self.answer.send_replace(Some(found));
    }

    fn remember(&self, found: &Found) {
        let now = Instant::now();
        let mut table = lock(&self.table);
        match found {
            Ok(identity) => {
                table.refused.forget(&self.keys.question);
                if !self.cache.is_zero() && identity.claims_text().len() <= CLAIMS {
                    let until = now + self.cache;
                    table.identified.keep(
                        self.keys.identity,
                        Arc::clone(identity),
                        until,
                        IDENTITIES,
                    );
                }
            }
            Err(VerifyError::Rejected(reason)) => {
                table.identified.forget(&self.keys.identity);
                table.refused.keep(self.keys.question, *reason, now + REFUSED, REFUSALS);
            }
            Err(VerifyError::Unavailable(_)) => {}
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        lock(&self.table).under_way.remove(&self.keys.question);
    }
}

/// What is remembered until an instant. All entries are remembered for the same
/// time, so the oldest is the first to end, and the first to give way.
struct Memory<T> {
    entries: HashMap<Key, (T, Instant)>,
    order: VecDeque<(Key, Instant)>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Memory { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T: Clone> Memory<T> {
    fn find(&self, key: &Key, now: Instant) -> Option<T> {
        self.entries.get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    /// Its place in the order stays until its time, and counts.
    fn forget(&mut self, key: &Key) {
        self.entries.remove(key);
    }

    /// Remembers `value`, one of at most `most`, and forgets what has ended.
    fn keep(&mut self, key: Key, value: T, until: Instant, most: usize) {
        self.entries.insert(key, (value, until));
        self.order.push_back((key, until));
        let now = Instant::now();
        while let Some((oldest, ends)) = self.order.front().copied() {
            if ends > now && self.order.len() <= most {
                break;
            }
            self.order.pop_front();
            // It may have been remembered anew since.
            if self.entries.get(&oldest).is_some_and(|(_, until)| *until == ends) {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use serde_json::Value;

    use super::*;
    use crate::identity::{Method, Proof};

    const NOW: UnixSeconds = 1_700_000_000;

    fn identity(expires: Option<i64>, claims: &str) -> Arc<Identity> {
        let proof = Proof {
            subject: Value::from("ada"),
            method: Method::Jwt,
            verifier: "app".into(),
            issuer: None,
            session: None,
            token_id: None,
            issued_at: None,
            expires,
            leeway: 0,
            claims: claims.into(),
        };
        Arc::new(Identity::proven(proof).unwrap())
    }

    fn ada() -> Found {
        Ok(identity(None, "{}"))
    }

    /// Look-ups that are counted, and take a second each.
    #[derive(Clone)]
    struct Counted {
        lookups: Arc<Lookups>,
        asked: Arc<AtomicUsize>,
    }

    impl Counted {
        fn new(cache: u64) -> Counted {
            let lookups = Lookups::new(Duration::from_secs(3), Duration::from_secs(cache));
            Counted { lookups: Arc::new(lookups), asked: Arc::default() }
        }

        async fn find(&self, what: &str, found: Found) -> Result<(), Reason> {
            self.find_at(NOW, what, found).await
        }

        async fn find_at(&self, now: i64, what: &str, found: Found) -> Result<(), Reason> {
            self.find_by(Key::of(&[what.as_bytes()]), now, found).await
        }

        async fn find_by(
            &self,
            keys: impl Into<Keys>,
            now: i64,
            found: Found,
        ) -> Result<(), Reason> {
            let asked = Arc::clone(&self.asked);
            let ask = || async move {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
                found
            };
            self.lookups.find(keys, now, false, ask).await.map(|_| ()).map_err(VerifyError::reason)
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    async fn pass(seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }

    const DOWN: Found = Err(VerifyError::Unavailable(Unavailable("down")));
    const BAD: Found = Err(VerifyError::Rejected(Reason::InvalidCredential));

    #[test]
    fn a_key_is_of_the_parts_and_not_of_their_text() {
        assert!(Key::of(&[b"ab", b"c"]) == Key::of(&[b"ab", b"c"]));
        assert!(Key::of(&[b"ab", b"c"]) != Key::of(&[b"a", b"bc"]));
        assert!(Key::of(&[b"ab"]) != Key::of(&[b"ab", b""]));
    }

    #[tokio::test(start_paused = true)]
    async fn identical_look_ups_are_one_and_others_are_not_delayed() {
        let counted = Counted::new(0);
        let began = Instant::now();
        let same = futures_util::future::join_all((0..1000).map(|_| counted.find("a", ada())));
        let (same, other) = tokio::join!(same, counted.find("b", DOWN));
        assert!(same.iter().all(Result::is_ok));
        assert_eq!(other, Err(Reason::VerifierUnavailable));
        assert_eq!((counted.asked(), began.elapsed().as_secs()), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_leaves_takes_nobodys_answer_along() {
        let counted = Counted::new(0);
        let first = counted.find("a", ada());
        let second = async {
            pass(0.5).await;
            counted.find("a", ada()).await
        };
        let leaving = tokio::time::timeout(Duration::from_millis(700), first);
        let (left, got) = tokio::join!(leaving, second);
        assert!(left.is_err());
        assert_eq!((got, counted.asked()), (Ok(()), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_many_is_unavailable_at_once_and_places_come_back() {
        let counted = Counted::new(0);
        let names: Vec<String> = (0..IN_FLIGHT).map(|n| n.to_string()).collect();
        let many =
            futures_util::future::join_all(names.iter().map(|name| counted.find(name, ada())));
        let one_more = async {
            pass(0.5).await;
            let began = Instant::now();
            let refused = counted.find("one more", ada()).await;
            assert_eq!(
                (refused, began.elapsed()),
                (Err(Reason::VerifierUnavailable), Duration::ZERO)
            );
            // Who asks the same as one under way takes no place.
            counted.find("7", ada()).await
        };
        let (many, same) = tokio::join!(many, one_more);
        assert!(many.iter().all(Result::is_ok) && same.is_ok());
        assert_eq!(counted.asked(), IN_FLIGHT);
        assert_eq!(counted.find("one more", ada()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_remembered_for_five_seconds() {
        let counted = Counted::new(0);
        for _ in 0..10 {
            assert_eq!(counted.find("a", BAD).await, Err(Reason::InvalidCredential));
        }
        pass(4.9).await;
        assert_eq!(counted.find("a", ada()).await, Err(Reason::InvalidCredential));
        assert_eq!(counted.asked(), 1);
        pass(0.2).await;
        assert_eq!(counted.find("a", ada()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_identity_is_remembered_if_it_is_to_be_and_never_past_its_end() {
        let without = Counted::new(0);
        for _ in 0..3 {
            assert_eq!(without.find("a", ada()).await, Ok(()));
        }
        assert_eq!(without.asked(), 3);

        let with = Counted::new(30);
        for _ in 0..3 {
            assert_eq!(with.find("a", ada()).await, Ok(()));
        }
        assert_eq!(with.asked(), 1);
        pass(30.1).await;
        assert_eq!(with.find("a", BAD).await, Err(Reason::InvalidCredential));

        let short = Counted::new(30);
        for (now, found) in [(NOW, Ok(identity(Some(NOW + 5), "{}"))), (NOW + 4, BAD)] {
            assert_eq!(short.find_at(now, "a", found).await, Ok(()));
        }
        let ended = short.find_at(NOW + 5, "a", Err(Reason::Expired.into())).await;
        assert_eq!((ended, short.asked()), (Err(Reason::Expired), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn questions_that_differ_share_no_answer_but_a_remembered_identity() {
        let find = |counted: Counted, question: &'static str, found: Found| async move {
            let key = |text: &str| Key::of(&[text.as_bytes()]);
            let keys = Keys { question: key(question), identity: key("same") };
            counted.find_by(keys, NOW, found).await
        };
        let counted = Counted::new(30);
        let (first, second) =
            tokio::join!(find(counted.clone(), "a", BAD), find(counted.clone(), "b", ada()));
        assert_eq!((first, second), (Err(Reason::InvalidCredential), Ok(())));
        assert_eq!(counted.asked(), 2);
        assert_eq!(find(counted.clone(), "a", ada()).await, Err(Reason::InvalidCredential));
        assert_eq!(find(counted.clone(), "c", BAD).await, Ok(()));
        assert_eq!(counted.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn that_nobody_could_answer_is_never_remembered() {
        let counted = Counted::new(30);
        assert_eq!(counted.find("a", DOWN).await, Err(Reason::VerifierUnavailable));
        assert!(counted.lookups.are_failing());
        assert_eq!(counted.find("a", ada()).await, Ok(()));
        assert!(!counted.lookups.are_failing());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_ends_and_gives_its_place_back() {
        let lookups = Lookups::new(Duration::from_secs(3), Duration::ZERO);
        let began = Instant::now();
        let found = lookups.find(Key::of(&[b"a"]), NOW, false, std::future::pending).await;
        assert_eq!(found.err().map(VerifyError::reason), Some(Reason::VerifierUnavailable));
        assert_eq!(began.elapsed().as_secs(), 3);
        tokio::task::yield_now().await;
        assert_eq!(lookups.places.available_permits(), IN_FLIGHT);
        assert!(lock(&lookups.table).under_way.is_empty());
    }

    #[tokio::test]
    async fn one_that_panics_is_unavailable_and_the_next_one_asks() {
        let lookups = Lookups::new(Duration::from_secs(3), Duration::ZERO);
        let key = Key::of(&[b"a"]);
        let found = lookups.find(key, NOW, false, || async { panic!("on purpose") }).await;
        assert_eq!(found.err().map(VerifyError::reason), Some(Reason::VerifierUnavailable));
        assert!(lookups.find(key, NOW, false, || async { ada() }).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn memories_never_grow_past_their_bounds() {
        let mut memory = Memory::default();
        let key = |n: usize| Key::of(&[&n.to_be_bytes()]);
        for n in 0..100 {
            memory.keep(key(n % 60), n, Instant::now() + REFUSED, 10);
        }
        assert!(memory.entries.len() <= 10 && memory.order.len() <= 10);
        assert_eq!(memory.find(&key(99 % 60), Instant::now()), Some(99));
        pass(6.0).await;
        memory.keep(key(1), 1, Instant::now() + REFUSED, 10);
        assert_eq!((memory.entries.len(), memory.order.len()), (1, 1));

        let large = Counted::new(30);
        let claims = format!("{{\"a\":\"{}\"}}", "x".repeat(CLAIMS));
        for _ in 0..2 {
            assert_eq!(large.find("a", Ok(identity(None, &claims))).await, Ok(()));
        }
        assert_eq!(large.asked(), 2);
    }
}
