//! The table of refusals: status, body and headers over HTTP, code and text
//! over WebSocket.

use std::io::{Read, Write};

use super::support::{
    Frame, Gate, Nobody, Request, SECRET, Token, Upstream, dial, policy, token, unix_now,
};

/// `/ws/*` refuses by close, `/http/*` by status, under otherwise equal policies.
fn both(upstream: &str, dead: &str) -> String {
    let policy = "origins: same, require: 'identity.claims.role == \"member\"', credentials: \
                  [{ header: authorization, verifier: app }, { cookie: session, verifier: app }]";
    format!(
        r#"
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  closing: {{ {policy} }}
  status: {{ {policy}, reject: http }}
routes:
  - {{ path: "/ws/dead/*", policy: closing, upstream: "{dead}" }}
  - {{ path: "/http/dead/*", policy: status, upstream: "{dead}" }}
  - {{ path: "/ws/*", policy: closing, upstream: "{upstream}" }}
  - {{ path: "/http/*", policy: status, upstream: "{upstream}" }}
  - {{ path: "/denied", policy: deny }}
"#
    )
}

fn member() -> String {
    Token::of("alice").claim("role", "member").sign()
}

struct Refusal {
    reason: &'static str,
    path: &'static str,
    dress: fn(Request) -> Request,
    status: u16,
    code: u16,
    text: &'static str,
    challenge: Option<&'static str>,
}

const INVALID: Option<&str> = Some("Bearer error=\"invalid_token\"");

const REFUSALS: &[Refusal] = &[
    Refusal {
        reason: "missing_credential",
        path: "missing",
        dress: |r| r,
        status: 401,
        code: 4001,
        text: "Unauthorized",
        challenge: Some("Bearer"),
    },
    Refusal {
        reason: "malformed_credential",
        path: "malformed",
        dress: |r| r.cookie(""),
        status: 401,
        code: 4001,
        text: "Unauthorized",
        challenge: INVALID,
    },
    Refusal {
        reason: "invalid_credential",
        path: "forged",
        dress: |r| r.cookie(&Token::of("alice").sign_with(b"another key of at least 32 bytes")),
        status: 401,
        code: 4001,
        text: "Unauthorized",
        challenge: INVALID,
    },
    Refusal {
        reason: "ambiguous_credential",
        path: "ambiguous",
        dress: |r| r.cookie(&member()).cookie(&token("bob")),
        status: 401,
        code: 4001,
        text: "Unauthorized",
        challenge: INVALID,
    },
    Refusal {
        reason: "not_yet_valid",
        path: "early",
        dress: |r| r.cookie(&Token::of("alice").claim("nbf", unix_now() + 600).sign()),
        status: 401,
        code: 4001,
        text: "Unauthorized",
        challenge: INVALID,
    },
    Refusal {
        reason: "expired",
        path: "expired",
        dress: |r| r.bearer(&Token::of("alice").expires_in(-600).sign()),
        status: 401,
        code: 4002,
        text: "Session expired",
        challenge: INVALID,
    },
    Refusal {
        reason: "forbidden",
        path: "forbidden",
        dress: |r| r.cookie(&Token::of("alice").claim("role", "guest").sign()),
        status: 403,
        code: 4003,
        text: "Forbidden",
        challenge: None,
    },
    Refusal {
        reason: "forbidden",
        path: "an-error-in-require",
        dress: |r| r.cookie(&token("alice")),
        status: 403,
        code: 4003,
        text: "Forbidden",
        challenge: None,
    },
    Refusal {
        reason: "upstream_unavailable",
        path: "dead/upstream",
        dress: |r| r.cookie(&member()),
        status: 502,
        code: 1013,
        text: "Bad gateway",
        challenge: None,
    },
    Refusal {
        reason: "upstream_unavailable",
        path: "wrong-accept",
        dress: |r| r.cookie(&member()),
        status: 502,
        code: 1013,
        text: "Bad gateway",
        challenge: None,
    },
    Refusal {
        reason: "upstream_unavailable",
        path: "no-accept",
        dress: |r| r.cookie(&member()),
        status: 502,
        code: 1013,
        text: "Bad gateway",
        challenge: None,
    },
    Refusal {
        reason: "upstream_unavailable",
        path: "unoffered-protocol",
        dress: |r| r.cookie(&member()),
        status: 502,
        code: 1013,
        text: "Bad gateway",
        challenge: None,
    },
    Refusal {
        reason: "upstream_unavailable",
        path: "unoffered-extension",
        dress: |r| r.cookie(&member()),
        status: 502,
        code: 1013,
        text: "Bad gateway",
        challenge: None,
    },
    Refusal {
        reason: "upstream_unavailable",
        path: "nameless-extension",
        dress: |r| r.cookie(&member()),
        status: 502,
        code: 1013,
        text: "Bad gateway",
        challenge: None,
    },
];

