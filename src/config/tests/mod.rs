//! The whole room: a file in, a configuration or its problems out.

mod canary;
mod invalid;
mod reference;

use std::path::PathBuf;

use super::{LoadError, Loaded, load_from};

/// A file in a directory of its own.
struct Written {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn written(name: &str, text: &str) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    Written { _dir: dir, path }
}

fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, LoadError> {
    let file = written("sockgate.yaml", text);
    let own = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load_from(&file.path, own)
}

/// The lines of the error, without the directory.
fn lines(error: &LoadError) -> Vec<String> {
    let dir = format!("{}/", error.path.parent().unwrap().display());
    error.to_string().lines().map(|line| line.replace(&dir, "")).collect()
}

const PUBLIC: &str = "
server: { listen: 0.0.0.0:8080 }
routes: [{ path: /*, policy: public, upstream: http://127.0.0.1:3000 }]
";

#[test]
fn toml_and_yaml_say_the_same() {
    let yaml = load_text(PUBLIC, &[]).unwrap();
    let toml = written(
        "sockgate.toml",
        "[server]\nlisten = \"0.0.0.0:8080\"\n[[routes]]\npath = \"/*\"\npolicy = \"public\"\n\
         upstream = \"http://127.0.0.1:3000\"\n",
    );
    let toml = load_from(&toml.path, []).unwrap();
    assert_eq!(yaml.effective(), toml.effective());
    assert!(yaml.warnings.is_empty(), "{:?}", yaml.warnings);
}

#[test]
fn the_environment_is_put_over_the_file() {
    let environment = [
        ("SOCKGATE_SERVER__LISTEN", "127.0.0.1:81,[::1]:81"),
        ("SOCKGATE_SERVER__TRUSTED_PROXIES", "[10.0.0.0/8]"),
        ("SOCKGATE_ADMIN__TOKEN", "12345678901234567890"),
        ("SOCKGATE_LIMITS__CONNECTIONS", "7"),
        ("SOCKGATE_LIMITS__UNAUTHENTICATED", "5"),
        ("SOCKGATE_LIMITS__DRAIN", "x"),
        ("SOCKGATE_PORT", "tcp://10.0.0.1:80"),
        ("SOCKGATE_SERVICE_HOST", "10.0.0.1"),
    ];
    let loaded = load_text(PUBLIC, &environment[..5]).unwrap();
    assert_eq!(loaded.file.server.listen.0, ["127.0.0.1:81", "[::1]:81"]);
    assert_eq!(loaded.file.server.trusted_proxies.len(), 1);
    assert_eq!(loaded.file.limits.connections, 7);
    let token = loaded.file.admin.token.unwrap().resolve(&loaded.base).ok().unwrap();
    assert_eq!(token.expose(), b"12345678901234567890");
    assert!(load_text(PUBLIC, &environment[6..]).is_ok());
    assert_eq!(
        lines(&load_text(PUBLIC, &environment).unwrap_err()),
        ["sockgate.yaml: SOCKGATE_LIMITS__DRAIN: unknown key \"drain\" (known: connections, \
          unauthenticated, connections_per_ip, connections_per_subject, on_subject_limit, \
          handshakes_per_ip, header_timeout, header_bytes, credential_bytes, auth_timeout, \
          auth_message_bytes, message_bytes, idle_timeout, ping_interval, stall_timeout, \
          upstream_connect_timeout, http_body_timeout)"]
    );
}

#[test]
fn a_problem_of_an_overridden_key_names_the_variable() {
    let environment = [
        ("SOCKGATE_LIMITS__HEADER_TIMEOUT", "soon"),
        ("SOCKGATE_ADMIN__TOKEN", "short"),
        ("SOCKGATE_SERVER__TRUSTED_PROXIES", "10.0.0.0/8,10.0.0.1"),
        ("SOCKGATE_LIMITS__CONNECTIONS", "-1"),
    ];
    assert_eq!(
        lines(&load_text(PUBLIC, &environment).unwrap_err()),
        [
            "sockgate.yaml: limits.header_timeout: expected a duration such as 250ms, 10s, 5m, 12h \
             or 30d (0 = none) (set by SOCKGATE_LIMITS__HEADER_TIMEOUT)",
            "sockgate.yaml: server.trusted_proxies[1]: expected a network such as 10.0.0.0/8 or \
             10.1.2.3/32 (set by SOCKGATE_SERVER__TRUSTED_PROXIES)",
            "sockgate.yaml: admin.token: must be at least 16 bytes long (set by \
             SOCKGATE_ADMIN__TOKEN)",
            "sockgate.yaml: SOCKGATE_LIMITS__CONNECTIONS: expected a whole number",
        ]
    );
}

#[test]
fn a_section_without_keys_keeps_its_defaults() {
    let text = format!("{PUBLIC}limits:\n  # connections: 5\nlog:\npolicies:\n");
    let loaded = load_text(&text, &[]).unwrap();
    assert_eq!(loaded.file.limits.connections, 100_000);
}

#[test]
fn the_words_of_the_contract_for_nothing_mean_nothing() {
    let text = "
server: { listen: 'unix:/run/a.sock', tls: none }
admin: { token: none }
verifiers: { app: { jwt: { jwks_file: k.json, typ: none } } }
policies:
  m:
    credentials: [{ query: token, verifier: app }]
    reject_message: none
    accept_message: none
routes:
  - path: /
    policy: m
    upstream: { url: 'wss://a', tls: { ca: system, client_cert: none, client_key: none } }
";
    let loaded = load_text(text, &[]).unwrap();
    assert!(loaded.warnings.is_empty());
    assert!(loaded.file.server.tls.is_none() && loaded.file.admin.token.is_none());
    assert!(loaded.file.policies["m"].reject_message.is_none());
    assert_eq!(loaded.files().len(), 2);
}

#[test]
fn a_verifier_that_takes_anything_belongs_at_the_end_of_a_list() {
    let warned = |list: &str| {
        let text = format!(
            "
server: {{ listen: 'a:1' }}
verifiers:
  app: {{ jwt: {{ jwks_file: k.json }} }}
  own: {{ forward_auth: {{ url: 'http://127.0.0.1/check', subject: body.user }} }}
policies: {{ m: {{ credentials: [{{ query: token, verifier: {list} }}] }} }}
routes: [{{ path: /ws/*, policy: m, upstream: 'ws://a' }}]
"
        );
        let warnings = load_text(&text, &[]).unwrap().warnings;
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(warned("[app, own]"), Vec::<String>::new());
    let expected = "policies.m.credentials[0].verifier[0]: \"own\" decides on anything, so \"app\" \
                    is never asked: put it last";
    assert_eq!(warned("[own, app]"), [expected]);
}

#[test]
fn a_lifetime_that_has_no_effect_is_warned_of() {
    let warned = |lifetime: &str| {
        let text = format!(
            "
server: {{ listen: 'a:1' }}
verifiers:
  app: {{ jwt: {{ jwks_file: k.json }} }}
  other: {{ jwt: {{ jwks_file: k.json }} }}
  t: {{ ticket: {{}} }}
policies:
  m: {{ credentials: [{{ query: token, verifier: app }}], lifetime: {lifetime} }}
  n: {{ credentials: [{{ query: t, verifier: t }}], lifetime: {lifetime} }}
routes:
  - {{ path: /ws/*, policy: m, upstream: 'ws://a' }}
  - {{ path: /t/*, policy: n, upstream: 'ws://a' }}
  - {{ path: /ticket, policy: o, ticket: t }}
"
        )
        .replace("routes:", "  o: { credentials: [{ cookie: s, verifier: other }] }\nroutes:");
        let warnings = load_text(&text, &[]).unwrap().warnings;
        warnings.iter().map(|warning| warning.path.clone()).collect::<Vec<_>>()
    };
    let refresh = |verifier: &str| format!("{{ refresh: {{ token: /t, verifier: {verifier} }} }}");
    assert_eq!(warned(&refresh("app")), Vec::<String>::new());
    assert_eq!(warned(&refresh("[other, app]")), Vec::<String>::new());
    assert_eq!(warned(&refresh("other")), ["policies.m.lifetime.refresh.verifier"]);
    let short = warned("{ recheck: 10m }");
    assert_eq!(short, ["policies.m.lifetime.recheck_stale", "policies.n.lifetime.recheck_stale"]);
    assert_eq!(warned("{ recheck: 0, recheck_stale: 1s }"), Vec::<String>::new());
    let ignored = warned("{ on_expiry: ignore, grace: 1s }");
    assert_eq!(ignored, ["policies.m.lifetime.grace", "policies.n.lifetime.grace"]);
}

#[test]
fn warnings_do_not_refuse() {
    let text = "
server: { listen: 'unix:/run/a.sock', tls: { cert: a, key: b }, trust_forwarded_host: true }
limits: { connections_per_ip: 5 }
verifiers:
  app: { jwt: { jwks_file: k.json } }
  spare: { jwt: { jwks_file: k.json } }
policies:
  m:
    credentials: [{ query: token, verifier: app }]
    reject: http
    reject_message: '\"no\"'
  spare: { anonymous: true }
routes:
  - { path: /ws/*, policy: m, upstream: 'ws://a', subprotocols: [x], limits: { handshakes_per_ip: 1 } }
  - { path: [/ws/a, /b], policy: m, upstream: 'ws://a', shared_upstream: true, allow_any_origin: true }
  - { path: /c, policy: deny, upstream: 'ws://a' }
";
    let loaded = load_text(text, &[]).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let paths: Vec<&str> = loaded.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "server.tls",
            "server.trust_forwarded_host",
            "limits.connections_per_ip",
            "policies.m.reject_message",
            "routes[0].subprotocols",
            "routes[0].limits.handshakes_per_ip",
            "routes[1].allow_any_origin",
            "routes[1].path[0]",
            "routes[2].upstream",
            "routes[1].shared_upstream",
            "policies.spare",
            "verifiers.spare",
        ],
        "{warnings:#?}"
    );
}

#[test]
fn identity_headers_are_missed_where_the_upstream_is_dialled_first() {
    let warnings = |credential: &str, route: &str| {
        let text = format!(
            "
server: {{ listen: 'unix:/run/a.sock' }}
verifiers: {{ app: {{ jwt: {{ jwks_file: k.json }} }} }}
policies: {{ m: {{ credentials: [{{ {credential}, verifier: app }}] }} }}
routes: [{{ path: /ws, policy: m, upstream: 'ws://a', {route} }}]
"
        );
        let warnings = load_text(&text, &[]).unwrap().warnings;
        warnings.iter().map(ToString::to_string).collect::<String>()
    };
    for (credential, expected) in [
        ("message: { format: nats }", true),
        ("message: { format: socketio }", true),
        ("message: { format: graphql }, dial: first", true),
        ("message: { format: graphql }", false),
        ("message: { format: nats }, dial: after_auth", false),
    ] {
        let found = warnings(credential, "identity: { headers: { X-A: identity.subject } }");
        assert_eq!(found.starts_with("routes[0]: its upstream is dialled"), expected, "{found}");
        assert_eq!(warnings(credential, "identity: { headers: {} }"), "");
    }
}

#[test]
fn a_cut_off_file_is_an_error_or_a_file_and_never_a_panic() {
    let whole = include_str!("../../../config/reference.yaml").replace("#e.g.", "");
    for end in (0..whole.len()).step_by(97).filter(|end| whole.is_char_boundary(*end)) {
        match load_text(&whole[..end], &[]) {
            Ok(loaded) => assert!(!loaded.effective().is_empty()),
            Err(error) => assert!(!error.problems.is_empty()),
        }
    }
}
