//! The usual course of an upgrade, without an HTTP client: the request goes out
//! in one piece, and a whole, short 101 comes back. Whatever else an upstream
//! does is hyper's: it is handed a stream on which the request has gone out
//! already and the answer is read from its first byte ([`Replay`]), and so sees
//! what it would have seen by itself.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::ParserConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::stream::Stream;

/// The longest request that is sent here: no socket has less room, so that no
/// upstream must read before it can answer.
const REQUEST_BYTES: usize = 16 * 1024;

/// The longest answer that is read here.
const ANSWER_BYTES: usize = 8 * 1024;

/// How many header fields of an answer are read here.
const ANSWER_FIELDS: usize = 32;

/// How the upstream took the request.
pub(super) enum Asked {
    /// It switched protocols.
    Switched {
        /// The stream.
        stream: Stream,
        /// The headers of its 101.
        headers: HeaderMap,
        /// What it sent right behind.
        ahead: Bytes,
    },
    /// In another way, which is not looked at here.
    Otherwise(Replay),
}

/// A stream of which a part is known already: what was written to it is not
/// written again, and then what was read from it is read again. Not before: to
/// hyper, an answer without a request is a fault.
pub(super) struct Replay {
    stream: Stream,
    read: Bytes,
    written: usize,
    /// Who reads, while it is too early.
    reader: Option<Waker>,
}

/// The part of `request` that may be sent as soon as there is a connection.
pub(super) fn at_once(request: &[u8]) -> &[u8] {
    if request.len() > REQUEST_BYTES { &[] } else { request }
}

/// Sends what is left of `request`, which has no body, behind the first `sent` bytes,
/// and waits for the answer.
pub(super) async fn ask(mut stream: Stream, request: &[u8], sent: usize) -> Asked {
    if request.len() > REQUEST_BYTES {
        return Asked::Otherwise(Replay::new(stream, Bytes::new(), 0));
    }
    // An error comes again, to whoever tries again.
    let sent = match sent {
        0 => stream.write(request).await.unwrap_or(0),
        sent => sent,
    };
    let mut read = BytesMut::new();
    if sent == request.len() && stream.flush().await.is_ok() {
        read.reserve(1024);
        while read.len() < ANSWER_BYTES && matches!(stream.read_buf(&mut read).await, Ok(1..)) {
            match switched(&read) {
                Answer::Partial => {}
                Answer::Switched { length, headers } => {
                    read.advance(length);
                    // An empty rest would hold on to the whole.
                    let ahead = if read.is_empty() { Bytes::new() } else { read.freeze() };
                    return Asked::Switched { stream, headers, ahead };
                }
                Answer::Other => break,
            }
        }
    }
    Asked::Otherwise(Replay::new(stream, read.freeze(), sent))
}

enum Answer {
    /// The head is not whole.
    Partial,
    /// A 101, whose head is that long, with these headers.
    Switched { length: usize, headers: HeaderMap },
    /// Anything else.
    Other,
}

fn switched(bytes: &[u8]) -> Answer {
    let mut fields = [const { MaybeUninit::uninit() }; ANSWER_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed =
        ParserConfig::default().parse_response_with_uninit_headers(&mut answer, bytes, &mut fields);
    match parsed {
        Ok(httparse::Status::Partial) => Answer::Partial,
        Ok(httparse::Status::Complete(length))
            if answer.code == Some(101) && answer.version == Some(1) =>
        {
            headers(answer.headers)
                .map_or(Answer::Other, |headers| Answer::Switched { length, headers })
        }
        Ok(httparse::Status::Complete(_)) | Err(_) => Answer::Other,
    }
}

fn headers(fields: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(headers)
}

impl Replay {
    fn new(stream: Stream, read: Bytes, written: usize) -> Replay {
        Replay { stream, read, written, reader: None }
    }

    /// The stream, and what was read from it and is yet to be read again.
    pub(super) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.read)
    }
}

