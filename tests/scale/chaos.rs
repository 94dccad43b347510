//! Everything at once, at random: connections come, speak, expire, are revoked, vanish,
//! lose their upstream, are judged anew by a reload, and are sent away in the end; the
//! sessions of some are ended, prolonged or taken over, and their store is slow. Then
//! nothing is left over, and who had nothing to do with it has lost no message.
//!
//! The seed is printed; `SOCKGATE_SEED` has it run again as far as the clocks allow,
//! `SOCKGATE_CHAOS` for so many seconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::alone;
use crate::bystander::Bystanders;
use crate::crowd::{Frames, open, upgrade};
use crate::sessions::{Random, Sessions};
use crate::support::{Gate, Redis, Request, SECRET, Token, canary, eventually, unix_now};
use crate::upstream::Echo;

const ADMIN: &str = "canary-admin-token-0006";

/// How many users there are: few, so that a revocation has something to do.
const USERS: usize = 40;

/// How many sessions each has.
const SESSIONS: usize = 20;

/// Who may have how many connections at once.
const PER_USER: usize = 30;

/// The configuration; a reload puts another user out, and other lifetimes in.
fn config(round: usize, places: &Places) -> String {
    canary(ADMIN);
    let Places { mortal, steady, redis } = places;
    let (mortal, steady, redis) = (mortal.ws(), steady.ws(), redis.url());
    let (banned, max) = (round % USERS, 20 + round % 5);
    // Sometimes without: who came then is counted once there is a limit again.
    let most = if round % 3 == 2 { 0 } else { PER_USER };
    format!(
        r#"
server: {{ listen: "127.0.0.1:0", drain_delay: 200ms, drain: 4s }}
admin: {{ listen: "127.0.0.1:0", token: {ADMIN} }}
limits: {{ unauthenticated: 100%, connections_per_subject: {most}, on_subject_limit: close_oldest, ping_interval: 1s }}
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256], leeway: 0s }} }}
  sessions: {{ session: {{ store: "{redis}", subject: value.user, timeout: 1s }} }}
policies:
  members:
    credentials: [{{ header: authorization, verifier: app }}]
    require: 'identity.subject != "user-{banned}"'
    lifetime: {{ max: {max}s }}
  speakers:
    credentials: [{{ message: {{ where: {{ /type: auth }}, token: /token }}, verifier: app }}]
    require: 'identity.subject != "user-{banned}"'
  fresh:
    credentials: [{{ header: authorization, verifier: app }}]
    lifetime: {{ grace: 500ms, refresh: {{ where: {{ /type: auth }}, token: /token, verifier: app }} }}
  kept:
    credentials: [{{ header: x-session, verifier: sessions }}]
    require: 'identity.subject != "user-{banned}"'
    lifetime: {{ recheck: 1s, recheck_stale: 30s, grace: 3s }}
  steady: {{ credentials: [{{ header: authorization, verifier: app }}] }}
routes:
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{mortal}" }}
  - {{ name: speak, path: "/speak/*", policy: speakers, upstream: "{mortal}" }}
  - {{ name: fresh, path: "/fresh/*", policy: fresh, upstream: "{mortal}" }}
  - {{ name: kept, path: "/kept/*", policy: kept, upstream: "{mortal}" }}
  - {{ name: steady, path: "/steady/*", policy: steady, upstream: "{steady}" }}
"#
    )
}

/// What the gate stands among.
struct Places {
    /// An upstream whose connections die now and then.
    mortal: Echo,
    /// One whose connections do not.
    steady: Echo,
    /// Where the sessions are.
    redis: Redis,
}

/// What a client does with its connection.
#[derive(Clone, Copy)]
enum Manner {
    /// Waits for its end.
    Wait,
    /// Sends a message now and then.
    Speak,
    /// Renews its login, some time before or after it ends.
    Renew(u64),
    /// Answers nothing, not even a ping.
    Deaf,
    /// Leaves without a word after so many milliseconds.
    Vanish(u64),
    /// Closes by itself.
    Close(u64),
    /// Sends half a frame, and leaves.
    Break(u64),
    /// Sends half a handshake, and leaves.
    Hesitate(u64),
}

