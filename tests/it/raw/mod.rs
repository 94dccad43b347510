//! Servers that speak neither WebSocket nor HTTP: what they and their clients see of
//! each other, and how either ends. What listens here is played by the test; real
//! servers are in `servers`, and proxies in `proxies`.

mod proxies;
mod servers;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::support::{
    Frame, Gate, Opcode, PATIENCE, Request, SECRET, Socket, Token, dial, eventually, run, token,
};

const ADMIN: &str = "canary-admin-token-0004";

/// Routes `(path, keys of the route)` under the policy `members`, which takes a cookie.
fn config(routes: &[(&str, &str)]) -> String {
    let routes: String = routes
        .iter()
        .map(|(path, keys)| format!("  - {{ path: {path}, name: raw, policy: members, {keys} }}\n"))
        .collect();
    format!(
        r#"
admin: {{ listen: "127.0.0.1:0", token: {ADMIN} }}
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  members: {{ credentials: [{{ cookie: session, verifier: app }}] }}
routes:
{routes}"#
    )
}

/// A listener, and a gate in front of it with these keys of the upstream.
fn raw(keys: &str) -> (TcpListener, Gate) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let upstream = format!("upstream: {{ url: \"tcp://{address}\"{keys} }}");
    (listener, Gate::start(&config(&[("\"/raw/*\"", &upstream)])))
}

fn open(gate: &Gate) -> Socket {
    Request::upgrade("/raw").cookie(&token("ada")).open(gate.address())
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    stream
}

#[track_caller]
fn read(stream: &mut impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("so many bytes");
    bytes
}

/// What comes until the end.
#[track_caller]
fn read_all(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an end in order");
    bytes
}

fn binary(payload: impl Into<Vec<u8>>) -> Frame {
    Frame::new(Opcode::Binary, payload)
}

#[test]
fn bytes_are_messages_and_messages_bytes_in_order_and_a_ping_is_answered() {
    let (listener, gate) = raw("");
    let mut socket = open(&gate);
    let mut server = accept(&listener);
    // The server speaks first, as many do: one write is one frame.
    for hello in [&b"RFB 003.008\n"[..], &[0, 255, 10], &[7; 126], &vec![8; 60_000]] {
        server.write_all(hello).expect("written");
        let mut received = socket.receive();
        assert_eq!((received.opcode, received.fin), (Opcode::Binary, true));
        while received.payload.len() < hello.len() {
            received.payload.extend(socket.receive().payload);
        }
        assert_eq!(received.payload, hello);
    }
    socket.send_frame(&binary(*b"hel").unfinished());
    socket.send_frame(&Frame::new(Opcode::Ping, *b"there?"));
    socket.send_frame(&Frame::new(Opcode::Continuation, *b"lo "));
    socket.send("text");
    socket.send_frame(&binary(vec![b'x'; 200_000]));
    let pong = socket.read_frame().expect("a frame").expect("not the end");
    assert_eq!((pong.opcode, &pong.payload[..]), (Opcode::Pong, &b"there?"[..]));
    let received = read(&mut server, 200_010);
    assert_eq!(&received[..10], b"hello text");
    assert!(received[10..].iter().all(|byte| *byte == b'x'));
    socket.finish();
    assert_eq!(read_all(&mut server), b"");
}

#[test]
fn a_thousand_messages_each_way_are_exact() {
    let (listener, gate) = raw("");
    let mut socket = open(&gate);
    let mut server = accept(&listener);
    let message = |number: u32| format!("{number}:{}\n", "m".repeat(number as usize % 700));
    let all: String = (0..1000).map(message).collect();
    let whole = all.clone();
    let echo = std::thread::spawn(move || {
        let received = read(&mut server, whole.len());
        server.write_all(&received).expect("written");
        received == whole.as_bytes()
    });
    for number in 0..1000 {
        socket.send_frame(&binary(message(number)));
    }
    let mut received = Vec::new();
    while received.len() < all.len() {
        received.extend(socket.receive().payload);
    }
    assert!(received == all.as_bytes() && echo.join().expect("echoed"));
    gate.metric_becomes("sockgate_connections_open", &["route=\"raw\""], 1.0);
    drop(socket);
    gate.metric_becomes("sockgate_connections_open", &["route=\"raw\""], 0.0);
    let frames = ["route=\"raw\"", "direction=\"up\"", "opcode=\"binary\""];
    assert_eq!(gate.metric("sockgate_frames_total", &frames), 1000.0);
}

