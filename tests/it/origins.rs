//! Which pages may connect.

use super::support::{Gate, Request, Upstream, policy, token};

fn gate(origins: &str, upstream: &Upstream) -> Gate {
    let config = policy(
        &format!("origins: {origins}, credentials: [{{ cookie: session, verifier: app }}]"),
        &upstream.ws(),
    );
    Gate::start(&config)
}

fn status(gate: &Gate, origins: &[&str]) -> u16 {
    let mut request = Request::upgrade("/ws/a").cookie(&token("alice"));
    for origin in origins {
        request = request.origin(origin);
    }
    request.status(gate.address())
}

#[test]
fn a_list_admits_its_origins_and_no_look_alike() {
    let upstream = Upstream::start();
    let gate = gate(
        r#"["https://app.example", "https://*.wild.example", "http://dev.test:8080"]"#,
        &upstream,
    );
    let allowed = ["https://app.example", "https://a.wild.example", "http://dev.test:8080"];
    for origin in allowed {
        assert_eq!(status(&gate, &[origin]), 101, "{origin}");
    }
    assert_eq!(status(&gate, &[]), 101, "no Origin: not a browser");
    let denied = [
        "https://evil.example",
        "https://app.example.evil.test",
        "https://evil-app.example",
        "https://notapp.example",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example:80",
        "https://app.example@evil.test",
        "https://user@app.example",
        "https://app.example/",
        "https://app.example/path",
        "https://app.example\\evil.test",
        "https://app%2eexample",
        "https://app.example.",
        "https://app.example?x",
        "https://app.example#x",
        "https://wild.example",
        "https://.wild.example",
        "https://evilwild.example",
        "http://a.wild.example",
        "https://a.wild.example:444",
        "https://xn--pp-7ka.example",
        "https://аpp.example",
        "http://dev.test",
        "https://app.example https://evil.test",
        "https://evil.test, https://app.example",
        "https://app.example, https://app.example",
        "null",
        "NULL",
        "",
        "*",
        "app.example",
        "//app.example",
        "file://",
        "https://",
    ];
    for origin in denied {
        let got = status(&gate, &[origin]);
        assert!([403, 400].contains(&got), "{origin}: {got}");
    }
    assert_eq!(status(&gate, &["https://app.example", "https://evil.test"]), 403);
    assert_eq!(status(&gate, &["https://app.example", "https://app.example"]), 403);
    assert_eq!(upstream.seen().len(), allowed.len() + 1);
}

#[test]
fn same_compares_host_and_port_with_the_host_header() {
    let upstream = Upstream::start();
    let gate = gate("same", &upstream);
    let cases = [
        ("gate.test", "http://gate.test", 101),
        ("GATE.test.", "http://gate.test", 101),
        ("gate.test:8080", "http://gate.test:8080", 101),
        ("gate.test:8080", "http://gate.test", 403),
        ("gate.test:8080", "http://gate.test:8081", 403),
        ("gate.test", "http://gate.test:8080", 403),
        ("gate.test", "http://other.test", 403),
        ("gate.test", "http://sub.gate.test", 403),
        ("gate.test", "null", 403),
        ("[::1]:8080", "http://[::1]:8080", 101),
    ];
    for (host, origin, expected) in cases {
        let request =
            Request::upgrade("/ws/a").replace("Host", host).cookie(&token("alice")).origin(origin);
        assert_eq!(request.status(gate.address()), expected, "{origin} at {host}");
    }
}

#[test]
fn same_knows_from_a_trusted_proxy_that_tls_ended_in_front() {
    let upstream = Upstream::start();
    let config =
        policy("origins: same, credentials: [{ cookie: session, verifier: app }]", &upstream.ws())
            + "server: { listen: \"127.0.0.1:0\", trusted_proxies: [127.0.0.0/8] }\n";
    let gate = Gate::start(&config);
    for (origin, expected) in [("https://gate.test", 101), ("http://gate.test", 403)] {
        let request = Request::upgrade("/ws/a")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-For", "203.0.113.9")
            .cookie(&token("alice"))
            .origin(origin);
        assert_eq!(request.status(gate.address()), expected, "{origin}");
    }
}

#[test]
fn a_forwarded_host_does_not_feed_same_unless_it_is_trusted() {
    let upstream = Upstream::start();
    for (trust, expected) in [(false, 403), (true, 101)] {
        let config = policy(
            "origins: same, credentials: [{ cookie: session, verifier: app }]",
            &upstream.ws(),
        ) + &format!(
            "server: {{ listen: \"127.0.0.1:0\", trusted_proxies: [127.0.0.0/8], \
             trust_forwarded_host: {trust} }}\n"
        );
        let gate = Gate::start(&config);
        let request = Request::upgrade("/ws/a")
            .header("X-Forwarded-Host", "app.test")
            .cookie(&token("alice"))
            .origin("http://app.test");
        assert_eq!(request.status(gate.address()), expected, "trusted: {trust}");
    }
}

#[test]
fn any_is_the_default_only_where_no_credential_is_ambient() {
    let upstream = Upstream::start();
    let cases = [
        ("{ cookie: session, verifier: app }", 403),
        ("{ header: authorization, scheme: Basic, verifier: app }", 403),
        ("{ header: authorization, verifier: app }", 101),
        ("{ query: token, verifier: app }", 101),
        ("{ query: token, verifier: app }, { cookie: session, verifier: app }", 403),
    ];
    for (credentials, expected) in cases {
        let gate = Gate::start(&policy(&format!("credentials: [{credentials}]"), &upstream.ws()));
        let token = token("alice");
        let request = Request::upgrade(&format!("/ws/a?token={token}"))
            .bearer(&token)
            .cookie(&token)
            .origin("https://elsewhere.test");
        assert_eq!(request.status(gate.address()), expected, "{credentials}");
    }
}

#[test]
fn plain_requests_are_judged_by_their_origin_too() {
    let upstream = Upstream::start();
    let gate = gate("same", &upstream);
    let request = |origin: &str| {
        Request::new("POST", "/ws/report").cookie(&token("alice")).origin(origin).body("x")
    };
    assert_eq!(request("http://evil.test").send(gate.address()).status, 403);
    assert_eq!(request("http://gate.test").send(gate.address()).status, 200);
    assert_eq!(upstream.seen().len(), 1);
}
