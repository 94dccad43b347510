//! From what the file says to a verifier of sessions: what does not go together
//! is refused, with what would.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::config::{CookieFormat, SessionConfig, SignatureFormat, ValueConfig, ValueFormat};
use super::postgres::{Location, PostgresStore};
use super::redis::{Reading, RedisStore};
use super::signed::django::{COOKIE_SALT, DATABASE_SALT, Django};
use super::signed::express::Express;
use super::signed::flask::{self, Flask};
use super::signed::keygrip::Keygrip;
use super::sqlite::SqliteStore;
use super::store::Store;
use super::{Ends, Format, Rules, Session, Source, Stored};
use crate::expression::Expression;
use crate::problem::Problem;
use crate::redis::{Options, Redis};
use crate::secret::{Secret, SecretConfig};
use crate::unit::Span;
use crate::verifier::Built;
use crate::verifier::lookup::Lookups;

/// The most secrets of a list: each is tried on every credential.
const SECRETS: usize = 8;
/// How old a cookie of Flask may be: `PERMANENT_SESSION_LIFETIME`.
const FLASK_AGE: Span = Span::secs(31 * 86_400);
/// How old a cookie of Django may be: `SESSION_COOKIE_AGE`.
const DJANGO_AGE: Span = Span::secs(14 * 86_400);

/// What a look-up has beyond its timeout: the store's own comes first, and so it
/// knows that its connection is no good.
const GRACE: Duration = Duration::from_millis(250);

/// What is gathered on the way.
struct Findings<'a> {
    base: &'a Path,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    files: Vec<PathBuf>,
}

/// The kinds of a store, by how `store` begins.
enum Kind {
    Redis,
    Sqlite(PathBuf),
    Postgres,
    Cookie,
}

/// Makes a verifier of `config`; relative paths are relative to `base`.
pub(in crate::verifier) fn build(
    name: &str,
    config: &SessionConfig,
    base: &Path,
) -> Result<Built, Vec<Problem>> {
    let mut findings =
        Findings { base, problems: Vec::new(), warnings: Vec::new(), files: Vec::new() };
    let store = findings.secret("store", &config.store.0);
    let kind = store.as_ref().and_then(|store| findings.kind(store));
    let source = match (&store, &kind) {
        (Some(store), Some(kind)) => {
            findings.fitting(config, kind);
            findings.source(config, kind, store)
        }
        _ => None,
    };
    let rules = findings.rules(name, config, kind.as_ref());
    match (source, rules) {
        (Some(source), Some(rules)) if findings.problems.is_empty() => Ok(Built {
            verifier: Arc::new(Session { name: name.into(), source, rules: Arc::new(rules) }),
            files: findings.files,
            warnings: findings.warnings,
        }),
        _ => Err(findings.problems),
    }
}