#[test]
fn text_frames_never_split_a_code_point_and_what_is_no_text_ends_with_1007() {
    let (listener, gate) = raw(", frames: text");
    let mut socket = open(&gate);
    let mut server = accept(&listener);
    for byte in "aä€😀\n".bytes() {
        server.write_all(&[byte]).expect("written");
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut all = String::new();
    while !all.ends_with('\n') {
        all.push_str(&socket.text());
    }
    assert_eq!(all, "aä€😀\n");
    server.write_all(b"good\xff\xfebad").expect("written");
    let closed = socket.closed();
    assert_eq!((closed.code, closed.messages), (1007, vec!["good".to_owned()]));
    // Of a code point there is a beginning, and then the end.
    let socket = open(&gate);
    accept(&listener).write_all("€".as_bytes().split_at(2).0).expect("written");
    assert_eq!(socket.closed().code, 1007);
}

#[test]
fn each_side_may_end_while_the_other_still_speaks() {
    let (listener, gate) = raw("");
    // The server: an orderly end is 1000, behind its last words.
    let socket = open(&gate);
    let mut server = accept(&listener);
    server.write_all(b"bye").expect("written");
    server.shutdown(Shutdown::Write).expect("shut down");
    let closed = socket.closed();
    assert_eq!(closed.says(), (1000, ""));
    assert_eq!(closed.messages, ["bye"]);
    assert_eq!(read_all(&mut server), b"");

    // The client: its Close is the end of what the server reads; the answer still comes.
    let mut socket = open(&gate);
    let mut server = accept(&listener);
    socket.send_frame(&binary(*b"ask"));
    socket.send_frame(&Frame::close(4000, "enough"));
    assert_eq!(read_all(&mut server), b"ask");
    std::thread::sleep(Duration::from_millis(300));
    server.write_all(b"answer").expect("written");
    drop(server);
    let closed = socket.closed();
    assert_eq!((closed.code, closed.messages), (4000, vec!["answer".to_owned()]));

    // Without a Close its end is as good, and the server's end is as orderly.
    let stream = dial(gate.address());
    let half = stream.try_clone().expect("a second handle");
    let socket = Request::upgrade("/raw").cookie(&token("ada")).open_on(stream);
    let mut server = accept(&listener);
    half.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(read_all(&mut server), b"");
    server.write_all(b"answer").expect("written");
    drop(server);
    let closed = socket.closed();
    assert_eq!((closed.says(), &*closed.messages), ((1000, ""), &["answer".to_owned()][..]));

    // A client that is just gone ends the server's socket too.
    drop(open(&gate));
    assert_eq!(read_all(&mut accept(&listener)), b"");

    // A reset is no end in order.
    let mut socket = open(&gate);
    let server = accept(&listener);
    socket.send_frame(&binary(*b"unread"));
    eventually("it has arrived", || server.peek(&mut [0; 9]).is_ok_and(|count| count == 6));
    // Closed with bytes unread: the system resets it.
    drop(server);
    assert_eq!(socket.closed().says(), (1013, "Bad gateway"));
}

#[test]
fn what_closes_other_sockets_closes_these_and_the_server_hears_of_it() {
    let (listener, gate) = raw("");
    let began = Instant::now();
    let socket = {
        // The leeway is 30 s.
        let token = Token::of("ada").expires_in(-27).sign();
        Request::upgrade("/raw").cookie(&token).open(gate.address())
    };
    let mut server = accept(&listener);
    let revoked = Token::of("bob").claim("sid", "s-2").sign();
    let revoked = Request::upgrade("/raw").cookie(&revoked).open(gate.address());
    let mut other = accept(&listener);
    let answer = Request::new("POST", "/revoke")
        .bearer(ADMIN)
        .body(json!({ "session": "s-2" }).to_string())
        .send(gate.admin());
    assert_eq!(answer.json()["closed"], 1);
    assert_eq!(read_all(&mut other), b"");
    drop(other);
    assert_eq!(revoked.closed().says(), (4001, "Session revoked"));
    assert_eq!(read_all(&mut server), b"");
    // It may take its time; the client does not wait for it.
    assert_eq!(socket.closed().says(), (4002, "Session expired"));
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_drain_sends_away_and_ends_the_server_too() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let routes = config(&[("\"/raw/*\"", &format!("upstream: \"tcp://{address}\""))]);
    let server = "server: { listen: \"127.0.0.1:0\", drain_delay: 0s, drain: 1s }\n";
    let mut gate = Gate::start(&format!("{server}{routes}"));
    let socket = open(&gate);
    let mut server = accept(&listener);
    gate.signal("TERM");
    assert_eq!(read_all(&mut server), b"");
    drop(server);
    assert_eq!(socket.closed().says(), (1001, "Going away"));
    assert!(gate.wait().success());
}

#[test]
fn the_subprotocol_binary_is_echoed_else_the_first_and_a_token_never() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let gate =
        Gate::start(&config(&[("\"/raw/*\"", &format!("upstream: \"tcp://{address}\""))]).replace(
            "{ cookie: session, verifier: app }",
            "{ cookie: session, verifier: app }, { subprotocol_pair: bearer, verifier: app }",
        ));
    let secret = token("ada");
    for (offered, expected) in [
        ("base64, binary", Some("binary")),
        ("binary", Some("binary")),
        ("chat, other", Some("chat")),
        (&*format!("bearer, {secret}"), Some("bearer")),
        (&*format!("bearer, {secret}, binary"), Some("binary")),
    ] {
        let request = Request::upgrade("/raw").protocols(offered);
        let request = if offered.contains(&secret) { request } else { request.cookie(&secret) };
        let socket = request.open(gate.address());
        let server = accept(&listener);
        assert_eq!(socket.head.header("sec-websocket-protocol"), expected, "{offered}");
        assert_eq!(socket.head.header("sec-websocket-extensions"), None);
        drop(server);
        assert_eq!(socket.closed().code, 1000);
    }
    assert_eq!(open(&gate).head.header("sec-websocket-protocol"), None);
    // Refused, too, a client gets the answer that it needs to read why.
    let refused = Request::upgrade("/raw").protocols("binary").open(gate.address());
    assert_eq!(refused.head.header("sec-websocket-protocol"), Some("binary"));
    assert_eq!(refused.closed().code, 4001);
}

