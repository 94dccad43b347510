//! How many instructions a message takes on its way through the relay: counted
//! by callgrind, so the figure is the same on a noisy machine, and a regression
//! shows that no stop-watch would find.
//!
//! ```text
//! cargo bench --bench instructions          fails if a figure has grown
//! ```
//!
//! Needs valgrind. Beside each figure stands that of the bare forwarder which the
//! other bench takes for the bound. Counted is user code alone: the relay, tokio below it, and the
//! two ends that this program plays, which cost the same every time. What a
//! process needs to start falls out of the difference of two runs.

#![expect(clippy::expect_used, reason = "a bench that cannot go on says why")]

#[path = "peers/forwarder.rs"]
#[expect(dead_code, reason = "only its future is used here")]
mod forwarder;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use bytes::Bytes;
use forwarder::Forward;
use sockgate::clock::Ticker;
use sockgate::relay::frame::{Opcode, encode_frame};
use sockgate::relay::{Control, RelaySettings, Tap, TapVerdict, relay};
use sockgate::stream::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// What is sent each way before the other side answers.
struct Case {
    name: &'static str,
    payload: usize,
    messages: usize,
    /// A tap looks at each of the client's.
    watched: bool,
    /// Instructions per round trip of all `messages`. After a change for the
    /// better, or one that is worth its price, write the new figure down here.
    recorded: u64,
}

const CASES: &[Case] = &[
    case("64 B", 64, 1, false, 9_300),
    case("16 times 64 B", 64, 16, false, 9_945),
    case("16 KiB", 16 * 1024, 1, false, 9_497),
    case("64 B, watched", 64, 1, true, 9_660),
    case("16 KiB, watched", 16 * 1024, 1, true, 18_960),
];

const fn case(
    name: &'static str,
    payload: usize,
    messages: usize,
    watched: bool,
    recorded: u64,
) -> Case {
    Case { name, payload, messages, watched, recorded }
}

/// By how much a figure may differ, in percent: another compiler or tokio does
/// a little.
const TOLERANCE: u64 = 2;

/// The two runs of which the difference is taken.
const FEW: u64 = 500;
const MANY: u64 = 2500;

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [who, case, rounds] = &arguments[..] {
        let case = &CASES[case.parse::<usize>().expect("the number of a case")];
        play(who, case, rounds.parse().expect("a number of rounds"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut grown = false;
    for (index, case) in CASES.iter().enumerate() {
        let (each, bound) = (each("relay", index)?, each("forwarder", index)?);
        let verdict = if each * 100 > case.recorded * (100 + TOLERANCE) {
            grown = true;
            "MORE THAN RECORDED"
        } else if each * 100 < case.recorded * (100 - TOLERANCE) {
            "less than recorded: write it down in benches/instructions.rs"
        } else {
            "as recorded"
        };
        let (name, recorded) = (case.name, case.recorded);
        println!(
            "{name:<15} {each:>6} instructions a round trip, forwarder {bound:>6}; \
             {verdict} ({recorded})"
        );
    }
    Ok(if grown { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The instructions of one round trip of a case.
fn each(who: &str, case: usize) -> io::Result<u64> {
    Ok((count(who, case, MANY)? - count(who, case, FEW)?) / (MANY - FEW))
}

/// The instructions of this program when it plays `rounds` of a case.
fn count(who: &str, case: usize, rounds: u64) -> io::Result<u64> {
    let profile = concat!(env!("CARGO_TARGET_TMPDIR"), "/callgrind.out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={profile}.{who}.{case}")])
        .arg(std::env::current_exe()?)
        .args([who, &case.to_string(), &rounds.to_string()])
        .output()
        .map_err(|error| io::Error::other(format!("valgrind: {error}")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines()
        .find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
        .ok_or_else(|| io::Error::other(format!("valgrind counted nothing:\n{said}")))
}

/// A relay, or a forwarder, between two sockets of which this program has the
/// other ends.
fn play(who: &str, case: &Case, rounds: u64) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let payload = vec![b'x'; case.payload];
    let up = encode_frame(Opcode::BINARY, &payload, Some([0; 4])).repeat(case.messages);
    let down = encode_frame(Opcode::BINARY, &payload, None).repeat(case.messages);
    let mut scratch = vec![0; up.len()];
    runtime.block_on(async {
        let (mut client, near) = UnixStream::pair().expect("a pair of sockets");
        let (mut upstream, far) = UnixStream::pair().expect("a pair of sockets");
        let relaying = if who == "forwarder" {
            tokio::spawn(async { drop(Forward::new(near, far).await) })
        } else {
            let relaying = relay(
                Stream::Unix(near),
                Bytes::new(),
                Stream::Unix(far),
                Bytes::new(),
                Arc::new(Control::new(0)),
                Arc::new(Ticker::default()),
                RelaySettings::default(),
                case.watched.then(|| Box::new(Untaking) as Box<dyn Tap>),
            );
            tokio::spawn(async {
                relaying.await;
            })
        };
        for _ in 0..rounds {
            client.write_all(&up).await.expect("the relay reads");
            upstream.read_exact(&mut scratch[..up.len()]).await.expect("what was sent");
            upstream.write_all(&down).await.expect("the relay reads");
            client.read_exact(&mut scratch[..down.len()]).await.expect("what was sent");
        }
        drop((client, upstream));
        relaying.await.expect("the relay ends");
    });
}

/// Looks at messages and takes none.
struct Untaking;

impl Tap for Untaking {
    fn max_bytes(&self) -> usize {
        16 * 1024
    }

    fn takes(&self, message: &[u8], _: bool) -> bool {
        message.is_empty()
    }

    fn take(&mut self, _: Vec<u8>, _: bool) -> Pin<Box<dyn Future<Output = TapVerdict> + Send>> {
        Box::pin(std::future::ready(TapVerdict::Continue { instead: None, reply: None }))
    }
}