#[test]
fn every_refusal_has_its_close_code_and_text() {
    assert!(!REFUSALS.is_empty());
    let (upstream, nobody) = (Upstream::start(), Nobody::there());
    let gate = Gate::start(&both(&upstream.ws(), &nobody.ws()));
    for refusal in REFUSALS {
        let path = format!("/ws/{}", refusal.path);
        let closed = (refusal.dress)(Request::upgrade(&path)).closed(gate.address());
        assert_eq!(closed.says(), (refusal.code, refusal.text), "{path}");
        assert_eq!(closed.messages, [""; 0], "{path}");
        assert_eq!(gate.reason(&path), refusal.reason, "{path}");
        assert_eq!(gate.record(&path)["status"], 101, "{path}");
    }
}

#[test]
fn every_refusal_has_its_status_body_and_headers() {
    assert!(!REFUSALS.is_empty());
    let (upstream, nobody) = (Upstream::start(), Nobody::there());
    let gate = Gate::start(&both(&upstream.ws(), &nobody.ws()));
    for refusal in REFUSALS {
        let path = format!("/http/{}", refusal.path);
        let response = (refusal.dress)(Request::upgrade(&path)).send(gate.address());
        assert_eq!(response.status, refusal.status, "{path}");
        assert_eq!(response.error(), refusal.text, "{path}");
        assert_eq!(response.header("content-type"), Some("application/json"), "{path}");
        assert_eq!(response.header("connection"), Some("close"), "{path}");
        assert_eq!(response.header("www-authenticate"), refusal.challenge, "{path}");
        assert!(!response.head.contains(&path), "{path}: {}", response.head);
        assert!(!response.text().contains(&path), "{path}: {}", response.text());
        assert_eq!(gate.reason(&path), refusal.reason, "{path}");
        assert_eq!(gate.record(&path)["status"], refusal.status, "{path}");
    }
}

#[test]
fn a_refusal_that_a_plain_request_gets_is_http_whatever_reject_says() {
    let (upstream, nobody) = (Upstream::start(), Nobody::there());
    let gate = Gate::start(&both(&upstream.ws(), &nobody.ws()));
    let response = Request::get("/ws/page").send(gate.address());
    assert_eq!((response.status, response.error().as_str()), (401, "Unauthorized"));
    upstream.saw_nothing();
}

#[test]
fn a_denied_origin_and_a_denied_route_are_plain_http() {
    let (upstream, nobody) = (Upstream::start(), Nobody::there());
    let gate = Gate::start(&both(&upstream.ws(), &nobody.ws()));
    let origin = Request::upgrade("/ws/a").origin("https://evil.test").send(gate.address());
    assert_eq!(origin.status, 403);
    assert_eq!(origin.header("www-authenticate"), None);
    assert_eq!(gate.reason("/ws/a"), "origin_denied", "the origin is judged before the credential");
    let denied = Request::upgrade("/denied").cookie(&member()).send(gate.address());
    assert_eq!((denied.status, denied.error().as_str()), (403, "Forbidden"));
    assert_eq!(Request::get("/denied").send(gate.address()).status, 403);
    let nowhere = Request::upgrade("/nowhere").origin("https://evil.test").send(gate.address());
    assert_eq!(nowhere.status, 404, "the route is judged before the origin");
    upstream.saw_nothing();
}

