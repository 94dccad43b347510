//! Logouts that an issuer tells of (OpenID Connect Back-Channel Logout 1.0): by a real
//! provider, and by tokens that none would send.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{
    Gate, Provider, Recipe, Redis, Request, Response, SECRET, Socket, Token, Upstream, canary,
    dial, eventually, unix_now,
};

const ISSUER: &str = "https://id.example";
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
const SOON: Duration = Duration::from_secs(1);

/// A verifier whose keys are here, and another one for the same tokens.
fn config(rest: &str, upstream: &Upstream) -> String {
    let jwt = format!("secret: {SECRET}, algorithms: [HS256], issuer: \"{ISSUER}\"");
    let upstream = upstream.ws();
    format!(
        r#"{rest}
verifiers:
  app: {{ jwt: {{ {jwt}, audience: [chat, web], required_claims: [] }} }}
  other: {{ jwt: {{ {jwt}, audience: [chat] }} }}
policies:
  members: {{ credentials: [{{ header: authorization, verifier: app }}] }}
  others: {{ credentials: [{{ header: authorization, verifier: other }}] }}
routes:
  - {{ name: logout, path: /logout/backchannel, backchannel_logout: app }}
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{upstream}" }}
  - {{ name: others, path: "/others/*", policy: others, upstream: "{upstream}" }}
"#
    )
}

fn login(subject: &str, session: &str) -> Token {
    let token = Token::of(subject).claim("iss", ISSUER).claim("aud", "chat");
    token.claim("sid", session).claim("iat", unix_now() - 5)
}

/// A good logout token of nobody yet.
fn logout(token_id: &str) -> Token {
    let token = Token::of("x").without("sub").without("exp").header("typ", "logout+jwt");
    let token = token.claim("iss", ISSUER).claim("aud", "web").claim("iat", unix_now());
    token.claim("jti", token_id).claim("events", json!({ (EVENT): {} }))
}

fn form(body: &str) -> Request {
    Request::new("POST", "/logout/backchannel")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(body)
}

fn post(gate: &Gate, token: &str) -> Response {
    form(&format!("logout_token={token}")).send(gate.address())
}

