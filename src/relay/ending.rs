//! How a relay ends: a close that is asked for, a peer that leaves or breaks a
//! rule, and the order in which both sides are let go (RFC 6455 §7).

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use super::CLOSING;
use super::control::{Control, Direction};
use super::pipe::{Course, Pipe, Source, Target};
use super::pump::{Ended, Initiator, Pump, ROUNDS};
use crate::close::Reason;
use crate::stream::Parting;

/// How long an upstream may take to answer for a client that broke a rule, and a
/// message in flight to end before a drain.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many bytes TCP sends before the first of them is acknowledged (RFC 6928 §2).
const INITIAL_WINDOW: u64 = 14_600;

impl<C, U, K> Pump<C, U, K>
where
    C: AsyncRead + AsyncWrite + Parting + Unpin,
    U: AsyncRead + AsyncWrite + Parting + Unpin,
    K: Deref<Target = Control> + Unpin,
{
    /// Nothing more can be done now: the timer runs if one is due.
    pub(super) fn rest(&mut self, context: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Ended> {
        let patient = self.down.course == Course::Await || self.awaits_message();
        if self.deadline.is_none() && (patient || self.is_winding_down()) {
            let most = if patient { PATIENCE } else { CLOSING };
            self.deadline = Some(Box::pin(sleep(most)));
            if self.is_overdue(context) {
                return Poll::Ready(self.finish(context, scratch));
            }
        }
        Poll::Pending
    }

    pub(super) fn is_overdue(&mut self, context: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|sleep| sleep.as_mut().poll(context).is_ready())
    }

    /// Takes up a close that was requested from outside.
    pub(super) fn obey(&mut self) {
        if self.closing.is_none()
            && !self.awaits_message()
            && let Some((reason, code)) = self.control.requested()
        {
            self.deadline = None;
            self.close(Initiator::Sockgate, reason, code);
        }
    }

    /// Whether a drain has to wait: messages in flight come first.
    pub(super) fn awaits_message(&self) -> bool {
        self.closing.is_none()
            && !self.hurried
            && (self.up.in_message || self.down.in_message || self.holds_message())
            && matches!(self.control.requested(), Some((Reason::Draining, _)))
    }

    /// Whether a tap waits for the rest of a message: what there is of it is not on its
    /// way yet.
    fn holds_message(&self) -> bool {
        self.assembly.as_ref().is_some_and(|assembly| assembly.is_holding())
    }

    /// Both directions end at their next frame boundary, with a Close.
    pub(super) fn close(&mut self, initiator: Initiator, reason: Reason, code: u16) {
        if self.closing.is_some() {
            return;
        }
        self.note(initiator, code, Some(reason));
        self.closing = Some((reason, code));
        if let Some(assembly) = &mut self.assembly {
            assembly.abandon();
        }
        for pipe in [&mut self.up, &mut self.down] {
            if pipe.course == Course::Pass {
                pipe.course = Course::Finish;
            }
        }
    }

    /// The client broke a rule. Its upstream hears of it at once, the client only
    /// behind what the upstream still has to say to the messages before.
    pub(super) fn fail_client(&mut self, reason: Reason, code: u16) {
        self.close(Initiator::Sockgate, reason, code);
        if self.down.course == Course::Finish && self.down.peer_close.is_none() {
            self.down.course = Course::Await;
        }
    }

    /// The upstream has said its last: now the client is closed, with all the
    /// time that a closing handshake has.
    pub(super) fn stop_awaiting(&mut self) {
        if self.down.course == Course::Await {
            self.down.course = Course::Finish;
            self.deadline = None;
        }
    }

    pub(super) fn note(&mut self, initiator: Initiator, code: u16, reason: Option<Reason>) {
        self.ended.get_or_insert(Ended { initiator, code, reason });
    }

    /// Remembers the first end that came from a peer, and answers an upstream
    /// that vanished.
    pub(super) fn note_ends(&mut self) {
        if let Some(code) = self.up.peer_close {
            self.note(Initiator::Client, code, None);
        }
        if let Some(code) = self.down.peer_close {
            self.note(Initiator::Upstream, code, None);
        }
        if self.up.source != Source::Open {
            self.note(Initiator::Client, 1006, None);
        }
        if self.down.source != Source::Open || self.up.source == Source::Reset {
            self.stop_awaiting();
        }
        if self.down.source != Source::Open && self.ended.is_none() {
            if self.down.mid_frame() {
                // Nothing well-formed can follow: the client's socket just ends.
                self.note(Initiator::Upstream, 1006, Some(Reason::UpstreamUnavailable));
                self.up.discard();
            } else {
                self.close(Initiator::Upstream, Reason::UpstreamUnavailable, 1013);
            }
        }
    }

    /// Shuts down the write sides whose time has come.
    pub(super) fn shut(&mut self, context: &mut Context<'_>) -> bool {
        let closing = self.closing.is_some();
        let client_done = self.up.source != Source::Open
            || (closing && self.up.peer_close.is_some() && self.up.is_discarding());
        let upstream_done = self.down.source != Source::Open
            || (closing && self.down.peer_close.is_some() && self.down.is_discarding());
        // While closing, a peer is let go when its own Close has come;
        // otherwise when the other peer has ended.
        let (let_upstream, let_client) =
            if closing { (upstream_done, client_done) } else { (client_done, upstream_done) };
        let mut progress = false;
        if let_upstream && self.up.target == Target::Open && may_shut(&self.up, closing) {
            progress |= self.up.shut(&mut self.upstream, context);
        }
        if let_client && self.down.target == Target::Open && may_shut(&self.down, closing) {
            progress |= self.down.shut(&mut self.client, context);
        }
        progress
    }

    /// Whether the peers have been given all and only their ends are awaited.
    pub(super) fn is_winding_down(&self) -> bool {
        if self.closing.is_some() || self.up.source != Source::Open {
            return true;
        }
        let broken = self.up.target == Target::Broken || self.down.target == Target::Broken;
        let closed = self.up.peer_close.is_some() && self.down.peer_close.is_some();
        (self.down.source != Source::Open || closed || broken)
            && self.up.is_clear()
            && self.down.is_clear()
    }

    /// Whether nothing is left to be done for either peer.
    pub(super) fn is_over(&self) -> bool {
        let client_ended = self.up.source != Source::Open;
        let upstream_ended = self.down.source != Source::Open;
        let client_let = self.down.target != Target::Open;
        let upstream_let = self.up.target != Target::Open;
        let all = client_ended && upstream_ended && client_let && upstream_let;
        let early = self.is_closed()
            && ((upstream_ended && client_let && self.is_client_done())
                || (client_ended && upstream_let && self.is_upstream_done()));
        all || early || (self.up.source == Source::Reset && upstream_let)
    }

    /// Whether each peer has sent its Close and been handed one (RFC 6455 §7.1.4).
    fn is_closed(&self) -> bool {
        [&self.up, &self.down].into_iter().all(|pipe| {
            let whole = pipe.scanner.at_boundary() && pipe.is_clear();
            pipe.peer_close.is_some() && pipe.target_closed && whole
        })
    }

    /// Whether the client, which has sent its Close, will send nothing more, and so need
    /// not be waited for. What came after all would be answered with a reset, which takes
    /// with it what the kernel still holds for the client. So it must not owe an answer to
    /// a Ping, nor be waiting for more than goes out without one of its acknowledgements.
    fn is_client_done(&self) -> bool {
        let quiet = self.client.ends_quietly() && self.token.is_none();
        quiet && self.is_little(Direction::Down)
    }

    /// The same of the upstream.
    fn is_upstream_done(&self) -> bool {
        self.upstream.ends_quietly() && self.is_little(Direction::Up)
    }

    /// Whether all that has ever passed in `direction` is little, and no Ping.
    fn is_little(&self, direction: Direction) -> bool {
        let tally = self.control.tally(direction);
        tally.bytes() <= INITIAL_WINDOW && tally.pings() == 0
    }

    /// Lets go of both sides. What they sent and nobody read would turn the
    /// FIN into a reset and lose our Close, so it is read off first.
    pub(super) fn finish(&mut self, context: &mut Context<'_>, scratch: &mut [u8]) -> Ended {
        self.up.shut(&mut self.upstream, context);
        self.down.shut(&mut self.client, context);
        if self.up.source == Source::Open {
            drain(&mut self.client, context, scratch);
        }
        if self.down.source == Source::Open {
            drain(&mut self.upstream, context, scratch);
        }
        let nobody = Ended { initiator: Initiator::Client, code: 1006, reason: None };
        self.ended.unwrap_or(nobody)
    }
}

fn may_shut(pipe: &Pipe, closing: bool) -> bool {
    pipe.is_clear() && (!closing || pipe.is_discarding())
}

/// Reads off what has arrived.
fn drain<S: AsyncRead + Unpin>(stream: &mut S, context: &mut Context<'_>, scratch: &mut [u8]) {
    for _ in 0..ROUNDS {
        let mut buffer = ReadBuf::new(scratch);
        match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
            Poll::Ready(_) | Poll::Pending => return,
        }
    }
}
