//! What all connections share, and what one connection brings along.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::after::After;
use super::plan::Plans;
use super::slots::{Counts, Open, Slots, Unauthenticated};
use crate::clock::Ticker;
use crate::close::Reason;
use crate::connection::Registry;
use crate::handshake::Fault;
use crate::policy::{self, IpKey};
use crate::recheck::Rechecks;
use crate::revocation::Revocations;
use crate::telemetry::Telemetry;

/// The state that every connection works under.
pub struct Gate {
    /// The compiled configuration; replaced whole by a reload.
    pub plans: ArcSwap<Plans>,
    /// What is open now.
    pub registry: Arc<Registry>,
    /// The coarse clock of the relays.
    pub ticker: Arc<Ticker>,
    /// Who is no longer welcome.
    pub revocations: Arc<Revocations>,
    /// Whose logins are asked about again.
    pub rechecks: Arc<Rechecks>,
    /// Where lines go, and what is counted.
    pub telemetry: Arc<Telemetry>,
    /// All connections, and those before the permit.
    pub counts: Arc<Counts>,
    /// Connections by client address.
    pub per_ip: policy::Counts<IpKey>,
    unready: AtomicBool,
    stopped: watch::Sender<bool>,
    /// Shared with every client whose first message is awaited: they are in no
    /// registry, since nobody knows who they are.
    logins: Arc<()>,
}

impl Gate {
    /// A gate that admits under `plans`.
    pub fn new(plans: Plans, telemetry: Arc<Telemetry>) -> Gate {
        let ticker = Arc::new(Ticker::default());
        let registry = Registry::new(Arc::clone(&ticker));
        let terms = Arc::clone(&plans.revocation);
        let revocations = Revocations::new(terms, Arc::clone(&registry), Arc::clone(&telemetry));
        Gate {
            plans: ArcSwap::from_pointee(plans),
            registry,
            revocations,
            rechecks: Arc::default(),
            ticker,
            telemetry,
            counts: Arc::default(),
            per_ip: policy::Counts::new(),
            unready: AtomicBool::new(false),
            stopped: watch::Sender::new(false),
            logins: Arc::new(()),
        }
    }

    /// From here on the gate says that it is not ready; it still admits, until
    /// everybody has heard.
    pub fn start_draining(&self) {
        self.unready.store(true, Ordering::Release);
    }

    /// Whether a drain has begun.
    pub fn is_unready(&self) -> bool {
        self.unready.load(Ordering::Acquire)
    }

    /// From here on nothing new is admitted.
    pub fn stop_admitting(&self) {
        self.stopped.send_replace(true);
    }

    /// Whether nothing new is admitted.
    pub fn is_draining(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Waits until nothing new is admitted.
    pub(super) async fn stopped(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await.is_ok();
    }

    /// Held while a client's first message is awaited or refused.
    pub(super) fn awaited_login(&self) -> Arc<()> {
        Arc::clone(&self.logins)
    }

    /// Waits until no first message is awaited or refused, at most for `most`.
    pub async fn logins_ended(&self, most: Duration) {
        const STEP: Duration = Duration::from_millis(20);
        let ended = async {
            while Arc::strong_count(&self.logins) > 1 {
                tokio::time::sleep(STEP).await;
            }
        };
        // Bounded: a client may answer a Close with nothing.
        let _ = tokio::time::timeout(most, ended).await.is_ok();
    }
}

/// One client connection, as the requests on it see it.
pub struct Link {
    /// The peer's address; none on a Unix socket.
    pub peer: Option<IpAddr>,
    /// Whether it speaks TLS to the gate.
    pub tls: bool,
    /// The verdict on the head that is being answered.
    pub fault: Arc<Fault>,
    after: Mutex<Option<Box<After>>>,
    unauthenticated: Mutex<Option<Unauthenticated>>,
    open: Mutex<Option<Open>>,
}

impl Link {
    /// A connection that takes part in both counts.
    pub fn new(peer: Option<IpAddr>, tls: bool, fault: Arc<Fault>, slots: Slots) -> Link {
        Link {
            peer,
            tls,
            fault,
            after: Mutex::default(),
            unauthenticated: Mutex::new(Some(slots.unauthenticated)),
            open: Mutex::new(Some(slots.open)),
        }
    }

    /// Something has been proven: the connection leaves the unauthenticated.
    pub fn permitted(&self) {
        take(&self.unauthenticated);
    }

    /// An upgrade has yet to prove something, whatever an earlier request on the
    /// connection did: a public page must not open the way past the count.
    ///
    /// # Errors
    /// [`Reason::LimitUnauthenticated`].
    pub(super) fn unproven(&self, gate: &Gate) -> Result<(), Reason> {
        let mut held = self.unauthenticated.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = Some(gate.counts.enter_unauthenticated(&gate.plans.load().limits)?);
        }
        Ok(())
    }

    /// Leaves what is to be done once the 101 is written.
    pub(super) fn leave(&self, after: After) {
        let slots = (take(&self.open), take(&self.unauthenticated));
        let after = Box::new(After { slots, ..after });
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = Some(after);
    }

    /// What is to be done with the upgraded stream.
    pub fn take_after(&self) -> Option<Box<After>> {
        take(&self.after)
    }
}

fn take<T>(cell: &Mutex<Option<T>>) -> Option<T> {
    cell.lock().unwrap_or_else(PoisonError::into_inner).take()
}
