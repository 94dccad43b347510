//! Protocols whose login is their own first message, byte for byte.

use serde_json::json;

use super::support::{Frame, Gate, Opcode, Request, Socket, Token, Upstream, policy, token};

fn config(format: &str, forward: &str, upstream: &str) -> String {
    let forward = if forward.is_empty() { String::new() } else { format!(", forward: {forward}") };
    let message = format!("{{ message: {{ format: {format} }}, verifier: app{forward} }}");
    let credentials = format!("[{{ cookie: session, verifier: app }}, {message}]");
    policy(&format!("origins: any, credentials: {credentials}"), upstream)
}

fn open(gate: &Gate) -> Socket {
    Request::upgrade("/ws/echo").open(gate.address())
}

fn connection_init(token: &str) -> String {
    json!({ "type": "connection_init", "payload": { "Authorization": format!("Bearer {token}") } })
        .to_string()
}

fn connect(login: &str, token: &str) -> String {
    format!("CONNECT\naccept-version:1.2\nlogin:{login}\npasscode:{token}\n\n\0")
}

/// A CONNECT packet of MQTT 3.1.1.
fn packet(user: &str, password: Option<&str>) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\x82\0\x3c\0\x02me".to_vec();
    body[7] |= if password.is_some() { 0x40 } else { 0 };
    for text in [Some(user), password].into_iter().flatten() {
        body.extend((text.len() as u16).to_be_bytes());
        body.extend(text.as_bytes());
    }
    let mut packet = vec![0x10];
    if body.len() > 127 {
        packet.push(body.len() as u8 | 0x80);
        packet.push((body.len() >> 7) as u8);
    } else {
        packet.push(body.len() as u8);
    }
    packet.extend(body);
    packet
}

fn binary(payload: &[u8]) -> Frame {
    Frame::new(Opcode::Binary, payload)
}

#[test]
fn a_dialects_login_reaches_the_upstream_without_its_token() {
    let good = token("alice");
    let cases = [
        (
            "graphql",
            connection_init(&good),
            r#"{"type":"connection_init","payload":{}}"#.to_owned(),
        ),
        (
            "stomp",
            connect("alice", &good),
            "CONNECT\naccept-version:1.2\nlogin:alice\n\n\0".to_owned(),
        ),
        (
            "phoenix",
            json!(["1", "1", "room", "phx_join", { "token": good }]).to_string(),
            r#"["1","1","room","phx_join",{}]"#.to_owned(),
        ),
        (
            "centrifuge",
            json!({ "connect": { "token": good }, "id": 1 }).to_string(),
            r#"{"connect":{},"id":1}"#.to_owned(),
        ),
    ];
    for (format, login, expected) in cases {
        let upstream = Upstream::start();
        let gate = Gate::start(&config(format, "", &upstream.ws()));
        let mut socket = open(&gate);
        socket.send(&login);
        assert_eq!(socket.text(), expected, "{format}");
        // The same again: a client may log in twice, as the same identity.
        socket.send(&login);
        assert_eq!(socket.text(), expected, "{format} again");
        assert_eq!(upstream.last().header("x-forwarded-user"), Some("alice"));
        socket.send(&login.replace(&good, &token("mallory")));
        assert_eq!(socket.closed().code, 4003, "{format} as another");
    }
}

#[test]
fn an_mqtt_login_comes_in_pieces_and_names_the_subject() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("mqtt", "", &upstream.ws()));
    let mut socket = Request::upgrade("/ws/echo").protocols("mqtt").open(gate.address());
    assert_eq!(socket.head.header("sec-websocket-protocol"), Some("mqtt"));
    for piece in packet("alice", Some(&token("alice"))).chunks(7) {
        socket.send_frame(&binary(piece));
    }
    assert_eq!(socket.receive(), binary(&packet("alice", None)));
    // A second CONNECT is found between packets, however they are cut.
    socket.send_frame(&binary(&[0x30, 2, 0x10]));
    assert_eq!(socket.receive(), binary(&[0x30, 2, 0x10]));
    socket.send_frame(&binary(&[0x10, 0xc0, 0]));
    assert_eq!(socket.receive(), binary(&[0x10, 0xc0, 0]));
    socket.send_frame(&binary(&[0xc0, 0, 0x10]));
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
}

