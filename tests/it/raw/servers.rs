//! Real servers behind a raw upstream: Redis, PostgreSQL with its own client, a VNC
//! server with noVNC in Chromium; with the example in `config/` and the recipe as they
//! are written.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;
use crate::support::{App, PostgresServer, Recipe, Redis, example, free_address};

/// The example `name` with each pair of `places` put in, on free ports.
#[track_caller]
fn started(name: &str, places: &[(&str, &str)]) -> Gate {
    Gate::start_with(&example(name, places), &[("JWT_SECRET", SECRET)])
}

#[test]
fn redis_answers_its_own_protocol_and_ends_in_order() {
    let redis = Redis::start();
    let upstream = format!("upstream: \"tcp://{}\"", redis.address());
    let gate = Gate::start(&config(&[("\"/raw/*\"", &upstream)]));
    let mut socket = open(&gate);
    let mut ask = |command: &[u8], answer: &[u8]| {
        socket.send_frame(&binary(command));
        let mut received = Vec::new();
        while received.len() < answer.len() {
            received.extend(socket.receive().payload);
        }
        assert_eq!(received, answer);
    };
    ask(b"PING\r\n", b"+PONG\r\n");
    let value = "v".repeat(300_000);
    ask(
        format!("SET big {value}\r\n").as_bytes(),
        b"-ERR Protocol error: too big inline request\r\n",
    );
    let mut socket = open(&gate);
    let set = format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${}\r\n{value}\r\n", value.len());
    for piece in set.as_bytes().chunks(70_001) {
        socket.send_frame(&binary(piece));
    }
    assert_eq!(socket.receive().payload, b"+OK\r\n");
    // A thousand questions at once, and exactly their answers.
    for number in 0..1000 {
        socket.send_frame(&binary(format!("ECHO {number}\r\n")));
    }
    let expected: String =
        (0..1000).map(|n: u32| format!("${}\r\n{n}\r\n", n.to_string().len())).collect();
    let mut received = Vec::new();
    while received.len() < expected.len() {
        received.extend(socket.receive().payload);
    }
    assert_eq!(String::from_utf8(received).expect("UTF-8"), expected);
    socket.send_frame(&binary(*b"QUIT\r\n"));
    assert_eq!(socket.closed().says(), (1000, ""));
    assert_eq!(redis.command(&["STRLEN", "big"]), ":300000");
}

#[test]
fn tls_is_spoken_to_a_redis_that_wants_a_certificate_and_to_nobody_else() {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "the authority of a test");
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, key).expect("signed");
    let directory = TempDir::new().expect("a directory");
    let write = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let ca = write("ca.pem", authority.pem());
    let [(server, server_key), (client, client_key)] = ["redis.test", "gate.test"].map(|name| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let signed = params.signed_by(&key, &authority).expect("signed");
        (
            write(&format!("{name}.crt"), signed.pem()),
            write(&format!("{name}.key"), key.serialize_pem()),
        )
    });
    let address = free_address();
    let free = TcpListener::bind((address.ip(), 0)).expect("a port").local_addr().expect("bound");
    let port = free.port().to_string();
    let files =
        ["--tls-cert-file", &server, "--tls-key-file", &server_key, "--tls-ca-cert-file", &ca];
    let arguments = [&["--tls-port", &port, "--tls-auth-clients", "yes"][..], &files].concat();
    let _redis = Redis::start_at(address, None, &arguments);
    let url = format!("tls://{free}");
    let with = |tls: &str| format!("upstream: {{ url: \"{url}\", tls: {{ {tls} }} }}");
    let shown = format!("client_cert: {client}, client_key: {client_key}");
    let gate = Gate::start(
        &config(&[
            ("/good", &with(&format!("ca: {ca}, server_name: redis.test, {shown}"))),
            ("/other", &with(&format!("ca: {ca}, server_name: other.test, {shown}"))),
            ("/system", &with(&format!("server_name: redis.test, {shown}"))),
        ])
        .replace("name: raw, ", ""),
    );
    let at = |path: &str| Request::upgrade(path).cookie(&token("ada"));
    let mut socket = at("/good").open(gate.address());
    socket.send_frame(&binary(*b"PING\r\n"));
    assert_eq!(socket.receive().payload, b"+PONG\r\n");
    socket.finish();
    for path in ["/other", "/system"] {
        assert_eq!(at(path).closed(gate.address()).says(), (1013, "Bad gateway"), "{path}");
    }
}

