//! What the operator sees of a connection: one record each, which becomes
//! metrics and log lines, with every credential redacted.
//!
//! Not here: the operator's listener (`admin`), and what is relayed (`relay`
//! tallies, this room adds up).

mod config;
mod jwt;
mod label;
mod line;
mod log;
mod metrics;
mod process;
mod queue;
mod record;
mod redact;
mod sampler;
mod traffic;

pub use self::config::{LogConfig, LogFormat, LogLevel};
pub use self::jwt::without_jwts;
pub use self::label::{Direction, Initiator, OPCODES, Outcome, code_label, status_label};
pub use self::log::Log;
pub use self::metrics::{Metrics, OpenGuard, RouteMetrics};
pub use self::record::{Ending, Record, Telemetry};
pub use self::redact::{REDACTED, Redactor};
pub use self::traffic::Flow;
