//! The signed assertion, verified by the JWT libraries of other languages with
//! the keys that admin serves.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{Gate, Recipe, Request, SECRET, Token, Upstream, eventually, token, unix_now};

const JWKS: &str = "/.well-known/sockgate/jwks.json";
const HEADER: &str = "x-sockgate-assertion";

/// Every form of key that is accepted: route, how OpenSSL makes it, `alg`.
const KEYS: &[(&str, &str, &str)] = &[
    ("p256", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", "ES256"),
    ("p384", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384", "ES384"),
    ("sec1", "ecparam -name prime256v1 -genkey", "ES256"),
    ("sec1-384", "ecparam -name secp384r1 -genkey -noout", "ES384"),
    ("ed25519", "genpkey -algorithm ED25519", "EdDSA"),
    ("rsa", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048", "RS256"),
    ("pkcs1", "genrsa -traditional 3072", "RS256"),
];

fn openssl(arguments: &str, out: &Path) {
    let output = Command::new("openssl").args(arguments.split(' ')).output().expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(out, output.stdout).expect("written");
}

fn key(directory: &TempDir, name: &str) {
    let (_, how, _) = KEYS.iter().find(|(known, ..)| *known == name).expect("a kind");
    openssl(how, &directory.path().join(format!("{name}.pem")));
}

/// `app` in front of the upstream, with more routes and the section `identity`.
fn config(upstream: &Upstream, identity: &str, routes: &str) -> String {
    format!(
        r#"
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  members: {{ credentials: [{{ header: authorization, verifier: app }}] }}
  guests: {{ anonymous: true, credentials: [{{ header: authorization, verifier: app }}] }}
identity: {identity}
routes:
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{ws}" }}
  - {{ name: guests, path: "/guests/*", policy: guests, upstream: "{http}" }}
  - {{ name: open, path: "/open/*", policy: public, upstream: "{http}" }}
{routes}
"#,
        ws = upstream.ws(),
        http = upstream.http(),
    )
}

/// The Python that has pyjwt.
fn python() -> String {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python3");
    python.display().to_string()
}

/// What `program` prints for each of `tokens`: its claims, or `refused`.
fn judged(program: &str, script: &str, gate: &Gate, tokens: &[String]) -> Vec<Value> {
    let output = Command::new(program)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(script))
        .arg(format!("http://{}{JWKS}", gate.admin()))
        .args(tokens)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error} (tests/run setup installs it)"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    let verdicts: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(verdicts.len(), tokens.len(), "{said}");
    verdicts
}

fn by_both(gate: &Gate, tokens: &[String]) -> Vec<Value> {
    let node = judged("node", "assertion.mjs", gate, tokens);
    let python = judged(&python(), "assertion.py", gate, tokens);
    assert_eq!(node, python, "left: jose, right: pyjwt");
    node
}

/// The assertion with which the upstream saw `request`.
#[track_caller]
fn asserted(gate: &Gate, upstream: &Upstream, request: &Request) -> String {
    assert_eq!(request.send(gate.address()).status, 200);
    upstream.last().header(HEADER).expect("an assertion").to_owned()
}

#[test]
fn other_languages_verify_every_kind_of_key() {
    let upstream = Upstream::start();
    let directory = TempDir::new().expect("a directory");
    let mut routes = String::new();
    for (name, ..) in KEYS {
        key(&directory, name);
        routes.push_str(&format!(
            "  - {{ name: {name}, path: /{name}, policy: members, upstream: \"{}\", identity: {{ \
             assertion: {{ key: {{ file: {name}.pem }}, audience: chat, claims: [name, roles, \
             nope] }} }} }}\n",
            upstream.http()
        ));
    }
    let gate = Gate::start_in(directory, &config(&upstream, "{}", &routes), &[]);
    let alice =
        Token::of("alice").claim("name", "Alice \u{5c71}").claim("roles", json!(["a", "b"]));
    let alice = alice.claim("sid", "session-1").claim("extra", "x").sign();
    let tokens: Vec<String> = KEYS
        .iter()
        .map(|(name, ..)| {
            asserted(&gate, &upstream, &Request::get(&format!("/{name}")).bearer(&alice))
        })
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    for ((name, _, algorithm), verdict) in KEYS.iter().zip(by_both(&gate, &tokens)) {
        assert_eq!(verdict["header"]["alg"], *algorithm, "{verdict}");
        assert_eq!(verdict["header"]["typ"], "sockgate+jwt");
        let mut claims = verdict["claims"].clone();
        let (issued, expires) = (claims["iat"].take(), claims["exp"].take());
        assert_eq!(claims["nbf"].take(), issued);
        let issued = issued.as_i64().expect("seconds");
        assert!((unix_now() - 30..=unix_now()).contains(&issued), "{issued}");
        assert_eq!(expires, issued + 60);
        assert!(seen.insert(claims["jti"].take().to_string()), "a jti twice");
        assert_eq!(
            claims,
            json!({
                "iss": "sockgate", "aud": "chat", "sub": "alice", "name": "Alice \u{5c71}",
                "roles": ["a", "b"], "sid": "session-1", "route": name, "iat": null, "nbf": null,
                "exp": null, "jti": null,
            })
        );
    }
    // The signature of one under the claims of another, and one letter changed.
    let [first, second, ..] = tokens.as_slice() else { panic!("many tokens") };
    let mixed = format!(
        "{}.{}",
        first.rsplit_once('.').expect("a JWS").0,
        second.rsplit_once('.').expect("a JWS").1
    );
    for verdict in by_both(&gate, &[mixed, first.replace("eyJ", "eyK")]) {
        assert_eq!(verdict, "refused");
    }
}

#[test]
fn an_assertion_goes_with_upgrades_and_plain_requests_of_whoever_is_known() {
    let upstream = Upstream::start();
    let directory = TempDir::new().expect("a directory");
    key(&directory, "ed25519");
    let identity = "{ assertion: { key: { file: ed25519.pem }, audience: [chat, feed] } }";
    let gate = Gate::start_in(directory, &config(&upstream, identity, ""), &[]);
    let soon = Token::of("alice").expires_in(20);
    let until = unix_now() + 20;
    Request::upgrade("/ws/a").bearer(&soon.sign()).open(gate.address()).echoes("hello");
    let upgrade = upstream.last().header(HEADER).expect("an assertion").to_owned();
    let plain = asserted(&gate, &upstream, &Request::get("/ws/b").bearer(&token("bob")));
    let verdicts = by_both(&gate, &[upgrade, plain]);
    assert_eq!(verdicts[0]["claims"]["sub"], "alice");
    assert_eq!(verdicts[0]["claims"]["aud"], json!(["chat", "feed"]));
    let ends = verdicts[0]["claims"]["exp"].as_i64().expect("seconds");
    assert!((until..=until + 1).contains(&ends), "{ends} is not the end of the login, {until}");
    assert_eq!(verdicts[1]["claims"]["sub"], "bob");
    for nobody in ["/guests/a", "/open/a"] {
        let spoofed = Request::get(nobody)
            .header("X-Sockgate-Assertion", "forged")
            .header("X_Sockgate_Assertion", "forged");
        assert_eq!(spoofed.send(gate.address()).status, 200);
        let seen = upstream.last();
        assert_eq!(seen.headers(HEADER), Vec::<&str>::new(), "{nobody}");
        assert_eq!(seen.headers("x_sockgate_assertion"), Vec::<&str>::new(), "{nobody}");
    }
    let known = Request::get("/guests/a").bearer(&token("carol")).header(HEADER, "forged");
    assert!(asserted(&gate, &upstream, &known).starts_with("eyJ"));
}

#[test]
fn the_header_of_another_routes_assertion_is_no_clients_either() {
    let upstream = Upstream::start();
    let directory = TempDir::new().expect("a directory");
    key(&directory, "p256");
    let route = format!(
        "  - {{ path: /signed, policy: members, upstream: \"{}\", identity: {{ assertion: {{ \
         header: X-Signed, key: {{ file: p256.pem }}, audience: chat }} }} }}\n",
        upstream.http()
    );
    let gate = Gate::start_in(directory, &config(&upstream, "{}", &route), &[]);
    let request = Request::get("/open/a").header("x-signed", "forged").header("X_Signed", "forged");
    assert_eq!(request.send(gate.address()).status, 200);
    assert!(upstream.last().headers("x-signed").is_empty());
    assert!(upstream.last().headers("x_signed").is_empty());
}

#[test]
fn the_keys_are_open_and_hold_nothing_private() {
    let upstream = Upstream::start();
    let gate = Gate::start(&format!(
        "admin: {{ listen: \"127.0.0.1:0\", token: {SECRET} }}\n{}",
        config(&upstream, "{}", "")
    ));
    let none = gate.ask(JWKS);
    assert_eq!((none.status, none.text().as_str()), (200, r#"{"keys":[]}"#));
    assert_eq!(none.header("content-type"), Some("application/jwk-set+json"));
    let posted = Request::new("POST", JWKS).header("Connection", "close").send(gate.admin());
    assert_eq!(posted.status, 405);
    assert_eq!(Request::get(JWKS).send(gate.address()).status, 404, "never on the main port");
}

#[test]
fn of_a_list_the_first_key_signs_and_a_rotation_loses_nobody() {
    let upstream = Upstream::start();
    let directory = TempDir::new().expect("a directory");
    for name in ["p256", "rsa"] {
        key(&directory, name);
    }
    let with = |keys: &str| {
        let identity = format!("{{ assertion: {{ key: {keys}, audience: chat }} }}");
        config(&upstream, &identity, "")
    };
    let (old, new) = ("{ file: p256.pem }", "{ file: rsa.pem }");
    let gate = Gate::start_in(directory, &with(&format!("[{old}, {new}]")), &[]);
    let ids = |gate: &Gate| -> Vec<String> {
        let set = gate.ask(JWKS).json();
        let keys = set["keys"].as_array().expect("keys");
        assert!(keys.iter().all(|key| key["d"].is_null()), "{set}");
        keys.iter().map(|key| key["kid"].as_str().expect("an id").to_owned()).collect()
    };
    let [first, second] = <[String; 2]>::try_from(ids(&gate)).expect("two keys");
    let request = Request::get("/ws/a").bearer(&token("alice"));
    let before = asserted(&gate, &upstream, &request);

    gate.rewrite(&with(&format!("[{new}, {old}]")));
    eventually("the order has changed", || ids(&gate) == [second.clone(), first.clone()]);
    let after = asserted(&gate, &upstream, &request);
    let verdicts = by_both(&gate, &[before, after.clone()]);
    assert_eq!(verdicts[0]["header"]["kid"], first);
    assert_eq!(verdicts[1]["header"]["kid"], second);

    // A new content of the same file is a new key.
    openssl(KEYS[0].1, &gate.directory().join("rsa.pem"));
    eventually("the new content is read", || !ids(&gate).contains(&second));
    assert_eq!(by_both(&gate, &[after])[0], "refused");

    // A bad one changes nothing.
    let live = ids(&gate);
    std::fs::write(gate.directory().join("rsa.pem"), "no key").expect("written");
    gate.line("of a failed reload", |line| line.to_string().contains("not a PEM private key"));
    assert_eq!(ids(&gate), live);
}

#[test]
fn sockgate_takes_no_assertion_as_a_credential() {
    let upstream = Upstream::start();
    let directory = TempDir::new().expect("a directory");
    key(&directory, "p256");
    let identity = "{ assertion: { key: { file: p256.pem }, audience: chat } }";
    let gate = Gate::start_in(directory, &config(&upstream, identity, ""), &[]);
    let assertion = asserted(&gate, &upstream, &Request::get("/ws/a").bearer(&token("alice")));
    // A second gate that trusts the very keys of the first.
    let directory = TempDir::new().expect("a directory");
    std::fs::write(directory.path().join("jwks.json"), gate.ask(JWKS).text()).expect("written");
    let trusting = format!(
        r#"
verifiers:
  first: {{ jwt: {{ jwks_file: jwks.json, issuer: sockgate, audience: [chat] }} }}
policies:
  members: {{ credentials: [{{ header: authorization, verifier: first }}] }}
routes:
  - {{ path: "/ws/*", policy: members, upstream: "{}" }}
"#,
        upstream.ws()
    );
    let second = Gate::start_in(directory, &trusting, &[]);
    let closed = Request::upgrade("/ws/second").bearer(&assertion).closed(second.address());
    assert_eq!(closed.says(), (4001, "Unauthorized"));
    assert_eq!(second.reason("/ws/second"), "invalid_credential");
}

#[test]
fn the_recipe_works_as_written() {
    let upstream = Upstream::start();
    let recipe = Recipe::read("assertion.md");
    let places =
        [("ws://127.0.0.1:3000", upstream.ws()), ("127.0.0.1:9090", "127.0.0.1:0".to_owned())];
    let places = places.each_ref().map(|(written, here)| (*written, here.as_str()));
    let gate = recipe.start_in(recipe.directory(), &places, &[("JWT_SECRET", SECRET)]);
    let alice = Token::of("alice").claim("name", "Alice").sign();
    Request::upgrade("/ws/a").bearer(&alice).open(gate.address()).echoes("hello");
    let token = upstream.last().header(HEADER).expect("an assertion").to_owned();

    let programs = TempDir::new().expect("a directory");
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/node_modules");
    std::os::unix::fs::symlink(modules, programs.path().join("node_modules")).expect("a link");
    for file in ["verify.mjs", "verify.py"] {
        let text = recipe.file(file).replace("127.0.0.1:9090", &gate.admin().to_string());
        std::fs::write(programs.path().join(file), text).expect("written");
    }
    let node = "import { whoIs } from './verify.mjs'; \
                console.log((await whoIs({ 'x-sockgate-assertion': process.argv[1] })).name)";
    let script =
        "import sys, verify; print(verify.who_is({'x-sockgate-assertion': sys.argv[1]})['name'])";
    // Not the last letter of the signature: some of its bits mean nothing.
    let (signed, signature) = token.rsplit_once('.').expect("a JWS");
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let other = format!("{signed}.{first}{}", &signature[1..]);
    for (program, arguments) in
        [("node", ["--input-type=module", "-e", node].as_slice()), (&python(), &["-c", script])]
    {
        for (token, expected) in [(&token, Some("Alice")), (&other, None)] {
            let output = Command::new(program)
                .args(arguments)
                .arg(token)
                .current_dir(programs.path())
                .output()
                .expect("it runs");
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            assert_eq!(output.status.success(), expected.is_some(), "{program}: {output:?}");
            assert_eq!(said, expected.unwrap_or_default(), "{program}");
        }
    }
}
