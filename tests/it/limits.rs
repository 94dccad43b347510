//! What one client, one address and everybody together may use up.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::{
    Frame, Gate, PATIENCE, Peer, Request, Response, Socket, Token, Upstream, canary, dial,
    eventually, members, policy, token,
};

fn start(limits: &str, upstream: &Upstream) -> Gate {
    Gate::start(&format!("{}limits: {{ {limits} }}\n", members(&upstream.ws())))
}

fn request(subject: &str) -> Request {
    Request::upgrade("/ws/a").cookie(&token(subject))
}

/// Opens as soon as there is room again.
fn opens_again(request: &Request, gate: &Gate) {
    eventually("there is room again", || request.status(gate.address()) == 101);
}

#[test]
fn the_process_takes_no_more_connections_than_it_may() {
    let upstream = Upstream::start();
    let gate = start("connections: 2, unauthenticated: 100%", &upstream);
    let mut first = request("alice").open(gate.address());
    let mut second = request("bob").open(gate.address());
    let third = request("carol").send(gate.address());
    assert_eq!(third.status, 503);
    assert!(third.header("retry-after").is_some());
    assert_eq!(third.header("connection"), Some("close"));
    assert_eq!(gate.line("of the refusal", |l| l["reason"] == "limit_connections")["status"], 503);
    first.echoes("still here");
    second.echoes("still here");
    drop((first, second));
    opens_again(&request("carol"), &gate);
}

#[test]
fn connections_without_a_permit_have_their_own_bound() {
    let upstream = Upstream::start();
    let gate = start("connections: 10, unauthenticated: 10%, header_timeout: 30s", &upstream);
    let mut half = dial(gate.address());
    half.write_all(b"GET /ws/a HTTP/1.1\r\n").expect("sent");
    let mut refused = None;
    eventually("the half-open connection counts", || {
        let response = request("alice");
        let mut stream = dial(gate.address());
        let _ = stream.write_all(&response.bytes());
        refused = Response::read(&mut stream).ok().filter(|answer| answer.status == 503);
        refused.is_some()
    });
    let refused = refused.expect("just seen");
    assert!(refused.header("retry-after").is_some());
    gate.line("of the refusal", |line| line["reason"] == "limit_unauthenticated");
    drop(half);
    let mut open = Vec::new();
    eventually("those with a permit do not count", || {
        let mut stream = dial(gate.address());
        let _ = stream.write_all(&request("alice").bytes());
        if Response::read_head(&mut stream).is_ok_and(|head| head.status == 101) {
            open.push(stream);
        }
        open.len() == 5
    });
}

#[test]
fn one_address_takes_no_more_connections_than_it_may() {
    let upstream = Upstream::start();
    let gate = start("connections_per_ip: 1", &upstream);
    let mut socket = request("alice").open(gate.address());
    let refused = request("bob").send(gate.address());
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
    gate.line("of the refusal", |line| line["reason"] == "limit_ip");
    socket.echoes("still here");
    drop(socket);
    opens_again(&request("bob"), &gate);
}

#[test]
fn behind_a_trusted_proxy_the_address_is_the_clients() {
    let upstream = Upstream::start();
    let config = members(&upstream.ws())
        + "limits: { connections_per_ip: 1 }\n\
           server: { listen: \"127.0.0.1:0\", trusted_proxies: [127.0.0.0/8] }\n";
    let gate = Gate::start(&config);
    let from = |address: &str| request("alice").header("X-Forwarded-For", address);
    let _one = from("203.0.113.1").open(gate.address());
    let _two = from("203.0.113.2").open(gate.address());
    assert_eq!(from("203.0.113.1").send(gate.address()).status, 429);
    let _three = from("2001:db8:1:2::1").open(gate.address());
    assert_eq!(from("2001:db8:1:2:ffff::9").send(gate.address()).status, 429, "IPv6 by /64");
    let _four = from("2001:db8:1:3::1").open(gate.address());
}

