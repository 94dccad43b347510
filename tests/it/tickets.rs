//! One-time tickets: fetched over HTTP, shown by an upgrade, once, on whatever
//! replica. Redis is a real one.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use serde_json::Value;

use super::support::{
    Gate, Recipe, Redis, Request, Response, SECRET, Token, Upstream, canary, eventually, run,
    token, unix_now,
};

const PAGE: &str = "https://app.example.com";

/// Tickets in `store` (the inside of a flow mapping) at `/ticket`, accepted at
/// `/ws/*`; every kind of credential beside them.
fn config(store: &str, upstream: &Upstream) -> String {
    format!(
        r#"
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256], leeway: 0s }} }}
  tickets: {{ ticket: {{ {store} }} }}
policies:
  members:
    origins: [{PAGE}]
    credentials:
      - {{ query: ticket, verifier: tickets }}
      - {{ query: token, verifier: app }}
      - {{ cookie: session, verifier: [tickets, app] }}
      - {{ header: authorization, verifier: [tickets, app] }}
      - {{ subprotocol_pair: bearer, verifier: app }}
    require: '!has(identity.claims.role) || identity.claims.role != "suspended"'
  guests:
    anonymous: true
    credentials: [{{ header: authorization, verifier: app }}]
  admins:
    origins: any
    credentials:
      - {{ query: ticket, verifier: tickets }}
      - {{ cookie: session, verifier: app }}
    require: identity.claims.role == "admin"
identity:
  headers:
    X-Forwarded-User: identity.subject
    X-Verifier: identity.verifier
    X-Method: identity.method
    X-Session: identity.session
    X-Issuer: identity.issuer
    X-Name: identity.claims.name
routes:
  - {{ name: ticket, path: /ticket, policy: members, ticket: tickets }}
  - {{ path: /guest-ticket, policy: guests, ticket: tickets }}
  - {{ path: /admin-ticket, policy: admins, ticket: tickets }}
  - {{ path: /limited-ticket, policy: members, ticket: tickets, limits: {{ handshakes_per_ip: 2 }} }}
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{ws}" }}
  - {{ name: admins, path: "/admins/*", policy: admins, upstream: "{ws}" }}
"#,
        ws = upstream.ws(),
    )
}

fn fetch() -> Request {
    Request::new("POST", "/ticket").header("Content-Length", "0")
}

/// The ticket in an answer, which no gate may ever print.
#[track_caller]
fn ticket(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ticket = answer.json()["ticket"].as_str().expect("a ticket").to_owned();
    assert!(ticket.starts_with("sgt_") && ticket.len() == 26, "{ticket}");
    canary(&ticket)
}

#[track_caller]
fn fetched(gate: &Gate, token: &str) -> String {
    ticket(&fetch().bearer(token).send(gate.address()))
}

fn show(ticket: &str) -> Request {
    Request::upgrade(&format!("/ws/room?ticket={ticket}&a=1")).origin(PAGE)
}

/// Whether a ticket still opens a socket; it does so once.
#[track_caller]
fn opens(gate: &Gate, ticket: &str) -> bool {
    let mut socket = show(ticket).open(gate.address());
    socket.send("hello");
    socket.read_frame().expect("a frame").expect("not the end").payload == b"hello"
}

#[test]
fn a_ticket_opens_one_socket_as_whoever_fetched_it() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    let alice = Token::of("alice").claim("name", "Alice").claim("sid", "s-1").sign();
    let answer = fetch().bearer(&alice).send(gate.address());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json()["expires_in"], 30);
    assert_eq!(answer.json().as_object().expect("an object").len(), 2);
    let ticket = ticket(&answer);
    upstream.saw_nothing();

    show(&ticket).open(gate.address()).echoes("hello");
    let seen = upstream.last();
    let expected = [("x-forwarded-user", "alice"), ("x-verifier", "app"), ("x-method", "jwt")];
    for (name, value) in expected.into_iter().chain([("x-session", "s-1"), ("x-name", "Alice")]) {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(seen.header("x-issuer"), None);
    assert_eq!(seen.target, "/ws/room?a=1");

    let again = Request::upgrade(&format!("/ws/again?ticket={ticket}"));
    assert_eq!(again.closed(gate.address()).says(), (4001, "Unauthorized"));
    assert_eq!(gate.reason("/ws/again"), "invalid_credential");
    let line = gate.record("/ws/room");
    assert_eq!(line["verifier"], "tickets");
    assert_eq!(line["subject"], "alice");
    assert!(line["url"].as_str().expect("a URL").contains("ticket=REDACTED"), "{line}");
    let posted = gate.record("/ticket");
    assert_eq!((&posted["verifier"], &posted["status"]), (&"app".into(), &200.into()));
}

