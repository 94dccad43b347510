//! Builds the plans of a loaded file before a socket is bound or a running plan
//! is replaced: reads keys, compiles expressions, and notes all that is wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::logout_desk;
use super::plan::{Access, Plan, Plans, Refresh, Upstream, live_limits};
use super::raw::Raw;
use crate::config::{FileConfig, Loaded, PolicyConfig, RouteConfig, key_path};
use crate::connection::{LiveLimits, RefreshConfig};
use crate::credential::{RefreshMessage, Sources};
use crate::expression::Expression;
use crate::handshake::TrustedProxies;
use crate::identity::{self, Assertion, IdentityConfig, IdentityHeaders, Spoofed};
use crate::policy::{LimitsConfig, Origins, Previews, RateLimiter, Rule};
use crate::problem::Problem;
use crate::revocation::Terms;
use crate::route::{RoutePattern, Router};
use crate::telemetry::{Metrics, Redactor, RouteMetrics};
use crate::unit::OneOrMany;
use crate::upstream::{Endpoint, HttpClient};
use crate::verifier::{Chain, Kept, Recheck, client_certificate};

/// What building gives besides the plans.
pub struct Built {
    /// The plans.
    pub plans: Plans,
    /// What deserves a second look.
    pub warnings: Vec<Problem>,
    /// The files that were read, which a reload must watch.
    pub files: Vec<PathBuf>,
}

/// Why there are no plans.
pub struct Unusable {
    /// What is wrong, all at once.
    pub problems: Vec<Problem>,
    /// What deserves a second look besides.
    pub warnings: Vec<Problem>,
}

/// Builds the plans of a loaded file: reads keys, compiles expressions. Rates
/// that `before` has counted are kept, and so are verifiers of which nothing has
/// changed, and connections to unchanged upstreams.
///
/// # Errors
/// All problems at once, by key path.
pub fn build(
    loaded: &Loaded,
    metrics: &Metrics,
    before: Option<&Plans>,
) -> Result<Built, Unusable> {
    let mut builder = Builder {
        before,
        file: &loaded.file,
        base: &loaded.base,
        problems: Vec::new(),
        warnings: Vec::new(),
        files: Vec::new(),
    };
    let verifiers = builder.verifiers();
    for (name, kept) in &verifiers {
        metrics.expect_verifier(name);
        if kept.built.verifier.recheck() != Recheck::Never {
            metrics.expect_rechecks(name);
        }
    }
    let policies = builder.policies(&verifiers);
    let assertion = builder.assertion("identity", &loaded.file.identity);
    let rate = RateLimiter::kept_or_new(
        loaded.file.limits.handshakes_per_ip,
        before.and_then(|plans| plans.rate.as_ref()),
    );
    let parts = Parts {
        verifiers: &verifiers,
        policies: &policies,
        assertion: assertion.as_ref(),
        rate: rate.as_ref(),
    };
    let routes = builder.routes(&parts, metrics);
    let before = before.map(|plans| &plans.revocation);
    let terms = Terms::or_new(before, loaded.file.revocation.as_ref(), &loaded.base);
    let revocation = builder.take("revocation", terms);
    let Builder { problems, warnings, files, .. } = builder;
    let Some(revocation) = revocation.filter(|_| problems.is_empty()) else {
        return Err(Unusable { problems, warnings });
    };
    let proxies = TrustedProxies {
        networks: loaded.file.server.trusted_proxies.clone(),
        forwarded_host: loaded.file.server.trust_forwarded_host,
    };
    let redactor = Redactor::new(credential_names(&loaded.file, policies.values()));
    let headers: Vec<HeaderName> =
        policies.values().flat_map(|access| access.sources.header_names()).cloned().collect();
    let assertions = routes.iter().filter_map(|(_, plan)| plan.assertion.as_deref());
    let jwks = identity::jwks(assertion.as_deref().into_iter().chain(assertions));
    let raws = routes.iter().filter_map(|(_, plan)| plan.raw.as_ref());
    let tells_ends = raws.into_iter().any(Raw::tells_ends);
    let plans = Plans {
        jwks,
        tells_ends,
        proxy_protocol: loaded.file.server.proxy_protocol,
        router: Router::new(routes),
        verifiers,
        spoofed: Spoofed::new(identity_names(&loaded.file), headers),
        proxies,
        redactor: Arc::new(redactor),
        limits: loaded.file.limits.clone(),
        rate,
        revocation,
        drain_delay: loaded.file.server.drain_delay.0,
        drain: loaded.file.server.drain.0,
    };
    Ok(Built { plans, warnings, files })
}

