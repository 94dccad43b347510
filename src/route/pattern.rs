//! Host and path patterns, and the path that an upstream is asked for.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::problem::Problem;

/// What a route matches: a host, if it names one, and any of its paths.
#[derive(Debug)]
pub struct RoutePattern {
    host: Option<HostPattern>,
    paths: Box<[PathPattern]>,
}

/// What of a path lies behind the prefix that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest<'p> {
    /// The pattern was the whole path.
    Exact,
    /// The pattern was a prefix: "", or text that begins with `/`.
    Behind(&'p str),
}

/// How a path relates to a pattern.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<'p> {
    Matches(Rest<'p>),
    /// But for letter case or a trailing slash.
    Near,
    Other,
}

#[derive(Debug)]
enum HostPattern {
    Exact(Box<str>),
    /// `.example.com`, for one label more.
    Below(Box<str>),
}

#[derive(Debug)]
enum PathPattern {
    Exact(Box<str>),
    /// `/ws` of `/ws/*`; "" of `/*`.
    Prefix(Box<str>),
}

impl RoutePattern {
    /// Parses `host` and `path` of a route, as written.
    ///
    /// # Errors
    /// Each host or path that no normalised request could match, at `host`,
    /// `path` or `path[1]`.
    pub fn parse(host: Option<&str>, paths: &[String]) -> Result<RoutePattern, Vec<Problem>> {
        let mut problems = Vec::new();
        let host = host.and_then(|written| {
            HostPattern::parse(written)
                .map_err(|message| problems.push(Problem::new("host", message)))
                .ok()
        });
        if paths.is_empty() {
            problems.push(Problem::new("path", "is empty; expected at least one path"));
        }
        let mut parsed = Vec::with_capacity(paths.len());
        for (index, written) in paths.iter().enumerate() {
            match PathPattern::parse(written) {
                Ok(path) => parsed.push(path),
                Err(message) => {
                    let at =
                        if paths.len() == 1 { "path".to_owned() } else { format!("path[{index}]") };
                    problems.push(Problem::new(at, message));
                }
            }
        }
        if problems.is_empty() {
            Ok(RoutePattern { host, paths: parsed.into() })
        } else {
            Err(problems)
        }
    }

    /// Whether the route is for `host` (lower case, no port).
    pub(super) fn matches_host(&self, host: &str) -> bool {
        self.host.as_ref().is_none_or(|pattern| pattern.matches(host))
    }

    /// How `path` relates to the best of the route's paths.
    pub(super) fn judge<'p>(&self, path: &'p str) -> Verdict<'p> {
        let mut near = false;
        for pattern in &self.paths {
            match pattern.judge(path) {
                Verdict::Matches(rest) => return Verdict::Matches(rest),
                Verdict::Near => near = true,
                Verdict::Other => {}
            }
        }
        if near { Verdict::Near } else { Verdict::Other }
    }
}

/// The path to ask an upstream for: `path` as it is, or with the part that
/// matched replaced by `base`, the path of the upstream's URL (if it has one),
/// joined at one `/`.
pub fn upstream_path(rest: Rest<'_>, path: &str, base: Option<&str>) -> String {
    let Some(base) = base.filter(|base| !base.is_empty()) else { return path.to_owned() };
    match rest {
        Rest::Exact | Rest::Behind("") => base.to_owned(),
        Rest::Behind(rest) => format!("{}{rest}", base.strip_suffix('/').unwrap_or(base)),
    }
}

