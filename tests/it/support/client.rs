//! A client that sends what it is told, byte for byte, and reads what comes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;
use super::frame::{Frame, Opcode};

/// The sample key of RFC 6455 §1.3 and the Accept that answers it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A byte stream: TCP, TLS or Unix.
pub(crate) trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// A request in the making; an upgrade unless told otherwise.
#[derive(Clone)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    pipelined: Vec<u8>,
}

impl Request {
    /// A WebSocket opening handshake for `target`.
    pub(crate) fn upgrade(target: &str) -> Request {
        Request::new("GET", target)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", KEY)
    }

    /// Any request, with a `Host` and nothing else.
    pub(crate) fn new(method: &str, target: &str) -> Request {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: vec![("Host".to_owned(), "gate.test".to_owned())],
            body: Vec::new(),
            pipelined: Vec::new(),
        }
    }

    /// GET of `target`.
    pub(crate) fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    /// One header more; the same name may come again.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `name` with only this value.
    pub(crate) fn replace(self, name: &str, value: &str) -> Request {
        self.without(name).header(name, value)
    }

    /// Without `name`.
    pub(crate) fn without(mut self, name: &str) -> Request {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// With `Cookie: session=TOKEN`.
    pub(crate) fn cookie(self, token: &str) -> Request {
        self.header("Cookie", &format!("session={token}"))
    }

    /// With `Authorization: Bearer TOKEN`.
    pub(crate) fn bearer(self, token: &str) -> Request {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// With `Origin`.
    pub(crate) fn origin(self, origin: &str) -> Request {
        self.header("Origin", origin)
    }

    /// With `Sec-WebSocket-Protocol`.
    pub(crate) fn protocols(self, protocols: &str) -> Request {
        self.header("Sec-WebSocket-Protocol", protocols)
    }

    /// With a body and its `Content-Length`.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.replace("Content-Length", &length)
    }

    /// With `frame` in the same segment as the head.
    pub(crate) fn pipelined(mut self, frame: &Frame) -> Request {
        self.pipelined.extend(frame.masked());
        self
    }

    /// The bytes of the request.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend(format!("{name}: {value}\r\n").bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        bytes.extend(&self.pipelined);
        bytes
    }

    /// Sends the request and reads the whole answer.
    #[track_caller]
    pub(crate) fn send(&self, address: SocketAddr) -> Response {
        let mut stream = dial(address);
        // The gate may answer and end before it has taken everything.
        let _ = stream.write_all(&self.bytes());
        match self.method.as_str() {
            "HEAD" => Response::read_head(&mut stream).expect("an answer"),
            _ => Response::read(&mut stream).expect("an answer"),
        }
    }

    /// Sends the opening handshake, which must be answered with 101.
    #[track_caller]
    pub(crate) fn open(&self, address: SocketAddr) -> Socket {
        self.open_on(dial(address))
    }

    /// The same on a stream of one's own.
    #[track_caller]
    pub(crate) fn open_on(&self, mut stream: impl Stream + 'static) -> Socket {
        stream.write_all(&self.bytes()).expect("the request is taken");
        let head = Response::read_head(&mut stream).expect("an answer");
        assert_eq!(head.status, 101, "to {}: {head:?}", self.target);
        assert_eq!(head.header("sec-websocket-accept"), Some(ACCEPT));
        Socket { head, stream: Box::new(stream), closing: false }
    }

    /// Sends the request and reads only the status of the answer.
    #[track_caller]
    pub(crate) fn status(&self, address: SocketAddr) -> u16 {
        let mut stream = dial(address);
        stream.write_all(&self.bytes()).expect("the request is taken");
        Response::read_head(&mut stream).expect("an answer").status
    }

    /// Opens the connection and waits for the Close that ends it.
    #[track_caller]
    pub(crate) fn closed(&self, address: SocketAddr) -> Closed {
        self.open(address).closed()
    }
}

/// Connects with deadlines.
#[track_caller]
pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the gate listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    stream.set_write_timeout(Some(PATIENCE)).expect("a deadline");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// Sends `bytes` as they are and reads one whole answer.
#[track_caller]
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> Response {
    let mut stream = dial(address);
    // The gate may answer and end before it has taken everything.
    let _ = stream.write_all(bytes);
    Response::read(&mut stream).expect("an answer")
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// The head as it came.
    pub(crate) head: String,
    /// The headers, their names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body; empty for a 101.
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The value of `name`, which must not occur twice.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values =
            self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert_eq!(values.next(), None, "{name} occurs twice");
        first
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// The `error` of a refusal.
    #[track_caller]
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().expect("a text in `error`").to_owned()
    }

    /// Reads up to the blank line, and not a byte more.
    pub(crate) fn read_head(stream: &mut impl Read) -> io::Result<Response> {
        let mut head = Vec::new();
        let mut byte = [0_u8];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte)? == 0 {
                return Err(io::Error::other(format!(
                    "the stream ended in the head: {:?}",
                    String::from_utf8_lossy(&head)
                )));
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| io::Error::other(format!("not a status line: {status}")))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Response { status, head, headers, body: Vec::new() })
    }

    /// Reads a whole answer: by `Content-Length`, in chunks, or to the end.
    pub(crate) fn read(stream: &mut impl Read) -> io::Result<Response> {
        let mut response = Response::read_head(stream)?;
        if response.status == 101 || response.status == 204 || response.status == 304 {
            return Ok(response);
        }
        if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            response.body = vec![0; length];
            stream.read_exact(&mut response.body)?;
        } else if response.header("transfer-encoding").is_some() {
            while let Some(chunk) = read_chunk(stream)? {
                response.body.extend(chunk);
            }
        } else {
            stream.read_to_end(&mut response.body)?;
        }
        Ok(response)
    }
}

