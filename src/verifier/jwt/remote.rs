//! The keys that an issuer publishes, as this process has them now: fetched in the
//! background by one task, which ends with the verifier. A token never causes
//! more than that this task asks the same place once more, and rarely that
//! ([`schedule`](super::schedule)).

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::super::{SignatureAlgorithm, Unavailable};
use super::KeySet;
use super::discovery::DiscoveryError;
use super::jwks::{self, NotAKeySet};
use super::key::{Keys, Kind};
use super::schedule::{Cause, KEPT, Miss, Schedule, Standing};
use crate::fetch::FetchError;
use crate::telemetry::{LogLevel, Telemetry};

/// Where keys are published.
pub(super) trait KeyPlace: Send + Sync {
    /// Asks for the key set, and for where it is, unless that is known and the
    /// cause is an unknown key: this one costs a single request.
    fn ask(&self, cause: Cause) -> Asking<'_>;

    /// The URL that was configured, for the operator.
    fn url(&self) -> &str;
}

/// What [`KeyPlace::ask`] gives: the text of a key set.
pub(super) type Asking<'a> = Pin<Box<dyn Future<Output = Result<String, KeysError>> + Send + 'a>>;

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    /// There was no answer to read.
    #[error("{what}: {error}")]
    Fetch {
        /// What was asked for.
        what: &'static str,
        /// Why it did not come.
        error: FetchError,
    },
    /// Not the answer that was asked for.
    #[error(
        "{what} is answered with the status {status}; only a 200 is read, no redirect followed"
    )]
    Status {
        /// What was asked for.
        what: &'static str,
        /// The status of the answer.
        status: u16,
    },
    /// The discovery document leads nowhere.
    #[error("{0}")]
    Discovery(#[from] DiscoveryError),
    /// The text is not a key set.
    #[error("what should be the key set {0}")]
    NotAKeySet(#[from] NotAKeySet),
    /// No key of the set may verify tokens.
    #[error("the key set holds no key that can be used{0}")]
    NoKey(String),
}

/// The keys of one issuer.
pub(super) struct Remote {
    shared: Arc<Shared>,
    timeout: Duration,
    task: Mutex<Option<AbortHandle>>,
}

struct Shared {
    name: Arc<str>,
    place: Box<dyn KeyPlace>,
    algorithms: Vec<SignatureAlgorithm>,
    schedule: Mutex<Schedule>,
    held: ArcSwapOption<Held>,
    /// Rung when an unknown key wants a fetch.
    wanted: Notify,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
}

/// Keys, and until when they count.
struct Held {
    set: Arc<KeySet>,
    /// The hash of what was fetched.
    text: Digest,
    until: Instant,
}

/// What came of a key that is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// Keys were fetched: look again.
    Fetched,
    /// It was asked for too recently to ask again: the key is unknown.
    Unknown,
}

impl Remote {
    /// The keys at `place`, of which none is known yet; asked again every
    /// `refresh`. Nobody waits for longer than `timeout`.
    pub(super) fn new(
        name: Arc<str>,
        place: Box<dyn KeyPlace>,
        algorithms: Vec<SignatureAlgorithm>,
        refresh: Duration,
        timeout: Duration,
    ) -> Remote {
        let shared = Shared {
            name,
            place,
            algorithms,
            schedule: Mutex::new(Schedule::new(refresh, now())),
            held: ArcSwapOption::empty(),
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
        };
        Remote { shared: Arc::new(shared), timeout, task: Mutex::default() }
    }

