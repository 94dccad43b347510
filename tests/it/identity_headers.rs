//! What the upstream is told about a client, and what a client cannot say.

use serde_json::json;

use super::support::{Gate, Request, SECRET, Seen, Token, Upstream, token};

fn start(server: &str, headers: &str, upstream: &Upstream) -> Gate {
    let config = format!(
        r#"
server: {{ listen: "127.0.0.1:0"{server} }}
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  members: {{ credentials: [{{ header: authorization, verifier: app }}] }}
  guests: {{ anonymous: true, origins: any, credentials: [{{ header: authorization, verifier: app }}] }}
identity: {{ headers: {{ {headers} }} }}
routes:
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{ws}", shared_upstream: true }}
  - {{ name: guests, path: "/guests/*", policy: guests, upstream: "{ws}", shared_upstream: true }}
  - {{ name: open, path: "/open/*", policy: public, upstream: "{ws}", shared_upstream: true }}
  - {{ name: page, path: "/page/*", policy: public, upstream: "{http}", shared_upstream: true,
      identity: {{ headers: {{ X-Route-User: identity.subject }} }} }}
"#,
        ws = upstream.ws(),
        http = upstream.http(),
    );
    Gate::start(&config)
}

const HEADERS: &str = "X-Forwarded-User: identity.subject, X-User-Name: identity.claims.name, \
                       My-Roles: identity.claims.roles";

const SPOOFS: &[&str] = &[
    "X-Forwarded-User",
    "x-forwarded-user",
    "X_Forwarded_User",
    "X-Forwarded_User",
    "X.Forwarded.User",
    "X~Forwarded~User",
    "X-User-Name",
    "x_user_name",
    "MY_ROLES",
    "My.Roles",
    "X-Route-User",
    "X_Route_User",
    "Remote-User",
    "Remote_User",
    "Remote-Groups",
    "X-Remote-User",
    "X-Remote-Anything",
    "X-Auth-Request-Email",
    "X_Auth_Token",
    "X-Forwarded-Email",
    "X-Forwarded-Prefix",
    "X-Forwarded-Port",
    "Forwarded",
    "X-Real-IP",
    "X_Real_Ip",
    "X-Client-IP",
    "True-Client-IP",
    "X-Original-URL",
    "X-Original-URI",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-Goog-Iap-Jwt-Assertion",
    "Cf-Access-Jwt-Assertion",
    "X-Consumer-Id",
    "X-Consumer-Username",
    "X-Client-Cert",
    "X-Client-Cert-Dn",
    "SSL-Client-Verify",
    "SSL_Client_S_Dn",
];

fn spoofed(request: Request) -> Request {
    assert!(!SPOOFS.is_empty());
    SPOOFS.iter().fold(request, |request, name| request.header(name, "spoofed"))
}

fn unspoofed(seen: &Seen) {
    let folded = seen.head.to_ascii_lowercase();
    let left: Vec<_> = folded.lines().filter(|line| line.contains("spoofed")).collect();
    assert!(left.is_empty(), "spoofed headers reached the upstream: {left:?}");
}

#[test]
fn spoofed_identity_headers_are_removed_on_every_route() {
    let upstream = Upstream::start();
    let gate = start("", HEADERS, &upstream);
    let token = token("alice");
    spoofed(Request::upgrade("/ws/a")).bearer(&token).open(gate.address()).echoes("x");
    unspoofed(&upstream.last());
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("alice"));
    assert_eq!(upstream.last().header("x-user-name"), None, "a missing claim is an absent header");
    for path in ["/guests/a", "/open/a"] {
        spoofed(Request::upgrade(path)).open(gate.address()).echoes("x");
        unspoofed(&upstream.last());
        assert_eq!(upstream.last().header("x-forwarded-user"), None, "{path}");
    }
    for path in ["/open/report", "/page/report"] {
        let response = spoofed(Request::get(path)).send(gate.address());
        assert_eq!(response.status, 200, "{path}");
        unspoofed(&upstream.last());
    }
}

/// A header that some policy reads is a credential, and so reaches no upstream; in another
/// spelling neither, which many servers take for it.
#[test]
fn configured_credential_headers_are_removed_on_every_route_in_every_spelling() {
    let upstream = Upstream::start();
    let gate = Gate::start(&format!(
        r#"
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  keyed: {{ credentials: [{{ header: x-key, verifier: app }}] }}
  passing: {{ credentials: [{{ header: x-key, verifier: app, forward: true }}] }}
  members: {{ credentials: [{{ header: authorization, verifier: app }}] }}
routes:
  - {{ path: "/keyed/*", policy: keyed, upstream: "{ws}" }}
  - {{ path: "/passing/*", policy: passing, upstream: "{ws}" }}
  - {{ path: "/members/*", policy: members, upstream: "{ws}" }}
  - {{ path: "/open/*", policy: public, upstream: "{ws}", shared_upstream: true }}
"#,
        ws = upstream.ws(),
    ));
    let token = token("alice");
    for (path, passes) in
        [("/keyed", false), ("/passing", true), ("/members", false), ("/open", false)]
    {
        let request = Request::upgrade(&format!("{path}/a")).header("X-Key", &token);
        let request = request.header("X_Key", "spelled").header("x.key", "spelled");
        let request = match path {
            "/members" => request.bearer(&token),
            _ => request.header("Authorization", "Basic bWU6aXQ="),
        };
        request.open(gate.address()).echoes("x");
        let seen = upstream.last();
        assert_eq!(seen.header("x-key"), passes.then_some(token.as_str()), "{path}");
        assert_eq!((seen.header("x_key"), seen.header("x.key")), (None, None), "{path}");
        // What no policy of the route reads is between the client and the upstream.
        assert_eq!(seen.header("authorization").is_some(), path != "/members", "{path}");
    }
}

