//! Connections that do nothing, or read nothing: what they cost in memory.

use std::io::{self, Read as _, Write as _};
use std::thread::sleep;
use std::time::Duration;

use socket2::SockRef;

use super::{Wire, connect, establish, expect_switch};
use crate::machine;
use crate::proxy::Running;
use crate::wire::{self, CLOSE, FLOOD, NORMAL, Openings, TEXT};

/// How long a process gets to settle.
const SETTLE: Duration = Duration::from_secs(2);

/// Resident memory in bytes.
pub(crate) struct Memory {
    pub(crate) before: u64,
    pub(crate) with: u64,
    pub(crate) after: u64,
}

/// Opens `count` connections, closes them in order, and looks at the memory.
pub(crate) fn run(proxy: &Running, openings: &mut Openings, count: usize) -> io::Result<Memory> {
    let before = machine::rss(&proxy.pids);
    let mut open: Vec<Box<dyn Wire>> = Vec::with_capacity(count);
    if let Some(trust) = &proxy.trust {
        for serial in 0..count {
            let mut stream = trust.connect(connect(proxy, serial)?)?;
            stream.write_all(openings.next().as_bytes())?;
            expect_switch(&mut stream)?;
            open.push(Box::new(stream));
        }
    } else {
        for stream in establish(proxy, openings, count)? {
            open.push(Box::new(stream));
        }
    }
    sleep(SETTLE);
    let with = machine::rss(&proxy.pids);
    for stream in &mut open {
        stream.write_all(&wire::frame(CLOSE, &NORMAL, true))?;
        stream.flush()?;
    }
    let mut scratch = [0; 64];
    for mut stream in open {
        // The Close, then the end; how TLS says the end is no matter here.
        while stream.read(&mut scratch).is_ok_and(|count| count > 0) {}
    }
    sleep(2 * SETTLE);
    Ok(Memory { before, with, after: machine::rss(&proxy.pids) })
}

/// Memory that `count` clients take that never read what the server sends without
/// an end: resident in the proxy, and in the kernel for all sockets there are.
pub(crate) struct Stalled {
    pub(crate) resident: u64,
    pub(crate) kernel: u64,
}

/// Has the server flood `count` clients that do not read.
pub(crate) fn stall(proxy: &Running, openings: &mut Openings, count: usize) -> io::Result<Stalled> {
    let mut open = establish(proxy, openings, count)?;
    for stream in &open {
        // What waits in the client's own kernel is not the proxy's.
        SockRef::from(stream).set_recv_buffer_size(16 * 1024)?;
    }
    let (resident, kernel) = (machine::rss(&proxy.pids), machine::socket_memory());
    for stream in &mut open {
        stream.write_all(&wire::frame(TEXT, FLOOD, true))?;
    }
    sleep(2 * SETTLE);
    Ok(Stalled {
        resident: machine::rss(&proxy.pids).saturating_sub(resident),
        kernel: machine::socket_memory().saturating_sub(kernel),
    })
}
