//! The real binary, started with a configuration of the test's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::client::{Request, Response};
use super::token::{SECRET, assert_no_canary};
use super::{PATIENCE, eventually};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_sockgate");

/// The configuration most tests start from: a verifier `app`, the policy
/// `members` with every source, and `/ws/*` in front of `upstream`.
pub(crate) fn members(upstream: &str) -> String {
    format!(
        r#"
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  members:
    origins: same
    credentials:
      - {{ header: authorization, verifier: app }}
      - {{ cookie: session, verifier: app }}
      - {{ query: token, verifier: app }}
routes:
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{upstream}" }}
"#
    )
}

/// One policy `members` (the inside of a YAML flow mapping) in front of
/// `upstream` at `/ws/*`, with the verifier `app` of [`members`].
pub(crate) fn policy(members: &str, upstream: &str) -> String {
    format!(
        r#"
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  members: {{ {members} }}
routes:
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{upstream}" }}
"#
    )
}

/// A running gate; killed, and its output searched for secrets, on drop.
pub(crate) struct Gate {
    child: Child,
    directory: TempDir,
    config: PathBuf,
    output: Arc<Mutex<String>>,
    address: SocketAddr,
    admin: SocketAddr,
    readers: Vec<JoinHandle<()>>,
    awaited: bool,
}

impl Gate {
    /// Starts with `config`, to which `server` and `admin` on free ports of
    /// loopback are added where it has none.
    #[track_caller]
    pub(crate) fn start(config: &str) -> Gate {
        Gate::start_in(TempDir::new().expect("a directory"), config, &[])
    }

    /// The same with variables of the environment.
    #[track_caller]
    pub(crate) fn start_with(config: &str, environment: &[(&str, &str)]) -> Gate {
        Gate::start_in(TempDir::new().expect("a directory"), config, environment)
    }

    /// The same in a directory that already holds other files.
    #[track_caller]
    pub(crate) fn start_in(directory: TempDir, config: &str, environment: &[(&str, &str)]) -> Gate {
        let path = directory.path().join("sockgate.yaml");
        std::fs::write(&path, with_listeners(config)).expect("the file is written");
        let mut child = Command::new(BINARY)
            .arg("--config")
            .arg(&path)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let output = Arc::new(Mutex::new(String::new()));
        let readers = vec![
            gather(child.stdout.take().expect("piped"), &output),
            gather(child.stderr.take().expect("piped"), &output),
        ];
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gate = Gate {
            child,
            directory,
            config: path,
            output,
            address: nowhere,
            admin: nowhere,
            readers,
            awaited: false,
        };
        gate.wait_until_ready();
        gate
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
        let began = Instant::now();
        while !self.output().lines().any(|line| said(line, "message") == "ready") {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("the gate ended with {status}:\n{}", self.output());
            }
            assert!(began.elapsed() < PATIENCE, "the gate is not ready:\n{}", self.output());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        for line in self.output().lines().filter(|line| said(line, "message") == "listening") {
            let Ok(address) = said(line, "address").parse() else { continue };
            match said(line, "listener").as_str() {
                "server" => self.address = address,
                "admin" => self.admin = address,
                other => panic!("a listener of the kind {other:?}"),
            }
        }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// The directory of the configuration file.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Replaces the configuration file as editors do: write aside, rename.
    pub(crate) fn rewrite(&self, config: &str) {
        let aside = self.config.with_extension("new");
        std::fs::write(&aside, with_listeners(config)).expect("the file is written");
        std::fs::rename(&aside, &self.config).expect("the file is renamed");
    }

    /// Sends a signal: `TERM`, `HUP`.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }

    /// Waits for the process to end by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the gate ends", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        self.awaited = true;
        status.expect("just seen")
    }

    /// Whether the process still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Everything printed so far.
    pub(crate) fn output(&self) -> String {
        self.output.lock().expect("no reader died").clone()
    }

