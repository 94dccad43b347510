//! Servers behind the gate: they know nothing of auth, remember what reached
//! them, and misbehave on demand.
//!
//! The last segment of the path says how a connection is served:
//! `echo` (and anything unknown) sends each frame back; `close-4321` closes with
//! that code; `hesitate-N` upgrades after N ms; `drop` ends the stream after the 101; `drop-in-frame` ends it
//! inside a frame; `deaf` upgrades and never reads; `silent` never answers;
//! `answer-403` refuses with that status; `fields-N` answers with N header fields
//! more; `wrong-accept`, `no-accept`, `unoffered-protocol`, `unoffered-extension`,
//! `nameless-extension` answer an unsound 101; `length` one with a Content-Length,
//! which it must not have; `greet` sends a message in the segment of the 101;
//! `push-N` sends a binary message of N bytes; `hex-…` sends those bytes; `slow-N`
//! sends the message of N bytes one byte at a time; `ping` starts with a ping;
//! `flood` sends messages for ever and never reads; `parting` answers a Close with a ping,
//! 150,000 bytes and its own Close. An echo that is told `hang up`
//! ends the stream between two frames. Plain HTTP: `sse` streams three events, the
//! later two as the test releases them; `later-N` answers after N ms; `await` never
//! answers, and `await-stream` streams one event, until the connection ends;
//! anything else tells in JSON what the request was.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::PATIENCE;
use super::client::{Stream, read_chunk};
use super::eventually;
use super::frame::{Frame, Opcode};

/// One request as the upstream saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// On which connection, counted from 0.
    pub(crate) connection: usize,
    /// The whole head as it came.
    pub(crate) head: String,
    /// The method.
    pub(crate) method: String,
    /// The request target.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
}

impl Seen {
    /// The value of `name`, which must not occur twice.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let values = self.headers(name);
        assert!(values.len() < 2, "{name} occurs twice:\n{}", self.head);
        values.first().copied()
    }

    /// All values of `name`, compared without case.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The last segment of the path.
    fn manner(&self) -> &str {
        let path = self.target.split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

#[derive(Default)]
struct Memory {
    connections: usize,
    seen: Vec<Seen>,
    messages: Vec<String>,
    closes: Vec<Option<u16>>,
    flooded: usize,
    released: usize,
}

/// A port of loopback on which nothing listens: bound, so that no other test
/// can get it.
pub(crate) struct Nobody(socket2::Socket);

impl Nobody {
    /// Takes a free port.
    pub(crate) fn there() -> Nobody {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        Nobody(socket)
    }

    /// `ws://…`
    pub(crate) fn ws(&self) -> String {
        let address = self.0.local_addr().expect("bound").as_socket().expect("TCP");
        format!("ws://{address}")
    }
}

/// A server on a free port of loopback, or on a Unix socket.
pub(crate) struct Upstream {
    address: SocketAddr,
    memory: Arc<Mutex<Memory>>,
}

impl Upstream {
    /// Starts one on TCP.
    pub(crate) fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let memory = Arc::new(Mutex::new(Memory::default()));
        let shared = Arc::clone(&memory);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = stream.set_nodelay(true);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
                serve_aside(stream, &shared);
            }
        });
        Upstream { address, memory }
    }

    /// Starts one on a Unix socket.
    pub(crate) fn start_unix(path: &Path) -> Upstream {
        let listener = UnixListener::bind(path).expect("a free path");
        let memory = Arc::new(Mutex::new(Memory::default()));
        let shared = Arc::clone(&memory);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve_aside(stream, &shared);
            }
        });
        Upstream { address: SocketAddr::from(([0, 0, 0, 0], 0)), memory }
    }

    /// Starts one behind TLS.
    pub(crate) fn start_tls(config: Arc<rustls::ServerConfig>) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let memory = Arc::new(Mutex::new(Memory::default()));
        let shared = Arc::clone(&memory);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let session =
                    rustls::ServerConnection::new(Arc::clone(&config)).expect("a session");
                serve_aside(rustls::StreamOwned::new(session, stream), &shared);
            }
        });
        Upstream { address, memory }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `ws://…`
    pub(crate) fn ws(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// `http://…`
    pub(crate) fn http(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests that came through, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.memory.lock().expect("no server died").seen.clone()
    }

    /// The last request that came through.
    #[track_caller]
    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().expect("a request that came through")
    }

    /// Fails if anything came through.
    #[track_caller]
    pub(crate) fn saw_nothing(&self) {
        let seen = self.seen();
        assert!(seen.is_empty(), "the upstream saw {seen:#?}");
    }

    /// The text messages that came through, in order.
    pub(crate) fn messages(&self) -> Vec<String> {
        self.memory.lock().expect("no server died").messages.clone()
    }

    /// How each finished WebSocket (or `await`) ended for the upstream: the close
    /// code, or `None` for an end without Close.
    pub(crate) fn closes(&self) -> Vec<Option<u16>> {
        self.memory.lock().expect("no server died").closes.clone()
    }

    /// The bytes of payload that `flood` could send so far.
    pub(crate) fn flooded(&self) -> usize {
        self.memory.lock().expect("no server died").flooded
    }

    /// Lets `sse` send one event more.
    pub(crate) fn release(&self) {
        self.memory.lock().expect("no server died").released += 1;
    }

    /// Waits for the first WebSocket to end and says how.
    #[track_caller]
    pub(crate) fn close(&self) -> Option<u16> {
        eventually("the upstream's socket ends", || !self.closes().is_empty());
        self.closes()[0]
    }
}

