//! Revocations: what is open closes, what comes with the old login is refused, on
//! whatever replica, whether Redis was there or not. Redis is a real one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{
    Gate, Opcode, Recipe, Redis, Request, Response, SECRET, Socket, Token, Upstream, canary,
    eventually, free_address, run, unix_now,
};

const ADMIN: &str = "canary-admin-token-0002";

/// How soon a revoked socket is closed, wherever it is.
const SOON: Duration = Duration::from_secs(1);

/// Two verifiers of which each admits at its own path, with the `section`.
fn config(section: &str, upstream: &Upstream) -> String {
    canary(ADMIN);
    let upstream = upstream.ws();
    format!(
        r#"
admin: {{ listen: "127.0.0.1:0", token: {ADMIN} }}
revocation: {section}
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256], required_claims: [] }} }}
  other: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256], subject: claims.sub }} }}
  tickets: {{ ticket: {{ store: memory }} }}
policies:
  members:
    credentials:
      - {{ query: ticket, verifier: tickets }}
      - {{ header: authorization, verifier: app }}
  others: {{ credentials: [{{ header: authorization, verifier: other }}] }}
  http: {{ reject: http, credentials: [{{ header: authorization, verifier: app }}] }}
  speakers:
    credentials: [{{ message: {{ where: {{ /type: auth }}, token: /token }}, verifier: app }}]
routes:
  - {{ path: /ticket, policy: members, ticket: tickets }}
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{upstream}" }}
  - {{ name: others, path: "/others/*", policy: others, upstream: "{upstream}" }}
  - {{ name: http, path: "/http/*", policy: http, upstream: "{upstream}" }}
  - {{ name: speakers, path: "/speak/*", policy: speakers, upstream: "{upstream}" }}
"#
    )
}

fn shared(redis: &Redis, upstream: &Upstream) -> Gate {
    shared_at(&redis.url(), upstream)
}

fn shared_at(url: &str, upstream: &Upstream) -> Gate {
    Gate::start(&config(&format!("{{ redis: \"{url}\", timeout: 1s }}"), upstream))
}

#[track_caller]
fn post(gate: &Gate, body: &Value) -> Response {
    Request::new("POST", "/revoke").bearer(ADMIN).body(body.to_string()).send(gate.admin())
}

/// Revokes and says how many were closed, and whether it is shared.
#[track_caller]
fn revoke(gate: &Gate, body: &Value) -> (u64, bool) {
    let answer = post(gate, body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.json();
    (told["closed"].as_u64().expect("a count"), told["shared"].as_bool().expect("yes or no"))
}

fn at(path: &str, token: &str) -> Request {
    Request::upgrade(path).bearer(token)
}

#[track_caller]
fn open(gate: &Gate, path: &str, token: &str) -> Socket {
    let mut socket = at(path, token).open(gate.address());
    socket.echoes("hello");
    socket
}

#[track_caller]
fn is_open(socket: &mut Socket) {
    socket.echoes("still here");
}

#[track_caller]
fn closes_soon(socket: Socket, since: Instant) {
    assert_eq!(socket.closed().says(), (4001, "Session revoked"));
    assert!(since.elapsed() < SOON, "closed after {:?}", since.elapsed());
}

#[track_caller]
fn is_refused(gate: &Gate, path: &str, token: &str) {
    let closed = at(path, token).closed(gate.address());
    assert_eq!(closed.says(), (4001, "Session revoked"), "{path}");
    assert_eq!(gate.reason(path), "revoked");
}

fn issued(subject: &str, ago: i64) -> Token {
    Token::of(subject).claim("iat", unix_now() - ago)
}

/// A login of the second after this one: `iat` has no fraction.
fn new_login(subject: &str) -> String {
    let now = unix_now();
    eventually("the second is over", || unix_now() > now);
    issued(subject, 0).sign()
}

#[test]
fn a_revoked_subject_is_closed_and_only_a_new_login_works() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("none", &upstream));
    let old = issued("alice", 5).sign();
    let undated = Token::of("alice").sign();
    let sockets = [
        open(&gate, "/ws/a", &old),
        open(&gate, "/ws/b", &undated),
        open(&gate, "/others/a", &old),
    ];
    let mut bystander = open(&gate, "/ws/c", &issued("bob", 5).sign());
    let began = Instant::now();
    assert_eq!(revoke(&gate, &json!({ "subject": "alice" })), (3, false));
    for socket in sockets {
        closes_soon(socket, began);
    }
    is_refused(&gate, "/ws/old", &old);
    is_refused(&gate, "/ws/undated", &undated);
    is_refused(&gate, "/others/old", &old);
    let refused = at("/http/old", &old).send(gate.address());
    assert_eq!((refused.status, refused.error()), (401, "Session revoked".to_owned()));
    let plain = Request::get("/ws/plain").bearer(&old).send(gate.address());
    assert_eq!(plain.status, 401);
    is_open(&mut open(&gate, "/ws/new", &new_login("alice")));
    is_open(&mut bystander);
    gate.metric_becomes("sockgate_revocations_total", &["source=\"admin\""], 1.0);
    // Two that were open, and two that came too late.
    let closes = ["initiator=\"sockgate\"", "code=\"4001\"", "route=\"chat\""];
    gate.metric_becomes("sockgate_closes_total", &closes, 4.0);
    let line = gate.line("about an end", |line| line["outcome"] == "closed");
    assert_eq!(line["reason"], "revoked");
    assert_eq!((&line["initiator"], &line["code"]), (&json!("sockgate"), &json!(4001)));
}