    /// Begins to fetch, unless that has begun already.
    pub(super) fn start(&self, telemetry: &Arc<Telemetry>) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_none() {
            telemetry.metrics.expect_key_refreshes(&self.shared.name);
            // From here on whoever misses a key waits for the first fetch.
            self.shared.schedule().begin();
            let fetching = run(Arc::clone(&self.shared), Arc::clone(telemetry));
            *task = Some(tokio::spawn(fetching).abort_handle());
        }
    }

    /// From here on asks only for what somebody misses.
    pub(super) fn retire(&self) {
        self.shared.schedule().retire();
        // Whoever waits for the next refresh waits in vain.
        self.shared.wanted.notify_one();
    }

    /// The keys that count now.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        let held = self.shared.held.load();
        held.as_ref().filter(|held| now() <= held.until).map(|held| Arc::clone(&held.set))
    }

    /// Whether any key, fetched or yet to be, may verify by `algorithm`: no secret is
    /// ever published.
    pub(super) fn takes(&self, algorithm: SignatureAlgorithm) -> bool {
        let algorithms = &self.shared.algorithms;
        Kind::of(algorithm) != Kind::Secret
            && (algorithms.is_empty() || algorithms.contains(&algorithm))
    }

    /// Until when somebody waits who begins to now.
    pub(super) fn patience(&self) -> Instant {
        now() + self.timeout
    }

    /// Whether the last fetch failed, or there was none yet.
    pub(super) fn is_degraded(&self) -> bool {
        self.shared.schedule().standing(now()) != Standing::Good
    }

    /// A key is missed: waits for the fetch that may bring it, if there is to be one.
    ///
    /// # Errors
    /// If nobody can tell whether the key exists: the issuer does not answer.
    pub(super) async fn miss(&self, deadline: Instant) -> Result<Missed, Unavailable> {
        // First, so that the end of no fetch is missed.
        let mut ended = self.shared.ended.subscribe();
        let miss = self.shared.schedule().miss(now());
        match miss {
            Miss::Unknown => return Ok(Missed::Unknown),
            Miss::Unavailable => return Err(Unavailable("its keys cannot be fetched")),
            Miss::Fetch => self.shared.wanted.notify_one(),
            Miss::Wait => {}
        }
        match tokio::time::timeout_at(deadline.into(), ended.changed()).await {
            Ok(Ok(())) => Ok(Missed::Fetched),
            Ok(Err(_)) | Err(_) => Err(Unavailable("its keys did not come in time")),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

impl Shared {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        // It is whole at any time, whoever panicked.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is time, or an unknown key wants a fetch.
    async fn until_wanted(&self) {
        // Rung for a fetch that has been, the bell means nothing.
        while !self.schedule().is_wanted(now()) {
            let due = self.schedule().due();
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// Fetches once; if that gave other keys than before, how many more there are than
    /// are looked at.
    async fn fetch(&self) -> Result<usize, KeysError> {
        let cause = self.schedule().begin();
        let began = now();
        let read = match self.place.ask(cause).await {
            Ok(text) => self.read(&text, began),
            Err(error) => Err(error),
        };
        let jitter = f64::from(rand::random::<u16>()) / f64::from(u16::MAX);
        let mut schedule = self.schedule();
        match read {
            Ok((held, more)) => {
                self.held.store(Some(Arc::new(held)));
                schedule.succeeded(began, now(), jitter);
                Ok(more)
            }
            Err(error) => {
                schedule.failed(now(), jitter);
                Err(error)
            }
        }
    }

    /// The same text is the same set: what is known of its tokens stays known.
    fn read(&self, text: &str, began: Instant) -> Result<(Held, usize), KeysError> {
        let (hash, until) = (digest(&SHA256, text.as_bytes()), began + KEPT);
        if let Some(held) = &*self.held.load()
            && held.text.as_ref() == hash.as_ref()
        {
            return Ok((Held { set: Arc::clone(&held.set), text: hash, until }, 0));
        }
        let usable = jwks::read(text, &self.algorithms)?;
        if usable.keys.is_empty() {
            let why = usable.remarks.first().map(|remark| format!(": {remark}"));
            return Err(KeysError::NoKey(why.unwrap_or_default()));
        }
        let set = KeySet::new(Keys { keys: usable.keys, by_id: true });
        Ok((Held { set: Arc::new(set), text: hash, until }, usable.more))
    }
}

/// Fetches for as long as it is polled.
async fn run(shared: Arc<Shared>, telemetry: Arc<Telemetry>) {
    let mut told = Standing::Starting;
    loop {
        let fetched = shared.fetch().await;
        telemetry.metrics.key_refresh(&shared.name, fetched.is_ok());
        let (standing, retired) = {
            let schedule = shared.schedule();
            (schedule.standing(now()), schedule.is_retired())
        };
        if let Ok(more @ 1..) = fetched {
            tell_of_more(&shared, &telemetry, more);
        }
        if standing != told && !retired {
            tell(&shared, &telemetry, standing, told, fetched.err());
            told = standing;
        }
        shared.ended.send_modify(|count| *count = count.wrapping_add(1));
        shared.until_wanted().await;
    }
}

/// One line for each change, whatever number of failures it takes.
fn tell(
    shared: &Shared,
    telemetry: &Telemetry,
    standing: Standing,
    before: Standing,
    error: Option<KeysError>,
) {
    let (level, message) = match (standing, before) {
        (Standing::Starting, _) => return,
        (Standing::Good, Standing::Starting) => (LogLevel::Info, "keys fetched"),
        (Standing::Good, _) => (LogLevel::Info, "keys fetched again"),
        (Standing::Stale, _) => {
            (LogLevel::Warn, "keys cannot be fetched; those fetched before count for an hour")
        }
        (Standing::Without, _) => {
            (LogLevel::Warn, "keys cannot be fetched; this verifier refuses until they can")
        }
    };
    let mut fields = about(shared);
    fields.extend(error.map(|error| ("error", Value::from(error.to_string()))));
    telemetry.log.event(level, message, &fields);
}

/// One line for each set that is too large.
fn tell_of_more(shared: &Shared, telemetry: &Telemetry, more: usize) {
    let message = "the key set is too large; tokens of its last keys are refused";
    let mut fields = about(shared);
    fields.extend([("looked_at", Value::from(jwks::MOST)), ("left_out", Value::from(more))]);
    telemetry.log.event(LogLevel::Warn, message, &fields);
}

fn about(shared: &Shared) -> Vec<(&'static str, Value)> {
    vec![("verifier", Value::from(&*shared.name)), ("url", Value::from(shared.place.url()))]
}

/// The clock of the runtime, which tests can move.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