#[test]
fn one_address_makes_no_more_handshakes_a_second_than_it_may() {
    let upstream = Upstream::start();
    let gate = start("handshakes_per_ip: 2", &upstream);
    let began = Instant::now();
    let mut refused = None;
    for _ in 0..20 {
        let answer = request("alice");
        let mut stream = dial(gate.address());
        stream.write_all(&answer.bytes()).expect("sent");
        let head = Response::read_head(&mut stream).expect("an answer");
        if head.status != 101 {
            refused = Some(head);
            break;
        }
    }
    let refused = refused.unwrap_or_else(|| panic!("20 handshakes in {:?}", began.elapsed()));
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
    gate.line("of the refusal", |line| line["reason"] == "limit_rate");
    eventually("the burst fills up", || request("alice").status(gate.address()) == 101);
}

/// Else a client had as many handshakes as there are routes, and paths to try for free.
#[test]
fn handshakes_count_for_an_address_whatever_the_path() {
    let upstream = Upstream::start();
    let config = format!(
        r#"
server: {{ listen: "127.0.0.1:0" }}
limits: {{ handshakes_per_ip: 2 }}
routes:
  - {{ path: /a, policy: public, upstream: "{0}" }}
  - {{ path: /b, policy: public, upstream: "{0}" }}
  - {{ path: /own, policy: public, upstream: "{0}", limits: {{ handshakes_per_ip: 1 }} }}
"#,
        upstream.ws()
    );
    let gate = Gate::start(&config);
    let status = |path: &str| Request::upgrade(path).status(gate.address());
    // A burst of two, and what a second brings: whichever comes late is refused.
    let several = |paths: &[&str], found: u16| {
        let began = Instant::now();
        let refused = paths.iter().cycle().take(20).any(|path| {
            let got = status(path);
            assert!(got == found || got == 429, "{path}: {got}");
            got == 429
        });
        assert!(refused, "20 handshakes in {:?}", began.elapsed());
    };
    several(&["/a", "/b"], 101);
    assert_eq!(status("/own"), 101, "its rate is its own");
    several(&["/own"], 101);
    several(&["/none", "/nowhere"], 404);
    gate.line("of the refusal", |line| line["reason"] == "limit_rate" && line["route"] == "none");
}

/// `request` with `count` fields more, as short as they can be told apart.
fn with_fields(request: Request, count: usize) -> Request {
    (0..count).fold(request, |request, number| request.header(&format!("x{number}"), "v"))
}

#[test]
fn short_header_fields_count_by_their_bytes_alone() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    for count in [99, 300, 1200] {
        with_fields(request("alice"), count).open(gate.address()).echoes("hello");
        assert_eq!(upstream.last().header(&format!("x{}", count - 1)), Some("v"));
        let plain = Request::get("/ws/report").cookie(&token("alice"));
        assert_eq!(with_fields(plain, count).send(gate.address()).status, 200, "{count}");
    }
    assert_eq!(with_fields(request("alice"), 2000).send(gate.address()).status, 431);
}

#[test]
fn a_connection_takes_few_fields_and_many_in_any_order_and_pipelined() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let get = |count| with_fields(Request::get("/ws/report").cookie(&token("alice")), count);
    let mut stream = dial(gate.address());
    for count in [1, 300, 2, 900] {
        stream.write_all(&get(count).bytes()).expect("sent");
        assert_eq!(Response::read(&mut stream).expect("an answer").status, 200, "{count}");
    }
    let counts = [1, 300, 2, 600, 3];
    stream.write_all(&counts.map(|count| get(count).bytes()).concat()).expect("sent");
    for count in counts {
        assert_eq!(Response::read(&mut stream).expect("an answer").status, 200, "{count}");
    }
    assert_eq!(upstream.seen().len(), 9);
}

