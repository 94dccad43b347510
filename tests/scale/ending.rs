//! A crowd whose login ends, in each of the ways in which that can be.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::bystander::{Bystanders, Taken};
use crate::crowd::{Crowd, End, upgrade};
use crate::support::{Gate, Redis, Request, SECRET, Token, canary, eventually, unix_now};
use crate::upstream::Echo;
use crate::{alone, many};

const ADMIN: &str = "canary-admin-token-0003";

/// The gate of all of these, with `rest` of the file, in front of `upstream`; what
/// bystanders say goes to another server.
fn gate(rest: &str, upstream: &Echo) -> Gate {
    canary(ADMIN);
    let (upstream, quiet) = (upstream.ws(), Echo::start().ws());
    Gate::start(&format!(
        r#"
admin: {{ listen: "127.0.0.1:0", token: {ADMIN} }}
{rest}
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256], leeway: 0s }} }}
policies:
  members: {{ credentials: [{{ header: authorization, verifier: app }}] }}
routes:
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{upstream}" }}
  - {{ name: other, path: "/other/*", policy: members, upstream: "{upstream}" }}
  - {{ name: quiet, path: "/quiet/*", policy: members, upstream: "{quiet}" }}
"#
    ))
}

fn token(subject: &str) -> String {
    Token::of(subject).claim("iat", unix_now() - 5).sign()
}

/// The longest after `began` that an end came.
fn longest(ends: &[End], began: Instant) -> Duration {
    ends.iter().map(|end| end.at.saturating_duration_since(began)).max().expect("an end")
}

#[track_caller]
fn all_are(ends: &[End], code: u16, reason: &str) {
    let other = ends.iter().find(|end| end.code != Some(code) || end.reason != reason);
    assert!(other.is_none(), "{other:?}");
}

/// Makes a crowd of `number` to `gate`, all with the same `token`.
fn crowd(gate: &Gate, number: usize, token: &str) -> Crowd {
    let mut crowd = Crowd::new();
    let request = upgrade("/ws/a", token);
    crowd.open(gate.address(), number, |_| request.clone());
    crowd
}

fn bystander() -> Request {
    Request::upgrade("/quiet/b").bearer(&token("bob"))
}

/// What bystanders of `gate` feel while nothing happens, for a moment.
fn at_rest(gate: &Gate) -> Taken {
    let bystanders = Bystanders::start(gate.address(), 2, &bystander());
    std::thread::sleep(Duration::from_millis(500));
    bystanders.finish()
}

/// A message may take this long while a crowd ends: far less than any stall.
const UNDISTURBED: Duration = Duration::from_millis(500);

#[track_caller]
fn is_undisturbed(then: &Taken, before: &Taken) {
    eprintln!("bystanders before: {before}\nbystanders then: {then}");
    assert!(then.p99 < UNDISTURBED, "{then}");
}

/// The processor time that `gate` has used so far.
fn processor_time(gate: &Gate) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", gate.pid())).expect("a process");
    let behind_the_name = stat.rsplit(')').next().expect("fields");
    let ticks = behind_the_name.split_whitespace().skip(11).take(2);
    // A hundredth of a second each, on every Linux.
    Duration::from_millis(10 * ticks.map(|ticks| ticks.parse::<u64>().expect("ticks")).sum::<u64>())
}

