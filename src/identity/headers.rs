//! The identity headers: what the upstream is told about a client.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::IdentityConfig;
use crate::close::Reason;
use crate::expression::{EvaluateError, Expression, Variables};
use crate::problem::Problem;

/// The variables of a header's expression.
const VARIABLES: [&str; 2] = ["identity", "request"];

/// The longest value, in bytes.
pub(super) const MAX_VALUE: usize = 4096;

/// Headers with a meaning of their own on this hop, or set by sockgate itself.
const RESERVED: [&str; 17] = [
    "host",
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "keep-alive",
    "expect",
    "cookie",
    "origin",
    "http2-settings",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
    "traceparent",
];

const RESERVED_PREFIXES: [&str; 2] = ["proxy-", "sec-websocket-"];

/// Compiled `identity.headers`.
#[derive(Default)]
pub struct IdentityHeaders {
    entries: Vec<(HeaderName, Source)>,
}

/// Where a header's value comes from.
enum Source {
    /// `identity.subject`, for which no variable has to be made.
    Subject,
    /// Any other expression.
    Expression(Expression),
}

impl Source {
    fn of(expression: Expression) -> Source {
        let is_subject = expression.path().is_some_and(|path| path.eq(["identity", "subject"]));
        if is_subject { Source::Subject } else { Source::Expression(expression) }
    }

    fn uses(&self, variable: &str) -> bool {
        match self {
            Source::Subject => false,
            Source::Expression(expression) => expression.uses(variable),
        }
    }
}

impl IdentityHeaders {
    /// Compiles the section; the problems' paths begin at `headers`.
    ///
    /// # Errors
    /// A name that is no header name, is reserved or occurs twice, and an
    /// expression that does not compile.
    pub fn compile(config: &IdentityConfig) -> Result<IdentityHeaders, Vec<Problem>> {
        let mut entries = Vec::new();
        let mut problems = Vec::new();
        for (written, source) in &config.headers {
            let path = format!("headers.{written}");
            let name = match header_name(written) {
                Ok(name) if entries.iter().any(|(known, _)| *known == name) => {
                    problems.push(Problem::new(path, "is the same header as another one here"));
                    continue;
                }
                Ok(name) => name,
                Err(message) => {
                    problems.push(Problem::new(path, message));
                    continue;
                }
            };
            match Expression::compile(source, &VARIABLES) {
                Ok(expression) => entries.push((name, Source::of(expression))),
                Err(error) => problems.push(Problem::new(path, error.to_string())),
            }
        }
        if problems.is_empty() { Ok(IdentityHeaders { entries }) } else { Err(problems) }
    }

    /// The names, for [`Spoofed`](super::Spoofed).
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.entries.iter().map(|(name, _)| name)
    }

    /// Whether [`IdentityHeaders::compute`] looks at `variable`.
    pub fn uses(&self, variable: &str) -> bool {
        self.entries.iter().any(|(_, source)| source.uses(variable))
    }

    /// The headers of the identity `subject` under `variables`. One that is null,
    /// empty or missing is absent.
    ///
    /// # Errors
    /// [`Reason::Forbidden`] if a value cannot be computed, or cannot be sent
    /// so that the upstream reads what was meant.
    pub fn compute(
        &self,
        subject: &str,
        variables: &Variables,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Reason> {
        let mut headers = Vec::with_capacity(self.entries.len());
        for (name, source) in &self.entries {
            let text = match source {
                Source::Subject => Cow::Borrowed(sound(subject)?),
                Source::Expression(expression) => match expression.evaluate(variables) {
                    Ok(value) => Cow::Owned(text_of(value)?),
                    Err(EvaluateError::Missing) => continue,
                    Err(EvaluateError::Failed) => return Err(Reason::Forbidden),
                },
            };
            if text.is_empty() {
                continue;
            }
            if text.len() > MAX_VALUE {
                return Err(Reason::Forbidden);
            }
            let value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| Reason::Forbidden)?;
            headers.push((name.clone(), value));
        }
        Ok(headers)
    }
}

/// Whether a header must reach the upstream as the hop itself needs it; in any
/// spelling that a server may take for it.
pub(super) fn is_reserved(name: &str) -> bool {
    let folded: String = name
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() { char.to_ascii_lowercase() } else { '-' })
        .collect();
    RESERVED.contains(&folded.as_str())
        || RESERVED_PREFIXES.iter().any(|prefix| folded.starts_with(prefix))
}

pub(super) fn header_name(written: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(written.as_bytes())
        .map_err(|_| "is not a header name (RFC 9110, section 5.1)".to_owned())?;
    if is_reserved(name.as_str()) {
        return Err("cannot be an identity header: it has a meaning of its own".to_owned());
    }
    Ok(name)
}

fn text_of(value: Value) -> Result<String, Reason> {
    let Value::Array(items) = value else { return scalar(value) };
    let items: Vec<String> = items.into_iter().map(item).collect::<Result<_, _>>()?;
    Ok(items.join(","))
}

/// A list item: whoever splits the list must get the items back.
fn item(value: Value) -> Result<String, Reason> {
    let text = match value {
        Value::Null => return Err(Reason::Forbidden),
        other => scalar(other)?,
    };
    if text.contains(',') { Err(Reason::Forbidden) } else { Ok(text) }
}

