//! The operator's listener.

use std::collections::BTreeSet;

use serde_json::json;

use super::support::{Gate, Nobody, Request, Upstream, canary, members, token};

const TOKEN: &str = "canary-admin-token-0001";

fn guarded(upstream: &Upstream) -> Gate {
    canary(TOKEN);
    let admin = format!("admin: {{ listen: \"127.0.0.1:0\", token: {TOKEN} }}\n");
    Gate::start(&(members(&upstream.ws()) + &admin))
}

/// Every metric of the contract that a gate of this issue can count for.
const METRICS: &[(&str, &[&str])] = &[
    ("sockgate_connections_open", &["route"]),
    ("sockgate_connections_total", &["route"]),
    ("sockgate_auth_decisions_total", &["route", "credential", "verifier", "outcome", "reason"]),
    ("sockgate_auth_duration_seconds_count", &["verifier"]),
    ("sockgate_upstream_connect_duration_seconds_count", &["route"]),
    ("sockgate_upstream_errors_total", &["route", "kind"]),
    ("sockgate_bytes_total", &["route", "direction"]),
    ("sockgate_frames_total", &["route", "direction", "opcode"]),
    ("sockgate_closes_total", &["route", "initiator", "code"]),
    ("sockgate_connection_duration_seconds_count", &["route"]),
    ("sockgate_http_requests_total", &["route", "status"]),
    ("sockgate_revocations_total", &["source"]),
    ("sockgate_config_reloads_total", &["outcome"]),
    ("sockgate_config_last_reload_successful", &[]),
    ("sockgate_build_info", &["version"]),
    ("process_cpu_seconds_total", &[]),
    ("process_resident_memory_bytes", &[]),
    ("process_open_fds", &[]),
    ("process_start_time_seconds", &[]),
];

fn labels(line: &str) -> BTreeSet<String> {
    let Some((_, rest)) = line.split_once('{') else { return BTreeSet::new() };
    let inside = rest.rsplit_once('}').expect("closed").0;
    let mut names = BTreeSet::new();
    for part in inside.split("\",") {
        names.insert(part.split('=').next().expect("a name").to_owned());
    }
    names
}

#[test]
fn every_metric_is_there_with_exactly_its_labels() {
    assert!(!METRICS.is_empty());
    let (upstream, nobody) = (Upstream::start(), Nobody::there());
    let config = format!(
        "{}  - {{ name: dead, path: /dead, policy: members, upstream: \"{}\" }}\n",
        members(&upstream.ws()),
        nobody.ws()
    );
    let gate = Gate::start(&config);
    let mut socket = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    socket.echoes("hello");
    socket.finish();
    let _open = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    Request::upgrade("/ws/a").cookie("garbage").closed(gate.address());
    Request::upgrade("/dead").cookie(&token("alice")).closed(gate.address());
    Request::get("/ws/report").cookie(&token("alice")).send(gate.address());
    gate.signal("HUP");
    gate.metric_becomes("sockgate_config_reloads_total", &[], 1.0);
    gate.metric_becomes("sockgate_closes_total", &["code=\"1000\"", "initiator=\"client\""], 1.0);

    let response = gate.ask("/metrics");
    assert_eq!(response.status, 200);
    assert!(response.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    let text = response.text();
    for (name, expected) in METRICS {
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .unwrap_or_else(|| panic!("no {name} in\n{text}"));
        let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(labels(line), expected, "{line}");
        let family = name.trim_end_matches("_count");
        assert!(text.contains(&format!("# HELP {family} ")), "no help of {family}");
    }
    for secret in ["alice", "garbage", "/ws/a", "gate.test"] {
        let told = text.lines().find(|line| !line.starts_with('#') && line.contains(secret));
        assert_eq!(told, None, "a label holds a user, a token or a path");
    }
}

#[test]
fn counts_are_right() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let mut socket = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    gate.metric_becomes("sockgate_connections_open", &["route=\"chat\""], 1.0);
    socket.echoes("12345");
    socket.echoes("12345");
    socket.finish();
    Request::upgrade("/ws/a").closed(gate.address());
    gate.metric_becomes("sockgate_connections_open", &["route=\"chat\""], 0.0);
    gate.metric_becomes("sockgate_connections_total", &["route=\"chat\""], 1.0);
    let text = ["route=\"chat\"", "opcode=\"text\""];
    for direction in ["direction=\"up\"", "direction=\"down\""] {
        gate.metric_becomes("sockgate_frames_total", &[text[0], text[1], direction], 2.0);
        gate.metric_becomes("sockgate_frames_total", &["opcode=\"close\"", direction], 1.0);
        assert!(gate.metric("sockgate_bytes_total", &[direction]) >= 10.0);
    }
    let admitted = ["credential=\"cookie", "verifier=\"app\"", "outcome=\"admitted\""];
    gate.metric_becomes("sockgate_auth_decisions_total", &admitted, 1.0);
    let refused = ["outcome=\"refused\"", "reason=\"missing_credential\""];
    gate.metric_becomes("sockgate_auth_decisions_total", &refused, 1.0);
    let closes = ["initiator=\"sockgate\"", "code=\"4001\""];
    gate.metric_becomes("sockgate_closes_total", &closes, 1.0);
}

