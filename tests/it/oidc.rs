//! Keys that are fetched: a real OpenID provider, logins by code and PKCE, its
//! rotations and outages, and peers that answer as no provider should.

use std::io::Read;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{
    Gate, Peer, Provider, Recipe, Request, Token, Upstream, canary, eventually, run, token,
};

const REFRESHES: &str = "sockgate_key_refreshes_total";

/// The provider of every test that leaves it as it is.
fn provider() -> &'static Provider {
    static PROVIDER: OnceLock<Provider> = OnceLock::new();
    PROVIDER.get_or_init(|| Provider::start(&["--path", "/realms/demo"]))
}

/// The verifier `app` with `jwt` in front of `upstream`, and beside it `/local/*`
/// with a verifier that needs nobody.
fn config(jwt: &str, upstream: &str) -> String {
    format!(
        r#"
verifiers:
  app: {{ jwt: {{ {jwt} }} }}
  local: {{ jwt: {{ secret: {}, algorithms: [HS256] }} }}
policies:
  members:
    credentials:
      - {{ header: authorization, verifier: app }}
      - {{ query: token, verifier: app }}
  locals: {{ credentials: [{{ header: authorization, verifier: local }}] }}
routes:
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{upstream}" }}
  - {{ name: local, path: "/local/*", policy: locals, upstream: "{upstream}" }}
"#,
        super::support::SECRET
    )
}

fn discovered(issuer: &str, rest: &str, upstream: &Upstream) -> String {
    config(&format!("issuer: \"{issuer}\", audience: chat{rest}"), &upstream.ws())
}

fn degraded(gate: &Gate) -> Value {
    let answer = gate.ask("/readyz");
    assert_eq!(answer.status, 200);
    answer.json()["degraded"].clone()
}

fn becomes_degraded(gate: &Gate, expected: &Value) {
    eventually(&format!("degraded is {expected}"), || degraded(gate) == *expected);
}

fn opens(gate: &Gate, token: &str) {
    Request::upgrade("/ws/a").bearer(token).open(gate.address()).echoes("hello");
}

fn says(gate: &Gate, path: &str, token: &str) -> (u16, String) {
    let closed = Request::upgrade(path).bearer(token).closed(gate.address());
    (closed.code, gate.reason(path))
}

const INVALID: (u16, &str) = (4001, "invalid_credential");
const UNAVAILABLE: (u16, &str) = (1013, "verifier_unavailable");

fn is(said: (u16, String), expected: (u16, &str), what: &str) {
    assert_eq!((said.0, said.1.as_str()), expected, "{what}");
}

/// `token` with a changed header.
fn with_header(token: &str, change: impl Fn(&mut Value)) -> String {
    let (header, rest) = token.split_once('.').expect("a JWT");
    let header = URL_SAFE_NO_PAD.decode(header).expect("base64url");
    let mut header: Value = serde_json::from_slice(&header).expect("JSON");
    change(&mut header);
    canary(&format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string())))
}

#[test]
fn who_has_logged_in_at_the_provider_is_admitted() {
    let (provider, upstream) = (provider(), Upstream::start());
    let gate = Gate::start(&discovered(provider.issuer(), "", &upstream));
    let [access, id] = provider.login("alice");
    opens(&gate, &access);
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("alice"));
    assert_eq!(upstream.last().header("authorization"), None);
    Request::upgrade(&format!("/ws/q?token={access}")).open(gate.address()).echoes("hello");
    opens(&gate, &provider.token("chat"));
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("service"));

    let seen = upstream.seen().len();
    // Made out to the client that logs in, not to the gate.
    is(says(&gate, "/ws/id", &id), INVALID, "an id token");
    is(says(&gate, "/ws/audience", &provider.token("other")), INVALID, "another audience");
    let (signed, signature) = access.rsplit_once('.').expect("a JWT");
    let (header, payload) = signed.split_once('.').expect("a JWT");
    let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(payload).expect("base64url"))
        .expect("UTF-8")
        .replace("alice", "admin");
    let tampered = format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(payload));
    is(says(&gate, "/ws/tampered", &canary(&tampered)), INVALID, "tampered");
    let opaque = says(&gate, "/ws/opaque", &provider.opaque_token());
    is(opaque, (4001, "malformed_credential"), "opaque");
    is(says(&gate, "/ws/local", &token("alice")), INVALID, "a secret of our own");
    assert_eq!(upstream.seen().len(), seen);

    assert_eq!(degraded(&gate), json!([]));
    assert!(gate.metric(REFRESHES, &["verifier=\"app\"", "outcome=\"success\""]) >= 1.0);
    assert!(gate.metric(REFRESHES, &["outcome=\"failure\""]) < 0.5);
}

