//! A new configuration keeps every socket; a bad one changes nothing.

use std::time::Duration;

use super::support::{
    Gate, Request, SECRET, Token, Upstream, canary, eventually, members, policy, token,
};

const OUTCOMES: &str = "sockgate_config_reloads_total";

#[test]
fn a_changed_file_applies_to_new_connections_and_keeps_the_old() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let mut old = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    old.echoes("before");
    gate.rewrite(&members(&upstream.ws()).replace("cookie: session", "cookie: other"));
    eventually("the new file is live", || {
        Request::get("/ws/report")
            .header("Cookie", &format!("other={}", token("alice")))
            .send(gate.address())
            .status
            == 200
    });
    let refused = Request::upgrade("/ws/a").cookie(&token("alice")).closed(gate.address());
    assert_eq!(refused.code, 4001);
    old.echoes("after");
}

#[test]
fn sighup_reads_the_file_again() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let mut socket = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    for _ in 0..3 {
        gate.signal("HUP");
        socket.echoes("still here");
    }
    eventually("it was counted", || gate.metric(OUTCOMES, &[]) >= 1.0);
    gate.metric_becomes("sockgate_config_last_reload_successful", &[], 1.0);
    socket.echoes("still here");
    socket.finish();
}

#[test]
fn a_bad_file_changes_nothing_and_says_so() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let mut old = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    for bad in [
        members(&upstream.ws()).replace("policy: members,", "policy: mebers,"),
        "nonsense: [".to_owned(),
    ] {
        let before = gate.lines().len();
        gate.rewrite(&bad);
        gate.signal("HUP");
        gate.metric_becomes("sockgate_config_last_reload_successful", &[], 0.0);
        eventually("it is said", || gate.lines().len() > before);
        old.echoes("still here");
        Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address()).echoes("as before");
    }
    gate.line("about the mistake", |line| line.to_string().contains("mebers"));
    assert_eq!(gate.ask("/readyz").status, 200);
    gate.rewrite(&members(&upstream.ws()));
    gate.metric_becomes("sockgate_config_last_reload_successful", &[], 1.0);
    old.echoes("still here");
}

#[test]
fn reading_the_files_is_no_change_to_them() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    // Somebody looks at the file.
    std::fs::read(gate.config()).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let reads = || -> u64 {
        let counters = std::fs::read_to_string(format!("/proc/{}/io", gate.pid())).unwrap();
        let count = counters.lines().find_map(|line| line.strip_prefix("syscr: "));
        count.unwrap().parse().unwrap()
    };
    let before = reads();
    std::thread::sleep(Duration::from_millis(1500));
    let reads = reads() - before;
    assert!(reads < 20, "{reads} reads in a gate that nobody uses");
}

#[test]
fn a_changed_key_file_applies_without_a_signal() {
    let upstream = Upstream::start();
    let directory = tempfile::TempDir::new().expect("a directory");
    let next = canary("canary-next-secret-after-a-rotation-32");
    std::fs::write(directory.path().join("secret"), SECRET).expect("written");
    let config = members(&upstream.ws()).replace(SECRET, "{ file: secret }");
    let gate = Gate::start_in(directory, &config, &[]);
    let mut old = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    old.echoes("before");
    std::fs::write(gate.directory().join("secret"), &next).expect("written");
    let token = Token::of("bob").sign_with(next.as_bytes());
    eventually("the new secret verifies", || {
        Request::get("/ws/report").cookie(&token).send(gate.address()).status == 200
    });
    old.echoes("after");
}

