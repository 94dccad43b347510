//! A login that is renewed in the middle of its connection: the upstream never
//! sees a byte of it, and the connection lives as long as its last login.

use std::io::Read;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{
    Frame, Gate, Opcode, Peer, Recipe, Redis, Request, SECRET, Socket, Token, Upstream,
    assert_no_canary, canary, eventually, policy, run, token, unix_now,
};

const REFRESH: &str = "refresh: { where: { /type: auth }, token: /token, verifier: app }";

/// The policy of a cookie, a header or a query, with `extra`; `lifetime` beside
/// the refresh.
fn config(lifetime: &str, extra: &str, upstream: &Upstream) -> String {
    let credentials = "[{ cookie: session, verifier: app }, { header: authorization, verifier: app }, \
                       { query: token, verifier: app }]";
    let members = format!(
        "origins: any, credentials: {credentials}, lifetime: {{ {lifetime}{REFRESH} }}{extra}"
    );
    policy(&members, &upstream.ws())
        .replace("algorithms: [HS256]", "algorithms: [HS256], leeway: 0s")
}

fn refresh(token: &str) -> String {
    json!({ "type": "auth", "token": token }).to_string()
}

fn open(gate: &Gate, token: &str) -> Socket {
    let mut socket = Request::upgrade("/ws/echo").cookie(token).open(gate.address());
    socket.echoes("hello");
    socket
}

fn short(subject: &str, seconds: i64) -> String {
    Token::of(subject).expires_in(seconds).sign()
}

/// Waits for the second in which one more refresh may be verified.
fn pace() {
    std::thread::sleep(Duration::from_millis(1050));
}

#[track_caller]
fn lives_until(mut socket: Socket, ends: i64) {
    while unix_now() < ends {
        socket.echoes("alive");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(socket.closed().says(), (4002, "Session expired"));
    let late = unix_now() - ends;
    assert!(late <= 1, "closed {late} s late");
}

#[test]
fn a_refresh_extends_wherever_the_first_credential_stood() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream));
    let opened = |request: Request| request.open(gate.address());
    let first = short("alice", 3);
    let sockets = [
        opened(Request::upgrade("/ws/echo").cookie(&first)),
        opened(Request::upgrade("/ws/echo").bearer(&first)),
        opened(Request::upgrade(&format!("/ws/echo?token={first}"))),
    ];
    let ends = unix_now() + 6;
    let second = Token::of("alice").claim("exp", ends).sign();
    let seen = upstream.seen().len();
    std::thread::scope(|scope| {
        for mut socket in sockets {
            let second = &second;
            scope.spawn(move || {
                socket.send(&refresh(second));
                lives_until(socket, ends);
            });
        }
    });
    assert_eq!(upstream.seen().len(), seen, "the upstream was asked again");
    assert!(upstream.messages().iter().all(|message| message == "alive"));
}

