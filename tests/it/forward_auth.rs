//! Forward auth: a real Express application with a login, as the recipe shows it,
//! and endpoints that hang, fail and lie.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{
    Gate, Nobody, Peer, Recipe, Request, Response, SECRET, Upstream, canary, dial, eventually, run,
    token, unix_now,
};

const DECISIONS: &str = "sockgate_auth_decisions_total";

/// An application that prints its port; gone on drop.
struct App {
    child: Child,
    address: SocketAddr,
}

impl App {
    /// Runs `script` by node, with the packages of `tests/e2e`.
    #[track_caller]
    fn start(script: &Path) -> App {
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/node_modules");
        let mut child = Command::new("node")
            .arg(script)
            .env("NODE_PATH", packages)
            .env("PORT", "0")
            .env("SESSION_SECRET", canary("canary-session-secret-of-the-app"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("node runs (tests/run setup installs it)");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let port: u16 = line.trim().parse().expect("a port (tests/run setup installs express)");
        App { child, address: ([127, 0, 0, 1], port).into() }
    }

    fn http(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a form as a browser does, and takes the cookie `name` from the answer.
#[track_caller]
fn login(gate: &Gate, target: &str, form: &str, name: &str) -> String {
    let answer = Request::new("POST", target)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("Origin", "http://gate.test")
        .body(form)
        .send(gate.address());
    assert!([302, 303].contains(&answer.status), "{answer:?}");
    let cookie = answer.header("set-cookie").expect("a cookie");
    let value = cookie.strip_prefix(&format!("{name}=")).expect("the cookie of the session");
    canary(value.split(';').next().expect("a value"))
}

/// The verifier `login-app` at `url` for the cookie `sid` and more at `/ws/*`, and
/// beside it `/local/*` with a verifier that needs nobody.
fn config(url: &str, rest: &str, upstream: &str) -> String {
    format!(
        r#"
verifiers:
  login-app:
    forward_auth: {{ url: "{url}", subject: 'headers["x-user"]'{rest} }}
  local: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  members:
    origins: any
    credentials:
      - {{ cookie: sid, verifier: login-app }}
      - {{ query: token, verifier: login-app }}
      - {{ header: x-key, verifier: login-app }}
      - {{ header: authorization, scheme: Basic, verifier: login-app }}
      - {{ subprotocol_pair: bearer, verifier: login-app }}
      - {{ message: {{ where: {{ /type: auth }}, token: /token }}, verifier: login-app }}
  locals: {{ credentials: [{{ header: authorization, verifier: local }}] }}
routes:
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{upstream}" }}
  - {{ name: local, path: "/local/*", policy: locals, upstream: "{upstream}" }}
"#
    )
}

fn sid(path: &str, value: &str) -> Request {
    Request::upgrade(path).header("Cookie", &format!("theme=dark; sid={}", canary(value)))
}

fn ok(headers: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{headers}\r\n")
}

/// An endpoint that knows everybody as alice, and what it was asked.
fn knowing() -> (Peer, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let peer = Peer::start(move |head, stream| {
        seen.lock().expect("nobody died").push(head.to_owned());
        let _ = stream.write_all(ok("X-User: alice\r\n").as_bytes());
    });
    (peer, heads)
}

#[test]
fn the_recipe_with_an_endpoint_of_ones_own_works_as_written() {
    let upstream = Upstream::start();
    let recipe = Recipe::read("forward-auth.md");
    let directory = recipe.directory();
    let app = App::start(&directory.path().join("app.js"));
    let places = [
        ("http://127.0.0.1:3000/auth/check", format!("{}/auth/check", app.http())),
        ("ws://127.0.0.1:3001", upstream.ws()),
        ("http://127.0.0.1:3000", app.http()),
    ];
    let places = places.each_ref().map(|(from, to)| (*from, to.as_str()));
    let gate = recipe.start_in(directory, &places, &[]);

    let cookie = login(&gate, "/login", "user=alice", "sid");
    let ask = |cookie: &str| {
        Request::upgrade("/ws/a")
            .header("Cookie", &format!("theme=dark; sid={cookie}"))
            .header("X-Forwarded-User", "admin")
    };
    ask(&cookie).origin("http://gate.test").open(gate.address()).echoes("hello");
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("alice"));
    assert_eq!(upstream.last().header("cookie"), Some("theme=dark"));
    let seen = upstream.seen().len();

    let elsewhere = ask(&cookie).origin("http://evil.test").send(gate.address());
    assert_eq!(elsewhere.status, 403);
    let none = Request::upgrade("/ws/none").closed(gate.address());
    assert_eq!(none.says(), (4001, "Unauthorized"));
    let forged = ask(&canary(&format!("{cookie}x"))).closed(gate.address());
    assert_eq!(forged.says(), (4001, "Unauthorized"));
    let mallory = login(&gate, "/login", "user=mallory", "sid");
    assert_eq!(ask(&mallory).closed(gate.address()).says(), (4003, "Forbidden"));
    let refused = [DECISIONS, "outcome=\"refused\"", "reason=\"forbidden\""];
    gate.metric_becomes(refused[0], &refused[1..], 1.0);

    let out = Request::new("POST", "/logout").header("Cookie", &format!("sid={cookie}")).body("");
    assert_eq!(out.send(gate.address()).status, 303);
    assert_eq!(ask(&cookie).closed(gate.address()).says(), (4001, "Unauthorized"));
    assert_eq!(upstream.seen().len(), seen);
    assert!(gate.metric("sockgate_auth_duration_seconds_count", &["login-app"]) >= 4.0);
}

#[test]
fn the_recipe_with_oauth2_proxy_works_as_written() {
    let upstream = Upstream::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/oauth2-proxy.mjs");
    let app = App::start(&script);
    let recipe = Recipe::read("forward-auth.md");
    let config = recipe.placed(
        recipe.file("oauth2-proxy.yaml"),
        &[("http://127.0.0.1:4180", &app.http()), ("ws://127.0.0.1:3000", &upstream.ws())],
    );
    let gate = Gate::start(&config);
    let ask = |cookie: &str| {
        Request::upgrade("/ws/a").header("Cookie", &format!("_oauth2_proxy={cookie}"))
    };
    let closed = ask(&canary("canary-of-nobody")).closed(gate.address());
    assert_eq!(closed.says(), (4001, "Unauthorized"));
    let cookie = login(&gate, "/oauth2/sign_in", "username=ada&password=x", "_oauth2_proxy");
    let mut socket = ask(&cookie).open(gate.address());
    socket.echoes("hello");
    assert_eq!(upstream.last().header("x-forwarded-email"), Some("ada@example.com"));
    // Its headers against caches do not end the login.
    socket.echoes("still here");
    socket.finish();
}

#[test]
fn the_endpoint_is_told_the_request_and_the_credential_stands_where_the_client_had_it() {
    let (endpoint, heads) = knowing();
    let upstream = Upstream::start();
    let gate = Gate::start(&config(&format!("{}/check?a=b", endpoint.url()), "", &upstream.ws()));
    let [key, other, basic] =
        ["canary-credential", "canary-another", "YWRhOmNhbmFyeS1vZi1iYXNpYw=="].map(canary);
    let told = || heads.lock().expect("nobody died").last().expect("asked").to_lowercase();

    sid("/ws/a?room=1", &key)
        .header("X-Key", &other)
        .header("X-Forwarded-Uri", "/forged")
        .header("X-Forwarded-For", "192.0.2.66")
        .header("X-Auth-Request-User", "admin")
        .header("If-None-Match", "\"x\"")
        .header("Accept-Encoding", "gzip")
        .header("User-Agent", "Firefox")
        .header("Origin", "https://app.example")
        .open(gate.address())
        .echoes("hello");
    let head = told();
    let mut lines: Vec<&str> = head.lines().filter(|line| !line.is_empty()).collect();
    lines[1..].sort_unstable();
    let host = format!("host: {}", endpoint.url().trim_start_matches("http://"));
    assert_eq!(
        lines,
        [
            "get /check?a=b http/1.1",
            "cookie: theme=dark; sid=canary-credential",
            &host,
            "origin: https://app.example",
            "user-agent: firefox",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: gate.test",
            "x-forwarded-method: get",
            "x-forwarded-proto: http",
            "x-forwarded-uri: /ws/a?room=1",
        ]
    );

    let query = format!("/ws/q?x=1&token={key}&y=2");
    Request::upgrade(&query).open(gate.address()).echoes("hello");
    assert!(told().starts_with(&format!("get /check?a=b&token={key} http/1.1\r\n")), "{}", told());
    assert!(told().contains("\r\nx-forwarded-uri: /ws/q?x=1&y=2\r\n"), "{}", told());
    assert!(!told().contains("\r\nauthorization:"), "{}", told());

    Request::upgrade("/ws/k").header("X-Key", &key).open(gate.address()).echoes("hello");
    assert!(told().contains(&format!("\r\nx-key: {key}\r\n")), "{}", told());
    let scheme = format!("Basic {basic}");
    Request::upgrade("/ws/b").header("Authorization", &scheme).open(gate.address()).echoes("hi");
    assert!(told().contains(&format!("\r\nauthorization: {}\r\n", scheme.to_lowercase())));
    let offered = format!("bearer, {key}");
    Request::upgrade("/ws/p").protocols(&offered).open(gate.address()).echoes("hello");
    assert!(told().contains(&format!("\r\nauthorization: bearer {key}\r\n")), "{}", told());
    assert!(!told().contains("sec-websocket"), "{}", told());
    let mut socket = Request::upgrade("/ws/m").open(gate.address());
    socket.send(&json!({ "type": "auth", "token": key }).to_string());
    socket.echoes("hello");
    assert!(told().contains(&format!("\r\nauthorization: bearer {key}\r\n")), "{}", told());
    // A second login is asked about like the first.
    let asked = endpoint.asked();
    socket.send(&json!({ "type": "auth", "token": other }).to_string());
    socket.echoes("still the same");
    assert_eq!(endpoint.asked(), asked + 1);
    assert!(told().contains("\r\nx-forwarded-uri: /ws/m\r\n"), "{}", told());

    let plain = Request::new("POST", "/ws/http").header("X-Key", &key).body("canary-body");
    assert_eq!(plain.send(gate.address()).status, 200);
    assert!(told().contains("\r\nx-forwarded-method: post\r\n"), "{}", told());
    assert!(!told().contains("\r\ncontent-"), "{}", told());
    for seen in upstream.seen() {
        assert!(!seen.head.contains(&key) && !seen.head.contains(&other), "{}", seen.head);
    }
}

#[test]
fn every_answer_is_admitted_refused_or_none() {
    let upstream = Upstream::start();
    let away = Nobody::there();
    let location = format!("Location: {}\r\n", away.ws().replace("ws:", "http:"));
    let json_user = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
    let flood = format!("HTTP/1.1 200 OK\r\nX-User: alice\r\n\r\n{}", "a".repeat(2 << 20));
    let cases = [
        (
            format!("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n{location}\r\n"),
            "invalid_credential",
        ),
        ("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n".into(), "invalid_credential"),
        ("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n".into(), "forbidden"),
        (ok("X-User: a\u{1}b\r\n"), "verifier_unavailable"),
        (ok(&format!("X-User: {}\r\n", "a".repeat(256))), "invalid_credential"),
        (ok(""), "verifier_unavailable"),
        (ok("X-User:\r\n"), "verifier_unavailable"),
        (
            "HTTP/1.1 404 No\r\nContent-Length: 0\r\nX-User: alice\r\n\r\n".into(),
            "verifier_unavailable",
        ),
        (
            "HTTP/1.1 500 No\r\nContent-Length: 0\r\nX-User: alice\r\n\r\n".into(),
            "verifier_unavailable",
        ),
        (format!("{json_user}3\r\nX-User: alice\r\n\r\n{{]}}"), "verifier_unavailable"),
        (flood, "verifier_unavailable"),
        ("garbage\r\n\r\n".into(), "verifier_unavailable"),
        (String::new(), "verifier_unavailable"),
    ];
    for (answer, reason) in cases {
        let endpoint = Peer::answering(answer.clone());
        let gate = Gate::start(&config(&endpoint.url(), "", &upstream.ws()));
        let closed = sid("/ws/a", "canary-credential").closed(gate.address());
        let shown = answer.get(..60).unwrap_or(&answer);
        let code = match reason {
            "invalid_credential" => (4001, "Unauthorized"),
            "forbidden" => (4003, "Forbidden"),
            _ => (1013, "Try again later"),
        };
        assert_eq!(closed.says(), code, "{shown}");
        let line = gate.record("/ws/a");
        assert_eq!(line["reason"], reason, "{shown}");
        let is_none = reason == "verifier_unavailable";
        assert_eq!(line["outcome"], if is_none { "unavailable" } else { "refused" }, "{shown}");
        assert_eq!(line["cause"].is_string(), is_none, "{line}");
        let outcome = if is_none { "outcome=\"unavailable\"" } else { "outcome=\"refused\"" };
        gate.metric_becomes(DECISIONS, &[outcome, reason, "verifier=\"login-app\""], 1.0);
    }
    upstream.saw_nothing();
}

#[test]
fn an_endpoint_that_hangs_is_bounded_and_blocks_no_other_route() {
    let (endpoint, upstream) = (Peer::hanging().0, Upstream::start());
    let gate = Gate::start(&config(&endpoint.url(), ", timeout: 5s", &upstream.ws()));
    let began = Instant::now();
    let mut waiting: Vec<TcpStream> = (0..80)
        .map(|number| {
            let mut stream = dial(gate.address());
            let request = sid("/ws/hang", &format!("canary-credential-{number}"));
            stream.write_all(&request.bytes()).expect("taken");
            stream
        })
        .collect();
    eventually("64 are under way", || endpoint.asked() == 64);
    for _ in 0..20 {
        let one = Instant::now();
        Request::upgrade("/local/a").bearer(&token("alice")).open(gate.address()).echoes("hello");
        assert!(one.elapsed() < Duration::from_secs(2), "{:?}", one.elapsed());
    }
    // Those too many were refused at once.
    gate.metric_becomes(DECISIONS, &["outcome=\"unavailable\""], 16.0);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for stream in &mut waiting {
        assert_eq!(Response::read_head(stream).expect("an answer").status, 101);
    }
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    gate.metric_becomes(DECISIONS, &["outcome=\"unavailable\""], 80.0);
    eventually("each is logged under its cause", || {
        let lines = gate.lines();
        let count = |cause: &str| lines.iter().filter(|line| line["cause"] == cause).count();
        (count("too many look-ups at once"), count("no answer in time")) == (16, 64)
    });
    assert_eq!(endpoint.asked(), 64);
    let degraded = || gate.ask("/readyz").json()["degraded"].clone();
    assert_eq!(degraded(), json!(["login-app"]));
}

#[test]
fn connections_that_are_alike_are_one_question_and_a_refusal_is_remembered() {
    let is_held = Arc::new(AtomicBool::new(true));
    let held = Arc::clone(&is_held);
    let endpoint = Peer::start(move |head, stream| {
        while held.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let answer = match head.contains("sid=canary-good") {
            true => ok("X-User: alice\r\n"),
            false => "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        let _ = stream.write_all(answer.as_bytes());
    });
    let upstream = Upstream::start();
    let gate = Gate::start(&config(&endpoint.url(), "", &upstream.ws()));
    let mut racing: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = dial(gate.address());
            stream.write_all(&sid("/ws/a", "canary-good").bytes()).expect("taken");
            stream
        })
        .collect();
    // By the time that these have been served, all of those above are waiting.
    for _ in 0..20 {
        Request::upgrade("/local/a").bearer(&token("alice")).open(gate.address()).echoes("hello");
    }
    // Whose question it was leaves; the others have their answer all the same.
    drop(racing.remove(0));
    is_held.store(false, Ordering::Relaxed);
    for stream in &mut racing {
        assert_eq!(Response::read_head(stream).expect("an answer").status, 101);
    }
    assert_eq!(endpoint.asked(), 1);
    for _ in 0..20 {
        let closed = sid("/ws/a", "canary-bad").closed(gate.address());
        assert_eq!(closed.says(), (4001, "Unauthorized"));
    }
    assert_eq!(endpoint.asked(), 2);
    // Without a cache the next one is asked about; another path is another question.
    sid("/ws/a", "canary-good").open(gate.address()).echoes("hello");
    sid("/ws/b", "canary-good").open(gate.address()).echoes("hello");
    assert_eq!(endpoint.asked(), 4);
}

#[test]
fn an_answer_is_remembered_as_long_as_it_says_and_the_file_lets_it() {
    let (endpoint, _) = knowing();
    let upstream = Upstream::start();
    let gate = Gate::start(&config(&endpoint.url(), ", cache: 30s", &upstream.ws()));
    for _ in 0..5 {
        sid("/ws/a", "canary-good").open(gate.address()).echoes("hello");
    }
    assert_eq!(endpoint.asked(), 1);

    let ending = Peer::answering(ok("X-User: alice\r\nCache-Control: private, max-age=2\r\n"));
    let gate = Gate::start(&config(&ending.url(), ", cache: 30s", &upstream.ws()));
    let began = unix_now();
    let socket = sid("/ws/a", "canary-good").open(gate.address());
    assert_eq!(socket.closed().says(), (4002, "Session expired"));
    assert!(unix_now() - began >= 1, "closed early");
    sid("/ws/a", "canary-good").open(gate.address()).echoes("hello");
    assert_eq!(ending.asked(), 2);
}

#[test]
fn an_endpoint_that_comes_back_is_used_at_once() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let nobody = Nobody::there();
    let address = nobody.ws().replace("ws:", "http:");
    let upstream = Upstream::start();
    let gate = Gate::start_in(directory, &config(&address, "", &upstream.ws()), &[]);
    let closed = sid("/ws/a", "canary-good").closed(gate.address());
    assert_eq!(closed.says(), (1013, "Try again later"));
    assert_eq!(gate.record("/ws/a")["cause"], "nobody takes the connection");
    assert_eq!(gate.ask("/readyz").json()["degraded"], json!(["login-app"]));
    let (endpoint, _) = knowing();
    gate.rewrite(&config(&endpoint.url(), "", &upstream.ws()));
    gate.metric_becomes("sockgate_config_reloads_total", &["outcome=\"success\""], 1.0);
    // That nobody answered was not remembered.
    sid("/ws/a", "canary-good").open(gate.address()).echoes("hello");
    assert_eq!(gate.ask("/readyz").json()["degraded"], json!([]));
}

#[test]
fn explain_asks_the_endpoint_only_if_told_to() {
    let (endpoint, _) = knowing();
    let directory = tempfile::TempDir::new().expect("a directory");
    let path = directory.path().join("sockgate.yaml");
    let server = "server: { listen: \"127.0.0.1:0\" }\n";
    let config = config(&endpoint.url(), "", "ws://127.0.0.1:1");
    std::fs::write(&path, format!("{server}{config}")).expect("written");
    let file = path.to_str().expect("UTF-8");
    let ask = ["explain", "--config", file, "ws://gate.test/ws/a", "-H", "Cookie: sid=canary-good"];
    let dry = run(&ask, &[]);
    assert_eq!(dry.code, 2, "{dry:?}");
    assert!(dry.stdout.contains("--live"), "{dry:?}");
    assert_eq!(endpoint.asked(), 0);
    let live = run(&[&ask[..], &["--live"]].concat(), &[]);
    assert_eq!(live.code, 0, "{live:?}");
    assert!(live.stdout.contains("alice by forward_auth"), "{live:?}");
    assert!(!live.stdout.contains("canary"), "{live:?}");
    assert_eq!(endpoint.asked(), 1);
    // What depends on no verifier is told without asking.
    let none = run(&["explain", "--config", file, "http://gate.test/ws/a"], &[]);
    assert_eq!(none.code, 1, "{none:?}");
}
