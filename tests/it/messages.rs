//! The first message as the credential.

use std::net::Shutdown;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::support::{
    Frame, Gate, Nobody, Opcode, Peer, Request, SECRET, Token, Upstream, dial, eventually, policy,
    token,
};

const JSON: &str =
    "{ message: { format: json, where: { /type: auth }, token: /token }, verifier: app";

fn config(forward: &str, extra: &str, upstream: &str) -> String {
    let forward = if forward.is_empty() { String::new() } else { format!(", forward: {forward}") };
    policy(
        &format!(
            "origins: any, credentials: [{{ cookie: session, verifier: app }}, {JSON}{forward} }}]{extra}"
        ),
        upstream,
    )
}

fn login(token: &str) -> String {
    json!({"type": "auth", "token": token, "room": "lobby"}).to_string()
}

fn open(gate: &Gate) -> super::support::Socket {
    Request::upgrade("/ws/echo").open(gate.address())
}

#[test]
fn the_login_message_admits_is_consumed_and_names_the_user_to_the_upstream() {
    let upstream = Upstream::start();
    let accept = r#", accept_message: '{"type": "authenticated", "user": identity.subject}'"#;
    let gate = Gate::start(&config("", accept, &upstream.ws()));
    let mut socket = open(&gate);
    upstream.saw_nothing();
    socket.send(&login(&token("alice")));
    assert_eq!(socket.json(), json!({"type": "authenticated", "user": "alice"}));
    socket.echoes("hello");
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("alice"));
    assert_eq!(upstream.messages(), ["hello"]);
    socket.finish();
}

#[test]
fn the_accept_message_comes_before_the_first_frame_of_the_upstream() {
    let upstream = Upstream::start();
    let config = config("", ", accept_message: '\"you are in\"'", &upstream.ws());
    let gate = Gate::start(&config);
    let mut socket = Request::upgrade("/ws/greet").open(gate.address());
    socket.send(&login(&token("alice")));
    assert_eq!(socket.text(), "you are in");
    assert_eq!(socket.text(), "welcome");
    let mut socket = Request::upgrade("/ws/greet").cookie(&token("alice")).open(gate.address());
    assert_eq!(socket.text(), "you are in");
    assert_eq!(socket.text(), "welcome");
}

#[test]
fn the_whole_of_a_text_message_is_the_token() {
    let upstream = Upstream::start();
    let config = policy(
        "origins: any, credentials: [{ message: { format: text }, verifier: app }]",
        &upstream.ws(),
    );
    let gate = Gate::start(&config);
    let mut socket = open(&gate);
    socket.send(&token("alice"));
    socket.echoes("hello");
    assert_eq!(upstream.messages(), ["hello"]);
    let mut socket = open(&gate);
    socket.send("nonsense");
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
}

#[test]
fn a_credential_in_the_handshake_makes_the_message_unnecessary() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream.ws()));
    Request::upgrade("/ws/echo").cookie(&token("alice")).open(gate.address()).echoes("hello");
    let bad = Request::upgrade("/ws/echo").cookie("garbage");
    assert_eq!(bad.closed(gate.address()).says(), (4001, "Unauthorized"));
}

#[test]
fn the_login_may_be_fragmented_binary_or_in_the_segment_of_the_handshake() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream.ws()));
    let login = login(&token("alice"));
    let (start, end) = login.split_at(20);

    let mut socket = open(&gate);
    socket.send_frame(&Frame::text(start).unfinished());
    socket.send_frame(&Frame::new(Opcode::Ping, "are you there"));
    let pong = socket.read_frame().expect("a frame").expect("not the end");
    assert_eq!(pong, Frame::new(Opcode::Pong, "are you there"));
    socket.send_frame(&Frame::new(Opcode::Continuation, end));
    socket.echoes("fragmented");

    let mut socket = open(&gate);
    socket.send_frame(&Frame::new(Opcode::Binary, login.as_str()));
    socket.echoes("binary");

    let mut socket = Request::upgrade("/ws/echo")
        .pipelined(&Frame::text(&login))
        .pipelined(&Frame::text("at once"))
        .open(gate.address());
    assert_eq!(socket.text(), "at once");

    let mut socket = open(&gate);
    for byte in Frame::text(&login).masked() {
        socket.send_bytes(&[byte]);
    }
    socket.echoes("byte by byte");
    assert_eq!(upstream.messages(), ["fragmented", "binary", "at once", "byte by byte"]);
}