    /// The JSON lines printed so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line that `fits`.
    #[track_caller]
    pub(crate) fn line(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            if let Some(line) = self.lines().into_iter().find(&fits) {
                return line;
            }
            assert!(began.elapsed() < PATIENCE, "no line {what} in\n{}", self.output());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Waits for the line of the connection whose URL has the path `path`.
    #[track_caller]
    pub(crate) fn record(&self, path: &str) -> Value {
        self.line(&format!("about {path}"), |line| {
            line["url"]
                .as_str()
                .is_some_and(|url| url.split('?').next().is_some_and(|start| start.ends_with(path)))
        })
    }

    /// The reason in the line about `path`.
    #[track_caller]
    pub(crate) fn reason(&self, path: &str) -> String {
        self.record(path)["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// Asks the admin listener.
    #[track_caller]
    pub(crate) fn ask(&self, target: &str) -> Response {
        Request::get(target).header("Connection", "close").send(self.admin)
    }

    /// The sum of the samples of `name` whose labels hold all of `labels`
    /// (written `key="value"`).
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.ask("/metrics").text();
        text.lines()
            .filter(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                    && labels.iter().all(|label| line.contains(label))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until [`Gate::metric`] is `value`.
    #[track_caller]
    pub(crate) fn metric_becomes(&self, name: &str, labels: &[&str], value: f64) {
        let began = Instant::now();
        loop {
            let now = self.metric(name, labels);
            if (now - value).abs() < 0.5 {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{name}{labels:?} is {now}, not {value}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let died = self.child.try_wait().ok().flatten();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let output = self.output();
        if std::thread::panicking() {
            eprintln!("---- what the gate printed\n{output}----");
            return;
        }
        assert_no_canary(&output);
        assert!(!output.contains("panicked at"), "the gate panicked:\n{output}");
        assert!(self.awaited || died.is_none(), "the gate died ({died:?}):\n{output}");
    }
}

/// The value of `key` in a line of either log format.
fn said(line: &str, key: &str) -> String {
    if let Ok(line) = serde_json::from_str::<Value>(line) {
        return line[key].as_str().unwrap_or_default().to_owned();
    }
    let start = format!("{key}=");
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(&start))
        .map(|value| value.trim_matches('"').to_owned())
        .unwrap_or_default()
}

/// Adds the sections that every test would otherwise repeat.
fn with_listeners(config: &str) -> String {
    let has = |section: &str| config.lines().any(|line| line.starts_with(section));
    let mut whole = String::new();
    if !has("server:") {
        whole.push_str("server: { listen: \"127.0.0.1:0\", drain_delay: 0s, drain: 1s }\n");
    }
    if !has("admin:") {
        whole.push_str("admin: { listen: \"127.0.0.1:0\" }\n");
    }
    whole.push_str(config);
    whole
}

fn gather(stream: impl Read + Send + 'static, output: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut output = output.lock().expect("no reader died");
            output.push_str(&line);
            output.push('\n');
        }
    })
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// Runs `sockgate` with `arguments` to its end.
#[track_caller]
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
    run_with_input(arguments, environment, "")
}

/// The same with something on standard input.
#[track_caller]
pub(crate) fn run_with_input(
    arguments: &[&str],
    environment: &[(&str, &str)],
    input: &str,
) -> Outcome {
    let mut child = Command::new(BINARY)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A command that reads nothing may be gone already.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the command ends");
    let outcome = Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    };
    assert!(!outcome.stderr.contains("panicked at"), "{outcome:?}");
    outcome
}

/// An address for `admin.listen` that `sockgate health` can know before the
/// gate binds it: loopback has 2²⁴ of them, so each test gets one of its own
/// and no other test can take the port in between.
pub(crate) fn free_admin() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind(SocketAddr::from(([127, high | 1, low, number], 0)))
        .expect("a free port");
    listener.local_addr().expect("bound")
}
