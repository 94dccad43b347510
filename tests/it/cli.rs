//! The command line and what it says of a configuration.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{
    Gate, Outcome, Request, SECRET, Token, Upstream, assert_no_canary, canary, eventually,
    free_admin, members, run, token,
};

fn write(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("written");
    path
}

fn whole(upstream: &str) -> String {
    format!("server: {{ listen: \"127.0.0.1:0\" }}\n{}", members(upstream))
}

/// Runs a verb on `text` as a file; nothing secret may be printed.
fn verb(verb: &str, text: &str, rest: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let directory = TempDir::new().expect("a directory");
    let path = write(&directory, "sockgate.yaml", text);
    on_file(verb, &path, rest, environment)
}

fn on_file(verb: &str, path: &Path, rest: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let path = path.to_str().expect("UTF-8");
    let outcome = run(&[&[verb, "--config", path], rest].concat(), environment);
    assert_no_canary(&outcome.stdout);
    assert_no_canary(&outcome.stderr);
    outcome
}

fn check(text: &str) -> Outcome {
    verb("check", text, &[], &[])
}

fn says(outcome: &Outcome) -> String {
    format!("{}{}", outcome.stdout, outcome.stderr)
}

#[test]
fn the_version_and_the_help_are_told() {
    let version = run(&["--version"], &[]);
    assert_eq!(version.code, 0);
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
    let help = run(&["--help"], &[]);
    assert_eq!(help.code, 0);
    for word in ["check", "explain", "schema", "hash-key", "health", "drain", "--config"] {
        assert!(help.stdout.contains(word), "{word} in {}", help.stdout);
    }
    assert_ne!(run(&[], &[]).code, 0);
    assert_ne!(run(&["nonsense"], &[]).code, 0);
}

#[test]
fn check_prints_the_effective_configuration_without_its_secrets() {
    let config = whole("ws://127.0.0.1:3000")
        + &format!(
            "admin: {{ listen: \"127.0.0.1:0\", token: {} }}\n",
            canary("canary-of-an-admin-token")
        );
    let outcome = check(&config);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    for text in
        ["members", "chat", "127.0.0.1:3000", "header_bytes", "16KiB", "auth_timeout", "10s"]
    {
        assert!(outcome.stdout.contains(text), "{text} in {}", outcome.stdout);
    }
}

#[test]
fn toml_says_the_same_as_yaml() {
    let directory = TempDir::new().expect("a directory");
    let path = write(
        &directory,
        "sockgate.toml",
        &format!(
            r#"
[server]
listen = "127.0.0.1:0"
[verifiers.app.jwt]
secret = "{SECRET}"
algorithms = ["HS256"]
[policies.members]
credentials = [{{ cookie = "session", verifier = "app" }}]
[[routes]]
path = "/ws"
policy = "members"
upstream = "ws://127.0.0.1:3000"
"#
        ),
    );
    let outcome = on_file("check", &path, &[], &[]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stdout.contains("127.0.0.1:3000"));
}