#[test]
fn a_first_message_that_is_no_login_is_refused_and_reaches_nobody() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream.ws()));
    let (good, other) = (token("alice"), token("bob"));
    let expired = Token::of("alice").expires_in(-600).sign();
    let deep =
        format!(r#"{{"type":"auth","token":"{good}","x":{}{}}}"#, "[".repeat(40), "]".repeat(40));
    let cases = [
        ("hello".to_owned(), 4001),
        (r#"{"type":"hello"}"#.to_owned(), 4001),
        (r#"{"type":"auth"}"#.to_owned(), 4001),
        (r#"{"type":"auth","token":""}"#.to_owned(), 4001),
        (r#"{"type":"auth","token":7}"#.to_owned(), 4001),
        (login("garbage"), 4001),
        (format!(r#"{{"type":"auth","token":"{good}","token":"{other}"}}"#), 4001),
        (format!(r#"{{"type":"auth","token":"{good}","\u0074oken":"{other}"}}"#), 4001),
        (format!(r#"{{"type":"auth","token":"{good}","x":{{"a":1,"a":2}}}}"#), 4001),
        (format!("{} trailing", login(&good)), 4001),
        (deep, 4001),
        (login(&expired), 4002),
    ];
    assert!(!cases.is_empty());
    for (message, code) in cases {
        let mut socket = open(&gate);
        socket.send(&message);
        assert_eq!(socket.closed().code, code, "{message}");
    }
    upstream.saw_nothing();
}

#[test]
fn a_login_that_is_too_large_or_too_late_is_refused_by_name() {
    let upstream = Upstream::start();
    let config = format!(
        "{}limits: {{ auth_message_bytes: 1KiB, auth_timeout: 500ms }}\n",
        config("", "", &upstream.ws())
    );
    let gate = Gate::start(&config);
    assert_eq!(open(&gate).closed().says(), (4001, "Authentication timeout"));
    let mut socket = open(&gate);
    socket.send(&"x".repeat(1025));
    assert_eq!(socket.closed().says(), (4001, "Authentication message too large"));
    let mut socket = open(&gate);
    socket.send_frame(&Frame::text(&"x".repeat(600)).unfinished());
    socket.send_frame(&Frame::new(Opcode::Continuation, "x".repeat(600)));
    assert_eq!(socket.closed().says(), (4001, "Authentication message too large"));
    upstream.saw_nothing();
}

#[test]
fn malformed_frames_before_the_login_end_with_the_code_of_the_rfc() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream.ws()));
    let reserved = Frame { reserved: 0b100, ..Frame::text("x") };
    let cases: Vec<(Vec<u8>, u16)> = vec![
        (Frame::text("unmasked").unmasked(), 1002),
        (reserved.masked(), 1002),
        (b"\x83\x80\0\0\0\0".to_vec(), 1002),
        (b"\x80\x80\0\0\0\0".to_vec(), 1002),
        (Frame::new(Opcode::Ping, "x").unfinished().masked(), 1002),
        (Frame::new(Opcode::Ping, "x".repeat(126)).masked(), 1002),
        (Frame::new(Opcode::Text, b"\xff\xfe".to_vec()).masked(), 1007),
    ];
    assert!(!cases.is_empty());
    for (bytes, code) in cases {
        let mut socket = open(&gate);
        socket.send_bytes(&bytes);
        assert_eq!(socket.closed().code, code, "{bytes:?}");
    }
    upstream.saw_nothing();
}

#[test]
fn a_client_that_closes_before_its_login_gets_its_close_back() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream.ws()));
    open(&gate).finish();
    upstream.saw_nothing();
}

#[test]
fn no_extension_is_negotiated_and_only_the_chosen_subprotocol_is_offered() {
    let upstream = Upstream::start();
    let config = config("", "", &upstream.ws())
        .replace("policy: members,", "policy: members, subprotocols: [chat.v2, chat.v3],");
    let gate = Gate::start(&config);
    let mut socket = Request::upgrade("/ws/echo")
        .protocols("chat.v1, chat.v2")
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .open(gate.address());
    assert_eq!(socket.head.header("sec-websocket-extensions"), None);
    assert_eq!(socket.head.header("sec-websocket-protocol"), Some("chat.v2"));
    socket.send(&login(&token("alice")));
    socket.echoes("hello");
    let seen = upstream.last();
    assert_eq!(seen.header("sec-websocket-extensions"), None);
    assert_eq!(seen.header("sec-websocket-protocol"), Some("chat.v2"));
}

#[test]
fn the_login_can_be_forwarded_whole_stripped_or_rewritten() {
    let good = token("alice");
    let rewritten = r#"{ rewrite: '{"hello": identity.subject, "room": message.room}' }"#;
    let cases = [
        ("true", serde_json::from_str(&login(&good)).expect("JSON")),
        ("strip", json!({"type": "auth", "room": "lobby"})),
        (rewritten, json!({"hello": "alice", "room": "lobby"})),
    ];
    assert!(!cases.is_empty());
    for (forward, expected) in cases {
        let upstream = Upstream::start();
        let gate = Gate::start(&config(forward, "", &upstream.ws()));
        let mut socket = open(&gate);
        socket.send(&login(&good));
        assert_eq!(socket.json(), expected, "{forward}");
        socket.echoes("hello");
    }
}

#[test]
fn a_second_login_never_reaches_the_upstream() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream.ws()));
    let mut socket = open(&gate);
    socket.send(&login(&token("alice")));
    socket.echoes("hello");
    socket.send(&login(&Token::of("alice").claim("again", true).sign()));
    socket.echoes("still here");
    socket.send(&login(&token("mallory")));
    assert_eq!(socket.closed().says(), (4003, "Forbidden"));

    let mut socket = open(&gate);
    socket.send(&login(&token("alice")));
    socket.echoes("hello");
    let again = login("garbage");
    let (start, end) = again.split_at(8);
    socket.send_frame(&Frame::text(start).unfinished());
    socket.send_frame(&Frame::new(Opcode::Continuation, end));
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
    assert_eq!(upstream.messages(), ["hello", "still here", "hello"]);
}

#[test]
fn a_second_login_is_known_as_the_most_lenient_reader_would_know_it() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream.ws()));
    let plain = login(&token("mallory"));
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let padded =
        |text: &str| text.replacen('{', &format!("{{\"pad\":\"{}\",", "x".repeat(40_000)), 1);
    let cases = [
        plain.replace("type", "Type").into_bytes(),
        plain.replacen('{', "{\"n\":NaN,", 1).into_bytes(),
        plain.replacen('{', "{/* \" */", 1).into_bytes(),
        plain.replace('"', "'").into_bytes(),
        plain.replace('"', "").into_bytes(),
        wide(&plain),
        padded(&plain.replace("type", "Type")).into_bytes(),
        wide(&padded(&plain)),
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let mut socket = open(&gate);
        socket.send(&login(&token("alice")));
        socket.echoes("[see] {'type': auth");
        let before = upstream.messages();
        socket.send_frame(&Frame::new(Opcode::Binary, case));
        assert_eq!(socket.closed().code, 4001, "{number}");
        assert_eq!(upstream.messages(), before, "{number}");
    }
}

