//! The two counts that a connection takes part in from its first byte: all
//! connections of the process, and those that nothing has been proven about.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::close::Reason;
use crate::policy::LimitsConfig;

/// The counts of the process.
#[derive(Debug, Default)]
pub struct Counts {
    open: AtomicU32,
    unauthenticated: AtomicU32,
}

/// One connection's part in a count; dropping it gives it back.
#[derive(Debug)]
pub struct Slot(Arc<Counts>, fn(&Counts) -> &AtomicU32);

/// A connection's parts in both counts.
#[derive(Debug)]
pub struct Slots {
    /// Held to the end of the connection.
    pub open: Slot,
    /// Held until the permit.
    pub unauthenticated: Slot,
}

impl Counts {
    /// Takes part in both counts.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn enter(self: &Arc<Self>, limits: &LimitsConfig) -> Result<Slots, Reason> {
        let open = Slot::take(self, |counts| &counts.open, limits.connections)
            .ok_or(Reason::LimitConnections)?;
        Ok(Slots { open, unauthenticated: self.enter_unauthenticated(limits)? })
    }

    /// Takes part in the second count alone.
    ///
    /// # Errors
    /// [`Reason::LimitUnauthenticated`].
    pub fn enter_unauthenticated(self: &Arc<Self>, limits: &LimitsConfig) -> Result<Slot, Reason> {
        let most = limits.unauthenticated.of(limits.connections);
        Slot::take(self, |counts| &counts.unauthenticated, most).ok_or(Reason::LimitUnauthenticated)
    }
}

impl Slot {
    fn take(counts: &Arc<Counts>, which: fn(&Counts) -> &AtomicU32, most: u32) -> Option<Slot> {
        let counter = which(counts);
        if counter.fetch_add(1, Ordering::Relaxed) < most {
            Some(Slot(Arc::clone(counts), which))
        } else {
            counter.fetch_sub(1, Ordering::Relaxed);
            None
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Share;

    #[test]
    fn both_counts_are_kept_apart() {
        let counts = Arc::new(Counts::default());
        let limits = LimitsConfig {
            connections: 3,
            unauthenticated: Share::Percent(34),
            ..LimitsConfig::default()
        };
        let first = counts.enter(&limits).unwrap();
        let second = counts.enter(&limits).unwrap();
        assert_eq!(counts.enter(&limits).err(), Some(Reason::LimitUnauthenticated));
        drop(first.unauthenticated);
        let third = counts.enter(&limits).unwrap();
        drop((second.unauthenticated, third.unauthenticated));
        assert_eq!(counts.enter(&limits).err(), Some(Reason::LimitConnections));
        drop(first.open);
        assert!(counts.enter(&limits).is_ok());
    }
}
