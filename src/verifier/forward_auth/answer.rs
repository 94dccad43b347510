//! What the endpoint's answer means.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, EXPIRES, HeaderMap};
use serde_json::{Map, Value};

use super::super::Unavailable;
use super::super::lookup::Found;
use super::super::timestamp::LAST;
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::expression::{Expression, Variables};
use crate::fetch::Answer;
use crate::identity::{Identity, Method, Proof};
use crate::json;

/// Judges answers.
pub(super) struct Judge {
    /// The verifier's name.
    pub(super) name: Arc<str>,
    /// CEL over `body` and `headers`.
    pub(super) subject: Expression,
}

impl Judge {
    /// 2xx with a subject admits, 401 and 3xx refuse, 403 forbids, and anything
    /// else says nothing about the credential.
    pub(super) fn judge(&self, answer: &Answer, now: UnixSeconds) -> Found {
        match answer.status {
            status if status.is_success() => self.judge_success(answer, now),
            // A 3xx is the way to a login page.
            StatusCode::UNAUTHORIZED => Err(Reason::InvalidCredential.into()),
            status if status.is_redirection() => Err(Reason::InvalidCredential.into()),
            StatusCode::FORBIDDEN => Err(Reason::Forbidden.into()),
            _ => Err(Unavailable(
                "the endpoint answers with a status other than 2xx, 3xx, 401 and 403",
            )
            .into()),
        }
    }

    fn judge_success(&self, answer: &Answer, now: UnixSeconds) -> Found {
        let body = self.body(answer)?;
        let mut variables = Variables::new();
        if self.subject.uses("headers") {
            variables.insert("headers", texts(&answer.headers));
        }
        variables.insert("body", body);
        let subject = self.subject.evaluate(&variables).unwrap_or_default();
        if subject.is_null() || subject.as_str() == Some("") {
            // Not the endpoint that it should be, or `subject` looks elsewhere.
            return Err(Unavailable("the endpoint admits, and does not say whom").into());
        }
        let claims = match variables.remove("body") {
            Some(Value::Object(body)) => Value::Object(body).to_string(),
            Some(_) | None => "{}".to_owned(),
        };
        let identity = Identity::proven(Proof {
            subject,
            method: Method::ForwardAuth,
            verifier: Arc::clone(&self.name),
            issuer: None,
            session: None,
            token_id: None,
            // When the endpoint was asked.
            issued_at: Some(now),
            expires: expiry(&answer.headers, now),
            leeway: 0,
            claims: claims.into(),
        })?;
        Ok(Arc::new(identity))
    }

    /// The body as JSON, where it says that it is, or where `subject` needs it;
    /// else null.
    fn body(&self, answer: &Answer) -> Result<Value, Unavailable> {
        let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let is_json = kind.is_some_and(is_json) || self.subject.uses("body");
        if !is_json || answer.body.is_empty() {
            return Ok(Value::Null);
        }
        json::parse(&answer.body)
            .map_err(|_| Unavailable("the answer is not JSON that can be read in one way only"))
    }
}

/// `application/json`, or a type made of it (RFC 6839 §3.1).
fn is_json(kind: &str) -> bool {
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// The headers as CEL sees them, names in lower case. What is not UTF-8 is left
/// out: two names that differ could become one.
fn texts(headers: &HeaderMap) -> Value {
    let mut texts = Map::new();
    for name in headers.keys() {
        let values =
            headers.get_all(name).iter().map(|value| std::str::from_utf8(value.as_bytes()));
        if let Ok(values) = values.collect::<Result<Vec<_>, _>>() {
            texts.insert(name.as_str().to_owned(), Value::String(values.join(", ")));
        }
    }
    Value::Object(texts)
}

/// When the login ends, where the answer says so: `max-age` (RFC 9111 §5.2.2.1),
/// else `Expires` (§5.3). One that is over already says that nothing shall be
/// remembered, as most frameworks do for any answer, and nothing about the login.
fn expiry(headers: &HeaderMap, now: UnixSeconds) -> Option<UnixSeconds> {
    let end = max_age(headers)
        .map_or_else(|| expires(headers), |seconds| Some(now.saturating_add(seconds).min(LAST)));
    end.filter(|end| *end > now)
}

/// The shortest `max-age`, in seconds.
fn max_age(headers: &HeaderMap) -> Option<i64> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let ages = values.flat_map(|value| value.split(',')).filter_map(|directive| {
        let (name, age) = directive.split_once('=')?;
        let age = age.trim().trim_matches('"');
        let is_number = !age.is_empty() && age.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = || age.parse().unwrap_or(i64::MAX);
        (name.trim().eq_ignore_ascii_case("max-age") && is_number).then(seconds)
    });
    ages.min()
}

