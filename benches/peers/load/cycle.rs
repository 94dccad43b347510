//! Whole connections, one after the other: connect, upgrade, one echo, the
//! closing handshake, the end.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Latencies, PATIENCE, Seen, connect};
use crate::poller::Poller;
use crate::proxy::Running;
use crate::wire::{self, Answer, BINARY, CLOSE, FAREWELL, NORMAL, Openings, TEXT};

/// How a run of cycles ends.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Time(Duration),
    Count(u64),
}

/// What every cycle goes through.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// How many at a time.
    pub(crate) abreast: usize,
    /// The upgrade is to be refused.
    pub(crate) refused: bool,
    /// The server closes first in every other cycle, not always the client.
    pub(crate) both_close: bool,
    /// How many are begun in a second; without it, one as soon as another ended.
    pub(crate) rate: Option<u32>,
}

/// How often it is looked whether another cycle is due.
const PACE: Duration = Duration::from_micros(300);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Upgrading,
    Echoing,
    Closing,
    Ending,
}

struct Cycle {
    socket: TcpStream,
    stage: Stage,
    /// What has come and was not used.
    come: Vec<u8>,
    began: Instant,
    /// The server is to close first.
    served: bool,
}

/// What became of a cycle after a read.
enum Turn {
    GoesOn,
    Done,
    /// It ended without the Close frame that was due.
    Lost,
    Failed,
}

/// Goes through cycles.
pub(crate) fn run(
    proxy: &Running,
    openings: &mut Openings,
    plan: Plan,
    until: Until,
) -> io::Result<Seen> {
    let mut poller = Poller::new()?;
    let mut scratch = vec![0; 16 * 1024];
    let message = wire::frame(BINARY, &[b'x'; 64], true);
    let echo = wire::frame(BINARY, &[b'x'; 64], false);
    let began = Instant::now();
    let mut seen = Seen {
        completed: 0,
        elapsed: Duration::ZERO,
        latency: Latencies::new(),
        lost: 0,
        failed: 0,
    };
    let mut cycles: Vec<Option<Cycle>> = Vec::new();
    let mut started = 0;
    let mut start = |poller: &Poller, token: usize| {
        let elapsed = began.elapsed();
        let more = match until {
            Until::Time(duration) => elapsed < duration,
            Until::Count(count) => started < count,
        };
        let due = |rate| started as f64 <= elapsed.as_secs_f64() * f64::from(rate);
        if !more || !plan.rate.is_none_or(due) {
            return Ok::<_, io::Error>(None);
        }
        started += 1;
        let cycle = Cycle::start(proxy, openings, started, plan)?;
        poller.add(&cycle.socket, token)?;
        Ok(Some(cycle))
    };
    for token in 0..plan.abreast {
        cycles.push(start(&poller, token)?);
    }
    let mut ready = Vec::new();
    let mut swept = began;
    let paced = |until| matches!((plan.rate, until), (Some(_), Until::Time(time)) if began.elapsed() < time);
    while cycles.iter().any(Option::is_some) || paced(until) {
        if plan.rate.is_some() {
            for (token, slot) in cycles.iter_mut().enumerate().filter(|(_, slot)| slot.is_none()) {
                *slot = start(&poller, token)?;
            }
        }
        poller.wait(if paced(until) { PACE } else { Duration::from_secs(1) }, &mut ready)?;
        for &token in &ready {
            let Some(cycle) = cycles.get_mut(token).and_then(Option::as_mut) else { continue };
            match cycle.turn(&mut scratch, plan, &message, &echo) {
                Turn::GoesOn => continue,
                Turn::Done => {
                    seen.completed += 1;
                    seen.latency.note(cycle.began.elapsed());
                }
                Turn::Lost => seen.lost += 1,
                Turn::Failed => seen.failed += 1,
            }
            cycles[token] = start(&poller, token)?;
        }
        if swept.elapsed() > Duration::from_secs(1) {
            swept = Instant::now();
            for (token, slot) in cycles.iter_mut().enumerate() {
                if slot.as_ref().is_some_and(|cycle| cycle.began.elapsed() > PATIENCE) {
                    seen.failed += 1;
                    *slot = start(&poller, token)?;
                }
            }
        }
    }
    seen.elapsed = began.elapsed();
    Ok(seen)
}

impl Cycle {
    fn start(
        proxy: &Running,
        openings: &mut Openings,
        serial: u64,
        plan: Plan,
    ) -> io::Result<Cycle> {
        let began = Instant::now();
        let mut socket = connect(proxy, serial as usize)?;
        socket.write_all(openings.next().as_bytes())?;
        socket.set_nonblocking(true)?;
        let served = plan.both_close && serial.is_multiple_of(2);
        Ok(Cycle { socket, stage: Stage::Upgrading, come: Vec::new(), began, served })
    }

    fn turn(&mut self, scratch: &mut [u8], plan: Plan, message: &[u8], echo: &[u8]) -> Turn {
        let count = match self.socket.read(scratch) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::GoesOn,
            Err(_) if self.stage == Stage::Closing => return Turn::Lost,
            // After both Closes a reset tells nothing less than an end.
            Err(_) if self.stage == Stage::Ending => return Turn::Done,
            Err(_) => return Turn::Failed,
        };
        if count == 0 {
            return match self.stage {
                Stage::Ending => Turn::Done,
                Stage::Closing => Turn::Lost,
                Stage::Upgrading | Stage::Echoing => Turn::Failed,
            };
        }
        self.come.extend_from_slice(&scratch[..count]);
        self.proceed(plan, message, echo).unwrap_or(Turn::Failed)
    }

    /// Goes as far as what has come reaches.
    fn proceed(&mut self, plan: Plan, message: &[u8], echo: &[u8]) -> io::Result<Turn> {
        if self.stage == Stage::Upgrading {
            match wire::answer(&self.come) {
                Answer::Incomplete => return Ok(Turn::GoesOn),
                Answer::Refused(401) if plan.refused => return Ok(Turn::Done),
                Answer::Switched(length) if !plan.refused => drop(self.come.drain(..length)),
                Answer::Refused(_) | Answer::Switched(_) | Answer::Strange => {
                    return Ok(Turn::Failed);
                }
            }
            self.socket.write_all(message)?;
            self.stage = Stage::Echoing;
        }
        if self.stage == Stage::Echoing && self.come.len() >= echo.len() {
            if self.come.drain(..echo.len()).as_slice() != echo {
                return Ok(Turn::Failed);
            }
            let (opcode, payload) =
                if self.served { (TEXT, FAREWELL) } else { (CLOSE, &NORMAL[..]) };
            self.socket.write_all(&wire::frame(opcode, payload, true))?;
            self.stage = Stage::Closing;
        }
        let close = wire::frame(CLOSE, &NORMAL, false);
        if self.stage == Stage::Closing && self.come.len() >= close.len() {
            if self.come.drain(..close.len()).as_slice() != close {
                return Ok(Turn::Failed);
            }
            if self.served {
                self.socket.write_all(&wire::frame(CLOSE, &NORMAL, true))?;
            }
            self.stage = Stage::Ending;
        }
        Ok(Turn::GoesOn)
    }
}
