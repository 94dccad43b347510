//! Reads the configuration again on SIGHUP, or when the file or any file that it
//! names changes. A bad one changes nothing and says so; live connections stay.
//!
//! Who saves a file and then signals means one reload. The signal may be first:
//! then the change finds nothing new. If the change was, and nothing has changed
//! since, the signal is answered with what came of it.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rustls::ServerConfig;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::admin::Admin;
use crate::config::{self, FileConfig, Loaded};
use crate::pipeline::{self, Gate};
use crate::problem::Problem;
use crate::telemetry::LogLevel;

/// Events come in bursts: an editor writes, renames and touches.
const SETTLE: Duration = Duration::from_millis(100);

/// How long after a change was loaded a signal is taken to mean that change. Later,
/// it means what it says: files are not all that a configuration depends on.
const SAME: Duration = Duration::from_secs(2);

/// Not every file system tells of changes.
const POLL: Duration = Duration::from_secs(10);

/// Keeps a gate's configuration up to date.
pub struct Reloader {
    gate: Arc<Gate>,
    admin: Arc<Admin>,
    running: Loaded,
    started: FileConfig,
    files: Vec<PathBuf>,
    /// What a file that could not be used names besides: mending may mean these.
    hopeful: Vec<PathBuf>,
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    seen: HashMap<PathBuf, Option<u64>>,
    /// When a change was last loaded without being asked, and whether it was good.
    noticed: Option<(Instant, bool)>,
}

impl Reloader {
    /// Watches what `running` names, and `files` besides.
    pub fn new(
        gate: Arc<Gate>,
        admin: Arc<Admin>,
        running: Loaded,
        files: Vec<PathBuf>,
        tls: Option<Arc<ArcSwap<ServerConfig>>>,
    ) -> Reloader {
        let mut reloader = Reloader {
            gate,
            admin,
            started: running.file.clone(),
            running,
            files,
            hopeful: Vec::new(),
            tls,
            seen: HashMap::new(),
            noticed: None,
        };
        reloader.seen = reloader.contents();
        reloader
    }

    /// Reloads for as long as it is polled.
    pub async fn run(mut self) {
        let changed = Arc::new(Notify::new());
        let mut watcher = watcher(&changed);
        let mut watched = BTreeSet::new();
        let Ok(mut hangups) = signal(SignalKind::hangup()) else {
            return self.say_failed(&[Problem::new("", "SIGHUP cannot be handled")]);
        };
        loop {
            if let Some(watcher) = &mut watcher {
                self.watch(watcher, &mut watched);
            }
            let poll = sleep_until(Instant::now() + POLL);
            let asked = tokio::select! {
                _ = hangups.recv() => true,
                () = changed.notified() => {
                    sleep(SETTLE).await;
                    false
                }
                () = poll => false,
            };
            let contents = self.contents();
            let differs = contents != self.seen;
            let just_loaded = self.noticed.filter(|(at, _)| at.elapsed() < SAME);
            if let (true, false, Some((_, good))) = (asked, differs, just_loaded) {
                self.say_already(good);
            } else if asked || differs {
                let good = self.reload().await;
                self.noticed = (!asked).then(|| (Instant::now(), good));
                // What was read before the reload counts as seen: a file that
                // has changed since brings the next one.
                let mut seen = self.contents();
                seen.extend(
                    contents
                        .into_iter()
                        .filter(|(path, _)| seen.contains_key(path))
                        .collect::<Vec<_>>(),
                );
                self.seen = seen;
            }
        }
    }

    fn all_files(&self) -> Vec<PathBuf> {
        let mut files = self.running.files();
        files.extend(self.files.iter().chain(&self.hopeful).cloned());
        files
    }

    /// A fingerprint of each file; none for one that cannot be read.
    fn contents(&self) -> HashMap<PathBuf, Option<u64>> {
        self.all_files().into_iter().map(|path| (path.clone(), fingerprint(&path))).collect()
    }

    /// Watches directories, not files: a ConfigMap is swapped by renaming a link.
    fn watch(&self, watcher: &mut RecommendedWatcher, watched: &mut BTreeSet<PathBuf>) {
        for file in self.all_files() {
            let Some(directory) = file.parent() else { continue };
            if watched.contains(directory) {
                continue;
            }
            // A directory that cannot be watched is still polled.
            if watcher.watch(directory, RecursiveMode::NonRecursive).is_ok() {
                watched.insert(directory.to_owned());
            }
        }
    }

