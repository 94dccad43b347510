//! sockgate as the server end of a WebSocket, before there is an upstream:
//! the one message that may authenticate a client, and refusals that a client
//! can read (RFC 6455 §5.4–5.6, §7).

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, timeout};

use super::CLOSING;
use super::frame::{
    Extensions, FrameScanner, Header, InvalidClose, Opcode, Step, apply_mask, encode_close,
    encode_frame, judged_close,
};
use crate::stream::Stream;

/// The server end of an upgraded stream.
pub struct Endpoint<S = Stream> {
    stream: S,
    /// Read and not looked at yet; always begins with a frame.
    incoming: BytesMut,
    /// Whole frames that are on their way to the client.
    outgoing: BytesMut,
    /// The fragments of the message that is being read.
    message: Vec<u8>,
    /// Whether that message is text, once it has begun.
    text: Option<bool>,
    /// Control frames seen so far.
    controls: u32,
    close_sent: bool,
    close_seen: bool,
}

/// A whole message of the client.
#[derive(Clone, PartialEq, Eq)]
pub struct FirstMessage {
    /// Its payload, unmasked.
    pub payload: Vec<u8>,
    /// Whether it is a text message; its payload is then UTF-8.
    pub text: bool,
}

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The client broke the protocol: close with 1002.
    #[error("the client broke the WebSocket protocol")]
    ProtocolError,
    /// A text message, or the reason of a Close, is not UTF-8: close with 1007.
    #[error("the client sent text that is not UTF-8")]
    NotUtf8,
    /// The message, or what came around it, is larger than allowed.
    #[error("the client's message is too large")]
    TooLarge,
    /// The client closed or vanished; its Close has been answered.
    #[error("the client is gone")]
    Gone {
        /// The client's close code; 1005 for an empty Close, 1006 for none.
        code: u16,
    },
}

impl EndpointError {
    /// The close code that RFC 6455 has for it, if there is one.
    pub fn close_code(self) -> Option<u16> {
        match self {
            EndpointError::ProtocolError => Some(1002),
            EndpointError::NotUtf8 => Some(1007),
            EndpointError::TooLarge => Some(1009),
            EndpointError::Gone { .. } => None,
        }
    }
}

impl From<InvalidClose> for EndpointError {
    fn from(close: InvalidClose) -> EndpointError {
        match close {
            InvalidClose::Code => EndpointError::ProtocolError,
            InvalidClose::NotUtf8 => EndpointError::NotUtf8,
        }
    }
}

/// How many control frames may come around one message.
const MAX_CONTROLS: u32 = 64;

/// How much is read at once.
const CHUNK: usize = 4096;

/// How long a closed client may take to end its side of the socket.
const DRAIN: Duration = Duration::from_millis(500);

impl<S: AsyncRead + AsyncWrite + Unpin> Endpoint<S> {
    /// The server end of `stream`; `ahead` was read behind the handshake.
    pub fn new(stream: S, ahead: Bytes) -> Endpoint<S> {
        Endpoint {
            stream,
            incoming: BytesMut::from(&ahead[..]),
            outgoing: BytesMut::new(),
            message: Vec::new(),
            text: None,
            controls: 0,
            close_sent: false,
            close_seen: false,
        }
    }

    /// The client's next message, of at most `max_bytes` payload, fragmented
    /// or not. Pings in between are answered.
    ///
    /// Cancel safe: a later call or [`Endpoint::close`] goes on where this one
    /// was.
    pub async fn read_message(&mut self, max_bytes: usize) -> Result<FirstMessage, EndpointError> {
        self.controls = 0;
        loop {
            self.flush().await.map_err(|_| EndpointError::Gone { code: 1006 })?;
            let Some(header) = self.judged_header(max_bytes)? else {
                self.read_more().await?;
                continue;
            };
            // Bounded: the header has been judged against the limit.
            let length = usize::try_from(header.payload).map_err(|_| EndpointError::TooLarge)?;
            if self.incoming.len() < header.len + length {
                self.read_more().await?;
                continue;
            }
            self.incoming.advance(header.len);
            let mut payload = self.incoming.split_to(length);
            apply_mask(&mut payload, header.mask.unwrap_or_default(), 0);
            if header.opcode.is_control() {
                self.control(&header, &payload).await?;
                continue;
            }
            self.message.extend_from_slice(&payload);
            let text = *self.text.get_or_insert(header.opcode == Opcode::TEXT);
            if header.fin {
                self.text = None;
                let payload = std::mem::take(&mut self.message);
                if text && std::str::from_utf8(&payload).is_err() {
                    return Err(EndpointError::NotUtf8);
                }
                return Ok(FirstMessage { payload, text });
            }
        }
    }