impl Findings<'_> {
    fn problem(&mut self, path: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(path, message));
    }

    fn secret(&mut self, path: &str, written: &SecretConfig) -> Option<Secret> {
        self.files.extend(written.file().map(|file| self.base.join(file)));
        written.resolve(self.base).map_err(|error| self.problem(path, error.to_string())).ok()
    }

    fn secrets(&mut self, path: &str, written: &[SecretConfig]) -> Vec<Secret> {
        if written.is_empty() || written.len() > SECRETS {
            let message = format!("needs the application's secret, or a list of at most {SECRETS}");
            self.problem(path, message);
        }
        let secrets = written.iter().enumerate().filter_map(|(index, secret)| {
            let path =
                if written.len() == 1 { path.to_owned() } else { format!("{path}[{index}]") };
            self.secret(&path, secret)
        });
        secrets.collect()
    }

    fn kind(&mut self, store: &Secret) -> Option<Kind> {
        let text = String::from_utf8_lossy(store.expose()).into_owned();
        let begins = |schemes: &[&str]| schemes.iter().any(|scheme| text.starts_with(scheme));
        if text == "cookie" {
            return Some(Kind::Cookie);
        }
        if begins(&["redis://", "rediss://", "unix:", "redis+unix:"]) {
            return Some(Kind::Redis);
        }
        if begins(&["postgres://", "postgresql://"]) {
            return Some(Kind::Postgres);
        }
        if let Some(file) = text.strip_prefix("sqlite:") {
            let file = file.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(file);
            if file.is_empty() || file.contains('?') || file == ":memory:" {
                self.problem("store", "expected the file of the database: sqlite:app.db");
                return None;
            }
            let path = self.base.join(file);
            if !path.exists() {
                let message = format!("{} does not exist yet", path.display());
                self.warnings.push(Problem::new("store", message));
            }
            return Some(Kind::Sqlite(path));
        }
        let message = "expected redis://, rediss://, unix:/path (Redis), sqlite:FILE, postgres:// \
                       or cookie";
        self.problem("store", message);
        None
    }

    /// Reports the keys that mean nothing with this kind of store, or are missing.
    fn fitting(&mut self, config: &SessionConfig, kind: &Kind) {
        let sql = matches!(kind, Kind::Sqlite(_) | Kind::Postgres);
        let cookie = matches!(kind, Kind::Cookie);
        match &config.query {
            Some(_) if !sql => {
                let message = "is SQL, for sqlite: and postgres: alone; what to look up in Redis is \
                               said by `key`";
                self.problem("query", message);
            }
            None if sql => {
                let message = "is missing: the SELECT that finds a session by its id, $1; e.g. \
                               SELECT user_id, expires_at FROM sessions WHERE id = $1";
                self.problem("query", message);
            }
            Some(query) if !query.contains("$1") => {
                self.problem("query", "must use $1, which is bound to what `key` gives");
            }
            Some(_) | None => {}
        }
        match &config.cookie_format {
            Some(_) if !cookie => {
                let message = "is for sessions that the cookie itself holds: write `store: cookie`, \
                               or, for a signed id, cookie_signature";
                self.problem("cookie_format", message);
            }
            None if cookie => {
                let message =
                    "is missing: whose cookie is it? e.g. { format: flask, secrets: [...] }";
                self.problem("cookie_format", message);
            }
            Some(_) | None => {}
        }
        if cookie {
            let no_effect = "has no effect with `store: cookie`: nothing is looked up";
            if config.cookie_signature.is_some() {
                self.problem("cookie_signature", no_effect);
            }
            if config.key != "credential" {
                self.problem("key", no_effect);
            }
            if !matches!(config.value, ValueConfig::Unset) {
                self.problem("value", "has no effect with `store: cookie`: cookie_format says it");
            }
        }
        match config.value {
            ValueConfig::Named(ValueFormat::String | ValueFormat::Hash) if sql => {
                let message = "a query gives rows: leave `value` out, or decode session_data with \
                               {django: {secrets: …}}";
                self.problem("value", message);
            }
            ValueConfig::Named(ValueFormat::String | ValueFormat::Hash)
                if config.key.trim() == "credential" && !cookie =>
            {
                let message = "with `value: string` or `hash` and no prefix in `key`, a client \
                               becomes whatever any key of this Redis holds; e.g. \
                               '\"sess:\" + credential'";
                self.warnings.push(Problem::new("key", message));
            }
            _ => {}
        }
        if config.ca.is_some() && (cookie || matches!(kind, Kind::Sqlite(_))) {
            self.problem("ca", "has no effect: there is no connection");
        }
        if config.timeout.limit().is_none() {
            self.problem("timeout", "must be more than 0");
        }
    }

    fn source(&mut self, config: &SessionConfig, kind: &Kind, store: &Secret) -> Option<Source> {
        if let Kind::Cookie = kind {
            return self.format(config).map(Source::Cookie);
        }
        let signature = config.cookie_signature.as_ref().map(|signature| {
            let secrets = self.secrets("cookie_signature.secrets", &signature.secrets.0);
            match signature.format {
                SignatureFormat::Express => Express::new(&secrets),
            }
        });
        let key = self.expression("key", &config.key, "credential");
        let django = match &config.value {
            ValueConfig::Django(written) => {
                let secrets = self.secrets("value.django.secrets", &written.django.secrets.0);
                Some(Django::new(&secrets, DATABASE_SALT))
            }
            ValueConfig::Named(_) | ValueConfig::Unset => None,
        };
        let ca = config.ca.as_ref().map(|ca| self.base.join(ca));
        self.files.extend(ca.clone());
        let query = config.query.as_deref().unwrap_or_default();
        let timeout = config.timeout.0;
        let store: Arc<dyn Store> = match kind {
            Kind::Cookie => return None,
            Kind::Redis => Arc::new(self.redis(config, store, ca, django)?),
            Kind::Sqlite(path) => Arc::new(SqliteStore::new(path.clone(), query, timeout, django)),
            Kind::Postgres => match Location::parse(store, ca.as_deref()) {
                Ok(location) => {
                    let warning = location.warning().map(|said| Problem::new("store", said));
                    self.warnings.extend(warning);
                    Arc::new(PostgresStore::new(location, query, timeout, django))
                }
                Err(error) => {
                    self.problem("store", error.to_string());
                    return None;
                }
            },
        };
        let lookups = Lookups::new(timeout + GRACE, Duration::ZERO);
        let degraded = Arc::default();
        let unending = Arc::default();
        let stored = Stored { signature, key: key?, store, lookups, unending, degraded };
        Some(Source::Stored(Box::new(stored)))
    }

    fn redis(
        &mut self,
        config: &SessionConfig,
        url: &Secret,
        ca: Option<PathBuf>,
        django: Option<Django>,
    ) -> Option<RedisStore> {
        let reading = match (django, &config.value) {
            (Some(django), _) => Reading::Django(django),
            (None, ValueConfig::Named(ValueFormat::String)) => Reading::Text,
            (None, ValueConfig::Named(ValueFormat::Hash)) => Reading::Hash,
            (None, _) => Reading::Json,
        };
        match Redis::new(url, &Options { ca, timeout: config.timeout.0 }) {
            Ok(redis) => Some(RedisStore { redis, reading }),
            Err(error) => {
                self.problem("store", error.to_string());
                None
            }
        }
    }

    fn format(&mut self, config: &SessionConfig) -> Option<Format> {
        let written = config.cookie_format.as_ref()?;
        let secrets = self.secrets("cookie_format.secrets", &written.secrets.0);
        let salt = |default| written.salt.as_deref().unwrap_or(default);
        if written.max_age.is_some_and(|age| age.limit().is_none()) {
            self.problem("cookie_format.max_age", "must be more than 0");
        }
        let age = |default: Span| {
            i64::try_from(written.max_age.unwrap_or(default).0.as_secs()).unwrap_or(i64::MAX)
        };
        Some(match written.format {
            CookieFormat::Flask => Format::Flask {
                flask: Flask::new(&secrets, salt(flask::SALT)),
                max_age: age(FLASK_AGE),
            },
            CookieFormat::Django => Format::Django {
                django: Django::new(&secrets, salt(COOKIE_SALT)),
                max_age: age(DJANGO_AGE),
            },
            CookieFormat::Express => {
                let no_effect = "has no effect with express: cookie-session writes neither a salt \
                                 nor a time";
                if written.salt.is_some() {
                    self.problem("cookie_format.salt", no_effect);
                }
                if written.max_age.is_some() {
                    let message = format!("{no_effect}; say with `expires` when a session ends");
                    self.problem("cookie_format.max_age", message);
                }
                Format::Keygrip(Keygrip::new(&secrets))
            }
        })
    }

    fn rules(&mut self, name: &str, config: &SessionConfig, kind: Option<&Kind>) -> Option<Rules> {
        let is_text = matches!(config.value, ValueConfig::Named(ValueFormat::String));
        let subject = match &config.subject {
            Some(written) => self.expression("subject", written, "value"),
            None if is_text => self.expression("subject", "value", "value"),
            None => {
                let message = "is missing: CEL over `value`, the session; e.g. value.user_id";
                self.problem("subject", message);
                None
            }
        };
        let express = config
            .cookie_format
            .as_ref()
            .is_some_and(|written| written.format == CookieFormat::Express);
        let ends = match (config.expires.as_deref(), kind) {
            (Some("never"), _) => Some(Ends::Never),
            (Some(written), _) => self.expression("expires", written, "value").map(Ends::At),
            (None, Some(Kind::Sqlite(_) | Kind::Postgres)) => {
                let message = "is missing: when does a session end? CEL over `value`, the row; e.g. \
                               value.expires_at, or never";
                self.problem("expires", message);
                None
            }
            (None, Some(Kind::Cookie)) if express => {
                let message = "is missing: cookie-session does not write when its cookie ends; put \
                               a time into the session, or write never";
                self.problem("expires", message);
                None
            }
            (None, _) => Some(Ends::ByItself),
        };
        Some(Rules { verifier: name.into(), subject: subject?, ends: ends? })
    }

    fn expression(&mut self, path: &str, written: &str, variable: &str) -> Option<Expression> {
        Expression::compile(written, &[variable])
            .map_err(|error| self.problem(path, error.to_string()))
            .ok()
    }
}
