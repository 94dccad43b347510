//! Where a credential may stand, and what is left of it for the upstream.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::support::{
    Gate, Request, Seen, Token, Upstream, members, percent_encode_all, policy, token,
};

/// A source: its entry in `credentials`, a request that uses it, and what the
/// upstream must see of the request.
struct Source {
    entry: &'static str,
    request: fn(&str) -> Request,
    target: &'static str,
    header: &'static str,
    left: Option<&'static str>,
}

fn at(target: &str) -> Request {
    Request::upgrade(target)
}

const SOURCES: &[Source] = &[
    Source {
        entry: "{ cookie: session, verifier: app }",
        request: |t| {
            at("/ws/a").header("Cookie", &format!("a=1; session={t}; b=\"2\"; sessions=3"))
        },
        target: "/ws/a",
        header: "cookie",
        left: Some("a=1; b=\"2\"; sessions=3"),
    },
    Source {
        entry: "{ cookie: session, verifier: app }",
        request: |t| at("/ws/a").cookie(t),
        target: "/ws/a",
        header: "cookie",
        left: None,
    },
    Source {
        entry: "{ cookie: session, verifier: app }",
        request: |t| at("/ws/a").header("Cookie", &format!("session=\"{t}\"")),
        target: "/ws/a",
        header: "cookie",
        left: None,
    },
    Source {
        entry: "{ query: token, verifier: app }",
        request: |t| at(&format!("/ws/a?a=1&token={t}&b=%20x+y&&c")),
        target: "/ws/a?a=1&b=%20x+y&&c",
        header: "cookie",
        left: None,
    },
    Source {
        entry: "{ query: token, verifier: app }",
        request: |t| at(&format!("/ws/a?tokens=1&%74oke%6E={}", percent_encode_all(t))),
        target: "/ws/a?tokens=1",
        header: "cookie",
        left: None,
    },
    Source {
        entry: "{ query: token, verifier: app }",
        request: |t| {
            at(&format!("/ws/a?token={t}"))
                .header("Referer", &format!("http://gate.test/page?x=1&token={t}&y=2"))
        },
        target: "/ws/a",
        header: "referer",
        left: Some("http://gate.test/page?x=1&y=2"),
    },
    Source {
        entry: "{ header: authorization, verifier: app }",
        request: |t| at("/ws/a?token=x").bearer(t),
        target: "/ws/a?token=x",
        header: "authorization",
        left: None,
    },
    Source {
        entry: "{ header: authorization, scheme: Bearer, verifier: app }",
        request: |t| at("/ws/a").header("Authorization", &format!("bEARER {t}")),
        target: "/ws/a",
        header: "authorization",
        left: None,
    },
    Source {
        entry: "{ header: x-api-token, verifier: app }",
        request: |t| at("/ws/a").header("X-Api-Token", t).header("Authorization", "Bearer other"),
        target: "/ws/a",
        header: "authorization",
        left: Some("Bearer other"),
    },
    Source {
        entry: "{ header: x-api-token, verifier: app }",
        request: |t| at("/ws/a").header("X-Api-Token", t),
        target: "/ws/a",
        header: "x-api-token",
        left: None,
    },
    Source {
        entry: "{ subprotocol: \"base64url.bearer.authorization.k8s.io.\", encoding: base64url, \
                verifier: app }",
        request: |t| {
            let encoded = URL_SAFE_NO_PAD.encode(t);
            at("/ws/a").protocols(&format!(
                "chat.v1, base64url.bearer.authorization.k8s.io.{encoded}, chat.v2"
            ))
        },
        target: "/ws/a",
        header: "sec-websocket-protocol",
        left: Some("chat.v1, chat.v2"),
    },
    Source {
        entry: "{ subprotocol_pair: bearer, verifier: app }",
        request: |t| at("/ws/a").protocols(&format!("chat.v1, bearer, {t}")),
        target: "/ws/a",
        header: "sec-websocket-protocol",
        left: Some("chat.v1"),
    },
    Source {
        entry: "{ subprotocol_pair: bearer, verifier: app }",
        request: |t| at("/ws/a").protocols(&format!("bearer, {t}")),
        target: "/ws/a",
        header: "sec-websocket-protocol",
        left: None,
    },
];

fn list(seen: &Seen, name: &str) -> Option<String> {
    let values = seen.headers(name);
    let entries: Vec<_> = values.iter().flat_map(|value| value.split(',')).map(str::trim).collect();
    (!entries.is_empty()).then(|| entries.join(", "))
}

