//! A stream that lets hyper see one well-formed request at a time.
//!
//! The guard reads each head whole and bounded, judges its bytes with
//! [`super::head`], and hands hyper exactly that head and then exactly its body.
//! Bytes behind an upgrade stay here: they reach nobody before the permit. A head
//! that is refused is replaced by a stand-in, so that the refusal is written by
//! the same pipeline as every other.
//!
//! hyper is told beforehand how many header fields to expect, and pays for as many
//! with each head. So it is told what nearly every head keeps to; before one that
//! has more ([`HeadGuard::outgrown`]) the stream seems to end, once all that came
//! before is answered, and whoever serves it starts hyper anew.
//!
//! A client may close its half once it has sent its request (`nc -N`, some health
//! checkers), and so does one that goes away: the two look alike until something
//! is written. hyper would drop the answer of both. Here the end is kept from it
//! while there is an answer to come and each part of it comes within
//! [`HALF_CLOSED`]; so an upstream is still let go of soon after a browser closes
//! a silent stream of events. hyper's own `half_close` would wait without bound.

mod quick;

use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HOST, HeaderMap};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

pub use self::quick::write_fields;
use super::chunk::Chunked;
use super::head::{self, Framing, Head};
use super::turn::Turn;
use crate::close::Reason;
use crate::stream::Stream;

/// What hyper reads in place of a head that was refused.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";

/// The host of the stand-in, by which its request is told from one before it:
/// hyper reads ahead while it answers.
const STAND_IN_HOST: &str = "refused.invalid";

/// How many header fields hyper has room for on its stack.
const FEW_FIELDS: usize = 100;

/// How long a client that sends no more is waited for with the next part of its
/// answer, though it may be gone.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// The verdict on a head, told to whoever answers it.
#[derive(Debug, Default)]
pub struct Fault(AtomicU8);

impl Fault {
    /// The reason to refuse the request with these `headers` with, if it stands
    /// for a head that was refused.
    pub fn reason(&self, headers: &HeaderMap) -> Option<Reason> {
        let reason = Reason::from_number(self.0.load(Ordering::Acquire))?;
        headers.get(HOST).is_some_and(|host| host == STAND_IN_HOST).then_some(reason)
    }
}

/// Bounds on what one client connection may hold.
#[derive(Clone, Copy, Debug)]
pub struct GuardLimits {
    /// Bytes of a request head.
    pub header_bytes: usize,
    /// How long a response may wait for a client that takes none of it.
    pub write_stall: Option<Duration>,
}

/// The guarded client stream.
pub struct HeadGuard {
    stream: Stream,
    ahead: BytesMut,
    phase: Phase,
    fault: Arc<Fault>,
    turn: Arc<Turn>,
    limits: GuardLimits,
    /// How many header fields hyper takes.
    most_fields: usize,
    /// Whether written bytes may not have left yet.
    unflushed: bool,
    /// Whether the client takes no more at the moment: it is there, then.
    blocked: bool,
    /// Until when an answer may take its time, if the client sends no more.
    half_closed: Option<Pin<Box<Sleep>>>,
    stalled: Option<Pin<Box<Sleep>>>,
}

enum Phase {
    /// Reading a head; that many bytes of it have been looked at.
    Head { scanned: usize },
    /// Handing over that many bytes of a judged head.
    Judged { left: usize, framing: Framing, fields: usize },
    /// Holding a judged head of that many bytes, with more fields than hyper takes.
    Outgrown { left: usize, head: Head },
    /// Handing over that many bytes of a body.
    Length(u64),
    /// Handing over a chunked body.
    Chunked(Chunked),
    /// Holding what comes behind an upgrade.
    Held,
    /// Handing over the rest of the stand-in.
    Refused(&'static [u8]),
}

impl HeadGuard {
    /// Guards `stream`; the fault is read where requests are answered.
    pub fn new(stream: Stream, limits: GuardLimits) -> (HeadGuard, Arc<Fault>) {
        let fault = Arc::new(Fault::default());
        let guard = HeadGuard {
            stream,
            ahead: BytesMut::new(),
            phase: Phase::Head { scanned: 0 },
            fault: Arc::clone(&fault),
            turn: Arc::default(),
            limits,
            most_fields: FEW_FIELDS,
            unflushed: false,
            blocked: false,
            half_closed: None,
            stalled: None,
        };
        (guard, fault)
    }