    /// Whether the configuration was good, and is now live.
    async fn reload(&mut self) -> bool {
        match self.load().await {
            Ok(()) => true,
            Err(problems) => {
                self.say_failed(&problems);
                false
            }
        }
    }

    async fn load(&mut self) -> Result<(), Vec<Problem>> {
        let telemetry = Arc::clone(&self.gate.telemetry);
        let old = self.gate.plans.load_full();
        let loaded = match config::load(&self.running.path) {
            Ok(loaded) => loaded,
            Err(mut error) => {
                if let Some(readable) = error.readable.take() {
                    self.hopeful = readable.files();
                    if let Err(unusable) = pipeline::build(&readable, &telemetry.metrics, None) {
                        error.add(unusable.problems);
                    }
                }
                return Err(error.problems);
            }
        };
        self.hopeful = loaded.files();
        let built = pipeline::build(&loaded, &telemetry.metrics, Some(&old))
            .map_err(|unusable| unusable.problems)?;
        let server = self.server_tls(&loaded).map_err(|problem| vec![problem])?;
        let token = loaded.file.admin.token.as_ref().map(|token| token.resolve(&loaded.base));
        let token = token
            .transpose()
            .map_err(|error| vec![Problem::new("admin.token", error.to_string())])?;
        // Everything is known to be good: from here on nothing fails.
        if let (Some(tls), Some(server)) = (&self.tls, server) {
            tls.store(server);
        }
        self.admin.set_token(token);
        let plans = Arc::new(built.plans);
        plans.start(&telemetry);
        self.gate.plans.store(Arc::clone(&plans));
        self.gate.revocations.set_terms(&plans.revocation);
        old.retire(&plans);
        pipeline::judge_again(&self.gate, &old, &plans).await;
        telemetry.log.configure(&loaded.file.log);
        telemetry.metrics.config_reload(true);
        let needs_restart = needs_restart(&self.started, &loaded.file);
        self.running = loaded;
        self.files = built.files;
        self.hopeful.clear();
        telemetry.log.event(LogLevel::Info, "configuration reloaded", &[]);
        for warning in self.running.warnings.iter().chain(&built.warnings) {
            telemetry.log.event(LogLevel::Warn, &warning.to_string(), &[]);
        }
        for key in needs_restart {
            let message = format!("{key} has changed, which needs a restart to take effect");
            telemetry.log.event(LogLevel::Warn, &message, &[("key", Value::from(key))]);
        }
        Ok(())
    }

    fn server_tls(&self, loaded: &Loaded) -> Result<Option<Arc<ServerConfig>>, Problem> {
        let Some(files) = loaded.file.server.tls.as_ref().filter(|_| self.tls.is_some()) else {
            return Ok(None);
        };
        files
            .load(&loaded.base)
            .map(Some)
            .map_err(|error| Problem::new("server.tls", error.to_string()))
    }

    fn say_already(&self, good: bool) {
        let (level, message) = if good {
            (LogLevel::Info, "SIGHUP: this configuration was reloaded just before")
        } else {
            (LogLevel::Error, "SIGHUP: this configuration was found bad just before")
        };
        self.gate.telemetry.log.event(level, message, &[]);
    }

    fn say_failed(&self, problems: &[Problem]) {
        let telemetry = &self.gate.telemetry;
        telemetry.metrics.config_reload(false);
        let file = self.running.path.display().to_string();
        for problem in problems {
            telemetry.log.event(
                LogLevel::Error,
                "configuration not reloaded; the last good one stays",
                &[("error", Value::from(format!("{file}: {problem}")))],
            );
        }
    }
}

/// The keys that differ from those at the start and that only a restart can change.
fn needs_restart(old: &FileConfig, new: &FileConfig) -> Vec<&'static str> {
    let differing = [
        ("server.listen", old.server.listen != new.server.listen),
        ("server.threads", old.server.threads != new.server.threads),
        ("server.tls", old.server.tls.is_some() != new.server.tls.is_some()),
        ("admin.listen", old.admin.listen != new.admin.listen),
    ];
    differing.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

fn watcher(changed: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let changed = Arc::clone(changed);
    // Contents are compared: only that something may have changed counts. To read is
    // not to change, and comparing reads: it would call for itself, for ever.
    let notice = move |event: notify::Result<Event>| {
        if !event.is_ok_and(|event| is_reading(event.kind)) {
            changed.notify_one();
        }
    };
    notify::recommended_watcher(notice).ok()
}

fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn fingerprint(path: &Path) -> Option<u64> {
    let bytes = std::fs::read(path).ok()?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Some(hasher.finish())
}