#[test]
fn the_upstreams_own_refusal_passes_with_its_status_and_body() {
    let (upstream, nobody) = (Upstream::start(), Nobody::there());
    let gate = Gate::start(&both(&upstream.ws(), &nobody.ws()));
    for path in ["/ws/answer-403", "/http/answer-403", "/ws/answer-503", "/http/answer-302"] {
        let response = Request::upgrade(path).cookie(&member()).send(gate.address());
        assert_eq!(response.status.to_string(), path[path.len() - 3..], "{path}");
        assert_eq!(response.text(), "told", "{path}");
        assert_eq!(response.header("x-told"), Some("yes"), "{path}");
        assert_eq!(gate.reason(path), "upstream_refused", "{path}");
    }
    let connections: Vec<_> = upstream.seen().iter().map(|seen| seen.connection).collect();
    let mut distinct = connections.clone();
    distinct.dedup();
    assert_eq!(connections, distinct, "a connection that carried a failed upgrade was reused");
}

#[test]
fn an_upstream_that_does_not_answer_in_time_is_504() {
    let upstream = Upstream::start();
    let config =
        policy("reject: http, credentials: [{ cookie: session, verifier: app }]", &upstream.ws())
            + "limits: { upstream_connect_timeout: 300ms }\n";
    let gate = Gate::start(&config);
    let response = Request::upgrade("/ws/silent").cookie(&token("alice")).send(gate.address());
    assert_eq!((response.status, response.error().as_str()), (504, "Bad gateway"));
    assert_eq!(gate.reason("/ws/silent"), "upstream_unavailable");
}

#[test]
fn a_policy_may_choose_its_own_codes() {
    let upstream = Upstream::start();
    let config = policy(
        "codes: { unauthorized: 4401, expired: 4402, forbidden: 4403 }, require: 'false', \
         credentials: [{ cookie: session, verifier: app }]",
        &upstream.ws(),
    );
    let gate = Gate::start(&config);
    let expired = Token::of("alice").expires_in(-600).sign();
    let cases = [
        (Request::upgrade("/ws/a"), (4401, "Unauthorized")),
        (Request::upgrade("/ws/a").cookie(&expired), (4402, "Session expired")),
        (Request::upgrade("/ws/a").cookie(&token("alice")), (4403, "Forbidden")),
    ];
    for (request, says) in cases {
        assert_eq!(request.closed(gate.address()).says(), says);
    }
    gate.metric_becomes("sockgate_closes_total", &["initiator=\"sockgate\"", "code=\"4401\""], 1.0);
}

