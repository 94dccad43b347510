//! What is measured, and one measurement of it.

use std::io;
use std::time::Duration;

use crate::load::cycle::{self, Until};
use crate::load::echo::{Echo, Window};
use crate::load::{self, Seen, idle};
use crate::machine::{self, SyscallCounter};
use crate::proxy::{Kind, Proxy, Running, Setup};
use crate::report::{Column, Figures, Summary};
use crate::wire::{self, Openings, Token};

/// One thing to measure.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Worker threads of the proxy.
    pub(crate) threads: usize,
    pub(crate) work: Work,
}

/// What the clients do.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// Messages of `payload` bytes, echoed.
    Echo { payload: usize, connections: usize, window: Window, content: Content },
    /// Whole connections, so many a second if there is a rate, or as many as there can be.
    /// `logged`: each proxy writes what it has to say of them into a file.
    Cycle { token: Token, rate: Option<u32>, logged: bool },
    /// Whole connections, so many in all rounds together, which the server ends
    /// as often as the client.
    Close { cycles: u64 },
    /// Connections that do nothing.
    Idle { connections: usize, tls: bool },
    /// Connections whose client never reads what the server sends without an end.
    Stalled { connections: usize },
    /// Nothing: the start is what is measured.
    Start,
}

/// What messages are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Binary,
    /// JSON, on a route where each could be a new login.
    Json,
    /// The same with a letter in it that is escaped, as those of a login could be: each has
    /// to be read.
    Escaped,
}

const KIB: usize = 1024;

/// All scenarios, in the order of the report.
pub(crate) const ALL: &[Scenario] = &[
    echo("small-1", "64 B, 64 connections, 1 in flight on each", 64, 64, Window::Each(1)),
    echo("small-16", "64 B, 64 connections, 16 in flight on each", 64, 64, Window::Each(16)),
    echo("large-16k", "16 KiB, 64 connections, 1 in flight on each", 16 * KIB, 64, Window::Each(1)),
    echo("large-1m", "1 MiB, 8 connections, 1 in flight on each", KIB * KIB, 8, Window::Each(1)),
    judged(
        "judged-1",
        "64 B, 64 connections, each message looked at for a new login",
        64,
        1,
        Content::Json,
    ),
    judged("judged-16", "The same, 16 in flight on each", 64, 16, Content::Json),
    judged(
        "judged-15k",
        "15 KiB, 16 connections, 16 in flight on each, each looked at",
        15 * KIB,
        16,
        Content::Json,
    ),
    READ,
    Scenario { name: "read-15k-2", title: "The same with two threads", threads: 2, ..READ },
    cycle("upgrade", "Connections with a fresh JWT (HS256) each", Token::Fresh),
    Scenario {
        name: "upgrade-paced",
        title: "Connections with a fresh JWT (HS256) each, 3,000 a second",
        threads: 1,
        work: Work::Cycle { token: Token::Fresh, rate: Some(3000), logged: false },
    },
    Scenario {
        name: "upgrade-logged",
        title: "Connections with a fresh JWT (HS256) each, logged into a file",
        threads: 1,
        work: Work::Cycle { token: Token::Fresh, rate: None, logged: true },
    },
    cycle("upgrade-repeated", "Connections with the same JWT (HS256)", Token::Repeated),
    cycle("upgrade-key", "Connections with an API key", Token::ApiKey),
    cycle("upgrade-open", "Connections without authentication", Token::None),
    cycle("refused", "Upgrades refused with 401 for a forged JWT", Token::Forged),
    Scenario {
        name: "close",
        title: "Close frames, two threads, ended by client and server in turn",
        threads: 2,
        work: Work::Close { cycles: 100_000 },
    },
    Scenario {
        name: "idle",
        title: "5,000 idle connections, plain",
        threads: 1,
        work: Work::Idle { connections: 5000, tls: false },
    },
    Scenario {
        name: "idle-tls",
        title: "5,000 idle connections, TLS 1.3 to the client",
        threads: 1,
        work: Work::Idle { connections: 5000, tls: true },
    },
    Scenario {
        name: "stalled",
        title: "200 clients that never read, under a server that sends without an end",
        threads: 1,
        work: Work::Stalled { connections: 200 },
    },
    echo("scale-10", "64 B, 10 in flight in all, 10 connections", 64, 10, Window::All(10)),
    echo("scale-1000", "64 B, 10 in flight in all, 1,000 connections", 64, 1000, Window::All(10)),
    echo("scale-10000", "64 B, 10 in flight in all, 9,700 connections", 64, 9700, Window::All(10)),
    Scenario {
        name: "threads-2",
        title: "64 B, 64 connections, 16 in flight on each, two threads",
        threads: 2,
        work: Work::Echo {
            payload: 64,
            connections: 64,
            window: Window::Each(16),
            content: Content::Binary,
        },
    },
    Scenario {
        name: "start",
        title: "From the start of the process to the first upgrade",
        threads: 1,
        work: Work::Start,
    },
];