#[test]
fn every_source_admits_and_the_upstream_sees_all_but_the_credential() {
    assert!(!SOURCES.is_empty());
    for source in SOURCES {
        let upstream = Upstream::start();
        let config =
            policy(&format!("origins: any, credentials: [{}]", source.entry), &upstream.ws());
        let gate = Gate::start(&config);
        let token = token("alice");
        (source.request)(&token).open(gate.address()).echoes("hello");
        let seen = upstream.last();
        let context = format!("{}\n{}", source.entry, seen.head);
        assert!(!seen.head.contains(&token), "{context}");
        assert_eq!(seen.target, source.target, "{context}");
        assert_eq!(seen.header("x-forwarded-user"), Some("alice"), "{context}");
        if source.header == "sec-websocket-protocol" {
            assert_eq!(list(&seen, source.header).as_deref(), source.left, "{context}");
        } else {
            assert_eq!(seen.header(source.header), source.left, "{context}");
        }
    }
}

#[test]
fn forward_true_passes_the_credential_on() {
    assert!(!SOURCES.is_empty());
    for source in SOURCES {
        let upstream = Upstream::start();
        let entry = source.entry.replace("verifier: app", "verifier: app, forward: true");
        let config = policy(&format!("origins: any, credentials: [{entry}]"), &upstream.ws());
        let gate = Gate::start(&config);
        let token = token("alice");
        (source.request)(&token).open(gate.address()).echoes("hello");
        let seen = upstream.last();
        let forms =
            [token.clone(), percent_encode_all(&token), URL_SAFE_NO_PAD.encode(token.as_bytes())];
        assert!(forms.iter().any(|form| seen.head.contains(form)), "{entry}\n{}", seen.head);
    }
}

#[test]
fn the_marker_of_a_pair_offered_alone_is_echoed_and_the_token_never() {
    let upstream = Upstream::start();
    let config =
        policy("credentials: [{ subprotocol_pair: bearer, verifier: app }]", &upstream.ws());
    let gate = Gate::start(&config);
    let alone = Request::upgrade("/ws/a").protocols(&format!("bearer, {}", token("alice")));
    assert_eq!(alone.open(gate.address()).head.header("sec-websocket-protocol"), Some("bearer"));
    let beside = Request::upgrade("/ws/a").protocols(&format!("bearer, {}, chat", token("alice")));
    assert_eq!(beside.open(gate.address()).head.header("sec-websocket-protocol"), Some("chat"));
}

#[test]
fn a_subprotocol_token_offered_alone_is_never_the_answer() {
    let upstream = Upstream::start();
    let config =
        policy("credentials: [{ subprotocol: \"token.\", verifier: app }]", &upstream.ws());
    let gate = Gate::start(&config);
    let request = Request::upgrade("/ws/a").protocols(&format!("token.{}", token("alice")));
    let mut socket = request.open(gate.address());
    assert_eq!(socket.head.header("sec-websocket-protocol"), None);
    socket.echoes("hello");
    assert_eq!(upstream.last().header("sec-websocket-protocol"), None);
}

#[test]
fn the_first_credential_present_decides_valid_or_not() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let good = token("alice");
    let bad = Token::of("alice").sign_with(&[7; 32]);
    let refused = Request::upgrade(&format!("/ws/cookie-first?token={good}")).cookie(&bad);
    assert_eq!(refused.closed(gate.address()).says(), (4001, "Unauthorized"));
    assert_eq!(gate.reason("/ws/cookie-first"), "invalid_credential");
    upstream.saw_nothing();

    let admitted = Request::upgrade("/ws/a?token=garbage").bearer(&good).cookie(&token("bob"));
    admitted.open(gate.address()).echoes("hello");
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("alice"));
}

#[test]
fn every_named_credential_is_cut_not_only_the_deciding_one() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let (alice, bob, carol) = (token("alice"), token("bob"), token("carol"));
    Request::upgrade(&format!("/ws/a?token={carol}&keep=1"))
        .bearer(&alice)
        .header("Cookie", &format!("keep=2; session={bob}"))
        .open(gate.address())
        .echoes("hello");
    let seen = upstream.last();
    assert_eq!(seen.target, "/ws/a?keep=1");
    assert_eq!(seen.header("cookie"), Some("keep=2"));
    assert_eq!(seen.header("authorization"), None);
    for token in [alice, bob, carol] {
        assert!(!seen.head.contains(&token), "{}", seen.head);
    }
}

#[test]
fn another_scheme_of_authorization_is_absent_and_passes_untouched() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    Request::upgrade("/ws/a")
        .header("Authorization", "Digest username=\"x\"")
        .cookie(&token("alice"))
        .open(gate.address())
        .echoes("hello");
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("alice"));
    assert_eq!(seen.header("authorization"), Some("Digest username=\"x\""));
}

