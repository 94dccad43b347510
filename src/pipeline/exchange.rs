//! One request on its way through the gate: what it says after cleaning, and
//! what expressions may see of it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
};
use http::{HeaderName, Method};
use serde_json::{Map, Value, json};

use super::gate::Gate;
use super::plan::{Plan, Plans};
use crate::clock;
use crate::close::Reason;
use crate::connection::Grounds;
use crate::credential::{Finding, Offered, Place};
use crate::expression::{Expression, Variables};
use crate::handshake::{Client, Host, Kind, Opening};
use crate::hex::hex;
use crate::identity::Identity;
use crate::policy::{OwnOrigin, Preview};
use crate::proxy_protocol::Ends;
use crate::upstream::strip_hop_by_hop;
use crate::verifier::Occasion;

/// A request whose route is known.
pub(super) struct Exchange {
    /// What all connections share.
    pub(super) gate: Arc<Gate>,
    /// The configuration that this request is judged by, to its end.
    pub(super) plans: Arc<Plans>,
    /// The route's parts.
    pub(super) plan: Arc<Plan>,
    /// Who is at the other end.
    pub(super) client: Client,
    /// The host that selected the route.
    pub(super) host: Host,
    /// Joins log lines and hops.
    pub(super) request_id: Arc<str>,
    /// The request, cleaned of credentials and of spoofed headers.
    pub(super) opening: Opening,
    /// The path that the upstream sees.
    pub(super) upstream_path: String,
    /// The subprotocol that sockgate echoes where it answers the upgrade itself.
    pub(super) echo: Option<Box<str>>,
    /// The ends of the client's connection, where they are known.
    pub(super) ends: Option<Ends>,
    /// The certificate that the client showed in its TLS handshake, DER.
    pub(super) certificate: Option<Arc<[u8]>>,
}

impl Exchange {
    /// Looks for a credential in the head.
    pub(super) fn find(&self) -> Finding {
        let subprotocols = self.offered_subprotocols();
        let offered = Offered {
            headers: &self.opening.headers,
            query: self.opening.query.as_deref(),
            subprotocols: &subprotocols,
            certificate: self.certificate.as_deref(),
        };
        self.plan.access.sources.find(&offered, self.plan.limits.credential_bytes.0 as usize)
    }

    /// Looks for a credential in cookies and other headers alone.
    pub(super) fn find_in_headers(&self) -> Finding {
        let headers = &self.opening.headers;
        let offered = Offered { headers, query: None, subprotocols: &[], certificate: None };
        self.plan.access.sources.find(&offered, self.plan.limits.credential_bytes.0 as usize)
    }

    /// The entries of `Sec-WebSocket-Protocol`; none for plain HTTP.
    pub(super) fn offered_subprotocols(&self) -> Vec<&str> {
        match &self.opening.kind {
            Kind::Plain => Vec::new(),
            Kind::Upgrade(offer) => offer.subprotocols.iter().map(String::as_str).collect(),
        }
    }

    /// Whether `Origin` is one that the policy allows.
    pub(super) fn origin_allowed(&self) -> bool {
        self.plan.access.origins.allows(&self.opening.headers, &self.own_origin())
    }

    /// Lets the client hear what its upstream says before there is a login, where the
    /// policy wants that.
    ///
    /// # Errors
    /// As [`Previews::open`](crate::policy::Previews::open).
    pub(super) fn preview(&self) -> Result<Option<Preview>, Reason> {
        let Some(previews) = &self.plan.previews else { return Ok(None) };
        let origins = &self.plan.access.origins;
        previews.open(origins, &self.opening.headers, &self.own_origin()).map(Some)
    }