#[test]
fn tokens_of_another_issuer_are_refused_whatever_their_keys() {
    let (provider, upstream) = (provider(), Upstream::start());
    let other = Provider::start(&[]);
    let gate = Gate::start(&discovered(provider.issuer(), "", &upstream));
    is(says(&gate, "/ws/other", &other.token("chat")), INVALID, "another provider");
    // The right keys, and an issuer that they do not sign for.
    let jwt =
        format!("jwks_url: \"{}\", issuer: https://id.example, audience: any", provider.keys());
    let gate = Gate::start(&config(&jwt, &upstream.ws()));
    is(says(&gate, "/ws/issuer", &provider.token("chat")), INVALID, "another issuer");
    upstream.saw_nothing();
}

#[test]
fn keys_by_url_verify_without_discovery() {
    let (provider, upstream) = (provider(), Upstream::start());
    let jwt = format!("jwks_url: \"{}\", audience: [chat], algorithms: [RS256]", provider.keys());
    let gate = Gate::start(&config(&jwt, &upstream.ws()));
    opens(&gate, &provider.token("chat"));
    let jwt = format!("jwks_url: \"{}\", audience: [chat], algorithms: [ES256]", provider.keys());
    let gate = Gate::start(&config(&jwt, &upstream.ws()));
    is(says(&gate, "/ws/a", &provider.token("chat")), INVALID, "another algorithm");
}

#[test]
fn a_rotation_of_keys_is_followed_both_ways() {
    let (provider, upstream) = (Provider::start(&[]), Upstream::start());
    let gate = Gate::start(&discovered(provider.issuer(), "", &upstream));
    let old = provider.token("chat");
    opens(&gate, &old);
    let mut open = Request::upgrade("/ws/a").bearer(&old).open(gate.address());
    provider.tell("rotate?drop=1");
    let new = provider.token("chat");
    assert_ne!(old.split('.').next(), new.split('.').next());
    // The old key still counts until the new one is missed.
    opens(&gate, &old);
    opens(&gate, &new);
    is(says(&gate, "/ws/old", &old), INVALID, "a token verified before, its key withdrawn");
    open.echoes("an open connection stays");
}

#[test]
fn a_storm_of_unknown_keys_costs_the_provider_one_request() {
    let (provider, upstream) = (Provider::start(&[]), Upstream::start());
    let gate = Gate::start(&discovered(provider.issuer(), "", &upstream));
    let good = provider.token("chat");
    opens(&gate, &good);
    let before = (provider.asked("/jwks"), provider.asked("openid-configuration"));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (gate, good) = (&gate, &good);
            scope.spawn(move || {
                for number in 0..25 {
                    let kid = format!("https://evil.example/{thread}/{number}");
                    let forged = with_header(good, |header| header["kid"] = json!(kid));
                    let request = Request::upgrade("/ws/storm").bearer(&forged);
                    assert_eq!(request.closed(gate.address()).code, 4001);
                }
            });
        }
    });
    opens(&gate, &good);
    assert_eq!(provider.asked("/jwks"), before.0 + 1);
    assert_eq!(provider.asked("openid-configuration"), before.1);
    assert_eq!(degraded(&gate), json!([]));
}

#[test]
fn nothing_in_a_token_makes_the_gate_ask_anybody() {
    let (provider, upstream) = (provider(), Upstream::start());
    let evil = Peer::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let gate = Gate::start(&discovered(provider.issuer(), "", &upstream));
    let good = provider.token("chat");
    let url = evil.url();
    let forged = [
        with_header(&good, |header| header["jku"] = json!(format!("{url}/keys"))),
        with_header(&good, |header| header["x5u"] = json!(format!("{url}/cert"))),
        with_header(&good, |header| header["kid"] = json!(format!("{url}/keys"))),
        Token::of("alice").claim("iss", url.as_str()).claim("aud", "chat").sign(),
    ];
    for token in &forged {
        is(says(&gate, "/ws/forged", token), INVALID, "forged");
    }
    assert_eq!(evil.asked(), 0);
    upstream.saw_nothing();
}

