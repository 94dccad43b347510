//! Files that are refused, each with every line that is said about it.

use super::*;

/// What every case may build on.
const HEAD: &str = "
server: { listen: 0.0.0.0:8080 }
verifiers: { app: { jwt: { jwks_file: keys.json } } }
policies: { members: { credentials: [{ query: token, verifier: app }] } }
";
const ROUTE: &str = "
routes: [{ path: /ws, policy: members, upstream: 'ws://a' }]
";

/// A name, a file (`HEAD` and `ROUTE` stand for the above), and its problems.
const CASES: &[(&str, &str, &[&str])] = &[
    ("every problem at once", "
server: { listen: 8080, drian: 5s, threads: many }
limits: { conections: 5, auth_timeout: soon }
log: { format: xml }
routes:
  - { path: /ws, policy: mebers, upstream: 'ws://a' }
policies: { members: { anonymous: yes, credentials: [] } }
", &[
        "limits.auth_timeout: expected a duration such as 250ms, 10s, 5m, 12h or 30d (0 = none)",
        "limits.conections: unknown key; did you mean \"connections\"?",
        "log.format: expected json or text",
        "policies.members.anonymous: expected true or false, found text",
        "server.drian: unknown key; did you mean \"drain\"?",
        "server.listen: expected text, found a number; put it in quotes",
        "server.threads: expected a whole number, found text",
        "routes[0].policy: no policy named \"mebers\" (defined: members, public, deny; did you mean \"members\"?)",
    ]),
    ("what is required", "
routes: [{ name: x }]
", &["routes[0].path: is required", "server: is required", "routes[0].policy: is required"]),
    ("no route", "HEAD routes: []", &["routes: needs at least one route: without one everything is 404"]),
    ("no key alike", "HEAD ROUTE zzz: 1", &[
        "zzz: unknown key (known: server, admin, log, limits, identity, revocation, verifiers, policies, routes)"]),
    ("keys of later versions", "
server: { listen: ':80', http2: true, proxy_protocol: false, tls: { cert: a, key: b, client_ca: c } }
verifiers:
  app: { jwt: { jwks_url: 'https://x', timeout: 3s } }
policies:
  m:
    credentials:
      - { client_cert: cn, verifier: app }
      - { message: { format: nats }, verifier: app }
routes:
  - { path: /l, policy: deny }
  - { path: /v, policy: m, upstream: { url: 'tcp://a:1', frames: binary } }
  - { path: /w, policy: m, upstream: 'unix:/run/x' }
", &[
        "policies.m.credentials[0].client_cert: unknown key \"client_cert\"; this version does not have it yet",
        "routes[1].upstream.frames: unknown key \"frames\"; this version does not have it yet",
        "server.http2: unknown key \"http2\"; this version does not have it yet",
        "server.proxy_protocol: unknown key \"proxy_protocol\"; this version does not have it yet",
        "server.tls.client_ca: unknown key \"client_ca\"; this version does not have it yet",
        "routes[1].upstream: raw upstreams (tcp:) are unknown; this version does not have them yet",
        "routes[2].upstream: raw upstreams (unix:) are unknown; this version does not have them yet",
    ]),
    ("shapes with several forms", "
server: { listen: [':80', 5], trusted_proxies: [10.0.0.1, 10.0.0.0/8, x] }
admin: { token: { vault: x } }
verifiers:
  app: { jwt: { secret: [5, { env: 5 }, { env: A, file: b }], algorithms: [HS265, RS256, none] } }
policies:
  m:
    credentials:
      - { query: t, verifier: app, forward: stripp }
      - { query: u, verifier: app, forward: { rewrit: x } }
      - { query: v, verifier: [app, 5], forward: 5 }
      - { header: authorization, scheme: bearer, verifier: app }
    origins: { a: b }
    reject: 1
    codes: { expired: 70000 }
    lifetime: []
routes:
  - { path: 5, policy: m, upstream: { tls: { ca: 5 } } }
  - { path: /a, policy: m, upstream: 5 }
  - { path: /b, policy: m, upstream: 'ws://a', limits: { connections: 5, message_bytes: big } }
  - 5
", &[
        "admin.token: expected exactly one of {env: NAME} or {file: PATH}",
        "policies.m.codes.expired: expected a whole number from 0 to 65535, found a number",
        "policies.m.credentials[0].forward: expected false, true, strip or {rewrite: CEL}, found text",
        "policies.m.credentials[1].forward.rewrit: unknown key; did you mean \"rewrite\"?",
        "policies.m.credentials[1].forward.rewrite: is required",
        "policies.m.credentials[2].forward: expected false, true, strip or {rewrite: CEL}, found a number",
        "policies.m.credentials[2].verifier[1]: expected text, found a number; put it in quotes",
        "policies.m.credentials[3].scheme: expected Bearer, Basic or none; did you mean \"Bearer\"?",
        "policies.m.lifetime: expected a table of keys, found a list",
        "policies.m.origins: expected text, found a table",
        "policies.m.reject: expected close or http",
        "routes[0].path: expected text, found a number; put it in quotes",
        "routes[0].upstream.tls.ca: expected the path of a file as text, found a number; put it in quotes",
        "routes[0].upstream.url: is required",
        "routes[1].upstream: expected a URL, or a table with `url` and `tls`, found a number",
        "routes[2].limits.connections: unknown key; this limit holds for the whole process: set it in the top-level `limits`",
        "routes[2].limits.message_bytes: expected a size such as 512, 16KiB or 1MiB (0 = none)",
        "routes[3]: expected a table of keys, found a number",
        "server.listen[1]: expected text, found a number; put it in quotes",
        "server.trusted_proxies[0]: expected a network such as 10.0.0.0/8 or 10.1.2.3/32",
        "server.trusted_proxies[2]: expected a network such as 10.0.0.0/8 or 10.1.2.3/32",
        "verifiers.app.jwt.algorithms[0]: expected HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA; did you mean \"HS256\"?",
        "verifiers.app.jwt.algorithms[2]: expected HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA",
        "verifiers.app.jwt.secret[0]: expected a secret: a string, {env: NAME} or {file: PATH}, found a number; put it in quotes",
        "verifiers.app.jwt.secret[1].env: expected text, found a number; put it in quotes",
        "verifiers.app.jwt.secret[2]: expected exactly one of {env: NAME} or {file: PATH}",
    ]),
    ("listeners", "
server: { listen: [':80', '0.0.0.0:80', 'x', '127.0.0.1:9090', 'unix:/a', 'unix:/a'] }
routes: [{ path: /, policy: deny }]
", &[
        "server.listen[1]: overlaps with another address of the list",
        "server.listen[2]: expected host:port, such as 0.0.0.0:8080 or [::]:8080, or unix:/path/to.sock",
        "admin.listen: overlaps with server.listen[3]; admin is never on the main port",
        "server.listen[5]: overlaps with another address of the list",
    ]),
    ("admin", "
server: { listen: ':80' }
admin: { listen: 'unix:/a', token: { env: SOCKGATE_SURELY_UNSET } }
routes: [{ path: /, policy: deny }]
", &[
        "admin.listen: expected host:port, such as 127.0.0.1:9090",
        "admin.token: environment variable SOCKGATE_SURELY_UNSET is not set",
    ]),
    ("limits", "HEAD ROUTE limits: { connections: 0, header_bytes: 2MiB, header_timeout: 0, stall_timeout: 0s }", &[
        "limits.connections: must be at least 1",
        "limits.header_bytes: must be 1KiB to 1MiB",
        "limits.header_timeout: must be more than 0",
        "limits.stall_timeout: must be more than 0",
    ]),
    ("verifiers", "
server: { listen: ':80' }
verifiers:
  both: { jwt: { jwks_file: a }, api_keys: { file: b } }
  none: {}
  'a b': {}
routes: [{ path: /, policy: deny }]
", &[
        "verifiers.both: has exactly one kind, but found jwt and api_keys",
        "verifiers.\"a b\": needs exactly one kind: jwt, api_keys, session, introspection, forward_auth or ticket",
        "verifiers.none: needs exactly one kind: jwt, api_keys, session, introspection, forward_auth or ticket",
    ]),
    ("logouts", "
server: { listen: 'a:1' }
verifiers:
  app: { jwt: { secret: 0123456789abcdef0123456789abcdef, algorithms: [HS256], issuer: i, audience: web } }
  all: { jwt: { secret: 0123456789abcdef0123456789abcdef, algorithms: [HS256] } }
  keys: { api_keys: { file: keys.yaml } }
policies:
  m: { credentials: [{ cookie: session, verifier: [app, all, keys] }] }
routes:
  - { path: /a, backchannel_logout: app }
  - { path: /b, backchannel_logout: ap }
  - { path: /c, backchannel_logout: keys }
  - { path: /d, backchannel_logout: all }
  - { path: /e, backchannel_logout: app, upstream: 'ws://a' }
  - { path: /f, backchannel_logout: app, ticket: app, policy: m }
  - { path: /g, upstream: 'ws://a' }
", &[
        "routes[1].backchannel_logout: no verifier named \"ap\" (defined: all, app, keys; did you mean \"app\"?)",
        "routes[2].backchannel_logout: the verifier \"keys\" has no issuer who could tell: its kind is not jwt",
        "routes[3].backchannel_logout: a logout token is made out to the client that logs in, and \"all\" has no `audience`: add the client id to it, or write `any`",
        "routes[4].backchannel_logout: a route has exactly one of upstream, ticket and backchannel_logout: make two routes",
        "routes[5].ticket: the verifier \"app\" issues no tickets: its kind is not ticket",
        "routes[5].backchannel_logout: a route has exactly one of upstream, ticket and backchannel_logout: make two routes",
        "routes[6].policy: is required",
    ]),
    ("tickets", "
server: { listen: ':80' }
verifiers:
  app: { jwt: { jwks_file: a } }
  t: { ticket: {} }
policies:
  cookies: { credentials: [{ cookie: s, verifier: [t, app] }] }
  queries: { credentials: [{ query: t, verifier: t }, { cookie: s, verifier: t }] }
  messages: { credentials: [{ query: t, verifier: app }, { message: { token: /t }, verifier: app }] }
routes:
  - { path: /a, policy: cookies, ticket: t }
  - { path: /b, policy: cookies, ticket: tt }
  - { path: /c, policy: cookies, ticket: app }
  - { path: /d, policy: cookies, ticket: t, upstream: 'ws://a' }
  - { path: /e, policy: queries, ticket: t }
  - { path: /f, policy: messages, ticket: t }
  - { path: /g, policy: public, ticket: t }
  - { path: /h, policy: deny, ticket: t }
", &[
        "routes[1].ticket: no verifier named \"tt\" (defined: app, t; did you mean \"t\"?)",
        "routes[2].ticket: the verifier \"app\" issues no tickets: its kind is not ticket",
        "routes[3].ticket: a route has exactly one of upstream and ticket: make two routes",
        "routes[4].policy: nobody could fetch a ticket: \"queries\" has no cookie or header credential (query parameters, subprotocols, messages and tickets themselves do not count here)",
        "routes[5].policy: nobody could fetch a ticket: \"messages\" has no cookie or header credential (query parameters, subprotocols, messages and tickets themselves do not count here)",
        "routes[6].policy: nobody could fetch a ticket: a ticket stands for whoever shows a cookie or a header, so the policy needs such a credential",
        "routes[7].policy: nobody could fetch a ticket: a ticket stands for whoever shows a cookie or a header, so the policy needs such a credential",
    ]),
    ("policies", "
server: { listen: ':80' }
verifiers: { app: { jwt: { jwks_file: a } } }
policies:
  public: { anonymous: true }
  empty: { reject: http }
  m:
    credentials:
      - { message: { token: /t }, verifier: ap }
      - { query: t, verifier: [] }
    codes: { unauthorized: 2999, expired: 3000, forbidden: 5000 }
routes: [{ path: /, policy: m, upstream: 'ws://a' }]
", &[
        "policies.m.credentials[0].message: must be the last credential: it is read after all others",
        "policies.m.credentials[0].verifier: no verifier named \"ap\" (defined: app; did you mean \"app\"?)",
        "policies.m.codes.unauthorized: must be 3000 to 4999, the close codes of applications (RFC 6455 section 7.4.2), not 2999",
        "policies.m.codes.forbidden: must be 3000 to 4999, the close codes of applications (RFC 6455 section 7.4.2), not 5000",
        "policies.public: \"public\" is built in; give this policy another name",
        "policies.empty: nobody could pass: give it credentials, `anonymous: true`, or use the policy \"deny\"",
        "policies.m.credentials[1].verifier: needs at least one verifier",
    ]),
    ("lifetimes", "
server: { listen: ':80' }
verifiers: { app: { jwt: { jwks_file: a } }, t: { ticket: {} } }
policies:
  m:
    credentials: [{ query: t, verifier: app }]
    lifetime: { refresh: { where: { /type: auth }, token: /token, verifier: [ap, t] } }
  n:
    credentials: [{ query: t, verifier: app }]
    lifetime: { refresh: { where: [], verifier: [] } }
  o: { credentials: [{ query: t, verifier: app }], lifetime: { refresh: { tokn: /t }, recheck: 500ms } }
routes: [{ path: /, policy: m, upstream: 'ws://a' }]
", &[
        "policies.n.lifetime.refresh.token: is required",
        "policies.n.lifetime.refresh.where: expected a table of keys, found a list",
        "policies.o.lifetime.refresh.token: is required",
        "policies.o.lifetime.refresh.tokn: unknown key; did you mean \"token\"?",
        "policies.o.lifetime.refresh.verifier: is required",
        "policies.m.lifetime.refresh.verifier[0]: no verifier named \"ap\" (defined: app, t; did you mean \"app\"?)",
        "policies.m.lifetime.refresh.verifier: \"t\" verifies tickets, and a ticket opens one connection: name the verifier of the logins that tickets are fetched with",
        "policies.o.lifetime.recheck: must be at least 1s, or 0 for never",
        "policies.n.lifetime.refresh.verifier: needs at least one verifier",
    ]),
    ("upstreams", "HEAD
routes:
  - { path: /a, policy: members }
  - { path: /b, policy: members, upstream: 'ftp://a' }
  - { path: /c, policy: members, upstream: 'ws://user:pw@a' }
  - { path: /d, policy: members, upstream: 'ws://a?x=1' }
  - { path: /e, policy: members, upstream: 'tcp://a:1' }
  - { path: /f, policy: members, upstream: { url: 'ws://a', tls: { client_cert: c } } }
  - { path: /g, policy: members, upstream: { url: 'wss://a', tls: { client_key: c } } }
  - { name: x, path: /h, policy: members, upstream: 'ws+unix:run/x' }
  - { name: x, path: [], policy: members, upstream: 'ws://a:0' }
", &[
        "routes[1].upstream: expected a URL that begins with ws:, wss:, http:, https:, ws+unix:, http+unix:",
        "routes[2].upstream: a user or password has no meaning here: leave it out",
        "routes[3].upstream: a query or fragment has no meaning here: leave it out",
        "routes[4].upstream: raw upstreams (tcp:) are unknown; this version does not have them yet",
        "routes[5].upstream.tls: is only for wss: and https: upstreams",
        "routes[5].upstream.tls.client_key: is required with client_cert",
        "routes[6].upstream.tls.client_cert: is required with client_key",
        "routes[7].upstream: expected ws+unix:/path/to.sock",
        "routes[8].name: \"x\" is the name of routes[7] already",
        "routes[8].upstream: the port must be 1 to 65535",
        "routes[0]: needs an upstream: only the policy \"deny\" does without",
        "routes[8].path: needs at least one path",
    ]),
    ("a public way around a guard", "HEAD
routes:
  - { path: /a, policy: members, upstream: 'ws://localhost:3000' }
  - { path: /b, policy: members, upstream: 'http+unix:/run/a' }
  - { path: /c, policy: public, upstream: 'ws://[::1]:3000' }
  - { path: /d, policy: public, upstream: 'http://127.0.0.1:3000' }
  - { path: /e, policy: public, upstream: 'ws+unix:/run/a' }
  - { path: /f, policy: public, upstream: 'ws://127.0.0.1:3000', shared_upstream: true }
  - { path: /g, policy: public, upstream: 'ws://127.0.0.1:3001' }
", &[
        "routes[2].upstream: anybody could open a WebSocket to the server that routes[0] guards: use an http: upstream here, a policy with credentials, or `shared_upstream: true`",
        "routes[4].upstream: anybody could open a WebSocket to the server that routes[1] guards: use an http: upstream here, a policy with credentials, or `shared_upstream: true`",
    ]),
    ("nothing is defined", "
server: { listen: ':80' }
policies: { m: { credentials: [{ query: t, verifier: app }] } }
routes: [{ path: /, policy: m, upstream: 'ws://a' }]
", &["policies.m.credentials[0].verifier: no verifier named \"app\" (none is defined)"]),
    ("a value in the place of a key", "HEAD ROUTE admin: { 'token my secret': }", &[
        "admin: a key of this table is unknown (known: listen, token)"]),
];

