//! Wires the rooms together: binds, runs, drains, shuts down. The only room that
//! may import everything.

mod accept;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::config::Loaded;
use crate::connection;
use crate::listener::{ListenAddress, Listener};
use crate::pipeline::{self, Built, Gate, Unusable};
use crate::problem::Problem;
use crate::relay;
use crate::reload::Reloader;
use crate::revocation;
use crate::secret::Secret;
use crate::telemetry::{Log, LogLevel, Metrics, Telemetry};
use crate::tls;

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration means nothing usable.
    #[error("{}", list(.0, .1))]
    Config(PathBuf, Vec<Problem>),
    /// An address cannot be bound.
    #[error("{key}: cannot listen on {address}: {source}")]
    Bind {
        /// The key that names the address.
        key: &'static str,
        /// The address as written.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The metrics or the log cannot be set up.
    #[error("cannot set up telemetry: {0}")]
    Telemetry(String),
}

fn list(file: &Path, problems: &[Problem]) -> String {
    let lines: Vec<String> =
        problems.iter().map(|problem| format!("{}: {problem}", file.display())).collect();
    lines.join("\n")
}

/// What is not in the configuration file.
#[derive(Default)]
pub struct Options {
    /// Do not read the file again on SIGHUP or when it changes.
    pub no_reload: bool,
    /// Where log lines go, in place of stdout.
    pub log: Option<Box<dyn Write + Send>>,
}

/// An address that is listened on.
#[derive(Clone, Debug)]
pub struct BoundAddress(String);

impl std::fmt::Display for BoundAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A running gate.
pub struct App {
    gate: Arc<Gate>,
    admin: Arc<Admin>,
    addresses: Vec<BoundAddress>,
    admin_address: BoundAddress,
    closing: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl App {
    /// Builds, binds and starts. Returns once every listener is bound.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(loaded: Loaded, options: Options) -> Result<App, StartError> {
        let server = loaded.file.server.clone();
        let config_error =
            |unusable: Unusable| StartError::Config(loaded.path.clone(), unusable.problems);
        let telemetry_error =
            |error: &dyn std::fmt::Display| StartError::Telemetry(error.to_string());
        let metrics = Metrics::new().map_err(|error| telemetry_error(&error))?;
        let Parts { built, tls, token } = build(&loaded, &metrics).map_err(config_error)?;

        let mut listeners = Vec::new();
        for written in &server.listen.0 {
            listeners.push(bind("server.listen", written, &loaded.base).await?);
        }
        let admin_listener = bind("admin.listen", &loaded.file.admin.listen, &loaded.base).await?;

        let output = options.log.unwrap_or_else(|| Box::new(io::stdout()));
        let log = Log::to(&loaded.file.log, output).map_err(|error| telemetry_error(&error))?;
        let telemetry = Telemetry::new(metrics, log).map_err(|error| telemetry_error(&error))?;
        let gate = Arc::new(Gate::new(built.plans, Arc::new(telemetry)));
        let admin = Arc::new(Admin::new(Arc::clone(&gate), token));
        let log = &gate.telemetry.log;
        for warning in loaded.warnings.iter().chain(&built.warnings) {
            log.event(LogLevel::Warn, &warning.to_string(), &[]);
        }

        let (closing, closed) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let addresses: Vec<_> =
            listeners.iter().map(|listener| BoundAddress(listener.address().to_owned())).collect();
        let admin_address = BoundAddress(admin_listener.address().to_owned());
        for address in &addresses {
            announce(log, "server", address);
        }
        announce(log, "admin", &admin_address);
        for listener in listeners {
            let tls = tls.clone().filter(|_| listener.is_tcp());
            tasks.spawn(accept::serve(Arc::clone(&gate), listener, tls, closed.clone()));
        }
        tasks.spawn(accept::serve_admin(Arc::clone(&admin), admin_listener));
        tasks.spawn(connection::sweep(Arc::clone(&gate.registry)));
        tasks.spawn(pipeline::recheck(Arc::clone(&gate)));
        tasks.spawn(revocation::keep_in_touch(Arc::clone(&gate.revocations)));
        if !options.no_reload {
            let reloader =
                Reloader::new(Arc::clone(&gate), Arc::clone(&admin), loaded, built.files, tls);
            tasks.spawn(reloader.run());
        }
        // Nobody waits for it: a provider may be slow, or down.
        gate.plans.load().start(&gate.telemetry);
        let mut getting_ready = Box::pin(get_ready(Arc::clone(&gate), Arc::clone(&admin)));
        // At once, unless there is something to load.
        if (&mut getting_ready).now_or_never().is_none() {
            tasks.spawn(getting_ready);
        }
        Ok(App { gate, admin, addresses, admin_address, closing, tasks })
    }

