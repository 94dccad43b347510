//! Keeping credentials out of logs: the values of credential parameters and
//! whatever is shaped like a JWT, however they are percent-encoded.
//!
//! Errs on the side of showing less. Every function is total, and linear in
//! the length of its input.

use std::collections::HashSet;
use std::ops::Range;

use super::jwt::jwt;

/// What stands in for a credential in a log line.
pub const REDACTED: &str = "REDACTED";

/// The parameter names that are redacted whatever the configuration says.
const BUILT_IN: [&str; 18] = [
    "token",
    "access_token",
    "id_token",
    "refresh_token",
    "jwt",
    "auth",
    "authorization",
    "api_key",
    "apikey",
    "key",
    "password",
    "secret",
    "session",
    "sid",
    "ticket",
    "code",
    "sig",
    "signature",
];

/// Text that is still percent-encoded after so many decodings is hiding
/// something, and is redacted.
const DECODINGS: usize = 8;

/// How much of a target is logged.
const LONGEST: usize = 4096;

/// Knows which parameter names hold credentials.
pub struct Redactor {
    /// Folded: lower-case letters and digits alone.
    names: HashSet<Vec<u8>>,
}

/// What has to become of a piece of a URL.
enum Verdict {
    /// Nothing.
    Clean,
    /// What follows `=` is a credential; the name is of this length.
    Value(usize),
    /// It hides a credential somewhere.
    Hides,
    /// It holds a JWT and nothing else that matters.
    Jwt,
}

impl Redactor {
    /// The built-in names and `names`: those of `log.redact` and of every
    /// configured credential.
    pub fn new(names: impl IntoIterator<Item = String>) -> Redactor {
        let built_in = BUILT_IN.iter().map(|name| folded(name.as_bytes()));
        let configured = names.into_iter().map(|name| folded(name.as_bytes()));
        let names = built_in.chain(configured).filter(|name| !name.is_empty()).collect();
        Redactor { names }
    }

