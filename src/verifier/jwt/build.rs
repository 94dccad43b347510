//! From what the file says to a verifier: keys are read and judged, every
//! mistake is reported.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::super::{Built, JwtConfig, SignatureAlgorithm};
use super::cache::{Cache, LastHeader};
use super::claims::{Audience, Rules};
use super::key::{Key, Keys, Kind, PublicKey, TRIES};
use super::token::{self, Types};
use super::{Jwt, jwks};
use crate::expression::Expression;
use crate::problem::Problem;
use crate::secret::SecretConfig;
use crate::unit::OneOrMany;

/// The largest leeway: more would keep tokens alive that are meant to be dead.
const LEEWAY: Duration = Duration::from_secs(300);

/// What is gathered on the way.
#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    files: Vec<PathBuf>,
}

impl Findings {
    fn problem(&mut self, path: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(path, message));
    }

    fn warning(&mut self, path: &str, message: impl Into<String>) {
        self.warnings.push(Problem::new(path, message));
    }
}

/// Makes a verifier of `config`; relative paths are relative to `base`.
pub(in crate::verifier) fn build(
    name: &str,
    config: &JwtConfig,
    base: &Path,
) -> Result<Built, Vec<Problem>> {
    let mut findings = Findings::default();
    let keys = keys(config, base, &mut findings);
    let rules = rules(config, &mut findings);
    let types = types(config.typ.as_ref(), &mut findings);
    let subject = Expression::compile(&config.subject, &["claims"])
        .map_err(|error| findings.problem("subject", error.to_string()))
        .ok();
    match (keys, subject) {
        (Some(keys), Some(subject)) if findings.problems.is_empty() => Ok(Built {
            verifier: Arc::new(Jwt {
                name: name.into(),
                keys,
                types,
                rules,
                subject,
                cache: Cache::new(),
                last_header: LastHeader::default(),
            }),
            files: findings.files,
            warnings: findings.warnings,
        }),
        _ => Err(findings.problems),
    }
}

fn keys(config: &JwtConfig, base: &Path, findings: &mut Findings) -> Option<Keys> {
    match (&config.secret, &config.public_key, &config.jwks_file) {
        (Some(secrets), None, None) => secret_keys(config, &secrets.0, base, findings),
        (None, Some(file), None) => public_key(config, &base.join(file), findings),
        (None, None, Some(file)) => key_set(config, &base.join(file), findings),
        (None, None, None) => {
            findings.problem("", "needs a key source: secret, public_key or jwks_file");
            None
        }
        _ => {
            findings.problem("", "has more than one of secret, public_key and jwks_file");
            None
        }
    }
}

fn secret_keys(
    config: &JwtConfig,
    written: &[SecretConfig],
    base: &Path,
    findings: &mut Findings,
) -> Option<Keys> {
    let algorithms = algorithms_for(config, Kind::Secret, "HS256", findings);
    if written.is_empty() || written.len() > TRIES {
        findings.problem("secret", format!("must be one secret, or a list of at most {TRIES}"));
    }
    let mut keys = Vec::new();
    for (index, secret) in written.iter().enumerate() {
        let path =
            if written.len() == 1 { "secret".to_owned() } else { format!("secret[{index}]") };
        findings.files.extend(secret.file().map(|file| base.join(file)));
        let secret = match secret.resolve(base) {
            Ok(secret) => secret,
            Err(error) => {
                findings.problem(&path, error.to_string());
                continue;
            }
        };
        for algorithm in &algorithms {
            let least = secret_bytes(*algorithm);
            if secret.expose().len() < least {
                let message = format!("{} needs at least {least} bytes", algorithm.name());
                findings.problem(&path, message);
            } else {
                keys.extend(Key::secret(*algorithm, secret.expose()));
            }
        }
    }
    Some(Keys { keys, by_id: false })
}

fn public_key(config: &JwtConfig, file: &Path, findings: &mut Findings) -> Option<Keys> {
    let text = read("public_key", file, findings)?;
    match PublicKey::from_pem(&text) {
        Ok(public) => {
            let example = public.kind.algorithms().next().map_or("", SignatureAlgorithm::name);
            let keys = algorithms_for(config, public.kind, example, findings)
                .into_iter()
                .filter_map(|algorithm| public.key(algorithm, None))
                .collect();
            Some(Keys { keys, by_id: false })
        }
        Err(error) => {
            findings.problem("public_key", format!("{} {error}", file.display()));
            None
        }
    }
}

