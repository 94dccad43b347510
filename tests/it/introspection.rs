//! Introspection against a real authorization server, npm `oidc-provider`: tokens
//! of a login by code and PKCE that say nothing by themselves.

use std::sync::OnceLock;

use serde_json::json;
use tempfile::TempDir;

use super::support::{Gate, Peer, Provider, Recipe, Request, Upstream, canary, eventually, run};

const DECISIONS: &str = "sockgate_auth_decisions_total";

/// Of `tests/e2e/oidc.mjs`.
const SECRET: &str = "canary: a+secret&of%the=gate";
const GATE: &str = "the gate/1";

/// The provider of every test that leaves it as it is.
fn provider() -> &'static Provider {
    static PROVIDER: OnceLock<Provider> = OnceLock::new();
    PROVIDER.get_or_init(|| Provider::start(&[]))
}

fn config(url: &str, rest: &str, upstream: &Upstream) -> String {
    format!(
        r#"
verifiers:
  opaque:
    introspection:
      url: "{url}"
      client_secret: "{}"
      audience: [chat]
      {rest}
policies:
  members: {{ credentials: [{{ header: authorization, verifier: opaque }}] }}
routes:
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{}" }}
"#,
        canary(SECRET),
        upstream.ws()
    )
}

fn says(gate: &Gate, path: &str, token: &str) -> (u16, String) {
    let closed = Request::upgrade(path).bearer(token).closed(gate.address());
    (closed.code, gate.reason(path))
}

fn opens(gate: &Gate, token: &str) {
    Request::upgrade("/ws/a").bearer(token).open(gate.address()).echoes("hello");
}

#[test]
fn the_recipe_works_as_written() {
    let (provider, upstream) = (provider(), Upstream::start());
    let recipe = Recipe::read("introspection.md");
    let gate = recipe.start_in(
        recipe.directory(),
        &[
            ("https://id.example.com/oauth2/introspect", &provider.introspection()),
            ("chat-gate", GATE),
            ("ws://127.0.0.1:3000", &upstream.ws()),
        ],
        &[("INTROSPECTION_SECRET", &canary(SECRET))],
    );
    let token = provider.opaque_login("alice", "chat");
    assert!(!token.contains('.'), "no opaque token");
    opens(&gate, &token);
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("alice"));
    assert_eq!(seen.header("x-client-of-user"), Some("browser"));
    assert_eq!(seen.header("authorization"), None);
    Request::upgrade(&format!("/ws/q?token={token}")).open(gate.address()).echoes("hello");
    let mut socket = Request::upgrade("/ws/m").open(gate.address());
    socket.send(&json!({ "type": "auth", "token": token }).to_string());
    socket.echoes("hello");
    socket.finish();
    let line = gate.record("/ws/q");
    assert_eq!((&line["verifier"], &line["subject"]), (&json!("opaque"), &json!("alice")));
}

#[test]
fn tokens_for_others_of_nobody_and_of_no_one_are_refused() {
    let (provider, upstream) = (provider(), Upstream::start());
    let rest = format!("client_id: \"{GATE}\"");
    let gate = Gate::start(&config(&provider.introspection(), &rest, &upstream));
    let good = provider.opaque_login("alice", "chat");
    let refused = (4001, "invalid_credential".to_owned());
    let cases = [
        ("/ws/other", provider.opaque_login("alice", "other")),
        ("/ws/service", provider.opaque_token()),
        ("/ws/jwt", provider.token("chat")),
        ("/ws/unknown", canary("canary-of-a-token-that-is-none")),
        ("/ws/longer", canary(&format!("{good}x"))),
        ("/ws/encoded", canary("canary%2Ftoken&active=true")),
    ];
    for (path, token) in cases {
        assert_eq!(says(&gate, path, &token), refused, "{path}");
    }
    upstream.saw_nothing();
    gate.metric_becomes(DECISIONS, &["outcome=\"refused\"", "verifier=\"opaque\""], 6.0);
}

#[test]
fn a_token_that_is_revoked_admits_no_longer_than_the_cache() {
    let (provider, upstream) = (Provider::start(&[]), Upstream::start());
    let url = provider.introspection();
    let fresh = Gate::start(&config(
        &url,
        "client_id: the gate/1, cache: 0s".replace(", ", "\n      ").as_str(),
        &upstream,
    ));
    let cached = Gate::start(&config(&url, "client_id: the gate/1", &upstream));
    let token = provider.opaque_login("alice", "chat");
    let asked = || provider.asked("/token/introspection");
    for _ in 0..3 {
        opens(&cached, &token);
    }
    assert_eq!(asked(), 1);
    for _ in 0..3 {
        opens(&fresh, &token);
    }
    assert_eq!(asked(), 4);
    provider.tell(&format!("revoke?token={token}"));
    let refused = (4001, "invalid_credential".to_owned());
    for number in 0..5 {
        assert_eq!(says(&fresh, &format!("/ws/{number}"), &token), refused);
    }
    // Refusals are remembered too.
    assert_eq!(asked(), 5);
    opens(&cached, &token);
}