/// Every identity header configured anywhere in the file.
fn identity_names(file: &FileConfig) -> Vec<HeaderName> {
    let routes = file.routes.iter().filter_map(|route| route.identity.as_ref());
    let all = std::iter::once(&file.identity).chain(routes);
    let names = |identity: &IdentityConfig| -> Vec<HeaderName> {
        let assertion = identity.assertion.as_ref().map(|assertion| &assertion.header);
        identity.headers.keys().chain(assertion).filter_map(|name| name.parse().ok()).collect()
    };
    all.flat_map(names).collect()
}

/// Every name under which a credential may travel.
fn credential_names<'a>(
    file: &FileConfig,
    policies: impl Iterator<Item = &'a Arc<Access>>,
) -> Vec<String> {
    let mut names = file.log.redact.clone();
    for access in policies {
        let sources = &access.sources;
        // A header's name too: a client may move its credential into the URL.
        let named = sources.query_names().chain(sources.cookie_names());
        names
            .extend(named.chain(sources.header_names().map(HeaderName::as_str)).map(str::to_owned));
    }
    names
}

struct Builder<'a> {
    before: Option<&'a Plans>,
    file: &'a FileConfig,
    base: &'a Path,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    files: Vec<PathBuf>,
}

/// What routes are made of besides their own keys.
struct Parts<'a> {
    verifiers: &'a Verifiers,
    policies: &'a Policies,
    assertion: Option<&'a Arc<Assertion>>,
    rate: Option<&'a Arc<RateLimiter>>,
}

type Verifiers = BTreeMap<String, Arc<Kept>>;
type Policies = BTreeMap<String, Arc<Access>>;

