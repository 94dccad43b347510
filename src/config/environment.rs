//! `SOCKGATE_<SECTION>__<KEY>`: single keys of `server`, `admin`, `log` and
//! `limits` from the environment. Every other `SOCKGATE_*` is ignored:
//! Kubernetes injects `SOCKGATE_PORT` for a Service of that name.
//!
//! The schema says which keys there are and what each wants, so that a number
//! in a token stays text.

use figment::value::{Dict, Value};
use serde_json::Value as Json;

use super::source::shows_as_key;
use crate::problem::{Problem, suggestion};

const PREFIX: &str = "SOCKGATE_";
const SECTIONS: [&str; 4] = ["server", "admin", "log", "limits"];

/// What the environment puts over the file.
#[derive(Default)]
pub(super) struct Overrides {
    pub(super) values: Dict,
    /// Key path → the variable that set it.
    pub(super) names: Vec<(String, String)>,
    pub(super) problems: Vec<Problem>,
}

/// Whether `variable` overrides a key.
pub(super) fn is_override(variable: &str) -> bool {
    keys(variable).is_some()
}

/// `SOCKGATE_SERVER__TLS__CERT` → `["server", "tls", "cert"]`.
fn keys(variable: &str) -> Option<Vec<String>> {
    let (section, key) = variable.strip_prefix(PREFIX)?.split_once("__")?;
    let section = section.to_ascii_lowercase();
    SECTIONS.contains(&section.as_str()).then(|| {
        let below = key.split("__").map(str::to_ascii_lowercase);
        std::iter::once(section).chain(below).collect()
    })
}

/// Reads the variables; `schema` is that of the whole file.
pub(super) fn overrides(
    schema: &Json,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Overrides {
    let mut overrides = Overrides::default();
    let mut variables: Vec<_> = variables.into_iter().collect();
    variables.sort();
    for (variable, text) in variables {
        let Some(keys) = keys(&variable) else { continue };
        match value(schema, &keys, &text) {
            Ok(value) => {
                insert(&mut overrides.values, &keys, value);
                overrides.names.push((keys.join("."), variable));
            }
            Err(message) => overrides.problems.push(Problem::new(variable, message)),
        }
    }
    overrides
}

fn value(schema: &Json, keys: &[String], text: &str) -> Result<Value, String> {
    let mut place = schema;
    for key in keys {
        let Some(known) = properties(schema, place) else {
            return Err("unknown key; the key before the last `__` is not a table".to_owned());
        };
        place = known.get(key).ok_or_else(|| unknown(key, known.keys().map(String::as_str)))?;
    }
    if let Some(below) = properties(schema, place) {
        let first = below.keys().next().map(|key| key.to_ascii_uppercase()).unwrap_or_default();
        return Err(format!("this key is a table; set its own keys, such as ...__{first}"));
    }
    let kinds = kinds(schema, place);
    let is = |kind: &str| kinds.iter().any(|known| known == kind);
    if is("array") {
        return Ok(list(text));
    }
    match () {
        () if is("string") => Ok(Value::from(text)),
        () if is("boolean") => match text.trim() {
            "true" => Ok(Value::from(true)),
            "false" => Ok(Value::from(false)),
            _ => Err("expected true or false".to_owned()),
        },
        () if is("integer") => match text.trim().parse::<u64>() {
            Ok(number) => Ok(Value::from(number)),
            Err(_) => Err("expected a whole number".to_owned()),
        },
        () => Ok(Value::from(text)),
    }
}

fn unknown<'a>(key: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let key_named = if shows_as_key(key) { format!(" \"{key}\"") } else { String::new() };
    match suggestion(key, known.clone()) {
        none if none.is_empty() => {
            format!("unknown key{key_named} (known: {})", known.collect::<Vec<_>>().join(", "))
        }
        nearest => format!("unknown key{key_named}{nearest}"),
    }
}

/// `a,b` or `[a, b]`.
fn list(text: &str) -> Value {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    // An IPv6 address has brackets of its own: `[::]:80` does not end in one.
    let items = inner.unwrap_or(text).split(',').map(|item| {
        let item = item.trim();
        let quoted = |quote| item.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        quoted('"').or_else(|| quoted('\'')).unwrap_or(item)
    });
    Value::from(items.filter(|item| !item.is_empty()).map(Value::from).collect::<Vec<_>>())
}

fn insert(dict: &mut Dict, keys: &[String], value: Value) {
    match keys {
        [] => {}
        [last] => {
            dict.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let below = dict.entry(first.clone()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, below) = below {
                insert(below, rest, value);
            }
        }
    }
}

