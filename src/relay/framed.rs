//! A raw byte stream as the relay sees it: what its server sends comes as messages,
//! and what messages hold goes to the server (RFC 6455 §5, the server's part).
//!
//! One read is one frame, as large as there is room; nothing is kept but what a read
//! cut off. Two ends are translated: the server's is a Close with 1000, and the
//! client's Close is the end of what the server reads, while the rest of what it has
//! to say still comes. The relay does all the rest.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::CLOSING;
use super::frame::{
    Header, MAX_HEADER, Opcode, apply_mask, close_code, encode_close, encode_frame,
};

/// How long a server whose client has closed may be silent before it is let go.
const LINGER: Duration = Duration::from_secs(10);

/// The header of the longest frame that a read becomes.
const HEADER: usize = 4;

/// The most payload of one frame: its length fits that header.
const MOST: usize = u16::MAX as usize;

/// How much is unmasked at once: small messages need not pay for large ones.
const CHUNKS: [usize; 2] = [1 << 10, 1 << 15];

/// A raw stream, framed.
pub struct Framed<S> {
    stream: S,
    /// Whether messages are text; else they are binary.
    text: bool,
    /// The most payload of one frame.
    most: usize,
    /// The beginning of a code point whose end is still to come.
    split: Split,
    /// Frames of our own on their way to the client.
    out: Vec<u8>,
    /// The answer to the client's last ping (§5.5.3).
    pong: Option<Box<[u8]>>,
    server: Server,
    /// The beginning of the head of the frame that the client is sending.
    head: Vec<u8>,
    frame: Option<Frame>,
    /// The client's Close was seen: its code.
    closed: Option<u16>,
    /// Whether the server knows.
    told: bool,
    timer: Option<Pin<Box<Sleep>>>,
    reader: Option<Waker>,
}

/// How far the server's side is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    /// It sends.
    Open,
    /// What it sent last is not UTF-8: it is closed with 1007.
    Garbled,
    /// Its Close is on the way.
    Closing,
    /// There is nothing more to say.
    Over,
}

/// A frame of the client whose payload is not at its end.
struct Frame {
    opcode: Opcode,
    mask: [u8; 4],
    /// Bytes of payload that have been taken.
    taken: u64,
    length: u64,
    /// The payload so far of a control frame.
    control: Vec<u8>,
}

/// Up to three bytes.
#[derive(Clone, Copy, Default)]
struct Split {
    bytes: [u8; 3],
    count: usize,
}

/// What came of one read.
enum Read {
    /// A frame is in the buffer.
    Frame,
    /// Too little for a frame.
    Nothing,
    /// The server's end.
    End,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    /// `stream`, whose bytes are text or binary messages of at most `most` bytes.
    pub fn new(stream: S, text: bool, most: Option<u64>) -> Framed<S> {
        let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(MOST);
        Framed {
            stream,
            text,
            // No code point is longer.
            most: most.clamp(4, MOST),
            split: Split::default(),
            out: Vec::new(),
            pong: None,
            server: Server::Open,
            head: Vec::new(),
            frame: None,
            closed: None,
            told: false,
            timer: None,
            reader: None,
        }
    }