/// Revokes everybody but the bystanders of `gates`, each with `each` connections of a
/// crowd; the first is told.
fn revoke_crowds(gates: &[Gate], each: usize, shared: bool) {
    let alice = token("alice");
    let crowds: Vec<Crowd> = gates.iter().map(|gate| crowd(gate, each, &alice)).collect();
    let before = at_rest(&gates[0]);
    let bystanders = Bystanders::start(gates[0].address(), 2, &bystander());
    let (used, began) = (processor_time(&gates[0]), Instant::now());
    let body = json!({ "subject": "alice" }).to_string();
    let answer = Request::new("POST", "/revoke").bearer(ADMIN).body(body).send(gates[0].admin());
    let answered = began.elapsed();
    assert_eq!(answer.json(), json!({ "closed": each, "shared": shared }));
    let ends: Vec<Vec<End>> = crowds.iter().map(|crowd| crowd.ended(each)).collect();
    let then = bystanders.finish();
    let used = processor_time(&gates[0]) - used;
    for (ends, gate) in ends.iter().zip(gates) {
        let last = longest(ends, began);
        eprintln!(
            "{each} closed after {last:?}, answered after {answered:?}, {used:?} of processor"
        );
        gate.metric_becomes("sockgate_closes_total", &["code=\"4001\""], each as f64);
        gate.metric_becomes("sockgate_connections_open", &[], 0.0);
    }
    is_undisturbed(&then, &before);
    for ends in &ends {
        all_are(ends, 4001, "Session revoked");
        let last = longest(ends, began);
        assert!(last < Duration::from_secs(1), "the last of {each} after {last:?}");
    }
}

#[test]
fn a_revoked_crowd_is_closed_within_a_second() {
    let _alone = alone();
    let upstream = Echo::start();
    revoke_crowds(&[gate("", &upstream)], many(), false);
}

#[test]
fn a_revoked_crowd_is_closed_within_a_second_on_every_replica() {
    let _alone = alone();
    let (upstream, redis) = (Echo::start(), Redis::start());
    let section = format!("revocation: {{ redis: \"{}\" }}", redis.url());
    let gates = [gate(&section, &upstream), gate(&section, &upstream)];
    revoke_crowds(&gates, many() / 2, true);
}

/// Logins that end one after the other within ten seconds, each at its own second.
#[test]
fn each_of_a_crowd_is_closed_within_a_second_of_its_expiry() {
    const SECONDS: usize = 10;
    let _alone = alone();
    let upstream = Echo::start();
    let gate = gate("", &upstream);
    let number = many();
    // Time enough to open all of them before the first expires.
    let first = unix_now() + 5 + number as i64 / 400;
    let expiry = |client: usize| first + (client % SECONDS) as i64;
    let requests: Vec<Vec<u8>> = (0..SECONDS)
        .map(|second| {
            let token = Token::of("alice").claim("exp", expiry(second)).sign();
            upgrade("/ws/a", &token)
        })
        .collect();
    let mut crowd = Crowd::new();
    crowd.open(gate.address(), number, |client| requests[client % SECONDS].clone());
    assert!(unix_now() < first, "they took too long to open");
    let before = at_rest(&gate);
    let (now, wall) = (Instant::now(), SystemTime::now());
    let bystanders = Bystanders::start(gate.address(), 2, &bystander());
    std::thread::sleep(Duration::from_secs((first - unix_now()).max(0) as u64 + SECONDS as u64));
    let ends = crowd.ended(number);
    is_undisturbed(&bystanders.finish(), &before);
    all_are(&ends, 4002, "Session expired");
    let mut latest = Duration::ZERO;
    for end in &ends {
        let due = UNIX_EPOCH + Duration::from_secs(expiry(end.number) as u64);
        let due = now + due.duration_since(wall).expect("it was in the future");
        assert!(end.at >= due, "{} closed {:?} early", end.number, due - end.at);
        latest = latest.max(end.at - due);
    }
    eprintln!("{number} closed at most {latest:?} after their expiry");
    assert!(latest < Duration::from_secs(1), "closed {latest:?} late");
    gate.metric_becomes("sockgate_connections_open", &[], 0.0);
    gate.metric_becomes("sockgate_closes_total", &["code=\"4002\""], number as f64);
}

