//! What the keys of a file mean together: references, ranges, contradictions.
//! Does no I/O but for fetching the admin token, and compiles nothing: the
//! rooms do that when a plan is built.

use std::collections::BTreeSet;
use std::path::Path;

use super::address::Listen;
use super::file::{FileConfig, PolicyConfig};
use super::{lifetime, routes, tickets};
use crate::policy::{CodesConfig, Reject, RouteLimitsConfig};
use crate::problem::{Problem, suggestion};
use crate::unit::{Size, Span};
use crate::verifier::VerifierConfig;

/// The policies that need no definition.
pub(super) const BUILT_IN: [&str; 2] = ["public", "deny"];

/// What was found: problems refuse the file, warnings do not.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// Problems of a table that lacks something, which may be there but broken.
    pub(super) lacks: Vec<Problem>,
    /// Warnings of what nothing that could be read uses.
    pub(super) unused: Vec<Problem>,
}

impl Findings {
    pub(super) fn problem(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::new(path, message));
    }

    pub(super) fn lack(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.lacks.push(Problem::new(path, message));
    }

    pub(super) fn warning(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Problem::new(path, message));
    }
}

/// Checks the whole file; relative paths are relative to `base`.
pub(super) fn check(file: &FileConfig, base: &Path) -> Findings {
    let mut findings = Findings::default();
    server(file, &mut findings);
    admin(file, base, &mut findings);
    limits(file, &mut findings);
    for (name, verifier) in &file.verifiers {
        one_verifier(&key("verifiers", name), verifier, &mut findings);
    }
    for (name, policy) in &file.policies {
        let path = key("policies", name);
        if BUILT_IN.contains(&name.as_str()) {
            let message = format!("\"{name}\" is built in; give this policy another name");
            findings.problem(&path, message);
        }
        one_policy(&path, policy, file, &mut findings);
    }
    routes::check(file, &mut findings);
    tickets::unissued(file, &mut findings);
    unused(file, &mut findings);
    findings
}

/// `verifiers` and `my app` → `verifiers."my app"`, as everywhere.
pub fn key(section: &str, name: &str) -> String {
    super::read::KeyPath::default().key(section).key(name).to_string()
}

/// `(defined: members, public, deny; did you mean "members"?)`.
pub(super) fn defined<'a>(written: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    let list: Vec<&str> = names.clone().collect();
    match list.is_empty() {
        true => "(none is defined)".to_owned(),
        false => format!("(defined: {}{})", list.join(", "), suggestion(written, names)),
    }
}

/// More are a slip of the finger.
const MOST_THREADS: usize = 1024;

fn server(file: &FileConfig, findings: &mut Findings) {
    let server = &file.server;
    let admin = Listen::parse(&file.admin.listen);
    let mut seen: Vec<Listen> = Vec::new();
    if server.listen.0.is_empty() {
        findings.lack("server.listen", "needs at least one address");
    }
    for (index, text) in server.listen.0.iter().enumerate() {
        let path = match server.listen.0.len() {
            1 => "server.listen".to_owned(),
            _ => format!("server.listen[{index}]"),
        };
        match Listen::parse(text) {
            Err(message) => findings.problem(path, message),
            Ok(listen) => {
                if seen.iter().any(|other| other.overlaps(&listen)) {
                    findings.problem(path, "overlaps with another address of the list");
                } else if admin.as_ref().is_ok_and(|admin| admin.overlaps(&listen)) {
                    findings.problem(
                        "admin.listen",
                        format!("overlaps with {path}; admin is never on the main port"),
                    );
                }
                seen.push(listen);
            }
        }
    }
    let only_unix = seen.iter().all(|listen| matches!(listen, Listen::Unix(_)));
    if server.tls.is_some() && only_unix && seen.len() == server.listen.0.len() {
        findings.warning("server.tls", "has no effect: every listener is a Unix socket");
    }
    if server.threads > MOST_THREADS {
        findings.problem("server.threads", format!("must be at most {MOST_THREADS}"));
    }
    if server.trusted_proxies.is_empty() && server.trust_forwarded_host {
        findings.warning(
            "server.trust_forwarded_host",
            "has no effect: server.trusted_proxies is empty",
        );
    }
}