#[test]
fn what_is_no_refresh_arrives_frame_by_frame_as_it_was_sent() {
    let upstream = Upstream::start();
    let config = format!("{}limits: {{ auth_message_bytes: 1KiB }}\n", config("", "", &upstream));
    let gate = Gate::start(&config);
    let mut socket = open(&gate, &token("alice"));
    let again = refresh(&token("alice"));
    let (one, rest) = again.split_at(9);
    let (two, three) = rest.split_at(20);
    let of_size = |size: usize| {
        let message = json!({ "type": "chat", "text": "" }).to_string();
        json!({ "type": "chat", "text": "x".repeat(size - message.len()) }).to_string()
    };
    let continued = |text: &str| Frame::new(Opcode::Continuation, text);
    let large = of_size(1025);
    let part = |text: &str| Frame::text(text).unfinished();
    let others: Vec<Frame> = vec![
        Frame::text("before"),
        Frame::text(&of_size(1024)),
        Frame::text(&large),
        part(&large[..1000]),
        continued(&large[1000..1001]).unfinished(),
        continued(&large[1001..]),
        Frame::text(&of_size(70_000)),
        Frame::new(Opcode::Binary, of_size(1025)),
        Frame::new(Opcode::Binary, vec![0xff; 3000]),
        // JSON in the middle of something else is no refresh.
        Frame::new(Opcode::Binary, format!("{}{again}", "x".repeat(2000))),
        part("{\"type\":\"ch"),
        continued("").unfinished(),
        continued("at\"}"),
        Frame::text(""),
        Frame::text("{\"text\": \"{\\\"type\\\": \\\"auth\\\"}\"}"),
        Frame::text("after"),
    ];
    assert_eq!(large.len(), 1025);
    let refreshing = [
        part(one),
        Frame::new(Opcode::Ping, "in between"),
        continued(two).unfinished(),
        continued("").unfinished(),
        Frame::new(Opcode::Pong, "unasked"),
        continued(three),
    ];
    let mut sent = Vec::new();
    for (index, other) in others.iter().enumerate() {
        sent.extend(other.masked());
        // Never inside another message: there a client could not send it either.
        if index == 0 {
            refreshing.iter().for_each(|frame| sent.extend(frame.masked()));
        }
    }
    socket.send_bytes(&sent);
    let mut back = Vec::new();
    while back.len() < others.len() + 1 {
        back.push(socket.read_frame().expect("a frame").expect("not the end"));
    }
    let pong = Frame::new(Opcode::Pong, "in between");
    assert!(back.contains(&pong), "the ping reached the upstream");
    back.retain(|frame| *frame != pong);
    assert_eq!(back, others);
    assert_no_canary(&upstream.messages().join("\n").replace(&again, ""));
    assert!(
        !upstream.messages().iter().any(|message| again.contains(message) && message.len() > 4)
    );
    socket.finish();
}

#[test]
fn a_refresh_is_known_in_every_spelling_and_at_every_cut() {
    let upstream = Upstream::start();
    let extra = ", reject_message: '\"no\"'";
    let gate = Gate::start(&config("", extra, &upstream));
    let good = token("alice");
    let spelt = [
        format!(r#"{{"type":"\u0061uth","token":"{good}"}}"#),
        format!("\u{feff} {{\"token\":\"{good}\",\"type\":\"auth\"}}"),
        format!(r#"{{"type":"chat","type":"auth","token":"{good}"}}"#),
        format!(r#"{{"type":"auth","token":"{good}"}} trailing"#),
    ];
    assert!(!spelt.is_empty());
    for message in spelt {
        for opcode in [Opcode::Text, Opcode::Binary] {
            let mut socket = open(&gate, &good);
            socket.send_frame(&Frame::new(opcode, message.as_str()));
            socket.send("next");
            let first = socket.text();
            assert!(first == "no" && socket.text() == "next" || first == "next", "{message}");
        }
    }
    let bytes = Frame::text(&refresh(&good)).masked();
    for cut in [1, 3, 6, 7, 20, bytes.len() - 1] {
        let mut socket = open(&gate, &good);
        socket.send_bytes(&bytes[..cut]);
        std::thread::sleep(Duration::from_millis(20));
        socket.send_bytes(&bytes[cut..]);
        socket.echoes("next");
    }
    assert!(upstream.messages().iter().all(|message| message == "hello" || message == "next"));
}

#[test]
fn a_refresh_that_is_cut_off_reaches_nobody() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream));
    let again = refresh(&token("alice"));
    let mut socket = open(&gate, &token("alice"));
    socket.send_frame(&Frame::text(&again[..again.len() - 3]).unfinished());
    socket.send_frame(&Frame::close(1000, ""));
    assert_eq!(socket.closed().code, 1000);
    let mut socket = open(&gate, &token("alice"));
    let whole = Frame::text(&again).masked();
    socket.send_bytes(&whole[..whole.len() - 3]);
    drop(socket);
    eventually("both ended", || upstream.closes().len() == 2);
    assert_eq!(upstream.messages(), ["hello", "hello"]);
}

