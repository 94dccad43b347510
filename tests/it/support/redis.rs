//! A real Redis on a free port, from Debian's package.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::database::free_address;
use super::{PATIENCE, eventually};

/// A running server; killed on drop.
pub(crate) struct Redis {
    child: Child,
    directory: TempDir,
    address: SocketAddr,
    arguments: Vec<String>,
    password: Option<String>,
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    #[track_caller]
    pub(crate) fn start() -> Redis {
        Redis::start_at(free_address(), None, &[])
    }

    /// Starts one at `address` that wants `password`, if there is one, with more
    /// `arguments`.
    #[track_caller]
    pub(crate) fn start_at(
        address: SocketAddr,
        password: Option<&str>,
        arguments: &[&str],
    ) -> Redis {
        let directory = TempDir::new().expect("a directory");
        let mut arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
        arguments.extend(password.iter().flat_map(|one| ["--requirepass", one].map(str::to_owned)));
        let child = serve(&directory, address, &arguments);
        let password = password.map(str::to_owned);
        let redis = Redis { child, directory, address, arguments, password };
        redis.wait();
        redis
    }

    /// Where it listens without TLS.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Ends it at once.
    pub(crate) fn stop(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }

    /// Starts it again, empty, where it was.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.child = serve(&self.directory, self.address, &self.arguments);
        self.wait();
    }

    /// Has it answer nothing until [`Redis::resume`].
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Has it go on.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    /// Every key, in order.
    #[track_caller]
    pub(crate) fn keys(&self) -> Vec<String> {
        let answer = self.ask(&["KEYS", "*"]);
        let text = String::from_utf8(answer).expect("keys in UTF-8");
        let mut keys: Vec<String> = text
            .split("\r\n")
            .filter(|line| !line.is_empty() && !line.starts_with(['*', '$']))
            .map(str::to_owned)
            .collect();
        keys.sort();
        keys
    }

    /// All keys and everything that they hold, as bytes.
    #[track_caller]
    pub(crate) fn dump(&self) -> Vec<u8> {
        let mut dump = Vec::new();
        for key in self.keys() {
            dump.extend(key.bytes());
            dump.extend(self.ask(&["GET", &key]));
            dump.extend(self.ask(&["LRANGE", &key, "0", "-1"]));
        }
        dump
    }

    /// How long `key` stays; negative if for ever.
    #[track_caller]
    pub(crate) fn milliseconds_left(&self, key: &str) -> i64 {
        let answer = String::from_utf8(self.ask(&["PTTL", key])).expect("a number");
        answer.trim().trim_start_matches(':').parse().expect("a number")
    }

    /// What it answers to one command: the whole answer, as on the wire but for the
    /// line end.
    #[track_caller]
    pub(crate) fn command(&self, words: &[&str]) -> String {
        String::from_utf8_lossy(&self.ask(words)).trim_end().to_owned()
    }

    /// Sends one command on a connection of its own; what comes until that ends.
    #[track_caller]
    fn ask(&self, words: &[&str]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).expect("Redis listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        let mut bytes = Vec::new();
        let login = self.password.as_deref().map(|password| ["AUTH", password]);
        let login = login.as_ref().map(<[&str; 2]>::as_slice);
        for command in login.into_iter().chain([words, &["QUIT"]]) {
            bytes.extend(format!("*{}\r\n", command.len()).bytes());
            for word in command {
                bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
            }
        }
        stream.write_all(&bytes).expect("Redis takes it");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("Redis answers");
        let rest = answer.strip_suffix(b"+OK\r\n").expect("the answer to QUIT");
        let rest = match login {
            Some(_) => rest.strip_prefix(b"+OK\r\n").expect("the answer to AUTH"),
            None => rest,
        };
        rest.to_vec()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    #[track_caller]
    fn wait(&self) {
        eventually("Redis listens", || TcpStream::connect(self.address).is_ok());
    }
}

#[track_caller]
fn serve(directory: &TempDir, address: SocketAddr, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(directory.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server: {error} (tests/run setup installs it)"))
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be stopped already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