#[test]
fn the_reject_message_comes_before_the_close() {
    let upstream = Upstream::start();
    let cases = [
        (
            r#"'{"error": reason.text, "code": reason.code}'"#,
            r#"{"error":"Unauthorized","code":"missing_credential"}"#,
        ),
        (r#"'"no: " + reason.text'"#, "no: Unauthorized"),
        (r#"'[reason.text]'"#, r#"["Unauthorized"]"#),
    ];
    for (expression, message) in cases {
        let config = policy(
            &format!(
                "reject_message: {expression}, credentials: [{{ cookie: session, verifier: app }}]"
            ),
            &upstream.ws(),
        );
        let gate = Gate::start(&config);
        let closed = Request::upgrade("/ws/a").closed(gate.address());
        assert_eq!(closed.says(), (4001, "Unauthorized"));
        let [said] = closed.messages.as_slice() else { panic!("{:?}", closed.messages) };
        match serde_json::from_str::<serde_json::Value>(said) {
            Ok(mut said) if said.is_object() => {
                assert_eq!(said["error"], "Unauthorized");
                assert!(!said["code"].take().is_null());
            }
            Ok(said) => assert_eq!(said.to_string(), message),
            Err(_) => assert_eq!(said, message),
        }
    }
}

#[test]
fn a_refusal_by_close_answers_the_first_real_subprotocol_and_never_a_token() {
    let upstream = Upstream::start();
    let config = policy(
        "credentials: [{ subprotocol_pair: bearer, verifier: app }, \
         { subprotocol: \"token.\", verifier: app }]",
        &upstream.ws(),
    );
    let gate = Gate::start(&config);
    let cases = [
        ("chat.v1, chat.v2", Some("chat.v1")),
        ("bearer, garbage, chat.v2", Some("chat.v2")),
        ("bearer, garbage", Some("bearer")),
        ("token.garbage", None),
        ("token.garbage, chat.v3", Some("chat.v3")),
    ];
    for (offered, answered) in cases {
        let socket = Request::upgrade("/ws/a").protocols(offered).open(gate.address());
        assert_eq!(socket.head.header("sec-websocket-protocol"), answered, "{offered}");
        assert_eq!(socket.closed().code, 4001, "{offered}");
    }
}

#[test]
fn bytes_behind_a_refused_upgrade_are_dropped() {
    let (upstream, nobody) = (Upstream::start(), Nobody::there());
    let gate = Gate::start(&both(&upstream.ws(), &nobody.ws()));
    let second = Request::get("/http/smuggled").cookie(&member()).bytes();
    for request in [
        Request::upgrade("/http/refused"),
        Request::upgrade("/http/refused").cookie("garbage"),
        Request::upgrade("/nowhere"),
        Request::upgrade("/http/answer-403").cookie(&member()),
    ] {
        let mut stream = dial(gate.address());
        stream.write_all(&[request.bytes(), second.clone()].concat()).expect("sent");
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        let answers = String::from_utf8_lossy(&answers).into_owned();
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    }
    let smuggled = upstream.seen().iter().any(|seen| seen.target.contains("smuggled"));
    assert!(!smuggled, "a request behind a refused upgrade reached the upstream");
}

#[test]
fn frames_behind_an_upgrade_refused_by_close_reach_nobody() {
    let (upstream, nobody) = (Upstream::start(), Nobody::there());
    let gate = Gate::start(&both(&upstream.ws(), &nobody.ws()));
    let request = Request::upgrade("/ws/a").pipelined(&Frame::text("let me in"));
    assert_eq!(request.closed(gate.address()).says(), (4001, "Unauthorized"));
    upstream.saw_nothing();
}

#[test]
fn frames_in_the_segment_of_an_admitted_handshake_arrive() {
    let (upstream, nobody) = (Upstream::start(), Nobody::there());
    let gate = Gate::start(&both(&upstream.ws(), &nobody.ws()));
    let request = Request::upgrade("/ws/a").cookie(&member()).pipelined(&Frame::text("early"));
    assert_eq!(request.open(gate.address()).text(), "early");
}

#[test]
fn a_query_token_is_not_echoed_by_any_refusal() {
    let upstream = Upstream::start();
    let config = policy(
        "reject: http, origins: same, credentials: [{ query: token, verifier: app }]",
        &upstream.ws(),
    );
    let gate = Gate::start(&config);
    let token = Token::of("alice").expires_in(-600).sign();
    for request in [
        Request::upgrade(&format!("/ws/a?token={token}")),
        Request::upgrade(&format!("/nowhere?token={token}")),
        Request::upgrade(&format!("/ws//a?token={token}")),
        Request::upgrade(&format!("/ws/a?token={token}")).origin("null"),
        Request::new("TRACE", &format!("/ws/a?token={token}")),
    ] {
        let response = request.send(gate.address());
        assert!(response.status >= 400);
        assert!(!response.head.contains(&token) && !response.text().contains(&token));
    }
}