fn scalar(value: Value) -> Result<String, Reason> {
    match value {
        Value::Null => Ok(String::new()),
        Value::Bool(truth) => Ok(truth.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::String(text) => sound(&text).is_ok().then_some(text).ok_or(Reason::Forbidden),
        Value::Array(_) | Value::Object(_) => Err(Reason::Forbidden),
    }
}

/// `text`, if nobody can read it as anything else.
fn sound(text: &str) -> Result<&str, Reason> {
    let sound = text.trim().len() == text.len() && !text.chars().any(char::is_control);
    if sound { Ok(text) } else { Err(Reason::Forbidden) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn compile(headers: &[(&str, &str)]) -> Result<IdentityHeaders, Vec<Problem>> {
        let headers: BTreeMap<String, String> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        IdentityHeaders::compile(&IdentityConfig { headers, assertion: None })
    }

    fn computed(source: &str, claim: Value) -> Result<Option<Vec<u8>>, Reason> {
        let headers = compile(&[("X-Value", source)]).unwrap();
        let identity = json!({ "subject": "alice", "claims": { "value": claim } });
        let variables = Variables::from([("identity", identity), ("request", json!({}))]);
        let mut computed = headers.compute("alice", &variables)?;
        Ok(computed.pop().map(|(_, value)| value.as_bytes().to_vec()))
    }

    fn claim(value: Value) -> Result<Option<Vec<u8>>, Reason> {
        computed("identity.claims.value", value)
    }

    #[test]
    fn values_become_text() {
        for (value, expected) in [
            (json!("alice"), "alice"),
            (json!("Zoë 山"), "Zoë 山"),
            (json!(41), "41"),
            (json!(-1), "-1"),
            (json!(1.5), "1.5"),
            (json!(false), "false"),
            (json!(["a", "b c", 3, true]), "a,b c,3,true"),
            (json!("a,b"), "a,b"),
        ] {
            assert_eq!(claim(value), Ok(Some(expected.as_bytes().to_vec())));
        }
    }

    #[test]
    fn null_empty_and_missing_are_absent() {
        for value in [json!(null), json!(""), json!([])] {
            assert_eq!(claim(value), Ok(None));
        }
        assert_eq!(computed("identity.claims.nope", json!(1)), Ok(None));
        assert_eq!(computed("\"u:\" + identity.claims.nope", json!(1)), Ok(None));
    }

    #[test]
    fn values_that_would_be_misread_refuse() {
        for value in [
            json!("a\r\nX-Admin: 1"),
            json!("a\nb"),
            json!("a\u{0}b"),
            json!("a\tb"),
            json!("a\u{85}b"),
            json!(" a"),
            json!("a "),
            json!("\u{a0}a"),
            json!("x".repeat(4097)),
            json!({ "a": 1 }),
            json!(["a,b"]),
            json!(["a", null]),
            json!(["a", ["b"]]),
            json!(["a", " b"]),
            json!(vec!["x".repeat(100); 50]),
        ] {
            assert_eq!(claim(value.clone()), Err(Reason::Forbidden), "{value}");
        }
        assert_eq!(computed("identity.claims.value + 1", json!("a")), Err(Reason::Forbidden));
    }

    #[test]
    fn names_that_the_hop_needs_are_refused() {
        for name in [
            "Host",
            "Sec-WebSocket-Key",
            "Proxy-Authorization",
            "cookie",
            "TE",
            "Content_Length",
            "a b",
            "",
            "X-Ü",
        ] {
            let problems = compile(&[(name, "identity.subject")]).err().unwrap();
            assert_eq!(problems.len(), 1, "{name}");
            assert_eq!(problems[0].path, format!("headers.{name}"));
        }
        assert!(compile(&[("Authorization", "identity.subject")]).is_ok());
        assert!(compile(&[("X-User", "identity.subject"), ("x-user", "\"a\"")]).is_err());
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let problems = compile(&[("Host", "\"a\""), ("X-A", "identiy.subject"), ("X-B", "1 +")]);
        assert_eq!(problems.err().unwrap().len(), 3);
    }

    #[test]
    fn variables_are_asked_for_only_if_used() {
        let uses = |source: &str, name| compile(&[("X-A", source)]).unwrap().uses(name);
        assert!(!uses("identity.subject", "request") && !uses("identity.subject", "identity"));
        assert!(uses("request.path", "request") && !uses("request.path", "identity"));
        assert!(uses("identity.session", "identity"));
        assert!(uses("identity.claims.subject", "identity"));
        assert!(uses("identity.subject + \"\"", "identity"));
    }

    #[test]
    fn the_subject_alone_needs_no_variable_and_is_judged_alike() {
        let headers = compile(&[("X-A", " identity.subject ")]).unwrap();
        let value = |subject: &str| -> Result<_, Reason> {
            let computed = headers.compute(subject, &Variables::new())?;
            Ok(computed.into_iter().map(|(_, value)| value.as_bytes().to_vec()).next())
        };
        assert_eq!(value("Zoë 山"), Ok(Some("Zoë 山".as_bytes().to_vec())));
        assert_eq!(value(""), Ok(None));
        for subject in ["a\nb", " a", "a ", "a\u{85}b"] {
            assert_eq!(value(subject), Err(Reason::Forbidden), "{subject:?}");
        }
    }
}