#[test]
fn nobody_gets_through_without_a_login_and_plain_http_never() {
    let (listener, gate) = raw("");
    let none = Request::upgrade("/raw").closed(gate.address());
    assert_eq!(none.says(), (4001, "Unauthorized"));
    let plain = Request::get("/raw").cookie(&token("ada")).send(gate.address());
    assert_eq!((plain.status, plain.header("upgrade")), (426, Some("websocket")));
    assert_eq!(plain.json()["error"], "Upgrade required");
    let post = Request::new("POST", "/raw").cookie(&token("ada")).body("FLUSHALL\r\n");
    assert_eq!(post.send(gate.address()).status, 426);
    listener.set_nonblocking(true).expect("set");
    assert!(listener.accept().is_err(), "the server was dialled");
    drop(listener);
    let path = "/raw/dead";
    let dead = Request::upgrade(path).cookie(&token("ada")).closed(gate.address());
    assert_eq!(dead.says(), (1013, "Bad gateway"));
    assert_eq!(gate.reason(path), "upstream_unavailable");
    assert_eq!(gate.metric("sockgate_upstream_errors_total", &["kind=\"connect\""]), 1.0);
}

#[test]
fn a_message_over_the_limit_is_1009_and_the_servers_stream_is_cut_into_smaller_ones() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let keys = format!("limits: {{ message_bytes: 1KiB }}, upstream: \"tcp://{address}\"");
    let gate = Gate::start(&config(&[("\"/raw/*\"", &keys)]));
    let mut socket = open(&gate);
    let mut server = accept(&listener);
    server.write_all(&[b'x'; 5000]).expect("written");
    let mut received = 0;
    while received < 5000 {
        let length = socket.receive().payload.len();
        assert!(length <= 1024, "{length}");
        received += length;
    }
    socket.send_frame(&binary(vec![b'x'; 1025]));
    drop(server);
    assert_eq!(socket.closed().code, 1009);
}

