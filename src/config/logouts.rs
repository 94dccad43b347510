//! The checks of routes where an issuer tells of logouts.

use super::check::{Findings, defined};
use super::file::{FileConfig, RouteConfig};

/// Checks the `backchannel_logout` of one route.
pub(super) fn check(path: &str, route: &RouteConfig, file: &FileConfig, findings: &mut Findings) {
    let Some(name) = &route.backchannel_logout else { return };
    let at = format!("{path}.backchannel_logout");
    match file.verifiers.get(name) {
        None => {
            let defined = defined(name, file.verifiers.keys().map(String::as_str));
            findings.problem(&at, format!("no verifier named \"{name}\" {defined}"));
        }
        Some(verifier) => match &verifier.jwt {
            None => {
                let message = format!(
                    "the verifier \"{name}\" has no issuer who could tell: its kind is not jwt"
                );
                findings.problem(&at, message);
            }
            Some(jwt) => {
                if jwt.audience.is_none() {
                    let message = format!(
                        "a logout token is made out to the client that logs in, and \"{name}\" has \
                         no `audience`: add the client id to it, or write `any`"
                    );
                    findings.problem(&at, message);
                }
                if jwt.issuer.is_none() {
                    let message = format!(
                        "\"{name}\" has no `issuer`: whoever signs by its keys may log out"
                    );
                    findings.warning(&at, message);
                }
            }
        },
    }
    if route.upstream.is_some() || route.ticket.is_some() {
        let message = "a route has exactly one of upstream, ticket and backchannel_logout: make \
                       two routes";
        findings.problem(&at, message);
    }
    let without_effect = [
        ("policy", !route.policy.is_empty()),
        ("identity", route.identity.is_some()),
        ("subprotocols", !route.subprotocols.is_empty()),
    ];
    for (key, _) in without_effect.iter().filter(|(_, written)| *written) {
        findings.warning(
            format!("{path}.{key}"),
            "has no effect: a logout token proves itself, and no upstream is told",
        );
    }
}