#[test]
fn a_credential_that_is_empty_twice_or_unreadable_is_refused_with_its_reason() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let (one, two) = (token("alice"), token("bob"));
    let cases: Vec<(&str, Request)> = vec![
        ("missing_credential", at("/ws/case-0")),
        ("missing_credential", at("/ws/case-1").header("Cookie", "sessions=1; asession=2")),
        ("malformed_credential", at("/ws/case-2").cookie("")),
        ("malformed_credential", at("/ws/case-3?token=")),
        ("malformed_credential", at("/ws/case-4?a=1&token")),
        ("malformed_credential", at("/ws/case-5").header("Authorization", "Bearer ")),
        ("malformed_credential", at("/ws/case-6").header("Authorization", "Bearer")),
        ("ambiguous_credential", at(&format!("/ws/case-7?token={one}&token={two}"))),
        ("ambiguous_credential", at(&format!("/ws/case-8?token={one}&%74oken={two}"))),
        (
            "ambiguous_credential",
            at("/ws/case-9").header("Cookie", &format!("session={one}; session={two}")),
        ),
        ("ambiguous_credential", at("/ws/case-10").cookie(&one).cookie(&two)),
        ("ambiguous_credential", at("/ws/case-11").bearer(&one).bearer(&two)),
        ("invalid_credential", at("/ws/case-12").bearer(&Token::of("x").sign_with(&[7; 32]))),
    ];
    assert!(!cases.is_empty());
    for (number, (reason, request)) in cases.into_iter().enumerate() {
        let closed = request.closed(gate.address());
        assert_eq!(closed.says(), (4001, "Unauthorized"), "case {number}");
        assert_eq!(gate.reason(&format!("/ws/case-{number}")), reason, "case {number}");
    }
    upstream.saw_nothing();
}

#[test]
fn the_same_value_twice_is_not_ambiguous_and_both_are_cut() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let token = token("alice");
    at(&format!("/ws/a?token={token}&token={token}")).open(gate.address()).echoes("hello");
    assert_eq!(upstream.last().target, "/ws/a");
    at("/ws/a")
        .header("Cookie", &format!("session={token}; session={token}"))
        .open(gate.address())
        .echoes("hello");
    assert_eq!(upstream.last().header("cookie"), None);
}

#[test]
fn a_credential_over_its_bound_is_refused_before_it_is_verified() {
    let upstream = Upstream::start();
    let config = format!("{}\nlimits: {{ credential_bytes: 512 }}\n", members(&upstream.ws()));
    let gate = Gate::start(&config);
    at("/ws/a").cookie(&token("alice")).open(gate.address()).echoes("hello");
    let long = token(&"a".repeat(250)) + &"a".repeat(512);
    assert_eq!(at("/ws/long").cookie(&long).closed(gate.address()).code, 4001);
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn basic_carries_an_api_key_under_no_name_or_the_subjects() {
    let upstream = Upstream::start();
    let directory = tempfile::TempDir::new().expect("a directory");
    let key = super::support::canary("canary-api-key-for-basic-0001");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(
        directory.path().join("keys.yaml"),
        format!("- {{ sha256: {hex}, subject: acme }}\n"),
    )
    .expect("written");
    let config = format!(
        "verifiers:\n  keys: {{ api_keys: {{ file: keys.yaml }} }}\n\
         policies:\n  members: {{ origins: any, credentials: [\
         {{ header: authorization, scheme: Basic, verifier: keys }}] }}\n\
         routes:\n  - {{ path: \"/ws/*\", policy: members, upstream: \"{}\" }}\n",
        upstream.ws()
    );
    let gate = Gate::start_in(directory, &config, &[]);
    let basic = |user: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{key}")));
    for user in ["", "acme"] {
        at("/ws/a").header("Authorization", &basic(user)).open(gate.address()).echoes("hello");
        let seen = upstream.last();
        assert_eq!(seen.header("x-forwarded-user"), Some("acme"));
        assert_eq!(seen.header("authorization"), None);
    }
    let other = at("/ws/other").header("Authorization", &basic("mallory"));
    assert_eq!(other.closed(gate.address()).says(), (4001, "Unauthorized"));
    for garbage in ["Basic", "Basic ", "Basic !!!", "Basic bm9jb2xvbg=="] {
        let request = at("/ws/garbage").header("Authorization", garbage);
        assert_eq!(request.closed(gate.address()).code, 4001, "{garbage}");
    }
    assert_eq!(upstream.seen().len(), 2);
}
