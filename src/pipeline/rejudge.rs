//! After a reload: live connections stay, but those whose policy has changed are
//! judged by it again, as if they asked now.

use std::collections::HashMap;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderValue, ORIGIN};

use super::gate::Gate;
use super::plan::{Access, Plan, Plans};
use crate::clock;
use crate::close::Reason;
use crate::connection::Entry;
use crate::expression::Variables;
use crate::policy::{Decision, OwnOrigin, decide};

/// Puts `plans` in force, and every live connection under it. A connection whose
/// route is gone stays under the policy that admitted it.
pub fn replace_plans(gate: &Gate, plans: Plans) {
    let new = Arc::new(plans);
    let old = gate.plans.swap(Arc::clone(&new));
    let (old, new) = (by_name(&old), by_name(&new));
    for entry in gate.registry.entries() {
        let Some(plan) = new.get(&*entry.route) else { continue };
        entry.set_limits(&plan.live);
        let before = old.get(&*entry.route).map(|plan| &plan.access);
        if before.is_some_and(|before| before.written == plan.access.written) {
            continue;
        }
        if let Some(reason) = objection(&plan.access, &entry) {
            entry.control.request_close(reason, reason.close_code(&plan.access.codes));
        }
    }
}

fn by_name(plans: &Plans) -> HashMap<&str, &Arc<Plan>> {
    // The first route of a name wins, as it does when routes are matched.
    let mut named = HashMap::new();
    for plan in plans.router.iter() {
        named.entry(&*plan.name).or_insert(plan);
    }
    named
}

/// Why `access` would not admit what `entry` is.
fn objection(access: &Access, entry: &Entry) -> Option<Reason> {
    let case = &entry.case;
    if access.deny || (entry.identity.is_anonymous() && !access.anonymous) {
        return Some(if access.deny { Reason::Forbidden } else { Reason::MissingCredential });
    }
    let mut headers = HeaderMap::new();
    if let Some(origin) =
        case.origin.as_deref().and_then(|origin| HeaderValue::from_str(origin).ok())
    {
        headers.insert(ORIGIN, origin);
    }
    let own = OwnOrigin { host: &case.host, port: case.port, https: case.https };
    if !access.origins.allows(&headers, &own) {
        return Some(Reason::OriginDenied);
    }
    let mut variables = Variables::from([("identity", entry.identity.variable())]);
    variables.extend(case.request.clone().map(|request| ("request", request)));
    match decide(&access.rule, Arc::clone(&entry.identity), &variables, clock::unix_now()) {
        Decision::Allow(_) => None,
        // Expiry is the lifetime's to judge, with its grace.
        Decision::Deny(denial) if denial.reason == Reason::Expired => None,
        Decision::Deny(denial) => Some(denial.reason),
    }
}
