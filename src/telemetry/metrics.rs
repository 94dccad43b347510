//! Every metric with its help text, in a registry of its own. No label ever
//! holds a user, a token or a raw path.
//!
//! A route's children are looked up once, in [`Metrics::route`]; the data path
//! adds numbers that were tallied elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    Error, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::label::{Direction, Initiator, OPCODES, Outcome};
use super::process::ProcessCollector;
use super::sampler::Sampler;
use super::traffic::{Flow, Traffic};

/// From the start of something to its answer: half a millisecond to ten seconds.
const LATENCY: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How long a connection lives: a second to a week.
const LIFETIME: [f64; 13] = [
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 28_800.0, 43_200.0, 86_400.0, 259_200.0,
    604_800.0,
];

/// All metrics of the process. Made once; a reload keeps them.
pub struct Metrics {
    registry: Registry,
    families: Families,
    auth_duration: HistogramVec,
    key_refreshes: IntCounterVec,
    rechecks: IntCounterVec,
    revocations: IntCounterVec,
    config_reloads: IntCounterVec,
    config_last_reload_successful: IntGauge,
    routes: Mutex<HashMap<String, Arc<RouteMetrics>>>,
}

/// The metrics that carry the label `route`.
#[derive(Clone)]
struct Families {
    connections_open: IntGaugeVec,
    connections: IntCounterVec,
    auth_decisions: IntCounterVec,
    upstream_connect_duration: HistogramVec,
    upstream_errors: IntCounterVec,
    bytes: IntCounterVec,
    frames: IntCounterVec,
    closes: IntCounterVec,
    connection_duration: HistogramVec,
    http_requests: IntCounterVec,
}

/// The metrics of one route.
pub struct RouteMetrics {
    name: Box<str>,
    families: Families,
    open: IntGauge,
    total: IntCounter,
    connect: Histogram,
    duration: Histogram,
    bytes: [IntCounter; 2],
    frames: [[IntCounter; 6]; 2],
    traffic: Traffic,
    /// Which refusals are worth a line.
    pub(super) refusals: Sampler,
}