    /// Where it is told when a request is answered.
    pub fn turn(&self) -> Arc<Turn> {
        Arc::clone(&self.turn)
    }

    /// How many header fields hyper must be told to take for the head that comes
    /// next, if the stream ended for that reason alone.
    pub fn outgrown(&mut self) -> Option<usize> {
        let Phase::Outgrown { left, head } = self.phase else { return None };
        self.phase = Phase::Judged { left, framing: head.framing, fields: head.fields };
        self.most_fields = head.fields.next_power_of_two();
        Some(self.most_fields)
    }

    /// Whether the stream ended within a head.
    pub fn has_part_of_a_head(&self) -> bool {
        matches!(self.phase, Phase::Head { .. }) && !self.ahead.is_empty()
    }

    /// The stream and what was held behind the upgrade.
    pub fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.ahead.freeze())
    }

    /// Reads once into `ahead`; whether the stream is at its end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        self.ahead.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().is_empty()))
    }

    /// Looks for the end of a head in `ahead`; the next phase, once it is known.
    fn judge(&mut self, scanned: usize) -> Option<Phase> {
        let verdict = self.length_of_head(scanned)?;
        let verdict = verdict.and_then(|left| Ok((left, head::read(&self.ahead[..left])?)));
        Some(self.phase_after(verdict))
    }

    /// How long the head in `ahead` is, once that is known.
    fn length_of_head(&mut self, scanned: usize) -> Option<Result<usize, Reason>> {
        if scanned == 0 && self.ahead.starts_with(b"\r\n") {
            self.ahead.advance(2); // RFC 9112 §2.2: one empty line before a request
        }
        match head::end_of_head(&self.ahead, scanned) {
            Some(end) if end > self.limits.header_bytes => Some(Err(Reason::LimitHeader)),
            Some(end) => Some(Ok(end)),
            None if self.ahead.len() > self.limits.header_bytes => Some(Err(Reason::LimitHeader)),
            None if head::is_hopeless(&self.ahead, scanned) => Some(Err(Reason::ProtocolError)),
            None => None,
        }
    }

    /// What becomes of a head of that many bytes, or of one that is refused.
    fn phase_after(&mut self, verdict: Result<(usize, Head), Reason>) -> Phase {
        match verdict {
            Ok((left, head)) if head.fields > self.most_fields => Phase::Outgrown { left, head },
            Ok((left, head)) => Phase::Judged { left, framing: head.framing, fields: head.fields },
            Err(reason) => {
                self.fault.0.store(reason as u8, Ordering::Release);
                self.ahead = BytesMut::new();
                Phase::Refused(STAND_IN)
            }
        }
    }

    /// Bytes of a body of at most `left`, from `ahead` or from the stream.
    fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        left: u64,
    ) -> Poll<io::Result<u64>> {
        if self.ahead.is_empty() && ready!(self.poll_fill(context))? {
            return Poll::Ready(Ok(0));
        }
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        let count = self.hand_over(buffer, wanted);
        Poll::Ready(Ok(count as u64))
    }

    /// Moves at most `most` bytes from `ahead` into `buffer`.
    fn hand_over(&mut self, buffer: &mut ReadBuf<'_>, most: usize) -> usize {
        let count = most.min(self.ahead.len()).min(buffer.remaining());
        buffer.put_slice(&self.ahead[..count]);
        self.ahead.advance(count);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        count
    }

    /// Whether hyper has a request to answer, or an answer to write: the end of
    /// the stream would now be that of the answer too.
    fn is_answering(&self) -> bool {
        self.turn.is_the_gates() || self.unflushed
    }

    /// Waits until the end of the stream may be told, between two requests.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_answering() {
            return Poll::Ready(());
        }
        let sleep = self.half_closed.get_or_insert_with(|| Box::pin(sleep(HALF_CLOSED)));
        if self.blocked {
            return Poll::Pending;
        }
        sleep.as_mut().poll(context)
    }

    /// Whether something that was read is kept from hyper until it has answered.
    fn is_holding_back(&self) -> bool {
        self.half_closed.is_some() || matches!(self.phase, Phase::Outgrown { .. })
    }

    /// Tracks a client that takes nothing of what is written to it.
    fn watch_stall(&mut self, context: &mut Context<'_>, moved: bool) -> io::Result<()> {
        self.blocked = !moved;
        if moved {
            self.stalled = None;
            if let Some(sleep) = &mut self.half_closed {
                sleep.as_mut().reset(Instant::now() + HALF_CLOSED);
                // Not over yet; but hyper may not read again before it is.
                let _ = sleep.as_mut().poll(context).is_pending();
            }
            return Ok(());
        }
        let Some(limit) = self.limits.write_stall else { return Ok(()) };
        let sleep = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match sleep.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

fn bad_body() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed request body")
}

