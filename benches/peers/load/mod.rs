//! The clients: one thread, hand-made frames, every echo compared with what was
//! sent.

pub(crate) mod cycle;
pub(crate) mod echo;
pub(crate) mod idle;
pub(crate) mod secure;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::proxy::Running;
use crate::wire::{self, Answer, Openings};

/// How long one answer may take before the run is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a run of the load saw.
pub(crate) struct Seen {
    /// Round trips or cycles that were completed.
    pub(crate) completed: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latency: Latencies,
    /// Cycles that ended without the Close frame that was due.
    pub(crate) lost: u64,
    /// Cycles that ended otherwise than they should.
    pub(crate) failed: u64,
}

/// How often which latency was seen: buckets that are 3% wide.
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    pub(crate) fn new() -> Latencies {
        Latencies(vec![0; 64 * 32])
    }

    pub(crate) fn note(&mut self, latency: Duration) {
        let nanoseconds = (latency.as_nanos() as u64).max(32);
        let exponent = nanoseconds.ilog2();
        let step = nanoseconds >> (exponent - 5) & 31;
        self.0[exponent as usize * 32 + step as usize] += 1;
    }

    /// The latency, in microseconds, that `share` of all did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let wanted = (self.0.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.0.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                let (exponent, step) = (index / 32, index % 32);
                return (1_u64 << exponent) as f64 * (1.0 + (step as f64 + 0.5) / 32.0) / 1000.0;
            }
        }
        0.0
    }
}

/// A connection to a proxy, plain or not.
pub(crate) trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// Connects to a proxy, whose listener is on every loopback address: so that
/// there are always free ports.
pub(crate) fn connect(proxy: &Running, serial: usize) -> io::Result<TcpStream> {
    let address = Ipv4Addr::new(127, 0, 1, (serial % 64) as u8 + 1);
    let stream = TcpStream::connect((address, proxy.port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Opens `count` WebSockets, as many as `ABREAST` at the same time.
pub(crate) fn establish(
    proxy: &Running,
    openings: &mut Openings,
    count: usize,
) -> io::Result<Vec<TcpStream>> {
    const ABREAST: usize = 50;
    let mut open = Vec::with_capacity(count);
    while open.len() < count {
        let mut batch = Vec::new();
        for serial in open.len()..count.min(open.len() + ABREAST) {
            let mut stream = connect(proxy, serial)?;
            stream.write_all(openings.next().as_bytes())?;
            batch.push(stream);
        }
        for mut stream in batch {
            expect_switch(&mut stream)?;
            open.push(stream);
        }
    }
    Ok(open)
}

/// Reads the answer to an opening handshake, which must be a 101 and no more.
pub(crate) fn expect_switch(stream: &mut impl Read) -> io::Result<()> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    loop {
        let count = stream.read(&mut part)?;
        head.extend_from_slice(&part[..count]);
        match wire::answer(&head) {
            Answer::Switched(length) if length == head.len() => return Ok(()),
            Answer::Incomplete if count > 0 => {}
            answer => return Err(io::Error::other(format!("instead of a 101: {answer:?}"))),
        }
    }
}

/// How many WebSockets have ended at the backend without a Close from the client.
pub(crate) fn ended_without_close(backend: SocketAddr) -> io::Result<u64> {
    let mut stream = TcpStream::connect(backend)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /ended HTTP/1.1\r\nHost: backend\r\n\r\n")?;
    let mut answer = [0; 256];
    let count = stream.read(&mut answer)?;
    let text = String::from_utf8_lossy(&answer[..count]);
    let without = text.rsplit(' ').next().and_then(|word| word.trim().parse().ok());
    without.ok_or_else(|| io::Error::other("the backend does not say how its connections ended"))
}