fn expires(headers: &HeaderMap) -> Option<UnixSeconds> {
    let at = httpdate::parse_http_date(headers.get(EXPIRES)?.to_str().ok()?).ok()?;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok().map(|at| at.min(LAST))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::verifier::VerifyError;

    const NOW: UnixSeconds = 1_700_000_000;

    fn judge(subject: &str) -> Judge {
        let subject = Expression::compile(subject, &["body", "headers"]).unwrap();
        Judge { name: "app".into(), subject }
    }

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        Answer { status: StatusCode::from_u16(status).unwrap(), headers: map, body }
    }

    const BY_HEADER: &str = "headers[\"x-forwarded-user\"]";

    fn said(subject: &str, answer: &Answer) -> Result<String, VerifyError> {
        judge(subject).judge(answer, NOW).map(|identity| identity.subject().to_owned())
    }

    fn unavailable(said: Result<String, VerifyError>) -> bool {
        matches!(said, Err(VerifyError::Unavailable(_)))
    }

    #[test]
    fn the_status_decides() {
        let ada = [("x-forwarded-user", "ada")];
        for status in [200, 202, 204, 299] {
            assert_eq!(said(BY_HEADER, &answer(status, &ada, "")), Ok("ada".to_owned()));
        }
        for status in [301, 302, 303, 304, 307, 308, 401] {
            let refused = Err(Reason::InvalidCredential.into());
            assert_eq!(said(BY_HEADER, &answer(status, &ada, "")), refused, "{status}");
        }
        assert_eq!(said(BY_HEADER, &answer(403, &ada, "")), Err(Reason::Forbidden.into()));
        for status in [101, 400, 402, 404, 407, 418, 429, 500, 502, 503, 999] {
            assert!(unavailable(said(BY_HEADER, &answer(status, &ada, ""))), "{status}");
        }
    }

    #[test]
    fn a_success_that_names_nobody_is_not_the_endpoint() {
        for (subject, headers, body) in [
            (BY_HEADER, &[][..], ""),
            (BY_HEADER, &[("x-forwarded-user", "")], ""),
            ("body.user", &[], ""),
            ("body.user", &[], "{}"),
            ("body.user", &[], r#"{"user":null}"#),
            ("body.user", &[], r#"{"user":""}"#),
            ("body.user", &[], r#""ada""#),
            ("body.user", &[], "<html>"),
            ("body.user", &[], r#"{"user":"ada","user":"eve"}"#),
            (BY_HEADER, &[("x-forwarded-user", "ada"), ("content-type", "application/json")], "{"),
        ] {
            assert!(unavailable(said(subject, &answer(200, headers, body))), "{subject} {body}");
        }
        let not_utf8 = Answer {
            headers: HeaderMap::from_iter([(
                http::HeaderName::from_static("x-forwarded-user"),
                http::HeaderValue::from_bytes(b"Zo\xeb").unwrap(),
            )]),
            ..answer(200, &[], "")
        };
        assert!(unavailable(said(BY_HEADER, &not_utf8)));
    }

    #[test]
    fn a_subject_that_cannot_be_one_is_invalid() {
        let long = "a".repeat(256);
        for body in [
            r#"{"u":["ada"]}"#,
            r#"{"u":" ada"}"#,
            r#"{"u":1.5}"#,
            &format!("{{\"u\":\"{long}\"}}"),
        ] {
            let refused = Err(Reason::InvalidCredential.into());
            assert_eq!(said("body.u", &answer(200, &[], body)), refused, "{body}");
        }
    }

    #[test]
    fn the_body_is_what_expressions_see_as_claims() {
        let json =
            [("content-type", "Application/JSON; charset=utf-8"), ("x-forwarded-user", "ada")];
        let identity = |subject, headers, body: &str| {
            judge(subject).judge(&answer(200, headers, body), NOW).ok().unwrap()
        };
        let by_header = identity(BY_HEADER, &json, r#"{"role":"admin"}"#);
        assert_eq!(by_header.claims()["role"], "admin");
        assert_eq!(by_header.method(), "forward_auth");
        let by_body = identity("body.id", &[], r#"{"id":42}"#);
        assert_eq!((by_body.subject(), &by_body.claims()["id"]), ("42", &Value::from(42)));
        // oauth2-proxy answers 202 with a word.
        assert!(identity(BY_HEADER, &json[1..], "Accepted").claims().is_empty());
        assert!(identity(BY_HEADER, &json, "[1]").claims().is_empty());
    }

    #[test]
    fn max_age_or_else_expires_is_the_end_and_one_that_is_over_says_nothing() {
        let end = |headers: &[(&'static str, &str)]| {
            expiry(&answer(200, headers, "").headers, NOW).map(|at| at - NOW)
        };
        let later = ("expires", "Tue, 14 Nov 2023 22:14:20 GMT");
        for (headers, expected) in [
            (&[][..], None),
            (&[("cache-control", "max-age=60")], Some(60)),
            (&[("cache-control", "private, Max-Age=\"60\""), later], Some(60)),
            (&[("cache-control", "max-age=90"), ("cache-control", "max-age=30")], Some(30)),
            (&[("cache-control", "max-age=99999999999999999999")], Some(LAST - NOW)),
            (&[("cache-control", "s-maxage=60")], None),
            (&[("cache-control", "max-age=-1, max-age=x, max-age")], None),
            (&[("cache-control", "no-store"), later], Some(60)),
            (&[later], Some(60)),
            // What oauth2-proxy, Spring Security and PHP say to any answer.
            (&[("cache-control", "no-cache, no-store, must-revalidate, max-age=0"), later], None),
            (&[("expires", "0")], None),
            (&[("expires", "Thu, 01 Jan 1970 00:00:00 GMT")], None),
            (&[("expires", "soon")], None),
        ] {
            assert_eq!(end(headers), expected, "{headers:?}");
        }
    }
}
