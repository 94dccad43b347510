//! One record per handshake: opened at the first byte, enriched on the way and
//! consumed by what became of it. Metrics and log lines come out of the same
//! value, so they cannot disagree; one that is dropped before a decision says `abandoned`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::label::{Initiator, Outcome, code_label, status_label};
use super::line::{Field, Line};
use super::log::Log;
use super::metrics::{Metrics, OpenGuard, RouteMetrics};
use super::redact::Redactor;
use super::traffic::Flow;
use crate::clock::unix_now;
use crate::close::Reason;
use prometheus::Error;

/// The label of what is not known.
const NONE: &str = "none";

/// How much of a field that the client wrote is kept.
const LONGEST: usize = 256;

/// Where records go: shared by all of them.
pub struct Telemetry {
    /// All metrics.
    pub metrics: Metrics,
    /// The log.
    pub log: Log,
    unrouted: Arc<RouteMetrics>,
}

/// What is known of one handshake or connection.
pub struct Record {
    telemetry: Arc<Telemetry>,
    id: Arc<str>,
    peer: Option<IpAddr>,
    route: Arc<RouteMetrics>,
    subject: Option<Arc<str>>,
    stage: Stage,
}

/// How an admitted connection ended.
#[derive(Clone, Copy)]
pub struct Ending<'a> {
    /// Who ended it.
    pub initiator: Initiator,
    /// The close code; 1006 if there was no Close frame.
    pub code: u16,
    /// Why, if sockgate ended it.
    pub reason: Option<Reason>,
    /// Everything that was relayed.
    pub flow: Flow,
    /// The codes from 3000 on that this configuration sends.
    pub own_codes: &'a [u16],
}

impl Ending<'_> {
    /// Of a connection that is dropped before it has ended by itself.
    const CUT: Ending<'static> = Ending {
        initiator: Initiator::Sockgate,
        code: 1006,
        reason: None,
        flow: Flow { bytes: [0; 2], frames: [[0; 6]; 2] },
        own_codes: &[],
    };
}

enum Stage {
    /// Before a decision.
    Opening(Box<Opening>),
    /// Admitted, as a WebSocket connection.
    Open { since: Instant, _guard: OpenGuard },
    /// Everything is said.
    Finished,
}

/// What only the first line needs.
#[derive(Default)]
struct Opening {
    method: Option<Box<str>>,
    url: Option<String>,
    origin: Option<String>,
    credential: Option<&'static str>,
    verifier: Option<Arc<str>>,
    upstream: Option<Box<str>>,
    cause: Option<&'static str>,
}

impl Telemetry {
    /// Metrics and log together.
    ///
    /// # Errors
    /// As [`Metrics::route`].
    pub fn new(metrics: Metrics, log: Log) -> Result<Telemetry, Error> {
        let unrouted = metrics.route(NONE)?;
        Ok(Telemetry { metrics, log, unrouted })
    }
}

impl Record {
    /// Opens a record: the first byte of a request has come from `peer`.
    pub fn open(telemetry: &Arc<Telemetry>, id: &Arc<str>, peer: Option<IpAddr>) -> Record {
        Record {
            telemetry: telemetry.clone(),
            id: Arc::clone(id),
            peer,
            route: telemetry.unrouted.clone(),
            subject: None,
            stage: Stage::Opening(Box::default()),
        }
    }

    /// The request id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The route's metrics; those of `none` before a route is known.
    pub fn metrics(&self) -> &Arc<RouteMetrics> {
        &self.route
    }

    /// The request: what `target` gives and the origin are redacted here.
    pub fn request(
        &mut self,
        redactor: &Redactor,
        method: &str,
        target: impl FnOnce() -> String,
        origin: Option<&str>,
    ) {
        if let Stage::Opening(opening) = &mut self.stage
            && self.telemetry.log.wants_records()
        {
            opening.method = Some(bounded(method).into());
            opening.url = Some(redactor.url(&target()));
            opening.origin = origin.map(|origin| redactor.origin(bounded(origin)));
        }
    }

    /// The route that matched.
    pub fn route(&mut self, route: &Arc<RouteMetrics>) {
        self.route = route.clone();
    }

    /// The kind of the credential that decided.
    pub fn credential(&mut self, kind: &'static str) {
        if let Stage::Opening(opening) = &mut self.stage {
            opening.credential = Some(kind);
        }
    }

    /// The verifier that decided.
    pub fn verifier(&mut self, name: &Arc<str>) {
        if let Stage::Opening(opening) = &mut self.stage {
            opening.verifier = Some(Arc::clone(name));
        }
    }

