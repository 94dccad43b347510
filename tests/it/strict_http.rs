//! What is no sound request goes no further, whatever a lenient parser would
//! make of it.

use std::io::{Read, Write};

use super::support::{
    Frame, Gate, KEY, Request, Upstream, dial, exchange, members, nothing_comes, token,
};

/// Two exact routes, the members' tree, and a public catch-all that must never
/// catch what one of them was meant to guard.
fn start(upstream: &Upstream, open: &Upstream) -> Gate {
    let config = format!(
        "{}  - {{ path: /exact, policy: members, upstream: \"{}\" }}\n  \
           - {{ path: \"/*\", policy: public, upstream: \"{}\" }}\n",
        members(&upstream.ws()),
        upstream.ws(),
        open.http()
    );
    Gate::start(&config)
}

/// The handshake with `edit`ed text.
fn edited(edit: impl FnOnce(String) -> String) -> Vec<u8> {
    let request = Request::upgrade("/ws/a").cookie(&token("alice")).bytes();
    edit(String::from_utf8(request).expect("text")).into_bytes()
}

#[test]
fn malformed_requests_are_answered_400_and_reach_nobody() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let host = "Host: gate.test\r\n";
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("bare LF behind the request line", edited(|r| r.replacen("\r\n", "\n", 1))),
        ("bare LF behind a header", edited(|r| r.replace("gate.test\r\n", "gate.test\n"))),
        ("bare LF everywhere", edited(|r| r.replace("\r\n", "\n"))),
        ("bare LF at the end of the head", edited(|r| r.replace("\r\n\r\n", "\r\n\n"))),
        ("bare CR in a value", edited(|r| r.replace("\r\n\r\n", "\r\nX-A: a\rX-B: b\r\n\r\n"))),
        ("obs-fold", edited(|r| r.replace(host, "Host: gate.test\r\nX-A: a\r\n b\r\n"))),
        ("obs-fold with a tab", edited(|r| r.replace(host, "Host: gate.test\r\nX-A: a\r\n\tb\r\n"))),
        ("a fold as the first header", edited(|r| r.replace(host, " X-A: a\r\nHost: gate.test\r\n"))),
        ("NUL in a value", edited(|r| r.replace(host, "Host: gate.test\r\nX-A: a\0b\r\n"))),
        ("NUL in the target", edited(|r| r.replace("/ws/a", "/ws/a\0"))),
        ("space before the colon", edited(|r| r.replace("Host:", "Host :"))),
        ("a header without colon", edited(|r| r.replace(host, "Host: gate.test\r\nnonsense\r\n"))),
        ("an empty header name", edited(|r| r.replace(host, "Host: gate.test\r\n: x\r\n"))),
        ("two Hosts", edited(|r| r.replace(host, "Host: gate.test\r\nHost: gate.test\r\n"))),
        ("two different Hosts", edited(|r| r.replace(host, "Host: gate.test\r\nHost: evil.test\r\n"))),
        ("no Host", edited(|r| r.replace(host, ""))),
        ("a Host with a path", edited(|r| r.replace(host, "Host: gate.test/x\r\n"))),
        ("a Host with userinfo", edited(|r| r.replace(host, "Host: a@gate.test\r\n"))),
        ("a Host with a space", edited(|r| r.replace(host, "Host: gate.test evil\r\n"))),
        ("a Host list", edited(|r| r.replace(host, "Host: gate.test, evil.test\r\n"))),
        ("another absolute-form", edited(|r| r.replace("GET /ws/a", "GET http://evil.test/ws/a"))),
        ("another absolute-form port", edited(|r| r.replace("GET /ws/a", "GET http://gate.test:81/ws/a"))),
        ("HTTP/1.0", edited(|r| r.replace("HTTP/1.1", "HTTP/1.0"))),
        ("Content-Length with an upgrade", edited(|r| r.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"))),
        ("a chunked upgrade", edited(|r| r.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))),
        ("CL with TE", b"POST /x HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()),
        ("TE with CL", b"POST /x HTTP/1.1\r\nHost: gate.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n".to_vec()),
        ("two lengths", b"POST /x HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".to_vec()),
        ("a signed length", b"POST /x HTTP/1.1\r\nHost: gate.test\r\nContent-Length: +5\r\n\r\nhello".to_vec()),
        ("an unknown coding", b"POST /x HTTP/1.1\r\nHost: gate.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".to_vec()),
        ("chunked twice", b"POST /x HTTP/1.1\r\nHost: gate.test\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n".to_vec()),
        ("no key", edited(|r| r.replace(&key, ""))),
        ("an empty key", edited(|r| r.replace(KEY, ""))),
        ("a short key", edited(|r| r.replace(KEY, "c2hvcnQ="))),
        ("a long key", edited(|r| r.replace(KEY, "dGhlIHNhbXBsZSBub25jZTE="))),
        ("a key that is not base64", edited(|r| r.replace(KEY, "!!!!IHNhbXBsZSBub25jZQ=="))),
        ("two keys", edited(|r| r.replace(&key, &format!("{key}{key}")))),
        ("Connection without upgrade", edited(|r| r.replace("Connection: Upgrade", "Connection: keep-alive"))),
        ("no Connection", edited(|r| r.replace("Connection: Upgrade\r\n", ""))),
        ("garbage", b"\x16\x03\x01\x02\0\x01\0\r\n\r\n".to_vec()),
        ("a status line", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
    ];
    assert!(!cases.is_empty());
    for (name, bytes) in cases {
        let response = exchange(gate.address(), &bytes);
        assert_eq!(response.status, 400, "{name}: {}{}", response.head, response.text());
        assert_eq!(response.header("connection"), Some("close"), "{name}");
    }
    upstream.saw_nothing();
    open.saw_nothing();
}

#[test]
fn sound_but_unusual_handshakes_are_admitted() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let token = token("alice");
    let usual = || Request::upgrade("/ws/a").cookie(&token);
    let cases = [
        usual().replace("Connection", "keep-alive, Upgrade"),
        usual().replace("Connection", "upgrade"),
        usual().replace("Connection", "keep-alive").header("Connection", "UPGRADE"),
        usual().replace("Upgrade", "WebSocket"),
        Request::upgrade("http://gate.test/ws/a").cookie(&token),
        Request::upgrade("http://gate.test/ws/a").replace("Host", "GATE.test").cookie(&token),
        Request::upgrade("/ws/%C3%A4").cookie(&token),
        Request::upgrade("/ws/%61").cookie(&token),
    ];
    for request in &cases {
        request.open(gate.address()).echoes("hello");
    }
    let targets: Vec<_> = upstream.seen().into_iter().map(|seen| seen.target).collect();
    assert!(targets.contains(&"/ws/%C3%A4".to_owned()), "{targets:?}");
    assert!(targets.iter().all(|target| target.starts_with("/ws/")), "{targets:?}");
    assert!(!targets.contains(&"/ws/%61".to_owned()), "unreserved escapes are decoded once");
}

