//! What the section `revocation` means: how long, and where it is shared.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use super::config::RevocationConfig;
use super::store::Store;
use crate::problem::Problem;
use crate::redis::{Options, Redis};
use crate::secret::Secret;

/// The longest prefix, in bytes.
const PREFIX: usize = 200;

/// The terms under which revocations count.
pub struct Terms {
    /// In milliseconds.
    pub(super) keep: i64,
    pub(super) store: Option<Store>,
    fingerprint: u64,
}

impl Terms {
    /// The terms that `config` wants, without one the usual: those of `before`, with
    /// their connections, if they are made of the same. Relative paths are relative
    /// to `base`. Opens nothing.
    ///
    /// # Errors
    /// Every problem, by key.
    pub fn or_new(
        before: Option<&Arc<Terms>>,
        config: Option<&RevocationConfig>,
        base: &Path,
    ) -> Result<Arc<Terms>, Vec<Problem>> {
        let usual = RevocationConfig::default();
        let config = config.unwrap_or(&usual);
        let fingerprint = fingerprint(config, base);
        match before.filter(|terms| terms.fingerprint == fingerprint) {
            Some(terms) => Ok(Arc::clone(terms)),
            None => Terms::new(config, base, fingerprint).map(Arc::new),
        }
    }

    fn new(
        config: &RevocationConfig,
        base: &Path,
        fingerprint: u64,
    ) -> Result<Terms, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut note = |key: &str, message: String| problems.push(Problem::new(key, message));
        for (key, time) in [("keep", config.keep), ("timeout", config.timeout)] {
            if time.limit().is_none() {
                note(key, "must be more than 0".to_owned());
            }
        }
        let sound = |c: char| !c.is_control() && !c.is_whitespace();
        if config.prefix.len() > PREFIX || !config.prefix.chars().all(sound) {
            note("prefix", format!("must be at most {PREFIX} bytes without blanks"));
        }
        if config.redis.is_none() && config.ca.is_some() {
            note("ca", "has no effect without `redis`".to_owned());
        }
        let redis = config.redis.as_ref().and_then(|url| match url.resolve(base) {
            Ok(url) => {
                let ca = config.ca.as_ref().map(|ca| base.join(ca));
                let options = Options { ca, timeout: config.timeout.0 };
                let made = Redis::new(&Secret::new(url), &options);
                made.map_err(|error| note("redis", error.to_string())).ok()
            }
            Err(error) => {
                note("redis", error.to_string());
                None
            }
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let keep = i64::try_from(config.keep.0.as_millis()).unwrap_or(i64::MAX);
        let store = redis.map(|redis| Store::new(redis, &config.prefix));
        Ok(Terms { keep, store, fingerprint })
    }
}

/// Of what is written, its secrets and the contents of its files.
fn fingerprint(config: &RevocationConfig, base: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    (config, base).hash(&mut hasher);
    for file in config.files() {
        std::fs::read(base.join(file)).ok().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(before: Option<&Arc<Terms>>, json: &str) -> Result<Arc<Terms>, Vec<String>> {
        let config = serde_json::from_str(json).unwrap();
        let made = Terms::or_new(before, Some(&config), Path::new("/"));
        made.map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_wrong_is_said_at_once_and_without_the_password() {
        let wrong = r#"{"redis":"http://:canary@h","prefix":"a b","keep":"0s","timeout":"0s"}"#;
        let problems = terms(None, wrong).err().unwrap();
        let keys: Vec<&str> = problems.iter().filter_map(|one| one.split(':').next()).collect();
        assert_eq!(keys, ["keep", "timeout", "prefix", "redis"]);
        assert!(!problems.concat().contains("canary"), "{problems:?}");
        assert_eq!(terms(None, r#"{"ca":"x"}"#).err().unwrap().len(), 1);
    }

    #[test]
    fn terms_that_have_not_changed_are_kept() {
        let shared = r#"{"redis":"redis://127.0.0.1:1/0"}"#;
        let first = terms(None, shared).ok().unwrap();
        assert!(first.store.is_some());
        assert!(Arc::ptr_eq(&first, &terms(Some(&first), shared).ok().unwrap()));
        let other = terms(Some(&first), r#"{"redis":"redis://127.0.0.1:1/1"}"#).ok().unwrap();
        assert!(!Arc::ptr_eq(&first, &other));
        let usual = Terms::or_new(Some(&first), None, Path::new("/")).ok().unwrap();
        assert_eq!((usual.keep, usual.store.is_none()), (30 * 24 * 3600 * 1000, true));
    }
}