#[test]
fn a_provider_that_is_down_at_first_is_found_when_it_comes_up() {
    let (provider, upstream) = (Provider::start(&["--down"]), Upstream::start());
    let gate = Gate::start(&discovered(provider.issuer(), "", &upstream));
    becomes_degraded(&gate, &json!(["app"]));
    let of_another = self::provider().token("chat");
    is(says(&gate, "/ws/down", &of_another), UNAVAILABLE, "while it is down");
    let plain = Request::get("/ws/plain").bearer(&of_another).send(gate.address());
    assert_eq!(plain.status, 503);
    assert!(plain.header("retry-after").is_some());
    // What is no token is refused as that, and who needs no provider is not held up.
    let garbage = says(&gate, "/ws/garbage", "garbage");
    is(garbage, (4001, "malformed_credential"), "garbage");
    Request::upgrade("/local/a").bearer(&token("bob")).open(gate.address()).echoes("hello");

    provider.tell("up");
    becomes_degraded(&gate, &json!([]));
    opens(&gate, &provider.token("chat"));
    assert!(gate.metric(REFRESHES, &["outcome=\"failure\""]) >= 1.0);
    gate.line("of the keys' return", |line| line["message"] == "keys fetched again");
    let about_keys = |line: &&Value| line["verifier"] == "app" && line["level"].is_string();
    let lines = gate.lines();
    let told: Vec<&str> =
        lines.iter().filter(about_keys).filter_map(|line| line["message"].as_str()).collect();
    assert_eq!(
        told,
        ["keys cannot be fetched; this verifier refuses until they can", "keys fetched again"]
    );
}

#[test]
fn the_last_keys_count_while_the_provider_is_down() {
    let (provider, upstream) = (Provider::start(&[]), Upstream::start());
    let gate = Gate::start(&discovered(provider.issuer(), ", refresh: 1s", &upstream));
    let (seen, unseen) = (provider.token("chat"), provider.token("chat"));
    opens(&gate, &seen);
    provider.tell("down");
    becomes_degraded(&gate, &json!(["app"]));
    opens(&gate, &seen);
    opens(&gate, &unseen);
    let unknown = with_header(&seen, |header| header["kid"] = json!("perhaps-a-new-one"));
    is(says(&gate, "/ws/unknown", &unknown), UNAVAILABLE, "nobody can tell");
    is(says(&gate, "/ws/audience", &self::provider().token("x")), INVALID, "a known key name");
    provider.tell("up");
    becomes_degraded(&gate, &json!([]));
    is(says(&gate, "/ws/now", &unknown), INVALID, "now one can");
}

#[test]
fn a_discovery_document_of_another_issuer_is_not_believed() {
    let (provider, upstream) = (provider(), Upstream::start());
    // The same document, and a slash more than it says.
    let gate = Gate::start(&discovered(&format!("{}/", provider.issuer()), "", &upstream));
    let line = gate.line("about the issuer", |line| line["verifier"] == "app");
    let error = line["error"].as_str().expect("an error");
    assert!(error.contains("is of another issuer"), "{error}");
    assert!(error.contains(&format!("\"{}\"", provider.issuer())), "{error}");
    assert_eq!(degraded(&gate), json!(["app"]));
    is(says(&gate, "/ws/a", &provider.token("chat")), UNAVAILABLE, "no key");
}