#[test]
fn health_and_readiness_are_open_and_on_the_admin_listener_only() {
    let upstream = Upstream::start();
    let gate = guarded(&upstream);
    assert_eq!(gate.ask("/healthz").status, 200);
    let ready = gate.ask("/readyz");
    assert_eq!(ready.status, 200);
    assert!(ready.json().is_object());
    assert_eq!(gate.ask("/metrics").status, 200);
    assert_eq!(gate.ask("/nothing").status, 404);
    for path in ["/metrics", "/healthz", "/readyz", "/connections", "/drain"] {
        assert_eq!(Request::get(path).send(gate.address()).status, 404, "{path}");
    }
    upstream.saw_nothing();
}

#[test]
fn connections_are_listed_filtered_and_paged() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let mut sockets: Vec<_> = ["alice", "bob", "alice", "carol"]
        .iter()
        .map(|subject| Request::upgrade("/ws/a").cookie(&token(subject)).open(gate.address()))
        .collect();
    sockets.iter_mut().for_each(|socket| socket.echoes("hello"));
    let all = gate.ask("/connections").json();
    let list = all["connections"].as_array().expect("a list");
    assert_eq!((list.len(), &all["next"]), (4, &json!(null)));
    for connection in list {
        for key in ["id", "route", "subject", "method", "verifier", "peer", "opened", "expires"] {
            assert!(!connection[key].is_null(), "{key}: {connection}");
        }
        assert_eq!(connection["route"], "chat");
        assert_eq!(connection["verifier"], "app");
        assert!(connection["bytes_up"].as_u64().expect("a count") >= 5, "{connection}");
        assert!(connection["bytes_down"].as_u64().expect("a count") >= 5, "{connection}");
    }
    let of = |query: &str| gate.ask(&format!("/connections?{query}")).json();
    assert_eq!(of("subject=alice")["connections"].as_array().map(Vec::len), Some(2));
    assert_eq!(of("subject=nobody")["connections"], json!([]));
    assert_eq!(of("route=chat&subject=bob")["connections"].as_array().map(Vec::len), Some(1));
    assert_eq!(of("route=other")["connections"], json!([]));
    let first = of("limit=3");
    assert_eq!(first["connections"].as_array().map(Vec::len), Some(3));
    let next = first["next"].as_str().map_or_else(|| first["next"].to_string(), str::to_owned);
    let second = of(&format!("limit=3&after={next}"));
    assert_eq!(second["connections"].as_array().map(Vec::len), Some(1));
    assert_eq!(second["next"], json!(null));
    let ids: BTreeSet<String> = [&first, &second]
        .iter()
        .flat_map(|page| page["connections"].as_array().expect("a list"))
        .map(|connection| connection["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(gate.ask("/connections?limit=x").status, 400);
}

#[test]
fn a_token_guards_everything_else() {
    let upstream = Upstream::start();
    let gate = guarded(&upstream);
    let ask = |method: &str, path: &str, credential: Option<&str>| {
        let request = Request::new(method, path).header("Connection", "close");
        let request = match credential {
            Some(credential) => request.header("Authorization", credential),
            None => request,
        };
        request.send(gate.admin()).status
    };
    let good = format!("Bearer {TOKEN}");
    for bad in [None, Some("Bearer wrong"), Some("Basic x"), Some("Bearer "), Some(TOKEN)] {
        assert_eq!(ask("GET", "/connections", bad), 401, "{bad:?}");
        assert_eq!(ask("POST", "/drain", bad), 401, "{bad:?}");
    }
    assert_eq!(ask("GET", "/connections", Some(&good)), 200);
    assert_eq!(gate.ask("/readyz").status, 200, "nothing was drained");
}

#[test]
fn without_a_token_a_post_is_forbidden() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    assert_eq!(Request::new("POST", "/drain").send(gate.admin()).status, 403);
    assert_eq!(gate.ask("/readyz").status, 200);
    assert_eq!(Request::new("POST", "/connections").send(gate.admin()).status / 100, 4);
}

#[test]
fn a_post_with_the_token_drains() {
    let upstream = Upstream::start();
    canary(TOKEN);
    let config = members(&upstream.ws())
        + &format!(
            "admin: {{ listen: \"127.0.0.1:0\", token: {TOKEN} }}\n\
             server: {{ listen: \"127.0.0.1:0\", drain_delay: 0s, drain: 500ms }}\n"
        );
    let mut gate = Gate::start(&config);
    let mut socket = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    socket.echoes("hello");
    let answer = Request::new("POST", "/drain").bearer(TOKEN).send(gate.admin());
    assert_eq!(answer.status / 100, 2);
    assert_eq!(socket.closed().says(), (1001, "Going away"));
    assert!(gate.wait().success());
}

#[test]
fn malformed_requests_do_not_disturb_the_admin_listener() {
    let upstream = Upstream::start();
    let gate = guarded(&upstream);
    for bytes in [&b"\x16\x03\x01\0\r\n\r\n"[..], b"GET\r\n\r\n", b"GET /metrics HTTP/1.1\r\n\r\n"]
    {
        let mut stream = super::support::dial(gate.admin());
        std::io::Write::write_all(&mut stream, bytes).expect("sent");
    }
    assert_eq!(gate.ask("/healthz").status, 200);
}