#[test]
fn a_header_listed_in_connection_does_not_take_ours_with_it() {
    let upstream = Upstream::start();
    let gate = start("", HEADERS, &upstream);
    Request::upgrade("/ws/a")
        .replace("Connection", "Upgrade, X-Forwarded-User, X_Forwarded_User, X-Forwarded-For")
        .header("X-Forwarded-User", "spoofed")
        .bearer(&token("alice"))
        .open(gate.address())
        .echoes("x");
    let seen = upstream.last();
    unspoofed(&seen);
    assert_eq!(seen.header("x-forwarded-user"), Some("alice"));
    assert!(seen.header("x-forwarded-for").is_some());
}

#[test]
fn computed_headers_are_sent_as_the_claims_say() {
    let upstream = Upstream::start();
    let gate = start("", HEADERS, &upstream);
    let token = Token::of("alice")
        .claim("name", "Zoë Ångström")
        .claim("roles", json!(["member", "admin"]))
        .sign();
    Request::upgrade("/ws/a").bearer(&token).open(gate.address()).echoes("x");
    let seen = upstream.last();
    assert_eq!(seen.header("x-user-name"), Some("Zoë Ångström"));
    assert_eq!(seen.header("my-roles"), Some("member,admin"));
}

#[test]
fn empty_and_null_values_are_absent() {
    let upstream = Upstream::start();
    let gate = start("", HEADERS, &upstream);
    for name in [json!(""), json!(null)] {
        let token = Token::of("alice").claim("name", name).sign();
        Request::upgrade("/ws/a").bearer(&token).open(gate.address()).echoes("x");
        assert_eq!(upstream.last().header("x-user-name"), None);
    }
}

#[test]
fn a_value_that_cannot_be_sent_refuses_as_forbidden() {
    let upstream = Upstream::start();
    let gate = start("", HEADERS, &upstream);
    let cases = [
        ("name", json!("a\r\nX-Admin: yes")),
        ("name", json!("a\u{0}b")),
        ("name", json!("tab\there")),
        ("name", json!("a\u{7f}b")),
        ("name", json!("a\u{85}b")),
        ("name", json!(" outer")),
        ("name", json!("outer ")),
        ("name", json!("x".repeat(4097))),
        ("roles", json!(["member,admin"])),
        ("roles", json!(["a\nb"])),
    ];
    assert!(!cases.is_empty());
    for (claim, value) in cases {
        let token = Token::of("alice").claim(claim, value.clone()).sign();
        let closed = Request::upgrade("/ws/a").bearer(&token).closed(gate.address());
        assert_eq!(closed.says(), (4003, "Forbidden"), "{claim}: {value}");
    }
    upstream.saw_nothing();
}

#[test]
fn the_upstream_is_told_the_way_the_request_took() {
    let upstream = Upstream::start();
    let gate = start("", HEADERS, &upstream);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    Request::upgrade("/ws/a")
        .header("X-Forwarded-For", "198.51.100.7")
        .header("X-Forwarded-Proto", "wss")
        .header("X-Forwarded-Host", "evil.test")
        .header("X-Request-Id", "from-the-client")
        .header("traceparent", trace)
        .bearer(&token("alice"))
        .open(gate.address())
        .echoes("x");
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("gate.test"));
    assert_eq!(seen.header("traceparent"), Some(trace));
    assert!(seen.header("host").is_some());
    let id = seen.header("x-request-id").expect("an id");
    assert!(!id.is_empty() && id != "from-the-client");
}

#[test]
fn a_trusted_proxy_is_believed_and_only_as_far_as_it_reaches() {
    let upstream = Upstream::start();
    let gate = start(", trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]", HEADERS, &upstream);
    Request::upgrade("/ws/a")
        .header("X-Forwarded-For", "198.51.100.7, 203.0.113.9, 10.1.2.3")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "app.test")
        .header("X-Request-Id", "from-the-proxy-1")
        .header("X-Forwarded-User", "spoofed")
        .bearer(&token("alice"))
        .open(gate.address())
        .echoes("x");
    let seen = upstream.last();
    unspoofed(&seen);
    let path = seen.header("x-forwarded-for").expect("an address");
    assert!(path.contains("203.0.113.9"), "{path}");
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("gate.test"), "trust_forwarded_host is off");
    assert_eq!(seen.header("x-request-id"), Some("from-the-proxy-1"));
    let line = gate.record("/ws/a");
    assert!(line["peer"].as_str().expect("a peer").starts_with("203.0.113.9"), "{line}");
}

#[test]
fn an_insane_request_id_of_a_trusted_proxy_is_replaced() {
    let upstream = Upstream::start();
    let gate = start(", trusted_proxies: [127.0.0.0/8]", HEADERS, &upstream);
    for insane in ["a b", "\"><script>", &"x".repeat(500), "", "ä"] {
        Request::upgrade("/ws/a")
            .header("X-Request-Id", insane)
            .bearer(&token("alice"))
            .open(gate.address())
            .echoes("x");
        let seen = upstream.last();
        let id = seen.header("x-request-id").expect("an id");
        assert!(!id.is_empty() && id != insane, "{insane}");
    }
}

#[test]
fn a_route_may_replace_the_identity_headers() {
    let upstream = Upstream::start();
    let config = super::support::members(&upstream.ws()).replace(
        "policy: members,",
        "policy: members, identity: { headers: { X-Who: 'identity.subject + \"@\" + request.host' } },",
    );
    let gate = Gate::start(&config);
    Request::upgrade("/ws/a").bearer(&token("alice")).open(gate.address()).echoes("x");
    assert_eq!(upstream.last().header("x-who"), Some("alice@gate.test"));
    assert_eq!(upstream.last().header("x-forwarded-user"), None);
}
