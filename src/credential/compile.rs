//! From what the file says to [`Sources`]: every entry is checked, and all
//! problems are reported at once.

use std::collections::HashSet;

use http::header::{self, HeaderName};

use super::config::{CredentialConfig, ForwardConfig, Scheme};
use super::cookie::CookieSource;
use super::header::HeaderSource;
use super::message::MessageSource;
use super::query::QuerySource;
use super::subprotocol::{PairSource, PrefixSource};
use super::{Entry, Source, Sources};
use crate::problem::Problem;

/// Headers that carry the request itself and so cannot be credentials.
const STRUCTURAL: [HeaderName; 12] = [
    header::HOST,
    header::COOKIE,
    header::CONNECTION,
    header::UPGRADE,
    header::ORIGIN,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

impl Sources {
    /// The sources that `config` names, in its order.
    ///
    /// # Errors
    /// Every [`Problem`] of every entry, with paths such as `[0].token`.
    pub fn compile(config: &[CredentialConfig]) -> Result<Sources, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        for (index, written) in config.iter().enumerate() {
            let mut own = Vec::new();
            let source = source(written, index, &mut own);
            options(written, &mut own);
            if written.message.is_some() && index + 1 < config.len() {
                own.push(Problem::new(
                    "message",
                    "must be the last of `credentials`, and the only one",
                ));
            }
            if let Some(source) = source {
                if !seen.insert(source.key()) {
                    own.push(Problem::new("", "names the same source as an earlier entry"));
                }
                let forward = matches!(written.forward, Some(ForwardConfig::Whole(true)));
                let verifiers = match written.client_cert {
                    Some(_) => [source.kind().to_owned()].into(),
                    None => written.verifier.0.clone().into_boxed_slice(),
                };
                entries.push(Entry { source, forward, verifiers });
            }
            let prefix = format!("[{index}]");
            problems.extend(own.into_iter().map(|problem| problem.under(&prefix)));
        }
        if problems.is_empty() { Ok(Sources { entries }) } else { Err(problems) }
    }
}

impl Source {
    /// What two entries must not share.
    fn key(&self) -> (&'static str, String) {
        let name = match self {
            Source::Cookie(cookie) => cookie.name().to_owned(),
            Source::Query(query) => query.name().to_owned(),
            Source::Header(header) => format!("{} {:?}", header.name(), header.scheme()),
            Source::Prefix(prefix) => prefix.prefix().to_owned(),
            Source::Pair(pair) => pair.marker().to_owned(),
            Source::Certificate | Source::Message(_) => String::new(),
        };
        (self.kind(), name)
    }
}

/// The one source of an entry, if it names exactly one and that one is sound.
fn source(written: &CredentialConfig, index: usize, problems: &mut Vec<Problem>) -> Option<Source> {
    let named = [
        ("cookie", written.cookie.is_some()),
        ("query", written.query.is_some()),
        ("header", written.header.is_some()),
        ("subprotocol", written.subprotocol.is_some()),
        ("subprotocol_pair", written.subprotocol_pair.is_some()),
        ("client_cert", written.client_cert.is_some()),
        ("message", written.message.is_some()),
    ];
    let named: Vec<&str> = named.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
    if named.len() != 1 {
        let found = if named.is_empty() {
            "none is".to_owned()
        } else {
            format!("{} are", named.join(", "))
        };
        problems.push(Problem::new(
            "",
            format!(
                "exactly one of cookie, query, header, subprotocol, subprotocol_pair, client_cert \
                 or message must be given; {found}"
            ),
        ));
        return None;
    }
    let encoding = written.encoding.unwrap_or_default();
    if let Some(name) = &written.cookie {
        return sound(is_token(name), "cookie", "a cookie name", problems)
            .then(|| Source::Cookie(CookieSource::new(name)));
    }
    if let Some(name) = &written.query {
        let is_name =
            !name.is_empty() && !name.contains(|c: char| c.is_control() || c.is_whitespace());
        return sound(is_name, "query", "a parameter name, as decoded", problems)
            .then(|| Source::Query(QuerySource::new(name)));
    }
    if let Some(name) = &written.header {
        return header(name, written.scheme, problems).map(Source::Header);
    }
    if let Some(prefix) = &written.subprotocol {
        return sound(is_token(prefix), "subprotocol", "a prefix of a subprotocol", problems)
            .then(|| Source::Prefix(PrefixSource::new(prefix, encoding)));
    }
    if let Some(marker) = &written.subprotocol_pair {
        return sound(is_token(marker), "subprotocol_pair", "a subprotocol", problems)
            .then(|| Source::Pair(PairSource::new(marker, encoding)));
    }
    if written.client_cert.is_some() {
        return Some(Source::Certificate);
    }
    let message = written.message.as_ref()?;
    match MessageSource::compile(message, written.forward.as_ref(), written.dials_first(), index) {
        Ok(message) => Some(Source::Message(Box::new(message))),
        Err(found) => {
            problems.extend(found);
            None
        }
    }
}