/// Counts one open connection for as long as it lives.
pub struct OpenGuard(IntGauge);

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// If two metrics collide, which a test rules out.
    pub fn new() -> Result<Metrics, Error> {
        let registry = Registry::new();
        let families = Families::new(&registry)?;
        let auth_duration = latency(
            &registry,
            "sockgate_auth_duration_seconds",
            "Time a verifier took to judge a credential.",
            &["verifier"],
        )?;
        let key_refreshes = counter(
            &registry,
            "sockgate_key_refreshes_total",
            "Fetches of the keys of an issuer, by outcome (success, failure).",
            &["verifier", "outcome"],
        )?;
        let rechecks = counter(
            &registry,
            "sockgate_rechecks_total",
            "Look-ups of logins behind live connections, by outcome (valid, refused, unavailable).",
            &["verifier", "outcome"],
        )?;
        let revocations = counter(
            &registry,
            "sockgate_revocations_total",
            "Revocations that were learnt of, by source (admin, redis = another replica).",
            &["source"],
        )?;
        let config_reloads = counter(
            &registry,
            "sockgate_config_reloads_total",
            "Reloads of the configuration, by outcome (success, failure).",
            &["outcome"],
        )?;
        for outcome in ["success", "failure"] {
            config_reloads.get_metric_with_label_values(&[outcome])?;
        }
        let config_last_reload_successful = IntGauge::new(
            "sockgate_config_last_reload_successful",
            "Whether the last load of the configuration succeeded.",
        )?;
        registry.register(Box::new(config_last_reload_successful.clone()))?;
        config_last_reload_successful.set(1);
        let build_info =
            gauge(&registry, "sockgate_build_info", "1, labelled with the version.", &["version"])?;
        build_info.get_metric_with_label_values(&[env!("CARGO_PKG_VERSION")])?.set(1);
        registry.register(Box::new(ProcessCollector::new()?))?;
        Ok(Metrics {
            registry,
            families,
            auth_duration,
            key_refreshes,
            rechecks,
            revocations,
            config_reloads,
            config_last_reload_successful,
            routes: Mutex::default(),
        })
    }

    /// The metrics of the route `name`, made on first use.
    ///
    /// # Errors
    /// Never in practice: if the label names and values of a family differ in number.
    pub fn route(&self, name: &str) -> Result<Arc<RouteMetrics>, Error> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = routes.get(name) {
            return Ok(known.clone());
        }
        let made = Arc::new(RouteMetrics::new(name, &self.families)?);
        routes.insert(name.to_owned(), made.clone());
        Ok(made)
    }

    /// Adds to the counters what was relayed since the last call. `visit` shows
    /// every open connection's route and flow.
    pub fn report_traffic(&self, visit: impl FnOnce(&mut dyn FnMut(&RouteMetrics, &Flow))) {
        // Held throughout: two reports at once would find everything twice.
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        for route in routes.values() {
            route.traffic.begin();
        }
        visit(&mut |route, flow| route.traffic.found(flow));
        for route in routes.values() {
            route.report_traffic();
        }
    }

    /// Shows the verifier `name` before it has judged anything.
    pub fn expect_verifier(&self, name: &str) {
        // Looking a child up makes it.
        let _ = self.auth_duration.get_metric_with_label_values(&[name]);
    }

    /// A verifier judged a credential in `seconds`.
    pub fn auth_duration(&self, verifier: &str, seconds: f64) {
        if let Ok(histogram) = self.auth_duration.get_metric_with_label_values(&[verifier]) {
            histogram.observe(seconds);
        }
    }

    /// Shows the fetches of keys of the verifier `name` before there were any.
    pub fn expect_key_refreshes(&self, name: &str) {
        for outcome in ["success", "failure"] {
            add(&self.key_refreshes, &[name, outcome], 0);
        }
    }

    /// The keys of a verifier were fetched, or should have been.
    pub fn key_refresh(&self, verifier: &str, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "failure" };
        add(&self.key_refreshes, &[verifier, outcome], 1);
    }

    /// Shows the rechecks by the verifier `name` before there were any.
    pub fn expect_rechecks(&self, name: &str) {
        for outcome in ["valid", "refused", "unavailable"] {
            add(&self.rechecks, &[name, outcome], 0);
        }
    }

    /// A verifier was asked again about a login; `outcome` is one of the three.
    pub fn recheck(&self, verifier: &str, outcome: &'static str) {
        add(&self.rechecks, &[verifier, outcome], 1);
    }

    /// Shows the revocations from `source` before there were any.
    pub fn expect_revocations(&self, source: &'static str) {
        add(&self.revocations, &[source], 0);
    }

    /// `count` revocations were learnt of from `source`.
    pub fn revocations(&self, source: &'static str, count: usize) {
        add(&self.revocations, &[source], count as u64);
    }

    /// The configuration was read again.
    pub fn config_reload(&self, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "failure" };
        add(&self.config_reloads, &[outcome], 1);
        self.config_last_reload_successful.set(i64::from(succeeded));
    }

    /// Everything in the text format 0.0.4.
    ///
    /// # Errors
    /// If a family cannot be encoded.
    pub fn render(&self) -> Result<String, Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Families {
    fn new(registry: &Registry) -> Result<Families, Error> {
        Ok(Families {
            connections_open: gauge(
                registry,
                "sockgate_connections_open",
                "WebSocket connections that are open now.",
                &["route"],
            )?,
            connections: counter(
                registry,
                "sockgate_connections_total",
                "WebSocket connections that were admitted.",
                &["route"],
            )?,
            auth_decisions: counter(
                registry,
                "sockgate_auth_decisions_total",
                "Decisions to admit or refuse, by the credential and verifier that decided.",
                &["route", "credential", "verifier", "outcome", "reason"],
            )?,
            upstream_connect_duration: latency(
                registry,
                "sockgate_upstream_connect_duration_seconds",
                "Time until the upstream had answered the upgrade.",
                &["route"],
            )?,
            upstream_errors: counter(
                registry,
                "sockgate_upstream_errors_total",
                "Failures of the upstream, by kind.",
                &["route", "kind"],
            )?,
            bytes: counter(
                registry,
                "sockgate_bytes_total",
                "Bytes relayed, up = client to upstream.",
                &["route", "direction"],
            )?,
            frames: counter(
                registry,
                "sockgate_frames_total",
                "WebSocket frames relayed, up = client to upstream.",
                &["route", "direction", "opcode"],
            )?,
            closes: counter(
                registry,
                "sockgate_closes_total",
                "Ends of connections, by who closed and the close code.",
                &["route", "initiator", "code"],
            )?,
            connection_duration: histogram(
                registry,
                "sockgate_connection_duration_seconds",
                "How long connections lived.",
                &["route"],
                &LIFETIME,
            )?,
            http_requests: counter(
                registry,
                "sockgate_http_requests_total",
                "HTTP answers other than 101: the status if sockgate sent it, else its class.",
                &["route", "status"],
            )?,
        })
    }
}