fn serve_aside(mut stream: impl Stream + 'static, memory: &Arc<Mutex<Memory>>) {
    let memory = Arc::clone(memory);
    std::thread::spawn(move || {
        let connection = {
            let mut memory = memory.lock().expect("no server died");
            memory.connections += 1;
            memory.connections - 1
        };
        // A client that goes away is not this server's failure.
        while let Ok(true) = serve(&mut stream, connection, &memory) {}
    });
}

/// Serves one request; whether another may follow.
fn serve(stream: &mut impl Stream, connection: usize, memory: &Mutex<Memory>) -> io::Result<bool> {
    let Some(seen) = read_request(stream, connection)? else { return Ok(false) };
    memory.lock().expect("no server died").seen.push(seen.clone());
    if seen.header("upgrade").is_some() {
        serve_upgrade(stream, &seen, memory)?;
        return Ok(false);
    }
    serve_http(stream, &seen, memory)
}

fn read_request(stream: &mut impl Read, connection: usize) -> io::Result<Option<Seen>> {
    let mut head = Vec::new();
    let mut byte = [0_u8];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n");
    let mut start = lines.next().unwrap_or_default().split(' ');
    let method = start.next().unwrap_or_default().to_owned();
    let target = start.next().unwrap_or_default().to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Ok(Some(Seen { connection, head, method, target, headers }))
}