#[test]
fn only_cookies_and_headers_buy_a_ticket() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    let alice = token("alice");
    ticket(&fetch().cookie(&alice).send(gate.address()));
    let other = fetched(&gate, &alice);
    let to = |target: &str| Request::new("POST", target).header("Content-Length", "0");
    let expired = Token::of("alice").expires_in(-60).sign();
    let suspended = Token::of("alice").claim("role", "suspended").sign();
    let refused = [
        (fetch(), 401, "Unauthorized"),
        (to(&format!("/ticket?token={alice}")), 401, "Unauthorized"),
        (to(&format!("/ticket?ticket={other}")), 401, "Unauthorized"),
        (fetch().protocols(&format!("bearer, {alice}")), 401, "Unauthorized"),
        (fetch().bearer(&other), 401, "Unauthorized"),
        (fetch().cookie(&other), 401, "Unauthorized"),
        (fetch().bearer("nonsense"), 401, "Unauthorized"),
        (fetch().bearer(&expired), 401, "Session expired"),
        (fetch().bearer(&suspended), 403, "Forbidden"),
        (to("/guest-ticket"), 401, "Unauthorized"),
    ];
    for (index, (request, status, error)) in refused.into_iter().enumerate() {
        let answer = request.send(gate.address());
        assert_eq!((answer.status, answer.error().as_str()), (status, error), "{index}");
        assert!(!answer.text().contains("sgt_"));
    }
    // Nothing of that has used the other ticket up.
    assert!(opens(&gate, &other));
}

#[test]
fn a_ticket_is_for_upgrades_and_stays_open_when_shown_otherwise() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    let ticket = fetched(&gate, &token("alice"));
    let plain = Request::get(&format!("/ws/plain?ticket={ticket}")).send(gate.address());
    assert_eq!((plain.status, plain.error().as_str()), (401, "Unauthorized"));
    assert_eq!(gate.reason("/ws/plain"), "invalid_credential");
    let foreign = Request::upgrade(&format!("/ws/foreign?ticket={ticket}"))
        .origin("https://evil.example.com");
    assert_eq!(foreign.send(gate.address()).status, 403);
    upstream.saw_nothing();
    assert!(opens(&gate, &ticket));
}

#[test]
fn other_methods_are_not_allowed() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "PROPFIND"] {
        let answer = Request::new(method, "/ticket").bearer(&token("alice")).send(gate.address());
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), Some("POST, OPTIONS"), "{method}");
    }
    let upgrade = Request::upgrade("/ticket").bearer(&token("alice")).send(gate.address());
    assert_eq!((upgrade.status, upgrade.header("allow")), (405, Some("POST, OPTIONS")));
    assert_eq!(Request::new("POST", "/ticket/").send(gate.address()).status, 404);
    let options = Request::new("OPTIONS", "/ticket").send(gate.address());
    assert_eq!((options.status, options.header("allow")), (204, Some("POST, OPTIONS")));
    upstream.saw_nothing();
}