/// The keys of `place` and their schemas, unless it can be written as text (as
/// a secret can, though a file may also write it as a table).
fn properties<'a>(schema: &'a Json, place: &'a Json) -> Option<&'a serde_json::Map<String, Json>> {
    if kinds(schema, place).iter().any(|kind| kind == "string") {
        return None;
    }
    forms(schema, place)
        .into_iter()
        .find_map(|form| form.get("properties").and_then(Json::as_object))
}

fn kinds(schema: &Json, place: &Json) -> Vec<String> {
    let mut kinds = Vec::new();
    for form in forms(schema, place) {
        match form.get("type") {
            Some(Json::String(kind)) => kinds.push(kind.clone()),
            Some(Json::Array(several)) => {
                kinds.extend(several.iter().filter_map(Json::as_str).map(str::to_owned));
            }
            _ => {}
        }
    }
    kinds
}

/// `place` and all that it refers to or allows instead.
fn forms<'a>(schema: &'a Json, place: &'a Json) -> Vec<&'a Json> {
    let mut forms = vec![place];
    let mut next = 0;
    while let Some(form) = forms.get(next).copied() {
        next += 1;
        let target = form.get("$ref").and_then(Json::as_str);
        let target = target.and_then(|pointer| schema.pointer(pointer.strip_prefix('#')?));
        forms.extend(target);
        for several in ["anyOf", "oneOf", "allOf"] {
            forms.extend(form.get(several).and_then(Json::as_array).into_iter().flatten());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Overrides {
        let own = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        overrides(&crate::config::schema(), own)
    }

    fn found(variable: &str, text: &str) -> Value {
        let read = read(&[(variable, text)]);
        assert!(read.problems.is_empty(), "{variable}: {:?}", read.problems);
        let path = &read.names[0].0;
        Value::from(read.values).find(path).unwrap()
    }

    #[test]
    fn each_key_gets_a_value_of_its_own_type() {
        assert_eq!(found("SOCKGATE_LIMITS__CONNECTIONS", "50").to_u128(), Some(50));
        assert_eq!(found("SOCKGATE_LIMITS__HEADER_BYTES", "4096").as_str(), Some("4096"));
        assert_eq!(found("SOCKGATE_SERVER__TRUST_FORWARDED_HOST", "true").to_bool(), Some(true));
        let token = "12345678901234567890";
        assert_eq!(found("SOCKGATE_ADMIN__TOKEN", token).as_str(), Some(token));
        assert_eq!(found("SOCKGATE_SERVER__TLS__CERT", "a,b.crt").as_str(), Some("a,b.crt"));
        assert_eq!(found("SOCKGATE_LOG__FORMAT", "text").as_str(), Some("text"));
    }

    #[test]
    fn lists_read_with_and_without_brackets() {
        for text in ["a:1,b:2", "[a:1, b:2]", " a:1 , b:2 ", "[\"a:1\", 'b:2']"] {
            let list = found("SOCKGATE_SERVER__LISTEN", text).into_array().unwrap();
            let list: Vec<_> = list.iter().map(|item| item.as_str().unwrap()).collect();
            assert_eq!(list, ["a:1", "b:2"], "{text}");
        }
        let one = found("SOCKGATE_SERVER__LISTEN", "[::]:80").into_array().unwrap();
        assert_eq!(one[0].as_str(), Some("[::]:80"));
        assert!(found("SOCKGATE_LOG__REDACT", "").into_array().unwrap().is_empty());
    }

    #[test]
    fn other_variables_are_ignored() {
        let read = read(&[
            ("SOCKGATE_PORT", "tcp://10.0.0.1:80"),
            ("SOCKGATE_SERVICE_HOST", "10.0.0.1"),
            ("SOCKGATE_SERVER_PORT_80__X", "1"),
            ("SOCKGATE_ROUTES__0", "x"),
            ("PATH", "/bin"),
        ]);
        assert!(read.problems.is_empty() && read.values.is_empty());
    }

    #[test]
    fn unknown_keys_and_wrong_types_name_the_variable_and_no_value() {
        let cases = [
            ("SOCKGATE_LIMITS__CONECTIONS", "did you mean \"connections\"?"),
            ("SOCKGATE_LIMITS__CONNECTIONS", "expected a whole number"),
            ("SOCKGATE_SERVER__TRUST_FORWARDED_HOST", "expected true or false"),
            ("SOCKGATE_SERVER__TLS", "is a table"),
            ("SOCKGATE_SERVER__TLS__CERTT", "did you mean \"cert\"?"),
            ("SOCKGATE_ADMIN__TOKEN__FILE", "is not a table"),
            ("SOCKGATE_LOG__", "unknown key"),
        ];
        for (variable, expected) in cases {
            let read = read(&[(variable, "hunter2")]);
            let [problem] = &read.problems[..] else { panic!("{variable}") };
            assert_eq!(problem.path, variable);
            assert!(problem.message.contains(expected), "{problem}");
            assert!(!problem.message.contains("hunter2"), "{problem}");
        }
    }
}
