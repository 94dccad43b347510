//! Moving data both ways between two upgraded byte streams, frame by frame but
//! unread, until one side or sockgate ends it (RFC 6455 §5 and §7).
//!
//! [`relay`] joins a client and an upstream; [`Framed`] is an upstream that speaks no
//! WebSocket; [`Endpoint`] is sockgate itself as the server end, before an upstream is
//! dialled. Neither knows who the client
//! is, what it may do, or what is counted with the result.

mod assembly;
mod control;
mod ending;
mod endpoint;
pub mod frame;
mod framed;
mod pipe;
mod pump;
mod scan;
mod scratch;
#[cfg(test)]
mod tests;

pub use assembly::{Tap, TapVerdict, Watch};
pub use control::{Control, Direction, Tally};
pub use endpoint::{Endpoint, EndpointError, FirstMessage};
pub use framed::Framed;
pub use pump::{Ended, Initiator, RelaySettings, relay};

use std::time::Duration;

/// How long a closing handshake may take in all, and how long the peers have
/// to end their sockets after it.
pub const CLOSING: Duration = Duration::from_secs(2);
