//! From an accepted stream to requests: TLS, the guard, hyper, and what follows
//! an upgrade. One task a connection.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::Either;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::admin::Admin;
use crate::close::Reason;
use crate::handshake::{Answer, GuardLimits, HeadGuard};
use crate::listener::{Accepted, Listener};
use crate::pipeline::{Body, Gate, Link, Slots, Stage, raw_refusal, serve as answer};
use crate::stream::Stream;
use crate::telemetry::{LogLevel, Record};

/// How long a refused client may take to read why.
const LINGER: Duration = Duration::from_secs(1);

/// A listener's TLS, replaced when its files change.
pub(super) type SharedTls = Arc<ArcSwap<ServerConfig>>;

/// Serves clients for as long as it is polled.
pub(super) async fn serve(
    gate: Arc<Gate>,
    listener: Listener,
    tls: Option<SharedTls>,
    closing: watch::Receiver<bool>,
) {
    loop {
        let accepted = listener.accept().await;
        let limits = gate.plans.load().limits.clone();
        match gate.counts.enter(&limits) {
            Ok(slots) => {
                let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.load_full()));
                let serving =
                    Serving { gate: Arc::clone(&gate), slots, acceptor, closing: closing.clone() };
                tokio::spawn(Stage::new(serving.run(accepted)));
            }
            Err(reason) => {
                let peer = accepted.peer.map(|peer| peer.ip());
                Record::open(&gate.telemetry, &"-".into(), peer).refused(
                    reason,
                    reason.status().as_u16(),
                    None,
                );
                if tls.is_none() {
                    tokio::spawn(turn_away(accepted.stream, reason));
                }
            }
        }
    }
}

/// Answers a connection that is one too many, without reading it.
async fn turn_away(mut stream: Stream, reason: Reason) {
    let refusal = raw_refusal(reason);
    if let Ok(Ok(())) = tokio::time::timeout(LINGER, stream.write_all(&refusal)).await {
        linger(stream).await;
    }
}

struct Serving {
    gate: Arc<Gate>,
    slots: Slots,
    acceptor: Option<TlsAcceptor>,
    closing: watch::Receiver<bool>,
}

impl Serving {
    /// From the first byte to the answer of an upgrade, or to the end of the connection.
    async fn run(self, accepted: Accepted) -> Option<Stage> {
        let Serving { gate, slots, acceptor, closing } = self;
        let mut accepted = accepted;
        let plans = gate.plans.load();
        let limits = plans.limits.clone();
        let header_timeout = limits.header_timeout.limit();
        let mut peer = accepted.peer.map(|peer| peer.ip());
        let mut ends = if plans.tells_ends { accepted.ends() } else { None };
        let announced = plans.announces(peer);
        drop(plans);
        if announced {
            let reading = Box::pin(accepted.read_announcement());
            match within(header_timeout, reading).await {
                Some(Ok(told)) => ends = told.or(ends),
                Some(Err(_)) | None => {
                    say_silent(&gate, peer, "a trusted proxy without a PROXY header");
                    return None;
                }
            }
            peer = accepted.peer.map(|peer| peer.ip());
        }
        let (stream, tls, certificate) = match (accepted.stream, acceptor) {
            (Stream::Tcp(tcp), Some(acceptor)) => {
                let accepting = Box::pin(acceptor.accept(tcp));
                let stream = match within(header_timeout, accepting).await {
                    Some(Ok(stream)) => stream,
                    // A peer that does not speak TLS can be told nothing.
                    failed => {
                        say_stale(&gate, peer, failed.and_then(Result::err).as_ref());
                        say_silent(&gate, peer, "a connection without a TLS handshake");
                        return None;
                    }
                };
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let certificate = shown.map(|certificate| Arc::from(&**certificate));
                (Stream::TlsServer(Box::new(stream)), true, certificate)
            }
            (stream, _) => (stream, false, None),
        };
        let guard_limits = GuardLimits {
            header_bytes: usize::try_from(limits.header_bytes.0).unwrap_or(usize::MAX),
            write_stall: limits.http_body_timeout.limit(),
        };
        let (mut guard, fault) = HeadGuard::new(stream, guard_limits);
        let link = Arc::new(Link::new(peer, ends, tls, certificate, fault, slots));
        // Most upgrades are answered without hyper.
        let answered = match within(header_timeout, guard.first_upgrade()).await {
            Some(Some(head)) => {
                // Boxed, as all that is large.
                let answer = Box::pin(answer(Arc::clone(&gate), Arc::clone(&link), head, None));
                tokio::select! {
                    biased;
                    answer = answer => Some(answer),
                    // As hyper does: who is gone keeps no place, and nobody is dialled for it.
                    () = guard.departed() => return None,
                }
            }
            Some(None) => None,
            None => {
                say_unasked(&gate, peer, &guard, true);
                return None;
            }
        };
        let ended = match answered {
            Some(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                guard.switch(response.headers()).await.ok()
            }
            first => {
                let serving = Http { gate, link: &link, limits: guard_limits, header_timeout };
                Box::pin(serving.serve(guard, first, closing)).await
            }
        };
        let (stream, ahead) = ended?;
        let Some(after) = link.take_after() else {
            // Boxed, as the TLS handshake: few connections end in this way.
            Box::pin(linger(stream)).await;
            return None;
        };
        Some(after.stage(stream, ahead))
    }
}

