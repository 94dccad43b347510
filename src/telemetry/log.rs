//! Lines on stdout: JSON or `key=value`, through a bounded queue and one writer
//! thread, so that nobody ever waits for a slow reader. What does not fit is
//! dropped and counted.
//!
//! Every string passes the redaction of JWTs here, whoever wrote it.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::config::{LogConfig, LogFormat, LogLevel};
use super::jwt::without_jwts;
use crate::clock::{rfc3339, unix_millis};

/// How many lines may wait for the writer.
const QUEUE: usize = 4096;

/// How long [`Log::flush`] waits for the writer.
const FLUSH: Duration = Duration::from_secs(2);

/// A handle to the log; clones share it.
#[derive(Clone)]
pub struct Log {
    queue: SyncSender<Order>,
    shared: Arc<Shared>,
}

struct Shared {
    format: AtomicU8,
    level: AtomicU8,
    dropped: AtomicU64,
}

enum Order {
    Line(String),
    Flush(SyncSender<()>),
}

impl Log {
    /// A log on stdout.
    ///
    /// # Errors
    /// If the writer thread cannot be started.
    pub fn new(config: &LogConfig) -> io::Result<Log> {
        Log::to(config, io::stdout())
    }

    /// A log on `output`.
    ///
    /// # Errors
    /// If the writer thread cannot be started.
    pub fn to(config: &LogConfig, output: impl Write + Send + 'static) -> io::Result<Log> {
        let (queue, orders) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            format: AtomicU8::new(config.format as u8),
            level: AtomicU8::new(config.level as u8),
            dropped: AtomicU64::new(0),
        });
        let writers = shared.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_orders(&orders, &writers, output))?;
        Ok(Log { queue, shared })
    }

    /// Takes over format and level after a reload.
    pub fn configure(&self, config: &LogConfig) {
        self.shared.format.store(config.format as u8, Ordering::Relaxed);
        self.shared.level.store(config.level as u8, Ordering::Relaxed);
    }

    /// Whether lines of `level` are written.
    pub fn is_on(&self, level: LogLevel) -> bool {
        level as u8 <= self.shared.level.load(Ordering::Relaxed)
    }

    /// An operational line: what sockgate itself did or met.
    pub fn event(&self, level: LogLevel, message: &str, fields: &[(&'static str, Value)]) {
        if self.is_on(level) {
            self.send(self.shared.line(Some(level), message, fields));
        }
    }

    /// Whether lines about connections are written.
    pub(super) fn wants_records(&self) -> bool {
        self.is_on(LogLevel::Info)
    }

    /// A line about a connection, of the level info.
    pub(super) fn record(&self, fields: &[(&'static str, Value)]) {
        if self.wants_records() {
            self.send(self.shared.line(None, "", fields));
        }
    }

    /// Waits until everything logged so far is written, but not for ever.
    /// Blocks: for the end of the process.
    pub fn flush(&self) {
        let deadline = Instant::now() + FLUSH;
        let (done, written) = sync_channel(1);
        let mut order = Order::Flush(done);
        while let Err(refused) = self.queue.try_send(order) {
            match refused {
                TrySendError::Full(back) if Instant::now() < deadline => order = back,
                TrySendError::Full(_) | TrySendError::Disconnected(_) => return,
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    fn send(&self, line: String) {
        if self.queue.try_send(Order::Line(line)).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn line(
        &self,
        level: Option<LogLevel>,
        message: &str,
        fields: &[(&'static str, Value)],
    ) -> String {
        let mut line = Map::new();
        line.insert("time".to_owned(), Value::from(rfc3339(unix_millis())));
        if let Some(level) = level {
            line.insert("level".to_owned(), Value::from(label(level)));
            line.insert("message".to_owned(), Value::from(without_jwts(message)));
        }
        for (name, value) in fields {
            line.insert((*name).to_owned(), redacted(value));
        }
        if self.format.load(Ordering::Relaxed) == LogFormat::Json as u8 {
            let mut text = Value::Object(line).to_string();
            text.push('\n');
            text
        } else {
            as_text(&line)
        }
    }
}

fn label(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    }
}

fn redacted(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(without_jwts(text)),
        Value::Array(items) => items.iter().map(redacted).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (without_jwts(name).into_owned(), redacted(value)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// `key=value` pairs without those that are null; what is not one plain word is
/// quoted as in JSON.
fn as_text(line: &Map<String, Value>) -> String {
    let mut text = String::new();
    for (name, value) in line {
        let separator = if text.is_empty() { "" } else { " " };
        let is_plain = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
        };
        // Writing to a string cannot fail.
        let _ = match value {
            Value::Null => Ok(()),
            Value::String(word) if is_plain(word) => write!(text, "{separator}{name}={word}"),
            other => write!(text, "{separator}{name}={other}"),
        };
    }
    text.push('\n');
    text
}

/// The writer thread. A reader that is gone must not end the process, so what
/// cannot be written is lost.
fn write_orders(orders: &Receiver<Order>, shared: &Shared, output: impl Write) {
    let mut output = io::BufWriter::new(output);
    while let Ok(first) = orders.recv() {
        // Everything that waits goes out together.
        let waiting = orders.try_iter().take(QUEUE);
        for order in std::iter::once(first).chain(waiting) {
            match order {
                Order::Line(line) => {
                    let _ = output.write_all(line.as_bytes());
                }
                Order::Flush(done) => {
                    let _ = output.flush();
                    let _ = done.try_send(());
                }
            }
        }
        let dropped = shared.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let count = [("dropped", Value::from(dropped))];
            let line = shared.line(Some(LogLevel::Warn), "log lines were dropped", &count);
            let _ = output.write_all(line.as_bytes());
        }
        let _ = output.flush();
    }
}

/// A log that tests can read.
#[cfg(test)]
pub(super) mod testing {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        pub(crate) fn text(&self, log: &Log) -> String {
            log.flush();
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }

        pub(crate) fn json(&self, log: &Log) -> Vec<Value> {
            self.text(log).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    pub(crate) fn log() -> (Log, Lines) {
        let lines = Lines::default();
        (Log::to(&LogConfig::default(), lines.clone()).unwrap(), lines)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl";

    #[test]
    fn every_string_passes_redaction() {
        let (log, lines) = testing::log();
        log.event(LogLevel::Error, JWT, &[("error", json!([JWT, { JWT: JWT }]))]);
        let text = lines.text(&log);
        assert!(!text.contains("eyJ") && text.contains("REDACTED"), "{text}");
    }

    #[test]
    fn levels_and_format_follow_the_configuration() {
        let (log, lines) = testing::log();
        log.event(LogLevel::Debug, "unseen", &[]);
        log.configure(&LogConfig {
            format: LogFormat::Text,
            level: LogLevel::Warn,
            redact: vec![],
        });
        log.event(LogLevel::Info, "unseen", &[]);
        log.record(&[("id", json!("unseen"))]);
        log.event(
            LogLevel::Warn,
            "a b\n",
            &[("x", json!("y")), ("n", json!(null)), ("c", json!(1))],
        );
        let text = lines.text(&log);
        assert!(text.ends_with("Z level=warn message=\"a b\\n\" x=y c=1\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_broken_output_harms_nobody() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let log = Log::to(&LogConfig::default(), Broken).unwrap();
        for _ in 0..3 {
            log.event(LogLevel::Info, "hello", &[]);
            log.flush();
        }
    }

    #[test]
    fn a_stuck_output_blocks_nobody_and_drops_are_counted() {
        struct Stuck(Receiver<()>, testing::Lines);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                self.1.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, gate) = sync_channel(0);
        let lines = testing::Lines::default();
        let log = Log::to(&LogConfig::default(), Stuck(gate, lines.clone())).unwrap();
        for _ in 0..QUEUE * 3 {
            log.event(LogLevel::Info, "hello", &[]);
        }
        drop(release);
        assert!(lines.json(&log).len() >= QUEUE);
        log.event(LogLevel::Info, "again", &[]);
        let lines = lines.json(&log);
        let warning = lines.iter().find(|line| line["message"] == "log lines were dropped");
        assert!(warning.unwrap()["dropped"].as_u64().unwrap() > 0);
    }
}