#[test]
fn a_refresh_that_is_too_large_ends_the_connection_and_never_arrives() {
    let upstream = Upstream::start();
    let config = format!("{}limits: {{ auth_message_bytes: 1KiB }}\n", config("", "", &upstream));
    let gate = Gate::start(&config);
    let padded = |size: usize| {
        let bare = refresh(&token("alice"));
        format!("{}{}", &bare[..bare.len() - 1], " ".repeat(size - bare.len())) + "}"
    };
    let mut socket = open(&gate, &token("alice"));
    socket.send(&padded(1024));
    socket.echoes("still here");
    let mut socket = open(&gate, &token("alice"));
    socket.send(&padded(1025));
    assert_eq!(socket.closed().says(), (4001, "Authentication message too large"));
    assert_eq!(upstream.messages(), ["hello", "still here", "hello"]);
}

/// A raw server, which sees each byte of what is in a frame, whole or not.
fn listener() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("tcp://{}", listener.local_addr().expect("bound"));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let told = Arc::clone(&told);
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    told.lock().expect("no test died").extend_from_slice(&bytes[..count]);
                }
            });
        }
    });
    (url, heard)
}

#[test]
fn a_token_that_comes_before_its_type_and_padding_never_arrives() {
    let (url, heard) = listener();
    let members = format!(
        "origins: same, credentials: [{{ cookie: session, verifier: app }}], lifetime: {{ {REFRESH} }}"
    );
    let gate =
        Gate::start(&format!("{}limits: {{ auth_message_bytes: 1KiB }}\n", policy(&members, &url)));
    let secret = token("alice");
    let open = || Request::upgrade("/ws/a").cookie(&secret).open(gate.address());
    let padded = |before: &str, padding: usize, after: &str| {
        let padding = "x".repeat(padding);
        format!(r#"{{{before}"token":"{secret}","text":"{padding}"{after}}}"#)
    };
    let long = format!(r#""text":"{}","#, "x".repeat(3000));
    for message in [
        padded("", 2000, r#","type":"auth""#),
        padded("", 2000, ""),
        padded(r#""a":[1,{"type":"chat"}],"#, 2000, ""),
        padded(&long, 1, r#","type":"auth""#),
    ] {
        let whole = Frame::text(&message).masked();
        let (first, rest) = message.split_at(message.len() / 3);
        let first = Frame::text(first).unfinished().masked();
        let cut = [first, Frame::new(Opcode::Continuation, rest).masked()].concat();
        for (bytes, size) in [(&whole, 7), (&whole, 333), (&whole, 100_000), (&cut, 7), (&cut, 333)]
        {
            let mut socket = open();
            for piece in bytes.chunks(size) {
                // The gate may have closed already.
                if socket.try_send_bytes(piece).is_err() {
                    break;
                }
            }
            assert_eq!(socket.closed().says(), (4001, "Authentication message too large"));
        }
    }
    let arrived = || String::from_utf8_lossy(&heard.lock().expect("no server died")).into_owned();
    assert!(!arrived().contains("eyJ"), "{}", arrived());
    // What tells in time that it is something else arrives, whatever is in it.
    let more = format!(r#","type":"chat",{long}"a":1"#);
    for message in [
        padded(r#""type":"chat","#, 2000, ""),
        padded("", 10, &more),
        padded(r#""a":{"#, 2000, r#"},"token":5"#),
    ] {
        let mut socket = open();
        for piece in Frame::text(&message).masked().chunks(100) {
            socket.send_bytes(piece);
        }
        eventually("it has arrived", || arrived().contains(&message));
    }
}

#[test]
fn five_refusals_in_a_row_end_the_connection_and_each_is_answered() {
    let upstream = Upstream::start();
    let extra = r#", reject_message: '{"code": reason.code, "error": reason.text}'"#;
    let gate = Gate::start(&config("", extra, &upstream));
    let mut socket = open(&gate, &token("alice"));
    let told = |code: u16, text: &str| json!({ "code": code, "error": text });
    socket.send(&refresh("garbage"));
    assert_eq!(socket.json(), told(4001, "Unauthorized"));
    pace();
    socket.send(&refresh(&short("alice", -600)));
    assert_eq!(socket.json(), told(4002, "Session expired"));
    pace();
    // A good one between them begins the count anew.
    socket.send(&refresh(&token("alice")));
    socket.echoes("in between");
    // Sooner than a second later, nobody is asked: even a good one is refused.
    for _ in 0..4 {
        socket.send(&refresh(&token("alice")));
        assert_eq!(socket.json(), told(1013, "Too many requests"));
    }
    socket.echoes("still here");
    socket.send(&refresh("garbage"));
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
    assert_eq!(upstream.messages(), ["hello", "in between", "still here"]);
    let closes = ["route=\"chat\"", "initiator=\"sockgate\"", "code=\"4001\""];
    gate.metric_becomes("sockgate_closes_total", &closes, 1.0);
}

#[test]
fn a_refused_refresh_extends_nothing() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream));
    let ends = unix_now() + 3;
    let mut socket = open(&gate, &Token::of("alice").claim("exp", ends).sign());
    socket.send(&refresh(&Token::of("alice").sign_with(b"another-secret-of-32-bytes-or-more")));
    lives_until(socket, ends);
}

#[test]
fn another_identity_and_one_that_may_not_are_closed_at_once() {
    let upstream = Upstream::start();
    let extra = ", require: 'identity.claims.role == \"member\"'";
    let gate = Gate::start(&config("", extra, &upstream));
    let with = |subject: &str, role: &str| Token::of(subject).claim("role", role).sign();
    let mut socket = open(&gate, &with("alice", "member"));
    socket.send(&refresh(&with("mallory", "member")));
    assert_eq!(socket.closed().says(), (4003, "Forbidden"));
    let mut socket = open(&gate, &with("alice", "member"));
    socket.send(&refresh(&with("alice", "guest")));
    assert_eq!(socket.closed().says(), (4003, "Forbidden"));
    // What the rule asks of the request is still known.
    let extra = ", require: 'request.path == \"/ws/echo\" && request.headers[\"x-a\"] == \"b\"'";
    let gate = Gate::start(&config("", extra, &upstream));
    let mut socket = Request::upgrade("/ws/echo")
        .cookie(&token("alice"))
        .header("X-A", "b")
        .open(gate.address());
    socket.send(&refresh(&token("alice")));
    socket.echoes("still here");
}

#[test]
fn a_login_is_renewed_within_its_grace_and_not_behind_it() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("grace: 3s, ", "", &upstream));
    let ends = unix_now() + 2;
    let first = Token::of("alice").claim("exp", ends).sign();
    let left = open(&gate, &first);
    let mut renewed = open(&gate, &first);
    eventually("the login has ended", || unix_now() > ends);
    renewed.echoes("in its grace");
    let second = unix_now() + 2;
    renewed.send(&refresh(&Token::of("alice").claim("exp", second).sign()));
    lives_until(left, ends + 3);
    lives_until(renewed, second + 3);
}

#[test]
fn a_second_login_of_the_dialect_keeps_its_own_rule() {
    let upstream = Upstream::start();
    let login = "{ message: { where: { /op: login }, token: /t }, verifier: app }";
    let members = format!("credentials: [{login}], lifetime: {{ {REFRESH} }}");
    let gate = Gate::start(&policy(&members, &upstream.ws()));
    let entered = || {
        let mut socket = Request::upgrade("/ws/echo").open(gate.address());
        socket.send(&json!({ "op": "login", "t": token("alice") }).to_string());
        socket.echoes("hello");
        socket
    };
    let mut socket = entered();
    socket.send(&refresh(&token("alice")));
    socket.send(&refresh("garbage"));
    socket.send(&json!({ "op": "login", "t": token("alice") }).to_string());
    socket.echoes("still here");
    socket.send(&json!({ "op": "login", "t": "garbage" }).to_string());
    assert_eq!(socket.closed().says(), (4001, "Unauthorized"));
    assert_eq!(upstream.messages(), ["hello", "still here"]);
}

#[test]
fn no_extension_is_negotiated_where_logins_are_renewed() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream));
    let socket = Request::upgrade("/ws/echo")
        .cookie(&token("alice"))
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .open(gate.address());
    assert_eq!(socket.head.header("sec-websocket-extensions"), None);
    assert_eq!(upstream.last().header("sec-websocket-extensions"), None);
}