#[test]
fn a_megabyte_of_fields_is_answered_one_way_or_the_other() {
    let upstream = Upstream::start();
    let gate = start("header_bytes: 1MiB, header_timeout: 60s", &upstream);
    with_fields(request("alice"), 16_000).open(gate.address()).echoes("hello");
    let began = Instant::now();
    assert_eq!(with_fields(request("alice"), 17_000).send(gate.address()).status, 431);
    assert_eq!(with_fields(request("alice"), 60_000).send(gate.address()).status, 431);
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn an_upstreams_answer_may_have_many_fields_but_not_any_number() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let mut socket =
        Request::upgrade("/ws/fields-300").cookie(&token("alice")).open(gate.address());
    socket.echoes("hello");
    let plain = |path: &str| Request::get(path).cookie(&token("alice")).send(gate.address());
    let answer = plain("/ws/fields-300");
    assert_eq!((answer.status, answer.header("x299")), (200, Some("v")));
    assert_eq!(plain("/ws/fields-5000").status, 502);
    let closed = Request::upgrade("/ws/fields-5000").cookie(&token("alice")).closed(gate.address());
    assert_eq!(closed.code, 1013);
}

#[test]
fn a_url_longer_than_any_can_be_is_431_like_a_head_that_is_too_large() {
    let upstream = Upstream::start();
    let gate = start("header_bytes: 256KiB", &upstream);
    for (length, status) in [(65_500, 101), (65_534, 101), (65_535, 431), (100_000, 431)] {
        let target = format!("/ws/{}", "a".repeat(length - "/ws/".len()));
        let request = Request::upgrade(&target).cookie(&token("alice"));
        assert_eq!(request.status(gate.address()), status, "{length}");
        let plain = Request::get(&target).cookie(&token("alice")).status(gate.address());
        assert_eq!(plain, if status == 101 { 200 } else { 431 }, "{length}");
    }
    let refused = Request::get(&format!("/{}", "a".repeat(70_000))).send(gate.address());
    assert_eq!(refused.error(), "Request header too large");
    assert_eq!(gate.line("of the refusal", |l| l["reason"] == "limit_header")["status"], 431);
}