impl AsyncRead for Replay {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let replay = self.get_mut();
        if replay.written > 0 {
            replay.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        if replay.read.is_empty() {
            return Pin::new(&mut replay.stream).poll_read(context, buffer);
        }
        let count = replay.read.len().min(buffer.remaining());
        buffer.put_slice(&replay.read[..count]);
        replay.read.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let replay = self.get_mut();
        if replay.written == 0 {
            return Pin::new(&mut replay.stream).poll_write(context, bytes);
        }
        let count = replay.written.min(bytes.len());
        replay.written -= count;
        if replay.written == 0
            && let Some(reader) = replay.reader.take()
        {
            reader.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.written == 0 {
            return Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(context, first.map_or(&[], |slice| slice))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::UnixStream;

    use super::*;

    const REQUEST: [u8; 39] = *b"GET /ws?a=1 HTTP/1.1\r\nhost: a\r\nx: 1\r\n\r\n";
    const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX: 1\r\n\r\n";

    /// What becomes of `answer`, which comes in pieces of `size` bytes.
    async fn asked(answer: &str, size: usize) -> (Asked, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let asked = tokio::spawn(async move { ask(Stream::Unix(ours), &REQUEST, 0).await });
        let mut head = [0; REQUEST.len()];
        theirs.read_exact(&mut head).await.unwrap();
        assert_eq!(head, REQUEST);
        for piece in answer.as_bytes().chunks(size) {
            theirs.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        theirs.shutdown().await.unwrap();
        (asked.await.unwrap(), theirs)
    }

    #[tokio::test]
    async fn a_101_is_read_however_it_comes_with_what_is_behind() {
        for size in [1, 7, 1000] {
            let (asked, _theirs) = asked(&format!("{SWITCHED}abc"), size).await;
            let Asked::Switched { mut stream, headers, ahead } = asked else { panic!("{size}") };
            assert_eq!(headers["upgrade"], "websocket");
            assert_eq!((headers.len(), &headers["x"]), (2, &HeaderValue::from_static("1")));
            let mut all = ahead.to_vec();
            stream.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"abc");
        }
    }

    #[tokio::test]
    async fn anything_else_is_read_again_from_its_first_byte() {
        let many: String = (0..=ANSWER_FIELDS).map(|n| format!("x{n}: 1\r\n")).collect();
        for answer in [
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno",
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.0 101 Switching Protocols\r\n\r\nabc",
            &format!("HTTP/1.1 101 Switching Protocols\r\n{many}\r\nabc"),
            &format!("HTTP/1.1 101 Switching Protocols\r\nx: {}\r\n\r\n", "y".repeat(20_000)),
            "HTTP/1.1 101 Switching",
            "SSH-2.0-OpenSSH\r\n",
            "",
        ] {
            for size in [(answer.len() / 40).max(3), 100_000] {
                let (asked, mut theirs) = asked(answer, size).await;
                let Asked::Otherwise(mut replay) = asked else { panic!("{answer}") };
                // There is no answer before the request, which is not sent twice;
                // what comes behind it is.
                let early = tokio::time::timeout(Duration::ZERO, replay.read_u8()).await;
                assert!(early.is_err(), "{answer}");
                replay.write_all(&REQUEST).await.unwrap();
                replay.write_all(b"behind").await.unwrap();
                let mut all = String::new();
                replay.read_to_string(&mut all).await.unwrap();
                assert_eq!(all, answer);
                drop(replay);
                let mut sent = String::new();
                theirs.read_to_string(&mut sent).await.unwrap();
                assert_eq!(sent, "behind");
            }
        }
    }

    #[tokio::test]
    async fn a_request_that_is_long_is_left_to_others_unsent() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let request = [b'y'; REQUEST_BYTES + 1];
        assert!(at_once(&request).is_empty());
        let Asked::Otherwise(mut replay) = ask(Stream::Unix(ours), &request, 0).await else {
            panic!("sent");
        };
        replay.write_all(b"GET").await.unwrap();
        drop(replay);
        let mut sent = String::new();
        theirs.read_to_string(&mut sent).await.unwrap();
        assert_eq!(sent, "GET");
    }
}