/// What comes of it in time, if there is a limit.
async fn within<T>(limit: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// HTTP/1.1 on one connection, by hyper.
struct Http<'a> {
    gate: Arc<Gate>,
    link: &'a Arc<Link>,
    limits: GuardLimits,
    header_timeout: Option<Duration>,
}

impl Http<'_> {
    /// Serves requests until the connection ends or is upgraded; gives the stream
    /// back, with what was read ahead, unless it broke. `first` answers the first
    /// request, if that has been judged already.
    async fn serve(
        self,
        mut guard: HeadGuard,
        first: Option<Response<Body>>,
        mut closing: watch::Receiver<bool>,
    ) -> Option<(Stream, Bytes)> {
        let Http { gate, link, limits, header_timeout } = self;
        let asked = AtomicBool::new(false);
        let first = Mutex::new(first);
        let turn = guard.turn();
        let service = |request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            let answering = turn.begin();
            let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let answer = match first {
                Some(response) => Either::Left(std::future::ready(response)),
                None => {
                    let (head, body) = request.into_parts();
                    Either::Right(answer(Arc::clone(&gate), Arc::clone(link), head, Some(body)))
                }
            };
            let whole = |response: Response<_>| response.map(|body| Answer::new(body, answering));
            // Boxed: hyper moves the connection, and a handshake is large.
            Box::pin(answer.map(|response| Ok::<_, Infallible>(whole(response))))
        };
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(limits.header_bytes.max(16 * 1024));
        loop {
            let mut connection =
                builder.serve_connection(TokioIo::new(guard), service_fn(&service));
            let served = tokio::select! {
                served = std::future::poll_fn(|context| connection.poll_without_shutdown(context)) => served,
                () = closed(&mut closing) => {
                    // Who has not asked yet is still told 503, which ends the connection.
                    if asked.load(Ordering::Relaxed) {
                        Pin::new(&mut connection).graceful_shutdown();
                    }
                    std::future::poll_fn(|context| connection.poll_without_shutdown(context)).await
                }
            };
            guard = connection.into_parts().io.into_inner();
            if served.is_ok()
                && let Some(fields) = guard.outgrown()
            {
                builder.max_headers(fields);
                continue;
            }
            let timed_out = served.as_ref().is_err_and(hyper::Error::is_timeout);
            if guard.has_part_of_a_head() || !asked.load(Ordering::Relaxed) {
                say_unasked(&gate, link.peer, &guard, timed_out);
            }
            return served.ok().map(|()| guard.into_parts());
        }
    }
}

/// The connection ends without a request, or without the rest of one.
fn say_unasked(gate: &Gate, peer: Option<IpAddr>, guard: &HeadGuard, timed_out: bool) {
    if !guard.has_part_of_a_head() {
        return say_silent(gate, peer, "a connection without a request");
    }
    let record = Record::open(&gate.telemetry, &"-".into(), peer);
    if timed_out {
        record.unanswered(Reason::Stalled);
    }
}

/// A load balancer that looks whether the port is open is nothing to log as a
/// rule, and nor is a peer that could be told nothing.
fn say_silent(gate: &Gate, peer: Option<IpAddr>, message: &str) {
    let peer = serde_json::Value::from(peer.map(|peer| peer.to_string()));
    gate.telemetry.log.event(LogLevel::Debug, message, &[("peer", peer)]);
}

/// Whoever shows a certificate is turned away while the list of those that are revoked
/// is out of date: nothing that a client can mend.
fn say_stale(gate: &Gate, peer: Option<IpAddr>, error: Option<&std::io::Error>) {
    use rustls::CertificateError::{ExpiredRevocationList, ExpiredRevocationListContext};
    let error = error.and_then(std::io::Error::get_ref).and_then(|inner| inner.downcast_ref());
    if let Some(rustls::Error::InvalidCertificate(
        ExpiredRevocationList | ExpiredRevocationListContext { .. },
    )) = error
    {
        let message = "server.tls.client_crl has expired: clients with a certificate are refused";
        let peer = serde_json::Value::from(peer.map(|peer| peer.to_string()));
        gate.telemetry.log.event(LogLevel::Warn, message, &[("peer", peer)]);
    }
}

/// Waits until the listeners close.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // A sender that is gone is a process on its way out.
    let _ = closing.wait_for(|closing| *closing).await.is_ok();
}

/// Ends a stream so that the peer can still read what was written: a socket
/// closed with unread bytes would take it back with a reset.
async fn linger(mut stream: Stream) {
    let draining = async {
        stream.shutdown().await?;
        let mut sink = [0; 4096];
        let mut left = 256 * 1024_usize;
        while left > 0 {
            match stream.read(&mut sink).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // Best effort, and bounded: the peer may never close.
    let _ = tokio::time::timeout(LINGER, draining).await;
}

/// Serves the operator for as long as it is polled.
pub(super) async fn serve_admin(admin: Arc<Admin>, listener: Listener) {
    loop {
        let accepted = listener.accept().await;
        let admin = Arc::clone(&admin);
        let peer = accepted.peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(admin.answer(request, peer).await) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .serve_connection(TokioIo::new(accepted.stream), service);
            // The operator's client went away: nobody is left to tell.
            let _ = serving.await;
        });
    }
}
