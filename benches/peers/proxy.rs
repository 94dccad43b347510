//! The proxies: where each is found, how it is configured and started.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::backend::Server;
use crate::load::secure::Trust;
use crate::machine;
use crate::wire::{self, Answer, Openings, Token};

/// What a proxy is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Forwarder,
    Sockgate,
    Nginx,
    Haproxy,
    Envoy,
}

/// A proxy that can be started.
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) version: String,
    program: PathBuf,
}

/// How a proxy is started.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) threads: usize,
    /// The cores that it may use, as taskset wants them.
    pub(crate) cores: &'a str,
    pub(crate) tls: bool,
    /// Whether it writes a line for each connection, as it does by default.
    pub(crate) logged: bool,
    pub(crate) backend: SocketAddr,
    pub(crate) files: u64,
}

/// A proxy that answers. Ended when dropped.
pub(crate) struct Running {
    child: Child,
    /// All of its processes.
    pub(crate) pids: Vec<u32>,
    /// The same and the server that it asks about tokens, if it judges none itself: what
    /// its work costs.
    pub(crate) judging: Vec<u32>,
    pub(crate) port: u16,
    /// From its start to its first upgrade.
    pub(crate) ready: Duration,
    pub(crate) trust: Option<Trust>,
    _authority: Option<Server>,
    _directory: tempfile::TempDir,
}

/// How long a proxy may take to start.
const PATIENCE: Duration = Duration::from_secs(15);

impl Kind {
    pub(crate) fn knows_tls(self) -> bool {
        self != Kind::Forwarder
    }

    /// Whether it can tell clients by what `token` is.
    pub(crate) fn judges(self, token: Token) -> bool {
        match token {
            Token::None | Token::Fresh | Token::Repeated => true,
            Token::Forged => self != Kind::Forwarder,
            Token::ApiKey | Token::Renewed => self == Kind::Sockgate,
        }
    }
}

impl Proxy {
    pub(crate) fn forwarder() -> io::Result<Proxy> {
        let program = std::env::current_exe()?;
        let version = "this bench's own, on tokio".to_owned();
        Ok(Proxy { kind: Kind::Forwarder, name: "forwarder".to_owned(), version, program })
    }

    pub(crate) fn sockgate(name: &str, program: PathBuf) -> Option<Proxy> {
        Proxy::find(Kind::Sockgate, name, program, "--version")
    }

    /// The peers of this machine, and the names of those it does not have.
    pub(crate) fn peers() -> (Vec<Proxy>, Vec<&'static str>) {
        let envoy = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/envoy");
        let envoy = if envoy.exists() { envoy } else { which("envoy") };
        let places = [
            (Kind::Nginx, "nginx", which("nginx"), "-v"),
            (Kind::Haproxy, "haproxy", which("haproxy"), "-v"),
            (Kind::Envoy, "envoy", envoy, "--version"),
        ];
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for (kind, name, program, flag) in places {
            match Proxy::find(kind, name, program, flag) {
                Some(proxy) => found.push(proxy),
                None => missing.push(name),
            }
        }
        (found, missing)
    }

    fn find(kind: Kind, name: &str, program: PathBuf, flag: &str) -> Option<Proxy> {
        let output = Command::new(&program).arg(flag).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        // "nginx version: nginx/1.22.1", "HAProxy version 2.6.12-1 2023/..", ".../1.36.2/Clean/..".
        let words = line.split([' ', '/']);
        let version = words.into_iter().find(|word| {
            word.contains('.') && word.starts_with(|letter: char| letter.is_ascii_digit())
        })?;
        Some(Proxy { kind, name: name.to_owned(), version: version.to_owned(), program })
    }

    /// The size of its program, in bytes.
    pub(crate) fn size(&self) -> u64 {
        fs::metadata(&self.program).map_or(0, |metadata| metadata.len())
    }