#[test]
fn the_secret_may_go_in_the_body() {
    let (provider, upstream) = (provider(), Upstream::start());
    let rest = "client_id: the gate/2\n      auth: post";
    let gate = Gate::start(&config(&provider.introspection(), rest, &upstream));
    opens(&gate, &provider.opaque_login("alice", "chat"));
}

#[test]
fn a_server_that_refuses_us_or_is_down_says_nothing_about_the_token() {
    let (provider, upstream) = (Provider::start(&[]), Upstream::start());
    let token = provider.opaque_login("alice", "chat");
    let unavailable = (1013, "verifier_unavailable".to_owned());
    let stranger = "client_id: stranger";
    let gate = Gate::start(&config(&provider.introspection(), stranger, &upstream));
    assert_eq!(says(&gate, "/ws/stranger", &token), unavailable);
    let cause = gate.record("/ws/stranger")["cause"].clone();
    assert_eq!(cause, "the endpoint refuses our client_id or client_secret");

    let gate = Gate::start(&config(&provider.introspection(), "client_id: the gate/1", &upstream));
    provider.tell("down");
    assert_eq!(says(&gate, "/ws/down", &token), unavailable);
    let plain = Request::get("/ws/plain").bearer(&token).send(gate.address());
    assert_eq!((plain.status, plain.header("retry-after").is_some()), (503, true));
    gate.metric_becomes(DECISIONS, &["outcome=\"unavailable\"", "verifier=\"opaque\""], 2.0);
    let degraded = || gate.ask("/readyz").json()["degraded"].clone();
    assert_eq!(degraded(), json!(["opaque"]));
    provider.tell("up");
    opens(&gate, &token);
    eventually("nothing is degraded", || degraded() == json!([]));
}

#[test]
fn answers_that_cannot_be_read_in_one_way_only_admit_nobody() {
    let upstream = Upstream::start();
    let bodies = [
        r#"{"active":false,"active":true,"sub":"alice","aud":"chat"}"#,
        r#"{"active":"true","sub":"alice","aud":"chat"}"#,
        r#"{"active":true,"sub":"alice","aud":"chat"} x"#,
        "<html>Log in</html>",
        "",
    ];
    for body in bodies {
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        let server = Peer::answering(answer);
        let gate = Gate::start(&config(&server.url(), "client_id: gate", &upstream));
        let token = canary("canary-token");
        assert_eq!(says(&gate, "/ws/a", &token), (1013, "verifier_unavailable".into()), "{body}");
    }
    upstream.saw_nothing();
}

#[test]
fn the_server_is_verified_by_the_own_authority() {
    let directory = TempDir::new().expect("a directory");
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
    let write = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let cert = write("ca.pem", pair.cert.pem());
    let key = write("key.pem", pair.signing_key.serialize_pem());
    let trusting = [("NODE_EXTRA_CA_CERTS", cert.as_str())];
    let provider = Provider::start_with(&["--tls", &cert, &key], &trusting);
    let upstream = Upstream::start();
    assert!(provider.introspection().starts_with("https://localhost:"));
    let token = provider.opaque_login("alice", "chat");
    let gate = |ca: &str| {
        let rest = format!("client_id: the gate/1\n      ca: \"{ca}\"");
        Gate::start(&config(&provider.introspection(), &rest, &upstream))
    };
    opens(&gate(&cert), &token);
    let gate = gate("system");
    assert_eq!(says(&gate, "/ws/a", &token), (1013, "verifier_unavailable".to_owned()));
    assert_eq!(gate.record("/ws/a")["cause"], "the TLS handshake failed");
}

#[test]
fn explain_asks_the_server_only_if_told_to_and_check_never_shows_the_secret() {
    let (provider, upstream) = (Provider::start(&[]), Upstream::start());
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("sockgate.yaml");
    let server = "server: { listen: \"127.0.0.1:0\" }\n";
    let config = config(&provider.introspection(), "client_id: the gate/1", &upstream);
    std::fs::write(&path, format!("{server}{config}")).expect("written");
    let file = path.to_str().expect("UTF-8");
    let checked = run(&["check", "--config", file], &[]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(!checked.stdout.contains("canary"), "{checked:?}");
    let header = format!("Authorization: Bearer {}", provider.opaque_login("alice", "chat"));
    let ask = ["explain", "--config", file, "ws://gate.test/ws/a", "-H", &header];
    let dry = run(&ask, &[]);
    assert_eq!(dry.code, 2, "{dry:?}");
    assert_eq!(provider.asked("/token/introspection"), 0);
    let live = run(&[&ask[..], &["--live"]].concat(), &[]);
    assert_eq!(live.code, 0, "{live:?}");
    assert!(live.stdout.contains("alice by introspection, expires 20"), "{live:?}");
    provider.tell("down");
    let down = run(&[&ask[..], &["--live"]].concat(), &[]);
    assert_eq!(down.code, 1, "{down:?}");
    assert!(down.stdout.contains("nobody takes the connection"), "{down:?}");
}
