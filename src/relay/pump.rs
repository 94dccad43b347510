//! The relay of one connection: two pipes, sockgate's own frames between
//! theirs, and the order in which both sides end.
//!
//! One hand-written future, since it is paid per connection: no buffer while
//! idle, and no timer before the closing handshake.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use super::assembly::{Assembly, Tap, TapVerdict};
use super::control::{Control, Direction};
use super::frame::{Extensions, encode_close, encode_ping};
use super::pipe::{Course, Moved, Pipe, Source, Target};
use super::scan::{Gap, Rules};
use super::scratch::Scratch;
use crate::clock::Ticker;
use crate::close::Reason;
use crate::stream::{Parting, Stream};

/// What a route asks of the relay.
#[derive(Clone, Debug, Default)]
pub struct RelaySettings {
    /// The most payload bytes of one message, as on the wire, either way.
    pub message_bytes: Option<u64>,
    /// What the two peers agreed on in their handshake.
    pub extensions: Extensions,
    /// Encoded frames for the client, before any from the upstream.
    pub greeting: Bytes,
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
    /// sockgate.
    Sockgate,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whose doing it was.
    pub initiator: Initiator,
    /// The close code that travelled; 1005 for an empty Close, 1006 for none.
    pub code: u16,
    /// Why, unless a peer closed of its own accord.
    pub reason: Option<Reason>,
}

/// Moves frames between `client` and `upstream`, both already upgraded, until
/// both have ended. `client_ahead` and `upstream_ahead` are what was read
/// behind the two handshakes.
///
/// Must be polled inside a tokio runtime with time enabled.
#[expect(clippy::too_many_arguments, reason = "two peers with what was read ahead of each")]
pub fn relay<K>(
    client: Stream,
    client_ahead: Bytes,
    upstream: Stream,
    upstream_ahead: Bytes,
    control: K,
    ticker: Arc<Ticker>,
    settings: RelaySettings,
    tap: Option<Box<dyn Tap>>,
) -> impl Future<Output = Ended> + Send + Unpin + use<K>
where
    K: Deref<Target = Control> + Send + Unpin,
{
    let client = Peer { stream: client, ahead: client_ahead };
    let upstream = Peer { stream: upstream, ahead: upstream_ahead };
    Pump::new(client, upstream, control, ticker, &settings, tap)
}

/// One side, as it comes from its handshake.
pub(super) struct Peer<S> {
    pub(super) stream: S,
    pub(super) ahead: Bytes,
}

/// The relay over any two byte streams.
pub(super) struct Pump<C, U, K> {
    pub(super) client: C,
    pub(super) upstream: U,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    pub(super) control: K,
    pub(super) ticker: Arc<Ticker>,
    pub(super) limit: u64,
    pub(super) extensions: Extensions,
    /// The payload of this connection's pings, once there was one.
    pub(super) token: Option<[u8; 8]>,
    pub(super) assembly: Option<Box<Assembly>>,
    /// sockgate closes both sides with this.
    pub(super) closing: Option<(Reason, u16)>,
    /// A drain has waited long enough for the end of a message.
    pub(super) hurried: bool,
    pub(super) ended: Option<Ended>,
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
}

/// How many reads each way one poll makes before other tasks get a turn.
pub(super) const ROUNDS: usize = 16;