#[test]
fn pages_of_allowed_origins_may_read_every_answer() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    let preflight = |target: &str, origin: &str| {
        Request::new("OPTIONS", target)
            .origin(origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization")
            .send(gate.address())
    };
    let answer = preflight("/ticket", PAGE);
    assert_eq!(answer.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", PAGE),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "authorization, content-type"),
        ("access-control-max-age", "600"),
        ("vary", "origin"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    for request in [fetch().bearer(&token("alice")), fetch(), fetch().bearer("nonsense")] {
        let answer = request.origin(PAGE).send(gate.address());
        assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    let no_page = fetch().bearer(&token("alice")).send(gate.address());
    assert_eq!(no_page.header("access-control-allow-origin"), None);
    assert_eq!(no_page.header("vary"), Some("origin"));
    // Any page, but not with the cookies of who visits it.
    let any = preflight("/admin-ticket", "https://evil.example.com");
    assert_eq!(any.header("access-control-allow-origin"), Some("https://evil.example.com"));
    assert_eq!(any.header("access-control-allow-credentials"), None);
}

#[test]
fn foreign_pages_get_neither_a_ticket_nor_cors() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    for origin in [
        "https://evil.example.com",
        "null",
        "http://app.example.com",
        "https://app.example.com.evil.com",
    ] {
        for request in [
            fetch().cookie(&token("alice")),
            Request::new("OPTIONS", "/ticket").header("Access-Control-Request-Method", "POST"),
        ] {
            let answer = request.origin(origin).send(gate.address());
            assert_eq!(answer.status, 403, "{origin}");
            assert!(
                !answer.head.to_ascii_lowercase().contains("access-control"),
                "{}",
                answer.head
            );
        }
    }
    let twice = fetch().cookie(&token("alice")).origin(PAGE).origin("https://evil.example.com");
    assert_eq!(twice.send(gate.address()).status, 403);
}

#[test]
fn a_body_is_ignored_and_bounded() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    let alice = token("alice");
    let small = fetch().bearer(&alice).body(r#"{"ttl": 3600, "subject": "mallory"}"#);
    ticket(&small.send(gate.address()));
    let large = fetch().bearer(&alice).body(vec![b'x'; 64 << 10]).send(gate.address());
    ticket(&large);
    assert_eq!(large.header("connection"), Some("close"));
    // A body that is announced and does not come holds nobody up for long.
    let began = std::time::Instant::now();
    let slow = fetch().bearer(&alice).replace("Content-Length", "10").send(gate.address());
    ticket(&slow);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn fetching_counts_among_the_handshakes_of_an_address() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    let post = || {
        let request = Request::new("POST", "/limited-ticket").header("Content-Length", "0");
        request.bearer(&token("alice")).send(gate.address()).status
    };
    let mut statuses = [post(), post(), post(), post(), post()].to_vec();
    statuses.sort_unstable();
    assert_eq!((statuses[0], statuses[4]), (200, 429), "{statuses:?}");
}

#[test]
fn the_socket_ends_with_the_login_and_require_is_asked_again() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    let until = unix_now() + 4;
    let short = Token::of("alice").expires_in(4).sign();
    let answer = fetch().bearer(&short).send(gate.address());
    let left = answer.json()["expires_in"].as_i64().expect("seconds");
    assert!((1..=4).contains(&left), "{left}");
    let late = ticket(&fetch().bearer(&short).send(gate.address()));
    let mut socket = show(&ticket(&answer)).open(gate.address());
    socket.echoes("hello");
    assert_eq!(socket.closed().says(), (4002, "Session expired"));
    assert!(unix_now() >= until);
    // Whoever is late is told the same: a fresh login helps.
    assert_eq!(show(&late).closed(gate.address()).says(), (4002, "Session expired"));
    // `members` lets her fetch it, `admins` does not let her in; and it is used up.
    let ticket = fetched(&gate, &Token::of("alice").claim("role", "member").sign());
    let forbidden = Request::upgrade(&format!("/admins/a?ticket={ticket}")).closed(gate.address());
    assert_eq!(forbidden.says(), (4003, "Forbidden"));
    assert_eq!(show(&ticket).closed(gate.address()).says(), (4001, "Unauthorized"));
}

#[test]
fn a_ticket_in_memory_outlives_a_reload_and_not_a_restart() {
    let upstream = Upstream::start();
    let text = config("ttl: 60s", &upstream);
    let gate = Gate::start(&text);
    let [first, second] = [fetched(&gate, &token("alice")), fetched(&gate, &token("alice"))];
    gate.rewrite(&text.replace("handshakes_per_ip: 2", "handshakes_per_ip: 3"));
    gate.line("of the reload", |line| line["message"] == "configuration reloaded");
    assert!(opens(&gate, &first));
    let restarted = Gate::start(&text);
    assert_eq!(show(&second).closed(restarted.address()).says(), (4001, "Unauthorized"));
}

#[test]
fn explain_redeems_and_issues_nothing() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let gate = Gate::start(&config(&format!("store: \"{}\"", redis.url()), &upstream));
    let ticket = fetched(&gate, &token("alice"));
    let keys = redis.keys();
    let path = gate.config().to_str().expect("UTF-8").to_owned();
    let explain =
        |arguments: &[&str]| run(&[&["explain", "--config", &path], arguments].concat(), &[]);
    let url = format!("http://gate.test/ws/a?ticket={ticket}");
    let upgrade = [
        "-H",
        "Connection: Upgrade",
        "-H",
        "Upgrade: websocket",
        "-H",
        "Sec-WebSocket-Version: 13",
        "-H",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let told = explain(&[&[url.as_str()], upgrade.as_slice()].concat());
    assert_eq!(told.code, 2, "{told:?}");
    assert!(told.stdout.contains("unknown: whose ticket it is"), "{told:?}");
    assert!(!told.stdout.contains(&ticket), "{told:?}");
    let bearer = format!("Authorization: Bearer {}", token("alice"));
    let told = explain(&["http://gate.test/ticket", "-X", "POST", "-H", &bearer]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.contains("a ticket of tickets (none is issued)"), "{told:?}");
    assert_eq!(explain(&["http://gate.test/ticket", "-H", &bearer]).code, 1);
    assert_eq!(redis.keys(), keys);
    assert!(opens(&gate, &ticket));
}

#[test]
fn a_page_in_chromium_fetches_a_ticket_across_origins_and_connects() {
    let upstream = Upstream::start();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let page = free.local_addr().expect("bound").port();
    drop(free);
    let recipe = Recipe::read("tickets.md");
    let origin = format!("http://localhost:{page}");
    let placed = recipe.placed(
        recipe.configs()[0],
        &[
            ("ws://127.0.0.1:3000", &upstream.ws()),
            ("redis://127.0.0.1:6379/0", "memory"),
            (PAGE, &origin),
        ],
    );
    let gate = Gate::start_with(&placed, &[("JWT_SECRET", SECRET)]);
    let case = serde_json::json!({
        "page": page,
        "gate": format!("http://localhost:{}", gate.address().port()),
        "token": Token::of("alice").claim("role", "member").sign(),
        "script": recipe.file("socket.js"),
    });
    let output = std::process::Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/tickets.mjs"))
        .arg(case.to_string())
        .output()
        .expect("node runs (tests/run setup installs it)");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(told.lines().filter(|line| line.starts_with("ok ")).count(), 3, "{told}");
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("alice"));
}