#[test]
fn every_invalid_file_gets_its_problems() {
    assert!(CASES.len() > 10);
    for (name, yaml, expected) in CASES {
        let text = yaml.replace("HEAD ", HEAD).replace("HEAD", HEAD).replace("ROUTE ", ROUTE);
        let told = match load_text(&text, &[]) {
            Ok(_) => Vec::new(),
            Err(error) => lines(&error),
        };
        let told: Vec<&str> = told
            .iter()
            .map(|line| line.strip_prefix("sockgate.yaml: ").expect("every line names the file"))
            .collect();
        assert!(!expected.is_empty());
        assert_eq!(told, *expected, "{name}: {told:#?}");
    }
}

#[test]
fn a_problem_is_one_line() {
    let text = format!("{PUBLIC}'a\nb': 1\nidentity: {{ headers: {{ \"X\\nY\": 5 }} }}\n");
    let error = load_text(&text, &[]).unwrap_err();
    assert_eq!(lines(&error).len(), error.problems.len());
}

#[test]
fn many_problems_end() {
    let keys: String = (0..5000).map(|n| format!("  key{n}: 1\n")).collect();
    let error = load_text(&format!("{PUBLIC}limits:\n{keys}"), &[]).unwrap_err();
    assert!((2..200).contains(&error.problems.len()), "{}", error.problems.len());
}
