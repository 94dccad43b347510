//! Plain HTTP under the policy of its route.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::support::{
    Gate, Request, Response, SECRET, Token, Upstream, canary, dial, eventually, members, policy,
    read_chunk, token, unix_now,
};

fn start(upstream: &Upstream, open: &Upstream) -> Gate {
    let config = format!(
        "{}  - {{ path: \"/open/*\", policy: public, upstream: \"{}\" }}\n  \
           - {{ path: \"/api/*\", policy: members, upstream: \"{}/inner/\" }}\n  \
           - {{ path: /exact, policy: members, upstream: \"{}/elsewhere\" }}\n",
        members(&upstream.ws()),
        open.http(),
        upstream.ws(),
        upstream.http(),
    );
    Gate::start(&config)
}

#[test]
fn a_request_passes_with_its_method_body_and_answer() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let response = Request::new(method, "/ws/report?q=1")
            .cookie(&token("alice"))
            .header("Content-Type", "text/plain")
            .body("a body of some bytes")
            .send(gate.address());
        assert_eq!(response.status, 200, "{method}");
        assert_eq!(response.header("x-served-by"), Some("upstream"));
        let report = response.json();
        assert_eq!(report["method"], method);
        assert_eq!(report["target"], "/ws/report?q=1");
        assert_eq!(report["body"], "a body of some bytes");
        assert_eq!(upstream.last().header("x-forwarded-user"), Some("alice"));
        assert_eq!(upstream.last().header("cookie"), None);
    }
    let head = Request::new("HEAD", "/ws/report").cookie(&token("alice")).send(gate.address());
    assert_eq!(head.status, 200);
    let told = Request::get("/ws/answer-418").cookie(&token("alice")).send(gate.address());
    assert_eq!((told.status, told.text().as_str()), (418, "told"));
}

#[test]
fn a_large_and_a_chunked_body_arrive_whole() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let large = "x".repeat(3_000_000);
    let response = Request::new("POST", "/open/report").body(large.clone()).send(gate.address());
    assert_eq!(response.json()["body"].as_str().map(str::len), Some(large.len()));
    let mut stream = dial(gate.address());
    stream
        .write_all(
            b"POST /open/report HTTP/1.1\r\nHost: gate.test\r\nTransfer-Encoding: chunked\r\n\r\n\
              5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        )
        .expect("sent");
    let response = Response::read(&mut stream).expect("an answer");
    assert_eq!(response.json()["body"], "hello world");
}

#[test]
fn a_connection_carries_one_request_after_the_other_each_judged_alone() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let mut stream = dial(gate.address());
    for subject in ["alice", "bob"] {
        stream
            .write_all(&Request::get("/ws/report").cookie(&token(subject)).bytes())
            .expect("sent");
        assert_eq!(Response::read(&mut stream).expect("an answer").status, 200);
        assert_eq!(upstream.last().header("x-forwarded-user"), Some(subject));
    }
    stream.write_all(&Request::get("/ws/report").bytes()).expect("sent");
    assert_eq!(Response::read(&mut stream).expect("an answer").status, 401);
    assert_eq!(upstream.seen().len(), 2);
}

#[test]
fn events_stream_as_they_are_sent() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let mut stream = dial(gate.address());
    stream.write_all(&Request::get("/ws/sse").cookie(&token("alice")).bytes()).expect("sent");
    let head = Response::read_head(&mut stream).expect("an answer");
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    for event in ["one", "two", "three"] {
        let chunk = read_chunk(&mut stream).expect("a chunk").expect("not the last");
        assert_eq!(String::from_utf8_lossy(&chunk), format!("data: {event}\n\n"));
        upstream.release();
    }
    assert_eq!(read_chunk(&mut stream).expect("a chunk"), None);
}

#[test]
fn a_stream_of_events_ends_with_the_login_behind_it() {
    let upstream = Upstream::start();
    let config = policy("credentials: [{ cookie: session, verifier: app }]", &upstream.ws())
        .replace("algorithms: [HS256]", "algorithms: [HS256], leeway: 0s");
    let gate = Gate::start(&config);
    let at = unix_now() + 2;
    let token = Token::of("alice").claim("exp", at).sign();
    let mut stream = dial(gate.address());
    stream.write_all(&Request::get("/ws/sse").cookie(&token).bytes()).expect("sent");
    assert_eq!(Response::read_head(&mut stream).expect("an answer").status, 200);
    read_chunk(&mut stream).expect("the first event");
    assert!(read_chunk(&mut stream).is_err(), "the stream went on, or ended as if complete");
    assert!((at..at + 4).contains(&unix_now()), "not at the expiry");
}

