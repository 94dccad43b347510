//! A database of Debian's packages, started on an address of its own, and the
//! applications of `tests/e2e` that keep sessions.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use super::client::{Request, Response};
use super::eventually;

/// A host on loopback that no other server of this run has, and a free port there:
/// what goes down and comes back finds it free.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let host = [127, high | 128, low, number];
    let listener = TcpListener::bind(SocketAddr::from((host, 0))).expect("a free port");
    listener.local_addr().expect("bound")
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill runs");
}

/// A running PostgreSQL with the user `gate` and the database `postgres`; gone on drop.
pub(crate) struct PostgresServer {
    child: Child,
    directory: TempDir,
    address: SocketAddr,
    password: String,
}

impl PostgresServer {
    /// Starts one at `address` that wants `password` of every user; `tls` is a certificate and its
    /// key, both as PEM.
    #[track_caller]
    pub(crate) fn start(
        address: SocketAddr,
        password: &str,
        tls: Option<(&str, &str)>,
    ) -> PostgresServer {
        let directory = TempDir::new().expect("a directory");
        let inside = |name: &str| directory.path().join(name);
        std::fs::write(inside("password"), password).expect("written");
        own(directory.path());
        let done = as_postgres("initdb")
            .args(["--no-sync", "--no-instructions", "-A", "scram-sha-256", "-U", "gate"])
            .arg(format!("--pwfile={}", inside("password").display()))
            .arg("-D")
            .arg(inside("data"))
            .stdout(Stdio::null())
            .status()
            .expect("initdb runs (tests/run setup installs postgresql)");
        assert!(done.success(), "initdb: {done}");
        let mut settings = format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             max_connections = 40\n",
            address.ip(),
            address.port(),
            directory.path().display()
        );
        if let Some((certificate, key)) = tls {
            std::fs::write(inside("data/server.crt"), certificate).expect("written");
            std::fs::write(inside("data/server.key"), key).expect("written");
            let mode = Command::new("chmod").arg("600").arg(inside("data/server.key")).status();
            assert!(mode.expect("chmod runs").success());
            settings.push_str("ssl = on\n");
        }
        std::fs::write(inside("data/postgresql.auto.conf"), settings).expect("written");
        own(directory.path());
        let child = PostgresServer::spawn(directory.path());
        let password = password.to_owned();
        let server = PostgresServer { child, directory, address, password };
        server.wait();
        server
    }

    fn spawn(directory: &Path) -> Child {
        as_postgres("postgres")
            .arg("-D")
            .arg(directory.join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres starts")
    }

    #[track_caller]
    fn wait(&self) {
        eventually("PostgreSQL is ready", || self.try_sql("SELECT 1").is_some());
    }

    /// Ends it at once; what it held stays.
    pub(crate) fn stop(&mut self) {
        signal(&self.child, "INT");
        let _ = self.child.wait();
    }

    /// Starts it again where it was.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.child = PostgresServer::spawn(self.directory.path());
        self.wait();
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory of its Unix socket.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What `psql` prints for `sql`.
    #[track_caller]
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|| panic!("refused: {sql}"))
    }

    fn try_sql(&self, sql: &str) -> Option<String> {
        let mut child = Command::new("psql")
            .args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-U", "gate", "-d", "postgres", "-h"])
            .arg(self.directory.path())
            .args(["-p", &self.address.port().to_string(), "-f", "-"])
            .env("PGPASSWORD", &self.password)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("psql runs");
        // It may have failed to connect, and be gone.
        let _ = child.stdin.take().expect("piped").write_all(sql.as_bytes());
        let output = child.wait_with_output().expect("psql ends");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        signal(&self.child, "QUIT");
        let _ = self.child.wait();
    }
}

/// PostgreSQL refuses to run as root: its own user does, where this is root.
fn as_postgres(program: &str) -> Command {
    let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    installed.sort();
    let program = installed.last().map_or(PathBuf::from(program), |path| path.join(program));
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    // Its user may not enter whatever directory the tests run in.
    command.current_dir("/");
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn own(directory: &Path) {
    if is_root() {
        let owned = Command::new("chown").args(["-R", "postgres:"]).arg(directory).status();
        assert!(owned.expect("chown runs").success());
    }
}

/// An application of `tests/e2e` that logs its users in; gone on drop.
pub(crate) struct App {
    child: Child,
    address: SocketAddr,
}

impl App {
    /// Starts `script` with `arguments`. It prints `{"port": …}` when it listens on
    /// 127.0.0.1.
    #[track_caller]
    pub(crate) fn start(script: &str, arguments: &[&str]) -> App {
        let program = if script.ends_with(".py") { "python3" } else { "node" };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        // What is pinned, and not what else this machine may have.
        let path = std::env::var("PATH").expect("a PATH");
        let mut child = Command::new(program)
            .arg(root.join("tests/e2e").join(script))
            .args(arguments)
            .env("PATH", format!("{}:{path}", root.join("target/venv/bin").display()))
            // At its end the application ends, also if this process is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error} (tests/run setup installs it)"));
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("{script} starts (tests/run setup): {line}"));
        let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        App { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a browser keeps between requests.
#[derive(Default)]
pub(crate) struct Jar(Vec<(String, String)>);

impl Jar {
    /// With the cookies of a header.
    pub(crate) fn of(cookies: &str) -> Jar {
        let pairs = cookies.split("; ").filter_map(|pair| pair.split_once('='));
        Jar(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Names and values.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Posts a form, as a page does, and keeps the cookies that come back.
    #[track_caller]
    pub(crate) fn post(&mut self, address: SocketAddr, path: &str, form: &str) -> Response {
        let request = Request::new("POST", path)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Connection", "close")
            .body(form);
        let cookies = self.cookies();
        let request = if cookies.is_empty() { request } else { request.header("Cookie", &cookies) };
        let response = request.send(address);
        self.keep(&response);
        response
    }

    fn keep(&mut self, response: &Response) {
        let cookies =
            response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        for (_, cookie) in cookies {
            let pair = cookie.split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').expect("a cookie");
            self.0.retain(|(known, _)| known != name);
            let gone = cookie.to_ascii_lowercase().contains("max-age=0")
                || cookie.contains("expires=Thu, 01 Jan 1970")
                || cookie.contains("Expires=Thu, 01 Jan 1970");
            if !gone {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// The header `Cookie`.
    pub(crate) fn cookies(&self) -> String {
        let pairs: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    /// The value of one cookie.
    #[track_caller]
    pub(crate) fn cookie(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("no cookie {name} in {}", self.cookies())).1
    }
}
