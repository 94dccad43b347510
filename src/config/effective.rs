//! What a loaded configuration comes to: as text for `sockgate check`, and as
//! the list of files that a reload watches.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::load::Loaded;
use crate::credential::Sources;
use crate::revocation::RevocationConfig;
use crate::secret::{SecretConfig, without_userinfo};
use crate::unit::OneOrMany;
use crate::verifier::VerifierConfig;

impl Loaded {
    /// The configuration as YAML, defaults written out, secrets masked.
    pub fn effective(&self) -> String {
        let mut file = self.file.clone();
        for policy in file.policies.values_mut().filter(|policy| policy.origins.is_none()) {
            // What holds where nothing is written depends on the credentials.
            let sources = Sources::compile(&policy.credentials);
            let derived = match sources.is_ok_and(|sources| !sources.ambient()) {
                true => "any",
                false => "same",
            };
            policy.origins = Some(OneOrMany(vec![derived.to_owned()]));
        }
        let Ok(mut value) = serde_json::to_value(&file) else { return String::new() };
        mask_userinfo(&mut value);
        serde_saphyr::to_string(&value).unwrap_or_default()
    }

    /// The file itself and every file that it names, absolute.
    pub fn files(&self) -> Vec<PathBuf> {
        let file = &self.file;
        let mut named: Vec<&Path> = Vec::new();
        if let Some(tls) = &file.server.tls {
            named.extend(tls.files());
        }
        named.extend(file.admin.token.as_ref().and_then(SecretConfig::file));
        named.extend(file.revocation.iter().flat_map(RevocationConfig::files));
        named.extend(file.verifiers.values().flat_map(VerifierConfig::files));
        for route in &file.routes {
            if let Some(tls) = route.upstream.as_ref().and_then(|upstream| upstream.tls.as_ref()) {
                let files = [&tls.ca, &tls.client_cert, &tls.client_key];
                named.extend(files.into_iter().filter_map(|file| file.as_deref()));
            }
        }
        let routes = file.routes.iter().filter_map(|route| route.identity.as_ref());
        let identities = std::iter::once(&file.identity).chain(routes);
        let assertions = identities.filter_map(|identity| identity.assertion.as_ref());
        named.extend(assertions.flat_map(|assertion| assertion.files()));
        let own =
            self.path.file_name().map_or_else(|| self.path.clone(), |name| self.base.join(name));
        let mut files = vec![own];
        files.extend(named.into_iter().map(|path| self.base.join(path)));
        files.sort();
        files.dedup();
        files
    }
}

fn mask_userinfo(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(masked) = without_userinfo(text) {
                *text = masked;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask_userinfo),
        Value::Object(entries) => entries.values_mut().for_each(mask_userinfo),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_from;

    fn loaded(yaml: &str) -> Loaded {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sockgate.yaml");
        std::fs::write(&path, yaml).unwrap();
        load_from(&path, []).unwrap()
    }

    const FILE: &str = "
server: { listen: ':8443', tls: { cert: tls.crt, key: /etc/tls.key } }
admin: { token: hunter2hunter2hunter2 }
verifiers:
  app:
    jwt:
      issuer: https://user:hunter2@id.example.com/x
      algorithms: [HS256]
      secret: [hunter2hunter2, { file: old.secret }, { env: NEW }]
  keys: { api_keys: { file: keys.yaml } }
policies:
  members: { credentials: [{ query: token, verifier: [app, keys] }] }
routes:
  - path: /ws
    policy: members
    upstream: { url: 'wss://app', tls: { ca: ca.crt, client_cert: c.crt, client_key: c.key } }
";

    #[test]
    fn the_effective_configuration_masks_secrets_and_shows_defaults() {
        let text = loaded(FILE).effective();
        assert!(!text.contains("hunter2"), "{text}");
        for shown in
            ["connections: 100000", "drain: 25s", "unauthenticated: 10%", "env: NEW", "********"]
        {
            assert!(text.contains(shown), "{shown} in {text}");
        }
        assert!(text.contains("https://********@id.example.com/x"), "{text}");
    }

    #[test]
    fn the_effective_configuration_loads_again() {
        let first = loaded(
            "
server: { listen: 'unix:/run/a.sock' }
routes: [{ path: '/*', policy: public, upstream: 'http://127.0.0.1:3000' }]
",
        )
        .effective();
        assert_eq!(loaded(&first).effective(), first);
    }

    #[test]
    fn every_named_file_is_watched() {
        let loaded = loaded(FILE);
        let in_base =
            ["sockgate.yaml", "tls.crt", "old.secret", "keys.yaml", "ca.crt", "c.crt", "c.key"];
        let mut expected: Vec<PathBuf> =
            in_base.iter().map(|name| loaded.base.join(name)).collect();
        expected.push("/etc/tls.key".into());
        expected.sort();
        assert_eq!(loaded.files(), expected);
    }
}