#[test]
fn a_revocation_may_be_meant_for_one_verifier_one_session_or_one_token() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("{ keep: 1h }", &upstream));
    let (session, token_id) = (canary("canary-session-0001"), canary("canary-token-id-0001"));
    let of = |sid: &str, jti: &str| issued("alice", 5).claim("sid", sid).claim("jti", jti).sign();
    let (first, second) = (of(&session, "j-1"), of("s-2", &token_id));
    let a = open(&gate, "/ws/a", &first);
    let b = open(&gate, "/ws/b", &second);
    let mut elsewhere = open(&gate, "/others/a", &first);
    let began = Instant::now();
    assert_eq!(revoke(&gate, &json!({ "session": session, "verifier": "app" })), (1, false));
    closes_soon(a, began);
    is_refused(&gate, "/ws/first", &first);
    is_open(&mut elsewhere);
    let began = Instant::now();
    assert_eq!(revoke(&gate, &json!({ "token_id": token_id })), (1, false));
    closes_soon(b, began);
    is_refused(&gate, "/ws/second", &second);
    is_refused(&gate, "/others/second", &second);
    // A new token of the revoked session is no new login.
    let renewed = issued("alice", -1).claim("sid", session.as_str()).sign();
    is_refused(&gate, "/ws/renewed", &renewed);
    is_open(&mut open(&gate, "/ws/third", &of("s-3", "j-3")));
    is_open(&mut elsewhere);
    assert_eq!(revoke(&gate, &json!({ "session": session })), (1, false));
}

