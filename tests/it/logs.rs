//! One line when a connection opens or is refused, one when it closes, and no
//! secret in either.

use serde_json::{Value, json};

use super::support::{
    Gate, Nobody, Request, Token, Upstream, canary, members, percent_encode_all, policy, token,
};

fn of<'a>(lines: &'a [Value], id: &Value) -> Vec<&'a Value> {
    lines.iter().filter(|line| &line["id"] == id).collect()
}

#[test]
fn open_and_close_are_one_line_each_joined_by_id() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let mut socket = Request::upgrade("/ws/a?x=1")
        .cookie(&token("alice"))
        .origin("http://gate.test")
        .open(gate.address());
    socket.echoes("12345");
    socket.finish();
    let close = gate.line("of the close", |line| line["code"] == 1000);
    let lines = gate.lines();
    let [open, again] = of(&lines, &close["id"])[..] else {
        panic!("not two lines: {:#?}", of(&lines, &close["id"]));
    };
    assert_eq!(again, &close);
    for line in [open, &close] {
        assert!(line["time"].as_str().is_some_and(|time| time.starts_with("20")), "{line}");
    }
    assert!(!open["id"].is_null());
    assert!(open["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1")), "{open}");
    assert_eq!(open["route"], "chat");
    assert_eq!(open["method"], "GET");
    assert!(open["url"].as_str().is_some_and(|url| url.ends_with("/ws/a?x=1")), "{open}");
    assert_eq!(open["origin"], "http://gate.test");
    assert!(open["credential"].as_str().is_some_and(|from| from.starts_with("cookie")), "{open}");
    assert_eq!(open["verifier"], "app");
    assert_eq!(open["subject"], "alice");
    assert_eq!(open["outcome"], "admitted");
    assert!(
        open["upstream"]
            .as_str()
            .is_some_and(|to| upstream.ws().contains(to) || to.contains(&upstream.ws())),
        "{open}"
    );
    assert_eq!(open["status"], 101);
    assert_eq!(close["initiator"], "client");
    assert!(close["duration_ms"].is_number(), "{close}");
    for key in ["bytes_up", "bytes_down", "frames_up", "frames_down"] {
        assert!(close[key].as_u64().is_some_and(|count| count > 0), "{key}: {close}");
    }
}

#[test]
fn a_refusal_is_one_line_with_its_reason() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    Request::upgrade("/ws/refused")
        .cookie(&Token::of("alice").sign_with(&[7; 32]))
        .closed(gate.address());
    let line = gate.record("/ws/refused");
    assert_eq!(line["reason"], "invalid_credential");
    assert_eq!(line["outcome"], "refused");
    assert_eq!(line["status"], 101, "the number sent");
    assert!(line["subject"].is_null() || line["subject"] == "", "{line}");
    let not_found = Request::get("/nowhere").send(gate.address());
    assert_eq!(not_found.status, 404);
    assert_eq!(gate.record("/nowhere")["status"], 404);
}

#[test]
fn credentials_are_redacted_however_they_are_encoded() {
    let (upstream, nobody) = (Upstream::start(), Nobody::there());
    let config = members(&upstream.ws()).replace("query: token", "query: tkn")
        + &format!("  - {{ path: /dead, policy: members, upstream: \"{}\" }}\n", nobody.ws())
        + "log: { level: debug, redact: [mine] }\n";
    let names = [
        "tkn",
        "token",
        "access_token",
        "id_token",
        "refresh_token",
        "jwt",
        "auth",
        "authorization",
        "api_key",
        "apikey",
        "key",
        "password",
        "secret",
        "session",
        "sid",
        "ticket",
        "code",
        "sig",
        "signature",
        "mine",
    ];
    for name in names {
        // A gate for each: one alone would sample so many refusals.
        let gate = Gate::start(&config);
        let encoded = percent_encode_all(name);
        let partly = format!("%{:02x}{}", name.as_bytes()[0], &name[1..]);
        let spellings = [name, &name.to_uppercase(), &encoded, &partly];
        for (number, spelling) in spellings.into_iter().enumerate() {
            let secret = canary(&format!("canary-{number}-of-{name}-in-a-url"));
            let name = spelling;
            for value in
                [secret.clone(), percent_encode_all(&secret), format!("%63{}", &secret[1..])]
            {
                let path = format!("/ws/redact-{number}");
                let referer = format!("http://gate.test/?x=1&{name}={value}");
                Request::get(&format!("{path}?a=1&{name}={value}&b=2"))
                    .header("Referer", &referer)
                    .send(gate.address());
                let url = gate.record(&path)["url"].as_str().expect("a URL").to_owned();
                assert!(url.contains("REDACTED"), "{name}: {url}");
                assert!(url.contains("a=1") && url.contains("b=2"), "{name}: {url}");
            }
        }
    }
    let gate = Gate::start(&config);
    let tokens = [token("alice"), token("bob"), token("carol")];
    Request::upgrade(&format!("/ws/admitted?tkn={}", tokens[0]))
        .open(gate.address())
        .echoes("admitted");
    Request::upgrade(&format!("/dead?tkn={}", tokens[1])).closed(gate.address());
    Request::upgrade(&format!("/ws/a?other={}", tokens[2])).closed(gate.address());
    Request::get(&format!("/ws/{}", tokens[2])).send(gate.address());
    Request::get("/ws/a").header("User-Agent", &tokens[2]).origin(&tokens[2]).send(gate.address());
    Request::get("/ws/a").header("Host", "x").bearer(&tokens[0]).send(gate.address());
    assert_eq!(gate.record("/ws/admitted")["outcome"], "admitted");
    // The drop of the gate searches all it printed for the canaries.
}