/// One chunk (RFC 9112 §7.1); `None` is the last.
pub(crate) fn read_chunk(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut byte = [0_u8];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&line);
    let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
    let mut chunk = vec![0; length + 2];
    stream.read_exact(&mut chunk)?;
    chunk.truncate(length);
    Ok((length > 0).then_some(chunk))
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    /// The close code.
    pub(crate) code: u16,
    /// The close reason.
    pub(crate) reason: String,
    /// The text messages that came before.
    pub(crate) messages: Vec<String>,
}

impl Closed {
    /// Code and reason, for a comparison.
    pub(crate) fn says(&self) -> (u16, &str) {
        (self.code, &self.reason)
    }
}

/// An open WebSocket.
pub(crate) struct Socket {
    /// The 101 and its headers.
    pub(crate) head: Response,
    stream: Box<dyn Stream>,
    closing: bool,
}

impl Socket {
    /// Sends a text message.
    #[track_caller]
    pub(crate) fn send(&mut self, text: &str) {
        self.send_frame(&Frame::text(text));
    }

    /// Sends one frame.
    #[track_caller]
    pub(crate) fn send_frame(&mut self, frame: &Frame) {
        self.closing |= frame.opcode == Opcode::Close;
        self.send_bytes(&frame.masked());
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the gate takes the bytes");
    }

    /// Sends bytes; whether they were taken.
    pub(crate) fn try_send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame, whatever it is; `None` at the end of the stream.
    pub(crate) fn read_frame(&mut self) -> io::Result<Option<Frame>> {
        Frame::read(&mut self.stream)
    }

    /// The next data frame; a ping on the way is answered.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Frame {
        loop {
            let frame = self.read_frame().expect("a frame").expect("not the end");
            match frame.opcode {
                Opcode::Ping => self.send_frame(&Frame::new(Opcode::Pong, frame.payload)),
                Opcode::Pong => {}
                Opcode::Close => panic!("a Close in place of a message: {frame:?}"),
                Opcode::Continuation | Opcode::Text | Opcode::Binary => return frame,
            }
        }
    }

    /// The next message, which must be text in one frame.
    #[track_caller]
    pub(crate) fn text(&mut self) -> String {
        let frame = self.receive();
        assert_eq!((frame.fin, frame.opcode), (true, Opcode::Text), "{frame:?}");
        frame.as_text().to_owned()
    }

    /// The next message, as JSON.
    #[track_caller]
    pub(crate) fn json(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.text()).expect("a JSON message")
    }

    /// Sends `text` and expects an echo of it.
    #[track_caller]
    pub(crate) fn echoes(&mut self, text: &str) {
        self.send(text);
        assert_eq!(self.text(), text);
    }

    /// Reads to the Close, answers it as a client does, and waits for the end
    /// of the stream.
    #[track_caller]
    pub(crate) fn closed(self) -> Closed {
        self.closed_answering(true)
    }

    /// The same by a client that answers no ping.
    #[track_caller]
    pub(crate) fn closed_without_pongs(self) -> Closed {
        self.closed_answering(false)
    }

    #[track_caller]
    fn closed_answering(mut self, pings: bool) -> Closed {
        let mut messages = Vec::new();
        loop {
            let frame = match self.read_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => panic!("the stream ended without a Close, after {messages:?}"),
                Err(error) => panic!("no Close: {error}, after {messages:?}"),
            };
            match frame.opcode {
                Opcode::Ping if pings => {
                    let _ = self.try_send_bytes(&Frame::new(Opcode::Pong, frame.payload).masked());
                }
                Opcode::Close => {
                    assert!(frame.payload.len() >= 2, "a Close without a code");
                    let code = u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
                    let reason = String::from_utf8(frame.payload[2..].to_vec()).expect("UTF-8");
                    if !self.closing {
                        let _ = self.try_send_bytes(&frame.masked());
                    }
                    let mut rest = Vec::new();
                    let end = self.stream.read_to_end(&mut rest);
                    assert!(rest.is_empty(), "bytes behind the Close: {rest:?}");
                    assert!(
                        !end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock),
                        "the stream did not end after the closing handshake"
                    );
                    return Closed { code, reason, messages };
                }
                Opcode::Ping | Opcode::Pong => {}
                Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                    messages.push(String::from_utf8_lossy(&frame.payload).into_owned());
                }
            }
        }
    }

    /// Expects the stream to end without a Close.
    #[track_caller]
    pub(crate) fn ends_without_close(mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("the stream did not end")
            }
            _ => {}
        }
        assert!(!rest.contains(&0x88), "a Close inside a frame: {rest:?}");
    }

    /// Closes with 1000 and expects the answer.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.send_frame(&Frame::close(1000, ""));
        assert_eq!(self.closed().code, 1000);
    }
}

/// A stream whose reads give up early: to assert that nothing comes.
pub(crate) fn nothing_comes(stream: &mut TcpStream, within: Duration) {
    stream.set_read_timeout(Some(within)).expect("a deadline");
    let mut byte = [0_u8];
    match stream.read(&mut byte) {
        Ok(0) => {}
        Ok(_) => panic!("the byte {:#x} came", byte[0]),
        Err(error) => {
            let waited = matches!(
                error.kind(),
                io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::ConnectionReset
            );
            assert!(waited, "{error}");
        }
    }
}
