//! The checks of `lifetime`: how a live connection's login ends and is renewed.

use std::time::Duration;

use super::check::{Findings, verifiers};
use super::file::{FileConfig, PolicyConfig};
use crate::connection::OnExpiry;

/// Checks the `lifetime` of the policy at `path`.
pub(super) fn check(path: &str, policy: &PolicyConfig, file: &FileConfig, findings: &mut Findings) {
    let path = format!("{path}.lifetime");
    let lifetime = &policy.lifetime;
    if lifetime.on_expiry == OnExpiry::Ignore && lifetime.grace.limit().is_some() {
        findings.warning(
            format!("{path}.grace"),
            "has no effect with `on_expiry: ignore`: no connection ends when its login does",
        );
    }
    if let Some(recheck) = lifetime.recheck.limit() {
        if recheck < Duration::from_secs(1) {
            findings.problem(format!("{path}.recheck"), "must be at least 1s, or 0 for never");
        }
        if lifetime.recheck_stale.0 < recheck {
            findings.warning(
                format!("{path}.recheck_stale"),
                "is shorter than `recheck`: one look-up that fails closes the connection",
            );
        }
    }
    let Some(refresh) = &lifetime.refresh else { return };
    let at = format!("{path}.refresh.verifier");
    verifiers(&at, &refresh.verifier.0, file, findings);
    let is_ticket =
        |name: &String| file.verifiers.get(name).is_some_and(|verifier| verifier.ticket.is_some());
    for name in refresh.verifier.0.iter().filter(|name| is_ticket(name)) {
        let message = format!(
            "\"{name}\" verifies tickets, and a ticket opens one connection: name the verifier \
             of the logins that tickets are fetched with"
        );
        findings.problem(&at, message);
    }
    // Who comes with a ticket was proven by a verifier of another policy, perhaps.
    let admitting = policy.credentials.iter().flat_map(|one| &one.verifier.0);
    let proves_others = admitting.clone().any(is_ticket);
    let mut renewing = refresh.verifier.0.iter().filter(|name| file.verifiers.contains_key(*name));
    let could_renew = |name: &String| proves_others || admitting.clone().any(|other| other == name);
    if renewing.clone().next().is_some() && !renewing.any(could_renew) {
        findings.warning(
            &at,
            "renews no login: the same identity has the same verifier, and no credential of this \
             policy names it",
        );
    }
}
