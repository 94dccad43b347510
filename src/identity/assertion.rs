//! The signed assertion: who the client is, as a JWT (RFC 7519) that the upstream
//! can verify itself, so that it need not trust whoever reaches its port.
//!
//! It is for the server behind the gate and for nobody else: sockgate takes no
//! token of this `typ` as a credential.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::config::AssertionConfig;
use super::headers::{MAX_VALUE, header_name};
use super::signing_key::{SigningKey, key_set};
use super::{Identity, IdentityConfig, Method};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::problem::Problem;
use crate::secret::SecretConfig;
use crate::unit::Span;

/// `typ` of an assertion (RFC 8725 §3.11: one type of token per use).
const TYPE: &str = "sockgate+jwt";

/// The claims that sockgate itself sets.
const OWN_CLAIMS: [&str; 9] = ["iss", "aud", "sub", "iat", "nbf", "exp", "jti", "sid", "route"];

/// Compiled `identity.assertion`.
pub struct Assertion {
    header: HeaderName,
    /// The first one signs.
    keys: Vec<SigningKey>,
    /// The JOSE header, encoded.
    jose: Box<str>,
    issuer: Box<str>,
    audience: Value,
    /// Whole seconds.
    ttl: i64,
    claims: Vec<String>,
}

impl Assertion {
    /// Reads the keys and checks the rest; relative paths are relative to `base`.
    /// The paths of problems begin at `assertion`. None if there is none.
    ///
    /// # Errors
    /// Everything that is wrong; no message holds anything of a key.
    pub fn compile(
        config: &IdentityConfig,
        base: &Path,
    ) -> Result<Option<Assertion>, Vec<Problem>> {
        let Some(written) = &config.assertion else { return Ok(None) };
        let mut problems = Vec::new();
        let mut note = |key: &str, message: String| {
            problems.push(Problem::new(format!("assertion.{key}"), message));
        };
        let header = header_name(&written.header);
        match &header {
            Ok(name) => {
                if config.headers.keys().any(|other| other.eq_ignore_ascii_case(name.as_str())) {
                    note("header", "is one of identity.headers already".to_owned());
                }
            }
            Err(message) => note("header", message.to_string()),
        }
        let keys = keys(written, base, &mut note);
        if written.issuer.trim().is_empty() {
            note("issuer", "is empty".to_owned());
        }
        let audience = match written.audience.0.as_slice() {
            [one] => Value::from(one.as_str()),
            several => json!(several),
        };
        if written.audience.0.is_empty() || written.audience.0.iter().any(String::is_empty) {
            note("audience", "names nobody: name the server that verifies it".to_owned());
        }
        let allowed = Span::secs(1)..=Span::secs(3600);
        if !allowed.contains(&written.ttl) {
            note("ttl", "must be 1s to 1h".to_owned());
        }
        for (index, claim) in written.claims.iter().enumerate() {
            if claim.is_empty() || OWN_CLAIMS.contains(&claim.as_str()) {
                let message = if claim.is_empty() { "is empty" } else { "is set by sockgate" };
                note(&format!("claims[{index}]"), message.to_owned());
            }
        }
        let (Ok(header), Some(first), true) = (header, keys.first(), problems.is_empty()) else {
            return Err(problems);
        };
        let jose = json!({ "alg": first.algorithm(), "typ": TYPE, "kid": first.id() });
        Ok(Some(Assertion {
            header,
            jose: URL_SAFE_NO_PAD.encode(jose.to_string()).into(),
            keys,
            issuer: written.issuer.as_str().into(),
            audience,
            ttl: i64::try_from(written.ttl.0.as_secs()).unwrap_or(1),
            claims: written.claims.clone(),
        }))
    }