// ---- with Redis -------------------------------------------------------------

/// Shows `ticket` a hundred times at once, to `gates` in turn; how many got in.
fn race(gates: &[&Gate], ticket: &str) -> usize {
    const RACERS: usize = 100;
    let start = Arc::new(Barrier::new(RACERS));
    let racers: Vec<_> = (0..RACERS)
        .map(|number| {
            let (start, request) = (Arc::clone(&start), show(ticket));
            let address = gates[number % gates.len()].address();
            std::thread::spawn(move || {
                start.wait();
                let mut socket = request.open(address);
                socket.send("hello");
                let frame = socket.read_frame().expect("a frame").expect("not the end");
                match frame.payload.as_slice() {
                    b"hello" => true,
                    // 4001 Unauthorized, and nothing else.
                    [0x0f, 0xa1, ..] => false,
                    other => panic!("{other:?}"),
                }
            })
        })
        .collect();
    racers.into_iter().map(|racer| usize::from(racer.join().expect("a racer"))).sum()
}

#[test]
fn of_a_hundred_racers_on_two_replicas_one_wins() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let text = config(&format!("store: \"{}\"", redis.url()), &upstream);
    let (one, other) = (Gate::start(&text), Gate::start(&text));
    for round in 0..3 {
        let ticket = fetched(if round % 2 == 0 { &one } else { &other }, &token("alice"));
        assert_eq!(race(&[&one, &other], &ticket), 1);
    }
    assert_eq!(upstream.seen().len(), 3, "the upstream was dialled for the losers too");
}

#[test]
fn of_a_hundred_racers_on_one_replica_with_tickets_in_memory_one_wins() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("store: memory", &upstream));
    let ticket = fetched(&gate, &token("alice"));
    assert_eq!(race(&[&gate], &ticket), 1);
}

#[test]
fn redis_carries_the_whole_identity_to_another_replica_and_holds_nothing_usable() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let text = config(&format!("store: \"{}\", ttl: 20s", redis.url()), &upstream);
    let (one, other) = (Gate::start(&text), Gate::start(&text));
    let alice = Token::of("alice").claim("name", "Alice").claim("sid", "canary-session").sign();
    let ticket = fetched(&one, &alice);
    let dump = redis.dump();
    assert!(!dump.is_empty());
    for secret in [&*ticket, &ticket[4..], &alice, "alice", "Alice", "canary-session", "app"] {
        let found = dump.windows(secret.len()).any(|piece| piece == secret.as_bytes());
        assert!(!found, "{secret} is in Redis");
    }
    for key in redis.keys() {
        let left = redis.milliseconds_left(&key);
        assert!((1..=20_000).contains(&left), "{key} stays for {left} ms");
    }
    show(&ticket).open(other.address()).echoes("hello");
    let seen = upstream.last();
    for (name, value) in [
        ("x-forwarded-user", "alice"),
        ("x-verifier", "app"),
        ("x-method", "jwt"),
        ("x-session", "canary-session"),
        ("x-name", "Alice"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(show(&ticket).closed(one.address()).says(), (4001, "Unauthorized"));
}

#[test]
fn in_redis_the_eleventh_drops_the_oldest_that_is_open_and_all_end_in_time() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let text = config(&format!("store: \"{}\", ttl: 6s", redis.url()), &upstream);
    let (one, other) = (Gate::start(&text), Gate::start(&text));
    let began = std::time::Instant::now();
    let bob = fetched(&one, &token("bob"));
    let mut tickets: Vec<String> = Vec::new();
    for number in 0..10 {
        tickets.push(fetched(if number % 2 == 0 { &one } else { &other }, &token("alice")));
    }
    assert!(opens(&one, &tickets[2]), "one that is used makes room");
    tickets.push(fetched(&other, &token("alice")));
    tickets.push(fetched(&one, &token("alice")));
    assert!(!opens(&other, &tickets[0]), "the oldest is dropped");
    for index in [1, 3, 11] {
        assert!(opens(&one, &tickets[index]), "{index}");
    }
    assert!(opens(&other, &bob));
    assert!(began.elapsed() < Duration::from_secs(6), "too slow to tell anything");
    let rest = &tickets[4];
    eventually("all keys have ended", || redis.keys().is_empty());
    assert!(!opens(&one, rest));
}

