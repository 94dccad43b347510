//! A live connection from its permit to its last byte: the relay, its place in
//! the registry, and the record that tells of its end.

use std::sync::Arc;

use bytes::Bytes;

use super::IpSlot;
use super::exchange::Exchange;
use super::gate::Gate;
use super::login::LoginTap;
use super::plan::Plan;
use crate::connection::Place;
use crate::identity::Identity;
use crate::relay::{self, Ended, RelaySettings, Tap, relay};
use crate::stream::Stream;
use crate::telemetry::{Ending, Initiator, Record};

/// A connection that has been admitted. It outlives its handshake by days, so it
/// keeps nothing of it but what the end needs.
pub(super) struct Session {
    gate: Arc<Gate>,
    plan: Arc<Plan>,
    record: Record,
    place: Place,
    ip_slot: Option<IpSlot>,
    settings: RelaySettings,
    tap: Option<Box<dyn Tap>>,
}

impl Session {
    /// Keeps of `exchange` what the connection needs, and logs that it is open.
    pub(super) fn new(
        exchange: Exchange,
        mut record: Record,
        place: Place,
        ip_slot: Option<IpSlot>,
        settings: RelaySettings,
        identity: &Arc<Identity>,
    ) -> Box<Session> {
        record.admitted();
        let gate = Arc::clone(&exchange.gate);
        let plan = Arc::clone(&exchange.plan);
        let tap = LoginTap::for_second_logins(&exchange, identity);
        Box::new(Session { gate, plan, record, place, ip_slot, settings, tap })
    }

    /// Relays until both sides are done.
    pub(super) async fn run(
        self: Box<Self>,
        client: Stream,
        client_ahead: Bytes,
        upstream: Stream,
        upstream_ahead: Bytes,
    ) {
        let Session { gate, plan, record, place, ip_slot, settings, tap } = *self;
        let control = Arc::clone(&place.entry().control);
        let ended = relay(
            client,
            client_ahead,
            upstream,
            upstream_ahead,
            control,
            Arc::clone(&gate.ticker),
            settings,
            tap,
        )
        .await;
        let flow = place.entry().flow();
        drop((place, ip_slot));
        let initiator = match ended.initiator {
            relay::Initiator::Client => Initiator::Client,
            relay::Initiator::Upstream => Initiator::Upstream,
            relay::Initiator::Sockgate => Initiator::Sockgate,
        };
        let Ended { code, reason, .. } = ended;
        record.closed(&Ending { initiator, code, reason, flow, own_codes: &plan.own_codes });
    }
}