fn key_set(config: &JwtConfig, file: &Path, findings: &mut Findings) -> Option<Keys> {
    for (index, algorithm) in config.algorithms.iter().enumerate() {
        if Kind::of(*algorithm) == Kind::Secret {
            let message = format!("{} needs `secret`: a key set never holds one", algorithm.name());
            findings.problem(&format!("algorithms[{index}]"), message);
        }
    }
    let text = read("jwks_file", file, findings)?;
    let usable = match jwks::read(&text, &config.algorithms) {
        Ok(usable) => usable,
        Err(error) => {
            findings.problem("jwks_file", format!("{} {error}", file.display()));
            return None;
        }
    };
    for remark in &usable.remarks {
        findings.warning("jwks_file", format!("{}: {remark}", file.display()));
    }
    if usable.keys.is_empty() {
        let why = usable.remarks.join("; ");
        let colon = if why.is_empty() { "" } else { ": " };
        let message = format!("{} holds no key that can be used{colon}{why}", file.display());
        findings.problem("jwks_file", message);
        return None;
    }
    let keys = Keys { keys: usable.keys, by_id: true };
    if keys.is_crowded() {
        let message = format!("of so many keys, a token without kid is tried against {TRIES}");
        findings.warning("jwks_file", message);
    }
    Some(keys)
}

/// The configured algorithms; it is a problem if there are none, or if one is
/// not for keys of `kind`.
fn algorithms_for(
    config: &JwtConfig,
    kind: Kind,
    example: &str,
    findings: &mut Findings,
) -> Vec<SignatureAlgorithm> {
    if config.algorithms.is_empty() {
        let message = format!("must be written out with {}, e.g. [{example}]", kind.name());
        findings.problem("algorithms", message);
    }
    let mut fitting = Vec::new();
    for (index, algorithm) in config.algorithms.iter().enumerate() {
        if Kind::of(*algorithm) != kind {
            let needed = Kind::of(*algorithm).name();
            let message =
                format!("{} needs {needed}, and this is {}", algorithm.name(), kind.name());
            findings.problem(&format!("algorithms[{index}]"), message);
        } else if !fitting.contains(algorithm) {
            fitting.push(*algorithm);
        }
    }
    fitting
}

/// The least length of a secret: that of the hash (RFC 7518 §3.2).
fn secret_bytes(algorithm: SignatureAlgorithm) -> usize {
    match algorithm {
        SignatureAlgorithm::HS384 => 48,
        SignatureAlgorithm::HS512 => 64,
        _ => 32,
    }
}

fn read(path: &str, file: &Path, findings: &mut Findings) -> Option<String> {
    findings.files.push(file.to_owned());
    std::fs::read_to_string(file)
        .map_err(|error| {
            findings.problem(path, format!("cannot read {}: {error}", file.display()));
        })
        .ok()
}

fn rules(config: &JwtConfig, findings: &mut Findings) -> Rules {
    if config.issuer.as_deref() == Some("") {
        findings.problem("issuer", "must not be empty; leave it out to accept any issuer");
    }
    if config.leeway.0 > LEEWAY {
        findings.problem("leeway", "must be at most 5m");
    }
    if config.required_claims.iter().any(String::is_empty) {
        findings.problem("required_claims", "the name of a claim must not be empty");
    }
    if !config.required_claims.iter().any(|name| name == "exp") {
        let message = "without exp, a token that has none is admitted and never ends";
        findings.warning("required_claims", message);
    }
    Rules {
        issuer: config.issuer.as_deref().map(Into::into),
        audience: audience(config.audience.as_ref(), findings),
        leeway: u32::try_from(config.leeway.0.as_secs()).unwrap_or(0),
        required: config.required_claims.iter().map(|name| name.as_str().into()).collect(),
    }
}

fn audience(written: Option<&OneOrMany<String>>, findings: &mut Findings) -> Audience {
    let Some(OneOrMany(names)) = written else { return Audience::Unset };
    Audience::read(names).unwrap_or_else(|message| {
        findings.problem("audience", message);
        Audience::Unset
    })
}

fn types(written: Option<&OneOrMany<String>>, findings: &mut Findings) -> Types {
    let Some(OneOrMany(types)) = written else { return Types::Any };
    if types.is_empty() || types.iter().any(String::is_empty) {
        findings.problem("typ", "must name a type, e.g. at+jwt; leave it out for any");
    }
    for foreign in types.iter().filter(|typ| token::is_foreign(typ)) {
        findings.problem("typ", format!("{foreign} is for another use and always refused"));
    }
    Types::OneOf(types.iter().map(|typ| typ.as_str().into()).collect())
}
