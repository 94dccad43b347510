//! Logins that are asked about again while their connections live. Redis, SQLite
//! and the endpoints are real ones.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{
    Gate, Peer, Recipe, Redis, Request, Socket, Upstream, canary, eventually, run, unix_now,
};

const RECHECKS: &str = "sockgate_rechecks_total";

/// A policy `members` of sessions in `store` with `lifetime`, and `extra` in it.
fn config(store: &str, lifetime: &str, extra: &str, upstream: &Upstream) -> String {
    format!(
        r#"
verifiers:
  sessions: {{ session: {{ {store}, timeout: 500ms }} }}
policies:
  members:
    origins: any
    credentials: [{{ cookie: sid, verifier: sessions }}]
    lifetime: {{ {lifetime} }}
    {extra}
routes:
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{}" }}
"#,
        upstream.ws()
    )
}

fn in_redis(redis: &Redis) -> String {
    format!("store: \"{}\", key: \"'sess:' + credential\", subject: value.user", redis.url())
}

fn put(redis: &Redis, id: &str, value: &serde_json::Value, millis: u64) {
    let (key, millis) = (format!("sess:{id}"), millis.to_string());
    redis.command(&["SET", &key, &value.to_string(), "PX", &millis]);
}

fn with(id: &str, path: &str) -> Request {
    Request::upgrade(path).header("Cookie", &format!("sid={id}"))
}

#[track_caller]
fn open(gate: &Gate, id: &str) -> Socket {
    if id.starts_with("canary") {
        canary(id);
    }
    let mut socket = with(id, "/ws/echo").open(gate.address());
    socket.echoes("hello");
    socket
}

#[track_caller]
fn closes_within(socket: Socket, since: Instant, most: Duration, says: (u16, &str)) {
    assert_eq!(socket.closed().says(), says);
    assert!(since.elapsed() <= most, "closed after {:?}", since.elapsed());
}

const GONE: (u16, &str) = (4001, "Session revoked");
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_session_that_is_deleted_closes_within_the_period_and_a_rolling_one_stays() {
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let gate = Gate::start(&config(&in_redis(&redis), "recheck: 2s", "", &upstream));
    for id in ["canary-gone", "canary-rolling", "canary-left"] {
        put(&redis, id, &json!({ "user": "alice" }), 5_000);
    }
    let gone = [open(&gate, "canary-gone"), open(&gate, "canary-gone")];
    let mut rolling = open(&gate, "canary-rolling");
    let left = open(&gate, "canary-left");
    let began = unix_now();
    redis.command(&["DEL", "sess:canary-gone"]);
    let deleted = Instant::now();
    for socket in gone {
        closes_within(socket, deleted, 2 * SECOND + SECOND, GONE);
    }
    while unix_now() < began + 9 {
        redis.command(&["PEXPIRE", "sess:canary-rolling", "5000"]);
        rolling.echoes("still here");
        std::thread::sleep(Duration::from_millis(200));
    }
    // Who was not rolled on ended when it said.
    assert_eq!(left.closed().says(), (4002, "Session expired"));
    rolling.echoes("past its first end");
    // A shorter end counts as well.
    redis.command(&["PEXPIRE", "sess:canary-rolling", "3500"]);
    let shortened = Instant::now();
    closes_within(rolling, shortened, 5 * SECOND, (4002, "Session expired"));
    let by = ["verifier=\"sessions\""];
    assert!(gate.metric(RECHECKS, &[by[0], "outcome=\"valid\""]) >= 4.0);
    assert!(gate.metric(RECHECKS, &[by[0], "outcome=\"refused\""]) >= 1.0);
    let closed =
        gate.line("of the first close", |line| line["outcome"] == "closed" && line["code"] == 4001);
    assert_eq!(closed["reason"], "revoked");
}

