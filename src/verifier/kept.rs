//! Verifiers that a reload keeps, with all that they have learned: keys, caches,
//! connections. One is kept if nothing that it was made of has changed.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use super::{Built, VerifierConfig, build};
use crate::problem::Problem;

/// A verifier and what it was made of.
pub struct Kept {
    /// The verifier, its files and its warnings.
    pub built: Built,
    fingerprint: u64,
}

impl Kept {
    /// The verifier `name` as `config` wants it: the one from `before` if that is
    /// made of the same, else a new one. Relative paths are relative to `base`.
    ///
    /// # Errors
    /// As [`build`].
    pub fn or_new(
        before: Option<&Arc<Kept>>,
        name: &str,
        config: &VerifierConfig,
        base: &Path,
    ) -> Result<Arc<Kept>, Vec<Problem>> {
        // Before the files are read for use: one that changes in between makes the
        // next reload build anew, and never keeps what is old.
        let fingerprint = fingerprint(name, config, base);
        match before.filter(|kept| kept.fingerprint == fingerprint) {
            Some(kept) => Ok(Arc::clone(kept)),
            None => Ok(Arc::new(Kept { built: build(name, config, base)?, fingerprint })),
        }
    }
}

/// Of the configuration, its secrets, and the contents of its files. `Hash` is
/// derived for every kind: no key can be forgotten.
fn fingerprint(name: &str, config: &VerifierConfig, base: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    (name, config, base).hash(&mut hasher);
    for file in config.files() {
        std::fs::read(base.join(file)).ok().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &str = "canary-secret-of-32-bytes-or-more";

    fn made(before: Option<&Arc<Kept>>, name: &str, config: &str, base: &Path) -> Arc<Kept> {
        let config: VerifierConfig = serde_json::from_str(config).unwrap();
        Kept::or_new(before, name, &config, base).ok().unwrap()
    }

    #[test]
    fn a_verifier_is_kept_only_if_nothing_that_it_is_made_of_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), SECRET).unwrap();
        let jwt = |secret: serde_json::Value, leeway: &str| {
            json!({"jwt": {"secret": secret, "algorithms": ["HS256"], "leeway": leeway}})
                .to_string()
        };
        let inline = jwt(json!(SECRET), "30s");
        let first = made(None, "app", &inline, dir.path());
        let again = made(Some(&first), "app", &inline, dir.path());
        assert!(Arc::ptr_eq(&first, &again));
        let others = [
            jwt(json!(SECRET), "31s"),
            jwt(json!(format!("{SECRET}!")), "30s"),
            jwt(json!([SECRET, SECRET]), "30s"),
            jwt(json!({"file": "secret"}), "30s"),
        ];
        for other in &others {
            assert!(!Arc::ptr_eq(&first, &made(Some(&first), "app", other, dir.path())));
        }
        assert!(!Arc::ptr_eq(&first, &made(Some(&first), "other", &inline, dir.path())));
    }

    #[test]
    fn another_content_of_a_file_is_another_verifier() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), SECRET).unwrap();
        let config = json!({"jwt": {"secret": {"file": "secret"}, "algorithms": ["HS256"]}});
        let config = config.to_string();
        let first = made(None, "app", &config, dir.path());
        assert!(Arc::ptr_eq(&first, &made(Some(&first), "app", &config, dir.path())));
        std::fs::write(dir.path().join("secret"), format!("{SECRET}!")).unwrap();
        assert!(!Arc::ptr_eq(&first, &made(Some(&first), "app", &config, dir.path())));
    }
}
