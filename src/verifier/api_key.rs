//! `api_keys`: a file that names the holders of long-lived keys and holds only
//! the SHA-256 of each key. Keys are random, so a plain hash is enough: there
//! is nothing to guess, and no salt or slowness would make it harder.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};

use super::config::ApiKeysConfig;
use super::{Built, Credential, Occasion, Recheck, Verification, Verifier, VerifyError, timestamp};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::identity::{Identity, Method, Proof};
use crate::problem::{Problem, suggestion};

/// The fields of an entry.
const FIELDS: [&str; 4] = ["sha256", "subject", "claims", "expires"];

/// The SHA-256 of a key.
///
/// Looking it up tells an attacker nothing by its timing: the map picks the
/// bucket by a keyed hash of the whole digest, and two digests are compared in
/// constant time, so no prefix of a stored digest shows.
#[derive(Clone, Copy)]
struct Digest([u8; 32]);

impl Digest {
    fn of(key: &[u8]) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, key).as_ref());
        Digest(bytes)
    }

    fn from_hex(text: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
        }
        Some(Digest(bytes))
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Digest) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Digest {}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// The keys of one file.
struct ApiKeys {
    name: Arc<str>,
    holders: HashMap<Digest, Arc<Identity>>,
}

impl ApiKeys {
    fn judge(
        &self,
        credential: &Credential<'_>,
        now: UnixSeconds,
    ) -> Result<Arc<Identity>, VerifyError> {
        let (user, key) = user_and_key(credential).ok_or(Reason::MalformedCredential)?;
        let holder = self.holders.get(&Digest::of(key)).ok_or(Reason::InvalidCredential)?;
        if !user.is_empty() && user != holder.subject().as_bytes() {
            return Err(Reason::InvalidCredential.into());
        }
        match holder.deadline() {
            Some(deadline) if deadline <= now => Err(Reason::Expired.into()),
            Some(_) | None => Ok(Arc::clone(holder)),
        }
    }
}

impl Verifier for ApiKeys {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn recognises(&self, credential: &Credential<'_>) -> bool {
        user_and_key(credential).is_some_and(|(_, key)| self.holders.contains_key(&Digest::of(key)))
    }

    fn verify<'a>(
        &'a self,
        credential: &'a Credential<'a>,
        _: &'a Occasion<'a>,
        now: UnixSeconds,
    ) -> Verification<'a> {
        Box::pin(std::future::ready(self.judge(credential, now)))
    }

    /// A key that has left the file opens nothing, and keeps nothing open.
    fn recheck(&self) -> Recheck {
        Recheck::Credential
    }
}

/// The user name, empty unless it came as Basic, and the key. The first colon
/// ends the user name (RFC 7617 §2).
fn user_and_key<'a>(credential: &Credential<'a>) -> Option<(&'a [u8], &'a [u8])> {
    if !credential.basic {
        return Some((b"", credential.value));
    }
    let colon = credential.value.iter().position(|byte| *byte == b':')?;
    Some((&credential.value[..colon], &credential.value[colon + 1..]))
}

/// Reads the key file that `config` names.
pub(super) fn build(
    name: &str,
    config: &ApiKeysConfig,
    base: &Path,
) -> Result<Built, Vec<Problem>> {
    let path = base.join(&config.file);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        vec![Problem::new("file", format!("cannot read {}: {error}", path.display()))]
    })?;
    let name: Arc<str> = name.into();
    let holders = read(&text, &name).map_err(|problems| {
        let located =
            |problem: Problem| Problem::new("file", format!("{}: {problem}", path.display()));
        problems.into_iter().map(located).collect::<Vec<_>>()
    })?;
    let mut warnings = Vec::new();
    if holders.is_empty() {
        let message = format!("{} holds no key, so every key is refused", path.display());
        warnings.push(Problem::new("file", message));
    }
    Ok(Built { verifier: Arc::new(ApiKeys { name, holders }), files: vec![path], warnings })
}

/// Reads the text of a key file. No problem quotes it: somebody may have put a
/// key where its hash belongs.
fn read(text: &str, name: &Arc<str>) -> Result<HashMap<Digest, Arc<Identity>>, Vec<Problem>> {
    let entries = match yaml(text)? {
        Value::Array(entries) => entries,
        Value::Null => Vec::new(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            return Err(vec![Problem::new("", "expected a list of {sha256, subject, …}")]);
        }
    };
    let mut holders = HashMap::with_capacity(entries.len());
    let mut problems = Vec::new();
    for (index, written) in entries.into_iter().enumerate() {
        match entry(written, name) {
            Ok((digest, holder)) => {
                if holders.insert(digest, holder).is_some() {
                    let message = "a key that an earlier entry has already: keep one of them";
                    problems.push(Problem::new(format!("[{index}].sha256"), message));
                }
            }
            Err(problem) => problems.push(problem.under(&format!("[{index}]"))),
        }
    }
    if problems.is_empty() { Ok(holders) } else { Err(problems) }
}