impl<C, U, K> Pump<C, U, K>
where
    C: AsyncRead + AsyncWrite + Parting + Unpin,
    U: AsyncRead + AsyncWrite + Parting + Unpin,
    K: Deref<Target = Control> + Unpin,
{
    pub(super) fn new(
        client: Peer<C>,
        upstream: Peer<U>,
        control: K,
        ticker: Arc<Ticker>,
        settings: &RelaySettings,
        tap: Option<Box<dyn Tap>>,
    ) -> Pump<C, U, K> {
        Pump {
            up: Pipe::new(&Bytes::new(), &client.ahead),
            down: Pipe::new(&settings.greeting, &upstream.ahead),
            client: client.stream,
            upstream: upstream.stream,
            control,
            ticker,
            limit: settings.message_bytes.unwrap_or(u64::MAX),
            extensions: settings.extensions,
            token: None,
            assembly: tap.map(|tap| Box::new(Assembly::new(tap))),
            closing: None,
            hurried: false,
            ended: None,
            deadline: None,
        }
    }

    fn run(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        let mut scratch = Scratch::borrow();
        // Before anything spends the task's budget: a flood must not keep the
        // deadline from being seen.
        if self.is_overdue(context) {
            if self.down.course == Course::Await {
                self.stop_awaiting();
            } else if self.awaits_message() {
                (self.hurried, self.deadline) = (true, None);
            } else {
                return Poll::Ready(self.finish(context, &mut scratch));
            }
        }
        let now = self.ticker.now();
        // A direction that cannot go on will wake the task; the other one need
        // not ask it again.
        let (mut up, mut down) = (true, true);
        let mut plain = self.is_plain();
        for _ in 0..ROUNDS {
            if !plain {
                self.obey();
                self.insert(now);
                (up, down) = (true, true);
            }
            up = up && self.step_up(context, &mut scratch, now);
            down = down && self.step_down(context, &mut scratch, now);
            if plain && !(up | down) {
                return Poll::Pending;
            }
            plain = self.is_plain();
            if plain {
                continue;
            }
            let judged = self.judge(context);
            self.note_ends();
            let inserted = self.insert(now);
            let shut = self.shut(context);
            if self.is_over() {
                return Poll::Ready(self.finish(context, &mut scratch));
            }
            let moved = up | down | judged | inserted | shut;
            if !moved {
                return self.rest(context, &mut scratch);
            }
        }
        context.waker().wake_by_ref();
        self.rest(context, &mut scratch)
    }

    /// Whether all that can happen is that bytes come or are taken.
    #[inline]
    fn is_plain(&self) -> bool {
        self.closing.is_none()
            && self.ended.is_none()
            && self.assembly.as_ref().is_none_or(|assembly| assembly.is_idle())
            && self.up.is_plain()
            && self.down.is_plain()
            && !self.control.is_asked()
    }

    /// Puts sockgate's own frames where they may go; true if it did.
    fn insert(&mut self, now: u32) -> bool {
        if let Some((reason, code)) = self.closing {
            let upstream_takes = self.down.source == Source::Open;
            let client_takes = self.up.source != Source::Reset;
            let up = insert_close(&mut self.up, upstream_takes, || {
                let mask = rand::random::<u32>().to_ne_bytes();
                encode_close(code, reason.text(), Some(mask))
            });
            let text = reason.text();
            return insert_close(&mut self.down, client_takes, || encode_close(code, text, None))
                | up;
        }
        if self.down.target_closed && self.down.is_clear() && self.control.ping_requested() {
            // Behind a Close no Ping is answered (RFC 6455 §5.5.2), but the Close is.
            self.control.ping_sent(now);
            return false;
        }
        let gap = self.gap();
        if gap == Gap::None || !self.down.is_gap(gap) {
            return false;
        }
        let mut inserted = false;
        if let Some(assembly) = &mut self.assembly
            && let Some(reply) = assembly.reply.take_if(|_| !self.down.in_message)
        {
            self.down.insert(&reply);
            inserted = true;
        }
        if self.control.ping_requested() && self.down.is_clear() {
            let token = *self.token.get_or_insert_with(|| rand::random::<u64>().to_ne_bytes());
            self.down.insert(&encode_ping(token));
            self.control.ping_sent(now);
            inserted = true;
        }
        inserted
    }

    /// What place in the downward direction something waits for.
    fn gap(&self) -> Gap {
        if self.down.course == Course::Finish {
            Gap::Frames
        } else if self.down.course != Course::Pass
            || self.down.target_closed
            || self.down.source != Source::Open
        {
            Gap::None
        } else if self.control.ping_requested() {
            Gap::Frames
        } else if self.assembly.as_ref().is_some_and(|assembly| assembly.reply.is_some()) {
            Gap::Messages
        } else {
            Gap::None
        }
    }

    fn step_up(&mut self, context: &mut Context<'_>, scratch: &mut [u8], now: u32) -> bool {
        let rules = Rules {
            direction: Direction::Up,
            control: &self.control,
            now,
            limit: self.limit,
            extensions: self.extensions,
            token: self.token,
            gap: if self.up.course == Course::Finish { Gap::Frames } else { Gap::None },
            answering: self.closing.is_none() && self.down.peer_close.is_some(),
        };
        let (reader, writer) = (&mut self.client, &mut self.upstream);
        let assembly = self.assembly.as_deref_mut();
        match self.up.step(reader, writer, context, scratch, &rules, assembly) {
            Moved::Violation(reason, code) => self.fail_client(reason, code),
            Moved::Nothing => return false,
            Moved::Something | Moved::Answered => {}
        }
        true
    }

    fn step_down(&mut self, context: &mut Context<'_>, scratch: &mut [u8], now: u32) -> bool {
        let rules = Rules {
            direction: Direction::Down,
            control: &self.control,
            now,
            limit: self.limit,
            extensions: self.extensions,
            token: None,
            gap: self.gap(),
            answering: self.closing.is_none() && self.up.peer_close.is_some(),
        };
        let (reader, writer) = (&mut self.upstream, &mut self.client);
        match self.down.step(reader, writer, context, scratch, &rules, None) {
            Moved::Violation(reason, code) => {
                self.stop_awaiting();
                self.close(Initiator::Sockgate, reason, code);
            }
            Moved::Answered => self.stop_awaiting(),
            Moved::Nothing => return false,
            Moved::Something => {}
        }
        true
    }

    fn judge(&mut self, context: &mut Context<'_>) -> bool {
        let Some(assembly) = &mut self.assembly else { return false };
        match assembly.poll_verdict(context) {
            Poll::Ready(TapVerdict::Continue { reply, instead }) => {
                assembly.reply = reply;
                self.up.insert(&instead.unwrap_or_default());
                true
            }
            Poll::Ready(TapVerdict::Close { reason, code, reply }) => {
                let passes = self.down.course == Course::Pass && !self.down.target_closed;
                if passes && self.down.is_gap(Gap::Messages) {
                    self.down.insert(&reply.unwrap_or_default());
                }
                self.close(Initiator::Sockgate, reason, code);
                true
            }
            Poll::Pending => false,
        }
    }
}

impl<C, U, K> Future for Pump<C, U, K>
where
    C: AsyncRead + AsyncWrite + Parting + Unpin,
    U: AsyncRead + AsyncWrite + Parting + Unpin,
    K: Deref<Target = Control> + Unpin,
{
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        let pump = self.get_mut();
        pump.control.register(context.waker());
        pump.run(context)
    }
}

/// Puts the Close where the last frame ended, once, and drops what follows;
/// true if the pipe's course changed.
fn insert_close(pipe: &mut Pipe, takes: bool, close: impl FnOnce() -> Vec<u8>) -> bool {
    if pipe.course != Course::Finish {
        return false;
    }
    if pipe.mid_frame() {
        if pipe.source == Source::Open {
            return false;
        }
    } else if takes && !pipe.target_closed && pipe.target == Target::Open {
        pipe.insert(&close());
        pipe.target_closed = true;
    }
    pipe.discard();
    true
}
