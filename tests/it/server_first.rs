//! `dial: first`: the server speaks before anybody is known, and hears nothing of a
//! client before its login.

use serde_json::json;

use super::support::{
    Frame, Gate, Nobody, Opcode, Request, Socket, Token, Upstream, eventually, policy, token,
};

fn config(format: &str, more: &str, upstream: &str) -> String {
    let message = format!("{{ message: {{ format: {format} }}, verifier: app{more} }}");
    let credentials = format!("[{{ cookie: session, verifier: app }}, {message}]");
    policy(&format!("origins: any, credentials: {credentials}"), upstream)
}

fn open(gate: &Gate, path: &str) -> Socket {
    Request::upgrade(path).open(gate.address())
}

fn connect(token: &str) -> String {
    format!("40{}", json!({ "token": token }))
}

fn line(options: &serde_json::Value) -> Frame {
    Frame::new(Opcode::Binary, format!("CONNECT {options}\r\n"))
}

fn violation() -> Frame {
    Frame::new(Opcode::Binary, "-ERR 'Authorization Violation'\r\n")
}

#[test]
fn the_server_is_heard_at_once_and_hears_nothing_before_the_login() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("socketio", "", &upstream.ws()));
    let mut socket = open(&gate, "/ws/greet");
    assert_eq!(socket.text(), "welcome");
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), None);
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    // What a client answers to its server's ping waits for the login.
    socket.send("3");
    assert_eq!(upstream.messages(), [""; 0]);
    socket.send(&connect(&token("alice")));
    assert_eq!(socket.text(), "3");
    assert_eq!(socket.text(), "40{}");
    socket.echoes("42[\"hello\"]");
    assert_eq!(upstream.messages(), ["3", "40{}", "42[\"hello\"]"]);
    assert_eq!(gate.record("/ws/greet")["subject"], "alice");
    // Another namespace is another login.
    socket.send(&format!("40/admin,{}", json!({ "token": token("alice"), "v": 1 })));
    assert_eq!(socket.text(), r#"40/admin,{"v":1}"#);
    socket.send(&format!("40/admin,{}", json!({ "token": token("mallory") })));
    assert_eq!(socket.text(), r#"44/admin,{"message":"Forbidden"}"#);
    assert_eq!(socket.closed().says(), (4003, "Forbidden"));
}

#[test]
fn refusals_speak_the_dialect_and_the_server_never_hears_of_the_client() {
    let upstream = Upstream::start();
    let stale = Token::of("alice").expires_in(-600).sign();
    let gate = Gate::start(&config("socketio", "", &upstream.ws()));
    for (login, message, code) in [
        (connect("nonsense"), r#"44{"message":"Unauthorized"}"#, 4001),
        (connect(&stale), r#"44{"message":"Session expired"}"#, 4002),
        ("40/x,".to_owned(), r#"44/x,{"message":"Unauthorized"}"#, 4001),
        ("42[]".to_owned(), r#"44{"message":"Unauthorized"}"#, 4001),
    ] {
        let mut socket = open(&gate, "/ws/greet");
        assert_eq!(socket.text(), "welcome");
        socket.send(&login);
        assert_eq!(socket.text(), message);
        assert_eq!(socket.closed().code, code, "{login}");
    }
    let gate = Gate::start(&config("nats", "", &upstream.ws()));
    for options in [
        json!({ "auth_token": "nonsense" }),
        json!({ "jwt": stale }),
        json!({ "user": "mallory", "pass": token("alice") }),
        json!({ "auth_token": token("alice"), "pass": token("bob") }),
        json!({ "verbose": false }),
    ] {
        let mut socket = open(&gate, "/ws/greet");
        assert_eq!(socket.text(), "welcome");
        socket.send_frame(&line(&options));
        assert_eq!(socket.receive(), violation(), "{options}");
        assert_eq!(socket.closed().code, 1008, "{options}");
    }
    eventually("every upstream is closed", || upstream.closes().len() == 9);
    assert!(upstream.closes().iter().all(Option::is_some), "{:?}", upstream.closes());
    assert_eq!(upstream.messages(), [""; 0]);
}

#[test]
fn a_nats_login_comes_in_pieces_and_brings_what_follows() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("nats", "", &upstream.ws()));
    let mut socket = open(&gate, "/ws/greet");
    assert_eq!(socket.text(), "welcome");
    let options = json!({ "verbose": false, "user": "alice", "pass": token("alice") });
    let login = format!("CONNECT {options}\r\nPING\r\n");
    let half = login.len() / 2;
    socket.send_frame(&Frame::new(Opcode::Binary, &login[..half]));
    socket.send_frame(&Frame::new(Opcode::Binary, &login[half..]));
    let sent = "CONNECT {\"verbose\":false,\"user\":\"alice\"}\r\nPING\r\n";
    assert_eq!(socket.receive(), Frame::new(Opcode::Binary, sent));
    // A second CONNECT is verified like the first, wherever it stands.
    let again = json!({ "auth_token": token("alice") });
    socket.send_frame(&line(&again));
    assert_eq!(socket.receive(), Frame::new(Opcode::Binary, "CONNECT {}\r\n"));
    let harmless = Frame::new(Opcode::Binary, "PUB a 9\r\nCONNECT {\r\n");
    socket.send_frame(&harmless);
    assert_eq!(socket.receive(), harmless);
    socket.send_frame(&Frame::new(Opcode::Binary, "PING\r\nCONNECT {}\r\n"));
    assert_eq!(socket.receive(), violation());
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
}

#[test]
fn what_a_nats_client_begins_behind_a_second_login_is_followed_to_its_end() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("nats", "", &upstream.ws()));
    let mut socket = open(&gate, "/ws/echo");
    let login = |behind: &str| {
        let options = json!({ "auth_token": token("alice") });
        Frame::new(Opcode::Binary, format!("CONNECT {options}\r\n{behind}"))
    };
    let expected = |behind: &str| Frame::new(Opcode::Binary, format!("CONNECT {{}}\r\n{behind}"));
    socket.send_frame(&login(""));
    assert_eq!(socket.receive(), expected(""));
    // Its payload is still to come, and is none of another PUB.
    socket.send_frame(&login("PUB a 40\r\n"));
    assert_eq!(socket.receive(), expected("PUB a 40\r\n"));
    let payload = Frame::new(Opcode::Binary, format!("{:<40}\r\n", "PUB b 999999\r\n"));
    socket.send_frame(&payload);
    assert_eq!(socket.receive(), payload);
    socket.send_frame(&Frame::new(Opcode::Binary, "CONNECT {\"user\":\"root\"}\r\n"));
    assert_eq!(socket.receive(), violation());
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
}

#[test]
fn a_rewrite_logs_in_at_the_server_and_a_cookie_needs_no_preview() {
    let upstream = Upstream::start();
    let rewrite = r#", forward: { rewrite: '{"user": identity.subject, "pass": "of-the-gate"}' }"#;
    let gate = Gate::start(&config("nats", rewrite, &upstream.ws()));
    let mut socket = open(&gate, "/ws/echo");
    socket.send_frame(&line(&json!({ "user": "whoever", "auth_token": token("alice") })));
    let sent = "CONNECT {\"user\":\"alice\",\"pass\":\"of-the-gate\"}\r\n";
    assert_eq!(socket.receive(), Frame::new(Opcode::Binary, sent));
    let mut socket = Request::upgrade("/ws/echo").cookie(&token("bob")).open(gate.address());
    socket.send_frame(&Frame::new(Opcode::Binary, "PING\r\n"));
    assert_eq!(socket.receive(), Frame::new(Opcode::Binary, "PING\r\n"));
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("bob"));
}