    /// Why the verifier could not answer, or what is wrong with a logout token; nothing of
    /// the request or its answer.
    pub fn cause(&mut self, cause: &'static str) {
        if let Stage::Opening(opening) = &mut self.stage {
            opening.cause = Some(cause);
        }
    }

    /// Who it is.
    pub fn subject(&mut self, subject: &Arc<str>) {
        self.subject = (!subject.is_empty()).then(|| Arc::clone(subject));
    }

    /// Where it goes; without anything secret.
    pub fn upstream(&mut self, upstream: &str) {
        if let Stage::Opening(opening) = &mut self.stage
            && self.telemetry.log.wants_records()
        {
            opening.upstream = Some(upstream.into());
        }
    }

    /// Let in as a WebSocket connection; the record lives on until it closes.
    pub fn admitted(&mut self) {
        let Some(opening) = self.decide() else {
            return;
        };
        self.decision(&opening, Outcome::Admitted, "");
        self.telemetry.log.record(|line| {
            self.tell_opening(line, &opening, Outcome::Admitted.label(), None, Some(101));
        });
        self.stage = Stage::Open { since: Instant::now(), _guard: self.route.open() };
    }

    /// Let in as plain HTTP and answered with `status`; `ours` if it is not the
    /// upstream's.
    pub fn answered(mut self, status: u16, ours: bool) {
        let Some(opening) = self.decide() else {
            return;
        };
        self.decision(&opening, Outcome::Admitted, "");
        self.route.http_request(&status_label(status, ours));
        self.telemetry.log.record(|line| {
            self.tell_opening(line, &opening, Outcome::Admitted.label(), None, Some(status));
        });
    }

    /// Turned away with `status`, or upgraded (101) and closed with `code`.
    pub fn refused(self, reason: Reason, status: u16, code: Option<u16>) {
        self.turned_away(reason, Some(status), code);
    }

    /// Turned away without a word: there was no request to answer.
    pub fn unanswered(self, reason: Reason) {
        self.turned_away(reason, None, None);
    }

    fn turned_away(mut self, reason: Reason, status: Option<u16>, code: Option<u16>) {
        let Some(opening) = self.decide() else {
            return;
        };
        let outcome = outcome(reason);
        self.decision(&opening, outcome, reason.label());
        if let Some(status) = status.filter(|status| *status != 101) {
            let ours = reason != Reason::UpstreamRefused;
            self.route.http_request(&status_label(status, ours));
        }
        if let Some(code) = code {
            self.route.closes(Initiator::Sockgate, &code_label(code, &[code]));
        }
        self.sampled(code, opening.cause, |line| {
            self.tell_opening(line, &opening, outcome.label(), Some(reason), status);
        });
    }

    /// The connection ended; the first time that this is said counts.
    pub fn closed(&mut self, ending: &Ending<'_>) {
        let Stage::Open { since, .. } = self.stage else {
            return;
        };
        self.route.closes(ending.initiator, &code_label(ending.code, ending.own_codes));
        self.route.duration(since.elapsed().as_secs_f64());
        self.telemetry.log.record(|line| self.tell_closing(line, ending, since));
        self.stage = Stage::Finished;
    }

