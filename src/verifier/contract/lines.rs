//! What verifiers log, for tests to read.

use std::io;
use std::sync::{Arc, Mutex};

use crate::telemetry::{Log, LogConfig, Metrics, Telemetry};

/// The lines of a log.
#[derive(Clone, Default)]
pub(in crate::verifier) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// What has been written so far.
    pub(in crate::verifier) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Telemetry that keeps what is logged.
pub(in crate::verifier) fn telemetry() -> (Arc<Telemetry>, Lines) {
    let lines = Lines::default();
    let log = Log::to(&LogConfig::default(), lines.clone()).unwrap();
    (Arc::new(Telemetry::new(Metrics::new().unwrap(), log).unwrap()), lines)
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
