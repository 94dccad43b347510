//! The one task that watches the clock for all connections, and the drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::entry::Entry;
use super::registry::Registry;
use crate::clock::{self, Ticker};
use crate::close::Reason;

/// Sweeps `registry` every [`Ticker::PERIOD`], for as long as it is polled.
pub async fn sweep(registry: Arc<Registry>) {
    let start = Instant::now();
    let mut interval = tokio::time::interval(Ticker::PERIOD);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = interval.tick().await;
        let ticks = now.duration_since(start).as_millis() / Ticker::PERIOD.as_millis();
        // Ticks are compared by wrapping difference, so 34 years may pass.
        let tick = ticks as u32;
        let due = registry.due(clock::unix_millis(), tick);
        // Who logged in together, as after an outage, expires together.
        in_turn(&due, |entry| entry.close_if_due(clock::unix_millis(), tick)).await;
    }
}

/// Closes `entries` for `reason`, some at a time.
pub async fn close_in_turn(entries: Vec<Arc<Entry>>, reason: Reason) {
    in_turn(&entries, |entry| entry.close(reason)).await;
}

/// Closes `entries`, some at a time: each closing wakes its connection, and nobody else
/// should have to wait for all of them. But they all begin before most have ended: a
/// Close that is sent is worth more than one that is answered.
async fn in_turn(entries: &[Arc<Entry>], close: impl Fn(&Entry)) {
    const TURN: usize = 256;
    /// About as long as two processors have to do with one turn. A pause, since a
    /// yield would come behind all that the turns before have still to do.
    const PAUSE: Duration = Duration::from_millis(5);
    for (number, turn) in entries.chunks(TURN).enumerate() {
        if number > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        turn.iter().for_each(|entry| close(entry));
    }
}

/// Closes every open connection with 1001, evenly over `over`, and returns as
/// soon as the last is gone, or when closing handshakes have had their time.
pub async fn drain(registry: &Registry, over: Duration) {
    /// For the last to finish: a message in flight, then both closing handshakes.
    const RESERVE: Duration = Duration::from_secs(3);
    /// Closings due within this of each other go together.
    const GRAIN: Duration = Duration::from_millis(10);

    let entries = registry.entries();
    let start = Instant::now();
    let spread = over.saturating_sub(RESERVE).max(over.mul_f64(0.7));
    let share = spread.div_f64(entries.len().max(1) as f64);
    for (position, entry) in entries.iter().enumerate() {
        let due = start + share.mul_f64(position as f64);
        if due > Instant::now() + GRAIN {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = registry.emptied() => return,
            }
        }
        entry.close(Reason::Draining);
    }
    // A handshake may have ended between the drain's start and here.
    for entry in registry.entries() {
        entry.close(Reason::Draining);
    }
    let rest = RESERVE.max((start + over).saturating_duration_since(Instant::now()));
    let _ = tokio::time::timeout(rest, registry.emptied()).await;
}
