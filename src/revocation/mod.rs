//! Who is no longer welcome although the credential still looks good: a subject,
//! a session or a token that was revoked.
//!
//! A connection is registered first and asked for here then; a revocation is
//! noted first and looks for live connections then. So whichever comes second
//! sees the other, and none slips through between.
//!
//! The question comes after the verifier: nothing that a verifier remembers lets
//! anybody in again. With a Redis all replicas share what is revoked; each knows
//! all of it by itself, so that nobody waits for Redis at the gate.

mod config;
mod once;
mod set;
mod share;
mod store;
mod target;
mod terms;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, watch};

pub use self::config::RevocationConfig;
pub use self::once::Once;
use self::once::{Seen, Sight};
use self::set::{Noted, Revocation, Set};
pub use self::share::keep_in_touch;
pub use self::target::{Kind, Scope, Target};
pub use self::terms::Terms;
use crate::clock;
use crate::close::Reason;
use crate::connection::{Entry, Registry, close_in_turn};
use crate::identity::Identity;
use crate::telemetry::{LogLevel, Telemetry};

/// What the end of a credential is added, in milliseconds: a leeway may be
/// configured anew, and is 5 minutes at most.
const MARGIN: i64 = 300_000;

/// What is revoked, and the connections that it is about.
pub struct Revocations {
    set: RwLock<Set>,
    seen: Mutex<Seen>,
    terms: watch::Sender<Arc<Terms>>,
    registry: Arc<Registry>,
    telemetry: Arc<Telemetry>,
    /// Everything that is stored was loaded once; always, if nothing is shared.
    loaded: watch::Sender<bool>,
    /// Whether what others revoke is heard of.
    in_touch: AtomicBool,
    /// Something that was revoked here could not be stored.
    unstored: Notify,
}

/// Who revokes; the label `source` of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator, here.
    Admin,
    /// An issuer, here: somebody has logged out there.
    Logout,
    /// Somebody elsewhere: it was heard of through Redis.
    Redis,
}

impl Source {
    /// Every source.
    pub const ALL: [Source; 3] = [Source::Admin, Source::Logout, Source::Redis];

    /// The stable label of metric and log.
    pub fn label(self) -> &'static str {
        match self {
            Source::Admin => "admin",
            Source::Logout => "logout",
            Source::Redis => "redis",
        }
    }
}

/// What a revocation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// How many connections of this process it closed.
    pub closed: usize,
    /// Whether it is stored where all replicas find it. If not although there is a
    /// Redis, it counts here and is stored as soon as that can be.
    pub shared: bool,
}

/// More is revoked than can be remembered; what was open has been closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many revocations are remembered already; a shorter revocation.keep makes room")]
pub struct Full;

/// Why what counts once revoked nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnceError {
    /// It was seen before, here or by another replica.
    #[error("it was seen before")]
    Again,
    /// More is revoked than can be remembered.
    #[error(transparent)]
    Full(#[from] Full),
}

/// How long Redis may take to say whether another replica has seen something; without
/// an answer it has not, and nobody is kept waiting for their logout.
const SIGHT: Duration = Duration::from_millis(500);

impl Revocations {
    /// Nothing is revoked yet; `registry` has the connections to close.
    pub fn new(
        terms: Arc<Terms>,
        registry: Arc<Registry>,
        telemetry: Arc<Telemetry>,
    ) -> Arc<Revocations> {
        let alone = terms.store.is_none();
        for source in Source::ALL {
            telemetry.metrics.expect_revocations(source.label());
        }
        Arc::new(Revocations {
            set: RwLock::default(),
            seen: Mutex::default(),
            terms: watch::Sender::new(terms),
            registry,
            telemetry,
            loaded: watch::Sender::new(alone),
            in_touch: AtomicBool::new(false),
            unstored: Notify::new(),
        })
    }