const fn echo(
    name: &'static str,
    title: &'static str,
    payload: usize,
    connections: usize,
    window: Window,
) -> Scenario {
    let work = Work::Echo { payload, connections, window, content: Content::Binary };
    Scenario { name, title, threads: 1, work }
}

const fn judged(
    name: &'static str,
    title: &'static str,
    payload: usize,
    in_flight: usize,
    content: Content,
) -> Scenario {
    let connections = if payload > KIB { 16 } else { 64 };
    let window = Window::Each(in_flight);
    Scenario { name, title, threads: 1, work: Work::Echo { payload, connections, window, content } }
}

const READ: Scenario = judged(
    "read-15k",
    "The same with an escaped letter in each, so that it has to be read",
    15 * KIB,
    16,
    Content::Escaped,
);

const fn cycle(name: &'static str, title: &'static str, token: Token) -> Scenario {
    Scenario { name, title, threads: 1, work: Work::Cycle { token, rate: None, logged: false } }
}

/// How long and how often.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    pub(crate) measured: Duration,
    pub(crate) quick: bool,
}

/// Before what is measured.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long one proxy has the load for itself while all of them stand side by side.
const TURN: Duration = Duration::from_millis(250);
/// At the beginning of each turn: what the others have left in the caches goes.
const SETTLE: Duration = Duration::from_millis(30);
/// The most connections of each proxy where they all stand side by side.
const SIDE_BY_SIDE: usize = 64;
/// With the system calls counted.
const COUNTED: Duration = Duration::from_millis(500);
/// How many connections come and go at the same time.
const ABREAST: usize = 16;

impl Scenario {
    /// Whether `proxy` can do it.
    pub(crate) fn suits(&self, proxy: &Proxy) -> bool {
        let alone = self.threads == 1 || proxy.kind != Kind::Forwarder;
        alone
            && match self.work {
                Work::Cycle { token, .. } => proxy.kind.judges(token),
                Work::Idle { tls, .. } => !tls || proxy.kind.knows_tls(),
                Work::Echo { content: Content::Json | Content::Escaped, .. } => {
                    proxy.kind == Kind::Forwarder || proxy.kind.judges(Token::Renewed)
                }
                Work::Echo { .. } | Work::Close { .. } | Work::Stalled { .. } | Work::Start => true,
            }
    }

    /// What is measured of it.
    pub(crate) fn columns(&self) -> Vec<Column> {
        let median = |title, decimals| Column { title, decimals, summary: Summary::Median };
        let sum = |title| Column { title, decimals: 0, summary: Summary::Sum };
        let rated = |title, decimals| Column { title, decimals, summary: Summary::Rated };
        match self.work {
            Work::Echo { .. } => vec![
                rated("CPU µs/message", 2),
                median("calls/message", 2),
                median("messages/s", 0),
                median("p50 µs", 0),
                median("p99 µs", 0),
            ],
            Work::Close { .. } => vec![
                rated("CPU µs/cycle", 1),
                median("cycles/s", 0),
                sum("cycles"),
                sum("Close lost: client"),
                sum("upstream"),
                sum("failed"),
            ],
            Work::Cycle { .. } => vec![
                rated("CPU µs/cycle", 1),
                median("calls/cycle", 1),
                median("cycles/s", 0),
                median("p50 µs", 0),
                median("p99 µs", 0),
                sum("Close lost"),
                sum("failed"),
            ],
            Work::Stalled { .. } => {
                vec![median("proxy KiB/connection", 0), median("kernel KiB/connection", 0)]
            }
            Work::Idle { .. } => vec![
                rated("KiB/connection", 2),
                median("before MiB", 1),
                median("with MiB", 1),
                median("after MiB", 1),
            ],
            Work::Start => vec![median("ready ms", 1), median("program MiB", 1)],
        }
    }