#[test]
fn a_revocation_is_about_the_login_that_a_connection_stands_on_now() {
    let upstream = Upstream::start();
    let admin = canary("canary-admin-token-0003");
    let config = format!(
        "admin: {{ listen: \"127.0.0.1:0\", token: {admin} }}\n{}",
        config("", "", &upstream)
    );
    let gate = Gate::start(&config);
    let of = |id: &str| Token::of("alice").claim("jti", id).claim("sid", format!("s-{id}")).sign();
    let revoke = |id: &str| {
        let body = json!({ "token_id": id }).to_string();
        let answer = Request::new("POST", "/revoke").bearer(&admin).body(body).send(gate.admin());
        answer.json()["closed"].as_u64().expect("a count")
    };
    let mut socket = open(&gate, &of("one"));
    assert_eq!(revoke("never"), 0);
    socket.send(&refresh(&of("two")));
    socket.echoes("on the second");
    assert_eq!(revoke("one"), 0);
    socket.echoes("still here");
    pace();
    // What is revoked renews nothing.
    socket.send(&refresh(&of("one")));
    socket.echoes("still here");
    assert_eq!(revoke("two"), 1);
    assert_eq!(socket.closed().says(), (4001, "Session revoked"));
}

#[test]
fn a_changed_policy_judges_the_login_that_a_connection_stands_on_now() {
    let upstream = Upstream::start();
    let rule = |rule: &str| config("", &format!(", require: '{rule}'"), &upstream);
    let gate = Gate::start(&rule("identity.claims.level >= 0"));
    let level = |level: i64| Token::of("alice").claim("level", level).sign();
    let mut low = open(&gate, &level(1));
    let mut raised = open(&gate, &level(1));
    raised.send(&refresh(&level(2)));
    raised.echoes("raised");
    low.echoes("low");
    gate.rewrite(&rule("identity.claims.level == 2"));
    assert_eq!(low.closed().says(), (4003, "Forbidden"));
    raised.echoes("still here");
    pace();
    // The rule of now, not of when it was opened.
    raised.send(&refresh(&level(3)));
    assert_eq!(raised.closed().says(), (4003, "Forbidden"));
}

