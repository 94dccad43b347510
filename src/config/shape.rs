//! The shape of a file: reads the tree into [`FileConfig`] and gathers every
//! unknown key, wrong type and missing key on the way. serde stops at the
//! first; so each is noted, patched over, and reading starts again.

use figment::value::{Dict, Value};

use super::file::FileConfig;
use super::read::{FaultKind, KeyPath, Patch, Step, read};
use super::source::shows_as_key;
use crate::problem::suggestion;

/// No file shows more problems than this at once.
const MOST: usize = 100;

/// What a tree says, as far as it can be read.
pub(super) struct Shape {
    /// With neutral values in the place of broken ones; none if that failed.
    pub(super) file: Option<FileConfig>,
    /// What is wrong, with the way there, in the order of the way.
    pub(super) faults: Vec<(KeyPath, String)>,
}

impl Shape {
    /// Whether a fault already noted is at `path` or above it.
    pub(super) fn broke(&self, path: &str) -> bool {
        self.faults.iter().any(|(fault, _)| leads_to(&fault.to_string(), path))
    }

    /// Whether a fault already noted is at `path`, above it or below it.
    pub(super) fn touched(&self, path: &str) -> bool {
        self.broke(path) || self.faults.iter().any(|(fault, _)| leads_to(path, &fault.to_string()))
    }
}

/// Whether the key path `above` is `below` or leads to it.
pub(super) fn leads_to(above: &str, below: &str) -> bool {
    match below.strip_prefix(above) {
        Some(rest) => above.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']),
        None => false,
    }
}

/// Reads the tree.
pub(super) fn shape(tree: &Dict) -> Shape {
    let mut patch = Patch::default();
    absent(tree, &mut patch);
    let mut faults: Vec<(KeyPath, String)> = Vec::new();
    while faults.len() < MOST {
        let fault = match read::<FileConfig>(tree, &patch) {
            Ok(file) => {
                faults.sort();
                return Shape { file: Some(file), faults };
            }
            Err(fault) => fault,
        };
        let path = match &fault.kind {
            FaultKind::Missing(field) => fault.path().key(field),
            FaultKind::Type { .. }
            | FaultKind::Message(_)
            | FaultKind::UnknownField(_)
            | FaultKind::UnknownVariant(..) => fault.path(),
        };
        let own = !patch.neutral.iter().chain(&patch.skipped).any(|above| above.leads_to(&path));
        if own {
            faults.push(told(&path, &fault.kind));
        }
        if !cover(&mut patch, path, &fault.kind) {
            break;
        }
    }
    faults.sort();
    Shape { file: None, faults }
}

/// Patches one fault over, more bluntly if it comes back; false when there is
/// nothing left to try.
fn cover(patch: &mut Patch, path: KeyPath, kind: &FaultKind) -> bool {
    match kind {
        FaultKind::Missing(_) => patch.neutral.insert(path),
        FaultKind::UnknownField(_) => patch.skipped.insert(path),
        FaultKind::Type { .. } | FaultKind::Message(_) | FaultKind::UnknownVariant(..) => {
            let listed = matches!(path.0.last(), Some(Step::Index(_)));
            if !listed && !patch.skipped.contains(&path) && patch.neutral.insert(path.clone()) {
                return true;
            }
            patch.neutral.remove(&path);
            patch.skipped.insert(path)
        }
    }
}

/// The words that the contract shows for "not there".
pub(super) const ABSENT: &[(&str, &str)] = &[
    ("server.tls", "none"),
    ("admin.token", "none"),
    ("identity.assertion", "none"),
    ("revocation", "none"),
    ("revocation.redis", "none"),
    ("revocation.ca", "system"),
    ("routes.[].identity.assertion", "none"),
    ("verifiers.*.jwt.typ", "none"),
    ("verifiers.*.jwt.ca", "system"),
    ("verifiers.*.session.ca", "system"),
    ("verifiers.*.session.cookie_signature", "none"),
    ("verifiers.*.session.cookie_format", "none"),
    ("verifiers.*.introspection.ca", "system"),
    ("verifiers.*.forward_auth.ca", "system"),
    ("verifiers.*.ticket.ca", "system"),
    ("policies.*.require", "none"),
    ("policies.*.reject_message", "none"),
    ("policies.*.accept_message", "none"),
    ("routes.[].upstream.proxy_protocol", "none"),
    ("routes.[].upstream.preamble", "none"),
    ("policies.*.lifetime.refresh", "none"),
    ("routes.[].upstream.tls.ca", "system"),
    ("routes.[].upstream.tls.client_cert", "none"),
    ("routes.[].upstream.tls.client_key", "none"),
];