    /// A request target as it may be logged; `-` if it is none.
    pub fn url(&self, target: &str) -> String {
        let is_target = target.starts_with('/') || target == "*" || absolute(target).is_some();
        if !is_target || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return "-".to_owned();
        }
        let mut out = String::with_capacity(target.len());
        let (path, query) = target.split_at(target.find(['?', '#']).unwrap_or(target.len()));
        self.path(path, &mut out);
        for (index, parameter) in query.split('&').enumerate() {
            if index > 0 {
                out.push('&');
            }
            self.parameter(parameter, &mut out);
        }
        if out.len() > LONGEST {
            out.truncate(LONGEST);
            out.push_str("...");
        }
        out
    }

    /// An `Origin` as it may be logged: as text, and without the userinfo that a browser
    /// never sends there (RFC 6454 §6.2).
    pub fn origin(&self, origin: &str) -> String {
        let Some((before, host)) = origin.rsplit_once('@') else { return self.text(origin) };
        let scheme = before.find("://").map_or("", |end| &before[..end + 3]);
        self.text(&[scheme, host].concat())
    }

    /// Free text as it may be logged: errors, referers, what a peer said.
    /// Finds `name=value`, `name: value`, `Bearer value` and JWTs.
    pub fn text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut expected = Expected::Nothing;
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let length = match (expected, first) {
                (Expected::Value | Expected::Token, '\\' | '>') => 1,
                (Expected::Value | Expected::Token | Expected::Assignment, _)
                    if first.is_whitespace() =>
                {
                    first.len_utf8()
                }
                (Expected::Value, '"' | '\'') => {
                    let inner = &rest[1..];
                    let end = inner.find(first).unwrap_or(inner.len());
                    out.push(first);
                    out.push_str(REDACTED);
                    expected = Expected::Nothing;
                    rest = &inner[end..];
                    if let Some(behind) = rest.strip_prefix(first) {
                        out.push(first);
                        rest = behind;
                    }
                    continue;
                }
                (Expected::Value | Expected::Token, _) => {
                    let length = rest.find(ends_value).unwrap_or(rest.len());
                    let value = &rest[..length];
                    if is_scheme(value.as_bytes()) {
                        out.push_str(value);
                        expected = Expected::Token;
                    } else {
                        if !value.is_empty() {
                            out.push_str(REDACTED);
                        }
                        expected = Expected::Nothing;
                    }
                    rest = &rest[length..];
                    if value.is_empty() {
                        first.len_utf8()
                    } else {
                        continue;
                    }
                }
                (Expected::Nothing | Expected::Assignment, _) if is_word(first) => {
                    let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                    expected = self.word(&rest[..length], &mut out);
                    rest = &rest[length..];
                    continue;
                }
                (Expected::Assignment, '=' | ':') => {
                    expected = Expected::Value;
                    1
                }
                (Expected::Assignment, '\\' | '"' | '\'') => 1,
                (Expected::Nothing | Expected::Assignment, _) => {
                    expected = Expected::Nothing;
                    first.len_utf8()
                }
            };
            let (passed, behind) = rest.split_at(length);
            out.push_str(passed);
            rest = behind;
        }
        out
    }

    /// Copies one word of free text and says what it announces.
    fn word(&self, word: &str, out: &mut String) -> Expected {
        let decoded = decoded(word.as_bytes());
        let hides = match &decoded {
            Some(decoded) => jwt(decoded).is_some() || (word.contains('%') && self.hides(decoded)),
            None => true,
        };
        out.push_str(if hides { REDACTED } else { word });
        match decoded {
            Some(name) if !hides && self.is_secret(&name) => Expected::Assignment,
            Some(name) if !hides && is_scheme(&name) => Expected::Token,
            Some(_) | None => Expected::Nothing,
        }
    }

    fn path(&self, path: &str, out: &mut String) {
        let path = match absolute(path) {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                out.push_str(scheme);
                out.push_str("://");
                if self.parameter(authority.rsplit('@').next().unwrap_or_default(), out) {
                    return;
                }
                path
            }
            None => path,
        };
        for (index, segment) in path.split('/').enumerate() {
            if index > 0 {
                out.push('/');
            }
            // A value may go on behind a slash: nobody can tell.
            if self.parameter(segment, out) {
                return;
            }
        }
    }

    /// Copies what stands between two `&`. Behind a credential nothing more of
    /// it is shown; says whether that happened.
    fn parameter(&self, parameter: &str, out: &mut String) -> bool {
        let mut rest = parameter;
        loop {
            let (piece, behind) =
                rest.split_at(rest.find([';', '?', '#', ',']).unwrap_or(rest.len()));
            match self.judge(piece) {
                Verdict::Clean => out.push_str(piece),
                Verdict::Jwt => out.push_str(REDACTED),
                Verdict::Value(name) => {
                    out.push_str(&piece[..name]);
                    out.push('=');
                    out.push_str(REDACTED);
                    return true;
                }
                Verdict::Hides => {
                    out.push_str(REDACTED);
                    return true;
                }
            }
            let mut delimited = behind.chars();
            match delimited.next() {
                Some(delimiter) => out.push(delimiter),
                None => return false,
            }
            rest = delimited.as_str();
        }
    }

    fn judge(&self, piece: &str) -> Verdict {
        let Some(whole) = decoded(piece.as_bytes()) else {
            return Verdict::Hides;
        };
        if let Some((name, _)) = piece.split_once('=') {
            let Some(plain) = decoded(name.as_bytes()) else {
                return Verdict::Hides;
            };
            let shown = jwt(&plain).is_none() && !self.hides(&plain);
            if shown && self.is_secret(&plain) {
                return Verdict::Value(name.len());
            }
            if shown && (jwt(&whole).is_some() || self.hides(&whole)) {
                return Verdict::Value(name.len());
            }
        }
        if self.hides(&whole) {
            Verdict::Hides
        } else if jwt(&whole).is_some() {
            Verdict::Jwt
        } else {
            Verdict::Clean
        }
    }

    /// Whether decoded text assigns to a secret name or shows a scheme's token.
    fn hides(&self, text: &[u8]) -> bool {
        let mut word: Option<Range<usize>> = None;
        let mut open = false;
        for (at, &byte) in text.iter().enumerate() {
            let is_part = byte.is_ascii_alphanumeric() || b"_-.[]$".contains(&byte) || byte >= 0x80;
            if is_part {
                match &mut word {
                    Some(range) if open => range.end = at + 1,
                    Some(range) if is_scheme(&text[range.clone()]) => return true,
                    Some(_) | None => word = Some(at..at + 1),
                }
                open = true;
                continue;
            }
            open = false;
            match byte {
                b'=' | b':' => {
                    if word.take().is_some_and(|range| self.is_secret(&text[range])) {
                        return true;
                    }
                }
                b' ' | b'\t' | b'"' | b'\'' | b'\\' | 0 => {}
                _ => word = None,
            }
        }
        false
    }

    /// Whether `name` is a secret one, or has one as a part: `auth[token]`.
    fn is_secret(&self, name: &[u8]) -> bool {
        self.names.contains(&folded(name))
            || name
                .split(|byte| b"[].$:/".contains(byte))
                .any(|part| self.names.contains(&folded(part)))
    }
}

