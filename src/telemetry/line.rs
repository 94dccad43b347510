//! One line of the log, written as it is told: a JSON object, or `key=value` pairs
//! without those that are null.
//!
//! Every string passes the redaction of JWTs here, whoever wrote it.

use std::io::Write as _;

use serde_json::Value;

use super::config::LogFormat;
use super::jwt::without_jwts;
use crate::clock::{rfc3339, unix_millis};

/// What nearly every line has room in.
const USUAL: usize = 512;

/// A line in the making.
pub(super) struct Line {
    text: Vec<u8>,
    format: LogFormat,
}

/// What a field of a connection's line may say.
#[derive(Clone, Copy)]
pub(super) enum Field<'a> {
    /// It is not known, or there is none.
    Null,
    Text(&'a str),
    Number(u64),
}

impl Line {
    /// A line that says when it was made.
    pub(super) fn new(format: LogFormat) -> Line {
        let mut line = Line { text: Vec::with_capacity(USUAL), format };
        line.field("time", rfc3339(unix_millis()).as_str());
        line
    }

    /// One field more.
    pub(super) fn field<'a>(&mut self, name: &str, value: impl Into<Field<'a>>) {
        match (value.into(), self.format) {
            (Field::Null, LogFormat::Text) => {}
            (Field::Null, LogFormat::Json) => self.named(name).extend_from_slice(b"null"),
            (Field::Number(number), _) => {
                // Writing to memory cannot fail, here and below.
                let _ = write!(self.named(name), "{number}");
            }
            (Field::Text(text), format) => {
                let text = without_jwts(text);
                let quoted = format == LogFormat::Json || !is_plain(&text);
                let line = self.named(name);
                if quoted {
                    let _ = serde_json::to_writer(line, &*text);
                } else {
                    line.extend_from_slice(text.as_bytes());
                }
            }
        }
    }

    /// One field more, of any shape.
    pub(super) fn value(&mut self, name: &str, value: &Value) {
        match value {
            Value::Null => self.field(name, Field::Null),
            Value::String(text) => self.field(name, text.as_str()),
            other => {
                let _ = serde_json::to_writer(self.named(name), &redacted(other));
            }
        }
    }

    /// The line with its end.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.text.extend_from_slice(match self.format {
            LogFormat::Json => b"}\n",
            LogFormat::Text => b"\n",
        });
        self.text
    }

    /// Writes what stands before a value, whose name is one of ours.
    fn named(&mut self, name: &str) -> &mut Vec<u8> {
        let is_first = self.text.is_empty();
        let (separator, behind): (&[u8], &[u8]) = match (self.format, is_first) {
            (LogFormat::Json, true) => (b"{\"", b"\":"),
            (LogFormat::Json, false) => (b",\"", b"\":"),
            (LogFormat::Text, true) => (b"", b"="),
            (LogFormat::Text, false) => (b" ", b"="),
        };
        for part in [separator, name.as_bytes(), behind] {
            self.text.extend_from_slice(part);
        }
        &mut self.text
    }
}

/// One plain word needs no quotes.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')
}

fn redacted(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(without_jwts(text)),
        Value::Array(items) => items.iter().map(redacted).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (without_jwts(name).into_owned(), redacted(value)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

impl<'a> From<&'a str> for Field<'a> {
    fn from(text: &'a str) -> Field<'a> {
        Field::Text(text)
    }
}

impl From<u64> for Field<'_> {
    fn from(number: u64) -> Field<'static> {
        Field::Number(number)
    }
}

impl From<u16> for Field<'_> {
    fn from(number: u16) -> Field<'static> {
        Field::Number(number.into())
    }
}

impl<'a, F: Into<Field<'a>>> From<Option<F>> for Field<'a> {
    fn from(value: Option<F>) -> Field<'a> {
        value.map_or(Field::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(format: LogFormat) -> String {
        let mut line = Line::new(format);
        line.field("id", "a b\n\"ä");
        line.field("peer", Some("192.0.2.1"));
        line.field("none", None::<&str>);
        line.field("code", Some(4001_u16));
        line.field("bytes", u64::MAX);
        line.value("list", &json!([1, null, "eyJh.eyJi.c"]));
        line.value("text", &json!("x"));
        line.value("null", &json!(null));
        String::from_utf8(line.finish()).unwrap()
    }

    #[test]
    fn a_line_is_a_json_object_that_says_what_is_not_known() {
        let line = line(LogFormat::Json);
        assert!(line.starts_with("{\"time\":\"2") && line.ends_with("}\n"), "{line}");
        let mut read: Value = serde_json::from_str(&line).unwrap();
        read.as_object_mut().unwrap().remove("time");
        let expected = json!({
            "id": "a b\n\"ä", "peer": "192.0.2.1", "none": null, "code": 4001,
            "bytes": u64::MAX, "list": [1, null, "REDACTED"], "text": "x", "null": null,
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn a_line_is_words_without_what_is_not_known() {
        let line = line(LogFormat::Text);
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.starts_with("time=2") && time.ends_with('Z'), "{line}");
        let words = "id=\"a b\\n\\\"ä\" peer=192.0.2.1 code=4001 bytes=18446744073709551615 \
                     list=[1,null,\"REDACTED\"] text=x\n";
        assert_eq!(rest, words);
    }

    #[test]
    fn every_string_passes_redaction() {
        const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl";
        for format in [LogFormat::Json, LogFormat::Text] {
            let mut line = Line::new(format);
            line.field("a", JWT);
            line.value("b", &json!(JWT));
            line.value("c", &json!([JWT, { JWT: [JWT] }]));
            let text = String::from_utf8(line.finish()).unwrap();
            assert!(!text.contains("eyJ"), "{text}");
            assert_eq!(text.matches("REDACTED").count(), 5, "{text}");
        }
    }
}