fn header(
    written: &str,
    scheme: Option<Scheme>,
    problems: &mut Vec<Problem>,
) -> Option<HeaderSource> {
    let Ok(name) = HeaderName::from_bytes(written.as_bytes()) else {
        sound(false, "header", "a header name", problems);
        return None;
    };
    if STRUCTURAL.contains(&name) || name.as_str().starts_with("sec-websocket-") {
        let hint = if name == header::COOKIE { "; name a cookie with `cookie`" } else { "" };
        problems.push(Problem::new("header", format!("{name} cannot hold a credential{hint}")));
        return None;
    }
    let default = if name == header::AUTHORIZATION { Scheme::Bearer } else { Scheme::None };
    Some(HeaderSource::new(name, scheme.unwrap_or(default)))
}

/// The options that belong to some sources only.
fn options(written: &CredentialConfig, problems: &mut Vec<Problem>) {
    if written.scheme.is_some() && written.header.is_none() {
        problems.push(Problem::new("scheme", "belongs to `header` only"));
    }
    let is_subprotocol = written.subprotocol.is_some() || written.subprotocol_pair.is_some();
    if written.encoding.is_some() && !is_subprotocol {
        let message = "belongs to `subprotocol` and `subprotocol_pair` only";
        problems.push(Problem::new("encoding", message));
    }
    if written.client_cert.is_some() {
        if !written.verifier.0.is_empty() {
            let message = "has no effect: server.tls.client_ca says who may vouch for a client";
            problems.push(Problem::new("verifier", message));
        }
        if written.forward.is_some() {
            problems.push(Problem::new("forward", "has no effect: TLS ends here"));
        }
    } else if written.verifier.0.is_empty() {
        problems.push(Problem::new("verifier", "name at least one verifier"));
    }
    if written.dial.is_some() && written.message.is_none() {
        problems.push(Problem::new("dial", "belongs to `message` only"));
    }
    let within = written.message.as_ref().and_then(|message| message.dial);
    if within.is_some() && written.dial.is_some_and(|beside| within != Some(beside)) {
        problems.push(Problem::new("message.dial", "differs from `dial` beside `message`"));
    }
    if written.message.is_none() {
        match written.forward {
            None | Some(ForwardConfig::Whole(_)) => {}
            Some(ForwardConfig::Named(_) | ForwardConfig::Rewrite(_)) => {
                let message = "must be true or false here; strip and rewrite are for messages";
                problems.push(Problem::new("forward", message));
            }
        }
    }
}

fn sound(is: bool, key: &str, what: &str, problems: &mut Vec<Problem>) -> bool {
    if !is {
        problems.push(Problem::new(key, format!("must be {what}")));
    }
    is
}

