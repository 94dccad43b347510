//! The JSON Schema of the file (draft 2020-12), for editors and `sockgate schema`.

use serde_json::{Map, Value, json};

use super::file::FileConfig;
use super::shape::ABSENT;

/// The schema of the whole file.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(FileConfig).to_value();
    for (place, word) in ABSENT {
        for pointer in pointers(&schema, place) {
            if let Some(place) = schema.pointer_mut(&pointer) {
                allow(place, word);
            }
        }
    }
    if let Some(top) = schema.as_object_mut() {
        let mut titled = Map::new();
        for key in ["$schema", "title"] {
            titled.extend(top.shift_remove_entry(key));
        }
        titled.insert("title".to_owned(), Value::from("sockgate configuration"));
        titled.append(top);
        *top = titled;
    }
    schema
}

/// Where `schema` tells of the key at `place` (JSON Pointers, RFC 6901): once for each
/// form that what is above it can have.
fn pointers(schema: &Value, place: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for step in place.split('.') {
        let below = match step {
            "*" => "/additionalProperties".to_owned(),
            "[]" => "/items".to_owned(),
            key => format!("/properties/{key}"),
        };
        found = found
            .into_iter()
            .flat_map(|pointer| forms(schema, pointer))
            .map(|form| form + &below)
            .filter(|pointer| schema.pointer(pointer).is_some())
            .collect();
    }
    found
}

/// The schemas that the one at `pointer` stands for.
fn forms(schema: &Value, pointer: String) -> Vec<String> {
    let Some(at) = schema.pointer(&pointer) else { return Vec::new() };
    if let Some(reference) = at.get("$ref").and_then(Value::as_str) {
        return forms(schema, reference.trim_start_matches('#').to_owned());
    }
    let choices = ["anyOf", "oneOf"].into_iter().filter_map(|kind| Some((kind, at.get(kind)?)));
    let choices: Vec<String> = choices
        .flat_map(|(kind, forms)| {
            let count = forms.as_array().map_or(0, Vec::len);
            (0..count).map(move |index| format!("/{kind}/{index}"))
        })
        .flat_map(|below| forms(schema, format!("{pointer}{below}")))
        .collect();
    if choices.is_empty() { vec![pointer] } else { choices }
}

/// Lets `word` stand where `schema` takes no text anyway.
fn allow(schema: &mut Value, word: &str) {
    let takes_text = match schema.get("type") {
        Some(Value::Array(types)) => types.contains(&json!("string")),
        Some(one) => one == "string",
        None => false,
    };
    let Some(whole) = schema.as_object_mut().filter(|_| !takes_text) else { return };
    let word = json!({ "const": word });
    match whole.get_mut("anyOf").and_then(Value::as_array_mut) {
        // A type that stands in two places has been here before.
        Some(forms) if forms.contains(&word) => {}
        Some(forms) => forms.push(word),
        None => {
            let description = whole.shift_remove_entry("description");
            let other = std::mem::take(whole);
            whole.extend(description);
            whole.insert("anyOf".to_owned(), json!([other, word]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_for_what_is_not_there_are_in_the_schema() {
        let schema = schema();
        for (place, word) in ABSENT {
            let places = pointers(&schema, place);
            assert!(!places.is_empty(), "{place}");
            for pointer in places {
                let told = schema.pointer(&pointer).unwrap();
                let text = told["type"].to_string().contains("string");
                let words = told["anyOf"].to_string();
                assert!(text || words.contains(&format!("{{\"const\":\"{word}\"}}")), "{told}");
            }
        }
    }
}