impl RouteMetrics {
    fn new(name: &str, families: &Families) -> Result<RouteMetrics, Error> {
        let bytes = |direction: Direction| {
            families.bytes.get_metric_with_label_values(&[name, direction.label()])
        };
        let frame = |direction: Direction, opcode: &str| {
            families.frames.get_metric_with_label_values(&[name, direction.label(), opcode])
        };
        let [text, binary, continuation, ping, pong, close] = OPCODES;
        let frames = |direction| -> Result<[IntCounter; 6], Error> {
            Ok([
                frame(direction, text)?,
                frame(direction, binary)?,
                frame(direction, continuation)?,
                frame(direction, ping)?,
                frame(direction, pong)?,
                frame(direction, close)?,
            ])
        };
        Ok(RouteMetrics {
            name: name.into(),
            families: families.clone(),
            open: families.connections_open.get_metric_with_label_values(&[name])?,
            total: families.connections.get_metric_with_label_values(&[name])?,
            connect: families.upstream_connect_duration.get_metric_with_label_values(&[name])?,
            duration: families.connection_duration.get_metric_with_label_values(&[name])?,
            bytes: [bytes(Direction::Up)?, bytes(Direction::Down)?],
            frames: [frames(Direction::Up)?, frames(Direction::Down)?],
            traffic: Traffic::default(),
            refusals: Sampler::default(),
        })
    }

    /// The label of the route.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A WebSocket connection was admitted; open until the guard goes.
    pub fn open(&self) -> OpenGuard {
        self.total.inc();
        self.open.inc();
        OpenGuard(self.open.clone())
    }

    /// A connection has ended; it is in no registry any more.
    pub fn ended(&self, flow: &Flow) {
        self.traffic.ended(flow);
    }

    fn report_traffic(&self) {
        let flow = self.traffic.untold();
        for at in [Direction::Up, Direction::Down].map(|direction| direction as usize) {
            self.bytes[at].inc_by(flow.bytes[at]);
            for (counter, frames) in self.frames[at].iter().zip(flow.frames[at]) {
                counter.inc_by(frames);
            }
        }
    }

    /// Shows what every route may come to count before it has: a rate can be told
    /// from a first value of nothing only.
    pub fn expect_ends(&self) {
        for status in ["2xx", "3xx", "4xx", "5xx"] {
            add(&self.families.http_requests, &[&*self.name, status], 0);
        }
        for kind in [
            "resolve",
            "connect",
            "tls",
            "handshake",
            "invalid_101",
            "refused",
            "response",
            "timeout",
        ] {
            add(&self.families.upstream_errors, &[&*self.name, kind], 0);
        }
        for initiator in [Initiator::Client, Initiator::Upstream, Initiator::Sockgate] {
            for code in ["1000", "1001"] {
                add(&self.families.closes, &[&*self.name, initiator.label(), code], 0);
            }
        }
    }

    /// Shows that `verifier` may admit by `credential` before it has.
    pub fn expect_decision(&self, credential: &str, verifier: &str) {
        let labels = [&*self.name, credential, verifier, Outcome::Admitted.label(), ""];
        add(&self.families.auth_decisions, &labels, 0);
    }

    /// A decision to admit or refuse; `reason` is "" if admitted.
    pub fn decision(&self, credential: &str, verifier: &str, outcome: Outcome, reason: &str) {
        let labels = [&*self.name, credential, verifier, outcome.label(), reason];
        add(&self.families.auth_decisions, &labels, 1);
    }

    /// The upstream answered the upgrade after `seconds`.
    pub fn upstream_connect(&self, seconds: f64) {
        self.connect.observe(seconds);
    }

    /// The upstream failed; `kind` is one of a fixed few.
    pub fn upstream_error(&self, kind: &'static str) {
        add(&self.families.upstream_errors, &[&*self.name, kind], 1);
    }

    /// A connection ended; `code` comes from [`code_label`](super::code_label).
    pub fn closes(&self, initiator: Initiator, code: &str) {
        add(&self.families.closes, &[&*self.name, initiator.label(), code], 1);
    }

    /// A connection lived `seconds`.
    pub fn duration(&self, seconds: f64) {
        self.duration.observe(seconds);
    }