#[test]
fn answers_that_no_provider_should_give_are_no_keys() {
    let upstream = Upstream::start();
    let target = Peer::answering("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"keys\":[]}");
    let long = "a".repeat((1 << 20) + 1);
    let whole =
        |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let oct = format!(r#"{{"keys":[{{"kty":"oct","k":"{}","kid":"k"}}]}}"#, "A".repeat(43));
    let answers = [
        (
            "redirecting",
            format!(
                "HTTP/1.1 302 Found\r\nLocation: {}/\r\nContent-Length: 0\r\n\r\n",
                target.url()
            ),
            "the key set is answered with the status 302",
        ),
        ("failing", "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned(), "status 500"),
        ("huge", whole(&long), "the answer is too large"),
        ("garbage", "\u{1}\u{2}\u{3}garbage\r\n\r\n".to_owned(), "the answer is broken"),
        ("half", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_owned(), "broken"),
        ("no JSON", whole("<html>"), "is not a JSON Web Key Set"),
        ("deep", whole(&"[".repeat(100_000)), "is not a JSON Web Key Set"),
        ("no key", whole(r#"{"keys":[]}"#), "holds no key that can be used"),
        ("a secret", whole(&oct), "a shared secret (kty oct) is never used"),
    ];
    let verifiers: Vec<(Peer, &str, &str)> = answers
        .into_iter()
        .map(|(what, answer, error)| (Peer::answering(answer), what, error))
        .collect();
    for (peer, what, expected) in &verifiers {
        let jwt = format!("jwks_url: \"{}/keys\", audience: any", peer.url());
        let gate = Gate::start(&config(&jwt, &upstream.ws()));
        let line = gate.line(what, |line| line["verifier"] == "app");
        let error = line["error"].as_str().expect("an error");
        assert!(error.contains(expected), "{what}: {error}");
        assert_eq!(degraded(&gate), json!(["app"]), "{what}");
        let forged = |algorithm: &str| {
            Token::of("alice").header("kid", "k").header("alg", algorithm).sign_with(&[0; 32])
        };
        is(says(&gate, "/ws/a", &forged("ES256")), UNAVAILABLE, what);
        // No published key would ever verify this one.
        is(says(&gate, "/ws/b", &forged("HS256")), INVALID, what);
    }
    assert_eq!(target.asked(), 0, "a redirect was followed");
    upstream.saw_nothing();
}

#[test]
fn a_provider_that_hangs_holds_up_neither_the_start_nor_other_routes() {
    let upstream = Upstream::start();
    let hanging = Peer::start(|_, stream| {
        let _ = stream.read(&mut [0; 1]);
    });
    let jwt = format!("jwks_url: \"{}/keys\", audience: any, timeout: 1s", hanging.url());
    let gate = Gate::start(&config(&jwt, &upstream.ws()));
    let began = Instant::now();
    let shape = Token::of("alice").header("kid", "k").header("alg", "ES256").sign();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let closed = Request::upgrade("/ws/held").bearer(&shape).closed(gate.address());
                assert_eq!(closed.code, 1013);
            });
        }
        Request::upgrade("/local/a").bearer(&token("bob")).open(gate.address()).echoes("hello");
    });
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    // All of them waited for one and the same fetch, or for none.
    assert!(hanging.asked() <= 4, "{}", hanging.asked());
    assert_eq!(degraded(&gate), json!(["app"]));
}

#[test]
fn an_authority_of_ones_own_vouches_for_the_provider() {
    let upstream = Upstream::start();
    let directory = TempDir::new().expect("a directory");
    let at = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("signed");
    std::fs::write(at("tls.crt"), certificate.pem()).expect("written");
    std::fs::write(at("tls.key"), key.serialize_pem()).expect("written");
    let provider = Provider::start_with(
        &["--tls", &at("tls.crt"), &at("tls.key")],
        &[("NODE_EXTRA_CA_CERTS", &at("tls.crt"))],
    );
    assert!(provider.issuer().starts_with("https://localhost:"));
    let ca = format!(", ca: \"{}\"", at("tls.crt"));
    let gate = Gate::start(&discovered(provider.issuer(), &ca, &upstream));
    opens(&gate, &provider.token("chat"));
    assert_eq!(degraded(&gate), json!([]));

    let gate = Gate::start(&discovered(provider.issuer(), "", &upstream));
    let line = gate.line("about TLS", |line| line["verifier"] == "app");
    assert_eq!(line["error"], "the discovery document: the TLS handshake failed");
    assert_eq!(degraded(&gate), json!(["app"]));
    is(says(&gate, "/ws/a", &provider.token("chat")), UNAVAILABLE, "not trusted");
}

#[test]
fn a_reload_keeps_the_keys_of_a_verifier_that_is_as_it_was() {
    let (provider, upstream) = (Provider::start(&[]), Upstream::start());
    let before = discovered(provider.issuer(), "", &upstream);
    let gate = Gate::start(&before);
    let token = provider.token("chat");
    opens(&gate, &token);
    let asked = provider.asked("/jwks");
    provider.tell("down");
    gate.rewrite(&before.replace("name: chat", "name: talk"));
    gate.metric_becomes("sockgate_config_reloads_total", &["outcome=\"success\""], 1.0);
    opens(&gate, &token);
    assert_eq!(gate.record("/ws/a")["route"], "chat");
    assert_eq!(degraded(&gate), json!([]));
    // Another leeway is another verifier: it has to ask.
    gate.rewrite(&before.replace("audience: chat", "audience: chat, leeway: 1s"));
    gate.metric_becomes("sockgate_config_reloads_total", &["outcome=\"success\""], 2.0);
    becomes_degraded(&gate, &json!(["app"]));
    is(says(&gate, "/ws/anew", &token), UNAVAILABLE, "a new verifier");
    provider.tell("up");
    becomes_degraded(&gate, &json!([]));
    opens(&gate, &token);
    assert_eq!(provider.asked("/jwks"), asked + 1);
}