/// An edit of the sound configuration, and what must be said of it.
const MISTAKES: &[(&str, &str, &[&str])] = &[
    ("policy: members,", "policy: mebers,", &["routes[0].policy", "mebers", "members"]),
    ("cookie: session", "cooky: session", &["cooky", "cookie"]),
    ("origins: same", "orgins: same", &["orgins", "origins"]),
    ("origins: same", "origins: sometimes", &["origins"]),
    ("origins: same", "origins: [\"https://a.test/path\"]", &["origins"]),
    ("origins: same", "require: 'identity.'", &["policies.members.require"]),
    ("origins: same", "require: 'nonsense(identity)'", &["policies.members.require"]),
    ("origins: same", "require: '\"text\"'", &["policies.members.require"]),
    ("origins: same", "codes: { expired: 1000 }", &["codes"]),
    ("origins: same", "codes: { expired: 5000 }", &["codes"]),
    ("origins: same", "lifetime: { grace: soon }", &["grace"]),
    ("origins: same", "lifetime: { recheck: 100ms }", &["recheck"]),
    ("algorithms: [HS256]", "algorithms: [HS257]", &["algorithms"]),
    ("algorithms: [HS256]", "algorithms: [none]", &["algorithms"]),
    ("algorithms: [HS256]", "algorithms: []", &["verifiers.app.jwt", "algorithms"]),
    ("algorithms: [HS256]", "algorithms: [RS256]", &["verifiers.app.jwt"]),
    ("algorithms: [HS256]", "algorithms: [HS512]", &["64"]),
    ("algorithms: [HS256]", "algorithms: [HS256], leeway: 1h", &["leeway"]),
    ("algorithms: [HS256]", "algorithms: [HS256], jwks_url: \"https://x\"", &["jwks_url"]),
    ("algorithms: [HS256]", "algorithms: [HS256], public_key: no-such.pem", &["verifiers.app.jwt"]),
    (SECRET, "short", &["verifiers.app.jwt", "32"]),
    (SECRET, "{ env: SOCKGATE_TEST_NO_SUCH }", &["SOCKGATE_TEST_NO_SUCH"]),
    (SECRET, "{ file: no-such-file }", &["no-such-file"]),
    ("verifier: app", "verifier: ap", &["ap", "app"]),
    ("ws://127.0.0.1:3000", "tcp://127.0.0.1", &["routes[0].upstream"]),
    ("ws://127.0.0.1:3000", "ws://127.0.0.1:99999", &["routes[0].upstream"]),
    ("ws://127.0.0.1:3000", "nonsense", &["routes[0].upstream"]),
    ("path: \"/ws/*\"", "path: \"ws\"", &["routes[0].path"]),
    ("path: \"/ws/*\"", "path: \"/a*b/c\"", &["routes[0].path"]),
    ("server:", "sever:", &["sever", "server"]),
    ("server: { listen: \"127.0.0.1:0\" }", "server: { listen: nowhere }", &["server.listen"]),
    (
        "server: { listen: \"127.0.0.1:0\" }",
        "server: { listen: \"127.0.0.1:0\", tls: { cert: no.crt, key: no.key } }",
        &["server.tls", "no.crt"],
    ),
    (
        "server: { listen: \"127.0.0.1:0\" }",
        "server: { listen: \"127.0.0.1:0\", http2: true }",
        &["http2"],
    ),
    (
        "server: { listen: \"127.0.0.1:0\" }",
        "server: { listen: \"127.0.0.1:0\", trusted_proxies: [nonsense] }",
        &["trusted_proxies"],
    ),
    (
        "server: { listen: \"127.0.0.1:0\" }",
        "server: { listen: \"127.0.0.1:0\" }\nadmin: { token: short }",
        &["admin.token", "16"],
    ),
    (
        "server: { listen: \"127.0.0.1:0\" }",
        "server: { listen: \"127.0.0.1:0\" }\nlimits: { header_bytes: lots }",
        &["limits.header_bytes"],
    ),
    (
        "server: { listen: \"127.0.0.1:0\" }",
        "server: { listen: \"127.0.0.1:0\" }\nlimits: { conections: 5 }",
        &["conections", "connections"],
    ),
    (
        "server: { listen: \"127.0.0.1:0\" }",
        "server: { listen: \"127.0.0.1:0\" }\nrevocation: { keep: 0s }",
        &["revocation.keep"],
    ),
    (
        "server: { listen: \"127.0.0.1:0\" }",
        "server: { listen: \"127.0.0.1:0\" }\nidentity: { headers: { \"bad name\": identity.subject } }",
        &["bad name"],
    ),
    (
        "server: { listen: \"127.0.0.1:0\" }",
        "server: { listen: \"127.0.0.1:0\" }\nidentity: { headers: { X-A: nonsense } }",
        &["X-A"],
    ),
    (
        "server: { listen: \"127.0.0.1:0\" }",
        "server: { listen: \"127.0.0.1:0\" }\nserver: { listen: \"127.0.0.1:1\" }",
        &["server"],
    ),
];

#[test]
fn every_mistake_is_named_with_its_place_and_the_next_step() {
    assert!(!MISTAKES.is_empty());
    let sound = whole("ws://127.0.0.1:3000");
    assert_eq!(check(&sound).code, 0);
    for (from, to, expected) in MISTAKES {
        assert!(sound.contains(from), "{from}");
        let outcome = check(&sound.replacen(from, to, 1));
        assert_eq!(outcome.code, 2, "{to}: {outcome:?}");
        for text in *expected {
            assert!(says(&outcome).contains(text), "{to}: no {text} in {}", says(&outcome));
        }
        assert!(says(&outcome).contains("sockgate.yaml"), "{to}: no file in {}", says(&outcome));
    }
}

