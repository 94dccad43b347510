//! Clients and servers that others wrote, through the real gate: npm `ws` and
//! PyPI `websockets`, each against each. What is checked is in
//! `tests/e2e/client.mjs` and `client.py`; here everything is started.

#![expect(clippy::expect_used, reason = "a test that cannot go on says why")]

mod process;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use sockgate::clock::unix_now;

use process::Process;

const SECRET: &str = "a-secret-of-the-peers-test-with-enough-bytes";
const STORY: Duration = Duration::from_secs(180);
/// The gate drains for a second.
const FAREWELL: Duration = Duration::from_secs(10);
/// What every client prints as `ok` at least; fewer means that one ended early.
const CHECKS: usize = 35;

#[derive(Clone, Copy)]
enum Peer {
    /// npm `ws`.
    Node,
    /// PyPI `websockets`.
    Python,
}

#[test]
fn an_npm_client_speaks_with_an_npm_server() {
    speak(Peer::Node, Peer::Node);
}

#[test]
fn an_npm_client_speaks_with_a_python_server() {
    speak(Peer::Node, Peer::Python);
}

#[test]
fn a_python_client_speaks_with_an_npm_server() {
    speak(Peer::Python, Peer::Node);
}

#[test]
fn a_python_client_speaks_with_a_python_server() {
    speak(Peer::Python, Peer::Python);
}

#[track_caller]
fn speak(client: Peer, server: Peer) {
    let mut deflate = Process::start(&mut server.command("server"));
    let mut plain = Process::start(server.command("server").arg("--no-deflate"));
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("sockgate.yaml");
    // Bound and never accepting nor listening again: a server that is down.
    let down = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let text = configuration(port(&mut deflate), port(&mut plain), down.port());
    std::fs::write(&config, text).expect("the file is written");
    let mut gate =
        Process::start(Command::new(env!("CARGO_BIN_EXE_sockgate")).arg("--config").arg(&config));

    let tokens = tokens();
    let case = json!({ "gate": gate.gate_address(), "tokens": tokens });
    let story = Process::start(client.command("client").arg(case.to_string()));
    let (status, told) = story.finish(STORY);
    println!("{told}");
    assert!(
        status.success(),
        "{told}\nthe gate printed:\n{}\nthe servers printed:\n{}\n{}",
        gate.output(),
        deflate.output(),
        plain.output()
    );
    let checked = told.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(checked >= CHECKS, "only {checked} checks:\n{told}");
    gate.interrupt();
    let (status, log) = gate.finish(FAREWELL);
    assert!(status.success(), "the gate ended with {status}:\n{log}");
    assert!(log.contains("token=REDACTED"), "no query token was logged:\n{log}");
    for (kind, token) in tokens.as_object().expect("an object") {
        let token = token.as_str().expect("a string");
        assert!(!log.contains(token), "the {kind} token was logged:\n{log}");
    }
}

impl Peer {
    /// The interpreter with `tests/e2e/<name>`, from what `tests/run setup` installs.
    fn command(self, name: &str) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (interpreter, script) = match self {
            Peer::Node => (PathBuf::from("node"), format!("{name}.mjs")),
            Peer::Python => (root.join("target/venv/bin/python"), format!("{name}.py")),
        };
        let mut command = Command::new(interpreter);
        command.arg(root.join("tests/e2e").join(script));
        command
    }
}

/// The port that a server prints.
#[track_caller]
fn port(server: &mut Process) -> u16 {
    server.wait_for("its port", |output| output.lines().next()?.parse().ok())
}

fn configuration(deflate: u16, plain: u16, down: u16) -> String {
    format!(
        r#"
server: {{ listen: 127.0.0.1:0, drain_delay: 0s, drain: 1s }}
admin: {{ listen: 127.0.0.1:0 }}
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  members:
    credentials: &credentials
      - {{ cookie: session, verifier: app }}
      - {{ query: token, verifier: app }}
      - {{ header: authorization, verifier: app }}
      - {{ subprotocol: bearer.b64., encoding: base64url, verifier: app }}
      - {{ subprotocol_pair: bearer, verifier: app }}
    origins: same
    require: identity.claims.role == "member"
    reject_message: &error '{{"type": "error", "error": reason.text, "code": reason.code}}'
  strangers:
    credentials: *credentials
    origins: same
    reject: http
  speakers:
    credentials:
      - {{ message: {{ where: {{ /type: auth }}, token: /token }}, verifier: app }}
    require: identity.claims.role == "member"
    accept_message: '{{"type": "authenticated", "user": identity.subject}}'
    reject_message: *error
routes:
  - {{ path: "/deflate/*", policy: members, upstream: "ws://127.0.0.1:{deflate}" }}
  - {{ path: "/plain/*", policy: members, upstream: "ws://127.0.0.1:{plain}" }}
  - {{ path: "/down/*", policy: members, upstream: "ws://127.0.0.1:{down}" }}
  - {{ path: "/http/*", policy: strangers, upstream: "ws://127.0.0.1:{deflate}" }}
  - {{ path: "/message/*", policy: speakers, upstream: "ws://127.0.0.1:{deflate}" }}
"#
    )
}

/// One token of each kind that the clients show.
fn tokens() -> Value {
    let hour = 3600;
    json!({
        "good": token(SECRET, "member", hour),
        "expired": token(SECRET, "member", -hour),
        "suspended": token(SECRET, "suspended", hour),
        "forged": token("another-secret-that-the-gate-does-not-know", "member", hour),
    })
}

fn token(secret: &str, role: &str, ttl: i64) -> String {
    let claims = json!({ "sub": "ada", "role": role, "exp": unix_now() + ttl });
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).expect("claims are signed")
}