#[test]
fn a_verifier_that_a_reload_replaces_leaves_the_provider_alone() {
    let (provider, upstream) = (Provider::start(&[]), Upstream::start());
    let before = discovered(provider.issuer(), ", refresh: 1s", &upstream);
    let gate = Gate::start(&before);
    // Holds what it was opened under for as long as it lives.
    let token = provider.token("chat");
    let mut open = Request::upgrade("/ws/a").bearer(&token).open(gate.address());
    let asked = || provider.asked("/jwks");
    let first = asked();
    eventually("it is refreshed", || asked() > first);
    gate.rewrite(&before.replace("refresh: 1s", "refresh: 1h"));
    gate.metric_becomes("sockgate_config_reloads_total", &["outcome=\"success\""], 1.0);
    becomes_degraded(&gate, &json!([]));
    let after = asked();
    // Longer than two refreshes: that nothing happens is what is waited for.
    std::thread::sleep(Duration::from_millis(2200));
    assert!(asked() <= after + 1, "{} after {after}", asked());
    open.echoes("still here");
}

#[test]
fn explain_asks_the_provider_only_if_told_to() {
    let (provider, upstream) = (Provider::start(&[]), Upstream::start());
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("sockgate.yaml");
    let config = discovered(provider.issuer(), "", &upstream);
    let server = "server: { listen: \"127.0.0.1:0\" }\n";
    std::fs::write(&path, format!("{server}{config}")).expect("written");
    let header = format!("Authorization: Bearer {}", provider.token("chat"));
    let asked = provider.asked("");
    let file = path.to_str().expect("UTF-8");
    let ask = ["explain", "--config", file, "ws://gate.test/ws/a", "-H", &header];
    let dry = run(&ask, &[]);
    assert_eq!(dry.code, 2, "{dry:?}");
    assert!(dry.stdout.contains("--live"), "{dry:?}");
    assert_eq!(run(&["check", "--config", file], &[]).code, 0);
    assert_eq!(provider.asked(""), asked, "the provider was asked");
    let live = run(&[&ask[..], &["--live"]].concat(), &[]);
    assert_eq!(live.code, 0, "{live:?}");
    assert!(live.stdout.contains("service by jwt"), "{live:?}");
    upstream.saw_nothing();
}

#[test]
fn the_recipe_for_keycloak_works_as_written() {
    let (provider, upstream) = (provider(), Upstream::start());
    let recipe = Recipe::read("oidc.md");
    let issuer = "https://id.example.com/realms/demo";
    let config = recipe.placed(
        recipe.configs()[0],
        &[(issuer, provider.issuer()), ("ws://127.0.0.1:3000", &upstream.ws())],
    );
    let gate = Gate::start(&config);
    let [alice, _] = provider.login("alice");
    Request::upgrade(&format!("/ws/a?token={alice}")).open(gate.address()).echoes("hello");
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("alice"));
    assert_eq!(seen.header("x-user-name"), Some("alice"));
    assert_eq!(seen.header("x-user-roles"), Some("offline_access,member"));
    let [mallory, _] = provider.login("mallory");
    let closed = Request::upgrade(&format!("/ws/a?token={mallory}")).closed(gate.address());
    assert_eq!(closed.says(), (4003, "Forbidden"));
}

#[test]
fn the_recipe_for_auth0_works_as_written() {
    let (provider, upstream) = (Provider::start(&["--slash"]), Upstream::start());
    assert!(provider.issuer().ends_with('/'));
    let recipe = Recipe::read("oidc.md");
    let config = recipe.placed(
        recipe.configs()[1],
        &[
            ("https://tenant.eu.auth0.com/", provider.issuer()),
            // The provider of the test calls its resources by their short name.
            ("https://chat.example.com]", "chat]"),
            ("ws://127.0.0.1:3000", &upstream.ws()),
        ],
    );
    let gate = Gate::start(&config);
    let [alice, _] = provider.login("auth0%7Calice");
    opens(&gate, &alice);
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("auth0|alice"));
    assert_eq!(upstream.last().header("x-user-roles"), Some("member"));
    let [mallory, _] = provider.login("auth0%7Cmallory");
    let closed = Request::upgrade("/ws/a").bearer(&mallory).closed(gate.address());
    assert_eq!(closed.says(), (4003, "Forbidden"));
}
