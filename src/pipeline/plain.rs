//! Plain HTTP under a route's policy: login, REST, SSE, long polling. Streams in
//! both directions; a long response lives no longer than the login behind it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Either};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::IpSlot;
use super::admission::{self, Admitted, Shown};
use super::exchange::Exchange;
use super::gate::Link;
use super::rejection::{Body, refusal};
use crate::close::Reason;
use crate::connection::{Carrier, Place};
use crate::credential::Finding;
use crate::identity::Identity;
use crate::relay::Control;
use crate::telemetry::Record;
use crate::upstream::{RequestBody, strip_hop_by_hop};

/// A plain request on its way.
pub(super) struct Plain<'a> {
    /// The client's connection.
    pub link: &'a Link,
    /// The request.
    pub exchange: Exchange,
    /// What is told of it.
    pub record: Record,
    /// Its part in the count of its address.
    pub ip_slot: Option<IpSlot>,
}

impl Plain<'_> {
    /// Sends the request on, or refuses it.
    pub(super) async fn answer(mut self, finding: Finding, body: Incoming) -> Response<Body> {
        let presented = !matches!(finding, Finding::Absent);
        match self.forward(finding, body).await {
            Ok((response, live)) => {
                self.record.answered(response.status().as_u16(), false);
                let (mut head, body) = response.into_parts();
                strip_hop_by_hop(&mut head.headers);
                Response::from_parts(head, Either::Right(StreamedBody::new(body, live)))
            }
            Err(reason) => {
                self.record.refused(reason, reason.status().as_u16(), None);
                refusal(reason, presented)
            }
        }
    }

    async fn forward(
        &mut self,
        finding: Finding,
        body: Incoming,
    ) -> Result<(Response<Incoming>, Live), Reason> {
        let identity = if self.is_preflight() {
            // A browser sends no credential with it, and the answer says nothing.
            Arc::new(Identity::anonymous())
        } else {
            match admission::authenticate(&self.exchange, finding, &mut self.record).await? {
                Shown::Identity(identity) => identity,
                Shown::Nothing => return Err(Reason::MissingCredential),
            }
        };
        let admitted = if self.is_preflight() {
            admission::admit_preflight(&self.exchange, &identity)?
        } else {
            admission::admit(&self.exchange, &identity, Carrier::Http)?
        };
        self.link.permitted();
        let Admitted { permit, place } = admitted;
        let exchange = &self.exchange;
        let upstream = exchange.plan.upstream.as_ref().ok_or(Reason::Forbidden)?;
        let progress = Progress::default();
        let request = self.request(&identity, body, &progress)?;
        let sending = upstream.http.send(&permit, request);
        let sent = match exchange.plan.limits.http_body_timeout.limit() {
            Some(limit) => progress.watch(limit, sending).await.map_err(|Stalled| {
                exchange.plan.metrics.upstream_error("timeout");
                Reason::UpstreamTimeout
            })?,
            None => sending.await,
        };
        let response = sent.map_err(|error| {
            exchange.plan.metrics.upstream_error(error.kind());
            Reason::UpstreamUnavailable
        })?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nothing was offered: a 101 would leave the client without framing.
            exchange.plan.metrics.upstream_error("invalid_101");
            return Err(Reason::UpstreamUnavailable);
        }
        Ok((response, Live::new(place, self.ip_slot.take())))
    }

    /// A CORS preflight (Fetch §3.2.2).
    fn is_preflight(&self) -> bool {
        let opening = &self.exchange.opening;
        opening.method == Method::OPTIONS
            && opening.headers.contains_key(ORIGIN)
            && opening.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    fn request(
        &self,
        identity: &Identity,
        body: Incoming,
        progress: &Progress,
    ) -> Result<Request<RequestBody>, Reason> {
        let exchange = &self.exchange;
        let headers = exchange.upstream_headers(identity)?;
        let timeout = exchange.plan.limits.http_body_timeout.limit();
        let body: RequestBody = match timeout {
            Some(limit) => {
                PacedBody { inner: body, limit, sleep: None, progress: progress.clone() }
                    .boxed_unsync()
            }
            None => body.map_err(Into::into).boxed_unsync(),
        };
        let mut request = Request::builder()
            .method(exchange.opening.method.clone())
            .uri(exchange.target())
            .body(body)
            .map_err(|_| Reason::ProtocolError)?;
        *request.headers_mut() = headers;
        // hyper frames the body anew; a length that came along is kept.
        if request.body().size_hint().exact().is_none() {
            request.headers_mut().remove(CONTENT_LENGTH);
        }
        Ok(request)
    }
}

/// A streaming response's place among the live connections.
pub(super) struct Live {
    place: Place,
    _ip_slot: Option<IpSlot>,
}

impl Live {
    pub(super) fn new(place: Place, ip_slot: Option<IpSlot>) -> Live {
        Live { place, _ip_slot: ip_slot }
    }

    fn control(&self) -> &Control {
        &self.place.entry().control
    }
}

/// An upstream's response body, cut off when its connection must end.
pub struct StreamedBody {
    inner: Incoming,
    live: Live,
}

impl StreamedBody {
    pub(super) fn new(inner: Incoming, live: Live) -> StreamedBody {
        StreamedBody { inner, live }
    }
}

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection reached its end: expiry, drain.
    #[error("the connection was closed: {0:?}")]
    Closed(Reason),
    /// The upstream broke off.
    #[error(transparent)]
    Upstream(#[from] hyper::Error),
    /// No progress for `limits.http_body_timeout`.
    #[error("no progress in time")]
    Stalled,
}

impl http_body::Body for StreamedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready((reason, _)) = this.live.control().poll_requested(context) {
            return Poll::Ready(Some(Err(BodyError::Closed(reason))));
        }
        Pin::new(&mut this.inner).poll_frame(context).map_err(BodyError::Upstream)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// When a request's body last moved; before it has, when the request began.
#[derive(Clone)]
struct Progress(Arc<Mutex<Instant>>);

/// Nothing moved for too long.
struct Stalled;

impl Default for Progress {
    fn default() -> Progress {
        Progress(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Progress {
    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits for `sending`, up to `limit` beyond the last progress of the body:
    /// a long upload may take longer than that in all.
    async fn watch<T>(
        &self,
        limit: Duration,
        sending: impl Future<Output = T>,
    ) -> Result<T, Stalled> {
        let mut sending = std::pin::pin!(sending);
        loop {
            let due = self.last() + limit;
            match tokio::time::timeout_at(due, sending.as_mut()).await {
                Ok(sent) => return Ok(sent),
                Err(_) if self.last() + limit <= due => return Err(Stalled),
                Err(_) => {}
            }
        }
    }
}

/// A request body that must make progress.
struct PacedBody {
    inner: Incoming,
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    progress: Progress,
}

impl http_body::Body for PacedBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(frame) => {
                this.sleep = None;
                this.progress.note();
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let due = Instant::now() + this.limit;
                let sleep =
                    this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
                match sleep.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Some(Err(BodyError::Stalled.into()))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
