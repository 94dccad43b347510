//! Hostile clients and odd upstreams against the real binary: each test is
//! named for what must not happen again.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The running binary; killed when dropped.
struct Gate {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Gate {
    /// Starts the binary on `policy` and `limits`, in front of `upstream`.
    fn start(upstream: SocketAddr, limits: &str) -> Gate {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gate.yaml");
        let config = format!(
            "server: {{ listen: '127.0.0.1:0' }}\n\
             admin: {{ listen: '127.0.0.1:0' }}\n\
             limits: {{ {limits} }}\n\
             verifiers:\n  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256], leeway: 0s }} }}\n\
             policies:\n\
             \x20 members: {{ credentials: [ {{ query: token, verifier: app }} ] }}\n\
             \x20 message:\n    credentials:\n\
             \x20     - {{ message: {{ where: {{ /type: auth }}, token: /token }}, verifier: app }}\n\
             routes:\n\
             \x20 - {{ path: /ws/*, policy: members, upstream: 'ws://{upstream}' }}\n\
             \x20 - {{ path: /message/*, policy: message, upstream: 'ws://{upstream}' }}\n\
             \x20 - {{ path: '/*', policy: public, upstream: 'http://{upstream}' }}\n"
        );
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sockgate"))
            .arg("--config")
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line: serde_json::Value =
                serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if line["listener"] == "server" {
                break line["address"].as_str().unwrap().parse().unwrap();
            }
        };
        thread::spawn(move || lines.for_each(drop));
        Gate { child, address, _directory: directory }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Client(stream)
    }

    /// A client that has been served a public page.
    fn connect_after_page(&self) -> Client {
        let mut client = self.connect();
        assert_eq!(client.get("/page").status(), 200);
        client
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client(TcpStream);

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        self.0.write_all(bytes.as_ref()).unwrap();
        self
    }

    fn upgrade(&mut self, target: &str) -> &mut Client {
        self.send(format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        ))
    }

    fn get(&mut self, target: &str) -> &mut Client {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
    }

    /// The status of a response whose body is of a known length.
    fn status(&mut self) -> u16 {
        let head = read_head(&mut self.0).unwrap();
        let length = header(&head, "content-length").map_or(0, |value| value.parse().unwrap());
        self.0.read_exact(&mut vec![0; length]).unwrap();
        head[9..12].parse().unwrap()
    }

    /// Opcode and payload of the next frame.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        let length = match head[1] & 0x7f {
            126 => {
                let mut length = [0; 2];
                self.0.read_exact(&mut length).unwrap();
                usize::from(u16::from_be_bytes(length))
            }
            127 => panic!("a frame of that size is not expected here"),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).unwrap();
        (head[0] & 0x0f, payload)
    }

    /// How long until the stream ends, whatever it brings.
    fn lives(&mut self) -> Duration {
        let start = Instant::now();
        let mut sink = [0; 4096];
        while !matches!(self.0.read(&mut sink), Ok(0) | Err(_)) {
            if start.elapsed() > Duration::from_secs(10) {
                break;
            }
        }
        start.elapsed()
    }
}

/// A server that answers each connection with `serve`.
fn upstream(serve: fn(TcpStream) -> std::io::Result<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head).unwrap())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Answers plain requests with what they were, and echoes frames unmasked.
fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let head = read_head(&mut stream)?;
        let Some(key) = header(&head, "sec-websocket-key") else {
            let length = header(&head, "content-length").map_or(0, |value| value.parse().unwrap());
            stream.read_exact(&mut vec![0; length])?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            continue;
        };
        let accept = sockgate::handshake::accept_for(key.as_bytes());
        let switching = format!(
            "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            accept.to_str().unwrap()
        );
        stream.write_all(switching.as_bytes())?;
        loop {
            let mut head = [0; 2];
            stream.read_exact(&mut head)?;
            let mut extended = [0; 8];
            let width = match head[1] & 0x7f {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            stream.read_exact(&mut extended[8 - width..])?;
            let length = match width {
                0 => usize::from(head[1] & 0x7f),
                _ => u64::from_be_bytes(extended) as usize,
            };
            let mut mask = [0; 4];
            stream.read_exact(&mut mask)?;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload)?;
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            stream.write_all(&[head[0], head[1] & 0x7f])?;
            stream.write_all(&extended[8 - width..])?;
            stream.write_all(&payload)?;
        }
    }
}

/// A masked client frame; the mask is zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

fn token(subject: &str, seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    jsonwebtoken::encode(
        &jsonwebtoken::Header::default(),
        &serde_json::json!({ "sub": subject, "exp": now + seconds }),
        &jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes()),
    )
    .unwrap()
}

