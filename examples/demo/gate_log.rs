//! sockgate's own log lines, kept and passed on so that the page can show them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast::{self, error::RecvError};

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

    /// Takes every line of `source` until it ends.
    pub(crate) async fn follow(&self, mut source: broadcast::Receiver<String>) {
        loop {
            match source.recv().await {
                Ok(line) => self.push(line.trim_end().into()),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
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
