//! An orderly end: unready first, then no more, then everybody is sent away.

use std::time::{Duration, Instant};

use super::support::{
    Frame, Gate, Opcode, Request, Upstream, canary, eventually, members, policy, token,
};

fn start(server: &str, upstream: &Upstream) -> Gate {
    Gate::start(
        &(members(&upstream.ws()) + &format!("server: {{ listen: \"127.0.0.1:0\", {server} }}\n")),
    )
}

#[test]
fn sigterm_makes_unready_goes_on_admitting_then_sends_away() {
    let upstream = Upstream::start();
    let mut gate = start("drain_delay: 2s, drain: 500ms", &upstream);
    let mut early = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    early.echoes("hello");
    let began = Instant::now();
    gate.signal("TERM");
    eventually("it is unready", || gate.ask("/readyz").status == 503);
    assert_eq!(gate.ask("/healthz").status, 200);
    let mut late = Request::upgrade("/ws/a").cookie(&token("bob")).open(gate.address());
    late.echoes("still admitted");
    early.echoes("still here");
    assert_eq!(early.closed().says(), (1001, "Going away"));
    assert_eq!(late.closed().says(), (1001, "Going away"));
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    assert!(gate.wait().success());
    assert_eq!(upstream.closes(), [Some(1001), Some(1001)]);
}

#[test]
fn while_it_drains_new_upgrades_are_503() {
    let upstream = Upstream::start();
    let mut gate = start("drain_delay: 0s, drain: 5s", &upstream);
    // Many, so that closing them evenly takes a while.
    let sockets: Vec<_> = (0..20)
        .map(|_| Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address()))
        .collect();
    gate.signal("TERM");
    eventually("it is unready", || gate.ask("/readyz").status == 503);
    let mut refused = None;
    eventually("new upgrades are refused", || {
        let answer = Request::upgrade("/ws/a").cookie(&token("bob"));
        let status = answer.status(gate.address());
        if status != 101 {
            refused = Some(answer.send(gate.address()));
        }
        refused.is_some()
    });
    let refused = refused.expect("just seen");
    assert_eq!((refused.status, refused.error().as_str()), (503, "Going away"));
    assert!(refused.header("retry-after").is_some());
    let began = Instant::now();
    let ends: Vec<_> = sockets
        .into_iter()
        .map(|socket| std::thread::spawn(move || (socket.closed().code, Instant::now())))
        .collect();
    let ends: Vec<_> = ends.into_iter().map(|end| end.join().expect("a Close")).collect();
    assert!(ends.iter().all(|(code, _)| *code == 1001), "{ends:?}");
    let first = ends.iter().map(|(_, at)| *at).min().expect("some");
    let last = ends.iter().map(|(_, at)| *at).max().expect("some");
    assert!(last - first > Duration::from_secs(1), "they were closed all at once");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(gate.wait().success());
}

#[test]
fn a_client_that_has_yet_to_say_who_it_is_is_sent_away_too() {
    let upstream = Upstream::start();
    let message = "origins: any, credentials: [{ message: { format: text }, verifier: app }]";
    let server = "server: { listen: \"127.0.0.1:0\", drain_delay: 0s, drain: 2s }\n";
    let mut gate = Gate::start(&(policy(message, &upstream.ws()) + server));
    let silent: Vec<_> =
        (0..5).map(|_| Request::upgrade("/ws/echo").open(gate.address())).collect();
    gate.signal("TERM");
    for socket in silent {
        assert_eq!(socket.closed().says(), (1001, "Going away"));
    }
    assert!(gate.wait().success());
    upstream.saw_nothing();
}

