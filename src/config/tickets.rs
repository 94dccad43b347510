//! The checks of routes that issue tickets, and of what becomes of the tickets.

use super::check::{Findings, defined};
use super::file::{FileConfig, PolicyConfig, RouteConfig};

/// Checks the `ticket` of one route.
pub(super) fn check(path: &str, route: &RouteConfig, file: &FileConfig, findings: &mut Findings) {
    let Some(name) = &route.ticket else { return };
    let at = format!("{path}.ticket");
    match file.verifiers.get(name) {
        None => {
            let defined = defined(name, file.verifiers.keys().map(String::as_str));
            findings.problem(&at, format!("no verifier named \"{name}\" {defined}"));
        }
        Some(verifier) if verifier.ticket.is_none() => {
            let message =
                format!("the verifier \"{name}\" issues no tickets: its kind is not ticket");
            findings.problem(&at, message);
        }
        Some(_) => {}
    }
    match (route.policy.as_str(), file.policies.get(&route.policy)) {
        ("public" | "deny", _) => {
            let message = "nobody could fetch a ticket: a ticket stands for whoever shows a \
                           cookie or a header, so the policy needs such a credential";
            findings.problem(format!("{path}.policy"), message);
        }
        (_, Some(policy)) if !can_fetch(policy, file) => {
            let message = format!(
                "nobody could fetch a ticket: \"{}\" has no cookie or header credential (query \
                 parameters, subprotocols, messages and tickets themselves do not count here)",
                route.policy
            );
            findings.problem(format!("{path}.policy"), message);
        }
        (_, Some(_) | None) => {}
    }
    if route.identity.is_some() {
        findings.warning(
            format!("{path}.identity"),
            "has no effect: no upstream is told about a ticket that is fetched",
        );
    }
}

/// Whether a cookie or header may prove who fetches.
fn can_fetch(policy: &PolicyConfig, file: &FileConfig) -> bool {
    policy.credentials.iter().any(|one| {
        let in_headers = one.cookie.is_some() || one.header.is_some();
        let proves = |name: &String| {
            file.verifiers.get(name).is_none_or(|verifier| verifier.ticket.is_none())
        };
        in_headers && one.verifier.0.iter().any(proves)
    })
}

/// Warns of tickets that only this process knows and that no route issues.
pub(super) fn unissued(file: &FileConfig, findings: &mut Findings) {
    for (name, verifier) in &file.verifiers {
        let in_memory = verifier.ticket.as_ref().is_some_and(|ticket| ticket.is_in_memory());
        let issued = file.routes.iter().any(|route| route.ticket.as_ref() == Some(name));
        if in_memory && !issued {
            let path = super::check::key("verifiers", name);
            let message = "no route issues these tickets: give one `ticket: NAME`";
            findings.unused.push(crate::problem::Problem::new(path, message));
        }
    }
}