#[test]
fn a_stream_in_place_of_a_101_ends_with_the_login() {
    fn endless(mut stream: TcpStream) -> std::io::Result<()> {
        read_head(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")?;
        loop {
            stream.write_all(b"data: x\n\n")?;
            thread::sleep(Duration::from_millis(50));
        }
    }
    let gate = Gate::start(upstream(endless), "");
    let lived = gate.connect().upgrade(&format!("/ws/a?token={}", token("ada", 2))).lives();
    assert!(lived < Duration::from_secs(5), "{lived:?}");
}

#[test]
fn a_101_that_nobody_asked_for_is_a_bad_gateway() {
    fn switches(mut stream: TcpStream) -> std::io::Result<()> {
        read_head(&mut stream)?;
        stream.write_all(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nraw")
    }
    let gate = Gate::start(upstream(switches), "");
    assert_eq!(gate.connect().get("/page").status(), 502);
}

#[test]
fn a_public_page_does_not_open_the_way_past_the_unauthenticated_limit() {
    let gate = Gate::start(upstream(echo), "connections: 20, unauthenticated: 3");
    let mut clients: Vec<Client> = (0..5).map(|_| gate.connect_after_page()).collect();
    let statuses: Vec<u16> =
        clients.iter_mut().map(|client| client.upgrade("/message/a").status()).collect();
    assert_eq!(statuses, [101, 101, 101, 503, 503]);
}

/// What a client sees of a second login that it sends as `frames`.
fn after_second_login(gate: &Gate, frames: &[u8]) -> (u8, Vec<u8>) {
    let login = |who| serde_json::json!({ "type": "auth", "token": token(who, 60) }).to_string();
    let mut client = gate.connect();
    client.upgrade("/message/a").status();
    client.send(frame(0x81, login("ada").as_bytes())).send(frame(0x81, b"first"));
    assert_eq!(client.frame(), (1, b"first".to_vec()));
    // The gate may close while it is still being sent to.
    let _ = client.0.write_all(frames);
    // Parts that say nothing may pass before the message shows what it is.
    loop {
        let (opcode, payload) = client.frame();
        assert!(opcode != 0 || !payload.windows(4).any(|part| part == b"auth"));
        if opcode == 8 || payload.len() > 100 {
            return (opcode, payload);
        }
    }
}

#[test]
fn a_second_login_does_not_reach_the_upstream_by_being_large_or_strange() {
    let gate = Gate::start(upstream(echo), "");
    let login = serde_json::json!({ "token": token("eve", 60), "type": "auth" }).to_string();
    let (begun, end) = login.split_at(5);
    let fragments = |count: usize| {
        let empty = frame(0x00, b"").repeat(count);
        [frame(0x01, begun.as_bytes()), empty, frame(0x80, end.as_bytes())].concat()
    };
    let cases = [
        frame(0x81, format!("{}{login}", " ".repeat(20_000)).as_bytes()),
        frame(0x82, format!("{{\"pad\":\"{}\",{}", "x".repeat(99_999), &login[1..]).as_bytes()),
        [frame(0x01, login.as_bytes()), frame(0x80, &[b' '; 20_000])].concat(),
        fragments(6000),
    ];
    let closed = |frames: &[u8]| {
        let (opcode, payload) = after_second_login(&gate, frames);
        (opcode == 8).then(|| u16::from_be_bytes([payload[0], payload[1]]))
    };
    for frames in cases {
        assert_eq!(closed(&frames), Some(4001));
    }
    // Few enough to be put together: then it is a login, and somebody else's.
    assert_eq!(closed(&fragments(3000)), Some(4003));
    assert_eq!(closed(&frame(0xc1, login.as_bytes())), Some(1002));
}

#[test]
fn a_large_message_that_is_no_login_passes() {
    let gate = Gate::start(upstream(echo), "");
    let message = format!("{{\"type\":\"chat\",\"text\":\"{}\"}}", "auth".repeat(9_000));
    assert_eq!(after_second_login(&gate, &frame(0x81, message.as_bytes())), (1, message.into()));
}

#[test]
fn an_upload_that_moves_may_take_longer_than_the_body_timeout() {
    let gate = Gate::start(upstream(echo), "http_body_timeout: 1s");
    let mut moves = gate.connect();
    moves.send("POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(500));
        moves.send("x");
    }
    assert_eq!(moves.status(), 200);
    let mut stalls = gate.connect();
    stalls.send("POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nxx");
    assert_eq!(stalls.status(), 408);
}

#[test]
fn a_bad_head_in_the_pipeline_spares_the_request_before_it() {
    let gate = Gate::start(upstream(echo), "");
    let mut client = gate.connect();
    client.send("GET /page HTTP/1.1\r\nHost: a\r\n\r\nGET /page HTTP/1.1\r\nHost : a\r\n\r\n");
    assert_eq!((client.status(), client.status()), (200, 400));
}