/// Whether `text` is a token (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_tchar)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(json: serde_json::Value) -> Vec<String> {
        let config: Vec<CredentialConfig> = serde_json::from_value(json).unwrap();
        let problems = Sources::compile(&config).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect()
    }

    fn problem(entry: serde_json::Value) -> String {
        let found = problems(json!([entry]));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }

    #[test]
    fn an_entry_names_exactly_one_source() {
        let both = problem(json!({ "cookie": "a", "query": "b", "verifier": "v" }));
        assert!(both.starts_with("[0]: exactly one of") && both.ends_with("cookie, query are"));
        assert!(problem(json!({ "verifier": "v" })).ends_with("none is"));
    }

    #[test]
    fn a_message_is_last_and_alone() {
        let message = json!({ "message": { "token": "/t" }, "verifier": "v" });
        let cookie = json!({ "cookie": "s", "verifier": "v" });
        assert!(problems(json!([cookie, message])).is_empty());
        assert!(problems(json!([message, cookie]))[0].starts_with("[0].message: must be the last"));
        assert!(!problems(json!([message, message])).is_empty());
    }

    #[test]
    fn names_must_be_able_to_occur() {
        for (key, name) in [
            ("cookie", "a b"),
            ("cookie", ""),
            ("query", ""),
            ("header", "x y"),
            ("subprotocol", "a,"),
            ("subprotocol_pair", ""),
        ] {
            let found = problem(json!({ key: name, "verifier": "v" }));
            assert!(found.starts_with(&format!("[0].{key}: must be")), "{found}");
        }
        for name in ["Host", "Cookie", "connection", "Sec-WebSocket-Protocol", "Origin"] {
            let found = problem(json!({ "header": name, "verifier": "v" }));
            assert!(found.contains("cannot hold a credential"), "{found}");
        }
    }

    #[test]
    fn options_belong_to_their_sources() {
        let cookie =
            |key: &str, value| problem(json!({ "cookie": "a", "verifier": "v", key: value }));
        assert!(cookie("scheme", json!("Bearer")).starts_with("[0].scheme"));
        assert!(cookie("encoding", json!("base64url")).starts_with("[0].encoding"));
        assert!(cookie("dial", json!("first")).starts_with("[0].dial"));
        let message = |beside: &str, within: &str| {
            problems(json!([{
                "message": { "format": "text", "dial": within }, "verifier": "v", "dial": beside,
            }]))
        };
        assert!(message("first", "first").is_empty());
        let differs = ["[0].message.dial: differs from `dial` beside `message`"];
        assert_eq!(message("first", "after_auth"), differs);
        assert!(cookie("forward", json!("strip")).starts_with("[0].forward"));
        assert!(cookie("forward", json!({ "rewrite": "x" })).starts_with("[0].forward"));
        assert!(problem(json!({ "cookie": "a", "verifier": [] })).starts_with("[0].verifier"));
    }

    #[test]
    fn the_same_source_twice_is_refused() {
        let twice = |a, b| problems(json!([a, b]));
        let found = twice(
            json!({ "header": "Authorization", "verifier": "v" }),
            json!({ "header": "authorization", "scheme": "Bearer", "verifier": "w" }),
        );
        assert_eq!(found, ["[1]: names the same source as an earlier entry"]);
        let basic = json!({ "header": "authorization", "scheme": "Basic", "verifier": "w" });
        assert!(twice(json!({ "header": "authorization", "verifier": "v" }), basic).is_empty());
        let names =
            (json!({ "query": "t", "verifier": "v" }), json!({ "cookie": "t", "verifier": "v" }));
        assert!(twice(names.0, names.1).is_empty());
    }

    #[test]
    fn all_problems_come_at_once() {
        let found = problems(json!([
            { "cookie": "a b", "scheme": "Bearer", "verifier": [] },
            { "message": { "token": "token", "where": { "/a~2": 1 } }, "verifier": "v" },
        ]));
        assert_eq!(found.len(), 5, "{found:?}");
    }
}
