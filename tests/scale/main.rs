//! Thousands of live connections at once against the real binary: that they end when
//! they must, and that nobody else notices. Apart from `it`, and one after the other:
//! times are measured here.

#![expect(clippy::expect_used, reason = "a test that cannot go on says why and fails")]

mod bystander;
mod chaos;
mod crowd;
mod ending;
mod sessions;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared with `it`, which uses all")]
mod support;
mod upstream;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many connections a crowd has, unless a test says so: each is two file
/// descriptors here and two in the gate. `SOCKGATE_CROWD` sets another number.
fn many() -> usize {
    let wanted = std::env::var("SOCKGATE_CROWD").ok().and_then(|number| number.parse().ok());
    wanted.unwrap_or(2_000)
}

/// Held by each test: two at once would measure each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