#[test]
fn who_came_by_cookie_may_say_hello_in_pieces_too() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("mqtt", "", &upstream.ws()));
    let by_cookie = || Request::upgrade("/ws/echo").cookie(&token("alice")).open(gate.address());
    let mut socket = by_cookie();
    // As MQTT.js in node sends it.
    for byte in packet("alice", None) {
        socket.send_frame(&binary(&[byte]));
    }
    assert_eq!(socket.receive(), binary(&packet("alice", None)));
    socket.send_frame(&binary(&[0xc0, 0]));
    assert_eq!(socket.receive(), binary(&[0xc0, 0]));
    for piece in packet("alice", None).chunks(5) {
        socket.send_frame(&binary(piece));
    }
    assert_eq!(socket.receive(), binary(&[0x20, 2, 0, 5]));
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
    let mut socket = by_cookie();
    for piece in packet("bob", None).chunks(5) {
        socket.send_frame(&binary(piece));
    }
    assert_eq!(socket.receive(), binary(&[0x20, 2, 0, 5]));
    assert_eq!(socket.closed().says(), (4003, "Forbidden"));
    // What has no end is no login, and reaches nobody.
    let mut socket = by_cookie();
    let before = upstream.messages();
    socket.send_frame(&binary(&[0x10, 0xff, 0xff, 0x7f]));
    socket.send_frame(&binary(&[0; 16_384]));
    assert_eq!(socket.closed().code, 4001);
    assert_eq!(upstream.messages(), before);
}

#[test]
fn refusals_speak_the_dialect() {
    let stale = Token::of("alice").expires_in(-600).sign();
    let upstream = Upstream::start();

    let gate = Gate::start(&config("graphql", "", &upstream.ws()));
    for (protocol, login, code) in [
        ("graphql-transport-ws", connection_init(&stale), 4403),
        ("graphql-transport-ws", connection_init("nonsense"), 4401),
        ("graphql-transport-ws", r#"{"type":"subscribe"}"#.to_owned(), 4401),
        ("graphql-ws", connection_init(&stale), 4403),
    ] {
        let mut socket = Request::upgrade("/ws/echo").protocols(protocol).open(gate.address());
        assert_eq!(socket.head.header("sec-websocket-protocol"), Some(protocol));
        socket.send(&login);
        if protocol == "graphql-ws" {
            assert_eq!(socket.json()["type"], "connection_error");
        }
        assert_eq!(socket.closed().code, code, "{protocol} {login}");
    }

    let gate = Gate::start(&config("stomp", "", &upstream.ws()));
    for (login, message) in [
        (connect("alice", "nonsense"), "Unauthorized"),
        (connect("bob", &token("alice")), "Forbidden"),
    ] {
        let mut socket = open(&gate);
        socket.send(&login);
        assert!(socket.text().starts_with(&format!("ERROR\nmessage:{message}\n")));
    }

    let gate = Gate::start(&config("mqtt", "", &upstream.ws()));
    for (user, password) in [("alice", "nonsense".to_owned()), ("bob", token("alice"))] {
        let mut socket = open(&gate);
        socket.send_frame(&binary(&packet(user, Some(&password))));
        assert_eq!(socket.receive(), binary(&[0x20, 2, 0, 5]));
    }

    let gate = Gate::start(&config("centrifuge", "", &upstream.ws()));
    let mut socket = open(&gate);
    socket.send(&json!({ "id": 7, "connect": { "token": stale } }).to_string());
    let expected = json!({ "id": 7, "error": { "code": 109, "message": "Session expired" } });
    assert_eq!(socket.json(), expected);
    upstream.saw_nothing();
}

#[test]
fn who_came_by_cookie_may_say_hello_without_a_token_but_not_as_another() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("stomp", "", &upstream.ws()));
    let by_cookie = || Request::upgrade("/ws/echo").cookie(&token("alice")).open(gate.address());
    let mut socket = by_cookie();
    socket.send("CONNECT\nlogin:alice\n\n\0");
    assert_eq!(socket.text(), "CONNECT\nlogin:alice\n\n\0");
    socket.send("CONNECT\nlogin:alice\n\n\0");
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
    // Every channel of Phoenix has its own.
    let phoenix = Gate::start(&config("phoenix", "", &upstream.ws()));
    let mut socket = Request::upgrade("/ws/echo").cookie(&token("alice")).open(phoenix.address());
    for room in ["one", "two"] {
        socket.echoes(&json!(["1", "1", room, "phx_join", {}]).to_string());
    }
    let mut socket = by_cookie();
    socket.send("CONNECT\nlogin:bob\n\n\0");
    assert_eq!(socket.closed().says(), (4003, "Forbidden"));
    let mut socket = by_cookie();
    socket.send("SEND\n\nx\0CONNECT\nlogin:bob\n\n\0");
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
}

#[test]
fn a_rewrite_logs_in_at_the_upstream_with_the_identity() {
    let upstream = Upstream::start();
    let rewrite = r#"{ rewrite: '{"username": identity.subject, "password": "of-the-gate"}' }"#;
    let gate = Gate::start(&config("mqtt", rewrite, &upstream.ws()));
    let mut socket = open(&gate);
    socket.send_frame(&binary(&packet("whoever", Some(&token("alice")))));
    assert_eq!(socket.receive(), binary(&packet("alice", Some("of-the-gate"))));
}