    fn own_origin(&self) -> OwnOrigin<'_> {
        OwnOrigin { host: &self.host.name, port: self.host.port, https: self.client.https }
    }

    /// Whether this is a CORS preflight (Fetch §3.2.2).
    pub(super) fn is_preflight(&self) -> bool {
        let Opening { method, headers, .. } = &self.opening;
        *method == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Cuts hop-by-hop headers, credentials and spoofed headers, in this order:
    /// a client could name ours in `Connection`.
    pub(super) fn clean(&mut self) {
        let sources = &self.plan.access.sources;
        self.echo = sources.echo(&self.offered_subprotocols()).map(Into::into);
        let opening = &mut self.opening;
        strip_hop_by_hop(&mut opening.headers);
        if let Some(cut) = sources.cut(&mut opening.headers, opening.query.as_deref()) {
            opening.query = Some(cut.into_owned()).filter(|query| !query.is_empty());
        } else {
            opening.query = None;
        }
        if let Kind::Upgrade(offer) = &mut opening.kind {
            let offered: Vec<&str> = offer.subprotocols.iter().map(String::as_str).collect();
            offer.subprotocols = sources.cut_subprotocols(&offered);
        }
        self.plans.spoofed.strip(&mut opening.headers, |name| sources.forwards(name));
        let is_binary = |offered: &&str| offered.eq_ignore_ascii_case("binary");
        if self.plan.raw.is_some()
            && let Some(binary) = self.offered_subprotocols().into_iter().find(is_binary)
        {
            self.echo = Some(binary.into());
        }
    }

    /// What verifiers are told about the request, whose credential is that of the
    /// entry `index`.
    pub(super) fn occasion(&self, index: usize) -> Option<Occasion<'_>> {
        self.plan.access.sources.place(index).map(|place| self.occasion_at(place))
    }

    /// The same about a credential that stood at `place`.
    pub(super) fn occasion_at<'a>(&'a self, place: Place<'a>) -> Occasion<'a> {
        Occasion {
            place,
            method: &self.opening.method,
            https: self.client.https,
            host: &self.host,
            path: &self.opening.path,
            query: self.opening.query.as_deref(),
            ip: self.client.ip,
            headers: &self.opening.headers,
            certificate: self.certificate.as_ref(),
            again: false,
        }
    }

    /// The variables that `expressions` use, of this request and of `identity`.
    pub(super) fn variables(
        &self,
        identity: Option<&Identity>,
        uses: impl Fn(&str) -> bool,
    ) -> Variables {
        let mut variables = Variables::new();
        if let Some(identity) = identity.filter(|_| uses("identity")) {
            variables.insert("identity", identity.variable());
        }
        if uses("request") {
            variables.insert("request", self.request_variable());
        }
        variables
    }

    fn request_variable(&self) -> Value {
        let opening = &self.opening;
        let mut headers = Map::new();
        for name in opening.headers.keys() {
            let values = opening.headers.get_all(name).into_iter();
            let texts: Vec<_> =
                values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            headers.insert(name.as_str().to_owned(), Value::String(texts.join(", ")));
        }
        json!({
            "method": opening.method.as_str(),
            "host": &*self.host.name,
            "path": opening.path,
            "query": opening.query.as_deref().unwrap_or_default(),
            "headers": headers,
            "origin": opening.headers.get(ORIGIN).and_then(|value| value.to_str().ok()).unwrap_or_default(),
            "ip": self.client.ip.to_string(),
            "scheme": scheme(self.client.https),
            "subprotocols": self.offered_subprotocols(),
        })
    }

    /// What a reload judges this connection by again, besides its identity. Of the
    /// request, which may be large, only what `rule` looked at is kept whole.
    pub(super) fn grounds<'a>(&'a self, rule: &'a Variables) -> Grounds<'a> {
        let opening = &self.opening;
        let mut sent = opening.headers.get_all(ORIGIN).into_iter();
        let first = sent.next();
        // What `any` let pass and nothing else would must not match later either.
        let odd = sent.next().is_some();
        let origin = first.map(|one| one.to_str().ok().filter(|_| !odd).unwrap_or("null"));
        let subprotocols = match &opening.kind {
            Kind::Plain => &[][..],
            Kind::Upgrade(offer) => &offer.subprotocols,
        };
        Grounds {
            request: rule.get("request").map(Cow::Borrowed),
            path: opening.path.as_str().into(),
            query: opening.query.as_deref().map(Cow::Borrowed),
            subprotocols: subprotocols.into(),
            message: rule.get("message").map(Cow::Borrowed),
            origin: origin.map(Cow::Borrowed),
            host: Cow::Borrowed(&self.host.name),
            port: self.host.port,
            https: self.client.https,
        }
    }

    /// The path and query that the upstream sees.
    pub(super) fn target(&self) -> String {
        match &self.opening.query {
            Some(query) => [&*self.upstream_path, "?", query].concat(),
            None => self.upstream_path.clone(),
        }
    }

    /// The headers that the upstream gets, as [`Exchange::upstream_fields`].
    ///
    /// # Errors
    /// As [`Exchange::upstream_fields`].
    pub(super) fn upstream_headers(&self, identity: &Identity) -> Result<HeaderMap, Reason> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.upstream_fields(identity)? {
            headers.append(name, value);
        }
        Ok(headers)
    }

    /// The header fields that the upstream gets: the client's, cleaned, and ours, each
    /// in the place of all that the client sent under its name.
    ///
    /// # Errors
    /// [`Reason::Forbidden`] if an identity value or the assertion cannot be sent.
    pub(super) fn upstream_fields(&self, identity: &Identity) -> Result<Fields, Reason> {
        let ours = self.own_fields(identity)?;
        let theirs = self.opening.headers.iter().filter(|(name, _)| {
            !HANDSHAKE.contains(name) && !ours.iter().any(|(own, _)| own == *name)
        });
        let mut fields = Vec::with_capacity(self.opening.headers.len() + ours.len());
        fields.extend(theirs.map(|(name, value)| (name.clone(), value.clone())));
        fields.extend(ours);
        Ok(fields)
    }

    fn own_fields(&self, identity: &Identity) -> Result<Fields, Reason> {
        let mut ours = Vec::with_capacity(8);
        if !identity.is_anonymous() {
            let plan = &self.plan.identity;
            let variables = self.variables(Some(identity), |name| plan.uses(name));
            ours.extend(plan.compute(identity.subject(), &variables)?);
            if let Some(assertion) = &self.plan.assertion {
                let signed = assertion.sign(identity, &self.plan.name, clock::unix_now())?;
                ours.retain(|(name, _)| name != assertion.header());
                ours.push((assertion.header().clone(), signed));
            }
        }
        let host = match self.host.port {
            Some(port) => [&*self.host.name, ":", &port.to_string()].concat(),
            None => self.host.name.to_string(),
        };
        ours.push((FORWARDED_PROTO, HeaderValue::from_static(scheme(self.client.https))));
        let texts = [
            (FORWARDED_FOR, address(self.client.ip)),
            (FORWARDED_HOST, host),
            (REQUEST_ID, self.request_id.to_string()),
        ];
        // All of them are values; what were not would be left out.
        let sound = |(name, text)| Some((name, HeaderValue::try_from(text).ok()?));
        ours.extend(texts.into_iter().filter_map(sound));
        Ok(ours)
    }

    /// `reject_message` or `accept_message` as text; none if it gives nothing.
    pub(super) fn message(
        &self,
        expression: &Expression,
        extra: Variables,
        identity: Option<&Identity>,
    ) -> Option<String> {
        let mut variables = self.variables(identity, |name| expression.uses(name));
        variables.extend(extra);
        told(expression, &variables)
    }

    /// `reject_message` for `reason`.
    pub(super) fn reject_message(&self, reason: Reason) -> Option<String> {
        let access = &self.plan.access;
        let expression = access.reject_message.as_ref()?;
        let told = json!({ "code": reason.close_code(&access.codes), "text": reason.text() });
        self.message(expression, Variables::from([("reason", told)]), None)
    }
}