#[test]
fn another_version_is_told_which_one_is_spoken() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    for version in ["8", "14", "", "13, 8", "x"] {
        let request = Request::upgrade("/ws/a")
            .cookie(&token("alice"))
            .replace("Sec-WebSocket-Version", version);
        let response = request.send(gate.address());
        assert_eq!(response.status, 426, "{version}");
        assert_eq!(response.header("sec-websocket-version"), Some("13"), "{version}");
    }
    upstream.saw_nothing();
}

#[test]
fn paths_with_two_readings_are_refused() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let paths = [
        "//ws/a",
        "/ws//a",
        "/ws/a//",
        "/ws;x/a",
        "/ws/a;v=1",
        "/ws\\a",
        "/ws/%5Ca",
        "/ws%2fa",
        "/ws%2Fa",
        "/x/../ws/a",
        "/ws/../x",
        "/ws/./a",
        "/ws/..",
        "/ws/.",
        "/ws/%2e%2e/x",
        "/ws/%2E/a",
        "/ws/.%2e/x",
        "/ws/%2e./x",
        "/ws/%252e%252e/x",
        "/ws/%252fa",
        "/ws/%25%32%65/x",
        "/ws/%255ca",
        "/ws/%",
        "/ws/%1",
        "/ws/%zz",
        "/ws/%00",
        "/ws/%0d%0aX-A:%201",
        "/ws/%0A",
        "/ws/%7f",
        "/ws/%1f",
    ];
    for path in paths {
        for request in [Request::upgrade(path), Request::get(path)] {
            let status = request.cookie(&token("alice")).status(gate.address());
            assert_eq!(status, 400, "{path}");
        }
    }
    upstream.saw_nothing();
    open.saw_nothing();
}

#[test]
fn targets_that_are_no_path_are_refused() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    for target in ["*", "ws/a", "gate.test:80", "ftp://gate.test/ws/a", "/ws/a b"] {
        let response = Request::get(target).cookie(&token("alice")).send(gate.address());
        assert_eq!(response.status, 400, "{target}");
    }
    upstream.saw_nothing();
    open.saw_nothing();
}

#[test]
fn another_case_or_a_trailing_slash_never_falls_to_a_later_route() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    for path in ["/WS/a", "/Ws/a", "/%57S/a", "/exact/", "/EXACT", "/Exact/"] {
        for request in [Request::upgrade(path), Request::get(path)] {
            let response = request.cookie(&token("alice")).send(gate.address());
            assert_eq!(response.status, 404, "{path}");
        }
    }
    upstream.saw_nothing();
    open.saw_nothing();
    assert_eq!(Request::get("/exactly").send(gate.address()).status, 200);
    assert_eq!(Request::get("/exact").send(gate.address()).status, 401);
    assert_eq!(Request::get("/ws").send(gate.address()).status, 401, "/ws/* matches /ws too");
}

