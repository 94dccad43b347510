//! Upstreams that speak before anybody is known (`dial: first`): how many may at
//! once, and the proof that this one may. It lets an upstream be heard; to speak
//! to it takes a [`Permit`](super::Permit).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::HeaderMap;

use super::origin::{Origins, OwnOrigin};
use crate::close::Reason;

/// The previews of one route whose policy says `dial: first`.
#[derive(Debug, Default)]
pub struct Previews {
    open: Arc<AtomicU32>,
}

/// The proof that a client of whom only the origin is known may hear what its
/// route's upstream says first. Only this room makes one; dropping it gives its
/// place back.
#[derive(Debug)]
#[must_use = "a preview is over as soon as it is dropped"]
pub struct Preview {
    open: Arc<AtomicU32>,
}

impl Previews {
    /// The most that are open at once.
    pub const MOST: u32 = 256;

    /// Opens one, after the origin.
    ///
    /// # Errors
    /// [`Reason::OriginDenied`]; [`Reason::LimitUnauthenticated`] if there are too
    /// many.
    pub fn open(
        &self,
        origins: &Origins,
        headers: &HeaderMap,
        own: &OwnOrigin<'_>,
    ) -> Result<Preview, Reason> {
        if !origins.allows(headers, own) {
            return Err(Reason::OriginDenied);
        }
        let preview = Preview { open: Arc::clone(&self.open) };
        if self.open.fetch_add(1, Ordering::Relaxed) < Previews::MOST {
            Ok(preview)
        } else {
            // Dropped, the preview gives back what it took in vain.
            Err(Reason::LimitUnauthenticated)
        }
    }
}

impl Drop for Preview {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const OWN: OwnOrigin<'static> = OwnOrigin { host: "h", port: None, https: true };

    #[test]
    fn so_many_are_open_at_once_and_no_more() {
        let previews = Previews::default();
        let open = || previews.open(&Origins::Any, &HeaderMap::new(), &OWN);
        let mut held: Vec<Preview> = (0..Previews::MOST).map(|_| open().unwrap()).collect();
        for _ in 0..3 {
            assert_eq!(open().err(), Some(Reason::LimitUnauthenticated));
        }
        held.pop();
        held.push(open().unwrap());
        assert_eq!(open().err(), Some(Reason::LimitUnauthenticated));
    }

    #[test]
    fn there_is_none_for_another_origin() {
        let mut headers = HeaderMap::new();
        headers.insert("origin", HeaderValue::from_static("https://elsewhere"));
        let opened = Previews::default().open(&Origins::Same, &headers, &OWN);
        assert_eq!(opened.err(), Some(Reason::OriginDenied));
    }
}