#[test]
fn a_side_that_takes_nothing_stops_the_other_and_costs_no_memory() {
    let (listener, gate) = raw("");
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gate.pid())).expect("it");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("KiB")
    };
    let before = resident();
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let socket = open(&gate);
        let mut server = accept(&listener);
        server.set_nonblocking(true).expect("set");
        // Until neither the gate nor the kernel takes any more.
        let chunk = vec![b'x'; 1 << 16];
        let mut idle = 0;
        while idle < 5 {
            match server.write(&chunk) {
                Ok(1..) => idle = 0,
                Ok(0) | Err(_) => {
                    idle += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
        sockets.push((socket, server));
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 20 * 200, "{grown} KiB for 20 clients that do not read");
}

#[test]
fn a_preamble_comes_first_and_carries_no_strangers_commands() {
    let (listener, gate) =
        raw(r#", preamble: '"USER " + identity.subject + " " + identity.claims.room + "\r\n"'"#);
    let opened = |room: &str| {
        let token = Token::of("ada").claim("room", room).sign();
        Request::upgrade(&format!("/raw/{}", room.len())).cookie(&token).open(gate.address())
    };
    let mut socket = opened("blue");
    socket.send_frame(&binary(*b"JOIN"));
    let mut server = accept(&listener);
    assert_eq!(read(&mut server, 19), b"USER ada blue\r\nJOIN");
    let evil = opened("blue\r\nQUIT");
    assert_eq!(evil.closed().says(), (4003, "Forbidden"));
    assert_eq!(gate.reason("/raw/10"), "forbidden");
    drop((socket, server));
    let missing = Request::upgrade("/raw/none").cookie(&token("ada")).closed(gate.address());
    assert_eq!(missing.says(), (4003, "Forbidden"));
}

#[test]
fn unix_sockets_are_reached_and_the_first_message_may_be_the_login() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("raw.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let keys = format!("upstream: \"unix:{}\"", path.display());
    let config = config(&[("\"/raw/*\"", &keys)]).replace(
        "{ cookie: session, verifier: app }",
        "{ message: { where: { /type: auth }, token: /token }, verifier: app }",
    );
    let gate = Gate::start(&config);
    let mut socket = Request::upgrade("/raw").protocols("binary").open(gate.address());
    assert_eq!(socket.head.header("sec-websocket-protocol"), Some("binary"));
    socket.send(&json!({ "type": "auth", "token": token("ada") }).to_string());
    socket.send_frame(&binary(*b"hello"));
    let (mut server, _) = listener.accept().expect("a connection");
    server.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    assert_eq!(read(&mut server, 5), b"hello");
    server.write_all(b"welcome").expect("written");
    assert_eq!(socket.receive().payload, b"welcome");
    socket.finish();
}

#[test]
fn a_second_login_that_is_never_finished_reaches_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let keys = format!("upstream: \"tcp://{}\"", listener.local_addr().expect("bound"));
    let config = config(&[("\"/raw/*\"", &keys)]).replace(
        "{ cookie: session, verifier: app }",
        "{ message: { format: nats }, dial: after_auth, verifier: app }",
    );
    let gate = Gate::start(&config);
    for closes in [true, false] {
        let mut socket = Request::upgrade("/raw").open(gate.address());
        let login = json!({ "auth_token": token("ada") });
        socket.send_frame(&binary(format!("CONNECT {login}\r\n")));
        let mut server = accept(&listener);
        assert_eq!(read(&mut server, 12), b"CONNECT {}\r\n");
        // A server of bytes does not wait for the rest of the message.
        let another = binary(*b"CONNECT {\"user\":\"root\"}\r\nPUB x 1\r\ny\r\n");
        socket.send_frame(&another.unfinished());
        if closes {
            socket.send_frame(&Frame::close(1000, ""));
        } else {
            drop(socket);
        }
        assert_eq!(read_all(&mut server), b"");
    }
}

#[test]
fn check_refuses_what_any_web_page_could_speak_to_unless_it_is_wanted() {
    let check = |policy: &str, more: &str| {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("sockgate.yaml");
        let text = format!(
            r#"
server: {{ listen: "127.0.0.1:0" }}
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  any: {{ origins: any, credentials: [{{ cookie: session, verifier: app }}] }}
  own: {{ credentials: [{{ cookie: session, verifier: app }}] }}
routes:
  - {{ path: /raw, policy: {policy}, upstream: "tcp://127.0.0.1:1"{more} }}
"#
        );
        std::fs::write(&path, text).expect("written");
        run(&["check", "--config", path.to_str().expect("UTF-8")], &[])
    };
    for policy in ["public", "any"] {
        let refused = check(policy, "");
        assert_eq!(refused.code, 2, "{policy}");
        assert!(refused.stderr.contains("allow_any_origin"), "{}", refused.stderr);
        assert_eq!(check(policy, ", allow_any_origin: true").code, 0, "{policy}");
    }
    assert_eq!(check("own", "").code, 0);
}