impl Builder<'_> {
    fn note(&mut self, prefix: &str, problems: Vec<Problem>) {
        self.problems.extend(problems.into_iter().map(|problem| problem.under(prefix)));
    }

    /// The value, or its problems noted.
    fn take<T>(&mut self, prefix: &str, result: Result<T, Vec<Problem>>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(problems) => {
                self.note(prefix, problems);
                None
            }
        }
    }

    fn verifiers(&mut self) -> Verifiers {
        let mut verifiers = Verifiers::new();
        for (name, config) in &self.file.verifiers {
            let prefix = key_path("verifiers", name);
            let before = self.before.and_then(|plans| plans.verifiers.get(name));
            if let Some(kept) = self.take(&prefix, Kept::or_new(before, name, config, self.base)) {
                let warnings = kept.built.warnings.iter().cloned();
                self.warnings.extend(warnings.map(|warning| warning.under(&prefix)));
                self.files.extend(kept.built.files.iter().cloned());
                verifiers.insert(name.clone(), kept);
            }
        }
        verifiers
    }

    fn policies(&mut self, verifiers: &Verifiers) -> Policies {
        let mut policies = Policies::new();
        for (name, config) in &self.file.policies {
            if let Some(access) = self.policy(name, config, verifiers) {
                policies.insert(name.clone(), Arc::new(access));
            }
        }
        for (name, deny) in [("public", false), ("deny", true)] {
            let config = PolicyConfig {
                anonymous: true,
                origins: Some(OneOrMany(vec!["any".to_owned()])),
                ..PolicyConfig::default()
            };
            if let Some(access) = self.policy(name, &config, verifiers) {
                policies.insert(name.to_owned(), Arc::new(Access { deny, ..access }));
            }
        }
        policies
    }

    fn policy(
        &mut self,
        name: &str,
        config: &PolicyConfig,
        verifiers: &Verifiers,
    ) -> Option<Access> {
        let prefix = key_path("policies", name);
        let at = |key: &str| format!("{prefix}.{key}");
        let sources = self.take(&at("credentials"), Sources::compile(&config.credentials));
        let ambient = sources.as_ref().is_some_and(Sources::ambient);
        let origins = self.take(&prefix, Origins::compile(config.origins.as_ref(), ambient));
        let rule = self.take(
            &prefix,
            Rule::compile(config.require.as_deref()).map_err(|problem| vec![problem]),
        );
        let reject_message = self.message(
            &at("reject_message"),
            config.reject_message.as_deref(),
            &["reason", "request"],
        );
        let accept_message = self.message(
            &at("accept_message"),
            config.accept_message.as_deref(),
            &["identity", "request", "message"],
        );
        let refresh = config.lifetime.refresh.as_ref();
        let refresh =
            refresh.map(|written| self.refresh(&at("lifetime.refresh"), written, verifiers));
        let mut sources = sources?;
        let mut chains = Vec::new();
        for (index, written) in config.credentials.iter().enumerate() {
            if let Some(field) = written.client_cert {
                chains.push(Chain::new(vec![client_certificate(field)]));
                continue;
            }
            let named = sources.verifiers(index).iter().filter_map(|name| verifiers.get(name));
            let named: Vec<_> = named.map(|kept| Arc::clone(&kept.built.verifier)).collect();
            if named.iter().any(|verifier| verifier.wants_signature_cookie())
                && (named.len() > 1 || !sources.sign_cookie(index))
            {
                let message = "cookie-session is a cookie that another one signs: write it as \
                               { cookie: NAME, verifier: … }, with this verifier alone";
                self.problems
                    .push(Problem::new(at(&format!("credentials[{index}].verifier")), message));
            }
            if written.is_for_authorization()
                && named.iter().any(|verifier| verifier.has_authorization())
            {
                let message = "goes on as Authorization, where the user and password of this \
                               verifier's url go: take it from a cookie, a query or another \
                               header, or have no user in the url";
                self.problems
                    .push(Problem::new(at(&format!("credentials[{index}].verifier")), message));
            }
            chains.push(Chain::new(named));
        }
        Some(Access {
            name: name.into(),
            deny: false,
            sources,
            chains,
            anonymous: config.anonymous,
            origins: origins?,
            rule: rule?,
            reject: config.reject,
            codes: config.codes.resolve(),
            reject_message,
            accept_message,
            refresh: refresh.map_or(Some(None), |refresh| refresh.map(Some))?,
        })
    }

    fn refresh(
        &mut self,
        prefix: &str,
        config: &RefreshConfig,
        verifiers: &Verifiers,
    ) -> Option<Refresh> {
        let message =
            self.take(prefix, RefreshMessage::compile(&config.conditions, &config.token))?;
        // Names that do not resolve have been reported by `config` already.
        let named = config.verifier.0.iter().filter_map(|name| verifiers.get(name));
        let chain = Chain::new(named.map(|kept| Arc::clone(&kept.built.verifier)).collect());
        Some(Refresh { message, chain })
    }

    fn message(&mut self, path: &str, source: Option<&str>, known: &[&str]) -> Option<Expression> {
        match Expression::compile(source?, known) {
            Ok(expression) => Some(expression),
            Err(error) => {
                self.problems.push(Problem::new(path, error.to_string()));
                None
            }
        }
    }

    /// The assertion of one `identity` section; its keys are read once for all its
    /// routes.
    fn assertion(&mut self, prefix: &str, config: &IdentityConfig) -> Option<Arc<Assertion>> {
        self.take(prefix, Assertion::compile(config, self.base)).flatten().map(Arc::new)
    }

    fn routes(&mut self, parts: &Parts<'_>, metrics: &Metrics) -> Vec<(RoutePattern, Arc<Plan>)> {
        let mut routes = Vec::new();
        for (index, config) in self.file.routes.iter().enumerate() {
            let prefix = format!("routes[{index}]");
            let pattern =
                self.take(&prefix, RoutePattern::parse(config.host.as_deref(), &config.path.0));
            let plan = self.route(&prefix, config, parts, metrics);
            if let (Some(pattern), Some(plan)) = (pattern, plan) {
                routes.push((pattern, Arc::new(plan)));
            }
        }
        routes
    }

    /// The limiter of the route `name`: that of all routes, unless it counts on its own:
    /// by a rate of its own, or because it gives tickets, each of which is for a handshake.
    fn rate(
        &self,
        name: &str,
        config: &RouteConfig,
        limits: &LimitsConfig,
        all: Option<&Arc<RateLimiter>>,
    ) -> Option<Arc<RateLimiter>> {
        if config.limits.handshakes_per_ip.is_none() && config.ticket.is_none() {
            return all.cloned();
        }
        let before = self.before.and_then(|plans| {
            let own = plans.named(name)?.rate.as_ref()?;
            let shared = plans.rate.as_ref().is_some_and(|all| Arc::ptr_eq(all, own));
            (!shared).then_some(own)
        });
        RateLimiter::kept_or_new(limits.handshakes_per_ip, before)
    }

    /// The previews that the route had, or new ones, where its upstream speaks first.
    fn previews(&self, route: &str, access: &Access) -> Option<Arc<Previews>> {
        access.sources.message().filter(|source| source.dials_first())?;
        let before = self.before.and_then(|plans| plans.named(route)?.previews.clone());
        Some(before.unwrap_or_default())
    }

    /// The upstream that the route had, with the connections that it keeps open,
    /// or a new one if any were made in another way now.
    fn upstream(&self, route: &str, endpoint: Endpoint, timeout: Duration) -> Arc<Upstream> {
        let before = self.before.and_then(|plans| plans.named(route)?.upstream.clone());
        let kept = before.filter(|upstream| upstream.http.is_for(&endpoint, timeout));
        kept.unwrap_or_else(|| {
            let endpoint = Arc::new(endpoint);
            let http = HttpClient::new(Arc::clone(&endpoint), timeout);
            Arc::new(Upstream { endpoint, http })
        })
    }

    fn route(
        &mut self,
        prefix: &str,
        config: &RouteConfig,
        parts: &Parts<'_>,
        metrics: &Metrics,
    ) -> Option<Plan> {
        let limits = self.file.limits.with(&config.limits);
        let identity = config.identity.as_ref();
        let assertion = match identity {
            Some(own) => self.assertion(&format!("{prefix}.identity"), own),
            None => parts.assertion.cloned(),
        };
        let identity_prefix =
            if identity.is_some() { format!("{prefix}.identity") } else { "identity".to_owned() };
        let identity = self.take(
            &identity_prefix,
            IdentityHeaders::compile(identity.unwrap_or(&self.file.identity)),
        );
        let upstream = config.upstream.as_ref().map(|upstream| {
            self.take(&format!("{prefix}.upstream"), Endpoint::build(upstream, self.base))
        });
        let name = route_name(config);
        let raw = config
            .upstream
            .as_ref()
            .map(|upstream| self.take(&format!("{prefix}.upstream"), Raw::compile(upstream)));
        let raw = match raw {
            None => None,
            Some(raw) => Some(raw?),
        };
        let upstream = match upstream {
            None => None,
            Some(endpoint) => {
                Some(self.upstream(&name, endpoint?, limits.upstream_connect_timeout.0))
            }
        };
        // Names that do not resolve have been reported by `config` already.
        let named = |name: &Option<String>| {
            let kept = name.as_ref().and_then(|name| parts.verifiers.get(name));
            kept.map(|kept| Arc::clone(&kept.built.verifier))
        };
        // A logout token proves itself.
        let policy = match config.backchannel_logout {
            Some(_) => "public",
            None => config.policy.as_str(),
        };
        let access = parts.policies.get(policy)?;
        let lifetime = self
            .file
            .policies
            .get(policy)
            .map(|policy| policy.lifetime.clone())
            .unwrap_or_default();
        let own_codes =
            [access.codes.unauthorized, access.codes.expired, access.codes.forbidden, 4029];
        let route_metrics = self.take(
            prefix,
            metrics.route(&name).map_err(|error| vec![Problem::new("name", error.to_string())]),
        )?;
        match &config.backchannel_logout {
            Some(verifier) => expect_logouts(&route_metrics, verifier),
            None => expect(&route_metrics, access),
        }
        let live = Arc::new(live_limits(&limits, LiveLimits::of(&lifetime)));
        Some(Plan {
            terms: terms(access, self.file.policies.get(policy), &live),
            access: Arc::clone(access),
            raw: raw.filter(|_| upstream.as_ref().is_some_and(|one| one.endpoint.is_raw())),
            upstream,
            tickets: named(&config.ticket),
            logouts: named(&config.backchannel_logout),
            identity: identity?,
            assertion,
            subprotocols: config.subprotocols.clone(),
            live,
            metrics: route_metrics,
            previews: self.previews(&name, access),
            rate: self.rate(&name, config, &limits, parts.rate),
            own_codes,
            limits,
            name,
        })
    }
}