#[test]
fn a_crowd_that_expires_at_once_is_in_nobodys_way() {
    let _alone = alone();
    let upstream = Echo::start();
    let gate = gate("server: { listen: '127.0.0.1:0', threads: 1 }", &upstream);
    let number = many();
    let first = unix_now() + 3 + number as i64 / 400;
    let crowd = crowd(&gate, number, &Token::of("alice").claim("exp", first).sign());
    assert!(unix_now() < first, "they took too long to open");
    let before = at_rest(&gate);
    std::thread::sleep(Duration::from_secs((first - unix_now()).max(1) as u64 - 1));
    let bystanders = Bystanders::start(gate.address(), 2, &bystander());
    let ends = crowd.ended(number);
    let then = bystanders.finish();
    all_are(&ends, 4002, "Session expired");
    let earliest = ends.iter().map(|end| end.at).min().expect("some");
    eprintln!("{number} closed within {:?}", longest(&ends, earliest));
    is_undisturbed(&then, &before);
}

#[test]
fn a_drain_closes_a_crowd_evenly_and_exits_when_all_are_gone() {
    const TENTHS: usize = 10;
    let _alone = alone();
    let upstream = Echo::start();
    let server = "server: { listen: '127.0.0.1:0', drain_delay: 0s, drain: 8s }";
    let mut gate = gate(server, &upstream);
    let crowd = crowd(&gate, 1000, &token("alice"));
    let began = Instant::now();
    gate.signal("TERM");
    assert!(gate.wait().success());
    let exited = began.elapsed();
    let ends = crowd.ended(1000);
    all_are(&ends, 1001, "Going away");
    let first = ends.iter().map(|end| end.at).min().expect("some");
    let spread = longest(&ends, first);
    let mut closed = [0; TENTHS];
    for end in &ends {
        let share = (end.at - first).as_secs_f64() / spread.as_secs_f64();
        closed[((share * TENTHS as f64) as usize).min(TENTHS - 1)] += 1;
    }
    eprintln!("closed over {spread:?}, by tenths: {closed:?}; exit after {exited:?}");
    assert!(closed.iter().all(|count| (60..=140).contains(count)), "{closed:?}");
    assert!(spread > Duration::from_secs(4), "{spread:?}");
    assert!(exited < Duration::from_secs(8), "the deadline is 8 s: {exited:?}");
    assert!(gate.line("of the end", |line| line["message"] == "drained").is_object());
    let lines = gate.lines();
    let closed = lines.iter().filter(|line| line["outcome"] == "closed");
    assert_eq!(closed.filter(|line| line["reason"] == "draining").count(), 1000);
    eventually("the upstream's connections are closed", || upstream.open() == 0);
}

