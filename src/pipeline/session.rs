//! A live connection from its permit to its last byte: the relay, its place in
//! the registry, and the record that tells of its end.

use std::sync::Arc;

use bytes::Bytes;

use super::IpSlot;
use super::after::Stage;
use super::exchange::Exchange;
use super::gate::Gate;
use super::plan::Plan;
use super::refresh::RefreshTap;
use super::slots::Open;
use crate::connection::{Controlled, Place};
use crate::relay::{self, Ended, RelaySettings, Tap, relay};
use crate::stream::Stream;
use crate::telemetry::{Ending, Initiator, Record};

/// A connection that has been admitted, and is yet to be relayed.
pub(super) struct Session {
    gate: Arc<Gate>,
    settings: RelaySettings,
    tap: Option<Box<dyn Tap>>,
    rest: Rest,
}

/// What the end of a connection needs. It outlives its handshake by days, so
/// this is all that is kept of it.
struct Rest {
    plan: Arc<Plan>,
    record: Record,
    place: Place,
    _ip_slot: Option<IpSlot>,
    /// Until the relay is over, what is told if the process ends first.
    ended: Ended,
}

impl Session {
    /// Keeps of `exchange` what the connection needs, and logs that it is open.
    /// `tap` sees what the client sends.
    pub(super) fn new(
        exchange: Box<Exchange>,
        mut record: Record,
        place: Place,
        ip_slot: Option<IpSlot>,
        settings: RelaySettings,
        tap: Option<Box<dyn Tap>>,
    ) -> Box<Session> {
        record.admitted();
        let gate = Arc::clone(&exchange.gate);
        let plan = Arc::clone(&exchange.plan);
        let tap = RefreshTap::around(tap, &exchange, place.entry());
        let ended = Ended { initiator: relay::Initiator::Sockgate, code: 1006, reason: None };
        let rest = Rest { plan, record, place, _ip_slot: ip_slot, ended };
        Box::new(Session { gate, settings, tap, rest })
    }

    /// The relay of both sides, which lasts until both are done. `open` is held as
    /// long.
    pub(super) fn stage(
        self: Box<Self>,
        client: Stream,
        client_ahead: Bytes,
        upstream: Stream,
        upstream_ahead: Bytes,
        open: Option<Open>,
    ) -> Stage {
        let Session { gate, settings, tap, mut rest } = *self;
        let mut relay = relay(
            client,
            client_ahead,
            upstream,
            upstream_ahead,
            Controlled(Arc::clone(rest.place.entry())),
            Arc::clone(&gate.ticker),
            settings,
            tap,
        );
        drop(gate);
        // By reference: a future that is moved into an await is there twice.
        Stage::new(async move {
            rest.ended = (&mut relay).await;
            drop((rest, open));
            None
        })
    }
}

/// The connection is over. Its place is left behind what is told of it: when the last has
/// left, the process may end.
impl Drop for Rest {
    fn drop(&mut self) {
        let Ended { initiator, code, reason } = self.ended;
        let initiator = match initiator {
            relay::Initiator::Client => Initiator::Client,
            relay::Initiator::Upstream => Initiator::Upstream,
            relay::Initiator::Sockgate => Initiator::Sockgate,
        };
        let (flow, own_codes) = (self.place.entry().flow(), &self.plan.own_codes);
        self.record.closed(&Ending { initiator, code, reason, flow, own_codes });
    }
}
