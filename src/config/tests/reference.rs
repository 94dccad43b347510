//! `config/reference.yaml` and `config/minimal.yaml` against the types.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::{load_from, schema};
use super::*;

const REFERENCE: &str = include_str!("../../../config/reference.yaml");
const MINIMAL: &str = include_str!("../../../config/minimal.yaml");
const MARK: &str = "#e.g.";

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// Every key path of the schema; `*` for the names of a map, lists unmarked.
fn known(schema: &Value, place: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(pointer) = place.get("$ref").and_then(Value::as_str) {
        if pointer.ends_with("/Secret") {
            return;
        }
        known(schema, schema.pointer(pointer.strip_prefix('#').unwrap()).unwrap(), path, found);
    }
    for several in ["anyOf", "oneOf", "allOf"] {
        for form in place.get(several).and_then(Value::as_array).into_iter().flatten() {
            known(schema, form, path, found);
        }
    }
    if let Some(items) = place.get("items") {
        known(schema, items, path, found);
    }
    if let Some(values) = place.get("additionalProperties").filter(|values| values.is_object()) {
        known(schema, values, &format!("{path}.*"), found);
    }
    for (key, below) in place.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{key}");
        known(schema, below, &path, found);
        found.insert(path);
    }
}

/// Every key path written; names of maps become `*`.
fn written_keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    const MAPS: [&str; 6] = [
        ".verifiers",
        ".policies",
        ".identity.headers",
        ".routes.identity.headers",
        ".policies.*.credentials.message.where",
        ".policies.*.lifetime.refresh.where",
    ];
    const SECRETS: &[&str] = &[
        ".identity.assertion.key",
        ".routes.identity.assertion.key",
        ".admin.token",
        ".verifiers.*.jwt.secret",
        ".verifiers.*.introspection.client_secret",
        ".verifiers.*.session.value.django.secrets",
        ".verifiers.*.session.cookie_signature.secrets",
        ".verifiers.*.session.cookie_format.secrets",
    ];
    match value {
        Value::Object(entries) if !SECRETS.contains(&path) => {
            for (key, below) in entries {
                let named = MAPS.contains(&path);
                let path = format!("{path}.{}", if named { "*" } else { key });
                written_keys(below, &path, found);
                if !named {
                    found.insert(path);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| written_keys(item, path, found)),
        _ => {}
    }
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let schema = schema();
    let (mut known_keys, mut written) = (BTreeSet::new(), BTreeSet::new());
    known(&schema, &schema, "", &mut known_keys);
    written_keys(&yaml(&REFERENCE.replace(MARK, "")), "", &mut written);
    assert!(known_keys.len() > 80, "{}", known_keys.len());
    let missing: Vec<_> = known_keys.difference(&written).collect();
    let unknown: Vec<_> = written.difference(&known_keys).collect();
    assert!(missing.is_empty(), "not in reference.yaml: {missing:?}");
    assert!(unknown.is_empty(), "not in the types: {unknown:?}");
}

#[test]
fn the_reference_loads_with_and_without_its_examples() {
    let plain = written("reference.yaml", REFERENCE);
    let loaded = load_from(&plain.path, []).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let full = written("reference.yaml", &REFERENCE.replace(MARK, ""));
    for secret in ["admin.token", "introspection.secret"] {
        std::fs::write(full.path.with_file_name(secret), "0123456789abcdef\n").unwrap();
    }
    if let Err(error) = load_from(&full.path, []) {
        panic!("{error}");
    }
}

#[test]
fn the_reference_shows_the_defaults() {
    let reference = written("reference.yaml", REFERENCE);
    let shown = load_from(&reference.path, []).unwrap().file;
    let bare = "
server: { listen: 0.0.0.0:8080 }
verifiers: { app: { jwt: { secret: { env: JWT_SECRET }, algorithms: [HS256] } } }
policies: { members: { credentials: [{ cookie: session, verifier: app }] } }
routes: [{ path: /ws/*, policy: members, upstream: 'wss://chat.internal' }]
";
    let bare = load_text(bare, &[]).unwrap().file;
    for section in ["server", "admin", "log", "limits", "identity", "verifiers"] {
        let of = |file| serde_json::to_value(file).unwrap()[section].clone();
        assert_eq!(of(&shown), of(&bare), "{section}");
    }
    let of = |file: &super::super::FileConfig| {
        let mut policy = serde_json::to_value(&file.policies["members"]).unwrap();
        let policy = policy.as_object_mut().unwrap();
        policy.remove("credentials");
        // The default depends on the credentials and is not in the type.
        policy.remove("origins");
        let mut route = serde_json::to_value(&file.routes[0]).unwrap();
        for example in ["name", "host", "upstream"] {
            route.as_object_mut().unwrap().remove(example);
        }
        (policy.clone(), route)
    };
    assert_eq!(of(&shown), of(&bare));
    // Not only what the values come to: each default stands there as a key.
    let text = yaml(REFERENCE);
    for (section, written) in serde_json::to_value(&bare).unwrap().as_object().unwrap() {
        if ["server", "admin", "log", "limits"].contains(&section.as_str()) {
            for key in written.as_object().unwrap().keys() {
                assert!(text[section].get(key).is_some(), "{section}.{key}");
            }
        }
    }
}

#[test]
fn the_smallest_file_loads() {
    let minimal = written("minimal.yaml", MINIMAL);
    let loaded = load_from(&minimal.path, []).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.file.policies["members"].credentials.len(), 3);
}

#[test]
fn every_property_of_the_schema_is_described() {
    fn walk(value: &Value, path: &str, bare: &mut Vec<String>, seen: &mut usize) {
        match value {
            Value::Object(entries) => {
                for (key, below) in entries {
                    let path = format!("{path}/{key}");
                    if key == "properties" {
                        for (name, property) in below.as_object().unwrap() {
                            *seen += 1;
                            if property.get("description").is_none() {
                                bare.push(format!("{path}/{name}"));
                            }
                        }
                    }
                    walk(below, &path, bare, seen);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, path, bare, seen)),
            _ => {}
        }
    }
    let schema = schema();
    let (mut bare, mut seen) = (Vec::new(), 0);
    walk(&schema, "", &mut bare, &mut seen);
    assert!(seen > 80, "{seen}");
    assert!(bare.is_empty(), "{bare:?}");
    assert_eq!(schema["title"], "sockgate configuration");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(schema.get("$id").is_none());
}
