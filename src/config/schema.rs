//! The JSON Schema of the file (draft 2020-12), for editors and `sockgate schema`.

use serde_json::{Map, Value};

use super::file::FileConfig;

/// The schema of the whole file.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(FileConfig).to_value();
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