#[test]
fn what_an_upstream_has_not_answered_yet_ends_with_the_login_behind_it() {
    let upstream = Upstream::start();
    let admin = canary("canary-admin-token-0008");
    let config = policy("credentials: [{ cookie: session, verifier: app }]", &upstream.ws())
        + &format!("admin: {{ listen: \"127.0.0.1:0\", token: {admin} }}\n");
    let gate = Gate::start(&config);
    let alice = token("alice");
    let mut polling = dial(gate.address());
    polling.write_all(&Request::get("/ws/await").cookie(&alice).bytes()).expect("sent");
    // An upload that has no end: a piece now and then is progress enough.
    let mut uploading = dial(gate.address());
    let upload = Request::new("POST", "/ws/report").cookie(&alice);
    uploading.write_all(&upload.header("Transfer-Encoding", "chunked").bytes()).expect("sent");
    uploading.write_all(b"4\r\ndrip\r\n").expect("sent");
    eventually("both are on their way", || upstream.seen().len() == 2);
    let began = Instant::now();
    let body = serde_json::json!({ "subject": "alice" }).to_string();
    let answer = Request::new("POST", "/revoke").bearer(&admin).body(body).send(gate.admin());
    assert_eq!(answer.json()["closed"], 2);
    for mut stream in [polling, uploading] {
        let answer = Response::read(&mut stream).expect("an answer");
        assert_eq!((answer.status, answer.error().as_str()), (401, "Session revoked"));
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    eventually("the upstream is left", || upstream.closes() == [None]);
}

#[test]
fn an_upgrade_on_an_http_upstream_is_403_and_falls_through_to_nothing() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let response = Request::upgrade("/open/a").send(gate.address());
    assert_eq!((response.status, response.error().as_str()), (403, "Forbidden"));
    assert_eq!(gate.reason("/open/a"), "forbidden");
    let response = Request::upgrade("/exact").cookie(&token("alice")).send(gate.address());
    assert_eq!(response.status, 403, "whatever `reject` says");
    open.saw_nothing();
    upstream.saw_nothing();
}

#[test]
fn a_message_credential_does_not_apply() {
    let upstream = Upstream::start();
    let config = policy(
        "origins: any, credentials: [{ message: { format: text }, verifier: app }]",
        &upstream.ws(),
    );
    let gate = Gate::start(&config);
    let response = Request::new("POST", "/ws/report").body(token("alice")).send(gate.address());
    assert_eq!(response.status, 401);
    upstream.saw_nothing();
}

#[test]
fn a_cors_preflight_passes_without_credential_and_without_identity() {
    let upstream = Upstream::start();
    let config =
        members(&upstream.ws()).replace("origins: same", "origins: [\"https://elsewhere.test\"]");
    let gate = Gate::start(&config);
    let response = Request::new("OPTIONS", "/ws/report")
        .origin("https://elsewhere.test")
        .header("Access-Control-Request-Method", "POST")
        .header("X-Forwarded-User", "spoofed")
        .send(gate.address());
    assert_eq!(response.status, 200);
    assert_eq!(upstream.last().header("x-forwarded-user"), None);
    let bare = Request::new("OPTIONS", "/ws/report").send(gate.address());
    assert_eq!(bare.status, 401, "an OPTIONS that is no preflight is a request like any other");
}

#[test]
fn a_path_in_the_url_replaces_the_matched_prefix() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let cases = [
        ("/api/a", "/inner/a"),
        ("/api/a/b?c=d", "/inner/a/b?c=d"),
        ("/api", "/inner/"),
        ("/api/", "/inner/"),
        ("/exact?x", "/elsewhere?x"),
        ("/ws/a", "/ws/a"),
    ];
    for (path, target) in cases {
        let response = Request::get(path).cookie(&token("alice")).send(gate.address());
        assert_eq!(response.status, 200, "{path}");
        let seen = upstream.last().target;
        assert!(seen == target || format!("{seen}/") == target, "{path} became {seen}");
    }
    Request::upgrade("/api/a").cookie(&token("alice")).open(gate.address()).echoes("hello");
    assert_eq!(upstream.last().target, "/inner/a");
}

