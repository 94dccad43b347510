//! One direction of a connection: read from the source, follow the frames,
//! write to the target, and keep bytes only while the target takes none.
//!
//! A pipe never reads while it keeps bytes that it is to forward, so what it
//! holds is bounded by one read. It knows nothing of the other direction.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::assembly::Assembly;
use super::control::Direction;
use super::frame::FrameScanner;
use super::scan::{Rules, Scan, Stop};
use crate::close::Reason;
use crate::stream::Parting;

/// One direction's state.
#[derive(Default)]
pub(super) struct Pipe {
    pub(super) scanner: FrameScanner,
    /// Payload bytes of the message that the source is sending.
    pub(super) message: u64,
    /// None but while the target is slow or a frame is not looked at yet: an idle
    /// connection holds no buffer.
    kept: Option<Box<Kept>>,
    /// What is unread says nothing without more behind it.
    hungry: bool,
    pub(super) course: Course,
    pub(super) source: Source,
    pub(super) target: Target,
    /// The source ended inside a frame, whose beginning has been passed on.
    pub(super) cut: bool,
    /// The code of the source's own Close frame, once it was seen.
    pub(super) peer_close: Option<u16>,
    /// A Close was put on the way to the target, the source's or sockgate's.
    pub(super) target_closed: bool,
    /// A fragmented message is on its way to the target.
    pub(super) in_message: bool,
    /// The current frame is a data frame.
    pub(super) data: bool,
    /// The current frame is not being passed to the target.
    pub(super) withheld: bool,
    unflushed: bool,
    stalled: bool,
}

/// Bytes that are not where they belong yet.
#[derive(Default)]
struct Kept {
    /// Bytes for the target that it has not taken, from `at` on.
    out: Vec<u8>,
    at: usize,
    /// Bytes from the source that are not forwarded yet: what came with the
    /// handshake, a frame head that is not complete, or what follows a stop.
    unread: Vec<u8>,
}

/// What happens to what the source sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Course {
    /// It is passed on.
    #[default]
    Pass,
    /// It is passed on up to the end of the frame; then a Close is due.
    Finish,
    /// It is passed on up to the source's own Close or end; then ours is due.
    Await,
    /// It is read for its Close frame and dropped.
    Discard,
    /// The same, but frame boundaries are lost.
    Blind,
}

/// What is known of the peer that a pipe reads from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Source {
    #[default]
    Open,
    /// It ended in order.
    Ended,
    /// Its connection broke.
    Reset,
}

impl Source {
    /// What it is after a read that gave nothing.
    fn after(read: &io::Result<usize>) -> Source {
        match read {
            Ok(_) => Source::Ended,
            // TLS without close_notify: the peer is gone all the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Source::Ended,
            Err(_) => Source::Reset,
        }
    }
}

/// What is known of the peer that a pipe writes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Target {
    #[default]
    Open,
    /// Its write side was shut down.
    Shut,
    /// It takes nothing any more.
    Broken,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// Nothing can be done until a waker fires.
    Nothing,
    /// Something was read or written.
    Something,
    /// The Close that was awaited comes next.
    Answered,
    /// The source broke a rule with the frame that comes next; the code to close
    /// with.
    Violation(Reason, u16),
}

impl Pipe {
    /// A pipe that first writes `greeting`, then carries `ahead`.
    pub(super) fn new(greeting: &Bytes, ahead: &Bytes) -> Pipe {
        let mut pipe = Pipe::default();
        if !(greeting.is_empty() && ahead.is_empty()) {
            let (out, unread) = (greeting.to_vec(), ahead.to_vec());
            pipe.kept = Some(Box::new(Kept { out, at: 0, unread }));
        }
        pipe
    }

    /// Whether the target is in the middle of a frame.
    pub(super) fn mid_frame(&self) -> bool {
        self.cut || (!self.scanner.at_boundary() && !self.withheld)
    }

    /// Whether all that the target is to get has been handed to it.
    #[inline]
    pub(super) fn is_clear(&self) -> bool {
        self.target == Target::Broken || !(self.unflushed || self.is_behind())
    }