#[test]
fn a_store_that_is_down_is_unavailable_and_comes_back_by_itself() {
    let upstream = Upstream::start();
    let mut redis = Redis::start();
    let store = format!("store: \"{}\", timeout: 1s, ttl: 60s", redis.url());
    let gate = Gate::start(&config(&store, &upstream));
    let before = fetched(&gate, &token("alice"));
    redis.stop();
    let down = fetch().bearer(&token("alice")).origin(PAGE).send(gate.address());
    assert_eq!((down.status, down.error().as_str()), (503, "Try again later"));
    assert_eq!(down.header("access-control-allow-origin"), Some(PAGE));
    assert!(down.header("retry-after").is_some());
    let closed = Request::upgrade(&format!("/ws/down?ticket={before}")).closed(gate.address());
    assert_eq!(closed.says(), (1013, "Try again later"));
    assert_eq!(gate.reason("/ws/down"), "verifier_unavailable");
    assert_eq!(gate.ask("/readyz").json()["degraded"], serde_json::json!(["tickets"]));
    assert_eq!(gate.ask("/readyz").status, 200);
    let unavailable = ["outcome=\"unavailable\"", "reason=\"verifier_unavailable\""];
    assert!(gate.metric("sockgate_auth_decisions_total", &unavailable) >= 2.0);
    // The others need no Redis.
    Request::upgrade("/ws/others").bearer(&token("bob")).open(gate.address()).echoes("hello");
    redis.restart();
    let mut after = None;
    eventually("tickets are issued again", || {
        let answer = fetch().bearer(&token("alice")).send(gate.address());
        after = (answer.status == 200).then(|| ticket(&answer));
        after.is_some()
    });
    assert!(opens(&gate, &after.expect("just seen")));
    assert_eq!(gate.ask("/readyz").json()["degraded"], serde_json::json!([]));
}

#[test]
fn a_store_that_hangs_is_bounded() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let store = format!("store: \"{}\", timeout: 500ms", redis.url());
    let gate = Gate::start(&config(&store, &upstream));
    let ticket = fetched(&gate, &token("alice"));
    redis.pause();
    let began = std::time::Instant::now();
    let closed = Request::upgrade(&format!("/ws/hang?ticket={ticket}")).closed(gate.address());
    assert_eq!(closed.says(), (1013, "Try again later"));
    assert!(began.elapsed() < Duration::from_secs(5));
    redis.resume();
}

#[test]
fn the_recipes_work_as_written() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let recipe = Recipe::read("tickets.md");
    let [shared, single] = recipe.configs()[..] else { panic!("two configurations") };
    for (text, store) in [(shared, "redis://127.0.0.1:6379/0"), (single, "store: memory")] {
        let here = if store.starts_with("redis") { redis.url() } else { store.to_owned() };
        let ws = upstream.ws();
        let placed = recipe.placed(text, &[("ws://127.0.0.1:3000", &ws), (store, &here)]);
        let gate = Gate::start_with(&placed, &[("JWT_SECRET", SECRET)]);
        let alice = Token::of("alice").claim("role", "member").sign();
        let answer = fetch().bearer(&alice).origin(PAGE).send(gate.address());
        assert_eq!(answer.json()["expires_in"], Value::from(30));
        let ticket = ticket(&answer);
        assert!(opens(&gate, &ticket));
        assert!(!opens(&gate, &ticket));
        assert_eq!(upstream.last().header("x-forwarded-user"), Some("alice"));
    }
}