    /// Waits for the client to go away while something else is done for it; what it sends
    /// meanwhile is held. Once that are `most` bytes, nothing more is read, its end
    /// neither. Who ends behind a Close has not gone away: it has said all that it had to.
    ///
    /// Cancel safe: what has come is read later.
    pub async fn departed(&mut self, most: usize) {
        while self.incoming.len() < most {
            match self.stream.read_buf(&mut self.incoming).await {
                Ok(1..) => {}
                Ok(0) if self.has_closed() => break,
                Ok(0) | Err(_) => return,
            }
        }
        std::future::pending().await
    }

    /// Whether there is a whole Close among the frames that have come and were not read.
    fn has_closed(&self) -> bool {
        let mut rest = &self.incoming[..];
        while let Ok(Some(header)) = Header::parse(rest) {
            let length = usize::try_from(header.payload).unwrap_or(usize::MAX);
            let Some(behind) = rest.get(header.len.saturating_add(length)..) else { break };
            if header.opcode == Opcode::CLOSE {
                return true;
            }
            rest = behind;
        }
        false
    }

    /// Sends one text or binary message.
    pub async fn send(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        self.outgoing.extend_from_slice(&encode_frame(opcode, payload, None));
        self.flush().await
    }

    /// Puts whole `frames` on the way to the client; the next call that reads or
    /// sends takes them along.
    pub fn queue(&mut self, frames: &[u8]) {
        self.outgoing.extend_from_slice(frames);
    }

    /// The closing handshake (RFC 6455 §7.1.1–7.1.2) and the end of the socket:
    /// a Close, the client's answer, at most 2 s in all.
    pub async fn close(mut self, code: u16, text: &str) {
        let _ = timeout(CLOSING, self.shake_hands(code, text)).await;
        let ended = async {
            self.stream.shutdown().await?;
            // Unread bytes would turn the FIN into a reset, and the client
            // could lose the Close.
            let mut sink = BytesMut::with_capacity(CHUNK);
            while self.stream.read_buf(&mut sink).await? > 0 {
                sink.clear();
            }
            io::Result::Ok(())
        };
        let _ = timeout(DRAIN, ended).await;
    }