    /// Takes what is known of the opening; there is one decision for each.
    fn decide(&mut self) -> Option<Opening> {
        match std::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Opening(opening) => Some(*opening),
            later @ (Stage::Open { .. } | Stage::Finished) => {
                self.stage = later;
                None
            }
        }
    }

    fn decision(&self, opening: &Opening, outcome: Outcome, reason: &str) {
        let verifier = opening.verifier.as_deref().unwrap_or(NONE);
        self.route.decision(opening.credential.unwrap_or(NONE), verifier, outcome, reason);
    }

    fn tell_who(&self, line: &mut Line) {
        line.field("id", &*self.id);
        line.field("peer", self.peer.map(|peer| peer.to_string()).as_deref());
        line.field("route", self.route.name());
    }

    fn tell_opening(
        &self,
        line: &mut Line,
        opening: &Opening,
        outcome: &'static str,
        reason: Option<Reason>,
        status: Option<u16>,
    ) {
        self.tell_who(line);
        line.field("method", opening.method.as_deref());
        line.field("url", opening.url.as_deref());
        line.field("origin", opening.origin.as_deref());
        line.field("credential", opening.credential);
        line.field("verifier", opening.verifier.as_deref());
        line.field("subject", self.subject.as_deref());
        line.field("outcome", outcome);
        line.field("reason", reason.map(Reason::label));
        line.field("upstream", opening.upstream.as_deref());
        line.field("status", status);
    }

    fn tell_closing(&self, line: &mut Line, ending: &Ending<'_>, since: Instant) {
        let millis = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let flow = &ending.flow;
        let frames =
            |at: usize| flow.frames[at].iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
        self.tell_who(line);
        line.field("subject", self.subject.as_deref());
        line.field("outcome", "closed");
        line.field("reason", ending.reason.map(Reason::label));
        line.field("code", ending.code);
        line.field("initiator", ending.initiator.label());
        line.field("duration_ms", millis);
        line.field("bytes_up", flow.bytes[0]);
        line.field("bytes_down", flow.bytes[1]);
        line.field("frames_up", frames(0));
        line.field("frames_down", frames(1));
    }

    /// Logs the refusal that `tell` tells, unless there are too many of them.
    fn sampled(&self, code: Option<u16>, cause: Option<&str>, tell: impl FnOnce(&mut Line)) {
        let Some(suppressed) = self.route.refusals.admit(unix_now()) else {
            return;
        };
        self.telemetry.log.record(|line| {
            tell(line);
            for (name, value) in
                [("code", code.map(Field::from)), ("cause", cause.map(Field::from))]
            {
                if let Some(value) = value {
                    line.field(name, value);
                }
            }
            if suppressed > 0 {
                line.field("suppressed", suppressed);
            }
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // The process ends before its connections.
        self.closed(&Ending::CUT);
        match std::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Opening(opening) => {
                self.sampled(None, None, |line| {
                    self.tell_opening(line, &opening, "abandoned", None, None);
                });
            }
            Stage::Open { .. } | Stage::Finished => {}
        }
    }
}

/// Whether a reason is a verdict on the client, or a failure of what serves it.
fn outcome(reason: Reason) -> Outcome {
    match reason {
        Reason::VerifierUnavailable
        | Reason::UpstreamUnavailable
        | Reason::UpstreamTimeout
        | Reason::Draining => Outcome::Unavailable,
        Reason::MissingCredential
        | Reason::MalformedCredential
        | Reason::InvalidCredential
        | Reason::AmbiguousCredential
        | Reason::NotYetValid
        | Reason::Expired
        | Reason::Revoked
        | Reason::AuthTimeout
        | Reason::AuthMessageTooLarge
        | Reason::OriginDenied
        | Reason::Forbidden
        | Reason::LimitConnections
        | Reason::LimitUnauthenticated
        | Reason::LimitIp
        | Reason::LimitRate
        | Reason::LimitHeader
        | Reason::LimitSubject
        | Reason::UpstreamRefused
        | Reason::MessageTooLarge
        | Reason::ProtocolError
        | Reason::UnsupportedVersion
        | Reason::UpgradeRequired
        | Reason::Idle
        | Reason::Dead
        | Reason::Stalled
        | Reason::NoRoute
        | Reason::MethodNotAllowed => Outcome::Refused,
    }
}

