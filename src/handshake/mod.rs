//! The client's opening handshake: bytes in, an [`Opening`] out (RFC 6455 §4,
//! RFC 9112). This room is strict about form and knows nothing of routes or auth.

mod accept;
mod chunk;
mod forwarded;
mod guard;
mod head;
mod opening;
mod target;
mod turn;

pub use self::accept::{accept_for, fresh_key};
pub use self::forwarded::{Client, TrustedProxies};
pub use self::guard::{Fault, GuardLimits, HeadGuard, write_fields};
pub use self::head::MOST_TARGET;
pub use self::opening::{Kind, Offer, Opening, readable_target, tokens};
pub use self::target::{Host, normalise_path};
pub use self::turn::{Answer, Answering, Turn};