#[test]
fn with_nobody_left_it_exits_at_once() {
    let upstream = Upstream::start();
    let mut gate = start("drain_delay: 0s, drain: 60s", &upstream);
    Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address()).finish();
    gate.signal("TERM");
    let began = Instant::now();
    assert!(gate.wait().success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn the_last_to_leave_ends_the_drain() {
    let upstream = Upstream::start();
    let mut gate = start("drain_delay: 0s, drain: 60s", &upstream);
    let sockets: Vec<_> = (0..3)
        .map(|_| Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address()))
        .collect();
    gate.signal("TERM");
    eventually("it is unready", || gate.ask("/readyz").status == 503);
    drop(sockets);
    let began = Instant::now();
    assert!(gate.wait().success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_second_signal_exits_at_once() {
    let upstream = Upstream::start();
    let mut gate = start("drain_delay: 60s, drain: 60s", &upstream);
    let mut socket = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    socket.echoes("hello");
    gate.signal("TERM");
    eventually("it is unready", || gate.ask("/readyz").status == 503);
    assert!(gate.is_running());
    let began = Instant::now();
    gate.signal("TERM");
    gate.wait();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // What was carried until then is told all the same.
    let end = gate.line("of the end", |line| line["outcome"] == "closed");
    assert!(end["initiator"] == "sockgate" && end["code"] == 1006, "{end}");
    assert!(end["frames_up"] == 1 && end["frames_down"] == 1, "{end}");
}

#[test]
fn the_signal_that_follows_an_operators_drain_does_not_cut_it_short() {
    let upstream = Upstream::start();
    let admin = canary("canary-admin-token-0005");
    let config = members(&upstream.ws())
        + "server: { listen: \"127.0.0.1:0\", drain_delay: 1s, drain: 1s }\n"
        + &format!("admin: {{ listen: \"127.0.0.1:0\", token: {admin} }}\n");
    let mut gate = Gate::start(&config);
    let mut socket = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    assert_eq!(Request::new("POST", "/drain").bearer(&admin).send(gate.admin()).status, 202);
    eventually("it is unready", || gate.ask("/readyz").status == 503);
    // As Kubernetes does behind a preStop that does not wait.
    gate.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    socket.echoes("still here");
    assert_eq!(socket.closed().says(), (1001, "Going away"));
    assert!(gate.wait().success());

    let mut gate = Gate::start(&config.replace("drain_delay: 1s", "drain_delay: 60s"));
    let _socket = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    assert_eq!(Request::new("POST", "/drain").bearer(&admin).send(gate.admin()).status, 202);
    eventually("it is unready", || gate.ask("/readyz").status == 503);
    let began = Instant::now();
    gate.signal("TERM");
    std::thread::sleep(Duration::from_millis(200));
    gate.signal("TERM");
    gate.wait();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn who_is_still_being_verified_when_it_drains_is_refused_readably() {
    let upstream = Upstream::start();
    let config = format!(
        r#"
server: {{ listen: "127.0.0.1:0", drain_delay: 0s, drain: 1s }}
verifiers:
  slow: {{ forward_auth: {{ url: "{}/later-800", subject: '"alice"' }} }}
policies:
  members: {{ credentials: [{{ header: authorization, verifier: slow }}] }}
routes:
  - {{ path: "/ws/*", policy: members, upstream: "{}" }}
"#,
        upstream.http(),
        upstream.ws()
    );
    let mut gate = Gate::start(&config);
    let address = gate.address();
    let refused = std::thread::spawn(move || {
        Request::upgrade("/ws/a").bearer("some-token-or-other").send(address)
    });
    eventually("the verifier asks", || !upstream.seen().is_empty());
    gate.signal("TERM");
    let refused = refused.join().expect("an answer");
    assert_eq!((refused.status, refused.error().as_str()), (503, "Going away"));
    assert!(refused.header("retry-after").is_some());
    assert!(gate.wait().success());
    assert_eq!(gate.reason("/ws/a"), "draining");
}

#[test]
fn a_message_in_flight_ends_before_its_socket_does() {
    let upstream = Upstream::start();
    let mut gate = start("drain_delay: 0s, drain: 2s", &upstream);
    let mut socket = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    socket.echoes("hello");
    socket.send_frame(&Frame::text("one ").unfinished());
    let part = socket.receive();
    assert_eq!((part.fin, part.as_text()), (false, "one "));
    gate.signal("TERM");
    gate.line("of the drain", |line| line["message"] == "draining");
    std::thread::sleep(Duration::from_millis(300));
    socket.send_frame(&Frame::new(Opcode::Continuation, "message"));
    let rest = socket.receive();
    assert_eq!((rest.fin, rest.as_text()), (true, "message"));
    assert_eq!(socket.closed().says(), (1001, "Going away"));
    assert!(gate.wait().success());
    assert_eq!(upstream.closes(), [Some(1001)]);
}

#[test]
fn a_message_that_is_looked_at_first_is_not_lost_either() {
    let upstream = Upstream::start();
    let members = "origins: any, credentials: [{ cookie: session, verifier: app }], lifetime: \
                   { refresh: { where: { /type: auth }, token: /token, verifier: app } }";
    let config = policy(members, &upstream.ws())
        + "server: { listen: \"127.0.0.1:0\", drain_delay: 0s, drain: 2s }\n";
    let mut gate = Gate::start(&config);
    let mut socket = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    socket.echoes("hello");
    let message = Frame::text("the first half and the second half").masked();
    let (start, end) = message.split_at(20);
    socket.send_bytes(start);
    gate.signal("TERM");
    gate.line("of the drain", |line| line["message"] == "draining");
    std::thread::sleep(Duration::from_millis(300));
    socket.send_bytes(end);
    assert_eq!(socket.closed().says(), (1001, "Going away"));
    assert!(gate.wait().success());
    assert_eq!(upstream.messages(), ["hello", "the first half and the second half"]);
}

#[test]
fn an_operator_drains_by_post_and_the_delay_holds() {
    let upstream = Upstream::start();
    let config = members(&upstream.ws())
        + "server: { listen: \"127.0.0.1:0\", drain_delay: 1s, drain: 1s }\n\
           admin: { listen: \"127.0.0.1:0\", token: canary-admin-token-0005 }\n";
    let mut gate = Gate::start(&config);
    let open = || Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    let early = open();
    let began = Instant::now();
    let post = Request::new("POST", "/drain").bearer(&canary("canary-admin-token-0005"));
    let answer = post.send(gate.admin());
    assert_eq!((answer.status, answer.json()["open"].as_u64()), (202, Some(1)));
    eventually("it is unready", || gate.ask("/readyz").status == 503);
    let late = open();
    assert_eq!(early.closed().says(), (1001, "Going away"));
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(late.closed().says(), (1001, "Going away"));
    assert!(gate.wait().success());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}