    /// Whether the proxies stand side by side and take turns, so that what disturbs one
    /// disturbs all; else each measurement has the machine for itself.
    pub(crate) fn takes_turns(&self) -> bool {
        match self.work {
            Work::Echo { connections, .. } => self.threads == 1 && connections <= SIDE_BY_SIDE,
            Work::Cycle { .. } => true,
            Work::Close { .. } | Work::Idle { .. } | Work::Stalled { .. } | Work::Start => false,
        }
    }

    /// Measures all of `proxies` in turns, and tells `found` of each turn: the values of
    /// [`Scenario::columns`]. Each turn of one is followed by one of every other.
    pub(crate) fn measure_all(
        &self,
        proxies: &[&Proxy],
        setup: Setup<'_>,
        pace: Pace,
        mut found: impl FnMut(&Proxy, io::Result<Figures>),
    ) {
        let mut sessions = Vec::new();
        for &proxy in proxies {
            match self.begin(proxy, setup) {
                Ok(session) => sessions.push((proxy, session)),
                Err(error) => found(proxy, Err(error)),
            }
        }
        let all = pace.measured * u32::try_from(pace.rounds).unwrap_or(u32::MAX);
        for turn in 0..all.div_duration_f64(TURN).ceil() as usize {
            let first = turn % sessions.len().max(1);
            let (last, next) = sessions.split_at_mut(first);
            for (proxy, session) in next.iter_mut().chain(last) {
                found(proxy, session.measure(TURN).map(|(cpu, seen)| self.told(cpu, None, &seen)));
            }
        }
        for (proxy, session) in &mut sessions {
            found(proxy, session.count().map(|(calls, seen)| self.told(None, calls, &seen)));
        }
    }

    /// Starts `proxy` and brings it under the load.
    fn begin(&self, proxy: &Proxy, setup: Setup<'_>) -> io::Result<Session> {
        let logged = matches!(self.work, Work::Cycle { logged: true, .. });
        let running = proxy.start(&Setup { logged, threads: self.threads, ..setup })?;
        let load = match self.work {
            Work::Echo { payload, connections, window, content } => {
                let byte = |index| (index * 7 + index / 251) as u8;
                let (token, content) = match content {
                    Content::Binary => (Token::Fresh, (0..payload).map(byte).collect()),
                    Content::Json => (Token::Renewed, wire::json("", payload)),
                    Content::Escaped => (Token::Renewed, wire::json(r"\u00fc", payload)),
                };
                let mut openings = Openings::new(token);
                // Each takes two descriptors of the proxy, and nginx some for its auth server.
                let connections = connections.min(setup.files as usize / 2 - 300);
                Load::Echo(Echo::open(&running, &mut openings, connections, &content, window)?)
            }
            Work::Cycle { token, rate, .. } => {
                let refused = token == Token::Forged;
                let plan = cycle::Plan { abreast: ABREAST, refused, both_close: false, rate };
                Load::Cycle(Box::new(Openings::new(token)), plan)
            }
            Work::Close { .. } | Work::Idle { .. } | Work::Stalled { .. } | Work::Start => {
                return Err(io::Error::other("is not a load that goes on"));
            }
        };
        let mut session = Session { running, load };
        session.run(WARM_UP)?;
        Ok(session)
    }

    /// What was seen of echoes or cycles, as the values of [`Scenario::columns`].
    fn told(&self, cpu: Option<f64>, calls: Option<f64>, seen: &Seen) -> Figures {
        // The rate while calls are counted says nothing.
        let timed = |figure: f64| cpu.map(|_| figure);
        let mut told = vec![
            cpu,
            calls,
            timed(rate(seen)),
            timed(seen.latency.quantile(0.5)),
            timed(seen.latency.quantile(0.99)),
        ];
        if let Work::Cycle { .. } = self.work {
            told.extend([Some(seen.lost as f64), Some(seen.failed as f64)]);
        }
        told
    }

