//! The server that a verifier asks, as its configuration names it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fetch::{Fetch, FetchSettings, Url};
use crate::problem::Problem;
use crate::secret::UrlConfig;

/// A URL, and the client to ask it with.
pub(super) struct Endpoint {
    pub(super) url: Url,
    pub(super) fetch: Arc<Fetch>,
    /// The files that both were made of.
    pub(super) files: Vec<PathBuf>,
}

impl Endpoint {
    /// Reads `url` and makes a client for it; relative files are relative to `base`.
    ///
    /// # Errors
    /// All that is wrong, by key.
    pub(super) fn build(
        url: &UrlConfig,
        settings: &FetchSettings,
        base: &Path,
    ) -> Result<Endpoint, Vec<Problem>> {
        let problem = |message: String| vec![Problem::new("url", message)];
        let read = url.resolve(base).map_err(|error| problem(error.to_string())).and_then(|text| {
            Url::read(&text, settings.allow_http).map_err(|error| problem(error.to_string()))
        });
        let https = read.as_ref().is_ok_and(Url::is_https);
        match (read, Fetch::build(settings, base, https)) {
            (Ok(read), Ok(fetch)) => {
                let named = [url.file(), settings.ca.as_deref()];
                let files = named.into_iter().flatten().map(|file| base.join(file)).collect();
                Ok(Endpoint { url: read, fetch: Arc::new(fetch), files })
            }
            (Err(problems), Ok(_)) | (Ok(_), Err(problems)) => Err(problems),
            (Err(mut problems), Err(more)) => {
                problems.extend(more);
                Err(problems)
            }
        }
    }
}
