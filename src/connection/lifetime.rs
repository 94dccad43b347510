//! When a live connection must end, as a pure judgement over its clocks.

use std::time::Duration;

use super::config::{LifetimeConfig, OnExpiry};
use crate::clock::{Ticker, UnixSeconds};
use crate::close::Reason;
use crate::relay::{Control, Direction};

/// The limits of a live connection, shared by all of a route. Times are in
/// ticks of [`Ticker::PERIOD`]; 0 is none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LiveLimits {
    /// `lifetime.on_expiry: ignore`.
    pub ignore_expiry: bool,
    /// `lifetime.grace`, in milliseconds.
    pub grace_millis: i64,
    /// `lifetime.max`.
    pub max: u32,
    /// `lifetime.recheck`; none if it is zero.
    pub recheck: Duration,
    /// `lifetime.recheck_stale`.
    pub recheck_stale: Duration,
    /// `limits.idle_timeout`.
    pub idle: u32,
    /// `limits.ping_interval`.
    pub ping: u32,
    /// `limits.stall_timeout`.
    pub stall: u32,
    /// `limits.connections_per_subject`.
    pub per_subject: Option<SubjectLimit>,
}

/// How many connections a subject may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectLimit {
    /// The number.
    pub most: u32,
    /// Whether the oldest gives way, in place of the newest being refused.
    pub close_oldest: bool,
}

/// What is to be done with a connection now.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Stay,
    /// Ask the client whether it lives.
    Ping,
    /// End it.
    Close(Reason),
}

impl LiveLimits {
    /// The lifetime part, from a policy.
    pub fn of(config: &LifetimeConfig) -> LiveLimits {
        LiveLimits {
            ignore_expiry: config.on_expiry == OnExpiry::Ignore,
            grace_millis: i64::try_from(config.grace.0.as_millis()).unwrap_or(i64::MAX),
            max: Ticker::ticks(config.max.0),
            recheck: config.recheck.0,
            recheck_stale: config.recheck_stale.0,
            ..LiveLimits::default()
        }
    }

    /// The limits part.
    #[must_use]
    pub fn with(self, idle: Duration, ping: Duration, stall: Duration) -> LiveLimits {
        LiveLimits {
            idle: Ticker::ticks(idle),
            ping: Ticker::ticks(ping),
            stall: Ticker::ticks(stall),
            ..self
        }
    }

    /// When an identity with that deadline ends a connection, in milliseconds
    /// since the Unix epoch; `i64::MAX` for never.
    pub(super) fn ends(&self, deadline: Option<UnixSeconds>) -> i64 {
        match deadline {
            Some(at) if !self.ignore_expiry => {
                at.saturating_mul(1000).saturating_add(self.grace_millis)
            }
            Some(_) | None => i64::MAX,
        }
    }

    /// Judges a connection by what it did last. Plain HTTP knows no pings and no
    /// idleness: its own timeouts watch it.
    pub(super) fn judge(&self, control: &Control, opened: u32, tick: u32, socket: bool) -> Verdict {
        let since = |then: u32| tick.wrapping_sub(then);
        let over = |limit: u32, then: u32| limit != 0 && since(then) >= limit;
        if over(self.max, opened) {
            return Verdict::Close(Reason::Expired);
        }
        if !socket {
            return Verdict::Stay;
        }
        let stalled =
            |direction| control.stalled_since(direction).is_some_and(|then| over(self.stall, then));
        if stalled(Direction::Up) || stalled(Direction::Down) {
            return Verdict::Close(Reason::Stalled);
        }
        if over(self.idle, control.last_data_tick()) {
            return Verdict::Close(Reason::Idle);
        }
        match control.unanswered_since() {
            Some(then) if over(self.ping, then) => Verdict::Close(Reason::Dead),
            Some(_) => Verdict::Stay,
            None if over(self.ping, control.last_client_tick()) => Verdict::Ping,
            None => Verdict::Stay,
        }
    }
}