    /// An HTTP answer other than 101; `status` comes from
    /// [`status_label`](super::status_label).
    pub fn http_request(&self, status: &str) {
        add(&self.families.http_requests, &[&*self.name, status], 1);
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Adds to the child that `labels` names. The number of labels is right by
/// construction; `with_label_values` would panic if it were not.
fn add(family: &IntCounterVec, labels: &[&str], count: u64) {
    if let Ok(counter) = family.get_metric_with_label_values(labels) {
        counter.inc_by(count);
    }
}

fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, Error> {
    let family = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, Error> {
    let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn latency(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<HistogramVec, Error> {
    histogram(registry, name, help, labels, &LATENCY)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec, Error> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    let family = HistogramVec::new(options, labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

#[cfg(test)]
mod tests {
    use super::super::label::{code_label, status_label};
    use super::*;

    #[test]
    fn every_metric_is_rendered_once_used() {
        let metrics = Metrics::new().unwrap();
        let route = metrics.route("chat").unwrap();
        let guard = route.open();
        route.ended(&Flow { bytes: [2, 0], frames: [[0; 6], [0, 2, 0, 0, 0, 0]] });
        metrics.report_traffic(|found| found(&route, &Flow { bytes: [3, 0], ..Flow::default() }));
        route.decision("cookie", "app", Outcome::Refused, "expired");
        route.upstream_connect(0.002);
        route.upstream_error("connect");
        route.closes(Initiator::Client, &code_label(1001, &[]));
        route.duration(90.0);
        route.http_request(&status_label(401, true));
        metrics.auth_duration("app", 0.001);
        metrics.key_refresh("app", true);
        metrics.recheck("app", "valid");
        metrics.config_reload(false);
        let text = metrics.render().unwrap();
        for line in [
            "sockgate_connections_open{route=\"chat\"} 1",
            "sockgate_connections_total{route=\"chat\"} 1",
            "sockgate_bytes_total{direction=\"up\",route=\"chat\"} 5",
            "sockgate_frames_total{direction=\"down\",opcode=\"binary\",route=\"chat\"} 2",
            "sockgate_auth_decisions_total{credential=\"cookie\",outcome=\"refused\",reason=\"expired\",route=\"chat\",verifier=\"app\"} 1",
            "sockgate_upstream_connect_duration_seconds_count{route=\"chat\"} 1",
            "sockgate_upstream_errors_total{kind=\"connect\",route=\"chat\"} 1",
            "sockgate_closes_total{code=\"1001\",initiator=\"client\",route=\"chat\"} 1",
            "sockgate_connection_duration_seconds_bucket{route=\"chat\",le=\"300\"} 1",
            "sockgate_http_requests_total{route=\"chat\",status=\"401\"} 1",
            "sockgate_auth_duration_seconds_count{verifier=\"app\"} 1",
            "sockgate_key_refreshes_total{outcome=\"success\",verifier=\"app\"} 1",
            "sockgate_rechecks_total{outcome=\"valid\",verifier=\"app\"} 1",
            "sockgate_config_reloads_total{outcome=\"failure\"} 1",
            "sockgate_config_last_reload_successful 0",
            concat!("sockgate_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"]
        {
            assert!(text.contains(&format!("\nprocess_{name} ")), "{name}\n{text}");
        }
        drop(guard);
        assert!(metrics.render().unwrap().contains("sockgate_connections_open{route=\"chat\"} 0"));
    }

    #[test]
    fn every_family_is_there_before_it_has_counted_anything() {
        let metrics = Metrics::new().unwrap();
        let route = metrics.route("chat").unwrap();
        route.expect_ends();
        route.expect_decision("cookie", "app");
        metrics.expect_verifier("app");
        metrics.expect_key_refreshes("app");
        let text = metrics.render().unwrap();
        for line in [
            "sockgate_auth_decisions_total{credential=\"cookie\",outcome=\"admitted\",reason=\"\",route=\"chat\",verifier=\"app\"} 0",
            "sockgate_auth_duration_seconds_count{verifier=\"app\"} 0",
            "sockgate_key_refreshes_total{outcome=\"failure\",verifier=\"app\"} 0",
            "sockgate_upstream_errors_total{kind=\"timeout\",route=\"chat\"} 0",
            "sockgate_closes_total{code=\"1000\",initiator=\"client\",route=\"chat\"} 0",
            "sockgate_http_requests_total{route=\"chat\",status=\"2xx\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_route_is_made_once() {
        let metrics = Metrics::new().unwrap();
        assert!(Arc::ptr_eq(&metrics.route("a").unwrap(), &metrics.route("a").unwrap()));
    }
}
