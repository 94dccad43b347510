//! What SQLite and PostgreSQL share: the columns of a row as JSON.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::super::{Unavailable, VerifyError};
use super::signed::django::Django;
use super::store::Record;
use crate::close::Reason;
use crate::hex::hex;

/// The column that Django signs.
const SESSION_DATA: &str = "session_data";

/// One column of one row.
pub(super) enum Cell<'a> {
    Null,
    Integer(i64),
    Real(f64),
    /// UTF-8, if the database keeps its word.
    Text(&'a [u8]),
    /// Hex digits, as CEL sees it.
    Bytes(&'a [u8]),
}

/// The JSON of a column.
pub(super) fn value(cell: Cell<'_>) -> Result<Value, VerifyError> {
    Ok(match cell {
        Cell::Null => Value::Null,
        Cell::Integer(number) => number.into(),
        // Infinities have no JSON.
        Cell::Real(number) => number.into(),
        Cell::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|_| Reason::InvalidCredential)?;
            Value::from(text)
        }
        Cell::Bytes(bytes) => Value::String(hex(bytes)),
    })
}

/// A row as its columns come.
#[derive(Default)]
pub(super) struct Row {
    /// `$1`, in the one spelling that the database has for it.
    pub(super) id: String,
    pub(super) columns: Map<String, Value>,
    /// The names of those that hold bytes.
    pub(super) bytes: Vec<String>,
}

/// Refuses columns of the same name: which of them decides would be chance.
pub(super) fn distinct(names: &[String]) -> Result<(), VerifyError> {
    let mut seen = HashSet::new();
    if names.iter().all(|name| seen.insert(name)) {
        return Ok(());
    }
    Err(Unavailable("two columns of the query have the same name: write `AS` another").into())
}

/// The row as CEL sees it; with `django`, `session_data` is what Django signed, and
/// its members stand in the row as well where no column has their name.
pub(super) fn record(row: Row, django: Option<&Django>) -> Result<Record, VerifyError> {
    let Row { id, mut columns, bytes } = row;
    if let Some(django) = django {
        let Some(column) = columns.get_mut(SESSION_DATA) else {
            return Err(Unavailable("the query must give the column session_data").into());
        };
        let Value::String(text) = &*column else { return Err(Reason::InvalidCredential.into()) };
        let session = django.session(text.as_bytes()).map_err(|_| Reason::InvalidCredential)?;
        *column = session.value.clone();
        if let Value::Object(members) = session.value {
            for (name, member) in members {
                columns.entry(name).or_insert(member);
            }
        }
    }
    Ok(Record { id: Some(id), value: Value::Object(columns), bytes, ends: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::signed::django::DATABASE_SALT;
    use super::*;
    use crate::secret::Secret;

    fn read(cell: Cell<'_>) -> Value {
        value(cell).ok().unwrap()
    }

    #[test]
    fn every_kind_of_column_has_a_json_form() {
        assert_eq!(read(Cell::Null), Value::Null);
        assert_eq!(read(Cell::Integer(i64::MAX)), json!(i64::MAX));
        assert_eq!(read(Cell::Real(1.5)), json!(1.5));
        assert_eq!(read(Cell::Real(f64::INFINITY)), Value::Null);
        assert_eq!(read(Cell::Text("ä".as_bytes())), json!("ä"));
        assert_eq!(read(Cell::Bytes(&[0, 255, 16])), json!("00ff10"));
        assert!(value(Cell::Text(b"\xff")).is_err());
    }

    #[test]
    fn what_django_signed_stands_in_its_column_and_beside_the_others() {
        // Made by Django 5.2: {"_auth_user_id": "7", "n": 1}.
        let signed = "eyJfYXV0aF91c2VyX2lkIjoiNyIsIm4iOjF9:1r31eq:\
                      aMZ1Wb029tyqK-rUZK1VF5d2HdUF79Dv2xOtNu3st2o";
        let django = Django::new(&[Secret::new("canary-django")], DATABASE_SALT);
        let row = |columns: Value| Row {
            columns: columns.as_object().unwrap().clone(),
            ..Row::default()
        };
        let read = |columns| record(row(columns), Some(&django)).map(|record| record.value);
        let value = read(json!({"session_data": signed, "n": "a column"})).ok().unwrap();
        assert_eq!(value["session_data"], json!({"_auth_user_id": "7", "n": 1}));
        assert_eq!(value["_auth_user_id"], "7");
        assert_eq!(value["n"], "a column", "a session cannot pass for what the query says");
        assert!(read(json!({"session_data": "e30:0:AAAA"})).is_err());
        assert!(read(json!({"data": signed})).is_err());
    }

    #[test]
    fn columns_of_one_name_are_refused() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(distinct(&names(&["id", "ID"])).is_ok());
        assert!(distinct(&names(&["id", "name", "id"])).is_err());
    }
}
