//! Thousands of clients that wait for their end, and remember how and when it came.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::eventually;

/// How many of them open at once.
const OPENING: usize = 64;

/// How a client's connection ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Which client, counted from 0.
    pub(crate) number: usize,
    /// The code of the Close; none if there was none.
    pub(crate) code: Option<u16>,
    /// Its reason.
    pub(crate) reason: String,
    /// When the Close came, or the end of the stream.
    pub(crate) at: Instant,
}

/// The clients.
pub(crate) struct Crowd {
    runtime: Runtime,
    clients: JoinSet<()>,
    ends: Arc<Mutex<Vec<End>>>,
    number: usize,
}

impl Crowd {
    /// Nobody yet.
    pub(crate) fn new() -> Crowd {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        Crowd { runtime, clients: JoinSet::new(), ends: Arc::default(), number: 0 }
    }

    /// Opens `number` connections to `gate`, each with the bytes that `request` gives
    /// for it; all must be answered 101.
    #[track_caller]
    pub(crate) fn open(
        &mut self,
        gate: SocketAddr,
        number: usize,
        request: impl Fn(usize) -> Vec<u8>,
    ) {
        let opened = self.try_open(gate, number, request);
        assert_eq!(opened, number, "connections opened");
    }

    /// The same, but some may be refused: how many are open.
    pub(crate) fn try_open(
        &mut self,
        gate: SocketAddr,
        number: usize,
        request: impl Fn(usize) -> Vec<u8>,
    ) -> usize {
        let opening = Arc::new(Semaphore::new(OPENING));
        let (done, mut opened) = tokio::sync::mpsc::unbounded_channel();
        for index in 0..number {
            let (bytes, number) = (request(index), self.number + index);
            let (opening, done) = (Arc::clone(&opening), done.clone());
            let ends = Arc::clone(&self.ends);
            self.clients.spawn_on(
                async move {
                    let place = opening.acquire_owned().await.expect("never closed");
                    let stream = open(gate, &bytes).await;
                    let _ = done.send(stream.is_ok());
                    drop((place, done, bytes));
                    let Ok(stream) = stream else { return };
                    let end = wait(stream, number).await;
                    ends.lock().expect("nobody died").push(end);
                },
                self.runtime.handle(),
            );
        }
        drop(done);
        self.number += number;
        self.runtime.block_on(async {
            let mut open = 0;
            while let Some(is_open) = opened.recv().await {
                open += usize::from(is_open);
            }
            open
        })
    }

    /// How those ended that did.
    pub(crate) fn ends(&self) -> Vec<End> {
        self.ends.lock().expect("nobody died").clone()
    }

    /// Waits until `number` connections have ended.
    #[track_caller]
    pub(crate) fn ended(&self, number: usize) -> Vec<End> {
        eventually("the crowd has ended", || {
            self.ends.lock().expect("nobody died").len() >= number
        });
        self.ends()
    }
}

/// The opening handshake for `target` with `token` in `Authorization`.
pub(crate) fn upgrade(target: &str, token: &str) -> Vec<u8> {
    crate::support::Request::upgrade(target).bearer(token).bytes()
}

/// Sends `request`, which must be answered 101.
pub(crate) async fn open(gate: SocketAddr, request: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(gate).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request).await?;
    let mut head = Vec::new();
    let mut byte = [0];
    // To the blank line and not a byte further.
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await?;
        head.push(byte[0]);
    }
    match head.starts_with(b"HTTP/1.1 101") {
        true => Ok(stream),
        false => Err(io::Error::other(String::from_utf8_lossy(&head).into_owned())),
    }
}

/// Waits for the Close, answers it and waits for the end of the stream.
async fn wait(mut stream: TcpStream, number: usize) -> End {
    let mut frames = Frames::default();
    loop {
        match frames.next(&mut stream).await {
            Ok(Some((8, payload))) => {
                let at = Instant::now();
                let code = payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                let length = u8::try_from(payload.len()).expect("a Close is short");
                let answer = [&[0x88, 0x80 | length, 0, 0, 0, 0], &payload[..]].concat();
                let _ = stream.write_all(&answer).await;
                let mut rest = [0; 16];
                let ending = stream.read(&mut rest);
                let _ = tokio::time::timeout(Duration::from_secs(5), ending).await;
                return End { number, code, reason: reason.into_owned(), at };
            }
            Ok(Some((9, payload))) => {
                let length = u8::try_from(payload.len()).expect("a ping is short");
                let pong = [&[0x8a, 0x80 | length, 0, 0, 0, 0], &payload[..]].concat();
                let _ = stream.write_all(&pong).await;
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                return End { number, code: None, reason: String::new(), at: Instant::now() };
            }
        }
    }
}

/// Short frames out of a stream; holds no buffer between two.
#[derive(Default)]
pub(crate) struct Frames {
    read: Vec<u8>,
}

impl Frames {
    /// Opcode and payload of the next frame, unmasked; none at the end of the stream.
    pub(crate) async fn next(
        &mut self,
        stream: &mut TcpStream,
    ) -> io::Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some(frame) = self.take()? {
                if self.read.is_empty() {
                    self.read = Vec::new();
                }
                return Ok(Some(frame));
            }
            let mut buffer = [0; 512];
            match stream.read(&mut buffer).await? {
                0 => return Ok(None),
                count => self.read.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// The next frame, as far as it has come; an error for a long one.
    fn take(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let [first, second, ..] = *self.read else { return Ok(None) };
        let masked = second & 0x80 != 0;
        let (length, head) = (usize::from(second & 0x7f), if masked { 6 } else { 2 });
        if length > 125 {
            return Err(io::Error::other("only short frames here"));
        }
        if self.read.len() < head + length {
            return Ok(None);
        }
        let mut frame: Vec<u8> = self.read.drain(..head + length).collect();
        let mut payload = frame.split_off(head);
        if let (true, Some(mask)) = (masked, frame.get(2..6)) {
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        Ok(Some((first & 0x0f, payload)))
    }
}