#[test]
fn live_connections_are_judged_again_by_a_changed_policy() {
    let upstream = Upstream::start();
    let credentials = "credentials: [{ cookie: session, verifier: app }]";
    let gate = Gate::start(&policy(credentials, &upstream.ws()));
    let member = Token::of("alice").claim("role", "member").sign();
    let mut stays = Request::upgrade("/ws/a").cookie(&member).open(gate.address());
    let mut goes = Request::upgrade("/ws/a").cookie(&token("bob")).open(gate.address());
    stays.echoes("hello");
    goes.echoes("hello");
    let stricter = format!("{credentials}, require: 'identity.claims.role == \"member\"'");
    gate.rewrite(&policy(&stricter, &upstream.ws()));
    gate.signal("HUP");
    assert_eq!(goes.closed().says(), (4003, "Forbidden"));
    stays.echoes("still here");
}

#[test]
fn what_needs_a_restart_is_said() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let mut old = Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address());
    gate.rewrite(
        &(members(&upstream.ws()) + "server: { listen: \"127.0.0.1:1\", drain_delay: 0s }\n"),
    );
    gate.signal("HUP");
    gate.line("about the restart", |line| {
        let line = line.to_string();
        line.contains("server.listen") && line.contains("restart")
    });
    old.echoes("still here");
    Request::upgrade("/ws/a").cookie(&token("alice")).open(gate.address()).echoes("as before");
}

#[test]
fn connections_to_an_unchanged_upstream_are_used_again_after_a_reload() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let connection = || {
        let request = Request::get("/ws/report").cookie(&token("alice"));
        assert_eq!(request.send(gate.address()).status, 200);
        upstream.last().connection
    };
    let reloads = || gate.metric(OUTCOMES, &["outcome=\"success\""]);
    let reload = |config: &str| {
        let before = reloads();
        gate.rewrite(config);
        eventually("the new file is live", || reloads() > before);
    };
    let first = connection();
    reload(&(members(&upstream.ws()) + "limits: { ping_interval: 20s }\n"));
    assert_eq!(connection(), first);
    let other = members(&upstream.ws()) + "limits: { upstream_connect_timeout: 2s }\n";
    reload(&other);
    assert_ne!(connection(), first, "connections are made in another way now");
    let second = Upstream::start();
    reload(&other.replace(&upstream.ws(), &second.ws()));
    let request = Request::get("/ws/report").cookie(&token("alice"));
    assert_eq!(request.send(gate.address()).status, 200);
    assert_eq!(second.seen().len(), 1);
}

#[test]
fn a_saved_file_and_its_signal_are_one_reload_and_every_signal_is_answered() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let said = |message: &str| {
        gate.lines().iter().filter(|line| line["message"].as_str() == Some(message)).count()
    };
    let answers = || {
        said("configuration reloaded") + said("SIGHUP: this configuration was reloaded just before")
    };
    let counted = || (gate.metric(OUTCOMES, &[]) + 0.5) as usize;
    for round in 1..=5 {
        gate.rewrite(&(members(&upstream.ws()) + &format!("# {round}\n")));
        // Before the change is noticed, while it settles, and after it is live.
        std::thread::sleep(Duration::from_millis(60 * (round - 1)));
        gate.signal("HUP");
        eventually("it is live", || said("configuration reloaded") == round as usize);
        // Longer than any change takes to settle: nothing more comes of it.
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(said("configuration reloaded"), round as usize, "{}", gate.output());
        assert_eq!(counted(), round as usize);
    }
    let (before, answered) = (counted(), answers());
    std::thread::sleep(Duration::from_secs(3));
    gate.signal("HUP");
    eventually("a signal without a change is a reload", || counted() == before + 1);
    eventually("and says so", || answers() == answered + 1);
}

#[test]
fn a_signal_right_after_a_bad_change_says_so_and_counts_once() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    gate.rewrite("nonsense: [");
    gate.metric_becomes(OUTCOMES, &["outcome=\"failure\""], 1.0);
    gate.signal("HUP");
    gate.line("in answer to the signal", |line| {
        line["message"] == "SIGHUP: this configuration was found bad just before"
    });
    assert!((gate.metric(OUTCOMES, &[]) - 1.0).abs() < 0.5);
}
