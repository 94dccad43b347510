//! API keys: hashed in a file, shown as they are.

use tempfile::TempDir;

use super::support::{
    Gate, Recipe, Request, SECRET, Upstream, canary, run, run_with_input, token, unix_now,
};

fn hash(key: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn start(keys: &str, upstream: &Upstream) -> Gate {
    let directory = TempDir::new().expect("a directory");
    std::fs::write(directory.path().join("keys.yaml"), keys).expect("written");
    let config = format!(
        r#"
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
  keys: {{ api_keys: {{ file: keys.yaml }} }}
policies:
  members:
    credentials: [{{ header: authorization, verifier: [app, keys] }}]
identity:
  headers:
    X-Forwarded-User: identity.subject
    X-Method: identity.method
    X-Verifier: identity.verifier
    X-Plan: identity.claims.plan
routes:
  - {{ name: chat, path: "/ws/*", policy: members, upstream: "{}" }}
"#,
        upstream.ws()
    );
    Gate::start_in(directory, &config, &[])
}

#[test]
fn a_known_key_admits_as_its_subject_with_its_claims() {
    let upstream = Upstream::start();
    let key = canary("canary-api-key-0123456789abcdef");
    let keys = format!("- {{ sha256: {}, subject: acme, claims: {{ plan: gold }} }}\n", hash(&key));
    let gate = start(&keys, &upstream);
    Request::upgrade("/ws/a").bearer(&key).open(gate.address()).echoes("hello");
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("acme"));
    assert_eq!(seen.header("x-verifier"), Some("keys"));
    assert_eq!(seen.header("x-plan"), Some("gold"));
}

#[test]
fn of_several_verifiers_the_one_that_knows_the_shape_decides() {
    let upstream = Upstream::start();
    let key = canary("canary-api-key-among-verifiers-01");
    let gate = start(&format!("- {{ sha256: {}, subject: acme }}\n", hash(&key)), &upstream);
    Request::upgrade("/ws/a").bearer(&key).open(gate.address()).echoes("hello");
    assert_eq!(upstream.last().header("x-verifier"), Some("keys"));
    Request::upgrade("/ws/a").bearer(&token("alice")).open(gate.address()).echoes("hello");
    assert_eq!(upstream.last().header("x-verifier"), Some("app"));
    assert_eq!(upstream.last().header("x-plan"), None);
}

#[test]
fn unknown_and_expired_keys_are_refused() {
    let upstream = Upstream::start();
    let key = canary("canary-api-key-that-has-expired-1");
    let keys =
        format!("- {{ sha256: {}, subject: acme, expires: {} }}\n", hash(&key), unix_now() - 10);
    let gate = start(&keys, &upstream);
    let expired = Request::upgrade("/ws/expired").bearer(&key).closed(gate.address());
    assert_eq!(expired.says(), (4002, "Session expired"));
    assert_eq!(gate.reason("/ws/expired"), "expired");
    let unknown = canary("canary-api-key-that-nobody-knows1");
    for key in [unknown.as_str(), &hash(&key), &format!("{key} ")] {
        let closed = Request::upgrade("/ws/unknown").bearer(key).closed(gate.address());
        if key.trim() == key {
            assert_eq!(closed.says(), (4001, "Unauthorized"));
        }
    }
    assert_eq!(gate.reason("/ws/unknown"), "invalid_credential");
    upstream.saw_nothing();
}

#[test]
fn a_key_that_expires_closes_the_live_connection() {
    let upstream = Upstream::start();
    let key = canary("canary-api-key-that-will-expire-1");
    let at = unix_now() + 4;
    let keys = format!("- {{ sha256: {}, subject: acme, expires: {at} }}\n", hash(&key));
    let gate = start(&keys, &upstream);
    let mut socket = Request::upgrade("/ws/a").bearer(&key).open(gate.address());
    socket.echoes("hello");
    assert_eq!(socket.closed().says(), (4002, "Session expired"));
    assert!(unix_now() >= at);
}

#[test]
fn hash_key_makes_the_entry_that_admits_the_key() {
    let upstream = Upstream::start();
    let key = canary("canary-api-key-hashed-by-command1");
    let outcome = run_with_input(&["hash-key"], &[], &format!("{key}\n"));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stdout.contains(&hash(&key)), "{outcome:?}");
    assert!(!outcome.stdout.contains(&key));
    let gate = start(&as_entry(&outcome.stdout), &upstream);
    Request::upgrade("/ws/a").bearer(&key).open(gate.address()).echoes("hello");
}

#[test]
fn hash_key_generates_a_key_of_256_bits_on_stderr() {
    let upstream = Upstream::start();
    let outcome = run(&["hash-key", "--generate"], &[]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let key = outcome.stderr.split_whitespace().max_by_key(|word| word.len()).expect("a key");
    assert!(key.len() >= 43, "256 bits take 43 characters of base64: {key}");
    let again = run(&["hash-key", "--generate"], &[]);
    assert_ne!(again.stderr, outcome.stderr);
    let gate = start(&as_entry(&outcome.stdout), &upstream);
    Request::upgrade("/ws/a").bearer(&canary(key)).open(gate.address()).echoes("hello");
}

#[test]
fn the_recipe_works_as_written() {
    let upstream = Upstream::start();
    let recipe = Recipe::read("api-keys.md");
    let page = recipe.file("keys.yaml");
    let keys = ["canary-key-of-acme-in-the-recipe1", "canary-key-of-globex-in-the-recip"];
    let mut ours = String::new();
    let mut next = keys.iter();
    for line in page.lines() {
        match line.split_once("sha256: ") {
            Some((start, _)) => {
                let key = canary(next.next().expect("two keys"));
                ours.push_str(&format!("{start}sha256: {}\n", hash(&key)));
            }
            None => ours.push_str(&format!("{line}\n")),
        }
    }
    let directory = recipe.directory();
    std::fs::write(directory.path().join("keys.yaml"), ours).expect("written");
    let gate = recipe.start_in(directory, &[("ws://127.0.0.1:3000", &upstream.ws())], &[]);
    let [acme, globex] = keys;
    for request in [
        Request::upgrade("/ws/a").bearer(acme),
        Request::upgrade("/ws/a").header("X-Api-Key", acme),
        Request::upgrade("/ws/a").header("Authorization", &basic(acme)),
    ] {
        request.open(gate.address()).echoes("hello");
        let seen = upstream.last();
        assert_eq!(seen.header("x-forwarded-user"), Some("acme"));
        assert_eq!(seen.header("x-plan"), Some("gold"));
        assert_eq!(seen.header("x-api-key"), None);
    }
    let closed = Request::upgrade("/ws/a").bearer(globex).closed(gate.address());
    assert_eq!(closed.says(), (4003, "Forbidden"));
}

/// HTTP Basic without a user name.
fn basic(key: &str) -> String {
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!(":{key}"));
    format!("Basic {}", canary(&pair))
}

/// The printed entry, with whatever subject it proposes, as a whole file.
fn as_entry(stdout: &str) -> String {
    let line = stdout.trim();
    if line.starts_with('-') { format!("{line}\n") } else { format!("- {line}\n") }
}