#[test]
fn trace_and_connect_are_405() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    for path in ["/ws/a", "/other"] {
        let response = Request::new("TRACE", path).cookie(&token("alice")).send(gate.address());
        assert_eq!(response.status, 405, "TRACE {path}");
    }
    for target in ["gate.test:80", "/ws/a"] {
        let response = Request::new("CONNECT", target).send(gate.address());
        assert!([400, 405].contains(&response.status), "CONNECT {target}: {}", response.status);
    }
    assert_eq!(Request::new("CONNECT", "gate.test:80").send(gate.address()).status, 405);
    upstream.saw_nothing();
    open.saw_nothing();
    // The request can be read, so its line says what it was, without the token.
    let target = format!("/ws/a?token={}", token("alice"));
    assert_eq!(Request::new("TRACE", &target).status(gate.address()), 405);
    let line = gate.line("of the refusal", |line| line["url"] == "/ws/a?token=REDACTED");
    assert_eq!((&line["method"], &line["status"]), (&"TRACE".into(), &405.into()));
    assert_eq!(line["outcome"], "refused");
}

#[test]
fn no_other_upgrade_is_tunnelled_or_passed_on() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let token = token("alice");
    for value in
        ["h2c", "websocket, h2c", "h2c, websocket", "TLS/1.0", "websocket/13", "xwebsocket"]
    {
        for path in ["/ws/a", "/other"] {
            let request = Request::upgrade(path)
                .replace("Upgrade", value)
                .replace("Connection", "Upgrade, HTTP2-Settings")
                .header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
                .cookie(&token);
            let response = request.send(gate.address());
            assert_ne!(response.status, 101, "{value}");
        }
    }
    for method in ["POST", "PUT", "HEAD", "DELETE"] {
        let mut stream = dial(gate.address());
        let mut request = Request::new(method, "/ws/a").cookie(&token);
        for (name, value) in [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ] {
            request = request.header(name, value);
        }
        stream.write_all(&request.bytes()).expect("sent");
        let response = super::support::Response::read_head(&mut stream).expect("an answer");
        assert_eq!(response.status, 400, "{method}");
    }
    for seen in upstream.seen().into_iter().chain(open.seen()) {
        for name in ["upgrade", "http2-settings", "sec-websocket-key"] {
            assert_eq!(seen.header(name), None, "{}", seen.head);
        }
    }
}

#[test]
fn the_upgrade_sent_upstream_is_rebuilt_and_never_copied() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    Request::upgrade("/ws/a")
        .replace("Connection", "keep-alive, Upgrade, X-Hop, Cookie")
        .header("X-Hop", "1")
        .header("X-Keep", "2")
        .header("Keep-Alive", "timeout=5")
        .header("TE", "trailers")
        .header("Trailer", "X-T")
        .header("Proxy-Connection", "keep-alive")
        .header("Proxy-Authorization", "Basic eDp5")
        .header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
        .bearer(&token("alice"))
        .open(gate.address())
        .echoes("hello");
    let seen = upstream.last();
    assert_ne!(seen.header("sec-websocket-key"), Some(KEY), "sockgate uses its own key");
    assert_eq!(seen.header("upgrade").map(str::to_ascii_lowercase).as_deref(), Some("websocket"));
    assert_eq!(seen.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(seen.header("sec-websocket-version"), Some("13"));
    assert_eq!(seen.header("x-keep"), Some("2"));
    for gone in [
        "x-hop",
        "keep-alive",
        "te",
        "trailer",
        "proxy-connection",
        "proxy-authorization",
        "http2-settings",
    ] {
        assert_eq!(seen.header(gone), None, "{gone}:\n{}", seen.head);
    }
}

#[test]
fn half_a_head_is_no_request_and_holds_nobody_up() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let mut half = dial(gate.address());
    half.write_all(b"GET /ws/a HTTP/1.1\r\nHost: ga").expect("sent");
    Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address()).echoes("hello");
    half.write_all(b"te.test\r\n\r\n").expect("sent");
    let mut answer = [0; 12];
    half.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 401");
}

#[test]
fn a_frame_sent_before_the_answer_reaches_nobody_if_the_answer_is_no() {
    let (upstream, open) = (Upstream::start(), Upstream::start());
    let gate = start(&upstream, &open);
    let mut stream = dial(gate.address());
    let request = Request::upgrade("/ws/a").origin("http://evil.test");
    stream.write_all(&request.pipelined(&Frame::text("early")).bytes()).expect("sent");
    let response = super::support::Response::read(&mut stream).expect("an answer");
    assert_eq!(response.status, 403);
    nothing_comes(&mut stream, std::time::Duration::from_secs(5));
    upstream.saw_nothing();
}