impl AsyncRead for HeadGuard {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        loop {
            match &mut guard.phase {
                Phase::Head { scanned } => {
                    let scanned = *scanned;
                    if let Some(next) = guard.judge(scanned) {
                        guard.phase = next;
                        continue;
                    }
                    guard.phase = Phase::Head { scanned: guard.ahead.len() };
                    if ready!(guard.poll_fill(context))? {
                        return guard.poll_end(context).map(Ok);
                    }
                }
                Phase::Judged { left: 0, framing, .. } => {
                    guard.phase = match framing {
                        Framing::Length(0) => Phase::Head { scanned: 0 },
                        Framing::Length(length) => Phase::Length(*length),
                        Framing::Chunked => Phase::Chunked(Chunked::START),
                        Framing::Upgrade => Phase::Held,
                    };
                }
                Phase::Judged { left, framing, fields } => {
                    let (whole, framing, fields) = (*left, *framing, *fields);
                    let count = guard.hand_over(buffer, whole);
                    guard.phase = Phase::Judged { left: whole - count, framing, fields };
                    return Poll::Ready(Ok(()));
                }
                Phase::Outgrown { .. } => {
                    return if guard.is_answering() { Poll::Pending } else { Poll::Ready(Ok(())) };
                }
                Phase::Length(0) => guard.phase = Phase::Head { scanned: 0 },
                Phase::Length(left) => {
                    let whole = *left;
                    let count = ready!(guard.poll_body(context, buffer, whole))?;
                    guard.phase = Phase::Length(whole - count);
                    return Poll::Ready(Ok(()));
                }
                Phase::Chunked(Chunked::Done) => guard.phase = Phase::Head { scanned: 0 },
                Phase::Chunked(state) => {
                    let mut state = *state;
                    if guard.ahead.is_empty() && ready!(guard.poll_fill(context))? {
                        return Poll::Ready(Ok(()));
                    }
                    let offered = guard.ahead.len().min(buffer.remaining());
                    let ours = state.advance(&guard.ahead[..offered]).map_err(|_| bad_body())?;
                    guard.hand_over(buffer, ours);
                    guard.phase = Phase::Chunked(state);
                    return Poll::Ready(Ok(()));
                }
                Phase::Held => {
                    if guard.ahead.len() >= guard.limits.header_bytes {
                        return Poll::Pending;
                    }
                    if ready!(guard.poll_fill(context))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Phase::Refused(rest) => {
                    if rest.is_empty() {
                        return Poll::Pending;
                    }
                    let count = rest.len().min(buffer.remaining());
                    buffer.put_slice(&rest[..count]);
                    guard.phase = Phase::Refused(&rest[count..]);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for HeadGuard {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        guard.unflushed = true;
        let written = Pin::new(&mut guard.stream).poll_write(context, bytes)?;
        guard.watch_stall(context, written.is_ready())?;
        written.map(Ok)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        guard.unflushed = true;
        let written = Pin::new(&mut guard.stream).poll_write_vectored(context, slices)?;
        guard.watch_stall(context, written.is_ready())?;
        written.map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        ready!(Pin::new(&mut guard.stream).poll_flush(context))?;
        // hyper flushes once it has written all it has.
        guard.unflushed = false;
        if guard.is_holding_back() && !guard.is_answering() {
            // Nothing else would make hyper read.
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