#[test]
fn ten_thousandfold_connections_cost_a_look_up_a_credential_and_period() {
    const USERS: usize = 20;
    const EACH: usize = 15;
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let gate = Gate::start(&config(&in_redis(&redis), "recheck: 4s", "", &upstream));
    for user in 0..USERS {
        put(&redis, &format!("u{user}"), &json!({ "user": user }), 600_000);
    }
    let mut sockets: Vec<Socket> = (0..USERS * EACH)
        .map(|number| with(&format!("u{}", number % USERS), "/ws/echo").open(gate.address()))
        .collect();
    let gets = || {
        let stats = redis.command(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with("cmdstat_getrange:"));
        let calls =
            line.and_then(|line| line.split("calls=").nth(1)?.split(',').next()?.parse().ok());
        calls.unwrap_or(0_usize)
    };
    // Everybody has had a first turn.
    std::thread::sleep(4 * SECOND);
    let (before, valid) = (gets(), gate.metric(RECHECKS, &["outcome=\"valid\""]));
    std::thread::sleep(8 * SECOND);
    let asked = gets() - before;
    // Two periods, each at most a tenth shorter than it says.
    assert!((2 * USERS - 2..=2 * USERS + USERS / 2).contains(&asked), "{asked} look-ups");
    let counted = gate.metric(RECHECKS, &["outcome=\"valid\""]) - valid;
    assert!((counted - asked as f64).abs() <= 3.0, "{counted} of {asked}");
    redis.command(&["FLUSHALL"]);
    let deleted = Instant::now();
    for socket in sockets.drain(..) {
        closes_within(socket, deleted, 5 * SECOND, GONE);
    }
    gate.metric_becomes("sockgate_connections_open", &[], 0.0);
}

