//! The checks of `routes`: policies resolved, upstreams that fit, no public way
//! around a guarded one.

use std::collections::{BTreeMap, BTreeSet};

use super::address::{Address, Endpoint};
use super::check::{BUILT_IN, Findings, defined, route_limits};
use super::file::{FileConfig, RouteConfig};
use super::{logouts, tickets};
use crate::credential::CredentialConfig;
use crate::problem::Problem;
use crate::upstream::{UpstreamConfig, UpstreamTlsConfig};

/// Who gets through a route.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Anybody: `public`, or a policy with `anonymous: true`.
    Open,
    /// Whoever shows a credential.
    Guarded,
    /// Nobody: `deny`.
    Closed,
    /// The policy is not defined, and that is reported already.
    Unknown,
}

/// Checks all routes.
pub(super) fn check(file: &FileConfig, findings: &mut Findings) {
    if file.routes.is_empty() {
        findings.lack("routes", "needs at least one route: without one everything is 404");
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut endpoints: Vec<Option<Endpoint>> = Vec::new();
    for (index, route) in file.routes.iter().enumerate() {
        let path = format!("routes[{index}]");
        if let Some(name) = &route.name
            && let Some(first) = names.insert(name, index)
        {
            let message = format!("\"{name}\" is the name of routes[{first}] already");
            findings.problem(format!("{path}.name"), message);
        }
        let access = access(route, file);
        policy(&path, route, access, file, findings);
        endpoints.push(upstream(&path, route, access, findings));
        tickets::check(&path, route, file, findings);
        logouts::check(&path, route, file, findings);
        route_limits(&format!("{path}.limits"), &route.limits, file, findings);
        if route.allow_any_origin {
            findings.warning(
                format!("{path}.allow_any_origin"),
                "has no effect: only a raw upstream needs it",
            );
        }
        unreachable(&path, index, file, findings);
    }
    exposed(file, &endpoints, findings);
}

fn access(route: &RouteConfig, file: &FileConfig) -> Access {
    if route.backchannel_logout.is_some() {
        // sockgate itself answers, and asks for more than a policy could.
        return Access::Closed;
    }
    match (route.policy.as_str(), file.policies.get(&route.policy)) {
        ("public", _) => Access::Open,
        ("deny", _) => Access::Closed,
        (_, Some(policy)) if policy.anonymous => Access::Open,
        (_, Some(_)) => Access::Guarded,
        (_, None) => Access::Unknown,
    }
}

fn policy(
    path: &str,
    route: &RouteConfig,
    access: Access,
    file: &FileConfig,
    findings: &mut Findings,
) {
    if access == Access::Unknown && route.policy.is_empty() {
        findings.lack(format!("{path}.policy"), "is required");
    } else if access == Access::Unknown {
        let names = file.policies.keys().map(String::as_str).chain(BUILT_IN);
        let defined = defined(&route.policy, names);
        let message = format!("no policy named \"{}\" {defined}", route.policy);
        findings.problem(format!("{path}.policy"), message);
    }
    let credentials = file.policies.get(&route.policy).map(|policy| &policy.credentials);
    let message = credentials.and_then(|all| all.iter().find(|one| one.message.is_some()));
    let by_message = message.is_some();
    let identity = route.identity.as_ref().unwrap_or(&file.identity);
    let told = !identity.headers.is_empty() || identity.assertion.is_some();
    if route.upstream.is_some() && told && message.is_some_and(CredentialConfig::dials_first) {
        findings.warning(
            path,
            "its upstream is dialled before the login message (`dial: first`), when no identity \
             headers can be sent: tell it in the login with `forward: { rewrite: … }`, and write \
             `identity: { headers: {} }` here",
        );
    }
    if !route.subprotocols.is_empty() && access != Access::Unknown && !by_message {
        findings.warning(
            format!("{path}.subprotocols"),
            "has no effect: only message authentication answers before the upstream does",
        );
    }
}

fn upstream(
    path: &str,
    route: &RouteConfig,
    access: Access,
    findings: &mut Findings,
) -> Option<Endpoint> {
    let Some(upstream) = &route.upstream else {
        if access != Access::Closed && route.ticket.is_none() {
            findings.lack(path, "needs an upstream: only the policy \"deny\" does without");
        }
        return None;
    };
    if route.ticket.is_some() {
        let message = "a route has exactly one of upstream and ticket: make two routes";
        findings.problem(format!("{path}.ticket"), message);
    }
    let path = format!("{path}.upstream");
    if access == Access::Closed && route.backchannel_logout.is_none() {
        findings.warning(&path, "has no effect: the policy \"deny\" lets nobody through");
    }
    let table = format!("{path}.url");
    let endpoint = match Endpoint::parse(&upstream.url) {
        Ok(endpoint) => Some(endpoint),
        Err(message) => {
            findings.problem(if upstream.tls.is_some() { &table } else { &path }, message);
            None
        }
    };
    tls(&path, upstream, endpoint.as_ref(), findings);
    endpoint
}

fn tls(
    path: &str,
    upstream: &UpstreamConfig,
    endpoint: Option<&Endpoint>,
    findings: &mut Findings,
) {
    let Some(UpstreamTlsConfig { client_cert, client_key, .. }) = &upstream.tls else { return };
    if endpoint.is_some_and(|endpoint| !endpoint.tls) {
        findings.problem(format!("{path}.tls"), "is only for wss: and https: upstreams");
    }
    match (client_cert, client_key) {
        (Some(_), None) => {
            findings.problem(format!("{path}.tls.client_key"), "is required with client_cert");
        }
        (None, Some(_)) => {
            findings.problem(format!("{path}.tls.client_cert"), "is required with client_key");
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// A public route that carries upgrades to an address which another route
/// guards would be the way around that guard.
fn exposed(file: &FileConfig, endpoints: &[Option<Endpoint>], findings: &mut Findings) {
    let pairs = || file.routes.iter().zip(endpoints).enumerate();
    let mut guarded: BTreeMap<&Address, usize> = BTreeMap::new();
    for (index, (route, endpoint)) in pairs() {
        if let (Access::Guarded, Some(endpoint)) = (access(route, file), endpoint) {
            guarded.entry(&endpoint.address).or_insert(index);
        }
    }
    for (index, (route, endpoint)) in pairs() {
        let open = access(route, file) == Access::Open;
        let guard = endpoint
            .as_ref()
            .filter(|endpoint| open && endpoint.upgrades)
            .and_then(|endpoint| guarded.get(&endpoint.address));
        match (guard, route.shared_upstream) {
            (Some(guard), false) => findings.problem(
                format!("routes[{index}].upstream"),
                format!(
                    "anybody could open a WebSocket to the server that routes[{guard}] guards: \
                     use an http: upstream here, a policy with credentials, or \
                     `shared_upstream: true`"
                ),
            ),
            (None, true) if access(route, file) != Access::Unknown => findings.warning(
                format!("routes[{index}].shared_upstream"),
                "has no effect: no public upgrade reaches a guarded upstream here",
            ),
            (Some(_), true) | (None, _) => {}
        }
    }
}

/// Warns of paths that an earlier route takes, so that this one never sees them.
fn unreachable(path: &str, index: usize, file: &FileConfig, findings: &mut Findings) {
    let Some(route) = file.routes.get(index) else { return };
    for (position, pattern) in route.path.0.iter().enumerate() {
        let earlier = file.routes.iter().take(index).position(|earlier| {
            covers_host(earlier.host.as_deref(), route.host.as_deref())
                && earlier.path.0.iter().any(|other| covers_path(other, pattern))
        });
        if let Some(earlier) = earlier {
            let path = match route.path.0.len() {
                1 => format!("{path}.path"),
                _ => format!("{path}.path[{position}]"),
            };
            let message = format!("is never reached: routes[{earlier}] takes it first");
            findings.warnings.push(Problem::new(path, message));
        }
    }
    let distinct: BTreeSet<&String> = route.path.0.iter().collect();
    if distinct.len() != route.path.0.len() {
        findings.warning(format!("{path}.path"), "names one path twice");
    }
    if route.path.0.is_empty() {
        findings.lack(format!("{path}.path"), "needs at least one path");
    }
}

fn covers_host(earlier: Option<&str>, later: Option<&str>) -> bool {
    let Some(earlier) = earlier else { return true };
    let Some(later) = later else { return false };
    if earlier.eq_ignore_ascii_case(later) {
        return true;
    }
    let parent = later.split_once('.').map_or("", |(_, parent)| parent);
    earlier.strip_prefix("*.").is_some_and(|suffix| suffix.eq_ignore_ascii_case(parent))
}

fn covers_path(earlier: &str, later: &str) -> bool {
    if earlier == later {
        return true;
    }
    let Some(prefix) = earlier.strip_suffix("/*") else { return false };
    let later = later.strip_suffix("/*").unwrap_or(later);
    later.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_covers_what_it_would_match() {
        assert!(covers_path("/ws", "/ws"));
        assert!(covers_path("/ws/*", "/ws"));
        assert!(covers_path("/ws/*", "/ws/a/*"));
        assert!(covers_path("/*", "/ws"));
        assert!(!covers_path("/ws", "/ws/*"));
        assert!(!covers_path("/ws/*", "/wss"));
        assert!(!covers_path("/ws/*", "/*"));
    }

    #[test]
    fn a_host_covers_what_it_would_match() {
        assert!(covers_host(None, Some("a.b")));
        assert!(covers_host(Some("A.b"), Some("a.B")));
        assert!(covers_host(Some("*.b.c"), Some("a.b.c")));
        assert!(!covers_host(Some("*.b.c"), Some("x.a.b.c")));
        assert!(!covers_host(Some("a.b"), None));
    }
}