#[test]
fn keys_of_later_issues_are_unknown_and_refused_by_name() {
    let sound = whole("ws://127.0.0.1:3000");
    let cases = [
        ("jwt: { secret", "session: { secret", "session"),
        ("jwt: { secret", "ticket: { secret", "ticket"),
        ("policy: members,", "policy: members, ticket: x,", "ticket"),
        ("policy: members,", "policy: members, backchannel_logout: x,", "backchannel_logout"),
        ("cookie: session", "client_cert: cn", "client_cert"),
        ("origins: same", "dial: first", "dial"),
        ("cookie: session", "message: { format: xmpp }", "nats or socketio"),
    ];
    for (from, to, name) in cases {
        assert!(sound.contains(from), "{from}");
        let outcome = check(&sound.replacen(from, to, 1));
        assert_eq!(outcome.code, 2, "{to}: {outcome:?}");
        assert!(says(&outcome).contains(name), "{to}: {}", says(&outcome));
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let broken = whole("ws://127.0.0.1:3000")
        .replace("policy: members,", "policy: mebers,")
        .replace("verifier: app }", "verifier: ap }")
        .replace("origins: same", "require: 'identity.'");
    let outcome = check(&broken);
    assert_eq!(outcome.code, 2);
    for text in ["mebers", "policies.members.require", "credentials[0]", "credentials[1]"] {
        assert!(says(&outcome).contains(text), "no {text} in {}", says(&outcome));
    }
    let broken = whole("ws://127.0.0.1:3000")
        .replace("origins: same", "orgins: same")
        .replace("cookie: session", "cooky: session");
    let outcome = check(&broken);
    for text in ["orgins", "cooky"] {
        assert!(says(&outcome).contains(text), "no {text} in {}", says(&outcome));
    }
}

#[test]
fn a_broken_file_is_an_error_and_not_a_panic() {
    for text in ["", "\0", "[]", "server", ": :", "a: &a [*a]", "server: {", "\u{feff}", "- x"] {
        let outcome = check(text);
        assert_eq!(outcome.code, 2, "{text:?}: {outcome:?}");
        assert!(!says(&outcome).trim().is_empty());
    }
    let missing = run(&["check", "--config", "/no/such/file.yaml"], &[]);
    assert_eq!(missing.code, 2, "{missing:?}");
    assert!(says(&missing).contains("/no/such/file.yaml"));
    let missing = run(&["--config", "/no/such/file.yaml"], &[]);
    assert_eq!(missing.code, 2, "{missing:?}");
}

#[test]
fn routes_that_would_open_a_guarded_upstream_are_refused() {
    let open = |rest: &str| {
        format!(
            "{}  - {{ path: \"/open\", policy: public, upstream: \"ws://127.0.0.1:3000\"{rest} }}\n",
            whole("ws://127.0.0.1:3000")
        )
    };
    let refused = check(&open(""));
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(says(&refused).contains("shared_upstream"), "{}", says(&refused));
    assert!(says(&refused).contains("routes[1]"), "{}", says(&refused));
    assert_eq!(check(&open(", shared_upstream: true")).code, 0);
    let http = open("").replace(
        "upstream: \"ws://127.0.0.1:3000\" }\n",
        "upstream: \"http://127.0.0.1:3000\" }\n",
    );
    assert_eq!(
        check(&http).code,
        0,
        "an http upstream carries no upgrade: {}",
        says(&check(&http))
    );
}

#[test]
fn warnings_go_to_stderr_and_change_no_exit_code() {
    let config = whole("ws://127.0.0.1:3000") + "limits: { connections_per_ip: 5 }\n";
    let outcome = check(&config);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("trusted_proxies"), "{outcome:?}");
}