/// What free text has announced.
#[derive(Clone, Copy)]
enum Expected {
    Nothing,
    /// A secret name stood there: `=` or `:` makes the next thing its value.
    Assignment,
    /// The value of a secret name.
    Value,
    /// The token of a scheme.
    Token,
}

/// Scheme and rest of an absolute URL (RFC 3986 §3.1).
fn absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphabetic());
    (is_scheme && scheme.len() <= 8).then_some((scheme, rest))
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || "_-.%+~[]$".contains(character)
}

fn ends_value(character: char) -> bool {
    character.is_whitespace() || "\"'&,;)}>".contains(character)
}

fn is_scheme(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"bearer") || word.eq_ignore_ascii_case(b"basic")
}

/// Lower-case letters and digits alone: `Access-Token` is `access_token`.
fn folded(name: &[u8]) -> Vec<u8> {
    name.iter()
        .filter(|byte| byte.is_ascii_alphanumeric() || **byte >= 0x80)
        .map(u8::to_ascii_lowercase)
        .collect()
}

/// `text` percent-decoded until nothing is encoded any more; `None` if that
/// takes too long.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut text = text.to_vec();
    for _ in 0..DECODINGS {
        let (once, changed) = decoded_once(&text);
        if !changed {
            return Some(once);
        }
        text = once;
    }
    None
}

