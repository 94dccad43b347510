//! Servers that a verifier asks: a real OpenID provider, npm `oidc-provider` in
//! `tests/e2e/oidc.mjs`, and peers that misbehave as no real one would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use serde_json::Value;

use super::client::Request;
use super::token::canary;

/// A running provider; gone on drop.
pub(crate) struct Provider {
    child: Child,
    issuer: String,
    control: SocketAddr,
}

impl Provider {
    /// Starts one with the arguments of `oidc.mjs`, on an address of its own: what
    /// goes down and comes back finds its port free.
    #[track_caller]
    pub(crate) fn start(arguments: &[&str]) -> Provider {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let host = format!("127.{}.{low}.{number}", high | 1);
        Provider::start_with(&[&["--host", &host], arguments].concat(), &[])
    }

    /// Starts one on 127.0.0.1, with variables of the environment.
    #[track_caller]
    pub(crate) fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Provider {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/oidc.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .args(arguments)
            .envs(environment.iter().copied())
            // At its end the provider ends, also if this process is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node runs (tests/run setup installs it)");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line)
            .expect("the provider starts (tests/run setup installs npm oidc-provider)");
        let text = |key: &str| said[key].as_str().expect("text").to_owned();
        let control = text("control").trim_start_matches("http://").parse().expect("an address");
        Provider { child, issuer: text("issuer"), control }
    }

    /// The issuer, as tokens name it.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The URL of its keys.
    pub(crate) fn keys(&self) -> String {
        format!("{}/jwks", self.issuer.trim_end_matches('/'))
    }

    /// Has the provider do `what`: `rotate`, `rotate?drop=1`, `down`, `up`.
    #[track_caller]
    pub(crate) fn tell(&self, what: &str) {
        self.control("POST", what);
    }

    /// How often the path that ends in `end` was asked for.
    #[track_caller]
    pub(crate) fn asked(&self, end: &str) -> u64 {
        let counts = self.control("GET", "requests");
        let counts = counts.as_object().expect("a table");
        let these = counts.iter().filter(|(path, _)| path.ends_with(end));
        these.filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// An access token by client credentials, a JWT for `audience`.
    #[track_caller]
    pub(crate) fn token(&self, audience: &str) -> String {
        let answer = self.control("GET", &format!("token?resource=urn:{audience}"));
        canary(answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")))
    }

    /// An access token that says nothing by itself.
    #[track_caller]
    pub(crate) fn opaque_token(&self) -> String {
        let answer = self.control("GET", "token");
        canary(answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")))
    }

    /// Logs `user` in as a browser does: the access token for `chat`, and the id token.
    #[track_caller]
    pub(crate) fn login(&self, user: &str) -> [String; 2] {
        let answer = self.control("GET", &format!("login?user={user}"));
        ["access_token", "id_token"]
            .map(|name| canary(answer[name].as_str().unwrap_or_else(|| panic!("{answer}"))))
    }

    /// Has the provider tell `url` of logouts: of the session, or else of the user alone.
    #[track_caller]
    pub(crate) fn tells_logouts_to(&self, url: &str, of_session: bool) {
        let session = if of_session { "&session=1" } else { "" };
        self.control("POST", &format!("backchannel?uri={url}{session}"));
    }

    /// Logs the last login of `user` out as a browser does: how it was taken where the
    /// provider told of it.
    #[track_caller]
    pub(crate) fn logout(&self, user: &str) -> String {
        let answer = self.control("POST", &format!("logout?user={user}"));
        answer["told"].as_str().expect("text").to_owned()
    }

    /// Logs `user` in for an access token for `audience` that says nothing by itself.
    #[track_caller]
    pub(crate) fn opaque_login(&self, user: &str, audience: &str) -> String {
        let answer =
            self.control("GET", &format!("login?user={user}&resource=urn:opaque:{audience}"));
        canary(answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")))
    }

    /// Where tokens are asked about.
    pub(crate) fn introspection(&self) -> String {
        format!("{}/token/introspection", self.issuer.trim_end_matches('/'))
    }

    #[track_caller]
    fn control(&self, method: &str, what: &str) -> Value {
        let request = Request::new(method, &format!("/{what}")).header("Connection", "close");
        let answer = request.send(self.control);
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        answer.json()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that does as a test likes with each connection.
pub(crate) struct Peer {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Peer {
    /// Reads the head of a request, then leaves the stream to `behave`.
    pub(crate) fn start(behave: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let behave = Arc::new(behave);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (behave, count) = (Arc::clone(&behave), Arc::clone(&count));
                std::thread::spawn(move || {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read(&mut byte) {
                            Ok(1) => head.push(byte[0]),
                            Ok(_) | Err(_) => return,
                        }
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    behave(&String::from_utf8_lossy(&head), &mut stream);
                });
            }
        });
        Peer { address, asked }
    }

    /// One that gives `answer` to every request, and closes.
    pub(crate) fn answering(answer: impl Into<Vec<u8>>) -> Peer {
        let answer = answer.into();
        Peer::start(move |_, stream| {
            let _ = stream.write_all(&answer);
        })
    }

    /// One that never answers, and lets go when it is left; and how often it was.
    pub(crate) fn hanging() -> (Peer, Arc<AtomicUsize>) {
        let left = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&left);
        let peer = Peer::start(move |_, stream| {
            let _ = stream.read(&mut [0]);
            count.fetch_add(1, Ordering::Relaxed);
        });
        (peer, left)
    }

    /// Its URL, without a slash at the end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests came.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}
