//! Client messages put together for somebody who may take one out of the
//! stream: a login renewed in-band, a second login message. Only routes that
//! ask for it pay for it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::frame::{Header, Opcode, apply_mask};
use super::pipe::{Course, Pipe};
use super::scan::{Gap, Next, Rules, Scan, Stop};
use crate::close::Reason;

/// Sees each client message of a bounded size and may take it.
pub trait Tap: Send {
    /// The most payload bytes of a message of interest. Its frames have at most
    /// twice as many in all, so that no split into tiny ones holds more.
    fn max_bytes(&self) -> usize;

    /// Whether the message is for sockgate and not for the upstream.
    fn takes(&self, message: &[u8], text: bool) -> bool;

    /// Judges a message that was taken; client data waits meanwhile.
    fn take(
        &mut self,
        message: Vec<u8>,
        text: bool,
    ) -> Pin<Box<dyn Future<Output = TapVerdict> + Send>>;

    /// Whether a message that begins so, and of which no more will come, may have
    /// been for sockgate: then it is dropped, else the upstream gets what there is. It
    /// may read that at once, since some servers wait for no message to be whole.
    fn could_take(&self, _begun: &[u8], _text: bool) -> bool {
        false
    }

    /// Follows a message that is too large to be held; its last bytes can still
    /// be kept from the upstream.
    fn watch(&self, _text: bool) -> Option<Box<dyn Watch>> {
        None
    }
}

/// Follows a message that a [`Tap`] cannot be shown whole.
pub trait Watch: Send {
    /// Reads on; reason and code to close with once the message turns out to be
    /// one that the tap would have taken.
    fn follow(&mut self, payload: &[u8]) -> Option<(Reason, u16)>;
}

/// What comes of a message that a [`Tap`] took.
#[derive(Debug)]
pub enum TapVerdict {
    /// The connection goes on.
    Continue {
        /// Encoded frames for the upstream, in the place of the message.
        instead: Option<Bytes>,
        /// Encoded frames for the client, put between two upstream messages.
        reply: Option<Bytes>,
    },
    /// Both sides are closed.
    Close {
        /// Why.
        reason: Reason,
        /// The code to send.
        code: u16,
        /// Encoded frames for the client before its Close, unless the upstream is in
        /// the middle of a message.
        reply: Option<Bytes>,
    },
}

type Verdict = Pin<Box<dyn Future<Output = TapVerdict> + Send>>;

/// The message being assembled, or judged.
pub(super) struct Assembly {
    tap: Box<dyn Tap>,
    /// Raw frames of the message so far, while it may still be taken.
    raw: Vec<u8>,
    /// Payload bytes in them, of the frame that has begun included.
    payload: u64,
    state: State,
    /// Follows the message that is passed on.
    watch: Option<Box<dyn Watch>>,
    /// The current frame's mask, and how much of its payload was seen.
    mask: [u8; 4],
    offset: usize,
    /// The current frame is the last of its message.
    last: bool,
    /// The message being held is too large to be taken: only its beginning is held.
    large: bool,
    verdict: Option<Verdict>,
    /// Frames that wait for a place between two upstream messages.
    pub(super) reply: Option<Bytes>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between two messages.
    Between,
    /// A message is held back.
    Holding,
    /// A message is too large to be taken: it is passed on.
    Passing,
}

impl Assembly {
    pub(super) fn new(tap: Box<dyn Tap>) -> Assembly {
        Assembly {
            tap,
            raw: Vec::new(),
            payload: 0,
            state: State::Between,
            watch: None,
            mask: [0; 4],
            offset: 0,
            last: false,
            large: false,
            verdict: None,
            reply: None,
        }
    }

    pub(super) fn is_judging(&self) -> bool {
        self.verdict.is_some()
    }

