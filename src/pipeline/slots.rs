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

/// A connection's part in the count of all; dropping it gives it back.
#[derive(Debug)]
pub struct Open(Arc<Counts>);

/// A connection's part in the count of those that nothing is proven about.
#[derive(Debug)]
pub struct Unauthenticated(Arc<Counts>);

/// A connection's parts in both counts.
#[derive(Debug)]
pub struct Slots {
    /// Held to the end of the connection.
    pub open: Open,
    /// Held until the permit.
    pub unauthenticated: Unauthenticated,
}

impl Counts {
    /// Takes part in both counts.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn enter(self: &Arc<Self>, limits: &LimitsConfig) -> Result<Slots, Reason> {
        if !take(&self.open, limits.connections) {
            return Err(Reason::LimitConnections);
        }
        let open = Open(Arc::clone(self));
        Ok(Slots { open, unauthenticated: self.enter_unauthenticated(limits)? })
    }

    /// Takes part in the second count alone.
    ///
    /// # Errors
    /// [`Reason::LimitUnauthenticated`].
    pub fn enter_unauthenticated(
        self: &Arc<Self>,
        limits: &LimitsConfig,
    ) -> Result<Unauthenticated, Reason> {
        let most = limits.unauthenticated.of(limits.connections);
        take(&self.unauthenticated, most)
            .then(|| Unauthenticated(Arc::clone(self)))
            .ok_or(Reason::LimitUnauthenticated)
    }
}

fn take(counter: &AtomicU32, most: u32) -> bool {
    let free = counter.fetch_add(1, Ordering::Relaxed) < most;
    if !free {
        counter.fetch_sub(1, Ordering::Relaxed);
    }
    free
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Unauthenticated {
    fn drop(&mut self) {
        self.0.unauthenticated.fetch_sub(1, Ordering::Relaxed);
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
