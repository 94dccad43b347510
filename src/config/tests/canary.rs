//! Whatever is wrong, no output repeats a value that may be a secret.

use super::*;

const CANARY: &str = "canary-7f3a9c51e2";

/// A file in which every line can be spoilt; `§` marks the places of secrets.
const FILE: &str = "
server:
  listen: 0.0.0.0:8080
admin:
  token: §
limits:
  connections: 5
revocation:
  redis: redis://:§@redis.internal/0
verifiers:
  app:
    jwt:
      issuer: https://user:§@id.example.com
      secret:
        - §
        - §
      algorithms: [HS256]
  other:
    jwt:
      secret: §
      algorithms: [HS256]
  published:
    jwt:
      jwks_url: https://user:§@id.example.com/keys
      audience: any
  opaque:
    introspection:
      url: https://user:§@id.example.com/introspect
      client_id: gate
      client_secret: §
      audience: any
  own:
    forward_auth:
      url: https://user:§@id.example.com/check
      subject: body.user
policies:
  members:
    credentials:
      - query: token
        verifier: [app, other, published, opaque, own]
routes:
  - path: /ws
    policy: members
    upstream: ws://a
";

fn outputs(text: &str, environment: &[(&str, &str)]) -> String {
    match load_text(text, environment) {
        Ok(loaded) => {
            let secrets = loaded.file.verifiers.values().map(|one| {
                let jwt = one.jwt.as_ref().map(|jwt| (&jwt.secret, &jwt.jwks_url));
                (jwt, &one.introspection, &one.forward_auth)
            });
            let secrets: Vec<_> = secrets.collect();
            let (admin, warnings) = (&loaded.file.admin, &loaded.warnings);
            let revocation = &loaded.file.revocation;
            format!("{}{admin:?}{revocation:?}{secrets:?}{warnings:?}", loaded.effective())
        }
        Err(error) => format!("{error}\n{error:?}"),
    }
}

#[test]
fn no_mutation_shows_a_secret() {
    let valid = FILE.replace('§', &format!("{CANARY}{CANARY}"));
    if let Err(error) = load_text(&valid, &[]) {
        panic!("{error}");
    }
    let mut texts = vec![valid.clone()];
    // Other values, types and syntax in the place of each secret.
    let values = [
        format!("[{CANARY}]"),
        format!("{{ {CANARY}: x }}"),
        format!("{{ \"{CANARY} {CANARY}\": x }}"),
        format!("{{ env: [{CANARY}] }}"),
        format!("{{ env: {CANARY}, file: {CANARY} }}"),
        format!("{{ value: {CANARY} }}"),
        format!("[[{CANARY}]]"),
        format!("\"{CANARY}"),
        format!("*{CANARY}"),
        format!("!{CANARY} {CANARY}"),
        format!("!!int {CANARY}"),
        format!("!!binary {CANARY}"),
        format!("{CANARY}: {CANARY}"),
        format!("{{ {CANARY}"),
        format!("%{CANARY}"),
        format!("|\n{CANARY}"),
        format!("{CANARY}\n{CANARY}"),
        format!("{CANARY}\n  token: {CANARY}"),
        "123456789".to_owned(),
    ];
    for (position, _) in FILE.match_indices('§') {
        for value in &values {
            let text =
                format!("{}{value}{}", &FILE[..position], &FILE[position + '§'.len_utf8()..]);
            texts.push(text.replace('§', &format!("{CANARY}{CANARY}")));
        }
    }
    // Each line in turn: a typo in the key, a broken value, one level deeper.
    let all: Vec<&str> = valid.lines().collect();
    for index in 0..all.len() {
        let spoilt = [
            all[index].replacen(':', "x:", 1),
            all[index].replacen(": ", ": [", 1),
            all[index].replacen(':', "", 1),
            format!("  {}", all[index]),
            format!("{}\n{}", all[index], all[index]),
            String::new(),
        ];
        for line in spoilt {
            let mut lines = all.clone();
            lines[index] = &line;
            texts.push(lines.join("\n"));
        }
    }
    assert!(texts.len() > 200, "{}", texts.len());
    let mut refused = 0;
    for text in &texts {
        let output = outputs(text, &[]);
        refused += usize::from(load_text(text, &[]).is_err());
        // `{ env: NAME }` shows the name, and the name of a map is a path.
        let shown = output.contains(CANARY) && !text.contains(&format!("env: {CANARY}"));
        assert!(!shown, "{text}\n---\n{output}");
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn no_variable_shows_a_secret() {
    let values = [
        CANARY.to_owned(),
        format!("{CANARY}{CANARY}"),
        format!("[{CANARY}, {CANARY}]"),
        format!("{{env: {CANARY}}}"),
    ];
    let keys = [
        "ADMIN__TOKEN",
        "ADMIN__TOKENN",
        "ADMIN__TOKEN__ENV",
        "LIMITS__CONNECTIONS",
        "LOG__FORMAT",
        "ADMIN__LISTEN",
        "SERVER__TLS",
        "SERVER__DRAIN",
        "SERVER__TRUSTED_PROXIES",
        "SERVER__LISTEN",
        "LIMITS__UNAUTHENTICATED",
    ];
    for value in &values {
        for key in keys {
            let variable = format!("SOCKGATE_{key}");
            let output = outputs(PUBLIC, &[(&variable, value)]);
            assert!(!output.contains(CANARY), "{variable}: {output}");
        }
    }
}