fn yaml(text: &str) -> Result<Value, Vec<Problem>> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    // Room for a million keys; what is nested deeper than the default stays refused.
    let budget = serde_saphyr::budget! { max_nodes: 10_000_000, max_events: 20_000_000 };
    let options = serde_saphyr::options! { budget: budget, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map_or_else(String::new, |location| {
            format!(" at line {}, column {}", location.line(), location.column())
        });
        vec![Problem::new("", format!("not valid YAML{place}"))]
    })
}

/// One entry; the path of a problem is relative to it.
fn entry(written: Value, name: &Arc<str>) -> Result<(Digest, Arc<Identity>), Problem> {
    let Value::Object(mut fields) = written else {
        return Err(Problem::new("", "expected {sha256, subject, claims, expires}"));
    };
    if let Some(unknown) = fields.keys().find(|field| !FIELDS.contains(&field.as_str())) {
        let near = suggestion(unknown, FIELDS);
        let message = format!("has a field other than {}{near}", FIELDS.join(", "));
        return Err(Problem::new("", message));
    }
    let digest =
        fields.get("sha256").and_then(Value::as_str).and_then(Digest::from_hex).ok_or_else(
            || Problem::new("sha256", "must be the 64 hex digits that `sockgate hash-key` prints"),
        )?;
    let expires = match fields.get("expires") {
        None | Some(Value::Null) => None,
        Some(written) => Some(timestamp::read(written).ok_or_else(|| {
            let message = "must be Unix seconds, RFC 3339, or \"YYYY-MM-DD HH:MM:SS\" in UTC";
            Problem::new("expires", message)
        })?),
    };
    let claims = match fields.remove("claims") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(claims)) => claims,
        Some(_) => return Err(Problem::new("claims", "must be a map")),
    };
    let proof = Proof {
        subject: fields.remove("subject").unwrap_or_default(),
        method: Method::ApiKeys,
        verifier: Arc::clone(name),
        issuer: None,
        session: None,
        token_id: None,
        issued_at: None,
        expires,
        leeway: 0,
        claims: Value::Object(claims).to_string().into(),
    };
    let holder = Identity::proven(proof).map_err(|_| {
        let message = "must be 1–255 bytes without control characters or outer spaces";
        Problem::new("subject", message)
    })?;
    Ok((digest, Arc::new(holder)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verifier::{VerifierConfig, contract, hash_entry};

    const NOW: UnixSeconds = 1_700_000_000;

    fn holders(text: &str) -> Result<HashMap<Digest, Arc<Identity>>, Vec<String>> {
        let problems = |all: Vec<Problem>| all.iter().map(ToString::to_string).collect();
        read(text, &"partners".into()).map_err(problems)
    }

    fn entry_of(key: &str, rest: &str) -> String {
        let line = hash_entry(key.as_bytes());
        line.replace("subject: CHANGE-ME }", &format!("{rest} }}\n"))
    }

    fn keys(text: &str) -> ApiKeys {
        ApiKeys { name: "partners".into(), holders: holders(text).unwrap() }
    }

    fn judged(keys: &ApiKeys, value: &str, basic: bool) -> Result<String, Reason> {
        keys.judge(&Credential { value: value.as_bytes(), basic }, NOW)
            .map(|identity| identity.subject().to_owned())
            .map_err(VerifyError::reason)
    }

    #[tokio::test]
    async fn keys_pass_the_contract_of_verifiers() {
        let dir = tempfile::tempdir().unwrap();
        let file = entry_of("canary-good", "subject: acme")
            + &entry_of("canary-old", "subject: acme, expires: 1600000000");
        std::fs::write(dir.path().join("keys.yaml"), file).unwrap();
        let config = ApiKeysConfig { file: "keys.yaml".into() };
        let config = VerifierConfig { api_keys: Some(config), ..VerifierConfig::default() };
        let built = crate::verifier::build("partners", &config, dir.path()).ok().unwrap();
        assert_eq!(built.files, [dir.path().join("keys.yaml")]);
        assert!(built.warnings.is_empty());
        contract::holds(contract::Sample {
            verifier: built.verifier,
            now: NOW,
            valid: b"canary-good".to_vec(),
            subject: "acme",
            method: "api_keys",
            wrong: b"canary-goo".to_vec(),
            expired: Some(b"canary-old".to_vec()),
            // The file of such a key does not load.
            without_subject: None,
        })
        .await;
    }

    #[test]
    fn an_entry_gives_subject_claims_and_end() {
        let keys = keys(&entry_of(
            "k",
            "subject: acme, claims: {plan: gold, n: [1]}, expires: \"2030-01-01 00:00:00\"",
        ));
        let identity = keys.judge(&Credential { value: b"k", basic: false }, NOW).ok().unwrap();
        assert_eq!(identity.claims()["plan"], "gold");
        assert_eq!(identity.claims()["n"][0], 1);
        assert_eq!(identity.expires(), Some(1_893_456_000));
        assert_eq!(&**identity.verifier(), "partners");
    }

    #[test]
    fn every_form_of_an_end_is_read_from_yaml() {
        for written in
            ["1893456000", "1893456000000", "2030-01-01T00:00:00Z", "2030-01-01 00:00:00"]
        {
            let keys = keys(&entry_of("k", &format!("subject: a, expires: {written}")));
            let holder = keys.holders.values().next().unwrap();
            assert_eq!(holder.expires(), Some(1_893_456_000), "{written}");
        }
    }

    #[test]
    fn the_last_second_counts_and_the_next_is_expired() {
        let at = |expires: i64| {
            judged(&keys(&entry_of("k", &format!("subject: a, expires: {expires}"))), "k", false)
        };
        assert_eq!(at(NOW + 1), Ok("a".to_owned()));
        assert_eq!(at(NOW), Err(Reason::Expired));
    }

    #[test]
    fn basic_compares_the_password_and_the_user_is_empty_or_the_subject() {
        let keys = keys(&entry_of("k:1", "subject: acme"));
        assert_eq!(judged(&keys, ":k:1", true), Ok("acme".to_owned()));
        assert_eq!(judged(&keys, "acme:k:1", true), Ok("acme".to_owned()));
        assert_eq!(judged(&keys, "ACME:k:1", true), Err(Reason::InvalidCredential));
        assert_eq!(judged(&keys, "acme:wrong", true), Err(Reason::InvalidCredential));
        assert_eq!(judged(&keys, "k", true), Err(Reason::MalformedCredential));
        assert_eq!(judged(&keys, ":k:1", false), Err(Reason::InvalidCredential));
    }

    #[test]
    fn only_known_keys_are_recognised() {
        let keys = keys(&entry_of("k", "subject: acme"));
        let recognises = |value: &[u8], basic| keys.recognises(&Credential { value, basic });
        assert!(recognises(b"k", false));
        assert!(recognises(b"someone:k", true));
        assert!(!recognises(b"K", false));
        assert!(!recognises(b"k", true));
    }

    #[test]
    fn the_line_of_hash_key_is_an_entry() {
        let keys = keys(&(hash_entry(b"one") + "\n" + &hash_entry(b"two")));
        assert_eq!(judged(&keys, "two", false), Ok("CHANGE-ME".to_owned()));
        assert_eq!(keys.holders.len(), 2);
    }

    #[test]
    fn a_subject_may_be_an_integer_and_hex_in_any_case() {
        let line = entry_of("k", "subject: 42");
        assert_eq!(judged(&keys(&line), "k", false), Ok("42".to_owned()));
        let (head, tail) = line.split_at(40);
        let upper = head.replace("sha256: ", "").to_uppercase();
        let line = format!("- {{ sha256: {}{tail}", &upper[4..]);
        assert_eq!(judged(&keys(&line), "k", false), Ok("42".to_owned()));
    }

    #[test]
    fn an_empty_file_holds_no_key() {
        for text in ["", "\n", "[]", "# nothing yet\n"] {
            assert!(holders(text).unwrap().is_empty(), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_entry_and_never_quoted() {
        let good = entry_of("k", "subject: a");
        let cases = [
            ("canary: 1", "expected a list of {sha256, subject, …}"),
            ("- canary", "[0]: expected {sha256, subject, claims, expires}"),
            ("- {sha256: canary, subject: a}", "[0].sha256: must be the 64 hex digits"),
            ("- {subject: a}", "[0].sha256: must be"),
            (&entry_of("k", "subjct: canary"), "; did you mean \"subject\"?"),
            (&entry_of("k", "subject: \"\""), "[0].subject: must be 1–255 bytes"),
            (&entry_of("k", "claims: {}"), "[0].subject: must be"),
            (&entry_of("k", "subject: a, claims: [canary]"), "[0].claims: must be a map"),
            (&entry_of("k", "subject: a, expires: canary"), "[0].expires: must be Unix seconds"),
            (&format!("{good}{good}"), "[1].sha256: a key that an earlier entry has already"),
            ("- {sha256: canary\n- x", "not valid YAML at line"),
            ("- {subject: a, subject: canary}", "not valid YAML at line"),
        ];
        for (text, expected) in cases {
            let problems = holders(text).err().unwrap();
            assert!(problems[0].contains(expected), "{text}: {problems:?}");
            assert!(!problems.concat().contains("canary"), "{problems:?}");
        }
    }

    #[test]
    fn all_wrong_entries_are_named_at_once() {
        assert_eq!(holders("- {}\n- {}\n").err().unwrap().len(), 2);
    }
}