impl HostPattern {
    fn parse(written: &str) -> Result<HostPattern, String> {
        if !written.is_ascii() {
            return Err("is not ASCII; write the A-label (xn--...)".to_owned());
        }
        let host = written.to_ascii_lowercase();
        if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: Ipv6Addr =
                address.parse().map_err(|_| "is not an IPv6 address in brackets".to_owned())?;
            return Ok(HostPattern::Exact(address.to_string().into()));
        }
        if let Ok(address) = host.parse::<Ipv6Addr>() {
            return Ok(HostPattern::Exact(address.to_string().into()));
        }
        let (below, name) = match host.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, host.as_str()),
        };
        if name.contains("://") || name.contains('/') {
            return Err("is not a host; write it without scheme and path".to_owned());
        }
        if name.contains(':') {
            return Err("is not a host; write it without a port".to_owned());
        }
        if name.ends_with('.') && name.len() > 1 {
            return Err("ends in a dot; write it without".to_owned());
        }
        if name.contains('*') {
            return Err("has a * that is not the whole first label, as in *.example.com".to_owned());
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err("is not a host name".to_owned());
        }
        if below && name.parse::<Ipv4Addr>().is_ok() {
            return Err("has a * before an address".to_owned());
        }
        Ok(if below {
            HostPattern::Below(format!(".{name}").into())
        } else {
            HostPattern::Exact(name.into())
        })
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(exact) => {
                let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                match bare {
                    Some(address) => address
                        .parse::<Ipv6Addr>()
                        .is_ok_and(|address| address.to_string() == **exact),
                    None => *host == **exact,
                }
            }
            HostPattern::Below(suffix) => host
                .strip_suffix(&**suffix)
                .is_some_and(|label| !label.is_empty() && !label.contains('.')),
        }
    }
}

impl PathPattern {
    fn parse(written: &str) -> Result<PathPattern, String> {
        if !written.starts_with('/') {
            return Err("does not begin with /".to_owned());
        }
        let (text, prefix) = match written.strip_suffix("/*") {
            Some(base) => (base, true),
            None => (written, false),
        };
        if text.contains('*') {
            return Err("has a * that is not the last segment, as in /ws/*".to_owned());
        }
        if prefix && text.ends_with('/') {
            return Err("has //, which no admitted request has".to_owned());
        }
        let path = normalised(text)?;
        Ok(if prefix { PathPattern::Prefix(path.into()) } else { PathPattern::Exact(path.into()) })
    }

    fn judge<'p>(&self, path: &'p str) -> Verdict<'p> {
        match self {
            PathPattern::Exact(exact) if *path == **exact => Verdict::Matches(Rest::Exact),
            PathPattern::Exact(exact) => {
                let bare = |path: &'_ str| path.strip_suffix('/').map_or(path.len(), str::len);
                let (ours, theirs) = (&exact[..bare(exact)], &path[..bare(path)]);
                if ours.eq_ignore_ascii_case(theirs) { Verdict::Near } else { Verdict::Other }
            }
            PathPattern::Prefix(prefix) => match behind(path, prefix) {
                Some(rest) if path.starts_with(&**prefix) => Verdict::Matches(Rest::Behind(rest)),
                Some(_) => Verdict::Near,
                None => Verdict::Other,
            },
        }
    }
}

/// What follows `prefix` in `path`, in any letter case: nothing, or from a `/` on.
fn behind<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let (head, rest) = path.split_at_checked(prefix.len())?;
    let whole = rest.is_empty() || rest.starts_with('/');
    (whole && head.eq_ignore_ascii_case(prefix)).then_some(rest)
}

/// `text` in the form that requests are brought to: unreserved escapes decoded,
/// hex in upper case, everything beyond ASCII escaped.
fn normalised(text: &str) -> Result<String, String> {
    let mut path = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = bytes.next().and_then(hex);
                let low = bytes.next().and_then(hex);
                let (Some(high), Some(low)) = (high, low) else {
                    return Err("has a % that no two hexadecimal digits follow".to_owned());
                };
                push_escaped(&mut path, high << 4 | low)?;
            }
            b'?' | b'#' => return Err("has a query or fragment; write the path alone".to_owned()),
            b'\\' | b';' => {
                return Err(format!("has a {}, which no admitted request has", char::from(byte)));
            }
            byte if byte.is_ascii_control() || byte == b' ' => {
                return Err("has a space or control character; write it as %20".to_owned());
            }
            byte if byte.is_ascii() => path.push(char::from(byte)),
            byte => escape(&mut path, byte),
        }
    }
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment == "." || segment == ".." {
            return Err(format!("has a segment {segment}, which no admitted request has"));
        }
        if segment.is_empty() && segments.peek().is_some() {
            return Err("has //, which no admitted request has".to_owned());
        }
    }
    Ok(path)
}