#[test]
fn what_is_no_revocation_is_answered_400_and_changes_nothing() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("none", &upstream));
    let mut socket = open(&gate, "/ws/a", &issued("alice", 5).sign());
    for body in [
        json!({}),
        json!([]),
        json!({ "subject": "alice", "session": "s" }),
        json!({ "subject": 5 }),
        json!({ "subject": "" }),
        json!({ "subject": "alice", "issuer": "x" }),
        json!({ "subject": "alice", "verifier": "apq" }),
        json!({ "subject": "a".repeat(20_000) }),
    ] {
        let answer = post(&gate, &body);
        assert_eq!(answer.status, 400);
        assert!(answer.error().len() > 20, "{}", answer.text());
    }
    let send = |request: Request| request.send(gate.admin()).status;
    let twice = r#"{"subject":"alice","subject":"alice"}"#;
    let request = Request::new("POST", "/revoke").body(r#"{"subject":"alice"}"#);
    assert_eq!(send(Request::new("POST", "/revoke").bearer(ADMIN).body(twice)), 400);
    assert_eq!(send(request.clone()), 401);
    assert_eq!(send(request.clone().bearer("wrong")), 401);
    assert_eq!(send(Request::get("/revoke").bearer(ADMIN)), 405);
    assert_eq!(request.bearer(ADMIN).send(gate.address()).status, 404, "never on the main port");
    is_open(&mut socket);
    let unguarded = config("none", &upstream).replace(&format!(", token: {ADMIN}"), "");
    let gate = Gate::start(&unguarded);
    let request = Request::new("POST", "/revoke").body(r#"{"subject":"alice"}"#);
    assert_eq!(request.send(gate.admin()).status, 403);
}

#[test]
fn tickets_and_later_logins_are_asked_for_too() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("none", &upstream));
    let old = issued("alice", 5).claim("sid", "s-1").sign();
    let fetched = Request::new("POST", "/ticket").bearer(&old).body("").send(gate.address());
    let ticket = canary(fetched.json()["ticket"].as_str().expect("a ticket"));
    let login = |token: &str| json!({ "type": "auth", "token": token }).to_string();
    let speak = |path: &str, token: &str| {
        let mut socket = Request::upgrade(path).open(gate.address());
        socket.send(&login(token));
        socket
    };
    // The same identity by another session: one socket, two logins.
    let mut socket = speak("/speak/a", &issued("alice", 5).claim("sid", "s-2").sign());
    socket.echoes("hello");
    assert_eq!(revoke(&gate, &json!({ "session": "s-1" })), (0, false));
    let path = format!("/ws/t?ticket={ticket}");
    let closed = Request::upgrade(&path).closed(gate.address());
    assert_eq!(closed.says(), (4001, "Session revoked"));
    assert_eq!(speak("/speak/b", &old).closed().says(), (4001, "Session revoked"));
    is_open(&mut socket);
    socket.send(&login(&old));
    assert_eq!(socket.closed().says(), (4001, "Session revoked"));
}

#[test]
fn every_replica_closes_and_refuses_and_a_later_one_knows() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let gates = [shared(&redis, &upstream), shared(&redis, &upstream)];
    let session = canary("canary-session-0002");
    let alice = issued("alice", 5).sign();
    let bob = issued("bob", 5).claim("sid", session.as_str()).sign();
    let carol = issued("carol", 5).claim("jti", "j-1").expires_in(600).sign();
    for (body, token) in [
        (json!({ "subject": "alice" }), &alice),
        (json!({ "session": session }), &bob),
        (json!({ "token_id": "j-1", "verifier": "app" }), &carol),
    ] {
        let sockets = gates.each_ref().map(|gate| open(gate, "/ws/a", token));
        let began = Instant::now();
        assert_eq!(revoke(&gates[0], &body), (1, true));
        for socket in sockets {
            closes_soon(socket, began);
        }
        gates.iter().enumerate().for_each(|(number, gate)| {
            is_refused(gate, &format!("/ws/{number}-{}", began.elapsed().as_nanos()), token);
        });
    }
    let later = shared(&redis, &upstream);
    for (path, token) in [("/ws/alice", &alice), ("/ws/bob", &bob), ("/ws/carol", &carol)] {
        is_refused(&later, path, token);
    }
    let fresh = new_login("alice");
    for gate in gates.iter().chain([&later]) {
        is_open(&mut open(gate, "/ws/fresh", &fresh));
        assert_eq!(gate.ask("/readyz").json()["degraded"], json!([]));
    }
    gates[1].metric_becomes("sockgate_revocations_total", &["source=\"redis\""], 3.0);
    gates[0].metric_becomes("sockgate_revocations_total", &["source=\"redis\""], 0.0);
    later.metric_becomes("sockgate_revocations_total", &["source=\"redis\""], 3.0);
    assert_eq!(redis.keys(), ["sockgate:revocations", "sockgate:revocations:ends"]);
    let stored = redis.command(&["HGETALL", "sockgate:revocations"]);
    for secret in [&session, "alice", "bob", "j-1"] {
        assert!(!stored.contains(secret), "{secret} is in Redis: {stored}");
    }
    let month = 30 * 24 * 3600 * 1000;
    for key in redis.keys() {
        let left = redis.milliseconds_left(&key);
        assert!((month - 60_000..=month).contains(&left), "{key} stays {left} ms");
    }
}