    /// Puts `terms` in the place of the present ones; what is revoked stays so.
    pub fn set_terms(&self, terms: &Arc<Terms>) {
        self.terms.send_if_modified(|present| {
            let changed = !Arc::ptr_eq(present, terms);
            *present = Arc::clone(terms);
            changed
        });
    }

    /// Judges an identity whose connection is in the registry since `opened`, in
    /// milliseconds since the epoch.
    ///
    /// # Errors
    /// [`Reason::Revoked`]; [`Reason::VerifierUnavailable`] as long as nobody knows,
    /// because what is stored has not been loaded yet.
    pub fn judge(&self, identity: &Identity, opened: i64) -> Result<(), Reason> {
        if identity.is_anonymous() {
            return Ok(());
        }
        if !*self.loaded.borrow() {
            return Err(Reason::VerifierUnavailable);
        }
        match self.read(|set| set.refuses(identity, opened, clock::unix_millis())) {
            true => Err(Reason::Revoked),
            false => Ok(()),
        }
    }

    /// Whether what is revoked is known to a Redis.
    pub fn is_shared(&self) -> bool {
        self.terms.borrow().store.is_some()
    }

    /// As [`judge`](Self::judge), for a dry run that has loaded nothing: asks Redis about
    /// this identity alone. Without one there is nobody to ask.
    ///
    /// # Errors
    /// As there.
    pub async fn look_up(&self, identity: &Identity) -> Result<(), Reason> {
        let terms = Arc::clone(&self.terms.borrow());
        let (Some(store), false) = (&terms.store, identity.is_anonymous()) else { return Ok(()) };
        let targets: Vec<Target> = Target::all_of(identity).collect();
        let found = store.find(&targets).await.map_err(|_| Reason::VerifierUnavailable)?;
        let now = clock::unix_millis();
        match found.iter().any(|revocation| revocation.holds(identity, now, now)) {
            true => Err(Reason::Revoked),
            false => Ok(()),
        }
    }

