//! sockgate's own log lines, kept and passed on so that the page can show them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

const KEPT: usize = 50;

/// The latest lines, and those to come.
pub(crate) struct GateLog {
    recent: Mutex<VecDeque<Arc<str>>>,
    lines: broadcast::Sender<Arc<str>>,
}

impl GateLog {
    pub(crate) fn new() -> GateLog {
        GateLog { recent: Mutex::default(), lines: broadcast::Sender::new(256) }
    }

    /// What is kept, and a receiver of all that comes after it.
    pub(crate) fn read(&self) -> (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.lines.subscribe())
    }

    fn push(&self, line: Arc<str>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == KEPT {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(&line));
        // An error only says that no page is open.
        self.lines.send(line).ok();
    }
}

/// Writes sockgate's log to stdout, and keeps its lines for the page.
pub(crate) struct Tee {
    log: Arc<GateLog>,
    line: Vec<u8>,
}

impl Tee {
    pub(crate) fn new(log: Arc<GateLog>) -> Tee {
        Tee { log, line: Vec::new() }
    }
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write_all(bytes)?;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.log.push(String::from_utf8_lossy(&self.line).trim_end().into());
                self.line.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}