    /// The addresses of `server.listen`, as bound.
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.addresses
    }

    /// The address of `admin.listen`, as bound.
    pub fn admin_address(&self) -> &BoundAddress {
        &self.admin_address
    }

    /// Waits until an operator asks for a drain on the admin listener.
    pub async fn drain_requested(&self) {
        self.admin.drain_requested().await;
    }

    /// Unready at once, admitting for `server.drain_delay`, then refusing new
    /// upgrades and closing live connections evenly over `server.drain`.
    /// Returns as soon as the last is gone.
    pub async fn drain(&self) {
        let log = &self.gate.telemetry.log;
        let open = serde_json::Value::from(self.gate.registry.open());
        log.event(LogLevel::Info, "draining", &[("open", open)]);
        self.gate.start_draining();
        let plans = self.gate.plans.load_full();
        tokio::time::sleep(plans.drain_delay).await;
        self.gate.stop_admitting();
        self.closing.send_replace(true);
        tokio::join!(
            connection::drain(&self.gate.registry, plans.drain),
            self.gate.logins_ended(plans.drain + relay::CLOSING),
        );
        log.event(LogLevel::Info, "drained", &[]);
    }

    /// Ends at once what is still running, and flushes the log.
    pub async fn shutdown(mut self) {
        self.closing.send_replace(true);
        self.tasks.shutdown().await;
        self.gate.telemetry.log.flush();
    }
}

/// All that a configuration needs besides sockets.
struct Parts {
    built: Built,
    tls: Option<accept::SharedTls>,
    token: Option<Secret>,
}

fn build(loaded: &Loaded, metrics: &Metrics) -> Result<Parts, Unusable> {
    let mut problems = Vec::new();
    let mut note = |key: &str, error: &dyn std::fmt::Display| {
        problems.push(Problem::new(key, error.to_string()))
    };
    let tls = loaded.file.server.tls.as_ref().and_then(|files| {
        let config = tls::server(&loaded.base.join(&files.cert), &loaded.base.join(&files.key));
        config.map_err(|error| note("server.tls", &error)).ok()
    });
    let token = loaded.file.admin.token.as_ref().and_then(|token| {
        token.resolve(&loaded.base).map_err(|error| note("admin.token", &error)).ok()
    });
    match pipeline::build(loaded, metrics, None) {
        Ok(built) if problems.is_empty() => {
            Ok(Parts { built, tls: tls.map(|tls| Arc::new(ArcSwap::new(tls))), token })
        }
        Ok(built) => Err(Unusable { problems, warnings: built.warnings }),
        Err(unusable) => {
            problems.extend(unusable.problems);
            Err(Unusable { problems, ..unusable })
        }
    }
}

/// Everything that starting would do short of binding; the warnings.
///
/// # Errors
/// Every problem, by key path.
pub fn validate(loaded: &Loaded) -> Result<Vec<Problem>, Unusable> {
    let metrics = Metrics::new().map_err(|error| Unusable {
        problems: vec![Problem::new("", error.to_string())],
        warnings: Vec::new(),
    })?;
    build(loaded, &metrics).map(|parts| parts.built.warnings)
}

/// Who has been revoked must be known before the first client is sent here.
async fn get_ready(gate: Arc<Gate>, admin: Arc<Admin>) {
    gate.revocations.loaded().await;
    admin.set_ready();
    gate.telemetry.log.event(LogLevel::Info, "ready", &[]);
}

async fn bind(key: &'static str, written: &str, base: &Path) -> Result<Listener, StartError> {
    let failed = |source| StartError::Bind { key, address: written.to_owned(), source };
    let address: ListenAddress = written
        .parse()
        .map_err(|form| failed(io::Error::new(io::ErrorKind::InvalidInput, form)))?;
    let address = match address {
        ListenAddress::Unix(path) => ListenAddress::Unix(base.join(path)),
        tcp @ ListenAddress::Tcp(_) => tcp,
    };
    Listener::bind(&address).await.map_err(failed)
}

fn announce(log: &Log, listener: &str, address: &BoundAddress) {
    log.event(
        LogLevel::Info,
        "listening",
        &[("listener", listener.into()), ("address", address.to_string().into())],
    );
}