#[test]
fn none_is_lost_while_redis_is_away_or_empty_when_it_is_back() {
    let upstream = Upstream::start();
    let mut redis = Redis::start();
    let gates = [shared(&redis, &upstream), shared(&redis, &upstream)];
    let of = |subject: &str| issued(subject, 5).sign();
    let (before, meanwhile, after) = (of("alice"), of("bob"), of("carol"));
    assert_eq!(revoke(&gates[0], &json!({ "subject": "alice" })), (0, true));
    // Stored it is; a Redis that stops now may not have told everybody yet.
    gates[1].metric_becomes("sockgate_revocations_total", &["source=\"redis\""], 1.0);
    redis.stop();
    for gate in &gates {
        eventually("the loss is noticed", || {
            gate.ask("/readyz").json()["degraded"] == json!(["revocation"])
        });
        assert_eq!(gate.ask("/readyz").status, 200, "every pod at once would be unready");
    }
    let sockets = gates.each_ref().map(|gate| open(gate, "/ws/bob", &meanwhile));
    let began = Instant::now();
    assert_eq!(revoke(&gates[0], &json!({ "subject": "bob" })), (1, false));
    let [here, there] = sockets;
    closes_soon(here, began);
    is_refused(&gates[0], "/ws/meanwhile", &meanwhile);
    for (number, gate) in gates.iter().enumerate() {
        is_refused(gate, &format!("/ws/before-{number}"), &before);
    }
    redis.restart();
    assert_eq!(there.closed().says(), (4001, "Session revoked"));
    is_refused(&gates[1], "/ws/meanwhile", &meanwhile);
    for gate in &gates {
        eventually("Redis is back", || gate.ask("/readyz").json()["degraded"] == json!([]));
    }
    let sockets = gates.each_ref().map(|gate| open(gate, "/ws/carol", &after));
    let began = Instant::now();
    assert_eq!(revoke(&gates[1], &json!({ "subject": "carol" })), (1, true));
    sockets.into_iter().for_each(|socket| closes_soon(socket, began));
    // What Redis lost with its memory was told to it anew.
    let later = shared(&redis, &upstream);
    for (path, token) in [("/ws/alice", &before), ("/ws/bob", &meanwhile), ("/ws/carol", &after)] {
        is_refused(&later, path, token);
    }
}

#[test]
fn a_redis_that_hangs_delays_nobody_and_gets_what_it_missed() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let gates = [shared(&redis, &upstream), shared(&redis, &upstream)];
    let alice = issued("alice", 5).sign();
    let sockets = gates.each_ref().map(|gate| open(gate, "/ws/a", &alice));
    redis.pause();
    let began = Instant::now();
    let [here, there] = sockets;
    let asking = std::thread::scope(|scope| {
        let asking = scope.spawn(|| revoke(&gates[0], &json!({ "subject": "alice" })));
        closes_soon(here, began);
        is_refused(&gates[0], "/ws/old", &alice);
        asking.join().expect("an answer")
    });
    assert_eq!(asking, (1, false));
    redis.resume();
    assert_eq!(there.closed().says(), (4001, "Session revoked"));
}

#[test]
fn a_replica_is_not_ready_before_it_knows_who_is_revoked() {
    let upstream = Upstream::start();
    let mut redis = Redis::start_at(free_address(), None, &["--appendonly", "yes"]);
    let (url, alice) = (redis.url(), issued("alice", 5).sign());
    let first = shared(&redis, &upstream);
    assert_eq!(revoke(&first, &json!({ "subject": "alice" })), (0, true));
    // Nobody but Redis knows of it from here on.
    drop(first);
    redis.stop();
    let back = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(700));
            back.store(true, Ordering::SeqCst);
            redis.restart();
        });
        let gate = shared_at(&url, &upstream);
        assert!(back.load(Ordering::SeqCst), "ready although Redis was away");
        is_refused(&gate, "/ws/late", &alice);
    });
}

#[test]
fn a_reload_shares_what_was_revoked_before() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let gate = Gate::start(&config("none", &upstream));
    let alice = issued("alice", 5).sign();
    assert_eq!(revoke(&gate, &json!({ "subject": "alice" })), (0, false));
    let section = format!("{{ redis: \"{}\", prefix: \"gate-7:\" }}", redis.url());
    gate.rewrite(&config(&section, &upstream));
    eventually("it is stored", || !redis.keys().is_empty());
    assert_eq!(redis.keys(), ["gate-7:revocations", "gate-7:revocations:ends"]);
    is_refused(&gate, "/ws/old", &alice);
    let other = Gate::start(&config(&section, &upstream));
    is_refused(&other, "/ws/old", &alice);
}

