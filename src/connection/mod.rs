//! What is open now and when it must end: the registry of live connections,
//! their lifetimes, the drain. Who may open one is not decided here.

mod config;
mod entry;
mod grounds;
mod lifetime;
mod registry;
mod state;
mod sweep;

pub use self::config::{LifetimeConfig, OnExpiry, RefreshConfig};
pub use self::entry::{Carrier, Controlled, Entry};
pub use self::grounds::Grounds;
pub use self::lifetime::{LiveLimits, SubjectLimit, Verdict};
pub use self::registry::{Arrival, Place, Registry, SubjectFull};
pub use self::state::{Event, State};
pub use self::sweep::{close_in_turn, drain, sweep};