/// One escaped byte, decoded if it means the same unescaped.
fn push_escaped(path: &mut String, byte: u8) -> Result<(), String> {
    match byte {
        b'/' | b'\\' => Err("has an escaped / or \\, which no admitted request has".to_owned()),
        byte if byte.is_ascii_control() => {
            Err("has an escaped control character, which no admitted request has".to_owned())
        }
        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
            path.push(char::from(byte));
            Ok(())
        }
        byte => {
            escape(path, byte);
            Ok(())
        }
    }
}

fn escape(path: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    path.push('%');
    path.push(char::from(DIGITS[usize::from(byte >> 4)]));
    path.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged<'p>(pattern: &str, path: &'p str) -> Verdict<'p> {
        PathPattern::parse(pattern).unwrap().judge(path)
    }

    #[test]
    fn prefixes_match_with_and_without_a_rest() {
        for (path, rest) in [("/ws", ""), ("/ws/", "/"), ("/ws/a/b", "/a/b")] {
            assert_eq!(judged("/ws/*", path), Verdict::Matches(Rest::Behind(rest)));
        }
        assert_eq!(judged("/ws/*", "/wsa"), Verdict::Other);
        assert_eq!(judged("/ws/*", "/w"), Verdict::Other);
        assert_eq!(judged("/*", "/"), Verdict::Matches(Rest::Behind("/")));
        assert_eq!(judged("/*", "*"), Verdict::Other);
    }

    #[test]
    fn patterns_take_the_form_of_requests() {
        assert_eq!(judged("/%77s/%c3%a4%2a", "/ws/%C3%A4%2A"), Verdict::Matches(Rest::Exact));
        assert_eq!(judged("/ä", "/%C3%A4"), Verdict::Matches(Rest::Exact));
        assert_eq!(judged("/", "/"), Verdict::Matches(Rest::Exact));
        assert_eq!(judged("/", "/a"), Verdict::Other);
    }

    #[test]
    fn a_cut_inside_a_character_is_no_match() {
        assert_eq!(judged("/ws/*", "/wä"), Verdict::Other);
    }

    #[test]
    fn patterns_that_nothing_could_match_are_refused() {
        for (path, expected) in [
            ("", "begin with /"),
            ("ws", "begin with /"),
            ("*", "begin with /"),
            ("/ws*", "a *"),
            ("/*/ws", "a *"),
            ("/a/*/*", "a *"),
            ("/a/../b", "segment .."),
            ("/a/%2e%2E/b", "segment .."),
            ("/./*", "segment ."),
            ("/a//b", "//"),
            ("//*", "//"),
            ("/a?b=c", "query"),
            ("/a#b", "query"),
            ("/a b", "space"),
            ("/a;b", "a ;"),
            ("/a\\b", "a \\"),
            ("/a%2Fb", "escaped /"),
            ("/a%00", "control"),
            ("/a%2", "hexadecimal"),
            ("/a%zz", "hexadecimal"),
        ] {
            let problems = RoutePattern::parse(None, &[path.to_owned()]).unwrap_err();
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].path, "path");
            assert!(problems[0].message.contains(expected), "{path}: {}", problems[0]);
        }
    }

    #[test]
    fn hosts_that_nothing_could_match_are_refused() {
        for host in [
            "",
            "*",
            "*.",
            "a.*.com",
            "a*.example.com",
            "*.*.com",
            "https://a",
            "a/b",
            "a:8080",
            "a.",
            "a..b",
            "münchen.example",
            "a b",
            "[::1",
            "[::1]:80",
            "*.127.0.0.1",
        ] {
            let problems = RoutePattern::parse(Some(host), &["/".to_owned()]).unwrap_err();
            assert_eq!(problems.len(), 1, "{host}");
            assert_eq!(problems[0].path, "host");
        }
        assert!(RoutePattern::parse(Some("Chat.Example.COM"), &["/".to_owned()]).is_ok());
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let paths = ["/ok".to_owned(), "nok".to_owned(), "/a//b".to_owned()];
        let problems = RoutePattern::parse(Some("a:1"), &paths).unwrap_err();
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["host", "path[1]", "path[2]"]);
        assert_eq!(RoutePattern::parse(None, &[]).unwrap_err()[0].path, "path");
    }
}