#[test]
fn a_reload_changes_who_verifies_a_second_login() {
    let upstream = Upstream::start();
    let before = config("", "", &upstream.ws());
    let gate = Gate::start(&before);
    let mut socket = open(&gate);
    socket.send(&login(&token("alice")));
    socket.echoes("hello");
    gate.rewrite(&before.replace(SECRET, &SECRET.chars().rev().collect::<String>()));
    eventually("it is read", || gate.metric("sockgate_config_reloads_total", &[]) >= 1.0);
    socket.echoes("still here");
    socket.send(&login(&token("alice")));
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
}

#[test]
fn a_second_login_that_is_cut_off_reaches_nobody() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream.ws()));
    let mut socket = open(&gate);
    let login = login(&token("alice"));
    socket.send(&login);
    socket.echoes("hello");
    socket.send_frame(&Frame::text(&login[..login.len() - 3]).unfinished());
    socket.send_frame(&Frame::close(1000, ""));
    assert_eq!(socket.closed().code, 1000);
    assert_eq!(upstream.close(), Some(1000));
    assert_eq!(upstream.messages(), ["hello"]);
}

#[test]
fn an_upstream_that_fails_after_the_login_is_told_as_1013() {
    let nobody = Nobody::there();
    let gate = Gate::start(&config("", "", &nobody.ws()));
    let mut socket = open(&gate);
    socket.send(&login(&token("alice")));
    assert_eq!(socket.closed().says(), (1013, "Bad gateway"));

    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream.ws()));
    let mut socket = Request::upgrade("/ws/answer-403").open(gate.address());
    socket.send(&login(&token("alice")));
    assert_eq!(socket.closed().says(), (1013, "Bad gateway"));
}

