//! Which plan applies to a request: host and path patterns, the first match
//! wins. Knows nothing of authentication.
//!
//! Hosts and paths come normalised, once, by the handshake (RFC 3986 §6.2.2);
//! patterns are brought to the same form here, and the two are compared byte by
//! byte.

mod pattern;

use self::pattern::Verdict;
pub use self::pattern::{Rest, RoutePattern, upstream_path};

/// Routes in the order of the file.
pub struct Router<T> {
    routes: Vec<(RoutePattern, T)>,
}

/// What a request's host and path lead to.
#[derive(Debug, PartialEq, Eq)]
pub enum Match<'r, 'p, T> {
    /// A route, and what of the path lies behind its prefix.
    Found(&'r T, Rest<'p>),
    /// None, or one that the path misses by letter case or a trailing slash
    /// only: many servers would take the two for one, so the path is not for a
    /// later route, which may guard less.
    None,
}

impl<T> Router<T> {
    /// A router over `routes`, in order.
    pub fn new(routes: Vec<(RoutePattern, T)>) -> Router<T> {
        Router { routes }
    }

    /// The route of `host` (lower case, no port) and `path` (normalised, no
    /// query).
    pub fn find<'p>(&self, host: &str, path: &'p str) -> Match<'_, 'p, T> {
        for (pattern, target) in &self.routes {
            if !pattern.matches_host(host) {
                continue;
            }
            match pattern.judge(path) {
                Verdict::Matches(rest) => return Match::Found(target, rest),
                Verdict::Near => return Match::None,
                Verdict::Other => {}
            }
        }
        Match::None
    }

    /// All targets, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.routes.iter().map(|(_, target)| target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(routes: &[(Option<&str>, &[&str])]) -> Router<usize> {
        let routes = routes.iter().enumerate().map(|(index, (host, paths))| {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            (RoutePattern::parse(*host, &paths).unwrap(), index)
        });
        Router::new(routes.collect())
    }

    fn found(router: &Router<usize>, host: &str, path: &str) -> Option<usize> {
        match router.find(host, path) {
            Match::Found(index, _) => Some(*index),
            Match::None => None,
        }
    }

    #[test]
    fn the_first_match_wins() {
        let router = router(&[(None, &["/ws"]), (None, &["/ws/*", "/chat"]), (None, &["/*"])]);
        for (path, expected) in
            [("/ws", 0), ("/ws/a", 1), ("/chat", 1), ("/other", 2), ("/", 2), ("/wsx", 2)]
        {
            assert_eq!(found(&router, "a", path), Some(expected), "{path}");
        }
    }

    #[test]
    fn near_misses_reach_no_later_route() {
        let router = router(&[
            (Some("a"), &["/ws"]),
            (Some("a"), &["/Admin/*"]),
            (Some("a"), &["/dir/"]),
            (None, &["/*"]),
        ]);
        for path in
            ["/WS", "/Ws", "/ws/", "/WS/", "/admin", "/ADMIN/", "/admin/x", "/dir", "/DIR", "/DIR/"]
        {
            assert_eq!(found(&router, "a", path), None, "{path}");
            assert_eq!(found(&router, "b", path), Some(3), "{path}");
        }
        for (path, expected) in [
            ("/ws", 0),
            ("/Admin", 1),
            ("/Admin/", 1),
            ("/Admin/X", 1),
            ("/dir/", 2),
            ("/ws/a", 3),
            ("/administrator", 3),
            ("/dir/a", 3),
        ] {
            assert_eq!(found(&router, "a", path), Some(expected), "{path}");
        }
    }

    #[test]
    fn one_route_may_list_both_spellings() {
        let router = router(&[(None, &["/ws", "/ws/", "/WS"]), (None, &["/*"])]);
        for path in ["/ws", "/ws/", "/WS"] {
            assert_eq!(found(&router, "a", path), Some(0), "{path}");
        }
        assert_eq!(found(&router, "a", "/Ws"), None);
    }

    #[test]
    fn hosts_are_exact_or_one_label_more() {
        let router = router(&[
            (Some("chat.example.com"), &["/*"]),
            (Some("*.example.com"), &["/*"]),
            (Some("127.0.0.1"), &["/*"]),
            (Some("[::1]"), &["/*"]),
        ]);
        for (host, expected) in [
            ("chat.example.com", Some(0)),
            ("a.example.com", Some(1)),
            ("a.b.example.com", None),
            ("example.com", None),
            (".example.com", None),
            ("aexample.com", None),
            ("127.0.0.1", Some(2)),
            ("[::1]", Some(3)),
            ("::1", Some(3)),
            ("", None),
        ] {
            assert_eq!(found(&router, host, "/"), expected, "{host}");
        }
    }

    #[test]
    fn nothing_matches_in_an_empty_router() {
        assert_eq!(found(&router(&[]), "a", "/"), None);
    }

    #[test]
    fn upstream_paths_join_at_one_slash() {
        for (pattern, path, base, expected) in [
            ("/ws/*", "/ws/a", Some("/inner/"), "/inner/a"),
            ("/ws/*", "/ws/a", Some("/inner"), "/inner/a"),
            ("/ws/*", "/ws/a/b/", Some("/"), "/a/b/"),
            ("/ws/*", "/ws", Some("/inner"), "/inner"),
            ("/ws/*", "/ws", Some("/inner/"), "/inner/"),
            ("/ws/*", "/ws/", Some("/inner"), "/inner/"),
            ("/ws/*", "/ws/", Some("/inner/"), "/inner/"),
            ("/ws/*", "/ws", Some("/"), "/"),
            ("/ws/*", "/ws/a", None, "/ws/a"),
            ("/ws/*", "/ws/a", Some(""), "/ws/a"),
            ("/ws", "/ws", Some("/inner"), "/inner"),
            ("/ws", "/ws", Some("/"), "/"),
            ("/ws", "/ws", None, "/ws"),
            ("/*", "/a", Some("/inner"), "/inner/a"),
            ("/*", "/", Some("/inner"), "/inner/"),
            ("/*", "/%C3%A4", None, "/%C3%A4"),
        ] {
            let router = router(&[(None, &[pattern])]);
            let Match::Found(_, rest) = router.find("a", path) else { panic!("{path}") };
            assert_eq!(upstream_path(rest, path, base), expected, "{pattern} {path} {base:?}");
        }
    }
}