#[test]
fn a_head_over_its_bound_is_431() {
    let upstream = Upstream::start();
    let gate = start("header_bytes: 2KiB", &upstream);
    request("alice").header("X-Long", &"x".repeat(500)).open(gate.address()).echoes("hello");
    for long in [
        request("alice").header("X-Long", &"x".repeat(2048)),
        request("alice").header("X-Long", &"x".repeat(100_000)),
        Request::upgrade(&format!("/ws/{}", "a".repeat(2100))),
        (0..500).fold(request("alice"), |request, _| request.header("a", "b")),
    ] {
        let response = long.send(gate.address());
        assert_eq!(response.status, 431, "{}", response.text());
    }
    gate.line("of the refusal", |line| line["reason"] == "limit_header");
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn a_head_that_does_not_come_ends_the_connection_in_time() {
    let upstream = Upstream::start();
    let gate = start("header_timeout: 500ms", &upstream);
    for start in ["", "GET /ws/a HTTP/1.1\r\nHost: gate"] {
        let mut stream = dial(gate.address());
        stream.write_all(start.as_bytes()).expect("sent");
        let began = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(began.elapsed() > Duration::from_millis(300), "{:?}", began.elapsed());
    }
    let mut stream = dial(gate.address());
    stream.write_all(&Request::get("/ws/report").cookie(&token("alice")).bytes()).expect("sent");
    assert_eq!(Response::read(&mut stream).expect("an answer").status, 200);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    // Of the four only the one with half a head is a request that was refused.
    let line = gate.line("of the refusal", |line| line["reason"] == "stalled");
    assert_eq!((&line["outcome"], &line["peer"]), (&"refused".into(), &"127.0.0.1".into()));
    assert!(line["status"].is_null() && line["url"].is_null(), "{line}");
    let stalled = ["route=\"none\"", "outcome=\"refused\"", "reason=\"stalled\""];
    assert!((gate.metric("sockgate_auth_decisions_total", &stalled) - 1.0).abs() < 0.5);
    assert!(gate.metric("sockgate_http_requests_total", &["route=\"none\""]) < 0.5);

    let mut stream = dial(gate.address());
    let began = Instant::now();
    let mut dripping = true;
    while dripping && began.elapsed() < PATIENCE {
        dripping = stream.write_all(b"x").is_ok();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "one byte at a time held the head open");
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn a_client_that_leaves_inside_its_head_is_logged_and_a_port_check_is_not() {
    let upstream = Upstream::start();
    let gate = start("header_timeout: 10s", &upstream);
    drop(dial(gate.address()));
    let mut half = dial(gate.address());
    half.write_all(b"GET /ws/a HTTP/1.1\r\n").expect("sent");
    drop(half);
    gate.line("of who left", |line| line["outcome"] == "abandoned");
    let lines = gate.lines();
    assert_eq!(lines.iter().filter(|line| line["peer"].is_string()).count(), 1, "{lines:#?}");

    let config = format!("{}log: {{ level: debug }}\n", members(&upstream.ws()));
    let gate = Gate::start(&config);
    drop(dial(gate.address()));
    gate.line("of the port check", |line| {
        line["message"] == "a connection without a request" && line["peer"] == "127.0.0.1"
    });
}

/// On the way that most upgrades take, and on the one of heads with many fields.
#[test]
fn a_client_that_leaves_before_its_answer_keeps_no_place_and_is_dialled_for_no_more() {
    let (hanging, let_go) = Peer::hanging();
    let upstream = Upstream::start();
    let config = members(&upstream.ws()).replace(
        "policies:\n",
        &format!(
            "  slow: {{ forward_auth: {{ url: \"{}\", timeout: 60s }} }}\npolicies:\n  \
             asked: {{ credentials: [{{ header: authorization, verifier: slow }}] }}\n",
            hanging.url()
        ),
    ) + &format!(
        "  - {{ path: /dialled, policy: members, upstream: \"{}\" }}\n  \
           - {{ path: /judged, policy: asked, upstream: \"{}\" }}\n\
         limits: {{ connections: 8, unauthenticated: 100%, upstream_connect_timeout: 60s }}\n",
        hanging.url().replace("http:", "ws:"),
        upstream.ws(),
    );
    let gate = Gate::start(&config);
    let began = Instant::now();
    let abandoned = |line: &Value| line["outcome"] == "abandoned" && line["reason"].is_null();
    let mut left = 0;
    for path in ["/dialled", "/judged"] {
        for (fields, reset) in [(0, false), (0, true), (150, false), (150, true)] {
            // A question that others may ask too goes on; so each asks one of its own.
            let token = token(&format!("user-{left}"));
            let request = with_fields(Request::upgrade(path).bearer(&token), fields);
            let mut stream = dial(gate.address());
            stream.write_all(&request.pipelined(&Frame::text("early")).bytes()).expect("taken");
            eventually("it is under way", || hanging.asked() == left + 1);
            if reset {
                let zero = Some(Duration::ZERO);
                socket2::SockRef::from(&stream).set_linger(zero).expect("an option");
            }
            drop(stream);
            left += 1;
            eventually("it is logged as what it is", || {
                gate.lines().iter().filter(|line| abandoned(line)).count() == left
            });
        }
    }
    eventually("what was dialled is let go of", || let_go.load(Ordering::Relaxed) == 4);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    opens_again(&request("bob"), &gate);
    assert!(upstream.seen().iter().all(|seen| seen.target != "/judged"));
    assert!(gate.metric("sockgate_upstream_errors_total", &[]) < 0.5);
}

#[test]
fn a_subject_over_its_bound_is_refused_readably() {
    let upstream = Upstream::start();
    let gate = start("connections_per_subject: 1", &upstream);
    let mut first = request("alice").open(gate.address());
    assert_eq!(request("alice").closed(gate.address()).says(), (4029, "Too many connections"));
    gate.line("of the refusal", |line| line["reason"] == "limit_subject");
    request("bob").open(gate.address()).echoes("another subject");
    first.echoes("still here");
    first.finish();
    eventually("there is room again", || gate.metric("sockgate_connections_open", &[]) < 0.5);
    request("alice").open(gate.address()).echoes("hello");

    let config =
        policy("reject: http, credentials: [{ cookie: session, verifier: app }]", &upstream.ws())
            + "limits: { connections_per_subject: 1 }\n";
    let gate = Gate::start(&config);
    let _first = request("alice").open(gate.address());
    let refused = request("alice").send(gate.address());
    assert_eq!((refused.status, refused.error().as_str()), (429, "Too many connections"));
    assert!(refused.header("retry-after").is_some());
}

#[test]
fn the_oldest_connection_of_a_subject_may_make_room() {
    let upstream = Upstream::start();
    let gate = start("connections_per_subject: 2, on_subject_limit: close_oldest", &upstream);
    let mut oldest = request("alice").open(gate.address());
    oldest.echoes("first");
    let mut middle = request("alice").open(gate.address());
    middle.echoes("second");
    let mut newest = request("alice").open(gate.address());
    newest.echoes("third");
    assert_eq!(oldest.closed().says(), (4029, "Too many connections"));
    middle.echoes("still here");
    newest.echoes("still here");
}

#[test]
fn who_is_being_closed_is_not_in_the_way_of_its_own_return() {
    let upstream = Upstream::start();
    let admin = canary("canary-admin-token-0007");
    let config = members(&upstream.ws())
        + "limits: { connections_per_subject: 1 }\n"
        + &format!("admin: {{ listen: \"127.0.0.1:0\", token: {admin} }}\n");
    let gate = Gate::start(&config);
    let of = |session: &str| Token::of("alice").claim("sid", session).sign();
    // This upstream answers no Close: the gate waits for it.
    let old = Request::upgrade("/ws/deaf").cookie(&of("old")).open(gate.address());
    assert_eq!(request("alice").closed(gate.address()).code, 4029);
    let body = serde_json::json!({ "session": "old" }).to_string();
    let began = Instant::now();
    let answer = Request::new("POST", "/revoke").bearer(&admin).body(body).send(gate.admin());
    assert_eq!(answer.json()["closed"], 1);
    assert_eq!(old.closed().says(), (4001, "Session revoked"));
    let mut new = Request::upgrade("/ws/echo").cookie(&of("new")).open(gate.address());
    new.echoes("hello");
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert_eq!(request("alice").closed(gate.address()).code, 4029);
}

#[test]
fn who_was_there_before_the_limit_counts_under_it() {
    let upstream = Upstream::start();
    let unlimited = members(&upstream.ws());
    let gate = Gate::start(&unlimited);
    let mut early: Vec<_> = (0..3).map(|_| request("alice").open(gate.address())).collect();
    early.iter_mut().for_each(|socket| socket.echoes("hello"));
    gate.rewrite(&(unlimited + "limits: { connections_per_subject: 2 }\n"));
    gate.metric_becomes("sockgate_config_reloads_total", &["outcome=\"success\""], 1.0);
    assert_eq!(request("alice").closed(gate.address()).says(), (4029, "Too many connections"));
    request("bob").open(gate.address()).echoes("another subject");
    early.iter_mut().for_each(|socket| socket.echoes("still here"));
    early.drain(..2).for_each(Socket::finish);
    gate.metric_becomes("sockgate_connections_open", &[], 1.0);
    let mut late = request("alice").open(gate.address());
    late.echoes("hello");
    assert_eq!(request("alice").closed(gate.address()).code, 4029);
}

#[test]
fn the_same_subject_of_another_issuer_is_somebody_else() {
    let upstream = Upstream::start();
    let gate = start("connections_per_subject: 1", &upstream);
    let other = Token::of("alice").claim("iss", "https://other.test").sign();
    let _first = request("alice").open(gate.address());
    Request::upgrade("/ws/a").cookie(&other).open(gate.address()).echoes("hello");
}

#[test]
fn a_route_may_replace_a_limit() {
    let upstream = Upstream::start();
    let config = members(&upstream.ws())
        .replace("policy: members,", "policy: members, limits: { message_bytes: 10 },")
        + "limits: { message_bytes: 1KiB }\n";
    let gate = Gate::start(&config);
    let mut socket = request("alice").open(gate.address());
    socket.echoes("0123456789");
    socket.send("0123456789a");
    assert_eq!(socket.closed().code, 1009);
}
