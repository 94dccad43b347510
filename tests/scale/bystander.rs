//! Somebody whom all of it is no business of: sends messages one after the other, and
//! remembers how long each took to come back.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::Request;

/// The pause between two messages.
const PAUSE: Duration = Duration::from_millis(2);

/// Several clients, each on a thread of its own.
pub(crate) struct Bystanders {
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Duration>>>,
}

impl Bystanders {
    /// Opens `number` connections of `request`, and begins.
    pub(crate) fn start(gate: SocketAddr, number: usize, request: &Request) -> Bystanders {
        let done = Arc::new(AtomicBool::new(false));
        let threads = (0..number).map(|_| {
            let mut socket = request.open(gate);
            let done = Arc::clone(&done);
            std::thread::spawn(move || {
                let mut taken = Vec::new();
                for message in 0.. {
                    let began = Instant::now();
                    // Fails if it does not come, or something else does.
                    socket.echoes(&format!("message {message}"));
                    taken.push(began.elapsed());
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    std::thread::sleep(PAUSE);
                }
                socket.finish();
                taken
            })
        });
        let threads = threads.collect();
        Bystanders { done, threads }
    }

    /// Ends them. Every message has come back; the longest that one took, and what 99 of
    /// 100 took at most.
    #[track_caller]
    pub(crate) fn finish(self) -> Taken {
        self.done.store(true, Ordering::Relaxed);
        let taken = self.threads.into_iter().map(|one| one.join().expect("an undisturbed client"));
        let mut all: Vec<Duration> = taken.flatten().collect();
        all.sort_unstable();
        let at = |share: usize| all[(all.len() - 1) * share / 100];
        Taken { messages: all.len(), p50: at(50), p99: at(99), longest: at(100) }
    }
}

/// How long messages took there and back.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    /// How many there were.
    pub(crate) messages: usize,
    /// Half of them at most.
    pub(crate) p50: Duration,
    /// 99 of 100 at most.
    pub(crate) p99: Duration,
    /// All at most.
    pub(crate) longest: Duration,
}

impl fmt::Display for Taken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Taken { messages, p50, p99, longest } = self;
        write!(formatter, "{messages} messages, p50 {p50:?}, p99 {p99:?}, longest {longest:?}")
    }
}
