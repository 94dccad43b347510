//! What is open now and when it must end: the registry of live connections,
//! their lifetimes, the drain. Who may open one is not decided here.

mod config;
mod grounds;
mod lifetime;
mod registry;
mod sweep;

pub use self::config::{LifetimeConfig, OnExpiry};
pub use self::grounds::Grounds;
pub use self::lifetime::{LiveLimits, SubjectLimit, Verdict};
pub use self::registry::{Arrival, Carrier, Controlled, Entry, Place, Registry, SubjectFull};
pub use self::sweep::{close_in_turn, drain, sweep};