#[test]
fn the_environment_overrides_scalars_and_lists() {
    let environment = [
        ("SOCKGATE_LIMITS__CONNECTIONS", "77"),
        ("SOCKGATE_LIMITS__HEADER_TIMEOUT", "7s"),
        ("SOCKGATE_LOG__REDACT", "[one, two]"),
        ("SOCKGATE_SERVER__TRUSTED_PROXIES", "[10.0.0.0/8]"),
        ("SOCKGATE_PORT", "tcp://10.0.0.1:80"),
        ("SOCKGATE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("SOCKGATE_SERVICE_HOST", "10.0.0.1"),
    ];
    let outcome = verb("check", &whole("ws://127.0.0.1:3000"), &[], &environment);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    for text in ["77", "7s", "one", "two", "10.0.0.0/8"] {
        assert!(outcome.stdout.contains(text), "no {text} in {}", outcome.stdout);
    }
    let wrong = [("SOCKGATE_LIMITS__CONNECTIONS", "many")];
    let outcome = verb("check", &whole("ws://127.0.0.1:3000"), &[], &wrong);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(says(&outcome).contains("SOCKGATE_LIMITS__CONNECTIONS"), "{}", says(&outcome));
}

#[test]
fn a_secret_comes_from_the_environment_or_a_file() {
    let upstream = Upstream::start();
    let secret = canary("canary-secret-from-elsewhere-32-bytes-long");
    let token = Token::of("alice").sign_with(secret.as_bytes());
    let config = members(&upstream.ws()).replace(SECRET, "{ env: THE_TEST_SECRET }");
    let gate = Gate::start_with(&config, &[("THE_TEST_SECRET", &secret)]);
    Request::upgrade("/ws/a").cookie(&token).open(gate.address()).echoes("hello");

    let directory = TempDir::new().expect("a directory");
    write(&directory, "secret", &format!("{secret}\n"));
    let config = members(&upstream.ws()).replace(SECRET, "{ file: secret }");
    let gate = Gate::start_in(directory, &config, &[]);
    Request::upgrade("/ws/a").cookie(&token).open(gate.address()).echoes("hello");

    let outcome = verb(
        "check",
        &whole("ws://127.0.0.1:3000").replace(SECRET, "{ env: THE_TEST_SECRET }"),
        &[],
        &[("THE_TEST_SECRET", "")],
    );
    assert_eq!(outcome.code, 2, "empty: {outcome:?}");
}

#[test]
fn the_schema_is_json_schema() {
    let outcome = run(&["schema"], &[]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let schema: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert!(schema["$schema"].as_str().is_some_and(|uri| uri.contains("json-schema.org")));
    for key in ["server", "admin", "log", "limits", "identity", "verifiers", "policies", "routes"] {
        assert!(!schema["properties"][key].is_null(), "{key}");
    }
    assert_eq!(schema["additionalProperties"], json!(false));
}

fn explain(config: &str, rest: &[&str]) -> Outcome {
    verb("explain", config, rest, &[])
}

#[test]
fn explain_tells_the_verdict_without_asking_the_upstream() {
    let upstream = Upstream::start();
    let config = whole(&upstream.ws());
    let token = token("alice");
    let url = format!("ws://gate.test/ws/a?x=1&token={token}");
    let admitted = explain(&config, &[&url]);
    assert_eq!(admitted.code, 0, "{admitted:?}");
    for text in ["chat", "members", "app", "alice", "X-Forwarded-User", "REDACTED"] {
        assert!(
            admitted.stdout.to_lowercase().contains(&text.to_lowercase()),
            "no {text} in {}",
            admitted.stdout
        );
    }
    let header = format!("Cookie: session={token}");
    assert_eq!(explain(&config, &["ws://gate.test/ws/a", "-H", &header]).code, 0);
    assert_eq!(explain(&config, &["http://gate.test/ws/a", "-X", "POST", "-H", &header]).code, 0);
    let cases: [(&[&str], &str); 5] = [
        (&["ws://gate.test/ws/a"], "missing_credential"),
        (&["ws://gate.test/ws/a", "-H", "Cookie: session="], "malformed_credential"),
        (
            &["ws://gate.test/ws/a", "-H", "Origin: https://evil.test", "-H", &header],
            "origin_denied",
        ),
        (&["ws://gate.test/elsewhere"], "404"),
        (&["ws://gate.test/ws//a", "-H", &header], "400"),
    ];
    for (arguments, text) in cases {
        let refused = explain(&config, arguments);
        assert_eq!(refused.code, 1, "{arguments:?}: {refused:?}");
        assert!(says(&refused).contains(text), "no {text} in {}", says(&refused));
    }
    upstream.saw_nothing();
}

#[test]
fn explain_tries_a_first_message() {
    let config = format!(
        "server: {{ listen: \"127.0.0.1:0\" }}\n{}",
        super::support::policy(
            "origins: any, credentials: [{ message: { format: json, where: { /type: auth }, token: /token }, verifier: app }]",
            "ws://127.0.0.1:3000",
        )
    );
    let login = json!({"type": "auth", "token": token("alice")}).to_string();
    let admitted = explain(&config, &["ws://gate.test/ws/a", "--message", &login]);
    assert_eq!(admitted.code, 0, "{admitted:?}");
    let refused =
        explain(&config, &["ws://gate.test/ws/a", "--message", r#"{"type":"auth","token":"x"}"#]);
    assert_eq!(refused.code, 1, "{refused:?}");
}

#[test]
fn health_asks_the_running_process() {
    let upstream = Upstream::start();
    let config = members(&upstream.ws()) + &format!("admin: {{ listen: \"{}\" }}\n", free_admin());
    let gate = Gate::start(&config);
    let outcome = on_file("health", gate.config(), &[], &[]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let config = gate.config().to_owned();
    let text = std::fs::read_to_string(&config).expect("the file");
    drop(gate);
    assert_eq!(verb("health", &text, &[], &[]).code, 1);
}

#[test]
fn drain_waits_until_the_process_is_gone() {
    let upstream = Upstream::start();
    for token in ["", ", token: canary-admin-token-for-drain"] {
        let config = members(&upstream.ws())
            + &format!(
                "admin: {{ listen: \"{}\"{token} }}\n\
                 server: {{ listen: \"127.0.0.1:0\", drain_delay: 0s, drain: 500ms }}\n",
                free_admin()
            );
        let mut gate = Gate::start(&config);
        let mut socket =
            Request::upgrade("/ws/a").cookie(&super::support::token("alice")).open(gate.address());
        socket.echoes("hello");
        let client = std::thread::spawn(move || socket.closed());
        let outcome = on_file("drain", gate.config(), &[], &[]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert!(gate.wait().success());
        assert_eq!(client.join().expect("a Close").says(), (1001, "Going away"));
        drop(gate);
    }
}

#[test]
fn a_drain_that_is_asked_for_twice_is_one() {
    let upstream = Upstream::start();
    let config = members(&upstream.ws())
        + &format!("admin: {{ listen: \"{}\" }}\n", free_admin())
        + "server: { listen: \"127.0.0.1:0\", drain_delay: 1s, drain: 500ms }\n";
    let mut gate = Gate::start(&config);
    let mut socket =
        Request::upgrade("/ws/a").cookie(&super::support::token("alice")).open(gate.address());
    socket.echoes("hello");
    let file = gate.config().to_owned();
    let first = std::thread::spawn(move || on_file("drain", &file, &[], &[]));
    eventually("it drains", || gate.ask("/readyz").status == 503);
    let second = on_file("drain", gate.config(), &[], &[]);
    assert_eq!(second.code, 0, "{second:?}");
    assert_eq!(first.join().expect("no panic").code, 0);
    assert_eq!(socket.closed().says(), (1001, "Going away"));
    assert!(gate.wait().success());
}

#[test]
fn drain_signals_no_process_but_a_sockgate() {
    let mut bystander =
        std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
    let nobody = 1 << 23; // more than Linux gives out
    for (pid, told) in [(bystander.id(), "sleep"), (nobody, "no process")] {
        let admin = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = admin.local_addr().expect("bound");
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = admin.accept().expect("a question");
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).expect("a question");
            let body = json!({ "status": "ok", "pid": pid }).to_string();
            let length = body.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
                .expect("told");
        });
        let config =
            whole("ws://127.0.0.1:3000") + &format!("admin: {{ listen: \"{address}\" }}\n");
        let outcome = verb("drain", &config, &[], &[]);
        answering.join().expect("no panic");
        assert_eq!(outcome.code, 1, "{outcome:?}");
        for part in [told, &pid.to_string(), "admin.token"] {
            assert!(outcome.stderr.contains(part), "{outcome:?}");
        }
    }
    assert_eq!(bystander.try_wait().expect("a child"), None, "it was signalled");
    bystander.kill().expect("killed");
    bystander.wait().expect("over");
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let directory = TempDir::new().expect("a directory");
    let config = whole("ws://127.0.0.1:3000").replace("127.0.0.1:0", &address)
        + "admin: { listen: \"127.0.0.1:0\" }\n";
    let path = write(&directory, "sockgate.yaml", &config);
    let outcome = run(&["--config", path.to_str().expect("UTF-8")], &[]);
    assert_ne!(outcome.code, 0);
    assert!(says(&outcome).contains(&address), "{outcome:?}");
}
