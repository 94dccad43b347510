//! Sessions that an application keeps: the same suite for every store, each a real
//! one, and what each has of its own; then real applications.

mod apps;
mod postgres;
mod redis;
mod sqlite;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use serde_json::Value;

use super::support::{Gate, Request, SECRET, Upstream, canary, eventually, token, unix_now};

const INVALID: (u16, &str) = (4001, "invalid_credential");
const EXPIRED: (u16, &str) = (4002, "expired");
const UNAVAILABLE: (u16, &str) = (1013, "verifier_unavailable");

/// A session store as the suite uses it.
trait Bench {
    /// The keys of `session` but for `timeout`, in flow style.
    fn session(&self) -> String;

    /// Keeps a session of `user` under `id` that ends at `ends`, Unix seconds, with
    /// so much text beside.
    fn put(&self, id: &str, user: Option<&str>, ends: i64, padding: usize);

    /// Keeps something under `id` that is no session.
    fn spoil(&self, id: &str);

    /// Has the store go away.
    fn stop(&mut self);

    /// Has it come back; what it held may be gone.
    fn restart(&mut self);
}

/// Each verifier `name` with the keys of its `session`, asked by the cookie `session`
/// at `/ws/name`, and `/local` with a verifier that needs nobody.
fn config(sessions: &[(&str, &str)], upstream: &Upstream) -> String {
    let each = |line: &dyn Fn(&str, &str) -> String| {
        sessions.iter().map(|(name, session)| line(name, session)).collect::<String>()
    };
    let upstream = upstream.ws();
    format!(
        r#"
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
{}policies:
  locals: {{ credentials: [{{ cookie: session, verifier: app }}] }}
{}identity:
  headers:
    X-Forwarded-User: identity.subject
    X-Method: identity.method
    X-Session: identity.session
    X-Name: identity.claims.name
routes:
  - {{ path: /local, policy: locals, upstream: "{upstream}" }}
{}"#,
        each(&|name, session| format!("  {name}: {{ session: {{ {session} }} }}\n")),
        each(&|name, _| {
            let credentials = format!("[{{ cookie: session, verifier: {name} }}]");
            format!("  {name}: {{ credentials: {credentials} }}\n")
        }),
        each(&|name, _| {
            format!("  - {{ path: \"/ws/{name}/*\", policy: {name}, upstream: \"{upstream}\" }}\n")
        }),
    )
}

/// What a client with this id is told, by the close code and by the log.
#[track_caller]
fn refused(gate: &Gate, name: &str, id: &str) -> (u16, String) {
    let path = format!("/ws/{name}/{}", unique());
    let closed = Request::upgrade(&path).cookie(id).closed(gate.address());
    (closed.code, gate.reason(&path))
}

fn unique() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[track_caller]
fn is(said: (u16, String), expected: (u16, &str), what: &str) {
    assert_eq!((said.0, said.1.as_str()), expected, "{what}");
}

#[track_caller]
fn opens(gate: &Gate, name: &str, id: &str) {
    let path = format!("/ws/{name}/{}", unique());
    Request::upgrade(&path).cookie(id).open(gate.address()).echoes("hello");
}

/// Whether the id opens a WebSocket, whatever it is told if not.
fn admits(gate: &Gate, name: &str, id: &str) -> bool {
    let path = format!("/ws/{name}/{}", unique());
    let mut socket = Request::upgrade(&path).cookie(id).open(gate.address());
    socket.send("hello");
    matches!(socket.read_frame(), Ok(Some(frame)) if frame.payload == b"hello")
}