    /// The header that it is sent in.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// The assertion that `identity` came through `route` at `now`. It ends no later
    /// than the login that it tells of.
    ///
    /// # Errors
    /// [`Reason::Forbidden`] if it would be longer than any identity header may be,
    /// or cannot be signed.
    pub fn sign(
        &self,
        identity: &Identity,
        route: &str,
        now: UnixSeconds,
    ) -> Result<HeaderValue, Reason> {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| Reason::Forbidden)?;
        let mut claims = Map::new();
        if !self.claims.is_empty() {
            let known = identity.claims();
            let named = self.claims.iter().filter_map(|name| known.get_key_value(name));
            claims.extend(named.map(|(name, value)| (name.clone(), value.clone())));
        }
        let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        set("iss", Value::from(&*self.issuer));
        set("aud", self.audience.clone());
        set("sub", identity.subject().into());
        set("iat", now.into());
        set("nbf", now.into());
        set("exp", self.expiry(identity, now).into());
        set("jti", URL_SAFE_NO_PAD.encode(id).into());
        if let Some(session) = claimed_session(identity) {
            set("sid", session.into());
        }
        set("route", route.into());
        let payload = URL_SAFE_NO_PAD.encode(Value::Object(claims).to_string());
        let signed = format!("{}.{payload}", self.jose);
        let key = self.keys.first().ok_or(Reason::Forbidden)?;
        let signature = key.sign(signed.as_bytes()).ok_or(Reason::Forbidden)?;
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        if token.len() > MAX_VALUE {
            return Err(Reason::Forbidden);
        }
        HeaderValue::try_from(token).map_err(|_| Reason::Forbidden)
    }

    /// A login that has ended, and is let in by its leeway alone, is told until the
    /// leeway ends: else the upstream would refuse whom the gate admits.
    fn expiry(&self, identity: &Identity, now: UnixSeconds) -> UnixSeconds {
        let latest = now.saturating_add(self.ttl);
        match (identity.expires(), identity.deadline()) {
            (Some(expires), _) if expires > now => latest.min(expires),
            (_, Some(deadline)) => latest.min(deadline),
            (_, None) => latest,
        }
    }
}

/// The session, where a claim names it. The id in a store is no name but what the
/// client logs in with, and no upstream's business.
fn claimed_session(identity: &Identity) -> Option<&str> {
    match identity.method {
        Method::Jwt | Method::Introspection | Method::ForwardAuth => identity.session(),
        Method::Session | Method::ApiKeys | Method::ClientCert | Method::Anonymous => None,
    }
}

/// The public keys of `assertions` as a JSON Web Key Set (RFC 7517 §5), each once:
/// those that sign, and those that did or will.
pub fn jwks<'a>(assertions: impl Iterator<Item = &'a Assertion>) -> String {
    key_set(assertions.flat_map(|assertion| &assertion.keys)).to_string()
}

impl AssertionConfig {
    /// The files that its keys are read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.key.0.iter().filter_map(SecretConfig::file)
    }
}