#[test]
fn what_a_verifier_remembers_lets_nobody_in_again() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    canary(ADMIN);
    let gate = Gate::start(&format!(
        r#"
admin: {{ listen: "127.0.0.1:0", token: {ADMIN} }}
verifiers:
  own: {{ forward_auth: {{ url: "{}/check", subject: '"alice"', cache: 1h }} }}
  kept: {{ session: {{ store: "{}", key: '"sess:" + credential', value: string }} }}
policies:
  own: {{ credentials: [{{ header: authorization, verifier: own }}] }}
  kept: {{ origins: any, credentials: [{{ cookie: session, verifier: kept }}] }}
routes:
  - {{ path: "/own/*", policy: own, upstream: "{ws}" }}
  - {{ path: "/kept/*", policy: kept, upstream: "{ws}" }}
"#,
        upstream.http(),
        redis.url(),
        ws = upstream.ws()
    ));
    let checks = || upstream.seen().iter().filter(|seen| seen.target == "/check").count();
    let (known, unknown) = (canary("canary-known-0001"), canary("canary-unknown-0001"));
    let socket = open(&gate, "/own/a", &known);
    is_open(&mut open(&gate, "/own/a", &known));
    assert_eq!(checks(), 1, "the answer is remembered");
    let began = Instant::now();
    assert!(revoke(&gate, &json!({ "subject": "alice" })).0 >= 1);
    closes_soon(socket, began);
    let refused = at("/own/a", &known).closed(gate.address());
    assert_eq!((refused.says(), checks()), ((4001, "Session revoked"), 1));
    let now = unix_now();
    eventually("the second is over", || unix_now() > now);
    is_open(&mut open(&gate, "/own/a", &unknown));

    let id = canary("canary-session-0003");
    redis.command(&["SET", &format!("sess:{id}"), "bob", "EX", "600"]);
    let kept = |path: &str| Request::upgrade(path).cookie(&id).open(gate.address());
    let mut socket = kept("/kept/a");
    is_open(&mut socket);
    let began = Instant::now();
    // The id as the application knows it, whatever Redis has before it.
    assert_eq!(revoke(&gate, &json!({ "session": format!("sess:{id}") })), (0, false));
    assert_eq!(revoke(&gate, &json!({ "session": id })), (1, false));
    closes_soon(socket, began);
    assert_eq!(kept("/kept/b").closed().says(), (4001, "Session revoked"));
}

#[test]
fn the_recipe_works_as_written_with_a_user_for_this_alone() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let recipe = Recipe::read("revocation.md");
    let page = std::fs::read_to_string(super::support::recipes().join("revocation.md"));
    let page = page.expect("the page");
    let user = page.split("`ACL ").nth(1).and_then(|rest| rest.split('`').next());
    let user = user.expect("a user").replace(">password", ">canary-redis-0001");
    let words: Vec<&str> = ["ACL"].into_iter().chain(user.split_whitespace()).collect();
    assert_eq!(redis.command(&words), "+OK");
    let url = format!("redis://gate:{}@{}/0", canary("canary-redis-0001"), redis.address());
    let upstream_place = upstream.address().to_string();
    let places = [
        ("127.0.0.1:9090", "127.0.0.1:0"),
        ("127.0.0.1:3000", upstream_place.as_str()),
        ("redis://127.0.0.1:6379/0", "{ env: REDIS_URL }"),
    ];
    let environment = [("ADMIN_TOKEN", ADMIN), ("REDIS_URL", &url), ("JWT_SECRET", SECRET)];
    canary(ADMIN);
    let start = || recipe.start_in(recipe.directory(), &places, &environment);
    let gates = [start(), start()];
    let alice = issued("alice", 5).sign();
    let sockets = gates.each_ref().map(|gate| {
        let mut socket = Request::upgrade("/ws/a").cookie(&alice).open(gate.address());
        socket.echoes("hello");
        socket
    });
    let began = Instant::now();
    assert_eq!(revoke(&gates[0], &json!({ "subject": "alice" })), (1, true));
    sockets.into_iter().for_each(|socket| closes_soon(socket, began));
}

