//! The log: lines on stdout, of sockgate itself and of connections, by level and format.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::config::{LogConfig, LogFormat, LogLevel};
use super::line::Line;
use super::queue::Queue;

/// How long [`Log::flush`] waits for the writer.
const FLUSH: Duration = Duration::from_secs(2);

/// A handle to the log; clones share it.
#[derive(Clone)]
pub struct Log {
    queue: Arc<Queue>,
    settings: Arc<Settings>,
}

/// What a reload may change.
struct Settings {
    format: AtomicU8,
    level: AtomicU8,
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
        let settings = Arc::new(Settings {
            format: AtomicU8::new(config.format as u8),
            level: AtomicU8::new(config.level as u8),
        });
        let writers = Arc::clone(&settings);
        let lost = move |count| {
            let mut line = writers.event(LogLevel::Warn, "log lines were dropped");
            line.field("dropped", count);
            line.finish()
        };
        Ok(Log { queue: Arc::new(Queue::to(output, lost)?), settings })
    }

    /// Takes over format and level after a reload.
    pub fn configure(&self, config: &LogConfig) {
        self.settings.format.store(config.format as u8, Ordering::Relaxed);
        self.settings.level.store(config.level as u8, Ordering::Relaxed);
    }

    /// Whether lines of `level` are written.
    pub fn is_on(&self, level: LogLevel) -> bool {
        level as u8 <= self.settings.level.load(Ordering::Relaxed)
    }

    /// An operational line: what sockgate itself did or met.
    pub fn event(&self, level: LogLevel, message: &str, fields: &[(&'static str, Value)]) {
        if self.is_on(level) {
            let mut line = self.settings.event(level, message);
            for (name, value) in fields {
                line.value(name, value);
            }
            self.queue.push(&line.finish());
        }
    }

    /// Whether lines about connections are written.
    pub(super) fn wants_records(&self) -> bool {
        self.is_on(LogLevel::Info)
    }

    /// A line about a connection, of the level info, which `tell` tells; one that nobody
    /// wants is not made.
    pub(super) fn record(&self, tell: impl FnOnce(&mut Line)) {
        if self.wants_records() {
            let mut line = Line::new(self.settings.format());
            tell(&mut line);
            self.queue.push(&line.finish());
        }
    }

    /// Waits until everything logged so far is written, but not for ever.
    /// Blocks: for the end of the process.
    pub fn flush(&self) {
        self.queue.flush(FLUSH);
    }
}

impl Settings {
    fn format(&self) -> LogFormat {
        match self.format.load(Ordering::Relaxed) {
            text if text == LogFormat::Text as u8 => LogFormat::Text,
            _ => LogFormat::Json,
        }
    }

    fn event(&self, level: LogLevel, message: &str) -> Line {
        let mut line = Line::new(self.format());
        line.field("level", label(level));
        line.field("message", message);
        line
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
        log.record(|_| panic!("nobody wants it"));
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
    fn lines_that_were_lost_are_a_line_themselves() {
        let (log, lines) = testing::log();
        // Longer than all that may wait.
        log.event(LogLevel::Error, &"x".repeat(1 << 22), &[]);
        log.event(LogLevel::Error, "last", &[]);
        let lines = lines.json(&log);
        let told: Vec<_> = lines.iter().map(|line| (&line["message"], &line["dropped"])).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.contains(&(&json!("last"), &json!(null))), "{told:?}");
        assert!(told.contains(&(&json!("log lines were dropped"), &json!(1))), "{told:?}");
    }
}