#[test]
fn a_credential_header_moved_into_the_url_is_redacted_too() {
    let upstream = Upstream::start();
    let credentials = "credentials: [{ header: x-app-tok, verifier: app }]";
    let gate = Gate::start(&policy(credentials, &upstream.ws()));
    let secret = canary("canary-of-a-header-in-a-url");
    Request::get(&format!("/ws/moved?x-app-tok={secret}")).send(gate.address());
    assert_eq!(gate.record("/ws/moved")["url"], "/ws/moved?x-app-tok=REDACTED");
}

#[test]
fn an_unparsable_target_and_the_close_reason_of_a_peer_are_not_logged() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let mut socket = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    socket.send_frame(&super::support::Frame::close(
        4100,
        &canary("canary-close-reason-of-a-client"),
    ));
    socket.closed();
    gate.line("of the close", |line| line["initiator"] == "client");
    let target = canary("canary-in-an-unparsable-target");
    let response = Request::get(&format!("/ws/%zz{target}?a=b")).send(gate.address());
    assert_eq!(response.status, 400);
    gate.line("of the refusal", |line| line["status"] == 400);
    super::support::exchange(gate.address(), format!("GET {target}\0 HTTP/1.1\r\n\r\n").as_bytes());
}

#[test]
fn no_userinfo_of_an_origin_is_logged() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let password = canary("canary-in-an-origin");
    for origin in
        ["http://user:{}@evil.example:1", "user:{}@evil.example:1", "x://{}@@evil.example:1"]
    {
        let origin = origin.replace("{}", &password);
        let request = Request::upgrade("/ws/a").cookie(&token("alice")).origin(&origin);
        assert_eq!(request.status(gate.address()), 403, "{origin}");
    }
    let of_it = |line: &Value| line["origin"] == "http://evil.example:1";
    gate.line("of the refusal", of_it);
}

#[test]
fn a_flood_of_refusals_is_sampled_and_counted() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    for _ in 0..600 {
        Request::get("/ws/flooded").send(gate.address());
    }
    gate.metric_becomes("sockgate_http_requests_total", &["status=\"401\""], 600.0);
    let written = gate.lines().iter().filter(|line| line["status"] == 401).count();
    assert!(written >= 50, "{written}");
}

#[test]
fn text_lines_hold_the_same() {
    let upstream = Upstream::start();
    let gate = Gate::start(&(members(&upstream.ws()) + "log: { format: text }\n"));
    let secret = token("alice");
    Request::upgrade(&format!("/ws/in-text?token={secret}")).open(gate.address()).echoes("hello");
    super::support::eventually("there is a line", || {
        gate.output().lines().any(|line| line.contains("/ws/in-text") && line.contains("alice"))
    });
    assert!(gate.lines().is_empty(), "{}", gate.output());
}

#[test]
fn the_level_decides_what_is_written() {
    let upstream = Upstream::start();
    let directory = tempfile::TempDir::new().expect("a directory");
    let gate = Gate::start_in(
        directory,
        &(members(&upstream.ws()) + "log: { level: info }\n"),
        &[("SOCKGATE_LOG__LEVEL", "debug")],
    );
    Request::get("/ws/a").send(gate.address());
    assert_eq!(gate.record("/ws/a")["status"], json!(401));
}