#[test]
fn what_is_longer_than_a_login_waits_for_it() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("socketio", "", &upstream.ws()));
    let mut socket = open(&gate, "/ws/push-20000");
    socket.send(&connect(&token("alice")));
    assert_eq!(socket.receive(), Frame::new(Opcode::Binary, vec![b'x'; 20_000]));
    assert_eq!(socket.text(), "40{}");
    // The beginning of a message alone is nothing that could be told.
    let mut socket = open(&gate, "/ws/hex-0102616289000002636480");
    socket.send(&connect("nonsense"));
    assert_eq!(socket.text(), r#"44{"message":"Unauthorized"}"#);
}

#[test]
fn a_server_that_ends_first_is_told_to_the_client() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("socketio", "", &upstream.ws()));
    assert_eq!(open(&gate, "/ws/close-4321").closed().says(), (4321, "told so"));
    for (path, code, message) in [
        ("/ws/drop", 1013, "Bad gateway"),
        ("/ws/answer-403", 1013, "Bad gateway"),
        ("/ws/wrong-accept", 1013, "Bad gateway"),
        ("/ws/hex-810161c100", 1002, "Protocol error"),
    ] {
        let mut socket = open(&gate, path);
        if code == 1013 {
            assert_eq!(socket.text(), format!(r#"44{{"message":"{message}"}}"#), "{path}");
        } else {
            assert_eq!(socket.text(), "a");
        }
        assert_eq!(socket.closed().says(), (code, message), "{path}");
    }
    let nobody = Nobody::there();
    let gate = Gate::start(&config("nats", "", &nobody.ws()));
    // It is not the login's fault: a client must not take it for that.
    assert_eq!(open(&gate, "/ws/x").closed().says(), (1013, "Bad gateway"));
}

#[test]
fn a_login_has_its_time_and_a_client_that_leaves_takes_the_upstream_along() {
    let upstream = Upstream::start();
    let limits = "limits: { auth_timeout: 1s }\n".to_owned();
    let gate = Gate::start(&(limits + &config("socketio", "", &upstream.ws())));
    let mut socket = open(&gate, "/ws/greet");
    assert_eq!(socket.text(), "welcome");
    assert_eq!(socket.text(), r#"44{"message":"Authentication timeout"}"#);
    assert_eq!(socket.closed().says(), (4001, "Authentication timeout"));
    eventually("the upstream is closed", || upstream.closes().len() == 1);
    drop(open(&gate, "/ws/greet"));
    eventually("the upstream is closed", || upstream.closes().len() == 2);
}

#[test]
fn so_many_wait_on_a_route_and_no_more() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("socketio", "", &upstream.ws()));
    let mut waiting: Vec<Socket> = (0..256).map(|_| open(&gate, "/ws/greet")).collect();
    assert_eq!(Request::upgrade("/ws/greet").status(gate.address()), 503);
    assert_eq!(gate.reason("/ws/greet"), "limit_unauthenticated");
    let mut first = waiting.swap_remove(0);
    assert_eq!(first.text(), "welcome");
    first.send(&connect(&token("alice")));
    assert_eq!(first.text(), "40{}");
    // Whoever is in makes room for the next.
    let mut next = open(&gate, "/ws/greet");
    assert_eq!(next.text(), "welcome");
    assert_eq!(Request::upgrade("/ws/greet").status(gate.address()), 503);
}

#[test]
fn dial_is_a_choice_for_every_format() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("socketio", ", dial: after_auth", &upstream.ws()));
    let mut socket = open(&gate, "/ws/greet");
    socket.send(&connect(&token("alice")));
    assert_eq!((socket.text(), socket.text()), ("welcome".to_owned(), "40{}".to_owned()));
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("alice"));
    // Beside `message` and in it.
    for (format, more) in [("text", ", dial: first"), ("text, dial: first", "")] {
        let gate = Gate::start(&config(format, more, &upstream.ws()));
        let mut socket = open(&gate, "/ws/greet");
        assert_eq!(socket.text(), "welcome");
        socket.send(&token("alice"));
        socket.echoes("hello");
    }
}