    /// The stream, and what was read of it beyond the last message.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.stream, Bytes::copy_from_slice(&self.incoming))
    }

    async fn shake_hands(&mut self, code: u16, text: &str) -> io::Result<()> {
        if !self.close_sent {
            self.close_sent = true;
            self.outgoing.extend_from_slice(&encode_close(code, text, None));
        }
        self.flush().await?;
        let mut scanner = FrameScanner::default();
        let mut lost = false;
        while !self.close_seen {
            match scanner.step(&self.incoming) {
                Ok(Step::Header(header)) if !lost => {
                    self.close_seen = header.opcode == Opcode::CLOSE;
                    self.incoming.advance(header.len);
                    continue;
                }
                Ok(Step::Payload(count)) if !lost => {
                    self.incoming.advance(count);
                    continue;
                }
                Ok(Step::More) if !lost => {}
                // No boundary can be found any more, only the end of the stream.
                Ok(_) | Err(_) => {
                    lost = true;
                    self.incoming.clear();
                }
            }
            self.incoming.reserve(CHUNK);
            if self.stream.read_buf(&mut self.incoming).await? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// The header of the next frame, once it is there and if it may come now.
    fn judged_header(&self, max_bytes: usize) -> Result<Option<Header>, EndpointError> {
        let header = match Header::parse(&self.incoming) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(None),
            Err(_) => return Err(EndpointError::ProtocolError),
        };
        let continues = self.text.is_some();
        if header.mask.is_none() || !header.may_come(continues, Extensions::None) {
            return Err(EndpointError::ProtocolError);
        }
        let total = (self.message.len() as u64).saturating_add(header.payload);
        let controls = self.controls >= MAX_CONTROLS;
        if header.opcode.is_control() && controls
            || !header.opcode.is_control() && total > max_bytes as u64
        {
            return Err(EndpointError::TooLarge);
        }
        Ok(Some(header))
    }

    async fn control(&mut self, header: &Header, payload: &[u8]) -> Result<(), EndpointError> {
        self.controls += 1;
        match header.opcode {
            Opcode::PING => {
                self.outgoing.extend_from_slice(&encode_frame(Opcode::PONG, payload, None));
                Ok(())
            }
            Opcode::CLOSE => {
                self.close_seen = true;
                let code = judged_close(payload)?;
                self.close_sent = true;
                let echo = if code == 1005 { &[] } else { &payload[..2] };
                self.outgoing.extend_from_slice(&encode_frame(Opcode::CLOSE, echo, None));
                // Whether the answer arrives is the client's loss alone.
                let _ = self.flush().await;
                Err(EndpointError::Gone { code })
            }
            _ => Ok(()),
        }
    }

    /// Reads once more; the end of the stream is an error here.
    async fn read_more(&mut self) -> Result<(), EndpointError> {
        self.incoming.reserve(CHUNK);
        match self.stream.read_buf(&mut self.incoming).await {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(EndpointError::Gone { code: 1006 }),
        }
    }

    /// Writes what waits. Cancelled half-way, it goes on at the right byte.
    async fn flush(&mut self) -> io::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        while !self.outgoing.is_empty() {
            if self.stream.write_buf(&mut self.outgoing).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.outgoing = BytesMut::new();
        self.stream.flush().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const MASK: Option<[u8; 4]> = Some([4, 3, 2, 1]);

    fn pair(ahead: &[u8]) -> (DuplexStream, Endpoint<DuplexStream>) {
        let (client, near) = duplex(1 << 16);
        (client, Endpoint::new(near, Bytes::copy_from_slice(ahead)))
    }

    fn part(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut frame = encode_frame(opcode, payload, MASK);
        frame[0] &= 0x7f;
        frame
    }

    async fn outcome(bytes: &[u8]) -> Result<FirstMessage, EndpointError> {
        let (mut client, mut endpoint) = pair(&[]);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        endpoint.read_message(100).await
    }

    async fn error(bytes: &[u8]) -> EndpointError {
        outcome(bytes).await.err().unwrap()
    }

    #[tokio::test]
    async fn a_client_that_ends_behind_a_whole_close_has_not_left() {
        let soon = Duration::from_millis(10);
        let close = encode_close(1000, "", MASK);
        for (sent, is_left) in [(&close[..], false), (&close[..close.len() - 1], true)] {
            let (mut client, mut endpoint) = pair(&encode_frame(Opcode::TEXT, b"more", MASK));
            client.write_all(sent).await.unwrap();
            drop(client);
            assert_eq!(timeout(soon, endpoint.departed(1000)).await.is_ok(), is_left, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn a_client_is_seen_to_leave_and_what_it_sent_is_still_there() {
        let (mut client, mut endpoint) = pair(&encode_frame(Opcode::TEXT, b"one", MASK));
        client.write_all(&encode_frame(Opcode::TEXT, b"two", MASK)).await.unwrap();
        let soon = Duration::from_millis(10);
        assert!(timeout(soon, endpoint.departed(1000)).await.is_err(), "it is there");
        drop(client);
        assert!(timeout(soon, endpoint.departed(10)).await.is_err(), "more was read");
        endpoint.departed(1000).await;
        for expected in [b"one", b"two"] {
            assert_eq!(endpoint.read_message(100).await.ok().unwrap().payload, expected);
        }
    }

    #[tokio::test]
    async fn a_fragmented_message_is_read_and_pings_between_are_answered() {
        let message = [
            part(Opcode::TEXT, b"to"),
            encode_frame(Opcode::PING, b"there?", MASK),
            encode_frame(Opcode::CONTINUATION, b"ken", MASK),
        ]
        .concat();
        let next = encode_frame(Opcode::BINARY, b"next", MASK);
        let all = [&message[..], &next].concat();
        for cut in 0..all.len() {
            let (mut client, mut endpoint) = pair(&all[..cut]);
            client.write_all(&all[cut..]).await.unwrap();
            let message = endpoint.read_message(100).await.ok().unwrap();
            assert!(message.payload == b"token" && message.text);
            let mut pong = [0; 8];
            client.read_exact(&mut pong).await.unwrap();
            assert_eq!(pong[..], encode_frame(Opcode::PONG, b"there?", None));
            let (mut stream, mut left) = endpoint.into_parts();
            drop(client);
            let mut later = Vec::new();
            stream.read_to_end(&mut later).await.unwrap();
            later.splice(0..0, std::mem::take(&mut left));
            assert_eq!(later, next, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn frames_that_break_the_protocol_are_refused() {
        let mut reserved_bit = encode_frame(Opcode::TEXT, b"x", MASK);
        reserved_bit[0] |= 0x40;
        let mut reserved_opcode = encode_frame(Opcode::TEXT, b"x", MASK);
        reserved_opcode[0] |= 0x03;
        let cases = [
            encode_frame(Opcode::TEXT, b"unmasked", None),
            reserved_bit,
            reserved_opcode,
            part(Opcode::PING, b""),
            encode_frame(Opcode::PING, &[0; 126], MASK),
            encode_frame(Opcode::CONTINUATION, b"stray", MASK),
            [part(Opcode::TEXT, b"a"), encode_frame(Opcode::TEXT, b"b", MASK)].concat(),
            encode_close(1005, "", MASK),
            encode_frame(Opcode::CLOSE, b"1", MASK),
            vec![0x81, 0xff, 0x80],
            vec![0x81, 0xfe, 0, 1, 0, 0, 0, 0, b'x'],
            vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, b'x'],
        ];
        for bytes in cases {
            assert_eq!(error(&bytes).await, EndpointError::ProtocolError, "{bytes:02x?}");
        }
    }

    #[tokio::test]
    async fn text_must_be_utf_8_and_binary_need_not() {
        let text = encode_frame(Opcode::TEXT, b"\xc3\x28", MASK);
        assert_eq!(error(&text).await, EndpointError::NotUtf8);
        let binary = encode_frame(Opcode::BINARY, b"\xc3\x28", MASK);
        assert!(!outcome(&binary).await.ok().unwrap().text);
        let split =
            [part(Opcode::TEXT, b"\xc3"), encode_frame(Opcode::CONTINUATION, b"\xa4", MASK)];
        assert!(outcome(&split.concat()).await.is_ok());
    }

    #[tokio::test]
    async fn too_much_is_refused_from_the_header() {
        let exact = encode_frame(Opcode::TEXT, &[b'x'; 100], MASK);
        assert!(outcome(&exact).await.is_ok());
        let head = &encode_frame(Opcode::TEXT, &[b'x'; 101], MASK)[..6];
        assert_eq!(error(head).await, EndpointError::TooLarge);
        let huge = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(error(&huge).await, EndpointError::TooLarge);
        let parts =
            [part(Opcode::TEXT, &[b'x'; 60]), part(Opcode::CONTINUATION, &[b'x'; 41])].concat();
        assert_eq!(error(&parts).await, EndpointError::TooLarge);
        let pings = encode_frame(Opcode::PING, b"", MASK).repeat(65);
        assert_eq!(error(&pings).await, EndpointError::TooLarge);
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_gone() {
        assert_eq!(error(b"").await, EndpointError::Gone { code: 1006 });
        let (mut client, mut endpoint) = pair(&encode_close(4000, "why", MASK));
        let outcome = endpoint.read_message(100).await.err().unwrap();
        assert_eq!(outcome, EndpointError::Gone { code: 4000 });
        drop(endpoint);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, encode_close(4000, "", None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_waits_for_the_clients_own_behind_anything_else() {
        let junk = encode_frame(Opcode::BINARY, &[0; 9000], MASK);
        let (mut client, endpoint) = pair(&junk[..5000]);
        let closing = tokio::spawn(endpoint.close(4001, "Unauthorized"));
        let expected = encode_close(4001, "Unauthorized", None);
        let mut got = vec![0; expected.len()];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, expected);
        let more = [&junk[5000..], &junk, &encode_close(4001, "", MASK)].concat();
        assert!(!closing.is_finished());
        client.write_all(&more).await.unwrap();
        assert_eq!(client.read(&mut got).await.unwrap(), 0);
        drop(client);
        closing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_answers_is_let_go() {
        let (_client, endpoint) = pair(&[0x82, 0xff, 0xff]);
        let start = tokio::time::Instant::now();
        endpoint.close(1002, "Protocol error").await;
        assert!(start.elapsed() <= CLOSING + DRAIN + Duration::from_millis(10));
    }

    #[tokio::test]
    async fn messages_are_sent_whole() {
        let (mut client, mut endpoint) = pair(&[]);
        endpoint.send(Opcode::TEXT, b"hello").await.unwrap();
        let mut got = [0; 7];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"\x81\x05hello");
    }
}
