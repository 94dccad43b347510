//! Every way in which a connection ends, and that metric and log tell them apart.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::{
    Frame, Gate, Opcode, Request, SECRET, Socket, Token, Upstream, canary, token, unix_now,
};

const ADMIN: &str = "canary-admin-token-0004";

/// A route for each cause that a configuration makes.
fn config(upstream: &Upstream) -> String {
    canary(ADMIN);
    let url = upstream.ws();
    let members = "credentials: [{ header: authorization, verifier: app }]";
    let mut config = format!(
        r#"
server: {{ listen: "127.0.0.1:0", drain_delay: 0s, drain: 1s }}
admin: {{ listen: "127.0.0.1:0", token: {ADMIN} }}
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256], leeway: 0s }} }}
policies:
  members: {{ {members} }}
  judged: {{ {members}, require: 'identity.subject != "nobody"' }}
  origin: {{ {members}, origins: any }}
  brief: {{ {members}, lifetime: {{ max: 1s }} }}
  own: {{ {members}, codes: {{ expired: 4402 }} }}
  speakers:
    credentials: [{{ message: {{ where: {{ /type: auth }}, token: /token }}, verifier: app }}]
routes:
"#
    );
    for (name, policy, limits) in [
        ("plain", "members", ""),
        ("judged", "judged", ""),
        ("origin", "origin", ""),
        ("brief", "brief", ""),
        ("own", "own", ""),
        ("speakers", "speakers", ""),
        ("single", "members", "connections_per_subject: 1, on_subject_limit: close_oldest"),
        ("small", "members", "message_bytes: 10"),
        ("idle", "members", "idle_timeout: 1s"),
        ("dead", "members", "ping_interval: 500ms"),
        ("stalled", "members", "stall_timeout: 1s"),
    ] {
        config.push_str(&format!(
            "  - {{ name: {name}, path: \"/{name}/*\", policy: {policy}, upstream: \"{url}\", \
             limits: {{ {limits} }} }}\n"
        ));
    }
    config
}

fn open(gate: &Gate, path: &str) -> Socket {
    Request::upgrade(path).bearer(&token("alice")).open(gate.address())
}

/// How the connection to `path` ended, as the log has it: initiator, code, reason.
#[track_caller]
fn logged(gate: &Gate, path: &str) -> (String, u64, String) {
    let id = gate.record(path)["id"].clone();
    let of_the_end = |line: &Value| line["id"] == id && line["outcome"] == "closed";
    let line = gate.line(&format!("of the end of {path}"), of_the_end);
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (text("initiator"), line["code"].as_u64().expect("a code"), text("reason"))
}

/// That the connection to `path` ended so, by the log and, under `label`, the metric.
#[track_caller]
fn ended(gate: &Gate, path: &str, expected: (&str, u64, &str), label: &str) {
    let (initiator, code, reason) = logged(gate, path);
    assert_eq!((initiator.as_str(), code, reason.as_str()), expected, "{path}");
    let route = path.split('/').nth(1).expect("a route");
    let labels = [
        format!("route=\"{route}\""),
        format!("initiator=\"{initiator}\""),
        format!("code=\"{label}\""),
    ];
    let labels = labels.each_ref().map(String::as_str);
    gate.metric_becomes("sockgate_closes_total", &labels, 1.0);
}

#[test]
fn peers_that_close_and_peers_that_vanish_are_told_apart() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config(&upstream));
    open(&gate, "/plain/finish").finish();
    ended(&gate, "/plain/finish", ("client", 1000, ""), "1000");
    let mut socket = open(&gate, "/plain/own-code");
    socket.send_frame(&Frame::close(4321, "canary of a client"));
    assert_eq!(socket.closed().code, 4321);
    ended(&gate, "/plain/own-code", ("client", 4321, ""), "4xxx");
    let mut socket = open(&gate, "/plain/empty");
    socket.send_frame(&Frame::new(Opcode::Close, ""));
    ended(&gate, "/plain/empty", ("client", 1005, ""), "1005");
    drop(open(&gate, "/plain/vanish"));
    ended(&gate, "/plain/vanish", ("client", 1006, ""), "1006");

    assert_eq!(open(&gate, "/plain/close-3999").closed().code, 3999);
    ended(&gate, "/plain/close-3999", ("upstream", 3999, ""), "3xxx");
    assert_eq!(open(&gate, "/plain/drop").closed().code, 1013);
    ended(&gate, "/plain/drop", ("upstream", 1013, "upstream_unavailable"), "1013");
    open(&gate, "/plain/drop-in-frame").ends_without_close();
    ended(&gate, "/plain/drop-in-frame", ("upstream", 1006, "upstream_unavailable"), "1006");
}

/// Behind a Close no ping would be answered, but the Close would be.
#[test]
fn a_client_that_never_answers_its_close_is_let_go_of() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config(&upstream));
    let mut socket = open(&gate, "/dead/close-3999");
    let close = socket.read_frame().expect("a frame").expect("not the end");
    assert_eq!(close.opcode, Opcode::Close);
    ended(&gate, "/dead/close-3999", ("upstream", 3999, ""), "3xxx");
    socket.ends_without_close();
    assert_eq!(upstream.closes(), [Some(1001)], "the upstream is told");
}