/// The clients, until they are told to leave.
struct Clients {
    runtime: Runtime,
    tasks: JoinSet<()>,
    leave: watch::Sender<bool>,
    gate: SocketAddr,
    tried: usize,
    opened: Arc<AtomicUsize>,
}

impl Clients {
    fn new(gate: SocketAddr) -> Clients {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let leave = watch::Sender::new(false);
        Clients { runtime, tasks: JoinSet::new(), leave, gate, tried: 0, opened: Arc::default() }
    }

    /// One more, with a login and a manner at random.
    fn come(&mut self, random: &mut Random, sessions: &mut Sessions<'_>) {
        self.tried += 1;
        let user = format!("user-{}", random.below(USERS));
        let session = format!("{user}-{}", random.below(SESSIONS));
        let lasts = if random.below(3) == 0 { 600 } else { 1 + random.below(6) as i64 };
        let token = Token::of(&user).claim("sid", session).claim("iat", unix_now());
        let token = token.expires_in(lasts).sign_one_of_many();
        let after = 20 + random.below(3000) as u64;
        let manner = match random.below(20) {
            0..6 => Manner::Wait,
            6..9 => Manner::Speak,
            9..12 => Manner::Renew(500 + after),
            12 => Manner::Deaf,
            13..15 => Manner::Vanish(after),
            15..18 => Manner::Close(after),
            18 => Manner::Break(after),
            _ => Manner::Hesitate(after),
        };
        let speaks_first = random.below(4) == 0;
        let is_kept = !speaks_first && random.below(4) == 0;
        let client = Client {
            gate: self.gate,
            request: if let Manner::Renew(_) = manner {
                upgrade("/fresh/a", &token)
            } else if is_kept {
                let lasts = if random.below(2) == 0 { 600_000 } else { 1000 + random.below(3000) };
                let id = sessions.log_in(lasts);
                Request::upgrade("/kept/a").header("X-Session", &id).bytes()
            } else if speaks_first {
                Request::upgrade("/speak/a").bytes()
            } else {
                upgrade("/ws/a", &token)
            },
            login: (speaks_first && !matches!(manner, Manner::Renew(_))).then(|| login(&token)),
            user,
            manner,
        };
        let (mut leave, opened) = (self.leave.subscribe(), Arc::clone(&self.opened));
        self.tasks.spawn_on(
            async move {
                tokio::select! {
                    _ = client.live(&opened) => {}
                    _ = leave.wait_for(|leave| *leave) => {}
                }
            },
            self.runtime.handle(),
        );
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// Waits for the end of all, whoever brings it about.
    fn gone(&mut self) {
        let Clients { runtime, tasks, .. } = self;
        runtime.block_on(async { while tasks.join_next().await.is_some() {} });
    }
}

/// One of them.
struct Client {
    gate: SocketAddr,
    request: Vec<u8>,
    /// The first message, where the credential is one.
    login: Option<String>,
    user: String,
    manner: Manner,
}

fn login(token: &str) -> String {
    json!({ "type": "auth", "token": token }).to_string()
}

impl Client {
    async fn live(self, opened: &AtomicUsize) -> std::io::Result<()> {
        if let Manner::Hesitate(after) = self.manner {
            let mut stream = TcpStream::connect(self.gate).await?;
            stream.write_all(&self.request[..self.request.len() / 2]).await?;
            tokio::time::sleep(Duration::from_millis(after)).await;
            return Ok(());
        }
        let mut stream = open(self.gate, &self.request).await?;
        opened.fetch_add(1, Ordering::SeqCst);
        if let Some(login) = &self.login {
            stream.write_all(&frame(0x81, login.as_bytes())).await?;
        }
        let pause = |after| tokio::time::sleep(Duration::from_millis(after));
        match self.manner {
            Manner::Wait => until_closed(&mut stream, None).await,
            Manner::Speak => until_closed(&mut stream, Some(Duration::from_millis(100))).await,
            Manner::Renew(after) => loop {
                // Cut off between two frames: nothing of a frame is lost.
                let ended = until_closed(&mut stream, None);
                if let Ok(ended) = tokio::time::timeout(Duration::from_millis(after), ended).await {
                    return ended;
                }
                let token = Token::of(&self.user).claim("iat", unix_now()).expires_in(3);
                let renewed = login(&token.sign_one_of_many());
                stream.write_all(&frame(0x81, renewed.as_bytes())).await?;
            },
            Manner::Deaf => {
                // The gate gives up on it after two pings, or before.
                pause(6_000).await;
                Ok(())
            }
            Manner::Vanish(after) | Manner::Hesitate(after) => {
                pause(after).await;
                Ok(())
            }
            Manner::Break(after) => {
                pause(after).await;
                stream.write_all(&[0x81, 0xfe, 0x10, 0, 1, 2]).await
            }
            Manner::Close(after) => {
                let closing = async {
                    pause(after).await;
                    Ok::<(), std::io::Error>(())
                };
                tokio::select! {
                    ended = until_closed(&mut stream, None) => return ended,
                    waited = closing => waited?,
                }
                stream.write_all(&frame(0x88, &1000_u16.to_be_bytes())).await?;
                until_closed(&mut stream, None).await
            }
        }
    }
}

/// A masked frame whose mask changes nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Reads to the end, answers pings and the Close, and says something at times.
async fn until_closed(stream: &mut TcpStream, says: Option<Duration>) -> std::io::Result<()> {
    let mut frames = Frames::default();
    loop {
        let waited = match says {
            Some(pause) => tokio::time::timeout(pause, frames.next(stream)).await,
            None => Ok(frames.next(stream).await),
        };
        match waited {
            Ok(Ok(Some((8, payload)))) => {
                stream.write_all(&frame(0x88, &payload)).await?;
                return Ok(());
            }
            Ok(Ok(Some((9, payload)))) => stream.write_all(&frame(0x8a, &payload)).await?,
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => stream.write_all(&frame(0x81, b"something")).await?,
        }
    }
}

/// Every connection that was admitted was closed, once, and none was forgotten.
#[track_caller]
fn every_life_has_an_end(gate: &Gate) -> usize {
    let mut lives: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for line in gate.lines() {
        let id = line["id"].as_str().unwrap_or_default().to_owned();
        match line["outcome"].as_str() {
            Some("admitted") => lives.entry(id).or_default().0 += 1,
            Some("closed") => lives.entry(id).or_default().1 += 1,
            _ => {}
        }
    }
    let odd: Vec<_> = lives.iter().filter(|(_, ends)| **ends != (1, 1)).take(5).collect();
    assert!(odd.is_empty(), "admitted and closed: {odd:?}");
    lives.len()
}

fn revoke(gate: &Gate, body: &Value) {
    let request = Request::new("POST", "/revoke").bearer(ADMIN).body(body.to_string());
    assert_eq!(request.header("Connection", "close").send(gate.admin()).status, 200);
}

fn open_files(gate: &Gate) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", gate.pid())).expect("a process");
    files.count()
}

