//! Plain HTTP to an upstream, streaming in both directions, over pooled
//! connections (RFC 9110, RFC 9112).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{
    CONNECTION, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::endpoint::{DialError, Endpoint};
use crate::handshake::tokens;
use crate::policy::Permit;
use crate::stream::Stream;

/// A body on its way to an upstream.
pub type RequestBody =
    http_body_util::combinators::UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Sends requests to one endpoint.
pub struct HttpClient {
    client: Client<Dialler, RequestBody>,
    dialler: Dialler,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
#[error("the upstream gave no response")]
pub struct HttpError(#[source] Error);

impl HttpError {
    /// The label of `sockgate_upstream_errors_total`.
    pub fn kind(&self) -> &'static str {
        if self.0.is_connect() { "connect" } else { "response" }
    }
}

/// How many header fields an upstream's answer may have; its size is bounded by
/// hyper's buffer of 400 KiB. hyper sets room aside for all of them.
pub(super) const ANSWER_FIELDS: usize = 512;

/// Node's servers close an idle connection after five seconds: let go first.
const POOL_IDLE: Duration = Duration::from_secs(4);

impl HttpClient {
    /// A client for `endpoint`; a connection takes `connect_timeout` at most.
    pub fn new(endpoint: Arc<Endpoint>, connect_timeout: Duration) -> HttpClient {
        let dialler = Dialler { endpoint, connect_timeout };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(64)
            .http1_max_headers(ANSWER_FIELDS)
            .build(dialler.clone());
        HttpClient { client, dialler }
    }

    /// Whether [`HttpClient::new`] with these would connect as this one does.
    pub fn is_for(&self, endpoint: &Endpoint, connect_timeout: Duration) -> bool {
        self.dialler.connect_timeout == connect_timeout && self.dialler.endpoint.is_same(endpoint)
    }

    /// Sends `request`, whose URI is path and query alone.
    ///
    /// # Errors
    /// If no connection or no response head comes.
    pub async fn send(
        &self,
        _permit: &Permit,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, HttpError> {
        // The pool wants an absolute URI; there is one endpoint behind any name.
        // Put together from its parts: as one text it could be too long to parse.
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(Authority::from_static("upstream"));
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        self.client.request(request).await.map_err(HttpError)
    }
}

/// Connects to the one endpoint, whatever the URI says.
#[derive(Clone)]
struct Dialler {
    endpoint: Arc<Endpoint>,
    connect_timeout: Duration,
}

impl tower_service::Service<Uri> for Dialler {
    type Response = TokioIo<Stream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(this.connect_timeout, this.endpoint.dial()).await {
                Ok(dialled) => dialled.map(TokioIo::new),
                Err(_) => Err(DialError::Connect(std::io::ErrorKind::TimedOut.into())),
            }
        })
    }
}

/// The headers that belong to one hop (RFC 9110 §7.6.1), besides those that
/// `Connection` names.
const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Removes what belongs to one hop. Comes before identity headers are touched:
/// a client could name them in `Connection`.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // `Connection: Upgrade` is what nearly every request here says: no name to make of it.
    let mut gone: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter(|token| !token.eq_ignore_ascii_case(b"upgrade"))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        // Host is never hop-by-hop, whoever claims it.
        .filter(|name| name != http::header::HOST)
        .collect();
    gone.extend(headers.keys().filter(|name| HOP_BY_HOP.contains(name)).cloned());
    for name in gone {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hop_by_hop_headers_go_and_host_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret, Host"),
            ("x-secret", "1"),
            ("host", "a"),
            ("te", "trailers"),
            ("x-kept", "1"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "x-kept"]);
    }
}