/// One processor has to judge everybody, close whom it must, and serve the others.
#[test]
fn a_crowd_that_a_reload_judges_again_is_in_nobodys_way() {
    let _alone = alone();
    let upstream = Echo::start();
    let gate = gate("server: { listen: '127.0.0.1:0', threads: 1 }", &upstream);
    let number = many();
    let crowd = crowd(&gate, number, &token("alice"));
    let before = at_rest(&gate);
    let written = std::fs::read_to_string(gate.config()).expect("the file");
    let require = |rule: &str| {
        let policy = format!("verifier: app }}], require: '{rule}' }}");
        written.replace("verifier: app }] }", &policy)
    };
    for (reloads, rule) in
        [r#"request.path != "/""#, r#"identity.subject != "alice""#].iter().enumerate()
    {
        let bystanders = Bystanders::start(gate.address(), 2, &bystander());
        let began = Instant::now();
        gate.rewrite(&require(rule));
        gate.signal("HUP");
        let done = (reloads + 1) as f64;
        gate.metric_becomes("sockgate_config_reloads_total", &["outcome=\"success\""], done);
        eprintln!("judged after {:?}", began.elapsed());
        if reloads == 1 {
            let ends = crowd.ended(number);
            eprintln!("closed after {:?}", longest(&ends, began));
            all_are(&ends, 4003, "Forbidden");
        }
        let then = bystanders.finish();
        is_undisturbed(&then, &before);
        assert_eq!(crowd.ends().len(), reloads * number);
    }
    gate.metric_becomes("sockgate_connections_open", &[], 0.0);
}

#[test]
fn a_crowd_is_listed_page_by_page_and_nobody_waits_for_it() {
    let _alone = alone();
    let upstream = Echo::start();
    let gate = gate("", &upstream);
    let number = many();
    let _stays = crowd(&gate, number, &token("alice"));
    let before = at_rest(&gate);
    let bystanders = Bystanders::start(gate.address(), 2, &bystander());
    let listed = |filter: &str| {
        let (mut ids, mut next) = (BTreeSet::new(), String::new());
        loop {
            let target = format!("/connections?limit=1000&{filter}&after={next}");
            let target = target.trim_end_matches("&after=");
            let page = Request::get(target).bearer(ADMIN).send(gate.admin()).json();
            for one in page["connections"].as_array().expect("a page") {
                let id = one["id"].as_str().expect("an id").to_owned();
                assert!(ids.insert(id), "one is listed twice");
            }
            match page["next"].as_str() {
                Some(more) => next = more.to_owned(),
                None => return ids.len(),
            }
        }
    };
    let churn = || {
        for _ in 0..200 {
            Request::upgrade("/ws/c").bearer(&token("carol")).open(gate.address()).finish();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(churn);
        for _ in 0..5 {
            // Whoever comes and goes meanwhile: those who stay are there, once.
            assert_eq!(listed("subject=alice"), number);
        }
    });
    assert_eq!(listed("subject=bob&route=quiet"), 2);
    assert_eq!(listed("route=other"), 0);
    is_undisturbed(&bystanders.finish(), &before);
}

#[test]
fn no_subject_has_more_connections_than_it_may_however_many_log_in_at_once() {
    const MOST: usize = 7;
    let _alone = alone();
    let upstream = Echo::start();
    for rule in ["refuse", "close_oldest"] {
        let limits =
            format!("limits: {{ connections_per_subject: {MOST}, on_subject_limit: {rule} }}");
        let gate = gate(&limits, &upstream);
        let mut crowd = Crowd::new();
        let alice = token("alice");
        let paths = ["/ws/a", "/other/a"].map(|path| upgrade(path, &alice));
        // All are answered 101; who is one too many is closed with 4029.
        crowd.open(gate.address(), 100, |client| paths[client % 2].clone());
        let ends = crowd.ended(100 - MOST);
        all_are(&ends, 4029, "Too many connections");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(crowd.ends().len(), 100 - MOST, "{rule}");
        gate.metric_becomes("sockgate_connections_open", &[], MOST as f64);
        if rule == "close_oldest" {
            let stayed = |number| !ends.iter().any(|end| end.number == number);
            let oldest = (0..100).filter(|number| stayed(*number)).min();
            assert!(oldest.expect("some stay") > 20, "the oldest gave way: {oldest:?}");
        }
    }
}

/// Handshakes of one user in flight while the user is revoked, many times over.
#[test]
fn a_revocation_amid_a_storm_of_handshakes_leaves_no_old_login_open() {
    const ROUNDS: usize = 8;
    const STORM: usize = 300;
    let _alone = alone();
    let upstream = Echo::start();
    let gate = gate("", &upstream);
    let (mut admitted_first, mut refused_first) = (0, 0);
    for round in 0..ROUNDS {
        let subject = format!("user-{round}");
        let request = upgrade("/ws/a", &token(&subject));
        let mut crowd = Crowd::new();
        let revoked = std::thread::scope(|scope| {
            let revoking = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(10 + 15 * round as u64));
                let body = json!({ "subject": subject }).to_string();
                let request = Request::new("POST", "/revoke").bearer(ADMIN).body(body);
                let answer = request.send(gate.admin()).json();
                (answer["closed"].as_u64().expect("a count"), Instant::now())
            });
            crowd.open(gate.address(), STORM, |_| request.clone());
            revoking.join().expect("an answer")
        });
        let (closed, _) = revoked;
        let ends = crowd.ended(STORM);
        all_are(&ends, 4001, "Session revoked");
        admitted_first += closed;
        refused_first += STORM as u64 - closed;
        gate.metric_becomes("sockgate_connections_open", &[], 0.0);
    }
    eprintln!("closed: {admitted_first}, refused: {refused_first}");
    assert!(admitted_first > 0 && refused_first > 0, "it was a race");
}