/// How many tasks the gate has, as it says itself.
fn tasks_of(gate: &Gate) -> u64 {
    gate.ask("/healthz").json()["tasks"].as_u64().expect("a number")
}

#[test]
fn nothing_is_left_over_after_everything_at_random() {
    let _alone = alone();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("SOCKGATE_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("after 1970").as_nanos() as u64
    });
    eprintln!("SOCKGATE_SEED={seed}");
    let lasts = Duration::from_secs(number("SOCKGATE_CHAOS").unwrap_or(10));
    let mut random = Random(seed);
    let places = Places { mortal: Echo::start(), steady: Echo::start(), redis: Redis::start() };
    let Places { mortal, steady, redis } = &places;
    let mut sessions = Sessions::new(redis);
    let mut gate = Gate::start(&config(0, &places));
    let bob = Request::upgrade("/steady/b").bearer(&Token::of("bob").sign());
    // One of each before the count: what a first connection has the process open stays
    // open.
    bob.open(gate.address()).finish();
    let first = sessions.log_in(60_000);
    Request::upgrade("/kept/a").header("X-Session", &first).open(gate.address()).finish();
    eventually("they have gone", || (mortal.open(), steady.open()) == (0, 0));
    gate.metric_becomes("sockgate_connections_open", &[], 0.0);
    let (files, tasks) = (open_files(&gate), tasks_of(&gate));

    let bystanders = Bystanders::start(gate.address(), 3, &bob);
    let mut clients = Clients::new(gate.address());
    let (began, mut reloads) = (Instant::now(), 0);
    while began.elapsed() < lasts {
        match random.below(100) {
            0..70 => {
                let number = 1 + random.below(12);
                (0..number).for_each(|_| clients.come(&mut random, &mut sessions));
            }
            70..74 => revoke(&gate, &json!({ "subject": format!("user-{}", random.below(USERS)) })),
            74..82 => sessions.happen(&mut random),
            82..90 => {
                let session = format!("user-{}-{}", random.below(USERS), random.below(SESSIONS));
                revoke(&gate, &json!({ "session": session }));
            }
            90..94 => {
                reloads += 1;
                gate.rewrite(&config(random.below(1000), &places));
                gate.signal("HUP");
            }
            94..97 => mortal.kill(2 + random.below(20)),
            97 => assert_eq!(gate.ask("/metrics").status, 200),
            _ => {
                let list = Request::get("/connections?limit=1000").bearer(ADMIN);
                let list = list.header("Connection", "close").send(gate.admin()).json();
                assert!(list["connections"].as_array().expect("a list").len() >= 3);
            }
        }
        std::thread::sleep(Duration::from_millis(random.below(25) as u64));
    }
    sessions.the_ended_are_closed(&gate, ADMIN);
    clients.leave.send_replace(true);
    clients.gone();
    let taken = bystanders.finish();
    eprintln!(
        "{} tried, {} upgraded, {reloads} reloads; bystanders: {taken}",
        clients.tried,
        clients.opened()
    );
    assert!(clients.opened() > 500, "only {} upgraded", clients.opened());
    gate.metric_becomes("sockgate_connections_open", &[], 0.0);
    eventually("the registry is empty", || {
        let list = Request::get("/connections").bearer(ADMIN).header("Connection", "close");
        list.send(gate.admin()).json()["connections"] == json!([])
    });
    eventually("the upstreams are left", || (mortal.open(), steady.open()) == (0, 0));
    eventually("every file is closed", || open_files(&gate) <= files);
    eventually("every task is over", || tasks_of(&gate) <= tasks);
    sessions.the_prolonged_were_kept(&gate);
    // Nobody stands on a session any more: nobody asks about one.
    let asked = gate.metric("sockgate_rechecks_total", &[]);
    for outcome in ["outcome=\"valid\"", "outcome=\"refused\""] {
        assert!(gate.metric("sockgate_rechecks_total", &[outcome]) > 0.5, "{outcome}");
    }
    std::thread::sleep(Duration::from_millis(2500));
    gate.metric_becomes("sockgate_rechecks_total", &[], asked);
    let lives = every_life_has_an_end(&gate);
    let total = gate.metric("sockgate_connections_total", &[]);
    assert!((total - lives as f64).abs() < 0.5, "{total} counted, {lives} logged");

    // Once more, into a drain; whoever is late is refused.
    gate.rewrite(&config(0, &places));
    gate.signal("HUP");
    let mut clients = Clients::new(gate.address());
    for round in 0..60 {
        (0..10).for_each(|_| clients.come(&mut random, &mut sessions));
        if round == 40 {
            gate.signal("TERM");
        }
        if random.below(10) == 0 && round < 40 {
            revoke(&gate, &json!({ "subject": format!("user-{}", random.below(USERS)) }));
        }
        std::thread::sleep(Duration::from_millis(15));
    }
    let status = gate.wait();
    assert!(status.success(), "{status}");
    clients.gone();
    gate.line("of the end", |line| line["message"] == "drained");
    let all = every_life_has_an_end(&gate);
    assert!(all > lives, "{all} after {lives}");
    let abandoned = gate
        .lines()
        .iter()
        .filter(|line| line["outcome"] == "abandoned" && line["method"].is_string())
        .count();
    eprintln!("{all} connections in all; {abandoned} handshakes were given up by their clients");
    eventually("the upstreams are left", || (mortal.open(), steady.open()) == (0, 0));
}