#[test]
fn no_member_that_a_server_could_take_for_ours_is_left_beside_a_rewrite() {
    let upstream = Upstream::start();
    let rewrite = r#"{ rewrite: '{"user": identity.subject}' }"#;
    let gate = Gate::start(&config("graphql", rewrite, &upstream.ws()));
    // To a server in Go, "Payload" is `payload`, and the last one counts.
    let login = connection_init(&token("mallory"));
    let twin = login.replace("}}", r#"},"Payload":{"user":"root"}}"#);
    let mut socket = open(&gate);
    socket.send(&twin);
    assert_eq!(socket.closed().code, 4401);
    let by_cookie =
        |gate: &Gate| Request::upgrade("/ws/echo").cookie(&token("mallory")).open(gate.address());
    for (format, hello) in [
        ("graphql", r#"{"TYPE":"connection_init","payload":{"user":"root"}}"#),
        ("centrifuge", r#"{"Connect":{"user":"root"},"id":1}"#),
    ] {
        let gate = Gate::start(&config(format, rewrite, &upstream.ws()));
        let mut socket = by_cookie(&gate);
        socket.send(hello);
        assert_eq!(socket.closed().says(), (4001, "Unauthorized"), "{format}");
    }
    let gate = Gate::start(&config("centrifuge", rewrite, &upstream.ws()));
    let mut socket = by_cookie(&gate);
    socket.send(r#"{"connect":{"User":"root"},"id":1}"#);
    assert_eq!(socket.text(), r#"{"connect":{"user":"mallory"},"id":1}"#);
    // Protobuf, in which nothing is rewritten.
    socket.send_frame(&binary(b"\x0c\x08\x01\x22\x08\x12\x04root"));
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
    let gate = Gate::start(&config(
        "stomp",
        r#"{ rewrite: '{"login": identity.subject}' }"#,
        &upstream.ws(),
    ));
    let mut socket = open(&gate);
    socket.send(&connect("root", &token("mallory")).replace("login", "Login"));
    assert_eq!(socket.text(), "CONNECT\naccept-version:1.2\nlogin:mallory\n\n\0");
}

#[test]
fn a_login_name_in_another_case_or_with_an_escape_is_a_strangers() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("stomp", "", &upstream.ws()));
    let escaped = token(r"a\cb");
    for (login, jwt) in [("Login:bob", token("alice")), (r"login:a\cb", escaped)] {
        let mut socket = open(&gate);
        socket.send(&format!("CONNECT\n{login}\npasscode:{jwt}\n\n\0"));
        assert!(socket.text().starts_with("ERROR\nmessage:Forbidden\n"), "{login}");
    }
    upstream.saw_nothing();
}

#[test]
fn a_login_hides_behind_no_length_that_servers_read_differently() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("stomp", "", &upstream.ws()));
    let zeros = "0".repeat(200);
    for header in [
        " content-length:99".to_owned(),
        "Content-Length:99".to_owned(),
        "content-length: 99".to_owned(),
        format!("content-length:{zeros}99"),
        format!("{}x:y", " ".repeat(200)),
    ] {
        let mut socket = open(&gate);
        socket.send(&connect("alice", &token("alice")));
        assert!(socket.text().starts_with("CONNECT\n"));
        let before = upstream.messages();
        socket.send(&format!("SEND\n{header}\n\n\0CONNECT\nlogin:bob\n\n\0"));
        assert_eq!(socket.closed().says(), (4001, "Unauthorized"), "{header:.20}");
        assert_eq!(upstream.messages(), before, "{header:.20}");
    }
}

#[test]
fn what_a_policy_requires_of_a_login_it_requires_of_every_one() {
    let upstream = Upstream::start();
    let config = policy(
        "origins: any, require: 'message == null || message.topic.startsWith(\"room:\")', credentials: \
         [{ cookie: session, verifier: app }, { message: { format: phoenix }, verifier: app }]",
        &upstream.ws(),
    );
    let gate = Gate::start(&config);
    let join = |topic: &str, payload: serde_json::Value| {
        json!(["1", "1", topic, "phx_join", payload]).to_string()
    };
    let by_message = || json!({ "token": token("alice") });
    let mut socket = open(&gate);
    for topic in ["room:a", "room:b"] {
        socket.send(&join(topic, by_message()));
        assert_eq!(socket.text(), join(topic, json!({})));
    }
    socket.send(&join("admin", by_message()));
    assert!(socket.text().contains(r#""reason":"Forbidden""#));
    assert_eq!(socket.closed().says(), (4003, "Forbidden"));
    let mut socket = Request::upgrade("/ws/echo").cookie(&token("alice")).open(gate.address());
    socket.echoes(&join("room:a", json!({})));
    socket.send(&join("admin", json!({})));
    assert!(socket.text().contains(r#""reason":"Forbidden""#));
    assert_eq!(socket.closed().says(), (4003, "Forbidden"));
}
