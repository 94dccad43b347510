//! Asks other servers over HTTP/1.1 (RFC 9110, RFC 9112) on behalf of the
//! verifiers: key sets, introspection, forward auth.
//!
//! Bounded in everything: one timeout over name, connection, request and whole
//! answer; a body of at most [`BODY`] bytes; no redirect is followed and no proxy
//! of the environment is asked. It judges no answer. An error holds neither the
//! URL nor anything that was sent.

mod url;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

pub use self::url::{Url, UrlError, form_encoded};
use crate::dial::{self, FirstWord};
use crate::problem::Problem;
use crate::stream::Stream;
use crate::tls::{self, ClientFiles};
use crate::unit::Span;

/// The largest body that is read, in bytes.
pub const BODY: usize = 1 << 20;

/// The largest head that is read, in bytes.
const HEAD: usize = 64 << 10;

/// Node's servers close an idle connection after five seconds: let go first.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// How many idle connections are kept.
const POOL: usize = 32;

/// How many names are looked up at once: each takes a thread of the runtime, and
/// keeps it for as long as the system's resolver likes, whoever has given up.
const RESOLVING: usize = 4;

/// How a verifier reaches its server: the keys that every verifier with a URL has.
#[derive(Clone, Debug)]
pub struct FetchSettings {
    /// PEM file of the authorities to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// Whether plain HTTP may leave the machine.
    pub allow_http: bool,
    /// For the whole of one request, from the name to the end of the answer.
    pub timeout: Span,
}

/// What `timeout` is unless it is written.
pub fn default_timeout() -> Span {
    Span::secs(3)
}

/// One verifier's client, with the connections that it keeps open.
pub struct Fetch {
    client: Client<Dialler, Full<Bytes>>,
    timeout: Duration,
}

/// An answer, read to its end.
pub struct Answer {
    /// The status, whatever it is.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The whole body, at most [`BODY`] bytes.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The host of the URL has no address.
    #[error("the name does not resolve")]
    Resolve,
    /// No address took the connection.
    #[error("nobody takes the connection")]
    Connect,
    /// The server could not prove that it is the one.
    #[error("the TLS handshake failed")]
    Tls,
    /// It took longer than the timeout.
    #[error("no answer in time")]
    Timeout,
    /// What came is not an answer of HTTP, or broke off.
    #[error("the answer is broken")]
    Broken,
    /// The body is larger than [`BODY`].
    #[error("the answer is too large")]
    TooLarge,
}

impl FetchError {
    /// The same as text that outlives the error.
    pub fn cause(self) -> &'static str {
        match self {
            FetchError::Resolve => "the name does not resolve",
            FetchError::Connect => "nobody takes the connection",
            FetchError::Tls => "the TLS handshake failed",
            FetchError::Timeout => "no answer in time",
            FetchError::Broken => "the answer is broken",
            FetchError::TooLarge => "the answer is too large",
        }
    }
}

impl Fetch {
    /// A client; `https` if it will be asked for such a URL. Relative files are
    /// relative to `base`.
    ///
    /// # Errors
    /// What is wrong with `ca` or `timeout`, by key.
    pub fn build(
        settings: &FetchSettings,
        base: &Path,
        https: bool,
    ) -> Result<Fetch, Vec<Problem>> {
        let mut problems = Vec::new();
        if settings.timeout.limit().is_none() {
            problems.push(Problem::new("timeout", "must be more than 0"));
        }
        let files =
            ClientFiles { ca: settings.ca.as_ref().map(|ca| base.join(ca)), identity: None };
        // The system's authorities take time and memory: not for plain HTTP.
        let tls = (https || files.ca.is_some()).then(|| tls::client(&files)).transpose();
        let tls = tls.map_err(|error| problems.push(Problem::new("ca", error.to_string())));
        let (Ok(tls), true) = (tls, problems.is_empty()) else { return Err(problems) };
        let dialler = Dialler { tls, resolving: Arc::new(Semaphore::new(RESOLVING)) };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL)
            .http1_max_buf_size(HEAD)
            .build(dialler);
        Ok(Fetch { client, timeout: settings.timeout.0 })
    }

    /// Sends `request`, made by [`Url::request`], and reads the whole answer. It
    /// must be one that may come twice: if a kept connection ends while it is
    /// under way, it is sent once more.
    ///
    /// # Errors
    /// [`FetchError`], after `timeout` at the latest.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Answer, FetchError> {
        let request = request.map(Full::new);
        let exchange = async {
            let response = match self.client.request(request.clone()).await {
                Err(error) if ended_early(&error) => self.client.request(request).await,
                first => first,
            };
            let (head, body) = response.map_err(|error| fault(&error))?.into_parts();
            let body =
                Limited::new(body, BODY).collect().await.map_err(|error| match error
                    .is::<LengthLimitError>(
                ) {
                    true => FetchError::TooLarge,
                    false => FetchError::Broken,
                })?;
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(FetchError::Timeout))
    }
}

/// Whether the connection ended before an answer began.
fn ended_early(error: &legacy::Error) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message)
    })
}

fn fault(error: &legacy::Error) -> FetchError {
    causes(error)
        .find_map(|cause| cause.downcast_ref::<FetchError>().copied())
        .unwrap_or(FetchError::Broken)
}

fn causes(error: &legacy::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
}

/// Connects to the host of the URI.
#[derive(Clone)]
struct Dialler {
    tls: Option<tls::Client>,
    resolving: Arc<Semaphore>,
}

impl tower_service::Service<Uri> for Dialler {
    type Response = TokioIo<Stream>;
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, FetchError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), FetchError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.dial(&uri).await.map(TokioIo::new) })
    }
}

impl Dialler {
    async fn dial(&self, uri: &Uri) -> Result<Stream, FetchError> {
        let https = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or(FetchError::Resolve)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let addresses = self.resolve(host.clone(), port).await?;
        let stream =
            dial::connect(&addresses, FirstWord::Ours).await.map_err(|_| FetchError::Connect)?;
        if !https {
            return Ok(Stream::Tcp(stream));
        }
        let tls = self.tls.as_ref().ok_or(FetchError::Tls)?;
        let name = ServerName::try_from(host).map_err(|_| FetchError::Tls)?;
        let connecting = TlsConnector::from(Arc::clone(&tls.config)).connect(name, stream);
        let stream = connecting.await.map_err(|_| FetchError::Tls)?;
        Ok(Stream::TlsClient(Box::new(stream)))
    }

    async fn resolve(
        &self,
        host: String,
        port: u16,
    ) -> Result<Vec<std::net::SocketAddr>, FetchError> {
        let resolving = Arc::clone(&self.resolving);
        let permit = resolving.acquire_owned().await.map_err(|_| FetchError::Resolve)?;
        // On its own: the place is free when the thread is, not when nobody waits.
        let looking = tokio::spawn(async move {
            let addresses = dial::resolve(&host, port).await;
            drop(permit);
            addresses
        });
        let addresses = looking.await.map_err(|_| FetchError::Resolve)?;
        addresses.map_err(|_| FetchError::Resolve)
    }
}

#[cfg(test)]
mod tests;