    /// Starts it on a free port and waits for its first upgrade.
    pub(crate) fn start(&self, setup: &Setup<'_>) -> io::Result<Running> {
        let directory = tempfile::tempdir()?;
        // nginx gives its worker to another user.
        let path = directory.path();
        let trust = setup.tls.then(|| Trust::create(path)).transpose()?;
        let authority =
            (self.kind == Kind::Nginx).then(|| Server::start(Some(setup.cores))).transpose()?;
        let port = free_port()?;
        let mut command = Command::new("setpriv");
        // Gone with this bench, however that ends.
        command.args(["--pdeathsig", "KILL", "taskset", "-c", setup.cores]).arg(&self.program);
        let auth = authority.as_ref().map_or(setup.backend, |authority| authority.address);
        self.arguments(&mut command, path, [port, auth.port()], setup)?;
        let log = fs::File::create(path.join("output"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let began = Instant::now();
        let mut child = command.spawn()?;
        let mut openings = Openings::new(Token::Fresh);
        while began.elapsed() < PATIENCE && matches!(child.try_wait(), Ok(None)) {
            if let Ok(Answer::Switched(_)) = try_upgrade(port, trust.as_ref(), &mut openings) {
                let ready = began.elapsed();
                std::thread::sleep(Duration::from_millis(200));
                let pids = machine::family(child.id());
                let mut judging = pids.clone();
                judging.extend(authority.iter().map(Server::pid));
                return Ok(Running {
                    child,
                    pids,
                    judging,
                    port,
                    ready,
                    trust,
                    _authority: authority,
                    _directory: directory,
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        machine::end(&mut child);
        let said = fs::read_to_string(path.join("output")).unwrap_or_default();
        Err(io::Error::other(format!("{} does not start: {}", self.name, said.trim())))
    }

    fn arguments(
        &self,
        command: &mut Command,
        directory: &Path,
        [port, auth]: [u16; 2],
        setup: &Setup<'_>,
    ) -> io::Result<()> {
        let write = |name: &str, template: &str| {
            let file = directory.join(name);
            fs::write(&file, fill(template, directory, [port, auth], setup)?)?;
            Ok::<_, io::Error>(file)
        };
        match self.kind {
            Kind::Forwarder => {
                command.args(["forwarder", &port.to_string(), &setup.backend.to_string()]);
            }
            Kind::Sockgate => {
                fs::write(directory.join("keys.yaml"), wire::api_key_entry())?;
                let file = write("sockgate.yaml", include_str!("config/sockgate.yaml"))?;
                command.arg("--config").arg(file);
            }
            Kind::Nginx => {
                let file = write("nginx.conf", include_str!("config/nginx.conf"))?;
                command.arg("-p").arg(directory).arg("-c").arg(file);
            }
            Kind::Haproxy => {
                let file = write("haproxy.cfg", include_str!("config/haproxy.cfg"))?;
                command.arg("-q").arg("-f").arg(file);
            }
            Kind::Envoy => {
                let file = write("envoy.yaml", include_str!("config/envoy.yaml"))?;
                command.arg("--config-path").arg(file).args(["--log-level", "error"]);
                command.args(["--disable-hot-restart", "--concurrency"]);
                command.arg(setup.threads.to_string());
            }
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        machine::end(&mut self.child);
    }
}

/// A template with `@NAMES@` filled in, and the lines for plain TCP or TLS, for a log or
/// none.
fn fill(
    template: &str,
    directory: &Path,
    [port, auth]: [u16; 2],
    setup: &Setup<'_>,
) -> io::Result<String> {
    let marks = [("#tls", setup.tls), ("#plain", !setup.tls)];
    let marks = marks.into_iter().chain([("#log", setup.logged), ("#quiet", !setup.logged)]);
    let mut text = String::new();
    for line in template.lines() {
        let marked = marks.clone().find_map(|(mark, on)| Some((line.strip_prefix(mark)?, on)));
        let (line, on) = marked.unwrap_or((line, true));
        if on {
            text.push_str(line);
            text.push('\n');
        }
    }
    for (name, value) in [
        ("@PORT@", port.to_string()),
        ("@ADMIN@", free_port()?.to_string()),
        ("@BACKEND@", setup.backend.port().to_string()),
        ("@AUTH@", auth.to_string()),
        ("@THREADS@", setup.threads.to_string()),
        ("@FILES@", setup.files.to_string()),
        ("@CONNECTIONS@", (setup.files / 2 - 50).to_string()),
        ("@DIR@", directory.display().to_string()),
        ("@SECRET@", wire::SECRET.to_owned()),
        ("@KEY@", wire::secret_base64url()),
    ] {
        text = text.replace(name, &value);
    }
    Ok(text)
}

fn try_upgrade(port: u16, trust: Option<&Trust>, openings: &mut Openings) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let request = openings.next();
    let mut answer = [0; 1024];
    let count = match trust {
        Some(trust) => {
            let mut stream = trust.connect(stream)?;
            stream.write_all(request.as_bytes())?;
            stream.read(&mut answer)?
        }
        None => {
            stream.write_all(request.as_bytes())?;
            stream.read(&mut answer)?
        }
    };
    Ok(wire::answer(&answer[..count]))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Where a program is, on the PATH or among those of the system.
fn which(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin"];
    path.split(':')
        .chain(system)
        .map(|directory| Path::new(directory).join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| name.into())
}