#[test]
fn broken_rules_and_limits_are_told_apart() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config(&upstream));
    let mut socket = open(&gate, "/plain/reserved");
    socket.send_bytes(&[0x83, 0x80, 0, 0, 0, 0]);
    assert_eq!(socket.closed().code, 1002);
    ended(&gate, "/plain/reserved", ("sockgate", 1002, "protocol_error"), "1002");
    let mut socket = open(&gate, "/small/large");
    socket.send("eleven byte");
    assert_eq!(socket.closed().code, 1009);
    ended(&gate, "/small/large", ("sockgate", 1009, "message_too_large"), "1009");
    let oldest = open(&gate, "/single/oldest");
    let _newest = open(&gate, "/single/newest");
    assert_eq!(oldest.closed().says(), (4029, "Too many connections"));
    ended(&gate, "/single/oldest", ("sockgate", 4029, "limit_subject"), "4029");

    let idle = open(&gate, "/idle/idle");
    let dead = open(&gate, "/dead/dead");
    // Never reads: what the upstream sends stays where it is.
    let stalled = open(&gate, "/stalled/flood");
    assert_eq!(idle.closed().says(), (1001, "Idle timeout"));
    ended(&gate, "/idle/idle", ("sockgate", 1001, "idle"), "1001");
    assert_eq!(dead.closed_without_pongs().says(), (1001, "Idle timeout"));
    ended(&gate, "/dead/dead", ("sockgate", 1001, "dead"), "1001");
    ended(&gate, "/stalled/flood", ("sockgate", 1001, "stalled"), "1001");
    drop(stalled);
}

#[test]
fn the_ends_of_a_login_are_told_apart() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config(&upstream));
    let brief = |subject: &str| Token::of(subject).claim("exp", unix_now() + 2).sign();
    let expiring = Request::upgrade("/plain/expiring").bearer(&brief("alice"));
    let own = Request::upgrade("/own/expiring-too").bearer(&brief("alice"));
    let [expiring, own] = [expiring, own].map(|request| request.open(gate.address()));
    assert_eq!(open(&gate, "/brief/max").closed().says(), (4002, "Session expired"));
    ended(&gate, "/brief/max", ("sockgate", 4002, "expired"), "4002");
    assert_eq!(expiring.closed().says(), (4002, "Session expired"));
    ended(&gate, "/plain/expiring", ("sockgate", 4002, "expired"), "4002");
    assert_eq!(own.closed().code, 4402);
    ended(&gate, "/own/expiring-too", ("sockgate", 4402, "expired"), "4402");

    let bob = Token::of("bob").claim("sid", "s-1").sign();
    let revoked = Request::upgrade("/plain/revoked").bearer(&bob).open(gate.address());
    let body = json!({ "session": "s-1" }).to_string();
    let answer = Request::new("POST", "/revoke").bearer(ADMIN).body(body).send(gate.admin());
    assert_eq!(answer.json()["closed"], 1);
    assert_eq!(revoked.closed().says(), (4001, "Session revoked"));
    ended(&gate, "/plain/revoked", ("sockgate", 4001, "revoked"), "4001");

    let login = |subject: &str| json!({ "type": "auth", "token": token(subject) }).to_string();
    let mut socket = Request::upgrade("/speakers/twice").open(gate.address());
    socket.send(&login("alice"));
    socket.echoes("hello");
    socket.send(&login("bob"));
    assert_eq!(socket.closed().says(), (4003, "Forbidden"));
    ended(&gate, "/speakers/twice", ("sockgate", 4003, "forbidden"), "4003");
}

#[test]
fn a_reload_that_forbids_and_a_drain_are_told_apart() {
    let upstream = Upstream::start();
    let before = config(&upstream);
    let mut gate = Gate::start(&before);
    let judged = open(&gate, "/judged/a");
    let from = Request::upgrade("/origin/b").bearer(&token("alice")).origin("https://a.example");
    let origin = from.open(gate.address());
    let mut stays = open(&gate, "/plain/c");
    stays.echoes("hello");
    let after =
        before.replace("!= \"nobody\"", "== \"nobody\"").replace("origins: any", "origins: same");
    gate.rewrite(&after);
    assert_eq!(judged.closed().says(), (4003, "Forbidden"));
    ended(&gate, "/judged/a", ("sockgate", 4003, "forbidden"), "4003");
    assert_eq!(origin.closed().code, 4003);
    ended(&gate, "/origin/b", ("sockgate", 4003, "origin_denied"), "4003");
    stays.echoes("still here");
    gate.signal("TERM");
    assert_eq!(stays.closed().says(), (1001, "Going away"));
    assert!(gate.wait().success());
    assert_eq!(logged(&gate, "/plain/c"), ("sockgate".to_owned(), 1001, "draining".to_owned()));
}

#[test]
fn plain_http_that_is_cut_off_is_no_close() {
    let upstream = Upstream::start();
    let gate = Gate::start(&config(&upstream));
    let request = Request::get("/plain/later-100").bearer(&token("alice"));
    assert_eq!(request.send(gate.address()).status, 200);
    std::thread::sleep(Duration::from_millis(50));
    assert!(gate.metric("sockgate_closes_total", &[]) < 0.5);
}