fn decoded_once(text: &[u8]) -> (Vec<u8>, bool) {
    let digit = |at: usize| {
        let value = char::from(*text.get(at)?).to_digit(16)?;
        u8::try_from(value).ok()
    };
    let mut out = Vec::with_capacity(text.len());
    let mut changed = false;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match (byte, digit(at), digit(at + 1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 2;
                changed = true;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    (out, changed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl";

    fn redactor() -> Redactor {
        Redactor::new(["X-My-Cred".to_owned()])
    }

    fn url(target: &str) -> String {
        redactor().url(target)
    }

    fn text(text: &str) -> String {
        redactor().text(text)
    }

    #[test]
    fn values_of_credential_parameters_are_redacted() {
        for (target, logged) in [
            ("/ws?token=abc&a=1", "/ws?token=REDACTED&a=1"),
            ("/ws?a=1&%74oken=abc", "/ws?a=1&%74oken=REDACTED"),
            ("/ws?%2574oken=abc", "/ws?%2574oken=REDACTED"),
            ("/ws?TOKEN=a&Access-Token=b", "/ws?TOKEN=REDACTED&Access-Token=REDACTED"),
            ("/ws?x_my_cred=abc", "/ws?x_my_cred=REDACTED"),
            ("/ws?+token=abc", "/ws?+token=REDACTED"),
            ("/ws?auth[jwt]=abc", "/ws?auth[jwt]=REDACTED"),
            ("/ws?a=1;token=ab;cd&b", "/ws?a=1;token=REDACTED&b"),
            ("/ws?token=ab?cd#ef", "/ws?token=REDACTED"),
            ("/ws?token%3Dabc", "/ws?REDACTED"),
            ("/ws?next=%2Fws%3Ftoken%3Dabc&b=2", "/ws?next=REDACTED&b=2"),
            ("/ws?next=/ws?token=abc", "/ws?next=/ws?token=REDACTED"),
            ("/ws?h=Bearer%20abc", "/ws?h=REDACTED"),
            ("/ws?j=%7B%22token%22:%22abc%22%7D", "/ws?j=REDACTED"),
            ("/a#access_token=abc", "/a#access_token=REDACTED"),
            ("/a;token=ab/cd?x=1", "/a;token=REDACTED?x=1"),
            ("/token=abc://x/y?z", "/token=REDACTED?z"),
            ("http://token=abc/x", "http://token=REDACTED"),
            ("http://u:p@h:80/ws?sid=1", "http://h:80/ws?sid=REDACTED"),
        ] {
            assert_eq!(url(target), logged, "{target}");
        }
    }

    #[test]
    fn harmless_targets_stay_as_they_are() {
        for target in [
            "/ws?a=1&b=%20x&c",
            "/%C3%A4/b.c?q=100%&z=%zz",
            "/?tokens=3&monkey=1&t=12:30",
            "*",
            "/ws?next=https://h:80/p",
            "/ws?token",
        ] {
            assert_eq!(url(target), target);
        }
    }

    #[test]
    fn what_is_no_target_is_a_dash() {
        for target in ["", "token=abc", "token=abc://x", "://", "/a b", "/a\n", "/ä", "\0"] {
            assert_eq!(url(target), "-", "{target:?}");
        }
    }

    #[test]
    fn jwts_are_redacted_anywhere() {
        assert_eq!(url(&format!("/ws/{JWT}/x?a={JWT}")), "/ws/REDACTED/x?a=REDACTED");
        let encoded = JWT.replace('.', "%2E").replacen("ey", "%65y", 1);
        assert_eq!(url(&format!("/ws/{encoded}/x")), "/ws/REDACTED/x");
    }

    #[test]
    fn free_text_loses_its_secrets() {
        for (said, logged) in [
            ("Authorization: Bearer abc", "Authorization: Bearer REDACTED"),
            ("got bearer abc from", "got bearer REDACTED from"),
            ("{\"token\": \"a b\", \"x\": 1}", "{\"token\": \"REDACTED\", \"x\": 1}"),
            ("password = hunter2, user=ann", "password = REDACTED, user=ann"),
            ("https://h/p?token=a/b=&x=1#f", "https://h/p?token=REDACTED&x=1#f"),
            ("see /p?next=%2F%3Ftoken%3Dabc", "see /p?next=REDACTED"),
            ("%74oken=abc", "%74oken=REDACTED"),
            (r#"{\"token\":\"abc\"}"#, r#"{\"token\":\"REDACTED"}"#),
            ("token =>\n abc", "token =>\n REDACTED"),
            ("connection reset by peer (os error 104)", "connection reset by peer (os error 104)"),
            ("token:", "token:"),
            ("token=&a=b", "token=&a=b"),
        ] {
            assert_eq!(text(said), logged, "{said}");
        }
    }

    #[test]
    fn endless_encoding_is_redacted_in_linear_time() {
        let target = format!("/ws?a=%{}41", "25".repeat(1_000_000));
        assert_eq!(url(&target), "/ws?REDACTED");
        assert!(url(&format!("/{}", "eyJ.".repeat(300_000))).len() < 100);
        assert!(!text(&"token=\"".repeat(100_000)).is_empty());
    }

    /// `text` with the characters at `places` percent-encoded, `levels` deep.
    fn encoded(text: &str, places: &[bool], levels: usize) -> String {
        (0..levels).fold(text.to_owned(), |text, _| {
            let places = places.iter().cycle();
            let encode = |(character, is): (char, &bool)| {
                if *is && character.is_ascii() || "&=?#/%".contains(character) {
                    format!("%{:02x}", u32::from(character))
                } else {
                    character.to_string()
                }
            };
            text.chars().zip(places).map(encode).collect()
        })
    }

    proptest! {
        #[test]
        fn a_canary_is_never_logged(
            places in proptest::collection::vec(any::<bool>(), 1..12),
            levels in 0_usize..4,
            name in prop::sample::select(BUILT_IN.to_vec()),
            upper in any::<bool>(),
            before in "[a-z/?&;:=%0-9@,]{0,12}",
        ) {
            let name = if upper { name.to_uppercase() } else { name.to_owned() };
            let name = encoded(&name, &places, levels);
            let plain = url(&format!("/{before}?{name}=CANARY42"));
            prop_assert!(!plain.contains("CANARY42"), "{plain}");
            let nested = encoded(&format!("/p?{name}=CANARY42"), &places, 1);
            let nested = url(&format!("/ws?x=1&next={nested}"));
            prop_assert!(!nested.contains("CANARY42"), "{nested}");
            let said = text(&format!("{before} /p?{name}=CANARY42 and"));
            prop_assert!(!said.contains("CANARY42"), "{said}");
        }

        #[test]
        fn nothing_panics(said in any::<String>(), target in "[/a-zA-Z%0-9?&;=#+.,: \"'eyJ]{0,60}") {
            let redactor = redactor();
            redactor.url(&said);
            redactor.url(&format!("/{target}"));
            redactor.text(&said);
            redactor.text(&target);
            let _ = super::super::jwt::without_jwts(&said);
        }
    }
}
