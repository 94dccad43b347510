//! Live connections after a reload: those whose policy changed are judged again
//! by `require`, origins and lifetimes. A reload closes no others.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderValue, ORIGIN};

use super::exchange::{Exchange, request_of};
use super::gate::Gate;
use super::plan::{Plan, Plans};
use crate::close::Reason;
use crate::connection::{Carrier, Entry, Grounds};
use crate::expression::Variables;
use crate::identity::Identity;
use crate::policy::OwnOrigin;

/// How many connections are judged before others get a turn.
const AT_ONCE: usize = 64;

/// Judges every live connection by `new`, where it differs from `old`. One whose
/// route is gone stays as it is.
pub async fn judge_again(gate: &Gate, old: &Plans, new: &Plans) {
    for some in gate.registry.entries().chunks(AT_ONCE) {
        for entry in some {
            judge_entry(gate, entry, old.named(entry.route()), new);
        }
        tokio::task::yield_now().await;
    }
}

/// Judges one connection that was entered under plans that may be gone.
pub(super) fn late(exchange: &Exchange, entry: &Entry) {
    let now = exchange.gate.plans.load();
    if !Arc::ptr_eq(&now, &exchange.plans) {
        judge_entry(&exchange.gate, entry, Some(&exchange.plan), &now);
    }
}

/// Judges one connection whose login was renewed under `plans`, if they are gone.
pub(super) fn renewed(gate: &Gate, plans: &Arc<Plans>, entry: &Entry) {
    let now = gate.plans.load();
    if !Arc::ptr_eq(&now, plans) {
        judge_entry(gate, entry, plans.named(entry.route()), &now);
    }
}

fn judge_entry(gate: &Gate, entry: &Entry, old: Option<&Arc<Plan>>, new: &Plans) {
    let Some(plan) = new.named(entry.route()) else { return };
    if entry.carrier != Carrier::Socket || old.is_some_and(|old| old.terms == plan.terms) {
        return;
    }
    entry.limit(&plan.live);
    gate.registry.count(entry);
    if let Some(reason) =
        entry.grounds.as_deref().and_then(|kept| fault(plan, &Grounds::of(kept), entry))
    {
        entry.close(reason);
    }
}

/// Why `plan` would not have admitted the connection of `entry` on `grounds`.
fn fault(plan: &Plan, grounds: &Grounds<'_>, entry: &Entry) -> Option<Reason> {
    let own = OwnOrigin { host: &grounds.host, port: grounds.port, https: grounds.https };
    let mut headers = HeaderMap::new();
    if let Some(origin) =
        grounds.origin.as_deref().and_then(|text| HeaderValue::from_str(text).ok())
    {
        headers.insert(ORIGIN, origin);
    }
    if !plan.access.origins.allows(&headers, &own) {
        return Some(Reason::OriginDenied);
    }
    (!satisfies(plan, grounds, &entry.identity(), entry)).then_some(Reason::Forbidden)
}

/// Whether the rule of `plan` lets the connection of `entry` stand on `identity`.
pub(super) fn may_stand(plan: &Plan, identity: &Identity, entry: &Entry) -> bool {
    let grounds = entry.grounds.as_deref().map(Grounds::of).unwrap_or_default();
    satisfies(plan, &grounds, identity, entry)
}

fn satisfies(plan: &Plan, grounds: &Grounds<'_>, identity: &Identity, entry: &Entry) -> bool {
    let variables = Variables::from([
        ("identity", identity.variable()),
        ("request", request_of(grounds, entry.peer)),
        ("message", grounds.message.clone().unwrap_or_default().into_owned()),
    ]);
    !plan.access.deny && plan.access.rule.is_satisfied(&variables)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::close::CloseCodes;
    use crate::config::load_from;
    use crate::connection::{Arrival, Place, Registry};
    use crate::identity::{Method, Proof};
    use crate::pipeline::build;
    use crate::telemetry::Metrics;

    fn plans(policy: &str) -> Plans {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sockgate.yaml");
        let yaml = format!(
            "
server: {{ listen: 'a:1' }}
verifiers:
  app: {{ jwt: {{ secret: 0123456789abcdef0123456789abcdef, algorithms: [HS256] }} }}
policies:
  members: {{ credentials: [{{ query: token, verifier: app }}], {policy} }}
routes: [{{ name: chat, path: /ws, policy: members, upstream: 'ws://127.0.0.1:1' }}]
"
        );
        std::fs::write(&path, yaml).unwrap();
        let loaded = load_from(&path, []).unwrap();
        build(&loaded, &Metrics::new().unwrap(), None).ok().unwrap().plans
    }

    fn ada() -> Place {
        let identity = Identity::proven(Proof {
            subject: "ada".into(),
            method: Method::Jwt,
            verifier: "app".into(),
            issuer: None,
            session: None,
            token_id: None,
            issued_at: None,
            expires: None,
            leeway: 30,
            claims: r#"{"role":"member"}"#.into(),
        });
        let grounds = Grounds {
            path: "/ws".into(),
            origin: Some("https://app.example".into()),
            host: "app.example".into(),
            https: true,
            ..Grounds::default()
        };
        Registry::new(Arc::default()).enter(Arrival {
            request_id: &"r".into(),
            identity: &Arc::new(identity.unwrap()),
            peer: [127, 0, 0, 1].into(),
            carrier: Carrier::Socket,
            codes: CloseCodes::default(),
            limits: &Arc::default(),
            metrics: &Metrics::new().unwrap().route("chat").unwrap(),
            grounds: Some(grounds.kept()),
        })
    }

    fn judged(policy: &str) -> Option<Reason> {
        let place = ada();
        let grounds = Grounds::of(place.entry().grounds.as_deref().unwrap());
        fault(plans(policy).named("chat").unwrap(), &grounds, place.entry())
    }

    #[test]
    fn rule_and_origins_are_asked_again() {
        assert_eq!(judged("origins: any"), None);
        assert_eq!(judged("origins: same"), None);
        assert_eq!(judged("origins: ['https://other.example']"), Some(Reason::OriginDenied));
        assert_eq!(judged("require: 'identity.subject == \"ada\"'"), None);
        assert_eq!(judged("require: 'identity.claims.role == \"member\"'"), None);
        assert_eq!(judged("require: 'request.path == \"/ws\"'"), None);
        assert_eq!(judged("require: 'request.scheme + request.ip == \"https127.0.0.1\"'"), None);
        assert_eq!(judged("require: 'request.subprotocols == [] && request.query == \"\"'"), None);
        assert_eq!(judged("require: 'identity.subject == \"eve\"'"), Some(Reason::Forbidden));
        // What was not kept refuses, as any error does.
        assert_eq!(judged("require: 'request.headers.x == \"y\"'"), Some(Reason::Forbidden));
    }

    #[test]
    fn only_what_a_live_connection_is_judged_by_counts_as_a_change() {
        let terms = |policy: &str| plans(policy).named("chat").unwrap().terms.clone();
        assert_eq!(terms("reject: http"), terms("reject: close"));
        for changed in
            ["origins: any", "require: 'true'", "lifetime: { max: 1h }", "lifetime: { grace: 1s }"]
        {
            assert_ne!(terms(changed), terms("reject: close"), "{changed}");
        }
    }
}
