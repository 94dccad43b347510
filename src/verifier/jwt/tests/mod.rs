//! Tokens against verifiers built as in production: good ones, and what the
//! table of each test says about bad ones, with the exact reason.

mod configured;
mod forged;
mod genuine;
mod malformed;
mod published;
pub(super) mod sign;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use self::sign::Signer;
use super::super::occasion::Asked;
use super::super::{Built, Credential, Verifier, VerifierConfig, build};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::credential::Place;
use crate::identity::Identity;

const NOW: UnixSeconds = 1_700_000_000;
const INVALID: Reason = Reason::InvalidCredential;
const MALFORMED: Reason = Reason::MalformedCredential;

/// 64 bytes, so good for every HS algorithm.
const SECRET: &str = "canary-secret-0123456789-0123456789-0123456789-0123456789-012345";

pub(super) fn secret() -> Signer {
    Signer::Secret(SECRET.as_bytes().to_vec())
}

pub(super) fn claims() -> Value {
    json!({"sub": "alice", "exp": NOW + 60})
}

pub(super) fn built(jwt: Value, base: &Path) -> Result<Built, Vec<String>> {
    let config: VerifierConfig = serde_json::from_value(json!({ "jwt": jwt })).unwrap();
    build("app", &config, base)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

pub(super) fn verifier(jwt: Value, base: &Path) -> Arc<dyn Verifier> {
    match built(jwt, base) {
        Ok(built) => built.verifier,
        Err(problems) => panic!("{problems:?}"),
    }
}

pub(super) fn hs256() -> Arc<dyn Verifier> {
    verifier(json!({"secret": SECRET, "algorithms": ["HS256"]}), Path::new("."))
}

/// A verifier of `signer`'s public key from a PEM file.
pub(super) fn public(signer: &Signer, algorithms: &[&str]) -> Arc<dyn Verifier> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key.pem"), signer.pem()).unwrap();
    verifier(json!({"public_key": "key.pem", "algorithms": algorithms}), dir.path())
}

pub(super) fn key_set(keys: Value, rest: Value) -> Result<Built, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("jwks.json"), json!({ "keys": keys }).to_string()).unwrap();
    let mut jwt = rest;
    jwt["jwks_file"] = json!("jwks.json");
    built(jwt, dir.path())
}

pub(super) async fn judge(
    verifier: &Arc<dyn Verifier>,
    token: &[u8],
) -> Result<Arc<Identity>, Reason> {
    let credential = Credential { value: token, basic: false };
    let asked = Asked::default();
    verifier
        .verify(&credential, &asked.with(Place::Message), NOW)
        .await
        .map_err(|error| error.reason())
}

/// Every row of `table` must be refused for its reason.
pub(super) async fn refuses(verifier: &Arc<dyn Verifier>, table: Vec<(&str, String, Reason)>) {
    assert!(!table.is_empty());
    for (what, token, expected) in table {
        let got = judge(verifier, token.as_bytes()).await.err();
        assert_eq!(got, Some(expected), "{what}");
    }
}

pub(super) async fn admits(verifier: &Arc<dyn Verifier>, what: &str, token: &str) -> Arc<Identity> {
    match judge(verifier, token.as_bytes()).await {
        Ok(identity) => identity,
        Err(reason) => panic!("{what}: {reason:?}"),
    }
}