fn serve_http(stream: &mut impl Stream, seen: &Seen, memory: &Mutex<Memory>) -> io::Result<bool> {
    let mut body = Vec::new();
    if let Some(length) = seen.header("content-length").and_then(|text| text.parse().ok()) {
        body = vec![0; length];
        stream.read_exact(&mut body)?;
    } else if seen.header("transfer-encoding").is_some() {
        while let Some(chunk) = read_chunk(stream)? {
            body.extend(chunk);
        }
    }
    if let Some(wait) = seen.manner().strip_prefix("later-") {
        std::thread::sleep(Duration::from_millis(wait.parse().map_err(io::Error::other)?));
    }
    match seen.manner() {
        "await" | "await-stream" => {
            if seen.manner() == "await-stream" {
                stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                      Transfer-Encoding: chunked\r\n\r\n4\r\n: 1\n\r\n",
                )?;
            }
            // An error is an end too.
            let _ = stream.read(&mut [0]);
            memory.lock().expect("no server died").closes.push(None);
            Ok(false)
        }
        "sse" => {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                  Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            for (number, event) in ["one", "two", "three"].iter().enumerate() {
                eventually("the test releases the next event", || {
                    memory.lock().expect("no server died").released >= number
                });
                let text = format!("data: {event}\n\n");
                write!(stream, "{:x}\r\n{text}\r\n", text.len())?;
                stream.flush()?;
            }
            stream.write_all(b"0\r\n\r\n")?;
            Ok(true)
        }
        "silent" => {
            std::thread::sleep(PATIENCE);
            Ok(false)
        }
        manner if manner.starts_with("fields-") => {
            let fields = fields(manner);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n{fields}\r\ntold")?;
            Ok(true)
        }
        manner if manner.starts_with("answer-") => {
            let status = manner.trim_start_matches("answer-");
            write!(
                stream,
                "HTTP/1.1 {status} Told\r\nContent-Length: 4\r\nX-Told: yes\r\n\r\ntold"
            )?;
            Ok(true)
        }
        _ => {
            let report = json!({
                "method": seen.method,
                "target": seen.target,
                "headers": seen.headers,
                "body": String::from_utf8_lossy(&body),
            })
            .to_string();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Served-By: upstream\r\n\
                 Content-Length: {}\r\n\r\n",
                report.len()
            )?;
            if seen.method != "HEAD" {
                stream.write_all(report.as_bytes())?;
            }
            Ok(true)
        }
    }
}