/// What a message's `expression` gives, as text; none if it gives nothing.
pub(super) fn told(expression: &Expression, variables: &Variables) -> Option<String> {
    match expression.evaluate(variables).ok()? {
        Value::Null => None,
        Value::String(text) => Some(text),
        value => Some(value.to_string()),
    }
}

/// Headers of the client's handshake, of which the upstream sees one of its own.
const HANDSHAKE: [HeaderName; 5] = [
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
    SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_ACCEPT,
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Header fields in the order in which they are sent.
type Fields = Vec<(HeaderName, HeaderValue)>;

/// A client's request id that may be passed on: short and harmless in a log.
pub(super) fn sane_request_id(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    let harmless = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'=' | b'+')
    };
    ((1..=128).contains(&text.len()) && text.bytes().all(harmless)).then_some(text)
}

/// `request` of a live connection: what was kept of it when it was admitted, and
/// for the rest what its upgrade must have been. Headers that were not kept are
/// absent.
pub(super) fn request_of(grounds: &Grounds<'_>, peer: IpAddr) -> Value {
    if let Some(whole) = &grounds.request {
        return Value::clone(whole);
    }
    json!({
        "method": Method::GET.as_str(),
        "host": grounds.host,
        "path": grounds.path,
        "query": grounds.query.as_deref().unwrap_or_default(),
        "headers": {},
        "origin": grounds.origin.as_deref().unwrap_or_default(),
        "ip": peer.to_string(),
        "scheme": scheme(grounds.https),
        "subprotocols": grounds.subprotocols,
    })
}

/// `ip` as text. A dotted quad is put together by hand: formatting it would cost as
/// much as all the other headers of ours.
fn address(ip: IpAddr) -> String {
    let IpAddr::V4(ip) = ip else { return ip.to_string() };
    let mut text = String::with_capacity(15);
    for octet in ip.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        let digits = [octet / 100, octet / 10 % 10, octet % 10];
        let first = if octet > 99 { 0 } else { 2 - usize::from(octet > 9) };
        text.extend(digits[first..].iter().map(|digit| char::from(b'0' + digit)));
    }
    text
}

fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

/// A fresh request id: 128 random bits in hex.
pub(super) fn fresh_request_id() -> Arc<str> {
    hex(&rand::random::<[u8; 16]>()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_everybody_writes_them() {
        for octet in 0..=255 {
            let ip = IpAddr::from([octet, 0, 255, octet]);
            assert_eq!(address(ip), ip.to_string());
        }
        assert_eq!(address("2001:db8::1".parse().unwrap()), "2001:db8::1");
    }

    #[test]
    fn request_ids_are_32_hex_digits() {
        let id = fresh_request_id();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
}
