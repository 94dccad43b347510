//! From what the file says to a verifier: keys are read and judged, every
//! mistake is reported.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::super::{Built, JwtConfig, SignatureAlgorithm};
use super::claims::{Audience, Rules};
use super::key::{Key, Keys, Kind, PublicKey, TRIES};
use super::publisher::Publisher;
use super::remote::Remote;
use super::token::{self, Types};
use super::{Jwt, KeySet, Source, jwks};
use crate::expression::Expression;
use crate::fetch::{Fetch, FetchSettings, Url};
use crate::problem::Problem;
use crate::secret::{SecretConfig, UrlConfig};
use crate::unit::OneOrMany;

/// The largest leeway: more would keep tokens alive that are meant to be dead.
const LEEWAY: Duration = Duration::from_secs(300);

/// How often published keys may be fetched. Not less often: they count for an hour
/// if they cannot be.
const REFRESH: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

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
    let source = source(name, config, base, &mut findings);
    let rules = rules(config, &mut findings);
    let types = types(config.typ.as_ref(), &mut findings);
    let subject = Expression::compile(&config.subject, &["claims"])
        .map_err(|error| findings.problem("subject", error.to_string()))
        .ok();
    match (source, subject) {
        (Some(source), Some(subject)) if findings.problems.is_empty() => Ok(Built {
            verifier: Arc::new(Jwt { name: name.into(), source, types, rules, subject }),
            files: findings.files,
            warnings: findings.warnings,
        }),
        _ => Err(findings.problems),
    }
}

fn source(name: &str, config: &JwtConfig, base: &Path, findings: &mut Findings) -> Option<Source> {
    let JwtConfig { secret, public_key, jwks_file, jwks_url, issuer, .. } = config;
    let keys = match (secret, public_key, jwks_file, jwks_url) {
        (Some(secrets), None, None, None) => secret_keys(config, &secrets.0, base, findings),
        (None, Some(file), None, None) => pem_key(config, &base.join(file), findings),
        (None, None, Some(file), None) => key_set(config, &base.join(file), findings),
        (None, None, None, Some(url)) => {
            return published(name, config, Published::At(url), base, findings);
        }
        (None, None, None, None) => match issuer.as_deref() {
            Some(issuer) if !issuer.is_empty() => {
                return published(name, config, Published::By(issuer), base, findings);
            }
            // An empty issuer is told as such.
            Some(_) => None,
            None => {
                let message = "needs a key source: secret, public_key, jwks_file or jwks_url; or \
                               an issuer, whose keys are discovered";
                findings.problem("", message);
                None
            }
        },
        _ => {
            let message = "has more than one of secret, public_key, jwks_file and jwks_url";
            findings.problem("", message);
            None
        }
    };
    for (key, written) in [("ca", config.ca.is_some()), ("allow_http", config.allow_http)] {
        if written {
            findings.warning(key, "has no effect: the keys of this verifier are not fetched");
        }
    }
    keys.map(|keys| Source::Fixed(Box::new(KeySet::new(keys))))
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

fn pem_key(config: &JwtConfig, file: &Path, findings: &mut Findings) -> Option<Keys> {
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

/// Where keys are published.
enum Published<'a> {
    /// At a URL.
    At(&'a UrlConfig),
    /// By an issuer, who says where.
    By(&'a str),
}

fn published(
    name: &str,
    config: &JwtConfig,
    published: Published<'_>,
    base: &Path,
    findings: &mut Findings,
) -> Option<Source> {
    no_secrets(config, findings);
    if config.audience.is_none() {
        let message = "is required with published keys, which sign for everybody: name whom \
                       tokens must be meant for, e.g. [chat], or write `any`";
        findings.problem("audience", message);
    }
    if config.issuer.is_none() {
        let message = "is not checked: the same keys may sign for others; name whose tokens count";
        findings.warning("issuer", message);
    }
    if !REFRESH.contains(&config.refresh.0) {
        let message = "must be 1s to 1h: keys count for an hour if they cannot be fetched again";
        findings.problem("refresh", message);
    }
    findings.files.extend(config.ca.iter().map(|ca| base.join(ca)));
    let publisher = match published {
        Published::At(written) => key_url(config, written, base, findings)?,
        Published::By(issuer) => discovery(config, issuer, base, findings)?,
    };
    Some(Source::Remote(Remote::new(
        name.into(),
        Box::new(publisher),
        config.algorithms.clone(),
        config.refresh.0,
        config.timeout.0,
    )))
}

fn key_url(
    config: &JwtConfig,
    written: &UrlConfig,
    base: &Path,
    findings: &mut Findings,
) -> Option<Publisher> {
    findings.files.extend(written.file().map(|file| base.join(file)));
    let problem = |error: &dyn std::fmt::Display, findings: &mut Findings| {
        findings.problem("jwks_url", error.to_string());
    };
    let text = written.resolve(base).map_err(|error| problem(&error, findings)).ok()?;
    let url =
        Url::read(&text, config.allow_http).map_err(|error| problem(&error, findings)).ok()?;
    let fetch = fetch(config, base, url.is_https(), findings)?;
    Some(Publisher::at(url, &format!("{written:?}"), fetch))
}

fn discovery(
    config: &JwtConfig,
    issuer: &str,
    base: &Path,
    findings: &mut Findings,
) -> Option<Publisher> {
    let https = match Url::read(issuer, config.allow_http) {
        Ok(url) if url.has_userinfo() || issuer.contains('?') => {
            let message = "without a key source its keys are discovered, so it must be a URL \
                           without user name and query";
            findings.problem("issuer", message);
            return None;
        }
        Ok(url) => url.is_https(),
        Err(error) => {
            let message = format!("without a key source its keys are discovered: {error}");
            findings.problem("issuer", message);
            return None;
        }
    };
    let fetch = fetch(config, base, https, findings)?;
    Publisher::of(issuer, config.allow_http, fetch)
        .map_err(|error| findings.problem("issuer", error.to_string()))
        .ok()
}

fn fetch(config: &JwtConfig, base: &Path, https: bool, findings: &mut Findings) -> Option<Fetch> {
    let JwtConfig { ca, allow_http, timeout, .. } = config;
    let settings = FetchSettings { ca: ca.clone(), allow_http: *allow_http, timeout: *timeout };
    Fetch::build(&settings, base, https).map_err(|problems| findings.problems.extend(problems)).ok()
}

/// It is a problem if an algorithm wants a secret where keys are public.
fn no_secrets(config: &JwtConfig, findings: &mut Findings) {
    for (index, algorithm) in config.algorithms.iter().enumerate() {
        if Kind::of(*algorithm) == Kind::Secret {
            let message = format!("{} needs `secret`: a key set never holds one", algorithm.name());
            findings.problem(&format!("algorithms[{index}]"), message);
        }
    }
}

fn key_set(config: &JwtConfig, file: &Path, findings: &mut Findings) -> Option<Keys> {
    no_secrets(config, findings);
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

/// A verifier by `config` whose keys come from `source`.
#[cfg(test)]
pub(super) fn for_tests(name: &str, config: &JwtConfig, source: Source) -> Jwt {
    let mut findings = Findings::default();
    Jwt {
        name: name.into(),
        source,
        types: types(config.typ.as_ref(), &mut findings),
        rules: rules(config, &mut findings),
        subject: Expression::compile(&config.subject, &["claims"]).ok().unwrap(),
    }
}