/// The beginning of `text`, at a character boundary.
fn bounded(text: &str) -> &str {
    let longest = text.len().min(LONGEST);
    let end = (0..=longest).rfind(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::super::log::testing::{self, Lines};
    use super::*;

    fn telemetry() -> (Arc<Telemetry>, Lines) {
        let (log, lines) = testing::log();
        (Arc::new(Telemetry::new(Metrics::new().unwrap(), log).unwrap()), lines)
    }

    fn record(telemetry: &Arc<Telemetry>) -> Record {
        let redactor = Redactor::new([]);
        let mut record = Record::open(telemetry, &"r1".into(), Some([192, 0, 2, 1].into()));
        record.request(&redactor, "GET", || "/ws?token=CANARY42".to_owned(), Some("https://app"));
        record.route(&telemetry.metrics.route("chat").unwrap());
        record.credential("query");
        record.verifier(&"app".into());
        record
    }

    fn has(telemetry: &Telemetry, line: &str) -> bool {
        telemetry.metrics.render().unwrap().lines().any(|found| found == line)
    }

    #[test]
    fn an_admitted_connection_has_two_lines_and_counts_once() {
        let (telemetry, lines) = telemetry();
        let mut record = record(&telemetry);
        record.subject(&"ann".into());
        record.upstream("ws://127.0.0.1:3000");
        record.admitted();
        assert!(has(&telemetry, "sockgate_connections_open{route=\"chat\"} 1"));
        let mut flow = Flow { bytes: [10, 20], ..Flow::default() };
        flow.bytes = [15, 20];
        flow.frames[1][0] = 3;
        record.closed(&Ending {
            initiator: Initiator::Client,
            code: 1000,
            reason: None,
            flow,
            own_codes: &[],
        });
        let logged = lines.json(&telemetry.log);
        let keys =
            |at: usize| -> Vec<_> { logged[at].as_object().unwrap().keys().cloned().collect() };
        assert_eq!(
            keys(0).join(" "),
            "time id peer route method url origin credential verifier subject outcome reason upstream status"
        );
        assert_eq!(
            keys(1).join(" "),
            "time id peer route subject outcome reason code initiator duration_ms bytes_up bytes_down frames_up frames_down"
        );
        assert_eq!(
            (&logged[0]["url"], &logged[0]["status"]),
            (&"/ws?token=REDACTED".into(), &101.into())
        );
        assert_eq!((&logged[1]["outcome"], &logged[1]["id"]), (&"closed".into(), &"r1".into()));
        assert_eq!((&logged[1]["bytes_up"], &logged[1]["frames_down"]), (&15.into(), &3.into()));
        assert_eq!(logged.len(), 2);
        for line in [
            "sockgate_connections_open{route=\"chat\"} 0",
            "sockgate_closes_total{code=\"1000\",initiator=\"client\",route=\"chat\"} 1",
            "sockgate_connection_duration_seconds_count{route=\"chat\"} 1",
            "sockgate_auth_decisions_total{credential=\"query\",outcome=\"admitted\",reason=\"\",route=\"chat\",verifier=\"app\"} 1",
        ] {
            assert!(has(&telemetry, line), "{line}");
        }
    }

    #[test]
    fn a_refusal_has_one_line() {
        let (telemetry, lines) = telemetry();
        record(&telemetry).refused(Reason::Expired, 101, Some(4002));
        let mut unavailable = record(&telemetry);
        unavailable.cause("no answer in time");
        unavailable.refused(Reason::VerifierUnavailable, 503, None);
        let logged = lines.json(&telemetry.log);
        assert_eq!(logged.len(), 2);
        assert_eq!((&logged[0]["reason"], &logged[0]["code"]), (&"expired".into(), &4002.into()));
        assert_eq!(
            (&logged[1]["outcome"], &logged[1]["status"]),
            (&"unavailable".into(), &503.into())
        );
        assert_eq!(
            (&logged[0]["cause"], &logged[1]["cause"]),
            (&serde_json::Value::Null, &"no answer in time".into())
        );
        assert!(!lines.text(&telemetry.log).contains("CANARY42"));
        for line in [
            "sockgate_http_requests_total{route=\"chat\",status=\"503\"} 1",
            "sockgate_closes_total{code=\"4002\",initiator=\"sockgate\",route=\"chat\"} 1",
            "sockgate_auth_decisions_total{credential=\"query\",outcome=\"refused\",reason=\"expired\",route=\"chat\",verifier=\"app\"} 1",
        ] {
            assert!(has(&telemetry, line), "{line}");
        }
    }

    #[test]
    fn plain_http_is_answered_once() {
        let (telemetry, lines) = telemetry();
        record(&telemetry).answered(204, false);
        assert_eq!(lines.json(&telemetry.log)[0]["status"], 204);
        assert!(has(&telemetry, "sockgate_http_requests_total{route=\"chat\",status=\"2xx\"} 1"));
    }

    #[test]
    fn a_dropped_record_says_what_came_of_it() {
        let (telemetry, lines) = telemetry();
        drop(record(&telemetry));
        let mut open = record(&telemetry);
        open.admitted();
        drop(open);
        let outcomes: Vec<_> =
            lines.json(&telemetry.log).iter().map(|line| line["outcome"].clone()).collect();
        assert_eq!(outcomes, ["abandoned", "admitted", "closed"]);
        assert!(has(&telemetry, "sockgate_connections_open{route=\"chat\"} 0"));
    }

    #[test]
    fn a_flood_of_refusals_is_sampled_and_counted() {
        let (telemetry, lines) = telemetry();
        for _ in 0..1000 {
            record(&telemetry).refused(Reason::InvalidCredential, 401, None);
        }
        let logged = lines.json(&telemetry.log);
        assert!(logged.len() < 500, "{}", logged.len());
        let suppressed: u64 = logged.iter().filter_map(|line| line["suppressed"].as_u64()).sum();
        assert!(suppressed > 0);
        assert!(has(
            &telemetry,
            "sockgate_http_requests_total{route=\"chat\",status=\"401\"} 1000"
        ));
    }

    #[test]
    fn a_connection_keeps_little() {
        assert!(size_of::<Record>() <= 160, "{}", size_of::<Record>());
        assert_eq!(bounded(&"ä".repeat(200)).len(), 256);
    }
}