fn admin(file: &FileConfig, base: &Path, findings: &mut Findings) {
    const LEAST: usize = 16;
    match Listen::parse(&file.admin.listen) {
        Ok(Listen::Tcp { .. }) => {}
        Ok(Listen::Unix(_)) | Err(_) => {
            findings.problem("admin.listen", "expected host:port, such as 127.0.0.1:9090");
        }
    }
    if let Some(token) = &file.admin.token {
        match token.resolve(base) {
            Err(error) => findings.problem("admin.token", error.to_string()),
            Ok(token) if token.expose().len() < LEAST => {
                findings.problem("admin.token", format!("must be at least {LEAST} bytes long"));
            }
            Ok(_) => {}
        }
    }
}

fn limits(file: &FileConfig, findings: &mut Findings) {
    let limits = &file.limits;
    if limits.connections == 0 {
        findings.problem("limits.connections", "must be at least 1");
    }
    if limits.header_bytes < Size::kib(1) || limits.header_bytes > Size::kib(1024) {
        findings.problem("limits.header_bytes", "must be 1KiB to 1MiB");
    }
    if file.server.trusted_proxies.is_empty() {
        let per_ip = [limits.connections_per_ip, limits.handshakes_per_ip];
        behind_a_proxy("limits", per_ip.map(|limit| limit != 0), findings);
    }
    let none = |span: Span| span.limit().is_none();
    let zeros = [
        ("header_timeout", none(limits.header_timeout)),
        ("credential_bytes", limits.credential_bytes.limit().is_none()),
        ("auth_timeout", none(limits.auth_timeout)),
        ("auth_message_bytes", limits.auth_message_bytes.limit().is_none()),
        ("stall_timeout", none(limits.stall_timeout)),
        ("upstream_connect_timeout", none(limits.upstream_connect_timeout)),
        ("http_body_timeout", none(limits.http_body_timeout)),
    ];
    not_zero("limits", &zeros, findings);
}

/// The limits that a route replaces.
pub(super) fn route_limits(
    path: &str,
    limits: &RouteLimitsConfig,
    file: &FileConfig,
    findings: &mut Findings,
) {
    if file.server.trusted_proxies.is_empty() {
        let per_ip = [limits.connections_per_ip, limits.handshakes_per_ip];
        let per_ip = per_ip.map(|limit| limit.is_some_and(|limit| limit != 0));
        behind_a_proxy(path, per_ip, findings);
    }
    let none = |span: Option<Span>| span.is_some_and(|span| span.limit().is_none());
    let empty = |size: Option<Size>| size.is_some_and(|size| size.limit().is_none());
    let zeros = [
        ("credential_bytes", empty(limits.credential_bytes)),
        ("auth_timeout", none(limits.auth_timeout)),
        ("auth_message_bytes", empty(limits.auth_message_bytes)),
        ("stall_timeout", none(limits.stall_timeout)),
        ("upstream_connect_timeout", none(limits.upstream_connect_timeout)),
        ("http_body_timeout", none(limits.http_body_timeout)),
    ];
    not_zero(path, &zeros, findings);
}

fn not_zero(path: &str, zeros: &[(&str, bool)], findings: &mut Findings) {
    for (name, _) in zeros.iter().filter(|(_, zero)| *zero) {
        findings.problem(format!("{path}.{name}"), "must be more than 0");
    }
}

fn behind_a_proxy(path: &str, per_ip: [bool; 2], findings: &mut Findings) {
    for (name, _) in
        ["connections_per_ip", "handshakes_per_ip"].iter().zip(per_ip).filter(|(_, set)| *set)
    {
        findings.warning(
            format!("{path}.{name}"),
            "behind a proxy all clients share its address: name it in server.trusted_proxies",
        );
    }
}