#[test]
fn a_login_is_renewed_by_who_verifies_now_and_not_by_who_did() {
    const ANOTHER: &str = "another-secret-of-32-bytes-or-more-0001";
    let upstream = Upstream::start();
    let before = config("", ", reject_message: reason.text", &upstream);
    let rekeyed = before.replace(SECRET, ANOTHER);
    let old = || refresh(&token("alice"));
    let new = |seconds: i64| {
        refresh(&Token::of("alice").expires_in(seconds).sign_with(ANOTHER.as_bytes()))
    };
    for (after, renews) in [
        (rekeyed.clone(), true),
        // A route that is gone keeps what is open; who verifies for it has other keys.
        (rekeyed.replace("name: chat", "name: renamed"), true),
        // Nobody renews logins here any more, whoever holds a key.
        (rekeyed.replace(REFRESH, "max: 1h"), false),
        (before.replace(REFRESH, "max: 1h"), false),
    ] {
        let gate = Gate::start(&before);
        let mut socket = open(&gate, &token("alice"));
        gate.rewrite(&after);
        gate.metric_becomes("sockgate_config_reloads_total", &["outcome=\"success\""], 1.0);
        socket.send(&old());
        assert_eq!(socket.text(), "Unauthorized", "{after}");
        pace();
        socket.send(&new(2));
        match renews {
            true => assert_eq!(socket.closed().says(), (4002, "Session expired")),
            false => assert_eq!(socket.text(), "Unauthorized"),
        }
        assert!(upstream.messages().iter().all(|message| message == "hello"));
    }
}