fn keys(
    written: &AssertionConfig,
    base: &Path,
    note: &mut impl FnMut(&str, String),
) -> Vec<SigningKey> {
    let mut keys: Vec<SigningKey> = Vec::new();
    if written.key.0.is_empty() {
        note("key", "needs at least one key".to_owned());
    }
    for (index, secret) in written.key.0.iter().enumerate() {
        let path = match written.key.0.len() {
            1 => "key".to_owned(),
            _ => format!("key[{index}]"),
        };
        let pem = match secret.resolve(base) {
            Ok(pem) => pem,
            Err(error) => {
                note(&path, error.to_string());
                continue;
            }
        };
        match SigningKey::from_pem(pem.expose()) {
            Ok(key) if keys.iter().any(|other| other.id() == key.id()) => {
                note(&path, "is a key that stands in the list already".to_owned());
            }
            Ok(key) => keys.push(key),
            Err(error) => note(&path, error.to_string()),
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::super::Proof;
    use super::super::signing_key::tests::pem;
    use super::*;

    const NOW: UnixSeconds = 1_800_000_000;

    fn config(pems: &[String], more: Value) -> IdentityConfig {
        let mut assertion = json!({ "key": pems, "audience": "chat" });
        for (key, value) in more.as_object().unwrap() {
            assertion[key] = value.clone();
        }
        serde_json::from_value(json!({ "assertion": assertion })).unwrap()
    }

    fn assertion(more: Value) -> Assertion {
        let config = config(&[pem(&rcgen::PKCS_ECDSA_P256_SHA256)], more);
        Assertion::compile(&config, Path::new(".")).ok().flatten().unwrap()
    }

    fn identity(expires: Option<UnixSeconds>, claims: Value) -> Identity {
        identity_by(Method::Jwt, expires, claims)
    }

    fn identity_by(method: Method, expires: Option<UnixSeconds>, claims: Value) -> Identity {
        Identity::proven(Proof {
            subject: "alice".into(),
            method,
            verifier: "app".into(),
            issuer: None,
            session: Some("s-1".to_owned()),
            token_id: Some("j-1".to_owned()),
            issued_at: None,
            expires,
            leeway: 30,
            claims: claims.to_string().into(),
        })
        .ok()
        .unwrap()
    }

    fn parts(token: &HeaderValue) -> (Value, Value) {
        let part =
            |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        let mut split = token.to_str().unwrap().split('.');
        (part(split.next().unwrap()), part(split.next().unwrap()))
    }

    #[test]
    fn it_says_who_came_through_which_route_until_when() {
        let assertion = assertion(json!({ "claims": ["name", "roles", "nope"], "ttl": "90s" }));
        let alice = identity(None, json!({ "name": "Alice", "roles": ["a"], "secret": 1 }));
        let (header, mut claims) = parts(&assertion.sign(&alice, "chat", NOW).unwrap());
        assert_eq!(header["typ"], "sockgate+jwt");
        assert_eq!(header["alg"], "ES256");
        assert_eq!(header["kid"], assertion.keys[0].id());
        let id = claims["jti"].take();
        assert_eq!(id.as_str().unwrap().len(), 22);
        assert_eq!(
            claims,
            json!({
                "name": "Alice", "roles": ["a"], "iss": "sockgate", "aud": "chat", "sub": "alice",
                "iat": NOW, "nbf": NOW, "exp": NOW + 90, "jti": null, "sid": "s-1", "route": "chat",
            })
        );
        let (_, again) = parts(&assertion.sign(&alice, "chat", NOW).unwrap());
        assert_ne!(again["jti"], id);
    }

    #[test]
    fn the_id_of_a_stores_session_stays_at_the_gate() {
        let assertion = assertion(json!({}));
        let session = |method| {
            let alice = identity_by(method, None, json!({}));
            parts(&assertion.sign(&alice, "chat", NOW).unwrap()).1.get("sid").cloned()
        };
        assert_eq!(session(Method::Session), None);
        assert_eq!(session(Method::Introspection), Some("s-1".into()));
    }

    #[test]
    fn it_ends_no_later_than_the_login() {
        let assertion = assertion(json!({}));
        let expiry = |expires| {
            let alice = identity(expires, json!({}));
            parts(&assertion.sign(&alice, "chat", NOW).unwrap()).1["exp"].as_i64().unwrap() - NOW
        };
        assert_eq!(expiry(None), 60);
        assert_eq!(expiry(Some(NOW + 1000)), 60);
        assert_eq!(expiry(Some(NOW + 10)), 10);
        assert_eq!(expiry(Some(NOW)), 30);
        assert_eq!(expiry(Some(NOW - 20)), 10);
    }

    #[test]
    fn what_no_header_may_be_is_not_sent() {
        let assertion = assertion(json!({ "claims": ["bio"] }));
        let long = identity(None, json!({ "bio": "x".repeat(4096) }));
        assert_eq!(assertion.sign(&long, "chat", NOW).err(), Some(Reason::Forbidden));
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let odd = json!({
            "header": "Host", "issuer": " ", "audience": [], "ttl": "0s", "claims": ["name", "sub", ""],
        });
        let config = config(&["hunter2".to_owned()], odd);
        let problems = Assertion::compile(&config, Path::new(".")).err().unwrap();
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        let expected = ["header", "key", "issuer", "audience", "ttl", "claims[1]", "claims[2]"];
        assert_eq!(paths, expected.map(|key| format!("assertion.{key}")));
        assert!(problems.iter().all(|problem| !problem.message.contains("hunter2")));
    }

    #[test]
    fn a_header_is_computed_or_asserted_but_not_both() {
        let pem = pem(&rcgen::PKCS_ED25519);
        let mut config = config(&[pem.clone(), pem], json!({ "header": "x-forwarded-USER" }));
        let problems = Assertion::compile(&config, Path::new(".")).err().unwrap();
        assert_eq!(problems[0].to_string(), "assertion.header: is one of identity.headers already");
        assert_eq!(problems[1].path, "assertion.key[1]");
        config.assertion = None;
        assert!(Assertion::compile(&config, Path::new(".")).ok().unwrap().is_none());
    }

    #[test]
    fn the_first_key_signs_and_all_are_published() {
        let pems = [pem(&rcgen::PKCS_ED25519), pem(&rcgen::PKCS_ECDSA_P384_SHA384)];
        let config = config(&pems, json!({}));
        let assertion = Assertion::compile(&config, Path::new(".")).ok().flatten().unwrap();
        let (header, _) = parts(&assertion.sign(&identity(None, json!({})), "r", NOW).unwrap());
        let set: Value = serde_json::from_str(&jwks([&assertion].into_iter())).unwrap();
        assert_eq!(set["keys"][0]["kid"], header["kid"]);
        assert_eq!(set["keys"][1]["crv"], "P-384");
        assert_eq!(jwks(std::iter::empty()), r#"{"keys":[]}"#);
    }
}