/// What every session store does.
fn suite(bench: &mut dyn Bench) {
    let upstream = Upstream::start();
    let gate = Gate::start(&config(&[("own", &bench.session())], &upstream));
    let id = |name: &str| canary(&format!("canary-session-{name}-{}", unique()));
    let later = unix_now() + 600;

    let [good, expired, nobody, spoilt, huge, absent] =
        ["good", "expired", "nobody", "spoilt", "huge", "absent"].map(id);
    bench.put(&good, Some("alice"), later, 0);
    bench.put(&expired, Some("alice"), unix_now() - 5, 0);
    bench.put(&nobody, None, later, 0);
    bench.put(&huge, Some("alice"), later, (1 << 20) + 1000);
    bench.spoil(&spoilt);

    opens(&gate, "own", &good);
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("alice"));
    assert_eq!(seen.header("x-method"), Some("session"));
    assert_eq!(seen.header("x-name"), Some("Name of alice"));
    assert_eq!(seen.header("x-session"), Some(&*good));
    assert_eq!(seen.header("cookie"), None);
    let seen = upstream.seen().len();

    is(refused(&gate, "own", &absent), INVALID, "absent");
    is(refused(&gate, "own", &absent), INVALID, "absent, from memory");
    is(refused(&gate, "own", &expired), EXPIRED, "expired");
    is(refused(&gate, "own", &nobody), INVALID, "nobody");
    is(refused(&gate, "own", &spoilt), INVALID, "no session");
    is(refused(&gate, "own", &good[..good.len() - 1]), INVALID, "part of an id");
    for strange in ["'", "' OR '1'='1", "%00", "*", "../x", "\u{fc}", "$1", "{}"] {
        let (code, reason) = refused(&gate, "own", strange);
        assert_eq!(code, 4001, "{strange}: {reason}");
    }
    let (code, reason) = refused(&gate, "own", &huge);
    assert!([4001, 1013].contains(&code), "{code} {reason}");
    assert_eq!(upstream.seen().len(), seen);
    opens(&gate, "own", &good);

    // The session ends while the connection lives.
    let brief = id("brief");
    bench.put(&brief, Some("alice"), unix_now() + 2, 0);
    let mut live = Request::upgrade("/ws/own/brief").cookie(&brief).open(gate.address());
    live.echoes("hello");

    let degraded = || gate.ask("/readyz").json()["degraded"].clone();
    assert_eq!(degraded(), serde_json::json!([]));
    bench.stop();
    for _ in 0..2 {
        let began = Instant::now();
        is(refused(&gate, "own", &good), UNAVAILABLE, "down");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    Request::upgrade("/local").cookie(&token("bob")).open(gate.address()).echoes("hello");
    assert_eq!(live.closed().says(), (4002, "Session expired"));
    bench.restart();
    bench.put(&good, Some("alice"), later, 0);
    assert_eq!(degraded(), serde_json::json!(["own"]));
    eventually("sessions are found again", || admits(&gate, "own", &good));
    assert_eq!(degraded(), serde_json::json!([]));
}

/// Servers that are none: whoever asks them is told in time, and nobody else waits.
fn misbehaving(session: impl Fn(SocketAddr) -> String) {
    let silent = peer(|_| std::thread::sleep(Duration::from_secs(20)));
    let foreign = peer(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let endless = peer(|stream| {
        let _ = stream.write_all(b"$999999999\r\n");
        while stream.write_all(&[b'A'; 65536]).is_ok() {}
    });
    let brusque = peer(|_| {});
    let upstream = Upstream::start();
    let peers =
        [("silent", silent), ("foreign", foreign), ("endless", endless), ("brusque", brusque)];
    let sessions: Vec<(&str, String)> = peers
        .into_iter()
        .map(|(name, address)| (name, format!("{}, timeout: 700ms", session(address))))
        .collect();
    let sessions: Vec<(&str, &str)> =
        sessions.iter().map(|(name, session)| (*name, session.as_str())).collect();
    let gate = Gate::start(&config(&sessions, &upstream));
    for (name, _) in &sessions {
        let id = canary(&format!("canary-session-{name}-{}", unique()));
        std::thread::scope(|scope| {
            let began = Instant::now();
            let asking = scope.spawn(|| refused(&gate, name, &id));
            let local = Request::upgrade("/local").cookie(&token("bob"));
            local.open(gate.address()).echoes("hello");
            let meanwhile = began.elapsed();
            is(asking.join().expect("told"), UNAVAILABLE, name);
            assert!(began.elapsed() < Duration::from_secs(3), "{name}: {:?}", began.elapsed());
            assert!(meanwhile < Duration::from_secs(2), "{name}: {meanwhile:?}");
        });
    }
    assert_eq!(upstream.seen().len(), sessions.len());
}

/// A server that does this with every connection.
fn peer(behave: impl Fn(&mut std::net::TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let behave = std::sync::Arc::new(behave);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let behave = std::sync::Arc::clone(&behave);
            std::thread::spawn(move || behave(&mut stream));
        }
    });
    address
}

/// An authority, and a certificate of `name` or address with its key: all PEM.
fn certificates(name: &str) -> (String, String, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "the authority of a test");
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, key).expect("signed");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.subject_alt_names.push(match name.parse() {
        Ok(ip) => SanType::IpAddress(ip),
        Err(_) => SanType::DnsName(name.try_into().expect("a name")),
    });
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &authority).expect("signed");
    (authority.pem(), certificate.pem(), key.serialize_pem())
}

/// The first line of the log that holds `text`.
fn logged(gate: &Gate, text: &str) -> Value {
    gate.line(text, |line| line.to_string().contains(text))
}