#[test]
fn a_verifier_that_cannot_answer_is_nobodys_refusal() {
    let mut redis = Redis::start();
    let upstream = Upstream::start();
    let verifier = format!(
        "verifiers: {{ app: {{ session: {{ store: \"{}\", subject: value.user, timeout: 500ms }} }} }}",
        redis.url()
    );
    let members = format!(
        "origins: any, reject_message: '\"no \" + reason.text', credentials: \
         [{{ cookie: session, verifier: app }}], lifetime: {{ {REFRESH} }}"
    );
    let config = policy(&members, &upstream.ws());
    let routes = config.split("policies:").nth(1).expect("the policies");
    let gate = Gate::start(&format!("{verifier}\npolicies:{routes}"));
    redis.command(&["SET", "one", r#"{"user": "alice"}"#, "PX", "60000"]);
    redis.command(&["SET", "two", r#"{"user": "alice"}"#, "PX", "60000"]);
    let mut socket = open(&gate, "one");
    socket.send(&refresh("two"));
    socket.echoes("renewed by a session");
    redis.stop();
    for _ in 0..6 {
        pace();
        socket.send(&refresh("two"));
        assert_eq!(socket.text(), "no Try again later");
    }
    socket.echoes("still here");
}

#[test]
fn upstream_messages_flow_while_a_refresh_is_judged() {
    let slow = Peer::start(|_, _| std::thread::sleep(Duration::from_secs(5)));
    let upstream = Upstream::start();
    let members = format!(
        "origins: any, credentials: [{{ cookie: session, verifier: app }}], lifetime: {{ {} }}",
        REFRESH.replace("verifier: app", "verifier: slow")
    );
    let config = policy(&members, &upstream.ws()).replace(
        "policies:",
        &format!(
            "  slow: {{ introspection: {{ url: \"{}\", client_id: x, client_secret: y, \
             audience: any, timeout: 1s }} }}\npolicies:",
            slow.url()
        ),
    );
    let gate = Gate::start(&config);
    let mut socket =
        Request::upgrade("/ws/push-100000").cookie(&token("alice")).open(gate.address());
    let began = Instant::now();
    socket.send(&refresh("opaque"));
    assert_eq!(socket.receive().payload.len(), 100_000);
    assert!(began.elapsed() < Duration::from_millis(900));
    socket.echoes("behind it");
    assert!(began.elapsed() >= Duration::from_millis(900), "in order");
}

#[test]
fn the_recipe_for_tokens_works_as_written() {
    let upstream = Upstream::start();
    let recipe = Recipe::read("live.md");
    let gate = recipe.start_in(
        recipe.directory(),
        &[("ws://127.0.0.1:3000", &upstream.ws()), ("grace: 20s", "grace: 1s")],
        &[("JWT_SECRET", SECRET)],
    );
    // The leeway of a recipe is the usual one.
    let ends = unix_now() - 28;
    let first = Token::of("alice").claim("exp", ends).sign();
    let open = || Request::upgrade(&format!("/ws?token={first}")).open(gate.address());
    let (left, mut renewed) = (open(), open());
    renewed.send(&refresh("garbage"));
    assert_eq!(renewed.json(), json!({ "error": "Unauthorized", "code": 4001 }));
    pace();
    renewed.send(&refresh(&token("alice")));
    assert_eq!(left.closed().says(), (4002, "Session expired"));
    renewed.echoes("still here");
    assert_eq!(upstream.messages(), ["still here"]);
}

#[test]
fn explain_and_check_tell_of_the_refresh() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config("", "", &upstream));
    let path = gate.config().to_str().expect("UTF-8").to_owned();
    let url = "ws://gate.test/ws/echo";
    let cookie = format!("Cookie: session={}", token("alice"));
    let told = run(&["explain", "--config", &path, url, "-H", &cookie], &[]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.contains("by a later message, verified by app"), "{}", told.stdout);
    let shown = run(&["check", "--config", &path], &[]);
    assert!(shown.stdout.contains("refresh:"), "{}", shown.stdout);
}
