//! What every session store does: a key in, one record or none out.

use std::future::Future;
use std::pin::Pin;

use serde_json::Value;

use super::super::VerifyError;
use crate::clock::UnixSeconds;

/// The largest value that is read, in bytes.
pub(super) const VALUE_BYTES: usize = 1 << 20;

/// What a store has under a key.
pub(super) struct Record {
    /// The session id as the database writes it; none from a store in which a session
    /// has one key and no other: that, without what is written around it.
    pub(super) id: Option<String>,
    /// The value, or the row: as CEL sees it.
    pub(super) value: Value,
    /// The columns that hold bytes. As hex digits they may look like a time, and
    /// are none.
    pub(super) bytes: Vec<String>,
    /// When the store itself will forget it.
    pub(super) ends: Option<UnixSeconds>,
}

/// What [`Store::fetch`] gives; none if there is nothing under the key.
pub(super) type Fetching<'a> =
    Pin<Box<dyn Future<Output = Result<Option<Record>, VerifyError>> + Send + 'a>>;

/// A session store. It is asked within a bounded time, and may be dropped while
/// it works.
pub(super) trait Store: Send + Sync {
    /// The record under `key` at `now`. What the key cannot be (not a UUID, say) is
    /// nothing, not an error.
    fn fetch<'a>(&'a self, key: &'a str, now: UnixSeconds) -> Fetching<'a>;
}