    /// Whether neither side has ended, nor said that it will.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.source == Source::Open && self.target == Target::Open && self.peer_close.is_none()
    }

    /// Whether nothing more is passed on.
    pub(super) fn is_discarding(&self) -> bool {
        matches!(self.course, Course::Discard | Course::Blind)
    }

    /// Puts whole frames on the way to the target.
    pub(super) fn insert(&mut self, frames: &[u8]) {
        if !frames.is_empty() {
            self.kept.get_or_insert_default().out.extend_from_slice(frames);
        }
    }

    /// Drops what the source sends from now on.
    pub(super) fn discard(&mut self) {
        if self.course != Course::Blind {
            self.course = Course::Discard;
        }
    }

    /// Writes what waits, then reads and carries once.
    pub(super) fn step<R: AsyncRead + Unpin, W: AsyncWrite + Parting + Unpin>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        context: &mut Context<'_>,
        scratch: &mut [u8],
        rules: &Rules<'_>,
        assembly: Option<&mut Assembly>,
    ) -> Moved {
        let waited = !self.is_clear();
        let clear = self.settle(writer, context, rules);
        let wrote = if waited && clear { Moved::Something } else { Moved::Nothing };
        let judging = assembly.as_ref().is_some_and(|assembly| assembly.is_judging());
        if self.source != Source::Open || (!self.is_discarding() && (!clear || judging)) {
            return wrote;
        }
        let moved = match self.fill(reader, context, scratch, rules) {
            Poll::Pending => return wrote,
            Poll::Ready(Ok(count @ 1..)) => {
                let (bytes, spare) = scratch.split_at_mut(count);
                self.carry(reader, writer, context, [bytes, spare], rules, assembly)
            }
            Poll::Ready(end) => self.end(Source::after(&end), assembly),
        };
        self.settle(writer, context, rules);
        moved
    }

    /// Shuts the target's write side down; true once that is done.
    pub(super) fn shut<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        context: &mut Context<'_>,
    ) -> bool {
        if self.target == Target::Open {
            self.target = match Pin::new(writer).poll_shutdown(context) {
                Poll::Ready(Ok(())) => Target::Shut,
                Poll::Ready(Err(_)) => Target::Broken,
                Poll::Pending => return false,
            };
        }
        true
    }

    /// Follows the frames in `bytes`, passes on what may pass and keeps the rest.
    fn carry<R: AsyncRead + Unpin, W: AsyncWrite + Parting + Unpin>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        context: &mut Context<'_>,
        [bytes, spare]: [&mut [u8]; 2],
        rules: &Rules<'_>,
        assembly: Option<&mut Assembly>,
    ) -> Moved {
        let scan = match assembly {
            Some(assembly) if !self.is_discarding() => {
                self.carry_watched(writer, context, bytes, rules, assembly)
            }
            Some(_) | None => self.scan(bytes, rules),
        };
        self.hungry = scan.stop == Stop::Hungry;
        if scan.read < bytes.len() {
            self.keep_unread(&bytes[scan.read..]);
        }
        if scan.forward > 0 && !self.is_discarding() {
            rules.control.tally(rules.direction).add_bytes(scan.forward);
            let parts = rules.answering && self.peer_close.is_some();
            let bytes = &bytes[..scan.forward];
            let taken =
                if parts { self.part(reader, writer, context, bytes, spare, rules) } else { 0 };
            self.write(writer, context, &bytes[taken..]);
        }
        match scan.stop {
            Stop::Violation(..) if self.is_discarding() => {
                self.course = Course::Blind;
                self.take_unread();
                Moved::Something
            }
            Stop::Violation(reason, code) => Moved::Violation(reason, code),
            Stop::Answer => Moved::Answered,
            Stop::End | Stop::Hungry | Stop::Boundary | Stop::Whole => Moved::Something,
        }
    }

    /// The same for a tap, which sees each message before it is passed on: all that may pass
    /// of what was read is on its way already. Apart, for the sake of those without a tap.
    #[inline(never)]
    fn carry_watched<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        context: &mut Context<'_>,
        bytes: &mut [u8],
        rules: &Rules<'_>,
        assembly: &mut Assembly,
    ) -> Scan {
        let mut read = 0;
        loop {
            let scan = assembly.scan(self, &mut bytes[read..], rules);
            rules.control.tally(rules.direction).add_bytes(scan.read);
            if scan.forward > 0 {
                self.write(writer, context, &bytes[read..read + scan.forward]);
            }
            read += scan.read;
            // A target that breaks takes nothing of the rest.
            if scan.stop != Stop::Whole || self.is_discarding() {
                return Scan { forward: 0, read, stop: scan.stop };
            }
        }
    }

    /// Behind an answer to a Close comes the source's end, as a rule at once: then it takes
    /// `bytes`, which end with the answer, along to the target. How many it took.
    #[cold]
    fn part<R: AsyncRead + Unpin, W: Parting>(
        &mut self,
        reader: &mut R,
        writer: &W,
        context: &mut Context<'_>,
        bytes: &[u8],
        spare: &mut [u8],
        rules: &Rules<'_>,
    ) -> usize {
        if self.kept.is_some() || spare.is_empty() {
            return 0;
        }
        match self.fill(reader, context, spare, rules) {
            Poll::Pending => 0,
            Poll::Ready(Ok(count @ 1..)) => {
                self.keep_unread(&spare[..count]);
                0
            }
            Poll::Ready(end) => {
                self.end(Source::after(&end), None);
                writer.take_last(bytes)
            }
        }
    }

    /// Puts bytes into the scratch buffer: those from before, or a new read. Inlined, since
    /// it has a second caller, for whose sake every message would pay for a call.
    #[inline(always)]
    fn fill<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        context: &mut Context<'_>,
        scratch: &mut [u8],
        rules: &Rules<'_>,
    ) -> Poll<io::Result<usize>> {
        let unread = self.kept.as_ref().map_or(&[][..], |kept| &kept.unread);
        let kept = unread.len().min(scratch.len());
        scratch[..kept].copy_from_slice(&unread[..kept]);
        if kept > 0 && !self.hungry {
            let rest = self.take_unread().split_off(kept);
            self.keep_unread(&rest);
            return Poll::Ready(Ok(kept));
        }
        let mut buffer = ReadBuf::new(&mut scratch[kept..]);
        match Pin::new(reader).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                let count = kept + buffer.filled().len();
                if kept > 0 {
                    self.take_unread();
                }
                if rules.direction == Direction::Up {
                    rules.control.heard_client(rules.now);
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ok(0)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Keeps bytes to be looked at later, before those that are kept already.
    fn keep_unread(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let unread = &mut self.kept.get_or_insert_default().unread;
            *unread = [bytes, unread].concat();
        }
    }

    fn take_unread(&mut self) -> Vec<u8> {
        let unread = self.kept.as_mut().map(|kept| std::mem::take(&mut kept.unread));
        self.kept.take_if(|kept| kept.out.is_empty());
        unread.unwrap_or_default()
    }

    fn drop_out(&mut self) {
        if let Some(kept) = &mut self.kept {
            (kept.out, kept.at) = (Vec::new(), 0);
        }
        self.kept.take_if(|kept| kept.unread.is_empty());
    }

    /// Whether bytes wait for the target.
    fn is_behind(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| !kept.out.is_empty())
    }

    /// The source is at its end: what was held back of a frame goes out.
    fn end(&mut self, source: Source, assembly: Option<&mut Assembly>) -> Moved {
        self.source = source;
        if !self.is_discarding() {
            let unread = self.take_unread();
            self.cut = !unread.is_empty() || !self.scanner.at_boundary();
            if let Some(assembly) = assembly {
                self.insert(&assembly.release_last());
            }
            self.insert(&unread);
        }
        Moved::Something
    }

    /// Hands `bytes` to the target and keeps what it does not take.
    fn write<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        context: &mut Context<'_>,
        mut bytes: &[u8],
    ) {
        self.unflushed = true;
        while !bytes.is_empty() && !self.is_behind() {
            match Pin::new(&mut *writer).poll_write(context, bytes) {
                Poll::Ready(Ok(count @ 1..)) => bytes = &bytes[count.min(bytes.len())..],
                Poll::Ready(Ok(0) | Err(_)) => return self.break_target(),
                Poll::Pending => break,
            }
        }
        self.insert(bytes);
        // Most streams have nothing to flush.
        if let Poll::Ready(Ok(())) = Pin::new(writer).poll_flush(context) {
            self.unflushed = false;
        }
    }

    /// Writes what is kept and flushes; true if nothing waits any more.
    #[inline]
    fn settle<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        context: &mut Context<'_>,
        rules: &Rules<'_>,
    ) -> bool {
        self.is_clear() || self.settle_up(writer, context, rules)
    }

    fn settle_up<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        context: &mut Context<'_>,
        rules: &Rules<'_>,
    ) -> bool {
        let written = |pipe: &Pipe| pipe.kept.as_ref().map_or(0, |kept| kept.at);
        let before = written(self);
        let done = self.poll_out(writer, context);
        if done {
            self.drop_out();
            if self.stalled {
                rules.control.stalled(rules.direction, None);
            }
        } else if !self.stalled || written(self) > before {
            rules.control.stalled(rules.direction, Some(rules.now));
        }
        self.stalled = !done;
        done
    }

    fn poll_out<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        context: &mut Context<'_>,
    ) -> bool {
        while let Some(kept) = self.kept.as_mut().filter(|kept| kept.at < kept.out.len()) {
            self.unflushed = true;
            match Pin::new(&mut *writer).poll_write(context, &kept.out[kept.at..]) {
                Poll::Ready(Ok(count @ 1..)) => kept.at += count,
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.break_target();
                    return true;
                }
                Poll::Pending => return false,
            }
        }
        match Pin::new(writer).poll_flush(context) {
            Poll::Ready(Ok(())) => self.unflushed = false,
            Poll::Ready(Err(_)) => self.break_target(),
            Poll::Pending => return false,
        }
        true
    }

    /// The target takes nothing any more. Its own last words may still be
    /// unread, so only this direction ends.
    fn break_target(&mut self) {
        self.target = Target::Broken;
        self.drop_out();
        self.discard();
    }
}
