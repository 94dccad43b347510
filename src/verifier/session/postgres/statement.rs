//! The query as it is prepared: PostgreSQL itself writes each column as JSON, so
//! that every type that it has is read, and at most two rows come back.

use std::error::Error;
use std::fmt;
use std::pin::pin;

use bytes::BytesMut;
use futures_util::TryStreamExt as _;
use serde_json::Value;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement};

use super::super::sql::{self, Row};
use super::{Failure, said};
use crate::close::Reason;
use crate::json;
use crate::verifier::Unavailable;

/// A prepared query, and the names of its columns.
pub(super) struct Prepared {
    statement: Statement,
    columns: Vec<(String, Form)>,
}

/// How a column comes.
#[derive(Clone, Copy)]
enum Form {
    /// As JSON.
    Json,
    /// As text.
    Text,
    /// As hex digits.
    Bytes,
}

/// A parameter in its text form, whatever its type: PostgreSQL reads it, and says
/// if it cannot be of that type.
struct TextForm<'a>(&'a str);

impl fmt::Debug for TextForm<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }
}

impl ToSql for TextForm<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

impl Prepared {
    /// Asks for the columns of `query`, and prepares it with those written as JSON.
    pub(super) async fn new(client: &Client, query: &str) -> Result<Prepared, Unavailable> {
        let query = query.trim().trim_end_matches(';').trim_end();
        let asked = client.prepare(query).await.map_err(|error| said(&error))?;
        if asked.params().len() != 1 {
            return Err(Unavailable("the query must use $1, and no other parameter"));
        }
        let names: Vec<String> =
            asked.columns().iter().map(|column| column.name().to_owned()).collect();
        if names.is_empty() {
            return Err(Unavailable("the query gives no columns: it must be a SELECT"));
        }
        if sql::distinct(&names).is_err() {
            return Err(Unavailable(
                "two columns of the query have the same name: write `AS` another",
            ));
        }
        let forms: Vec<(String, Form)> = asked
            .columns()
            .iter()
            .enumerate()
            .map(|(index, column)| form(column.type_(), index))
            .collect();
        let aliases: Vec<String> = (0..names.len()).map(|index| format!("c{index}")).collect();
        let shown: Vec<&str> = forms.iter().map(|(shown, _)| shown.as_str()).collect();
        // A comment in the query ends with its line.
        // By the time that it reads $1 here, the server knows its type from the query:
        // of all spellings it prints one.
        let whole = format!(
            "SELECT {}, $1::text FROM (\n{query}\n) AS t({}) LIMIT 2",
            shown.join(", "),
            aliases.join(", ")
        );
        let statement = client.prepare(&whole).await.map_err(|error| said(&error))?;
        let columns = names.into_iter().zip(forms.into_iter().map(|(_, form)| form)).collect();
        Ok(Prepared { statement, columns })
    }

    /// The one row for `key`.
    pub(super) async fn row(&self, client: &Client, key: &str) -> Result<Option<Row>, Failure> {
        let refused = || Failure::Row(Reason::InvalidCredential.into());
        let mut rows = pin!(client.query_raw(&self.statement, [TextForm(key)]).await?);
        let Some(row) = rows.try_next().await? else { return Ok(None) };
        // Nobody keeps what comes after a second one.
        if rows.try_next().await?.is_some() {
            return Err(refused());
        }
        let id: &str = row.try_get(self.columns.len()).map_err(|_| refused())?;
        let mut found = Row { id: self.printed(id).to_owned(), ..Row::default() };
        for (index, (name, form)) in self.columns.iter().enumerate() {
            let text: Option<&str> = row.try_get(index).map_err(|_| refused())?;
            let value = match (text, form) {
                (None, _) => Value::Null,
                (Some(text), Form::Text) => text.into(),
                (Some(text), Form::Bytes) => {
                    found.bytes.push(name.clone());
                    text.into()
                }
                (Some(text), Form::Json) => json::parse(text.as_bytes()).map_err(|_| refused())?,
            };
            found.columns.insert(name.clone(), value);
        }
        Ok(Some(found))
    }

    /// The parameter as PostgreSQL printed it, but for what that does not decide.
    fn printed<'a>(&self, text: &'a str) -> &'a str {
        match self.statement.params() {
            [Type::NUMERIC] => trimmed(text),
            _ => text,
        }
    }
}

/// A numeric in its shortest form: PostgreSQL keeps the zeros that it was given.
fn trimmed(number: &str) -> &str {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    }
}

/// How the column `index` of a type is asked for, and comes.
fn form(kind: &Type, index: usize) -> (String, Form) {
    let column = format!("t.c{index}");
    match *kind {
        // As people write it, and as `expires` reads it: without a zone, it is UTC.
        Type::TIMESTAMP => (format!("{column}::text"), Form::Text),
        Type::BYTEA => (format!("encode({column}, 'hex')"), Form::Bytes),
        Type::JSON | Type::JSONB => (format!("{column}::text"), Form::Json),
        _ => (format!("to_json({column})::text"), Form::Json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numeric_has_one_spelling() {
        for (text, expected) in
            [("12.50", "12.5"), ("7.00", "7"), ("700", "700"), ("-0.10", "-0.1"), ("NaN", "NaN")]
        {
            assert_eq!(trimmed(text), expected);
        }
    }
}