    /// Revokes `target`: closes what is open, refuses what comes, and tells all
    /// replicas. Goes on to its end even if nobody waits for it.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn revoke(self: &Arc<Self>, target: Target, source: Source) -> Result<Revoked, Full> {
        let this = Arc::clone(self);
        // In a task of its own: who asked may leave before it is stored.
        let revoking = tokio::spawn(async move { this.revoke_here(target, source).await });
        // It neither panics nor is aborted but with the whole process.
        revoking.await.unwrap_or(Err(Full))
    }

    /// The same, if `once` comes here for the first time, and came to no replica before
    /// that shares the same Redis.
    ///
    /// # Errors
    /// [`OnceError`]; what is [`Full`] may come again.
    pub async fn revoke_once(
        self: &Arc<Self>,
        target: Target,
        source: Source,
        once: Once,
    ) -> Result<Revoked, OnceError> {
        let this = Arc::clone(self);
        let revoking = tokio::spawn(async move {
            this.see(&once).await?;
            match this.revoke_here(target, source).await {
                Ok(revoked) => Ok(revoked),
                Err(full) => {
                    this.forget(&once).await;
                    Err(full.into())
                }
            }
        });
        revoking.await.unwrap_or(Err(OnceError::Full(Full)))
    }

    async fn see(&self, once: &Once) -> Result<(), OnceError> {
        let now = clock::unix_millis();
        match self.seen(|seen| seen.see(once, now)) {
            Sight::First => {}
            Sight::Again => return Err(OnceError::Again),
            Sight::Full => return Err(OnceError::Full(Full)),
        }
        let terms = Arc::clone(&self.terms.borrow());
        let Some(store) = &terms.store else { return Ok(()) };
        match tokio::time::timeout(SIGHT, store.see(once, now)).await {
            Ok(Ok(false)) => Err(OnceError::Again),
            // Else somebody would stay logged in because Redis is away.
            Ok(Ok(true) | Err(_)) | Err(_) => Ok(()),
        }
    }

    async fn forget(&self, once: &Once) {
        self.seen(|seen| seen.forget(once));
        let terms = Arc::clone(&self.terms.borrow());
        if let Some(store) = &terms.store {
            // If it stays there, that replica refuses it which it comes to next.
            let _ = tokio::time::timeout(SIGHT, store.forget(once)).await;
        }
    }

    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn revoke_here(&self, target: Target, source: Source) -> Result<Revoked, Full> {
        let terms = Arc::clone(&self.terms.borrow());
        let at = clock::unix_millis();
        let mut revocation = Revocation { target, at, until: at.saturating_add(terms.keep) };
        let noted = self.write(|set| set.note(revocation, at));
        let entries = self.meant(&revocation);
        let closed = entries.len();
        match end_of(&entries).map(|end| end.saturating_mul(1000).saturating_add(MARGIN)) {
            // The one token that is meant has been seen, and its end with it.
            Some(end) if target.kind() == Kind::TokenId && target.names_verifier() => {
                revocation.until = end;
                self.write(|set| set.end_at(&target, end));
            }
            Some(end) if end > revocation.until => {
                revocation.until = end;
                self.write(|set| set.note(revocation, at));
            }
            Some(_) | None => {}
        }
        let sharing = self.share(&terms, &revocation);
        let ((), shared) = tokio::join!(close_in_turn(entries, Reason::Revoked), sharing);
        self.say(target.kind(), source, closed, shared);
        match noted {
            Noted::News | Noted::Known => Ok(Revoked { closed, shared }),
            Noted::Full => {
                self.say_full();
                Err(Full)
            }
        }
    }

    /// Whether `revocation` is stored for all; if not, it will be as soon as it can.
    async fn share(&self, terms: &Terms, revocation: &Revocation) -> bool {
        let Some(store) = &terms.store else { return false };
        let stored = store.put(std::slice::from_ref(revocation)).await;
        if let Err(error) = &stored {
            self.say_unshared(error);
            self.unstored.notify_one();
        }
        stored.is_ok()
    }

    /// The connections that `revocation` means.
    fn meant(&self, revocation: &Revocation) -> Vec<Arc<Entry>> {
        let now = clock::unix_millis();
        self.registry.find_open(now, |entry, opened| {
            let identity = entry.identity();
            revocation.target.means(&identity) && revocation.holds(&identity, opened, now)
        })
    }

    fn read<T>(&self, look: impl FnOnce(&Set) -> T) -> T {
        // Whole at any time, whoever panicked.
        look(&self.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Set) -> T) -> T {
        change(&mut self.set.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nothing of whom: a session id is no business of a log.
    fn say(&self, kind: Kind, source: Source, closed: usize, shared: bool) {
        self.telemetry.metrics.revocations(source.label(), 1);
        let fields = [
            ("by", Value::from(kind.label())),
            ("source", source.label().into()),
            ("closed", closed.into()),
            ("shared", shared.into()),
        ];
        self.telemetry.log.event(LogLevel::Info, "revoked", &fields);
    }

    fn say_full(&self) {
        self.telemetry.log.event(LogLevel::Error, &Full.to_string(), &[]);
    }

    fn say_unshared(&self, error: &crate::redis::RedisError) {
        let message = "a revocation counts here alone until Redis can store it";
        let error = Value::from(error.to_string());
        self.telemetry.log.event(LogLevel::Warn, message, &[("error", error)]);
    }

    /// Whether what others revoke may go unheard.
    pub fn is_degraded(&self) -> bool {
        self.terms.borrow().store.is_some() && !self.in_touch.load(Ordering::Relaxed)
    }

    /// Waits until everything that is stored has been loaded.
    pub async fn loaded(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.loaded.subscribe().wait_for(|loaded| *loaded).await.is_ok();
    }
}

/// When the last credential of `entries` ends, in Unix seconds, if all do.
fn end_of(entries: &[Arc<Entry>]) -> Option<i64> {
    let ends: Option<Vec<i64>> = entries.iter().map(|entry| entry.identity().deadline()).collect();
    ends?.into_iter().max()
}

#[cfg(test)]
mod tests;