fn absent(tree: &Dict, patch: &mut Patch) {
    fn walk(value: &Value, path: KeyPath, patch: &mut Patch) {
        match value {
            Value::Dict(_, dict) => {
                for (key, value) in dict {
                    walk(value, path.key(key), patch);
                }
            }
            Value::Array(_, items) => {
                for (index, item) in items.iter().enumerate() {
                    walk(item, path.child(Step::Index(index)), patch);
                }
            }
            Value::String(_, word) => {
                if ABSENT.iter().any(|(place, absent)| absent == word && path.matches(place)) {
                    patch.skipped.insert(path);
                }
            }
            Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..) => {}
        }
    }
    for (key, value) in tree {
        walk(value, KeyPath::default().key(key), patch);
    }
}

fn told(path: &KeyPath, kind: &FaultKind) -> (KeyPath, String) {
    let message = match kind {
        FaultKind::Missing(_) => "is required".to_owned(),
        FaultKind::Message(message) if message.starts_with("invalid IP address") => {
            format!("expected {NETWORK}")
        }
        FaultKind::Message(message) => message.clone(),
        FaultKind::Type { found, expected } => {
            let wanted = readable(expected);
            let quote = match (*found, wanted.contains("text") || wanted.contains("string")) {
                ("a number" | "true or false", true) => "; put it in quotes",
                _ => "",
            };
            format!("expected {wanted}, found {found}{quote}")
        }
        FaultKind::UnknownVariant(word, known) => {
            format!("expected {}{}", one_of(known), suggestion(word, known.iter().copied()))
        }
        FaultKind::UnknownField(known) => return unknown_key(path, known),
    };
    (path.clone(), message)
}

fn unknown_key(path: &KeyPath, known: &[&str]) -> (KeyPath, String) {
    let Some((Step::Key(key), above)) = path.0.split_last() else {
        return (path.clone(), "unknown key".to_owned());
    };
    if !shows_as_key(key) {
        // Perhaps a value in the place of a key, and that value a secret.
        let message = format!("a key of this table is unknown (known: {})", known.join(", "));
        return (KeyPath(above.to_vec()), message);
    }
    let message = if LATER.iter().any(|(place, keys)| {
        KeyPath(above.to_vec()).matches_any(place) && keys.contains(&key.as_str())
    }) {
        format!("unknown key \"{key}\"; this version does not have it yet")
    } else if path.matches("routes.[].limits.*") && PROCESS_LIMITS.contains(&key.as_str()) {
        "unknown key; this limit holds for the whole process: set it in the top-level `limits`"
            .to_owned()
    } else {
        match suggestion(key, known.iter().copied()) {
            none if none.is_empty() => format!("unknown key (known: {})", known.join(", ")),
            nearest => format!("unknown key{nearest}"),
        }
    };
    (path.clone(), message)
}

impl KeyPath {
    fn matches_any(&self, pattern: &str) -> bool {
        if pattern.is_empty() { self.0.is_empty() } else { self.matches(pattern) }
    }
}

const PROCESS_LIMITS: [&str; 4] =
    ["connections", "unauthenticated", "header_timeout", "header_bytes"];

/// Keys of the product that this version refuses by name.
const LATER: &[(&str, &[&str])] = &[("server", &["http2"])];

const NETWORK: &str = "a network such as 10.0.0.0/8 or 10.1.2.3/32";

/// What serde calls a type, in the words of somebody who writes a file.
fn readable(expected: &str) -> String {
    let words = match expected {
        "a string" => "text",
        "path string" => "the path of a file as text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table of keys",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number",
        "IPv4 or IPv6 network address" => NETWORK,
        other if other.starts_with("struct ") => "a table of keys",
        other => other,
    };
    words.to_owned()
}

fn one_of(known: &[&str]) -> String {
    match known {
        [] => "nothing".to_owned(),
        [only] => (*only).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}