    /// Reads once and makes a frame of it.
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Read>> {
        let space = buffer.initialize_unfilled();
        let begun = self.split.count;
        let most = space.len().saturating_sub(HEADER).min(self.most);
        let payload = &mut space[HEADER..HEADER + most];
        payload[..begun].copy_from_slice(&self.split.bytes[..begun]);
        let mut fresh = ReadBuf::new(&mut payload[begun..]);
        match Pin::new(&mut self.stream).poll_read(context, &mut fresh) {
            Poll::Ready(Ok(())) => {}
            // TLS without close_notify: the server is gone all the same.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        let read = fresh.filled().len();
        if read == 0 {
            // Half a code point is no text.
            self.server = if begun > 0 { Server::Garbled } else { self.server };
            return Poll::Ready(Ok(Read::End));
        }
        let count =
            if self.text { self.whole(&space[HEADER..HEADER + begun + read]) } else { read };
        if count == 0 {
            return Poll::Ready(Ok(Read::Nothing));
        }
        let opcode = if self.text { Opcode::TEXT } else { Opcode::BINARY };
        let first = 0x80 | opcode.bits();
        let header = match u8::try_from(count) {
            Ok(short @ 0..=125) => {
                space[..2].copy_from_slice(&[first, short]);
                space.copy_within(HEADER..HEADER + count, 2);
                2
            }
            Ok(_) | Err(_) => {
                let [.., high, low] = count.to_be_bytes();
                space[..HEADER].copy_from_slice(&[first, 126, high, low]);
                HEADER
            }
        };
        buffer.advance(header + count);
        Poll::Ready(Ok(Read::Frame))
    }

    /// How many of `bytes` are whole code points; of one that is not, the beginning is
    /// kept for the next read.
    fn whole(&mut self, bytes: &[u8]) -> usize {
        self.split = Split::default();
        let Err(error) = std::str::from_utf8(bytes) else { return bytes.len() };
        let good = error.valid_up_to();
        match error.error_len() {
            Some(_) => self.server = Server::Garbled,
            None => {
                let rest = &bytes[good..];
                self.split.count = rest.len().min(3);
                self.split.bytes[..self.split.count].copy_from_slice(&rest[..self.split.count]);
            }
        }
        good
    }

    /// Gives out what waits of our own frames; false if nothing does.
    fn give_out(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if self.out.is_empty() {
            match self.pong.take() {
                Some(pong) => self.out = encode_frame(Opcode::PONG, &pong, None),
                None => return false,
            }
        }
        let count = self.out.len().min(buffer.remaining());
        buffer.put_slice(&self.out[..count]);
        self.out.drain(..count);
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        true
    }

    /// The server's Close: what the client said, if it was first.
    fn close(&mut self) {
        let close = match (self.server, self.closed) {
            (Server::Garbled, _) => encode_close(1007, "Not UTF-8", None),
            (_, Some(1005)) => encode_frame(Opcode::CLOSE, &[], None),
            // Who ended without a Close has said no code that could be repeated.
            (_, Some(1006) | None) => encode_close(1000, "", None),
            (_, Some(code)) => encode_close(code, "", None),
        };
        self.out.extend_from_slice(&close);
        self.server = Server::Closing;
        self.timer = Some(Box::pin(sleep(CLOSING)));
    }

    fn is_overdue(&mut self, context: &mut Context<'_>) -> bool {
        self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(context).is_ready())
    }