fn one_verifier(path: &str, verifier: &VerifierConfig, findings: &mut Findings) {
    // YAML folds the lines below a value into it when a key is missing.
    let spaced = |text: &String| text.contains(|c: char| c.is_whitespace() || c.is_control());
    if verifier.jwt.as_ref().and_then(|jwt| jwt.issuer.as_ref()).is_some_and(spaced) {
        findings.problem(format!("{path}.jwt.issuer"), "an issuer has no spaces or line ends");
    }
    match verifier.kind() {
        Ok(_) => {}
        Err(message) if verifier.is_empty() => findings.lack(path, message),
        Err(message) => findings.problem(path, message),
    }
}

fn one_policy(path: &str, policy: &PolicyConfig, file: &FileConfig, findings: &mut Findings) {
    if policy.credentials.is_empty() && !policy.anonymous {
        findings.lack(
            path,
            "nobody could pass: give it credentials, `anonymous: true`, or use the policy \"deny\"",
        );
    }
    for (index, credential) in policy.credentials.iter().enumerate() {
        let path = format!("{path}.credentials[{index}]");
        if credential.message.is_some() && index + 1 != policy.credentials.len() {
            findings.problem(
                format!("{path}.message"),
                "must be the last credential: it is read after all others",
            );
        }
        verifiers(&format!("{path}.verifier"), &credential.verifier.0, file, findings);
    }
    codes(&format!("{path}.codes"), &policy.codes, findings);
    lifetime::check(path, policy, file, findings);
    if policy.reject == Reject::Http && policy.reject_message.is_some() {
        findings.warning(
            format!("{path}.reject_message"),
            "has no effect with `reject: http`: no message can follow an HTTP refusal",
        );
    }
}

/// Checks the names of a credential's verifiers.
pub(super) fn verifiers(path: &str, names: &[String], file: &FileConfig, findings: &mut Findings) {
    if names.is_empty() {
        findings.lack(path, "needs at least one verifier");
    }
    for (index, name) in names.iter().enumerate() {
        let path = match names.len() {
            1 => path.to_owned(),
            _ => format!("{path}[{index}]"),
        };
        if !file.verifiers.contains_key(name) {
            let defined = defined(name, file.verifiers.keys().map(String::as_str));
            findings.problem(path, format!("no verifier named \"{name}\" {defined}"));
        } else if names.iter().take(index).any(|other| other == name) {
            findings.warning(path, format!("\"{name}\" stands twice in the list"));
        } else if let Some(next) = names.get(index + 1)
            && file.verifiers.get(name).is_some_and(VerifierConfig::takes_anything)
        {
            let message = format!(
                "\"{name}\" decides on anything, so \"{next}\" is never asked: put it last"
            );
            findings.warning(path, message);
        }
    }
}

fn codes(path: &str, codes: &CodesConfig, findings: &mut Findings) {
    let CodesConfig { unauthorized, expired, forbidden } = *codes;
    for (name, code) in
        [("unauthorized", unauthorized), ("expired", expired), ("forbidden", forbidden)]
    {
        if let Some(code) = code.filter(|code| !(3000..=4999).contains(code)) {
            findings.problem(
                format!("{path}.{name}"),
                format!(
                    "must be 3000 to 4999, the close codes of applications (RFC 6455 section \
                     7.4.2), not {code}"
                ),
            );
        }
    }
}

fn unused(file: &FileConfig, findings: &mut Findings) {
    let policies: BTreeSet<&str> = file.routes.iter().map(|route| route.policy.as_str()).collect();
    for name in file.policies.keys().filter(|name| !policies.contains(name.as_str())) {
        findings.unused.push(Problem::new(key("policies", name), "is used by no route"));
    }
    let credentials = file.policies.values().flat_map(|policy| &policy.credentials);
    let shown = credentials.flat_map(|one| &one.verifier.0);
    let refreshes = file.policies.values().filter_map(|policy| policy.lifetime.refresh.as_ref());
    let renewing = refreshes.flat_map(|refresh| &refresh.verifier.0);
    let logouts = file.routes.iter().filter_map(|route| route.backchannel_logout.as_ref());
    let verifiers: BTreeSet<&String> = shown.chain(renewing).chain(logouts).collect();
    for name in file.verifiers.keys().filter(|name| !verifiers.contains(name)) {
        findings.unused.push(Problem::new(key("verifiers", name), "is used by no policy"));
    }
}