#[track_caller]
fn is_done(answer: &Response) {
    assert_eq!((answer.status, answer.text().as_str()), (200, ""), "{}", answer.head);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[track_caller]
fn is_bad(answer: &Response, what: &str) {
    assert_eq!(answer.status, 400, "{what}: {}", answer.text());
    assert_eq!(answer.error(), "invalid_request", "{what}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
}

#[track_caller]
fn open(gate: &Gate, path: &str, token: &str) -> Socket {
    let mut socket = Request::upgrade(path).bearer(token).open(gate.address());
    socket.echoes("hello");
    socket
}

#[track_caller]
fn closes_soon(socket: Socket, since: Instant) {
    assert_eq!(socket.closed().says(), (4001, "Session revoked"));
    assert!(since.elapsed() < SOON, "closed after {:?}", since.elapsed());
}

/// The recipe as written, in front of `upstream`, with the provider's names.
fn recipe(provider: &Provider, upstream: &Upstream) -> Gate {
    let recipe = Recipe::read("logout.md");
    let (keys, upstream) = (provider.issuer().to_owned(), upstream.address().to_string());
    let places = [
        ("https://id.example.com/realms/demo", keys.as_str()),
        ("audience: [chat, web]", "audience: [chat, browser]"),
        ("127.0.0.1:3000", upstream.as_str()),
    ];
    let gate = recipe.start_in(recipe.directory(), &places, &[]);
    eventually("the keys are there", || gate.ask("/readyz").json()["degraded"] == json!([]));
    gate
}

#[test]
fn who_logs_out_at_the_provider_is_closed_within_a_second() {
    let (provider, upstream) = (Provider::start(&[]), Upstream::start());
    let gate = recipe(&provider, &upstream);
    let url = format!("http://{}/logout/backchannel", gate.address());
    provider.tells_logouts_to(&url, true);
    let [elsewhere, _] = provider.login("alice");
    let [here, id] = provider.login("alice");
    let [bob, _] = provider.login("bob");
    let [socket, mut other, mut bystander] =
        [&here, &elsewhere, &bob].map(|token| open(&gate, "/ws/a", token));
    // A browser that logs out is the last that logged in.
    let began = Instant::now();
    assert_eq!(provider.logout("alice"), "done");
    closes_soon(socket, began);
    other.echoes("another session of hers");
    bystander.echoes("still here");
    let refused = Request::upgrade("/ws/b").bearer(&here).closed(gate.address());
    assert_eq!(refused.says(), (4001, "Session revoked"));
    let id = Request::upgrade("/ws/id").bearer(&id).closed(gate.address());
    assert_eq!(id.code, 4001, "an id token is made out to the same client, and is no login");
    assert_eq!(gate.reason("/ws/id"), "invalid_credential");
    let [again, _] = provider.login("alice");
    open(&gate, "/ws/c", &again).echoes("a new login");
    gate.metric_becomes("sockgate_revocations_total", &["source=\"logout\""], 1.0);
    let line = gate.record("/logout/backchannel");
    assert_eq!((&line["outcome"], &line["status"]), (&json!("admitted"), &json!(200)));
    assert_eq!((&line["verifier"], &line["subject"]), (&json!("idp"), &Value::Null));

    // A client that is told of no session is told of the user.
    provider.tells_logouts_to(&url, false);
    let [first, _] = provider.login("carol");
    let [second, _] = provider.login("carol");
    let sockets = [&first, &second].map(|token| open(&gate, "/ws/a", token));
    let began = Instant::now();
    assert_eq!(provider.logout("carol"), "done");
    sockets.into_iter().for_each(|socket| closes_soon(socket, began));
    bystander.echoes("still here");
}

#[test]
fn a_provider_whose_keys_are_not_there_may_tell_again() {
    let upstream = Upstream::start();
    let provider = Provider::start(&["--down"]);
    let jwt = format!("issuer: \"{}\", audience: [chat, browser]", provider.issuer());
    let own = format!(
        "secret: {SECRET}, algorithms: [HS256], issuer: \"{ISSUER}\", audience: [chat, web], required_claims: []"
    );
    let gate = Gate::start(&config("", &upstream).replacen(&own, &jwt, 1));
    let token = logout("j").claim("sub", "alice").header("alg", "RS256").header("kid", "key-1");
    let answer = post(&gate, &token.sign());
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    // No key would help.
    is_bad(&post(&gate, &logout("j").claim("sub", "alice").sign()), "a secret");
    provider.tell("up");
    eventually("the keys are there", || gate.ask("/readyz").json()["degraded"] == json!([]));
    is_bad(&post(&gate, &token.sign()), "forged");
}

#[test]
fn a_logout_token_ends_its_session_or_all_of_its_user() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    let session = canary("canary-session-0101");
    let open_all = || {
        [
            open(&gate, "/ws/a", &login("alice", &session).sign()),
            open(&gate, "/ws/a", &login("alice", "s-2").sign()),
            open(&gate, "/others/a", &login("alice", &session).sign()),
            open(&gate, "/ws/a", &login("bob", "s-3").sign()),
        ]
    };
    let [mine, mut second, mut elsewhere, mut bystander] = open_all();
    let began = Instant::now();
    let both = logout("j-1").claim("sub", "alice").claim("sid", session.as_str());
    is_done(&post(&gate, &both.sign()));
    closes_soon(mine, began);
    second.echoes("another session");
    elsewhere.echoes("another verifier");
    bystander.echoes("another user");
    // Only this verifier's session is over, and it stays so.
    let late = Request::upgrade("/ws/late").bearer(&login("alice", &session).sign());
    assert_eq!(late.closed(gate.address()).says(), (4001, "Session revoked"));
    let began = Instant::now();
    is_done(&post(&gate, &logout("j-2").claim("sub", "alice").sign()));
    closes_soon(second, began);
    elsewhere.echoes("another verifier");
    bystander.echoes("another user");
    let began = Instant::now();
    // None but a session, as a form of more fields, percent-encoded.
    let token = logout("j-3").claim("sid", "s-3").sign().replace('.', "%2E");
    is_done(&form(&format!("x=1&logout_token={token}&state=a+b")).send(gate.address()));
    closes_soon(bystander, began);
    gate.metric_becomes("sockgate_revocations_total", &["source=\"logout\""], 3.0);
    let decided = ["credential=\"logout_token\"", "verifier=\"app\"", "outcome=\"admitted\""];
    gate.metric_becomes("sockgate_auth_decisions_total", &decided, 3.0);
}

#[test]
fn what_is_no_logout_token_is_answered_400_and_changes_nothing() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    let mut socket = open(&gate, "/ws/a", &login("alice", "s-1").sign());
    let good = |id: &str| logout(id).claim("sub", "alice").claim("sid", "s-1");
    let now = unix_now();
    let other_key = [7; 32];
    let forged = [
        ("nothing of a token", "a".to_owned()),
        ("another signature", good("f").sign_with(&other_key)),
        ("no signature", Token::sign_raw(r#"{"alg":"none"}"#, &good("f").claims(), b"")),
        ("another algorithm", good("f").header("alg", "HS512").sign()),
        ("a critical header", good("f").header("crit", json!(["x"])).sign()),
        ("its own key", good("f").header("jwk", json!({"kty": "oct", "k": "AA"})).sign()),
        ("another type", good("f").header("typ", "at+jwt").sign()),
        ("a security event", good("f").header("typ", "secevent+jwt").sign()),
        ("no issuer", good("f").without("iss").sign()),
        ("another issuer", good("f").claim("iss", "https://id.example/").sign()),
        ("a list of issuers", good("f").claim("iss", json!([ISSUER])).sign()),
        ("no audience", good("f").without("aud").sign()),
        ("another audience", good("f").claim("aud", "other").sign()),
        ("a null audience", good("f").claim("aud", Value::Null).sign()),
        ("no events", good("f").without("events").sign()),
        ("events that are none", good("f").claim("events", EVENT).sign()),
        ("a list of events", good("f").claim("events", json!([EVENT])).sign()),
        ("another event", good("f").claim("events", json!({"http://x/logout": {}})).sign()),
        ("an event that is none", good("f").claim("events", json!({ (EVENT): true })).sign()),
        ("a null event", good("f").claim("events", json!({ (EVENT): null })).sign()),
        ("a nonce", good("f").claim("nonce", "n").sign()),
        ("a null nonce", good("f").claim("nonce", Value::Null).sign()),
        ("neither sub nor sid", logout("f").sign()),
        ("an empty sid", logout("f").claim("sid", "").sign()),
        ("a sid that is no text", good("f").claim("sid", 5).sign()),
        ("a sub that is no text", good("f").claim("sub", json!(["alice"])).sign()),
        ("no iat", good("f").without("iat").sign()),
        ("iat as text", good("f").claim("iat", now.to_string()).sign()),
        ("iat of long ago", good("f").claim("iat", now - 310).sign()),
        ("iat of the future", good("f").claim("iat", now + 310).sign()),
        ("expired", good("f").claim("exp", now - 40).sign()),
        ("exp as text", good("f").claim("exp", "9999999999").sign()),
        ("not valid yet", good("f").claim("nbf", now + 60).sign()),
        ("no jti", good("f").without("jti").sign()),
        ("an empty jti", good("").sign()),
        ("a jti that is no text", good("f").claim("jti", 5).sign()),
        ("an id token", login("alice", "s-1").claim("nonce", "n").claim("aud", "web").sign()),
        ("an access token", login("alice", "s-1").sign()),
        (
            "a claim twice",
            Token::sign_raw(
                r#"{"alg":"HS256","typ":"logout+jwt"}"#,
                &good("f").claims().replace("{\"", "{\"sid\":\"x\",\""),
                SECRET.as_bytes(),
            ),
        ),
    ];
    for (what, token) in &forged {
        is_bad(&post(&gate, token), what);
    }
    let token = good("f").sign();
    let typed = |kind: &str| {
        let form = format!("logout_token={token}");
        Request::new("POST", "/logout/backchannel").header("Content-Type", kind).body(form)
    };
    let send = |request: Request| request.send(gate.address());
    let large = format!("x={}&logout_token={token}", "a".repeat(70_000));
    for (what, request) in [
        ("no token", form("token=a")),
        ("an empty token", form("logout_token=")),
        ("an empty body", form("")),
        ("two tokens", form(&format!("logout_token={token}&logout_token={token}"))),
        ("JSON", typed("application/json")),
        ("another form", typed("multipart/form-data; boundary=x")),
        (
            "no type",
            Request::new("POST", "/logout/backchannel").body(format!("logout_token={token}")),
        ),
        ("too large", form(&large)),
    ] {
        is_bad(&send(request), what);
    }
    for method in ["GET", "PUT", "OPTIONS", "HEAD"] {
        let answer =
            send(Request::new(method, &format!("/logout/backchannel?logout_token={token}")));
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method}");
    }
    assert_eq!(Request::upgrade("/logout/backchannel").status(gate.address()), 405);
    socket.echoes("still here");
    assert!(gate.metric("sockgate_revocations_total", &["source=\"logout\""]) < 0.5);
    let line = gate.line("of the nonce", |line| line["cause"] == "a nonce is for id tokens");
    assert_eq!((&line["outcome"], &line["status"]), (&json!("refused"), &json!(400)));
    assert_eq!(line["reason"], "invalid_credential");
    // It was good all the time, with a type that says little, and only once.
    is_done(&send(typed("Application/X-WWW-Form-Urlencoded; charset=utf-8")));
    assert_eq!(socket.closed().says(), (4001, "Session revoked"));
    is_bad(&post(&gate, &token), "a second time");
    is_bad(&post(&gate, &good("f").claim("aud", json!(["web"])).sign()), "its jti, signed anew");
    for good in [
        good("g-1").header("typ", "JWT"),
        good("g-2").header("typ", "application/logout+jwt"),
        good("g-3").claim("aud", json!(["x", "web"])).claim("exp", now + 120),
        good("g-4").claim("iat", now - 290),
        good("g-5").claim("iat", now + 290),
        good("g-6").claim("events", json!({ (EVENT): {}, "http://x/other": {} })),
    ] {
        is_done(&post(&gate, &good.sign()));
    }
    let untyped = Token::sign_raw(r#"{"alg":"HS256"}"#, &good("g-7").claims(), SECRET.as_bytes());
    is_done(&post(&gate, &untyped));
}

#[test]
fn a_logout_token_is_no_login_whatever_its_type() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", &upstream));
    let token = logout("l").claim("sub", "alice").claim("exp", unix_now() + 120);
    for (path, typ) in [("/ws/typed", "logout+jwt"), ("/ws/plain", "JWT")] {
        let refused = Request::upgrade(path).bearer(&logout("l").header("typ", typ).sign());
        assert_eq!(refused.closed(gate.address()).code, 4001);
        assert_eq!(gate.reason(path), "invalid_credential");
    }
    is_done(&post(&gate, &token.sign()));
    upstream.saw_nothing();
}

#[test]
fn a_body_that_does_not_come_holds_nobody_up() {
    use std::io::{Read as _, Write as _};
    let upstream = Upstream::start();
    let gate = Gate::start(&config("limits: { header_timeout: 1s }", &upstream));
    let half = form("logout_token=").replace("Content-Length", "100");
    let mut stream = dial(gate.address());
    stream.write_all(&half.bytes()).expect("sent");
    let began = Instant::now();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn every_replica_hears_of_a_logout_and_none_takes_its_token_twice() {
    let upstream = Upstream::start();
    let mut redis = Redis::start();
    let section = format!("revocation: {{ redis: \"{}\" }}", redis.url());
    let start = || Gate::start(&config(&section, &upstream));
    let gates = [start(), start()];
    let token = login("alice", "s-1").sign();
    let sockets = gates.each_ref().map(|gate| open(gate, "/ws/a", &token));
    let began = Instant::now();
    let told = logout("j-1").claim("sid", "s-1").sign();
    is_done(&post(&gates[0], &told));
    sockets.into_iter().for_each(|socket| closes_soon(socket, began));
    gates.iter().for_each(|gate| is_bad(&post(gate, &told), "a second time"));
    is_bad(&post(&start(), &told), "a second time, to a later replica");
    let keys = redis.keys();
    let once = keys.iter().find(|key| key.starts_with("sockgate:revocations:once:"));
    let left = redis.milliseconds_left(once.expect("a key of what was seen"));
    assert!((200_000..=302_000).contains(&left), "{left} ms");
    assert!(!keys.concat().contains("j-1"), "{keys:?}");
    // Without Redis each replica knows what it has seen itself, and nobody waits long.
    redis.stop();
    let bob = open(&gates[1], "/ws/a", &login("bob", "s-2").sign());
    let began = Instant::now();
    let told = logout("j-2").claim("sid", "s-2").sign();
    is_done(&post(&gates[1], &told));
    closes_soon(bob, began);
    is_bad(&post(&gates[1], &told), "a second time");
}

#[test]
fn a_redis_that_hangs_keeps_nobody_logged_in() {
    let upstream = Upstream::start();
    let redis = Redis::start();
    let section = format!("revocation: {{ redis: \"{}\", timeout: 1s }}", redis.url());
    let gate = Gate::start(&config(&section, &upstream));
    let socket = open(&gate, "/ws/a", &login("alice", "s-1").sign());
    redis.pause();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| closes_soon(socket, began));
        is_done(&post(&gate, &logout("j-1").claim("sid", "s-1").sign()));
    });
    redis.resume();
}
