//! A program that a test starts: its output gathered, killed when dropped.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a program may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Process {
    name: String,
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Process {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error} (tests/run setup installs it)"));
        let output = Arc::new(Mutex::new(String::new()));
        let readers = vec![
            gather(child.stdout.take().expect("piped"), Arc::clone(&output)),
            gather(child.stderr.take().expect("piped"), Arc::clone(&output)),
        ];
        Process { name, child, output, readers }
    }

    /// The first thing that `find` sees in what was printed so far.
    #[track_caller]
    pub(crate) fn wait_for<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            let ended = self.child.try_wait().expect("a child").is_some();
            let output = self.output();
            if let Some(found) = find(&output) {
                return found;
            }
            let late = began.elapsed() > PATIENCE;
            assert!(!ended && !late, "{}: waited for {what}:\n{output}", self.name);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The address of sockgate's listener `server`, once it is ready.
    #[track_caller]
    pub(crate) fn gate_address(&mut self) -> SocketAddr {
        self.wait_for("a gate that is ready", |output| {
            let lines = || output.lines().filter_map(|line| serde_json::from_str(line).ok());
            lines().find(|line: &Value| line["message"] == "ready")?;
            let listening = lines().find(|line: &Value| line["listener"] == "server")?;
            listening["address"].as_str()?.parse().ok()
        })
    }

    /// All that was printed so far.
    pub(crate) fn output(&self) -> String {
        self.output.lock().expect("no reader died").clone()
    }

    /// Asks it to end, as Ctrl-C does.
    #[track_caller]
    pub(crate) fn interrupt(&self) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
        assert!(status.success(), "{}: kill says {status}", self.name);
    }

    /// How it ends, within `limit`, and all that it printed.
    #[track_caller]
    pub(crate) fn finish(mut self, limit: Duration) -> (ExitStatus, String) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                for reader in self.readers.drain(..) {
                    reader.join().expect("the reader ends with the program");
                }
                return (status, self.output());
            }
            assert!(began.elapsed() < limit, "{} does not end:\n{}", self.name, self.output());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; a process that cannot be killed is none.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn gather(pipe: impl Read + Send + 'static, output: Arc<Mutex<String>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut output = output.lock().expect("no reader died");
            output.push_str(&line);
            output.push('\n');
        }
    })
}
