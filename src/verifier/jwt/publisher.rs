//! Asks where keys are published: at a URL, or with the issuer, who says at which
//! one (OpenID Connect Discovery 1.0).

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::{ACCEPT, HeaderValue};
use http::{Method, StatusCode};

use super::discovery::{document_url, keys_url};
use super::remote::{Asking, KeyPlace, KeysError};
use super::schedule::Cause;
use crate::fetch::{Fetch, Url, UrlError};

/// Where one verifier's keys are published.
pub(super) struct Publisher {
    fetch: Fetch,
    way: Way,
    /// For the operator; no password in it.
    shown: Box<str>,
}

enum Way {
    /// The keys are at this URL.
    Keys(Url),
    /// The issuer's document says where they are.
    Discovery { issuer: Box<str>, document: Url, allow_http: bool, keys: Mutex<Option<Url>> },
}

impl Publisher {
    /// Keys at `url`, which is shown as `shown`.
    pub(super) fn at(url: Url, shown: &str, fetch: Fetch) -> Publisher {
        Publisher { fetch, way: Way::Keys(url), shown: shown.into() }
    }

    /// The keys of `issuer`, wherever it has them.
    ///
    /// # Errors
    /// If the issuer is no URL below which a document can be.
    pub(super) fn of(issuer: &str, allow_http: bool, fetch: Fetch) -> Result<Publisher, UrlError> {
        let document = Url::read(&document_url(issuer), allow_http)?;
        let keys = Mutex::default();
        let way = Way::Discovery { issuer: issuer.into(), document, allow_http, keys };
        Ok(Publisher { fetch, way, shown: issuer.into() })
    }

    async fn keys(&self, cause: Cause) -> Result<String, KeysError> {
        let url = match &self.way {
            Way::Keys(url) => url.clone(),
            Way::Discovery { issuer, document, allow_http, keys } => {
                let known = || keys.lock().unwrap_or_else(PoisonError::into_inner);
                let before = known().clone().filter(|_| cause == Cause::UnknownKey);
                match before {
                    Some(url) => url,
                    None => {
                        let document = self.get("the discovery document", document).await?;
                        let url = keys_url(&document, issuer, *allow_http)?;
                        *known() = Some(url.clone());
                        url
                    }
                }
            }
        };
        let text = self.get("the key set", &url).await?;
        String::from_utf8(text.into()).map_err(|_| super::jwks::NotAKeySet.into())
    }

    async fn get(&self, what: &'static str, url: &Url) -> Result<Bytes, KeysError> {
        let mut request = url.request(Method::GET);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.fetch.send(request).await;
        let answer = answer.map_err(|error| KeysError::Fetch { what, error })?;
        match answer.status {
            StatusCode::OK => Ok(answer.body),
            status => Err(KeysError::Status { what, status: status.as_u16() }),
        }
    }
}

impl KeyPlace for Publisher {
    fn ask(&self, cause: Cause) -> Asking<'_> {
        Box::pin(self.keys(cause))
    }

    fn url(&self) -> &str {
        &self.shown
    }
}
