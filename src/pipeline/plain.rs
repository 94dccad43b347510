//! Plain HTTP under a route's policy: login, REST, SSE, long polling. Streams in
//! both directions; a long response lives no longer than the login behind it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode};
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
    pub exchange: Box<Exchange>,
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
        let (identity, admitted) = if self.exchange.is_preflight() {
            // A browser sends no credential with it, and the answer says nothing.
            let nobody = Arc::new(Identity::anonymous());
            (nobody, admission::admit_preflight(&self.exchange)?)
        } else {
            let shown = admission::authenticate(&self.exchange, finding, &mut self.record).await?;
            let Shown::Identity(proven) = shown else { return Err(Reason::MissingCredential) };
            let identity = Arc::clone(&proven.identity);
            (identity, admission::admit(&self.exchange, proven, Carrier::Http, None)?)
        };
        self.link.permitted();
        let Admitted { permit, place } = admitted;
        let exchange = &self.exchange;
        let upstream = exchange.plan.upstream.as_ref().ok_or(Reason::Forbidden)?;
        let progress = Arc::new(Progress::default());
        let request = self.request(&identity, body, &progress)?;
        let limit = exchange.plan.limits.http_body_timeout.0;
        let live = Live::new(place, self.ip_slot.take());
        let sent = tokio::select! {
            sent = upstream.http.send(&permit, request) => sent.map_err(|error| error.kind()),
            () = progress.stalled(limit) => Err("timeout"),
            // Neither a long poll nor an upload outlives the login behind it.
            reason = live.withdrawn() => return Err(reason),
        };
        let response = sent.map_err(|kind| {
            // Not the upstream's failure if it is the client that sends no more.
            if let Some(reason) = progress.fault_of_client() {
                return reason;
            }
            exchange.plan.metrics.upstream_error(kind);
            if kind == "timeout" { Reason::UpstreamTimeout } else { Reason::UpstreamUnavailable }
        })?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nothing was offered: a 101 would leave the client without framing.
            exchange.plan.metrics.upstream_error("invalid_101");
            return Err(Reason::UpstreamUnavailable);
        }
        Ok((response, live))
    }

    fn request(
        &self,
        identity: &Identity,
        body: Incoming,
        progress: &Arc<Progress>,
    ) -> Result<Request<RequestBody>, Reason> {
        let exchange = &self.exchange;
        let headers = exchange.upstream_headers(identity)?;
        let limit = exchange.plan.limits.http_body_timeout.0;
        let progress = Arc::clone(progress);
        let body = PacedBody { inner: body, limit, sleep: None, progress }.boxed_unsync();
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

    /// Waits until the connection must end; a drain lets what is in flight arrive.
    async fn withdrawn(&self) -> Reason {
        match std::future::poll_fn(|context| self.control().poll_requested(context)).await {
            (Reason::Draining, _) => std::future::pending().await,
            (reason, _) => reason,
        }
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
        let asked = this.live.control().poll_requested(context);
        let Poll::Ready((reason, _)) = asked else {
            return Pin::new(&mut this.inner).poll_frame(context).map_err(BodyError::Upstream);
        };
        if reason != Reason::Draining {
            return Poll::Ready(Some(Err(BodyError::Closed(reason))));
        }
        // A drain lets what is in flight arrive, and ends what has no end.
        match Pin::new(&mut this.inner).poll_frame(context).map_err(BodyError::Upstream) {
            Poll::Pending if this.inner.size_hint().exact().is_none() => {
                Poll::Ready(Some(Err(BodyError::Closed(reason))))
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How far a request body has come, for whoever waits for the answer.
struct Progress {
    last: Mutex<Instant>,
    waits_for_client: AtomicBool,
    broken_by_client: AtomicBool,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            last: Mutex::new(Instant::now()),
            waits_for_client: AtomicBool::new(false),
            broken_by_client: AtomicBool::new(false),
        }
    }
}

impl Progress {
    fn step(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.waits_for_client.store(false, Ordering::Relaxed);
    }

    /// Waits until there has been no step for `limit`.
    async fn stalled(&self, limit: Duration) {
        loop {
            let due = *self.last.lock().unwrap_or_else(PoisonError::into_inner) + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    fn fault_of_client(&self) -> Option<Reason> {
        if self.broken_by_client.load(Ordering::Relaxed) {
            Some(Reason::ProtocolError)
        } else {
            self.waits_for_client.load(Ordering::Relaxed).then_some(Reason::Stalled)
        }
    }
}

/// A request body that must make progress.
struct PacedBody {
    inner: Incoming,
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
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
                this.progress.step();
                if matches!(frame, Some(Err(_))) {
                    this.progress.broken_by_client.store(true, Ordering::Relaxed);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                this.progress.waits_for_client.store(true, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_body_without_progress_stalls() {
        let progress = Arc::new(Progress::default());
        let started = Instant::now();
        let limit = Duration::from_secs(10);
        let stepping = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                progress.step();
            }
        };
        tokio::join!(stepping, progress.stalled(limit));
        assert_eq!(started.elapsed().as_secs(), 50);
        assert_eq!(progress.fault_of_client(), None);
        progress.waits_for_client.store(true, Ordering::Relaxed);
        assert_eq!(progress.fault_of_client(), Some(Reason::Stalled));
    }
}