    /// One measurement of a fresh process; the values of [`Scenario::columns`].
    pub(crate) fn measure(
        &self,
        proxy: &Proxy,
        setup: Setup<'_>,
        pace: Pace,
    ) -> io::Result<Figures> {
        let tls = matches!(self.work, Work::Idle { tls: true, .. });
        let start = || proxy.start(&Setup { tls, threads: self.threads, ..setup });
        match self.work {
            Work::Echo { .. } | Work::Cycle { .. } => {
                let mut session = self.begin(proxy, setup)?;
                let (cpu, seen) = session.measure(pace.measured)?;
                let (calls, _) = session.count()?;
                Ok(self.told(cpu, calls, &seen))
            }
            Work::Close { cycles } => {
                let running = start()?;
                let plan =
                    cycle::Plan { abreast: ABREAST, refused: false, both_close: true, rate: None };
                let mut openings = Openings::new(Token::Fresh);
                let share = cycles / if pace.quick { 20 } else { 1 } / pace.rounds as u64;
                let lost_before = load::ended_without_close(setup.backend)?;
                let before = machine::cpu(&running.judging);
                let seen = cycle::run(&running, &mut openings, plan, Until::Count(share))?;
                let cpu = machine::cpu(&running.judging) - before;
                let lost = load::ended_without_close(setup.backend)? - lost_before;
                Ok(vec![
                    each(cpu, &seen),
                    Some(rate(&seen)),
                    Some(seen.completed as f64),
                    Some(seen.lost as f64),
                    Some(lost as f64),
                    Some(seen.failed as f64),
                ])
            }
            Work::Idle { connections, .. } => {
                let memory = idle::run(&start()?, &mut Openings::new(Token::Fresh), connections)?;
                let mib = |bytes: u64| Some(bytes as f64 / 1024.0 / 1024.0);
                let per = (memory.with as f64 - memory.before as f64) / connections as f64 / 1024.0;
                Ok(vec![Some(per), mib(memory.before), mib(memory.with), mib(memory.after)])
            }
            Work::Stalled { connections } => {
                let stalled =
                    idle::stall(&start()?, &mut Openings::new(Token::Fresh), connections)?;
                let kib = |bytes: u64| Some(bytes as f64 / 1024.0 / connections as f64);
                Ok(vec![kib(stalled.resident), kib(stalled.kernel)])
            }
            Work::Start => {
                let size = proxy.size() as f64 / 1024.0 / 1024.0;
                let own = proxy.kind != Kind::Forwarder;
                Ok(vec![Some(start()?.ready.as_secs_f64() * 1000.0), own.then_some(size)])
            }
        }
    }
}

/// A proxy under a load that goes on.
struct Session {
    running: Running,
    load: Load,
}

enum Load {
    Echo(Echo),
    Cycle(Box<Openings>, cycle::Plan),
}

impl Session {
    fn run(&mut self, time: Duration) -> io::Result<Seen> {
        match &mut self.load {
            Load::Echo(echo) => echo.run(time),
            Load::Cycle(openings, plan) => {
                cycle::run(&self.running, openings, *plan, Until::Time(time))
            }
        }
    }

    /// CPU time of one operation, and what the clients saw.
    fn measure(&mut self, time: Duration) -> io::Result<(Option<f64>, Seen)> {
        self.run(SETTLE)?;
        let before = machine::cpu(&self.running.judging);
        let seen = self.run(time)?;
        let cpu = machine::cpu(&self.running.judging) - before;
        Ok((each(cpu, &seen), seen))
    }

    /// System calls of one operation, and what the clients saw.
    fn count(&mut self) -> io::Result<(Option<f64>, Seen)> {
        let counter = SyscallCounter::start(&self.running.judging);
        let seen = self.run(COUNTED)?;
        let calls = counter.and_then(SyscallCounter::stop);
        Ok((calls.map(|calls| calls as f64 / seen.completed.max(1) as f64), seen))
    }
}

fn each(cpu: Duration, seen: &Seen) -> Option<f64> {
    (seen.completed > 0).then(|| cpu.as_secs_f64() * 1e6 / seen.completed as f64)
}

fn rate(seen: &Seen) -> f64 {
    seen.completed as f64 / seen.elapsed.as_secs_f64()
}
