//! `POST /revoke`: `{"subject": …}`, `{"session": …}` or `{"token_id": …}`, each
//! with a `"verifier"` if only that one is meant.

use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{Admin, Answer, bad_request, json_answer};
use crate::json::{self, JsonError};
use crate::revocation::{Kind, Scope, Source, Target};

/// The largest body that is read, in bytes.
const BODY: usize = 16 << 10;

/// How long an operator may take to send it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is said of every body that is no revocation.
const EXPECTED: &str = r#"expected a JSON object with exactly one of "subject", "session" and "token_id", and "verifier" if only one is meant"#;

impl Admin {
    /// Revokes what `body` names.
    pub(super) async fn revoke(&self, body: Incoming) -> Answer {
        let reading = tokio::time::timeout(PATIENCE, Limited::new(body, BODY).collect());
        let Ok(Ok(body)) = reading.await else {
            return bad_request("the body is larger than 16KiB, or did not arrive");
        };
        let Named { kind, text, verifier } = match Named::read(&body.to_bytes()) {
            Ok(named) => named,
            Err(error) => return bad_request(&error),
        };
        if let Some(verifier) = &verifier
            && !self.gate.plans.load().verifiers.contains_key(verifier)
        {
            // A slip of the finger would revoke nothing and say that all is well.
            return bad_request("no verifier of this name is configured");
        }
        let scope = verifier.as_deref().map_or(Scope::Any, Scope::Verifier);
        let target = Target::new(kind, &text, scope);
        match self.gate.revocations.revoke(target, Source::Admin).await {
            Ok(revoked) => json_answer(
                StatusCode::OK,
                &json!({ "closed": revoked.closed, "shared": revoked.shared }),
            ),
            Err(full) => {
                json_answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": full.to_string() }))
            }
        }
    }
}

/// What a body names.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    kind: Kind,
    text: String,
    verifier: Option<String>,
}

impl Named {
    fn read(body: &[u8]) -> Result<Named, String> {
        let object = match json::parse(body) {
            Ok(Value::Object(object)) => object,
            Ok(_) | Err(JsonError::Malformed) => return Err(EXPECTED.to_owned()),
            Err(error @ JsonError::Ambiguous) => return Err(format!("the body {error}")),
        };
        let (mut named, mut verifier) = (Vec::new(), None);
        for (name, value) in object {
            let Value::String(text) = value else {
                return Err(format!("every value is text: {EXPECTED}"));
            };
            if text.is_empty() {
                return Err(format!("no value is empty: {EXPECTED}"));
            }
            match Kind::ALL.into_iter().find(|kind| kind.label() == name) {
                Some(kind) => named.push((kind, text)),
                None if name == "verifier" => verifier = Some(text),
                None => return Err(EXPECTED.to_owned()),
            }
        }
        match <[(Kind, String); 1]>::try_from(named) {
            Ok([(kind, text)]) => Ok(Named { kind, text, verifier }),
            Err(_) => Err(EXPECTED.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_of_three_is_named() {
        let read = |body: &str| Named::read(body.as_bytes()).ok();
        let named = |kind, verifier: Option<&str>| {
            Some(Named { kind, text: "x".to_owned(), verifier: verifier.map(str::to_owned) })
        };
        assert_eq!(read(r#"{"subject":"x"}"#), named(Kind::Subject, None));
        assert_eq!(read(r#"{"session":"x"}"#), named(Kind::Session, None));
        assert_eq!(
            read(r#" {"verifier":"app","token_id":"x"} "#),
            named(Kind::TokenId, Some("app"))
        );
    }

    #[test]
    fn anything_else_is_refused_and_never_quoted() {
        for body in [
            "",
            "canary",
            "[]",
            "{}",
            r#"{"verifier":"canary"}"#,
            r#"{"subject":"canary","session":"canary"}"#,
            r#"{"subject":""}"#,
            r#"{"subject":5}"#,
            r#"{"subject":null}"#,
            r#"{"subject":["canary"]}"#,
            r#"{"subject":"canary","subject":"canary"}"#,
            r#"{"subject":"canary","sub\u006aect":"canary"}"#,
            r#"{"subject":"canary"}x"#,
            r#"{"subject":"canary","verifier":null}"#,
            r#"{"subject":"canary","reason":"canary"}"#,
            r#"{"user":"canary"}"#,
        ] {
            let error = Named::read(body.as_bytes()).unwrap_err();
            assert!(!error.contains("canary") && error.len() > 20, "{body}: {error}");
        }
    }
}
