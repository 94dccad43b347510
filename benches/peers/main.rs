//! sockgate beside what else could stand there, measured in one run:
//!
//! ```text
//! benches/setup                                  installs the peers (Debian 12, root)
//! cargo bench --bench peers                      everything; writes docs/performance.md
//! cargo bench --bench peers -- --quick           everything, shorter and rougher, and a
//!                                                twentieth of the Close frames
//! cargo bench --bench peers -- small-1 upgrade   some scenarios; --list names them
//!     --only sockgate,forwarder                  some proxies
//!     --rounds 9 --seconds 2                     more of it
//!     --write                                    into docs/performance.md all the same
//!     --gate before=/path/to/sockgate            another build of sockgate beside this one;
//!                                                with the name sockgate, in its place
//! ```
//!
//! The proxy has core 0 for itself; the clients and the echo server share core 1.
//! The proxies take turns (A B C, B C A, …), so that what disturbs one disturbs all: where
//! messages go back and forth or connections come and go, all stand side by side, and one at
//! a time has a quarter of a second of the load, for as long as the rounds would have been;
//! elsewhere each measurement starts a fresh process. Figures are medians over the turns;
//! `÷ forwarder` is the median of the ratios of neighbouring turns.
//!
//! A proxy that asks another server about tokens (nginx) has it beside itself on its core,
//! and what that takes counts as the proxy's.
//!
//! CPU time is what Linux counts for all threads of the proxy
//! (`/proc/PID/task/*/schedstat`), memory is `Rss` of `smaps_rollup` before the connections,
//! with them and after they have closed, system calls are counted by `perf` in a run of
//! their own (`–` without it). A cycle is a whole connection: connect, upgrade, one echo,
//! closing handshake, ends; its latency is of all that. A Close is lost if a client's cycle
//! ends without the other side's; failed is what went wrong in any other way. The forwarder
//! copies bytes between two sockets, without a look at them and without a buffer kept.

#![expect(clippy::expect_used, reason = "a bench that cannot go on says why")]

mod backend;
mod forwarder;
mod load;
mod machine;
mod poller;
mod proxy;
mod report;
mod scenario;
mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use backend::Server;
use proxy::{Proxy, Setup};
use report::{Figures, Results};
use scenario::{ALL, Pace, Scenario};

const PROXY_CORE: &str = "0";
const LOAD_CORE: usize = 1;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("backend") => return backend::run(),
        Some("forwarder") => {
            let port = arguments[1].parse().expect("a port");
            return forwarder::run(port, arguments[2].parse().expect("an address"));
        }
        Some(_) | None => {}
    }
    let wanted = Wanted::read(arguments)?;
    if wanted.list {
        for scenario in ALL {
            println!("{:<18}{}", scenario.name, scenario.title);
        }
        return Ok(());
    }
    compare(&wanted)
}

/// What the command line asks for.
struct Wanted {
    scenarios: Vec<&'static Scenario>,
    pace: Pace,
    only: Option<Vec<String>>,
    gates: Vec<(String, PathBuf)>,
    list: bool,
    /// The result goes into the documentation, whatever was measured.
    write: bool,
}

impl Wanted {
    fn read(arguments: Vec<String>) -> io::Result<Wanted> {
        let quick = arguments.iter().any(|argument| argument == "--quick");
        let (rounds, measured) = if quick { (3, 700) } else { (5, 2000) };
        let mut wanted = Wanted {
            scenarios: Vec::new(),
            pace: Pace { rounds, measured: Duration::from_millis(measured), quick },
            only: None,
            gates: Vec::new(),
            list: false,
            write: false,
        };
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let mut value =
                || rest.next().ok_or_else(|| wrong(format!("{argument} needs a value")));
            match argument.as_str() {
                // cargo says this to every bench.
                "--bench" | "--quick" => {}
                "--write" => wanted.write = true,
                "--list" => wanted.list = true,
                "--rounds" => wanted.pace.rounds = value()?.parse().map_err(wrong)?,
                "--seconds" => {
                    let seconds = value()?.parse().map_err(wrong)?;
                    wanted.pace.measured = Duration::try_from_secs_f64(seconds).map_err(wrong)?;
                }
                "--only" => wanted.only = Some(value()?.split(',').map(str::to_owned).collect()),
                "--gate" => {
                    let value = value()?;
                    let (name, path) =
                        value.split_once('=').ok_or_else(|| wrong("--gate NAME=PATH"))?;
                    wanted.gates.push((name.to_owned(), path.into()));
                }
                name => wanted.scenarios.push(
                    ALL.iter()
                        .find(|scenario| scenario.name == name)
                        .ok_or_else(|| wrong(format!("no scenario {name}; --list names them")))?,
                ),
            }
        }
        Ok(wanted)
    }

    /// Whether the result is the one that the documentation shows.
    fn is_for_the_documentation(&self) -> bool {
        self.write || self.is_all()
    }

    fn is_all(&self) -> bool {
        self.scenarios.is_empty()
            && self.only.is_none()
            && self.gates.is_empty()
            && !self.pace.quick
    }
}