#[test]
fn psql_talks_to_postgres_through_a_websocket() {
    let postgres = PostgresServer::start(free_address(), "change-me", None);
    let address = postgres.address().to_string();
    let gate = started("raw.yaml", &[("127.0.0.1:5432", &*address)]);
    let url = format!("ws://{}/postgres", gate.address());
    let tunnel = App::start("tunnel.mjs", &[&url, &token("ada")]);
    let psql = |sql: &str| {
        let output = Command::new("psql")
            .args(["-qAtX", "-U", "gate", "-d", "postgres", "-h", "127.0.0.1", "-c", sql])
            .args(["-p", &tunnel.address().port().to_string()])
            .env("PGPASSWORD", "change-me")
            .env("PGSSLMODE", "disable")
            .output()
            .expect("psql runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    assert_eq!(psql("SELECT 6 * 7"), (true, "42".to_owned()));
    let (done, rows) = psql("SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i");
    let lines: Vec<&str> = rows.lines().collect();
    assert!(done && lines.len() == 20_000, "{}", lines.len());
    assert!(lines.iter().enumerate().all(|(n, line)| line.starts_with(&format!("{}|x", n + 1))));
    assert!(!psql("SELECT 1/0").0);
    // Without a login there is no way to it.
    let stranger = App::start("tunnel.mjs", &[&url, "none"]);
    let refused = Command::new("psql")
        .args(["-U", "gate", "-d", "postgres", "-h", "127.0.0.1", "-c", "SELECT 1"])
        .args(["-p", &stranger.address().port().to_string()])
        .env("PGPASSWORD", "change-me")
        .stderr(Stdio::null())
        .status();
    assert!(!refused.expect("psql runs").success());
}

/// A VNC server with a screen of its own; ended on drop.
struct Vnc {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Vnc {
    #[track_caller]
    fn start() -> Vnc {
        let address = free_address();
        let directory = TempDir::new().expect("a directory");
        let display = format!(":{}", 100 + std::process::id() % 20_000);
        let mut command = Command::new("Xvnc");
        command.args([&*display, "-geometry", "320x200", "-depth", "24", "-SecurityTypes", "None"]);
        command.args(["-interface", &address.ip().to_string()]);
        command.args(["-rfbport", &address.port().to_string()]);
        command.args(["-nolisten", "local", "-nolisten", "tcp"]);
        command.current_dir(directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("Xvnc starts (tests/run setup installs it)");
        eventually("the VNC server listens", || TcpStream::connect(address).is_ok());
        Vnc { child, address, _directory: directory }
    }
}

impl Drop for Vnc {
    fn drop(&mut self) {
        // So that it takes its lock and socket away.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

#[test]
fn novnc_in_chromium_sees_the_screen_of_a_real_vnc_server() {
    let vnc = Vnc::start();
    let screen = vnc.address.to_string();
    let recipe = Recipe::read("raw.md");
    let places = [("127.0.0.1:5900", &*screen)];
    let gate = recipe.start_in(recipe.directory(), &places, &[("JWT_SECRET", SECRET)]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script: PathBuf = root.join("tests/e2e/novnc.mjs");
    let case = json!({
        "gate": format!("ws://{}/vnc", gate.address()),
        "good": token("ada"),
        "bad": Token::of("ada").sign_with(b"another secret of more than thirty-two bytes"),
    });
    let output = Command::new("node").arg(script).arg(case.to_string()).output().expect("node");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("ok"), "{said}\n{errors}");
    assert!(!said.contains("FAILED"), "{said}");
}