#[test]
fn a_store_that_is_down_keeps_connections_until_they_are_stale() {
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let lifetime = "recheck: 1s, recheck_stale: 4s";
    let gate = Gate::start(&config(&in_redis(&redis), lifetime, "", &upstream));
    put(&redis, "one", &json!({ "user": "alice" }), 60_000);
    let mut socket = open(&gate, "one");
    eventually("it was asked again", || gate.metric(RECHECKS, &["outcome=\"valid\""]) >= 1.0);
    redis.stop();
    let down = Instant::now();
    while down.elapsed() < Duration::from_millis(2500) {
        socket.echoes("still here");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(gate.metric(RECHECKS, &["outcome=\"unavailable\""]) >= 1.0);
    // Redis is back without it in time for another: that was no yes, but a no.
    assert_eq!(socket.closed().says(), (1013, "Try again later"));
    let after = down.elapsed();
    assert!(after > Duration::from_millis(2900) && after < 6 * SECOND, "after {after:?}");
}

#[test]
fn a_store_that_hangs_or_comes_back_in_time_closes_nobody() {
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let lifetime = "recheck: 1s, recheck_stale: 6s";
    let gate = Gate::start(&config(&in_redis(&redis), lifetime, "", &upstream));
    put(&redis, "one", &json!({ "user": "alice" }), 60_000);
    let mut socket = open(&gate, "one");
    redis.pause();
    std::thread::sleep(3 * SECOND);
    socket.echoes("while it hangs");
    redis.resume();
    let valid = gate.metric(RECHECKS, &["outcome=\"valid\""]);
    eventually("it answers", || gate.metric(RECHECKS, &["outcome=\"valid\""]) > valid);
    redis.stop();
    std::thread::sleep(3 * SECOND);
    redis.restart();
    put(&redis, "one", &json!({ "user": "alice" }), 60_000);
    std::thread::sleep(4 * SECOND);
    socket.echoes("after all");
    // But one that has lost the session says no.
    redis.command(&["FLUSHALL"]);
    closes_within(socket, Instant::now(), 3 * SECOND, GONE);
}

#[test]
fn new_claims_are_judged_by_the_rule_and_another_user_is_another_login() {
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let rule = "require: 'identity.claims.role == \"member\" && request.path.startsWith(\"/ws/\")'";
    let gate = Gate::start(&config(&in_redis(&redis), "recheck: 1s", rule, &upstream));
    let value =
        |user: &str, role: &str, seen: i64| json!({ "user": user, "role": role, "seen": seen });
    for id in ["one", "two", "three"] {
        put(&redis, id, &value("alice", "member", 1), 60_000);
    }
    let [mut one, two, three] = ["one", "two", "three"].map(|id| open(&gate, id));
    put(&redis, "one", &value("alice", "member", 2), 60_000);
    put(&redis, "two", &value("alice", "guest", 1), 60_000);
    put(&redis, "three", &value("mallory", "member", 1), 60_000);
    assert_eq!(two.closed().says(), (4003, "Forbidden"));
    assert_eq!(three.closed().says(), GONE);
    one.echoes("still here");
    // An open response is judged alike.
    put(&redis, "two", &value("alice", "member", 1), 60_000);
    let mut stream = super::support::dial(gate.address());
    use std::io::{Read as _, Write as _};
    let request = Request::get("/ws/await-stream").header("Cookie", "sid=two");
    stream.write_all(&request.bytes()).expect("taken");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200");
    put(&redis, "two", &value("alice", "guest", 1), 60_000);
    let began = Instant::now();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a whole response");
    assert!(began.elapsed() < 3 * SECOND, "ended after {:?}", began.elapsed());
}

#[test]
fn a_database_is_asked_again_too_and_never_if_told_so() {
    let (directory, upstream) = (tempfile::tempdir().expect("a directory"), Upstream::start());
    let file = directory.path().join("app.db");
    let sql = |text: &str| {
        let database = rusqlite::Connection::open(&file).expect("a database");
        database.execute_batch(text).expect("SQL");
    };
    sql("CREATE TABLE s (id TEXT PRIMARY KEY, user TEXT, ends INTEGER)");
    let later = unix_now() + 600;
    for id in ["a", "b", "c", "d"] {
        sql(&format!("INSERT INTO s VALUES ('{id}', 'alice', {later})"));
    }
    let store = format!(
        "store: \"sqlite:{}\", query: \"SELECT user, ends FROM s WHERE id = $1\", \
         subject: value.user, expires: value.ends",
        file.display()
    );
    let gate = Gate::start(&config(&store, "recheck: 1s", "", &upstream));
    let never = Gate::start(&config(&store, "recheck: 0", "", &upstream));
    let graced = Gate::start(&config(&store, "recheck: 1s, grace: 8s", "", &upstream));
    let (gone, mut stays, over) = (open(&gate, "a"), open(&never, "b"), open(&gate, "c"));
    let mut in_grace = open(&graced, "d");
    sql("DELETE FROM s WHERE id IN ('a', 'b')");
    sql(&format!("UPDATE s SET ends = {} WHERE id IN ('c', 'd')", unix_now() - 1));
    let began = Instant::now();
    closes_within(gone, began, 3 * SECOND, GONE);
    closes_within(over, began, 3 * SECOND, (4002, "Session expired"));
    in_grace.echoes("in its grace");
    // As it was before, to the second.
    sql(&format!("UPDATE s SET ends = {later} WHERE id = 'd'"));
    std::thread::sleep((10 * SECOND).saturating_sub(began.elapsed()));
    in_grace.echoes("renewed by the database");
    stays.echoes("still here");
    assert_eq!(never.metric(RECHECKS, &[]) as u64, 0);
}

#[test]
fn an_api_key_that_leaves_the_file_closes_its_connections() {
    let upstream = Upstream::start();
    let directory = tempfile::tempdir().expect("a directory");
    let generated = run(&["hash-key", "--generate"], &[]);
    let key = canary(generated.stderr.split_whitespace().last().expect("a key"));
    let file = directory.path().join("keys.yaml");
    let entry = generated.stdout.replace("SUBJECT", "acme");
    std::fs::write(&file, &entry).expect("written");
    let config = format!(
        r#"
verifiers: {{ partners: {{ api_keys: {{ file: "{}" }} }} }}
policies:
  members:
    credentials: [{{ header: x-api-key, verifier: partners }}]
    origins: any
    lifetime: {{ recheck: 1s }}
routes: [{{ name: chat, path: "/ws/*", policy: members, upstream: "{}" }}]
"#,
        file.display(),
        upstream.ws()
    );
    let gate = Gate::start(&config);
    let mut socket = Request::upgrade("/ws/echo").header("X-API-Key", &key).open(gate.address());
    socket.echoes("hello");
    eventually("it was asked again", || gate.metric(RECHECKS, &["outcome=\"valid\""]) >= 1.0);
    std::fs::write(&file, "[]\n").expect("written");
    closes_within(socket, Instant::now(), 5 * SECOND, GONE);
}

/// What a fake endpoint says now, and how often it was asked.
#[derive(Clone, Default)]
struct Endpoint(Arc<(Mutex<String>, AtomicUsize, Mutex<Vec<String>>)>);

impl Endpoint {
    fn says(&self, answer: &str) {
        *self.0.0.lock().expect("no test died") = answer.to_owned();
    }

    fn asked(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }

    fn last(&self) -> String {
        self.0.2.lock().expect("no test died").last().cloned().unwrap_or_default()
    }

    fn start(&self) -> Peer {
        let this = self.clone();
        Peer::start(move |head, stream| {
            this.0.1.fetch_add(1, Ordering::SeqCst);
            this.0.2.lock().expect("no test died").push(head.to_owned());
            let answer = this.0.0.lock().expect("no test died").clone();
            let _ = std::io::Write::write_all(stream, answer.as_bytes());
        })
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_token_that_is_inactive_closes_whatever_a_cache_remembers() {
    let (endpoint, upstream) = (Endpoint::default(), Upstream::start());
    endpoint.says(&answer("200 OK", "", r#"{"active": true, "sub": "alice"}"#));
    let peer = endpoint.start();
    let config = format!(
        r#"
verifiers:
  opaque:
    introspection: {{ url: "{}", client_id: x, client_secret: y, audience: any, cache: 60s }}
policies:
  members:
    credentials: [{{ header: authorization, verifier: opaque }}]
    lifetime: {{ recheck: 2s }}
routes: [{{ name: chat, path: "/ws/*", policy: members, upstream: "{}" }}]
"#,
        peer.url(),
        upstream.ws()
    );
    let gate = Gate::start(&config);
    let token = canary("canary-opaque-token");
    let opened = || Request::upgrade("/ws/echo").bearer(&token).open(gate.address());
    let sockets = [opened(), opened(), opened()];
    assert_eq!(endpoint.asked(), 1, "the cache is for those who come");
    eventually("it was asked again", || endpoint.asked() >= 2);
    endpoint.says(&answer("200 OK", "", r#"{"active": false}"#));
    let began = Instant::now();
    for socket in sockets {
        closes_within(socket, began, 3 * SECOND, GONE);
    }
    // Nor does it let anybody in who comes with it now.
    let refused = Request::upgrade("/ws/echo").bearer(&token).closed(gate.address());
    assert_eq!(refused.says(), (4001, "Unauthorized"));
}

#[test]
fn an_endpoint_is_asked_again_about_the_request_that_it_admitted() {
    let (endpoint, upstream) = (Endpoint::default(), Upstream::start());
    endpoint.says(&answer("200 OK", "x-user: alice\r\n", "{}"));
    let peer = endpoint.start();
    let config = format!(
        r#"
verifiers:
  own: {{ forward_auth: {{ url: "{}/check", subject: 'headers["x-user"]' }} }}
policies:
  members:
    origins: any
    credentials: [{{ cookie: sid, verifier: own }}]
    lifetime: {{ recheck: 1s }}
routes: [{{ name: chat, path: "/ws/*", policy: members, upstream: "{}" }}]
"#,
        peer.url(),
        upstream.ws()
    );
    let gate = Gate::start(&config);
    let opened = |path: &str| {
        let request = with(&canary("canary-forwarded"), path).header("X-Tenant", "a");
        request.header("User-Agent", "test").open(gate.address())
    };
    let mut socket = opened("/ws/echo?room=1");
    let first = endpoint.last();
    eventually("it was asked again", || endpoint.asked() >= 2);
    assert_eq!(endpoint.last(), first, "the same question");
    socket.echoes("still here");
    endpoint.says(&answer("403 Forbidden", "", "{}"));
    closes_within(socket, Instant::now(), 3 * SECOND, (4003, "Forbidden"));
    endpoint.says(&answer("200 OK", "x-user: alice\r\n", "{}"));
    let socket = opened("/ws/two");
    endpoint.says(&answer("401 Unauthorized", "", "{}"));
    closes_within(socket, Instant::now(), 3 * SECOND, GONE);
}

#[test]
fn a_ticket_is_rechecked_by_what_it_was_fetched_with() {
    let (redis, upstream) = (Redis::start(), Upstream::start());
    for store in ["memory".to_owned(), redis.url()] {
        let config = format!(
            r#"
verifiers:
  sessions: {{ session: {{ {} }} }}
  tickets: {{ ticket: {{ store: "{store}" }} }}
policies:
  pages: {{ origins: any, credentials: [{{ cookie: sid, verifier: sessions }}] }}
  members: {{ credentials: [{{ query: ticket, verifier: tickets }}], lifetime: {{ recheck: 1s }} }}
routes:
  - {{ path: /ticket, policy: pages, ticket: tickets }}
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{}" }}
"#,
            in_redis(&redis),
            upstream.ws()
        );
        let gate = Gate::start(&config);
        let id = canary("canary-behind-a-ticket");
        put(&redis, &id, &json!({ "user": "alice" }), 60_000);
        let fetched = Request::new("POST", "/ticket")
            .header("Cookie", &format!("sid={id}"))
            .body("")
            .send(gate.address());
        let ticket = fetched.json()["ticket"].as_str().expect("a ticket").to_owned();
        // In Redis the credential is not in clear beside the session itself.
        redis.command(&["RENAME", &format!("sess:{id}"), "aside"]);
        assert!(!redis.dump().windows(id.len()).any(|bytes| bytes == id.as_bytes()));
        redis.command(&["RENAME", "aside", &format!("sess:{id}")]);
        let path = format!("/ws/echo?ticket={}", canary(&ticket));
        let mut socket = Request::upgrade(&path).open(gate.address());
        socket.echoes("hello");
        let valid = ["verifier=\"sessions\"", "outcome=\"valid\""];
        eventually("it was asked again", || gate.metric(RECHECKS, &valid) >= 1.0);
        socket.echoes("still here");
        redis.command(&["DEL", &format!("sess:{id}")]);
        closes_within(socket, Instant::now(), 3 * SECOND, GONE);
    }
}

#[test]
fn a_renewed_login_is_the_one_that_is_asked_about() {
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let lifetime =
        "recheck: 1s, refresh: { where: { /type: auth }, token: /token, verifier: sessions }";
    let gate = Gate::start(&config(&in_redis(&redis), lifetime, "", &upstream));
    for id in ["one", "two"] {
        put(&redis, id, &json!({ "user": "alice" }), 60_000);
    }
    let mut socket = open(&gate, "one");
    socket.send(&json!({ "type": "auth", "token": "two" }).to_string());
    socket.echoes("renewed");
    redis.command(&["DEL", "sess:one"]);
    std::thread::sleep(3 * SECOND);
    socket.echoes("on the second");
    redis.command(&["DEL", "sess:two"]);
    closes_within(socket, Instant::now(), 3 * SECOND, GONE);
    assert_eq!(upstream.messages(), ["hello", "renewed", "on the second"]);
}

#[test]
fn the_recipe_for_sessions_works_as_written() {
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let recipe = Recipe::read("live.md");
    let places = [
        ("redis://127.0.0.1:6379/0", redis.url()),
        ("ws://127.0.0.1:3000", upstream.ws()),
        ("recheck: 30s", "recheck: 1s".to_owned()),
        ("recheck_stale: 5m", "recheck_stale: 2s".to_owned()),
    ];
    let places = places.each_ref().map(|(written, here)| (*written, here.as_str()));
    let gate = Gate::start(&recipe.placed(recipe.configs()[1], &places));
    for id in ["one", "two"] {
        put(&redis, id, &json!({ "user": "alice" }), 60_000);
    }
    let mut redis = redis;
    let open = |id| with(id, "/ws").open(gate.address());
    let (gone, mut stale) = (open("one"), open("two"));
    redis.command(&["DEL", "sess:one"]);
    assert_eq!(gone.closed().says(), GONE);
    stale.echoes("still here");
    redis.stop();
    assert_eq!(stale.closed().says(), (1013, "Try again later"));
}

#[test]
fn explain_tells_how_often_a_verifier_is_asked_again() {
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let gate = Gate::start(&config(&in_redis(&redis), "recheck: 90s", "", &upstream));
    put(&redis, "one", &json!({ "user": "alice" }), 60_000);
    let path = gate.config().to_str().expect("UTF-8").to_owned();
    let url = "ws://gate.test/ws/echo";
    let told = run(&["explain", "--config", &path, url, "-H", "Cookie: sid=one", "--live"], &[]);
    assert!(told.stdout.contains("sessions is asked again every 90s"), "{told:?}");
}