    /// Whether nothing is to be done before something comes from a peer.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.verdict.is_none() && self.reply.is_none()
    }

    /// Whether a part of a message is held back, and the rest of it has yet to come.
    pub(super) fn is_holding(&self) -> bool {
        self.state == State::Holding
    }

    /// Stops judging: the connection is closed for another reason.
    pub(super) fn abandon(&mut self) {
        self.verdict = None;
        self.reply = None;
        self.raw = Vec::new();
    }

    pub(super) fn poll_verdict(&mut self, context: &mut Context<'_>) -> Poll<TapVerdict> {
        let Some(verdict) = self.verdict.as_mut() else { return Poll::Pending };
        let verdict = std::task::ready!(verdict.as_mut().poll(context));
        self.verdict = None;
        Poll::Ready(verdict)
    }

    /// Gives up on the message being held: its raw frames so far.
    pub(super) fn release(&mut self) -> Vec<u8> {
        if self.state == State::Holding {
            self.state = State::Passing;
        }
        std::mem::take(&mut self.raw)
    }

    /// The client says no more: what of the message being held is for the upstream.
    pub(super) fn release_last(&mut self) -> Vec<u8> {
        let raw = self.release();
        let (begun, text) = unwrap(&raw);
        if !raw.is_empty() && self.tap.could_take(&begun, text) { Vec::new() } else { raw }
    }

    /// Follows the frames in `bytes`, as [`Pipe::scan`] does, but looks at data messages
    /// before they pass: at those that are whole where they are, and the others are put
    /// together first, and what is for the target straight into the pipe.
    pub(super) fn scan(&mut self, pipe: &mut Pipe, bytes: &mut [u8], rules: &Rules<'_>) -> Scan {
        let skimmed = self.skim(pipe, bytes, rules);
        if skimmed.read > 0 { skimmed } else { self.assemble(pipe, bytes, rules) }
    }

    /// Goes past whole messages at the front. Each is unmasked where it is for as long as
    /// the tap looks at it.
    fn skim(&mut self, pipe: &mut Pipe, bytes: &mut [u8], rules: &Rules<'_>) -> Scan {
        let tally = rules.control.tally(rules.direction);
        let mut read = 0;
        while let Some(header) = self.whole(pipe, &bytes[read..], rules) {
            let (mask, text) = (header.mask.unwrap_or_default(), header.opcode == Opcode::TEXT);
            let end = read + header.len + header.payload as usize;
            let payload = &mut bytes[read + header.len..end];
            rules.control.passed_data(rules.now);
            tally.add_frames(header.opcode, 1);
            pipe.enter_data(&header);
            apply_mask(payload, mask, 0);
            if self.tap.takes(payload, text) {
                self.verdict = Some(self.tap.take(payload.to_vec(), text));
                return Scan { forward: read, read: end, stop: Stop::Boundary };
            }
            apply_mask(payload, mask, 0);
            read = end;
        }
        let stop = if read == bytes.len() { Stop::End } else { Stop::Whole };
        Scan { forward: read, read, stop }
    }

    /// The head of the frame that `bytes` begin with, if it is a message that the tap can be
    /// shown as it is.
    #[inline]
    fn whole(&self, pipe: &Pipe, bytes: &[u8], rules: &Rules<'_>) -> Option<Header> {
        let is_between = self.state == State::Between && pipe.scanner.at_boundary();
        if !is_between || pipe.course != Course::Pass || rules.gap != Gap::None {
            return None;
        }
        let header = Header::parse(bytes).ok()??;
        let is_message = header.fin && matches!(header.opcode, Opcode::TEXT | Opcode::BINARY);
        let is_there = header.payload <= (bytes.len() - header.len) as u64;
        let fits = header.payload <= self.tap.max_bytes() as u64;
        let is_whole = is_message && is_there && fits && pipe.fault(&header, rules).is_none();
        is_whole.then_some(header)
    }

    fn assemble(&mut self, pipe: &mut Pipe, bytes: &[u8], rules: &Rules<'_>) -> Scan {
        let mut read = 0;
        let stop = loop {
            let inside = !pipe.scanner.at_boundary();
            let payload = pipe.scanner.payload(bytes.len() - read);
            if self.spots(pipe, &bytes[read..read + payload]) {
                // The upstream has the beginning of a message without an end.
                pipe.cut = true;
                pipe.discard();
                read += payload;
                break Stop::Boundary;
            }
            self.place(pipe, &bytes[read..read + payload]);
            read += payload;
            if pipe.data && payload > 0 {
                rules.control.passed_data(rules.now);
                self.offset += if self.state == State::Holding { payload } else { 0 };
                if self.is_full() {
                    self.outgrow(pipe);
                    if self.is_judging() {
                        break Stop::Boundary;
                    }
                }
            }
            if pipe.is_gap(rules.gap) {
                break Stop::Boundary;
            }
            if !pipe.scanner.at_boundary() {
                break Stop::End;
            }
            if inside && self.frame_ends(pipe) {
                break Stop::Boundary;
            }
            if read == bytes.len() {
                break Stop::End;
            }
            if read > 0 && self.whole(pipe, &bytes[read..], rules).is_some() {
                break Stop::Whole;
            }
            match pipe.next(&bytes[read..], rules) {
                Next::Hungry => break Stop::Hungry,
                Next::OwnPong(length) => read += length,
                Next::Violation(reason, code) => break Stop::Violation(reason, code),
                Next::Frame(header) => {
                    let (head, rest) = bytes[read..].split_at(header.len);
                    pipe.enter(&header, rest, rules);
                    self.frame_begins(pipe, &header);
                    if self.is_judging() {
                        read += header.len;
                        break Stop::Boundary;
                    }
                    self.place(pipe, head);
                    read += header.len;
                    if header.payload == 0 && self.frame_ends(pipe) {
                        break Stop::Boundary;
                    }
                }
            }
        };
        Scan { forward: 0, read, stop }
    }

    /// Bytes of the current frame go where the frame goes.
    fn place(&mut self, pipe: &mut Pipe, bytes: &[u8]) {
        if pipe.withheld {
            self.raw.extend_from_slice(bytes);
        } else if !bytes.is_empty() {
            pipe.insert(bytes);
        }
    }

    /// Whether the message that is passed on turns out to be one for the tap.
    fn spots(&mut self, pipe: &Pipe, payload: &[u8]) -> bool {
        let Some(watch) = self.watch.as_mut().filter(|_| pipe.data && !payload.is_empty()) else {
            return false;
        };
        let mut payload = payload.to_vec();
        apply_mask(&mut payload, self.mask, self.offset);
        self.offset = (self.offset + payload.len()) % 4;
        let Some((reason, code)) = watch.follow(&payload) else { return false };
        let verdict = TapVerdict::Close { reason, code, reply: None };
        self.verdict = Some(Box::pin(std::future::ready(verdict)));
        true
    }

    /// Whether as much of a large message is held as may be: what it is about should
    /// have been said by now.
    fn is_full(&self) -> bool {
        self.state == State::Holding && self.large && self.raw.len() >= self.tap.max_bytes()
    }

    /// The message cannot be held any longer: it is passed on, under watch.
    fn outgrow(&mut self, pipe: &mut Pipe) {
        let raw = self.release();
        let (begun, text) = unwrap(&raw);
        self.watch = self.tap.watch(text);
        let within = (self.mask, self.offset % 4);
        (self.mask, self.offset) = ([0; 4], 0);
        let spotted = self.spots(pipe, &begun);
        (self.mask, self.offset) = within;
        // Of what was spotted nothing has been passed on, and nothing will be.
        pipe.withheld = spotted;
        if !spotted {
            pipe.insert(&raw);
        }
    }

    fn frame_begins(&mut self, pipe: &mut Pipe, header: &Header) {
        self.last = header.fin;
        if header.opcode.is_control() {
            // A ping may overtake the fragments that are held; a Close is the
            // last word, so what is held goes before it.
            if header.opcode == Opcode::CLOSE {
                pipe.insert(&self.release_last());
            }
            return;
        }
        if header.opcode != Opcode::CONTINUATION {
            self.state = State::Holding;
            self.watch = None;
            self.payload = 0;
            self.large = false;
        }
        self.payload = self.payload.saturating_add(header.payload);
        let most = self.tap.max_bytes() as u64;
        let raw = (self.raw.len() + header.len) as u64;
        let fits = self.payload <= most
            && raw.saturating_add(header.payload) <= most.saturating_mul(2).saturating_add(14);
        (self.mask, self.offset) = (header.mask.unwrap_or_default(), 0);
        self.large |= !fits;
        if self.is_full() {
            self.outgrow(pipe);
        }
        if !self.is_judging() {
            pipe.withheld = self.state == State::Holding;
        }
    }

    /// The current frame is complete; true if its message was taken.
    fn frame_ends(&mut self, pipe: &mut Pipe) -> bool {
        if !pipe.data || !self.last {
            return false;
        }
        let state = std::mem::replace(&mut self.state, State::Between);
        if state != State::Holding {
            return false;
        }
        let raw = std::mem::take(&mut self.raw);
        let (message, text) = unwrap(&raw);
        if !self.tap.takes(&message, text) {
            pipe.insert(&raw);
            return false;
        }
        self.verdict = Some(self.tap.take(message, text));
        true
    }
}

/// The payload of a message's whole raw frames, and whether it is text.
fn unwrap(raw: &[u8]) -> (Vec<u8>, bool) {
    let (mut message, mut text, mut rest) = (Vec::with_capacity(raw.len()), false, raw);
    while let Ok(Some(header)) = Header::parse(rest) {
        let after = &rest[header.len..];
        let length = usize::try_from(header.payload).map_or(after.len(), |n| n.min(after.len()));
        let (payload, next) = after.split_at(length);
        let start = message.len();
        message.extend_from_slice(payload);
        apply_mask(&mut message[start..], header.mask.unwrap_or_default(), 0);
        text |= header.opcode == Opcode::TEXT;
        rest = next;
    }
    (message, text)
}