#[test]
fn hosts_choose_routes() {
    let (one, two, three) = (Upstream::start(), Upstream::start(), Upstream::start());
    let config = format!(
        "routes:\n  - {{ host: a.test, path: \"/*\", policy: public, upstream: \"{}\" }}\n  \
           - {{ host: \"*.b.test\", path: [/x, \"/y/*\"], policy: public, upstream: \"{}\" }}\n  \
           - {{ host: c.test, path: \"/*\", policy: public, upstream: \"{}\" }}\n",
        one.http(),
        two.http(),
        three.http()
    );
    let gate = Gate::start(&config);
    let cases = [
        ("a.test", "/report", 200),
        ("A.TEST:8080", "/report", 200),
        ("a.test.", "/report", 200),
        ("b.test", "/x", 404),
        ("sub.b.test", "/x", 200),
        ("sub.b.test", "/y/z", 200),
        ("sub.b.test", "/z", 404),
        ("deep.sub.b.test", "/x", 404),
        ("evilb.test", "/x", 404),
        ("d.test", "/report", 404),
    ];
    for (host, path, status) in cases {
        let response = Request::get(path).replace("Host", host).send(gate.address());
        assert_eq!(response.status, status, "{host}{path}");
    }
    assert_eq!((one.seen().len(), two.seen().len(), three.seen().len()), (3, 2, 0));
}

#[test]
fn an_upstream_that_hangs_or_is_gone_is_told_apart() {
    let nobody = super::support::Nobody::there();
    let config = format!(
        "verifiers:\n  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}\n\
         routes:\n  - {{ path: \"/*\", policy: public, upstream: \"{}\" }}\n",
        nobody.ws().replace("ws:", "http:")
    );
    let gate = Gate::start(&config);
    let response = Request::get("/a").send(gate.address());
    assert_eq!((response.status, response.error().as_str()), (502, "Bad gateway"));
    assert!(gate.metric("sockgate_upstream_errors_total", &[]) > 0.5);
}

#[test]
fn a_client_that_closes_its_half_gets_its_answer() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let get = |path: &str| Request::get(path).cookie(&token("alice"));
    let large = "x".repeat(1_000_000);
    for request in
        [get("/ws/report"), get("/ws/later-300"), Request::new("POST", "/open/report").body(large)]
    {
        let mut stream = dial(gate.address());
        stream.write_all(&request.bytes()).expect("sent");
        stream.shutdown(Shutdown::Write).expect("half-closed");
        let answer = Response::read(&mut stream).expect("an answer");
        assert_eq!(answer.status, 200);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("an orderly end");
        assert!(rest.is_empty());
    }
    let mut stream = dial(gate.address());
    stream
        .write_all(&[get("/ws/later-200").bytes(), get("/ws/report").bytes()].concat())
        .expect("sent");
    stream.shutdown(Shutdown::Write).expect("half-closed");
    for _ in 0..2 {
        assert_eq!(Response::read(&mut stream).expect("an answer").status, 200, "pipelined");
    }
}

#[test]
fn a_stream_of_events_goes_on_for_a_half_closed_client_while_there_are_any() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let mut stream = dial(gate.address());
    stream.write_all(&Request::get("/ws/sse").cookie(&token("alice")).bytes()).expect("sent");
    stream.shutdown(Shutdown::Write).expect("half-closed");
    assert_eq!(Response::read_head(&mut stream).expect("an answer").status, 200);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(100));
        read_chunk(&mut stream).expect("a chunk").expect("not the last");
        upstream.release();
    }
    assert_eq!(read_chunk(&mut stream).expect("a chunk"), None);
}

#[test]
fn the_upstream_is_let_go_of_soon_after_its_client() {
    for path in ["/ws/await", "/ws/await-stream"] {
        let (upstream, open) = (Upstream::start(), Upstream::start());
        let gate = start(&upstream, &open);
        let mut stream = dial(gate.address());
        stream.write_all(&Request::get(path).cookie(&token("alice")).bytes()).expect("sent");
        eventually("the request is there", || !upstream.seen().is_empty());
        if path.ends_with("stream") {
            assert_eq!(Response::read_head(&mut stream).expect("an answer").status, 200);
            read_chunk(&mut stream).expect("the first event");
        }
        let began = Instant::now();
        drop(stream);
        assert_eq!(upstream.close(), None);
        assert!(began.elapsed() < Duration::from_secs(8), "{path}: {:?}", began.elapsed());
    }
}

#[test]
fn a_connection_without_a_request_ends_with_its_client() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let mut stream = dial(gate.address());
    for _ in 0..2 {
        stream
            .write_all(&Request::get("/ws/report").cookie(&token("alice")).bytes())
            .expect("sent");
        assert_eq!(Response::read(&mut stream).expect("an answer").status, 200);
    }
    let began = Instant::now();
    stream.shutdown(Shutdown::Write).expect("half-closed");
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