/// Handshakes that race with the revocation of their own session, from all sides: at
/// the end no socket of a revoked session is open.
#[test]
fn no_handshake_slips_past_a_revocation_under_load() {
    const WORKERS: usize = 8;
    const ROUNDS: usize = 75;
    let upstream = Upstream::start();
    let redis = Redis::start();
    let gates = [shared(&redis, &upstream), shared(&redis, &upstream)];
    let race = |worker: usize, round: usize| {
        let session = format!("s-{worker}-{round}");
        let token = issued("alice", 5).claim("sid", session.as_str()).sign();
        let (here, there) = (&gates[round % 2], &gates[round / 2 % 2]);
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| at("/ws/r", &token).open(here.address()));
            // Now before the handshake, now in its midst, now behind it.
            std::thread::sleep(Duration::from_micros(round as u64 % 15 * 300));
            assert!(revoke(there, &json!({ "session": session })).1);
            (opening.join().expect("a socket"), session, Instant::now())
        })
    };
    let race = &race;
    let sockets: Vec<_> = std::thread::scope(|scope| {
        let work = |worker| move || (0..ROUNDS).map(|round| race(worker, round)).collect();
        let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(work(worker))).collect();
        let sockets = workers.into_iter().map(|one| one.join().expect("a worker"));
        sockets.flat_map(|sockets: Vec<_>| sockets).collect()
    });
    assert_eq!(sockets.len(), WORKERS * ROUNDS);
    let soon = Instant::now() + SOON;
    for (mut socket, session, revoked) in sockets {
        let frame = socket.read_frame().expect("a frame").expect("a Close");
        assert_eq!(frame.opcode, Opcode::Close, "{session} is open");
        assert_eq!(frame.payload[..2], 4001_u16.to_be_bytes(), "{session}");
        assert!(Instant::now() < soon, "{session} closed {:?} after", revoked.elapsed());
    }
    for gate in &gates {
        gate.metric_becomes("sockgate_connections_open", &[], 0.0);
    }
    // Some were refused, some were closed: it was a race.
    let count = |name: &str, labels: &[&str]| {
        gates.iter().map(|gate| gate.metric(name, labels)).sum::<f64>()
    };
    let admitted = count("sockgate_connections_total", &["route=\"chat\""]);
    let refused = count("sockgate_auth_decisions_total", &["reason=\"revoked\""]);
    assert!(admitted > 10.0 && refused > 10.0, "{admitted} admitted, {refused} refused");
}

#[test]
fn explain_asks_redis_whether_a_login_is_revoked_and_says_so_where_it_does_not() {
    let upstream = Upstream::start();
    let mut redis = Redis::start();
    let section = format!("{{ redis: \"{}\", timeout: 1s }}", redis.url());
    let gate = Gate::start(&config(&section, &upstream));
    let (alice, bob) = (issued("alice", 5).sign(), issued("bob", 5).sign());
    assert_eq!(revoke(&gate, &json!({ "subject": "alice" })), (0, true));
    let explain = |gate: &Gate, token: &str, rest: &[&str]| {
        let file = gate.config().to_str().expect("UTF-8");
        let header = format!("Authorization: Bearer {token}");
        let all = ["explain", "--config", file, "ws://gate.test/ws/a", "-H", &header];
        run(&[&all[..], rest].concat(), &[])
    };
    let told = explain(&gate, &alice, &["--live"]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.stdout.contains("refuse: revoked (101, then Close 4001"), "{told:?}");
    let told = explain(&gate, &bob, &["--live"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.contains("revocation   none"), "{told:?}");
    let told = explain(&gate, &alice, &[]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.contains("ask it with --live"), "{told:?}");
    redis.stop();
    let told = explain(&gate, &alice, &["--live"]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.stdout.contains("Redis does not answer"), "{told:?}");
    let alone = Gate::start(&config("none", &upstream));
    let told = explain(&alone, &alice, &["--live"]);
    assert!(told.stdout.contains("known to the running process alone"), "{told:?}");
}