/// Shows what may be counted before there is anything to count.
fn expect(metrics: &RouteMetrics, access: &Access) {
    metrics.expect_ends();
    for index in 0..access.chains.len() {
        for verifier in access.sources.verifiers(index) {
            metrics.expect_decision(access.sources.kind(index), verifier);
        }
    }
    if access.anonymous && !access.deny {
        metrics.expect_decision("none", "none");
    }
}

/// The same of a route where an issuer tells of logouts.
fn expect_logouts(metrics: &RouteMetrics, verifier: &str) {
    metrics.expect_ends();
    metrics.expect_decision(logout_desk::CREDENTIAL, verifier);
}

fn terms(access: &Access, policy: Option<&PolicyConfig>, live: &LiveLimits) -> Box<str> {
    let written = policy.map(|policy| (&policy.require, &policy.origins));
    format!("{} {} {written:?} {live:?}", access.deny, access.sources.ambient()).into()
}

/// The route's label: its name, or host and path as written.
fn route_name(config: &RouteConfig) -> Arc<str> {
    match &config.name {
        Some(name) => name.as_str().into(),
        None => {
            let host = config.host.as_deref().unwrap_or_default();
            format!("{host}{}", config.path.0.join(",")).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_from;

    fn problems(url: &str, source: &str) -> Vec<String> {
        let yaml = format!(
            "
server: {{ listen: ':8443' }}
verifiers:
  app: {{ forward_auth: {{ url: '{url}', subject: body.user }} }}
policies:
  members: {{ origins: any, credentials: [{{ {source}, verifier: app }}] }}
routes:
  - {{ path: /ws, policy: members, upstream: 'ws://127.0.0.1:3000' }}
"
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sockgate.yaml");
        std::fs::write(&path, yaml).unwrap();
        match build(&load_from(&path, []).unwrap(), &Metrics::new().unwrap(), None) {
            Ok(_) => Vec::new(),
            Err(unusable) => unusable.problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_credential_is_not_sent_where_the_endpoints_own_user_goes() {
        let (own, plain) = ("http://ada:canary@127.0.0.1/", "http://127.0.0.1/");
        for source in [
            "header: Authorization",
            "header: authorization, scheme: Basic",
            "subprotocol: bearer.",
            "subprotocol_pair: bearer",
            "message: { token: /token }",
        ] {
            let found = problems(own, source).concat();
            let expected = "policies.members.credentials[0].verifier: goes on as Authorization";
            assert!(found.starts_with(expected) && !found.contains("canary"), "{source}: {found}");
            assert!(problems(plain, source).is_empty(), "{source}");
        }
        for source in ["cookie: sid", "query: token", "header: x-key"] {
            assert_eq!(problems(own, source), [""; 0], "{source}");
        }
    }
}