fn serve_upgrade(stream: &mut impl Stream, seen: &Seen, memory: &Mutex<Memory>) -> io::Result<()> {
    let manner = seen.manner();
    let accept = accept_of(seen.header("sec-websocket-key").unwrap_or_default());
    let mut answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                      Connection: Upgrade\r\n"
        .to_owned();
    answer.push_str(&fields(manner));
    match manner {
        "no-accept" => {}
        "wrong-accept" => answer.push_str("Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"),
        _ => answer.push_str(&format!("Sec-WebSocket-Accept: {accept}\r\n")),
    }
    match manner {
        "unoffered-protocol" => answer.push_str("Sec-WebSocket-Protocol: surprise\r\n"),
        "unoffered-extension" => answer.push_str("Sec-WebSocket-Extensions: surprise\r\n"),
        "nameless-extension" => answer.push_str("Sec-WebSocket-Extensions: ;x\r\n"),
        "length" => answer.push_str("Content-Length: 5\r\nX-Kept: yes\r\n"),
        _ => {
            if let Some(offered) = seen.header("sec-websocket-protocol") {
                let first = offered.split(',').next().unwrap_or_default().trim();
                answer.push_str(&format!("Sec-WebSocket-Protocol: {first}\r\n"));
            }
            if let Some(offered) = seen.header("sec-websocket-extensions")
                && offered.contains("permessage-deflate")
            {
                answer.push_str("Sec-WebSocket-Extensions: permessage-deflate\r\n");
            }
        }
    }
    answer.push_str("\r\n");
    let mut answer = answer.into_bytes();
    let mut closing = false;
    match manner.split_once('-').unwrap_or((manner, "")) {
        ("silent", _) => {
            std::thread::sleep(PATIENCE);
            return Ok(());
        }
        ("answer", status) => {
            return write!(
                stream,
                "HTTP/1.1 {status} Told\r\nContent-Length: 4\r\nX-Told: yes\r\n\r\ntold"
            );
        }
        ("close", code) => {
            let code = code.parse().map_err(io::Error::other)?;
            answer.extend(Frame::close(code, "told so").unmasked());
            stream.write_all(&answer)?;
            closing = true;
        }
        ("drop", "in-frame") => {
            answer.extend(b"\x81\x7dhalf of it");
            return stream.write_all(&answer);
        }
        ("drop", _) => return stream.write_all(&answer),
        ("deaf", _) => {
            stream.write_all(&answer)?;
            std::thread::sleep(4 * PATIENCE);
            return Ok(());
        }
        ("greet", _) => {
            answer.extend(Frame::text("welcome").unmasked());
            stream.write_all(&answer)?;
        }
        ("push", length) => {
            let length = length.parse().map_err(io::Error::other)?;
            answer.extend(Frame::new(Opcode::Binary, vec![b'x'; length]).unmasked());
            stream.write_all(&answer)?;
        }
        ("hex", bytes) => {
            answer.extend(unhex(bytes)?);
            stream.write_all(&answer)?;
        }
        ("hesitate", millis) => {
            let millis = millis.parse().map_err(io::Error::other)?;
            std::thread::sleep(Duration::from_millis(millis));
            stream.write_all(&answer)?;
        }
        ("ping", _) => {
            answer.extend(Frame::new(Opcode::Ping, "from the upstream").unmasked());
            stream.write_all(&answer)?;
        }
        ("flood", _) => {
            stream.write_all(&answer)?;
            let frame = Frame::new(Opcode::Binary, vec![b'x'; 65_000]).unmasked();
            while stream.write_all(&frame).is_ok() {
                memory.lock().expect("no server died").flooded += 65_000;
            }
            memory.lock().expect("no server died").closes.push(None);
            return Ok(());
        }
        ("parting", _) => {
            stream.write_all(&answer)?;
            while Frame::read(stream)?.is_some_and(|frame| frame.opcode != Opcode::Close) {}
            let last = Frame::new(Opcode::Binary, vec![b'x'; 150_000]);
            for frame in [Frame::new(Opcode::Ping, ""), last, Frame::close(1000, "")] {
                stream.write_all(&frame.unmasked())?;
            }
            return Ok(());
        }
        ("slow", length) => {
            let length = length.parse().map_err(io::Error::other)?;
            stream.write_all(&answer)?;
            for byte in Frame::new(Opcode::Binary, vec![b'x'; length]).unmasked() {
                stream.write_all(&[byte])?;
                stream.flush()?;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        _ => stream.write_all(&answer)?,
    }
    let close = echo(stream, memory, closing);
    memory.lock().expect("no server died").closes.push(close);
    Ok(())
}

/// Sends every frame back as it came, but unmasked, until the Close; its code.
/// If this side is already `closing`, that Close is the answer and the end.
fn echo(stream: &mut impl Stream, memory: &Mutex<Memory>, closing: bool) -> Option<u16> {
    while let Ok(Some(frame)) = Frame::read(stream) {
        match frame.opcode {
            Opcode::Close => {
                if !closing {
                    let _ = stream.write_all(&frame.unmasked());
                    let _ = stream.flush();
                }
                let code = frame.payload.first_chunk::<2>();
                return Some(code.map_or(1005, |code| u16::from_be_bytes(*code)));
            }
            Opcode::Ping => {
                let pong = Frame::new(Opcode::Pong, frame.payload);
                stream.write_all(&pong.unmasked()).ok()?;
            }
            Opcode::Pong => {
                memory.lock().expect("no server died").messages.push("(pong)".to_owned());
            }
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                if frame.payload == b"hang up" {
                    return None;
                }
                if frame.opcode == Opcode::Text {
                    let text = String::from_utf8_lossy(&frame.payload).into_owned();
                    memory.lock().expect("no server died").messages.push(text);
                }
                stream.write_all(&frame.unmasked()).ok()?;
            }
        }
        stream.flush().ok()?;
    }
    None
}

/// The lines of `fields-N`; none of anything else.
fn fields(manner: &str) -> String {
    let count = manner.strip_prefix("fields-").and_then(|count| count.parse().ok()).unwrap_or(0);
    (0..count).map(|number: usize| format!("x{number}: v\r\n")).collect()
}

fn accept_of(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

fn unhex(text: &str) -> io::Result<Vec<u8>> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).map_err(io::Error::other);
    (0..text.len()).step_by(2).map(byte).collect()
}