    /// Goes past `bytes` of the head of a frame; how many they are.
    fn read_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.head.len();
        let count = bytes.len().min(MAX_HEADER - before);
        self.head.extend_from_slice(&bytes[..count]);
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
        let Some(header) = Header::parse(&self.head).map_err(invalid)? else { return Ok(count) };
        self.head = Vec::new();
        self.frame = Some(Frame {
            opcode: header.opcode,
            mask: header.mask.unwrap_or_default(),
            taken: 0,
            length: header.payload,
            control: Vec::new(),
        });
        Ok(header.len - before)
    }

    /// Leaves the frame if it is at its end.
    fn end_frame(&mut self) {
        if let Some(frame) = self.frame.take_if(|frame| frame.taken == frame.length) {
            self.control(&frame);
        }
    }

    /// A control frame of the client is whole.
    fn control(&mut self, frame: &Frame) {
        match frame.opcode {
            Opcode::PING => {
                self.pong = Some(frame.control.as_slice().into());
                if let Some(reader) = self.reader.take() {
                    reader.wake();
                }
            }
            Opcode::CLOSE => {
                let header = Header {
                    opcode: Opcode::CLOSE,
                    fin: true,
                    rsv: 0,
                    mask: None,
                    payload: frame.length,
                    len: 2,
                };
                self.closed = Some(close_code(&header, &frame.control));
                if self.server == Server::Open {
                    self.timer = Some(Box::pin(sleep(LINGER)));
                }
                if let Some(reader) = self.reader.take() {
                    reader.wake();
                }
            }
            _ => {}
        }
    }

    /// Tells the server that nothing more comes, once the client has said so.
    fn poll_tell(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.closed.is_none() || self.told {
            return Poll::Ready(());
        }
        // A server that is gone already needs no telling.
        let told = Pin::new(&mut self.stream).poll_shutdown(context).map(|_| ());
        self.told = told.is_ready();
        told
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let _ = this.poll_tell(context);
        loop {
            if this.give_out(buffer) || this.server == Server::Over {
                return Poll::Ready(Ok(()));
            }
            // The timer is asked at every turn, or it would not wake anybody.
            let overdue = this.is_overdue(context);
            let read = match this.server {
                Server::Open if buffer.remaining() < HEADER + 4 => {
                    let mut room = [0; HEADER + 125];
                    let mut small = ReadBuf::new(&mut room);
                    let read = this.poll_frame(context, &mut small);
                    this.out = small.filled().to_vec();
                    read
                }
                Server::Open => this.poll_frame(context, buffer),
                Server::Garbled => {
                    this.close();
                    continue;
                }
                Server::Closing if this.closed.is_some() || overdue => {
                    this.server = Server::Over;
                    continue;
                }
                Server::Closing | Server::Over => Poll::Pending,
            };
            match read {
                Poll::Ready(Ok(Read::Frame)) => {
                    if let Some(timer) = &mut this.timer {
                        timer.as_mut().reset(Instant::now() + LINGER);
                    }
                    if this.out.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Ok(Read::Nothing)) => {}
                Poll::Ready(Ok(Read::End)) => this.close(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if this.server == Server::Open && overdue => this.close(),
                Poll::Pending => {
                    if !this.reader.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                        this.reader = Some(context.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut done = 0;
        while done < bytes.len() && this.closed.is_none() {
            let Some(frame) = &mut this.frame else {
                done += this.read_head(&bytes[done..])?;
                this.end_frame();
                continue;
            };
            let left = usize::try_from(frame.length - frame.taken).unwrap_or(usize::MAX);
            let payload = &bytes[done..][..left.min(bytes.len() - done)];
            let taken = if frame.opcode.is_control() {
                let before = frame.control.len();
                frame.control.extend_from_slice(payload);
                apply_mask(&mut frame.control[before..], frame.mask, before);
                payload.len()
            } else {
                // Of the offset only its place in the mask counts.
                let at = (frame.taken % 4) as usize;
                match write_unmasked(&mut this.stream, context, payload, frame.mask, at) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if done > 0 => return Poll::Ready(Ok(done)),
                    Poll::Pending => return Poll::Pending,
                }
            };
            frame.taken += taken as u64;
            done += taken;
            this.end_frame();
        }
        let _ = this.poll_tell(context);
        // Nothing counts behind a Close (§5.5.1).
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closed.is_some() {
            return this.poll_tell(context).map(Ok);
        }
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.closed.get_or_insert(1006);
        this.poll_tell(context).map(Ok)
    }
}

/// Writes as much of `payload` without its mask as the stream takes at once.
fn write_unmasked<S: AsyncWrite + Unpin>(
    stream: &mut S,
    context: &mut Context<'_>,
    payload: &[u8],
    mask: [u8; 4],
    at: usize,
) -> Poll<io::Result<usize>> {
    let mut write = |space: &mut [u8]| {
        let count = payload.len().min(space.len());
        let chunk = &mut space[..count];
        chunk.copy_from_slice(&payload[..count]);
        unmask(chunk, mask, at);
        Pin::new(&mut *stream).poll_write(context, chunk)
    };
    if payload.len() <= CHUNKS[0] { write(&mut [0; CHUNKS[0]]) } else { write(&mut [0; CHUNKS[1]]) }
}

/// Takes the mask off, eight bytes at a time (§5.3).
fn unmask(bytes: &mut [u8], mut mask: [u8; 4], at: usize) {
    mask.rotate_left(at % 4);
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    apply_mask(rest, mask, 0);
}

impl<S> fmt::Debug for Framed<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a raw stream")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const MASK: Option<[u8; 4]> = Some([9, 8, 7, 6]);

    fn framed(text: bool, most: Option<u64>) -> (Framed<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(1 << 20);
        (Framed::new(near, text, most), far)
    }

    /// The next frame that comes of one read into a buffer of this size.
    async fn frame(framed: &mut Framed<DuplexStream>, room: usize) -> (Opcode, Vec<u8>) {
        let mut bytes = vec![0; 1 << 17];
        let mut count = 0;
        loop {
            let read = framed.read(&mut bytes[count..][..room]).await.unwrap();
            assert!(read > 0, "no end");
            count += read;
            if let Some(header) = Header::parse(&bytes[..count]).unwrap()
                && count == header.len + usize::try_from(header.payload).unwrap()
            {
                assert!(header.fin && header.mask.is_none() && header.rsv == 0);
                return (header.opcode, bytes[header.len..count].to_vec());
            }
        }
    }

    async fn is_over(framed: &mut Framed<DuplexStream>) -> bool {
        framed.read(&mut [0; 100]).await.unwrap() == 0
    }

    #[tokio::test]
    async fn a_read_is_a_frame_of_any_length() {
        for length in [1, 125, 126, 300, 65_000] {
            let (mut framed, mut server) = framed(false, None);
            let bytes: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0]).collect();
            server.write_all(&bytes).await.unwrap();
            assert_eq!(frame(&mut framed, 1 << 16).await, (Opcode::BINARY, bytes));
        }
        let (mut framed, mut server) = framed(false, Some(10));
        server.write_all(&[7; 25]).await.unwrap();
        let mut sizes = Vec::new();
        for _ in 0..3 {
            sizes.push(frame(&mut framed, 1 << 16).await.1.len());
        }
        assert_eq!(sizes, [10, 10, 5]);
    }

    #[tokio::test]
    async fn text_never_splits_a_code_point_and_what_is_none_ends_with_1007() {
        let text = "aä€😀z".repeat(50);
        for cut in 0..text.len() {
            let (mut framed, mut server) = framed(true, Some(64));
            server.write_all(&text.as_bytes()[..cut]).await.unwrap();
            let mut all = String::new();
            let whole = (0..=cut).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            while all.len() < whole {
                let (opcode, payload) = frame(&mut framed, 1 << 16).await;
                assert_eq!(opcode, Opcode::TEXT);
                all.push_str(std::str::from_utf8(&payload).unwrap());
            }
            server.write_all(&text.as_bytes()[cut..]).await.unwrap();
            while all.len() < text.len() {
                all.push_str(std::str::from_utf8(&frame(&mut framed, 1 << 16).await.1).unwrap());
            }
            assert_eq!(all, text);
        }
        for (bytes, before) in
            [(&b"ok\xff"[..], &b"ok"[..]), (b"\xc3(", b""), (b"ok\xe2\x82", b"ok")]
        {
            let (mut framed, mut server) = framed(true, None);
            server.write_all(bytes).await.unwrap();
            drop(server);
            if !before.is_empty() {
                assert_eq!(frame(&mut framed, 1000).await.1, before);
            }
            let close = frame(&mut framed, 1000).await;
            assert_eq!((close.0, &close.1[..2]), (Opcode::CLOSE, &1007_u16.to_be_bytes()[..]));
        }
    }

    #[tokio::test]
    async fn payloads_reach_the_server_in_order_however_they_are_framed_and_cut() {
        let first = {
            let mut first = encode_frame(Opcode::TEXT, b"hel", MASK);
            first[0] &= 0x7f;
            first
        };
        let stream = [
            first,
            encode_frame(Opcode::PING, b"are you there", MASK),
            encode_frame(Opcode::CONTINUATION, b"lo", MASK),
            encode_frame(Opcode::BINARY, b"", MASK),
            encode_frame(Opcode::PONG, b"unasked", MASK),
            encode_frame(Opcode::BINARY, &vec![b'x'; 70_000], MASK),
        ]
        .concat();
        for size in [1, 2, 3, 7, 1000, 100_000] {
            let (mut framed, mut server) = framed(false, None);
            for piece in stream.chunks(size) {
                framed.write_all(piece).await.unwrap();
            }
            framed.flush().await.unwrap();
            assert_eq!(frame(&mut framed, 1000).await, (Opcode::PONG, b"are you there".to_vec()));
            let mut received = vec![0; 70_005];
            server.read_exact(&mut received).await.unwrap();
            assert!(received.starts_with(b"hello") && received[5..].iter().all(|b| *b == b'x'));
        }
    }

    #[tokio::test]
    async fn a_server_that_takes_nothing_is_backpressure() {
        let (near, mut server) = duplex(100);
        let mut framed: Framed<DuplexStream> = Framed::new(near, false, None);
        let message = encode_frame(Opcode::BINARY, &[b'x'; 5000], MASK);
        let writing = tokio::time::timeout(Duration::from_millis(50), framed.write_all(&message));
        assert!(writing.await.is_err());
        assert!(framed.out.is_empty() && framed.head.is_empty());
        let mut some = [0; 50];
        server.read_exact(&mut some).await.unwrap();
        assert_eq!(some, [b'x'; 50]);
    }

    #[tokio::test]
    async fn the_end_of_the_server_is_a_close_and_waits_for_the_clients() {
        let (mut framed, mut server) = framed(false, None);
        server.write_all(b"bye").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(frame(&mut framed, 1000).await.1, b"bye");
        assert_eq!(
            frame(&mut framed, 1000).await,
            (Opcode::CLOSE, 1000_u16.to_be_bytes().to_vec())
        );
        let early = tokio::time::timeout(Duration::from_millis(20), framed.read(&mut [0; 9])).await;
        assert!(early.is_err());
        // What the client says until then still arrives.
        framed.write_all(&encode_frame(Opcode::BINARY, b"last", MASK)).await.unwrap();
        framed.write_all(&encode_close(1000, "", MASK)).await.unwrap();
        assert!(is_over(&mut framed).await);
        let mut last = Vec::new();
        server.read_to_end(&mut last).await.unwrap();
        assert_eq!(last, b"last");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_for_ever() {
        let (mut framed, server) = framed(false, None);
        drop(server);
        assert_eq!(frame(&mut framed, 1000).await.0, Opcode::CLOSE);
        let began = Instant::now();
        assert!(is_over(&mut framed).await);
        assert_eq!(began.elapsed().as_secs(), CLOSING.as_secs());

        let (mut framed, mut server) = self::framed(false, None);
        framed.write_all(&encode_close(1000, "", MASK)).await.unwrap();
        for _ in 0..3 {
            tokio::time::advance(LINGER - Duration::from_secs(1)).await;
            server.write_all(b"more").await.unwrap();
            assert_eq!(frame(&mut framed, 1000).await.1, b"more");
        }
        let began = Instant::now();
        assert_eq!(frame(&mut framed, 1000).await.0, Opcode::CLOSE);
        assert!(began.elapsed() >= LINGER && is_over(&mut framed).await);
    }

    #[tokio::test]
    async fn the_clients_close_ends_what_the_server_reads_and_not_what_it_says() {
        for (close, answer) in [
            (encode_close(4000, "why", MASK), 4000_u16.to_be_bytes().to_vec()),
            (encode_frame(Opcode::CLOSE, &[], MASK), vec![]),
        ] {
            let (mut framed, mut server) = framed(false, None);
            framed.write_all(&encode_frame(Opcode::BINARY, b"ask", MASK)).await.unwrap();
            framed.write_all(&[close, b"behind".to_vec()].concat()).await.unwrap();
            let mut asked = Vec::new();
            server.read_to_end(&mut asked).await.unwrap();
            assert_eq!(asked, b"ask");
            server.write_all(b"answer").await.unwrap();
            assert_eq!(frame(&mut framed, 1000).await.1, b"answer");
            drop(server);
            assert_eq!(frame(&mut framed, 1000).await, (Opcode::CLOSE, answer));
            assert!(is_over(&mut framed).await);
        }
    }

    #[tokio::test]
    async fn of_many_pings_the_last_is_answered_and_none_is_kept() {
        let (mut framed, _server) = framed(false, None);
        for number in 0..1000_u32 {
            let ping = encode_frame(Opcode::PING, &number.to_be_bytes(), MASK);
            framed.write_all(&ping).await.unwrap();
        }
        let pong = frame(&mut framed, 3).await;
        assert_eq!(pong, (Opcode::PONG, 999_u32.to_be_bytes().to_vec()));
        let more = tokio::time::timeout(Duration::from_millis(20), framed.read(&mut [0; 9])).await;
        assert!(more.is_err());
    }

    proptest! {
        #[test]
        fn unmasking_is_the_same_in_pieces(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            mask in any::<[u8; 4]>(),
            at in 0_usize..8,
        ) {
            let mut words = bytes.clone();
            unmask(&mut words, mask, at);
            let mut single = bytes;
            apply_mask(&mut single, mask, at);
            prop_assert_eq!(words, single);
        }
    }
}