#[test]
fn a_client_that_leaves_behind_its_login_is_asked_and_dialled_for_no_more() {
    let (hanging, let_go) = Peer::hanging();
    let upstream = Upstream::start();
    let judged = config("", "", &upstream.ws()).replacen(
        &format!("jwt: {{ secret: {SECRET}, algorithms: [HS256] }}"),
        &format!("forward_auth: {{ url: \"{}\", timeout: 60s }}", hanging.url()),
        1,
    ) + "limits: { auth_timeout: 60s }\n";
    let dialled = config("", "", &hanging.url().replace("http:", "ws:"))
        + "limits: { upstream_connect_timeout: 60s }\n";
    for (left, config) in [judged, dialled].iter().enumerate() {
        let gate = Gate::start(config);
        let mut socket = open(&gate);
        socket.send(&login(&token("alice")));
        socket.send("held");
        eventually("it is under way", || hanging.asked() == left + 1);
        drop(socket);
        let line = gate.line("of who left", |line| line["outcome"] == "abandoned");
        assert!(line["reason"].is_null(), "{line}");
        assert!(gate.metric("sockgate_upstream_errors_total", &[]) < 0.5);
        if left == 1 {
            // What was judged, others might be asking too: that goes on.
            eventually("it is let go of", || let_go.load(Ordering::Relaxed) > 0);
        }
    }
    upstream.saw_nothing();
}

/// Who has closed has not gone away, whoever is asked or dialled meanwhile.
#[test]
fn a_client_that_ends_behind_its_close_has_said_all_that_it_had_to() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream.ws()));
    let stream = dial(gate.address());
    let half = stream.try_clone().expect("a second handle");
    let mut socket = Request::upgrade("/ws/hesitate-400").open_on(stream);
    let said =
        [Frame::text(&login(&token("alice"))), Frame::text("job"), Frame::close(1000, "done")];
    socket.send_bytes(&said.each_ref().map(Frame::masked).concat());
    half.shutdown(Shutdown::Write).expect("shut down");
    let closed = socket.closed();
    assert_eq!((closed.code, &*closed.messages), (1000, &["job".to_owned()][..]));
    assert_eq!(upstream.messages(), ["job"]);
    assert_eq!(gate.line("of the end", |line| line["outcome"] == "closed")["code"], 1000);
}

#[test]
fn what_a_client_sends_behind_its_login_arrives_in_order() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream.ws()));
    let mut socket = open(&gate);
    let mut bytes = Frame::text(&login(&token("alice"))).masked();
    let messages: Vec<String> = (0..50).map(|number| format!("message {number}")).collect();
    messages.iter().for_each(|text| bytes.extend(Frame::text(text).masked()));
    socket.send_bytes(&bytes);
    for text in &messages {
        assert_eq!(&socket.text(), text);
    }
}