fn wrong(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.to_string())
}

fn compare(wanted: &Wanted) -> io::Result<()> {
    let (proxies, missing) = proxies(wanted)?;
    let files = machine::raise_files();
    machine::pin(LOAD_CORE)?;
    let backend = Server::start(None)?;
    let mut text = preface(&proxies, &missing, wanted.pace);
    println!("{text}");
    let scenarios: Vec<&Scenario> = match &wanted.scenarios[..] {
        [] => ALL.iter().collect(),
        some => some.to_vec(),
    };
    for scenario in scenarios {
        let began = Instant::now();
        let mut results = Results::new(scenario.columns());
        let cores = if scenario.threads > 1 { "0,1" } else { PROXY_CORE };
        let backend = backend.address;
        let setup = Setup { threads: 1, cores, tls: false, logged: false, backend, files };
        let suited: Vec<_> = proxies.iter().filter(|proxy| scenario.suits(proxy)).collect();
        let mut found = |proxy: &Proxy, measured: io::Result<Figures>| {
            if let Err(error) = &measured {
                eprintln!("{}: {}: {error}", scenario.name, proxy.name);
            }
            results.add(&proxy.name, measured.ok());
        };
        if scenario.takes_turns() {
            scenario.measure_all(&suited, setup, wanted.pace, found);
        } else {
            for _ in 0..wanted.pace.rounds {
                for proxy in &suited {
                    found(proxy, scenario.measure(proxy, setup, wanted.pace));
                }
            }
        }
        let section = format!(
            "## {} (`{}`)\n\n{}",
            scenario.title,
            scenario.name,
            results.table("forwarder")
        );
        println!("{section}");
        eprintln!("{}: {} s\n", scenario.name, began.elapsed().as_secs());
        text.push_str(&section);
        text.push('\n');
    }
    let file = if wanted.is_for_the_documentation() {
        "docs/performance.md"
    } else {
        "target/performance.md"
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    // What somebody has written about the figures stays above them.
    let about = before.split_once(MARK).map_or("# Performance\n\n", |(about, _)| about);
    std::fs::write(path, [about, MARK, "\n\n", text.trim_end(), "\n"].concat())?;
    println!("written to {file}");
    Ok(())
}

/// Where the bench's own part of its document begins.
const MARK: &str = "<!-- From here on written by `cargo bench --bench peers`. -->";

/// What takes part, the forwarder first, and who is not there.
fn proxies(wanted: &Wanted) -> io::Result<(Vec<Proxy>, Vec<String>)> {
    let mut proxies = vec![Proxy::forwarder()?];
    let mut missing = Vec::new();
    let mut gates = wanted.gates.clone();
    if !gates.iter().any(|(name, _)| name == "sockgate") {
        gates.insert(0, ("sockgate".to_owned(), release_build()?));
    }
    for (name, path) in &gates {
        match Proxy::sockgate(name, path.clone()) {
            Some(proxy) => proxies.push(proxy),
            None => missing.push(name.clone()),
        }
    }
    let (peers, not_found) = Proxy::peers();
    proxies.extend(peers);
    missing.extend(not_found.into_iter().map(str::to_owned));
    if let Some(only) = &wanted.only {
        proxies.retain(|proxy| only.contains(&proxy.name));
        missing.retain(|name| only.contains(name));
    }
    Ok((proxies, missing))
}

/// The program that ships: a bench's own build has the features of its
/// development dependencies, which this one has not.
fn release_build() -> io::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--locked", "--quiet", "--bin", "sockgate"])
        .current_dir(root)
        .status()?;
    if !built.success() {
        return Err(io::Error::other("sockgate does not build"));
    }
    // A copy: the next build of the bench puts its own in that place.
    let target = Path::new(env!("CARGO_BIN_EXE_sockgate"));
    let copy = target.with_file_name("sockgate-as-shipped");
    std::fs::copy(target, &copy)?;
    Ok(copy)
}

fn preface(proxies: &[Proxy], missing: &[String], pace: Pace) -> String {
    let mut text = String::new();
    let today = sockgate::clock::rfc3339(sockgate::clock::unix_millis());
    text.push_str(&format!("- date: {}\n", &today[..10]));
    text.push_str(&format!("- machine: {}\n", machine::description()));
    text.push_str(&format!("- rounds: {} of {} s\n", pace.rounds, pace.measured.as_secs_f64()));
    for proxy in proxies {
        text.push_str(&format!("- {}: {}\n", proxy.name, proxy.version));
    }
    for name in missing {
        text.push_str(&format!("- {name}: not found (`benches/setup` installs it)\n"));
    }
    text.push('\n');
    text
}
