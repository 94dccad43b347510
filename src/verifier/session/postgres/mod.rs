//! Sessions in PostgreSQL: one query, prepared once on each of a few connections,
//! in sessions that can only read.

mod bound;
mod location;
mod statement;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use self::bound::Bounded;
pub(super) use self::location::Location;
use self::statement::Prepared;
use super::super::{Unavailable, VerifyError};
use super::signed::django::Django;
use super::sql;
use super::store::{Fetching, Record, Store, VALUE_BYTES};
use crate::clock::UnixSeconds;

/// How many connections there are at most.
const CONNECTIONS: usize = 4;
/// The largest answer that is read: a row, and what comes around it.
const ANSWER_BYTES: usize = VALUE_BYTES + (64 << 10);

/// Sessions in one database.
pub(super) struct PostgresStore {
    location: Location,
    query: Box<str>,
    /// How long the server works on a query at most.
    timeout: Duration,
    django: Option<Django>,
    places: Semaphore,
    /// Connections that nobody asks on.
    idle: Mutex<Vec<Open>>,
}

/// An open connection with the query prepared. It ends when dropped.
struct Open {
    client: Client,
    prepared: Prepared,
    driver: Driver,
}

/// What moves the bytes of a connection.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a query gave no row.
enum Failure {
    /// The key cannot be one: a UUID of another form, a number out of range.
    NoKey,
    /// Nobody can answer.
    Unavailable(Unavailable),
    /// The row was read, and cannot be used.
    Row(VerifyError),
}

impl PostgresStore {
    pub(super) fn new(
        location: Location,
        query: &str,
        timeout: Duration,
        django: Option<Django>,
    ) -> PostgresStore {
        PostgresStore {
            location,
            query: query.into(),
            timeout,
            django,
            places: Semaphore::new(CONNECTIONS),
            idle: Mutex::default(),
        }
    }

    async fn record(&self, key: &str) -> Result<Option<Record>, VerifyError> {
        let broken = Unavailable("the look-up broke off");
        let _place = self.places.acquire().await.map_err(|_| broken)?;
        let row = match self.row(key).await {
            Ok(row) => row,
            Err(Failure::NoKey) => None,
            Err(Failure::Unavailable(unavailable)) => return Err(unavailable.into()),
            Err(Failure::Row(error)) => return Err(error),
        };
        row.map(|row| sql::record(row, self.django.as_ref())).transpose()
    }

    async fn row(&self, key: &str) -> Result<Option<Map<String, Value>>, Failure> {
        // A connection that idled may be dead, or its plan out of date: then once
        // more on a new one, and no other idle one is any better.
        let idle = self.idle().pop();
        if let Some(open) = idle
            && !open.driver.0.is_finished()
        {
            match open.prepared.row(&open.client, key).await {
                Err(Failure::Unavailable(_)) => self.idle().clear(),
                answer => {
                    self.idle().push(open);
                    return answer;
                }
            }
        }
        let open = self.open().await.map_err(Failure::Unavailable)?;
        let answer = open.prepared.row(&open.client, key).await;
        if !matches!(answer, Err(Failure::Unavailable(_))) {
            self.idle().push(open);
        }
        answer
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Open>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self) -> Result<Open, Unavailable> {
        let stream = self.location.dial().await?;
        let stream = Bounded::new(stream, ANSWER_BYTES);
        let (client, connection) =
            self.location.login.connect_raw(stream, NoTls).await.map_err(|error| said(&error))?;
        let driver = Driver(tokio::spawn(async move {
            // Who asks is told by the client; there is nobody else to tell.
            let _ = connection.await;
        }));
        let milliseconds = self.timeout.as_millis().max(1);
        let settings = format!(
            "SET default_transaction_read_only = on; SET statement_timeout = {milliseconds}; \
             SET datestyle = 'ISO'; SET timezone = 'UTC'"
        );
        client.batch_execute(&settings).await.map_err(|error| said(&error))?;
        let prepared = Prepared::new(&client, &self.query).await?;
        Ok(Open { client, prepared, driver })
    }
}

impl Store for PostgresStore {
    fn fetch<'a>(&'a self, key: &'a str, _: UnixSeconds) -> Fetching<'a> {
        Box::pin(self.record(key))
    }
}

/// The error in words of ours: PostgreSQL's quote the query and values.
fn said(error: &tokio_postgres::Error) -> Unavailable {
    let Some(state) = error.code() else {
        return Unavailable("the connection to PostgreSQL broke, or its answer is none of it");
    };
    let known = [
        (SqlState::INVALID_PASSWORD, "PostgreSQL refuses the user or password of the URL"),
        (
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "PostgreSQL refuses the user or password of the URL",
        ),
        (SqlState::UNDEFINED_DATABASE, "the database of the URL does not exist"),
        (SqlState::UNDEFINED_TABLE, "a table of the query does not exist"),
        (SqlState::UNDEFINED_COLUMN, "a column of the query does not exist"),
        (
            SqlState::INSUFFICIENT_PRIVILEGE,
            "the user of the URL may not read the tables of the query",
        ),
        (SqlState::QUERY_CANCELED, "PostgreSQL does not answer in time"),
        (SqlState::TOO_MANY_CONNECTIONS, "PostgreSQL has no connection left"),
        (SqlState::CANNOT_CONNECT_NOW, "PostgreSQL is starting or stopping"),
        (SqlState::ADMIN_SHUTDOWN, "PostgreSQL is starting or stopping"),
        (SqlState::READ_ONLY_SQL_TRANSACTION, "the query writes, and may only read"),
        (SqlState::SYNTAX_ERROR, "the query is not SQL"),
    ];
    let said = known.into_iter().find(|(code, _)| code == state).map(|(_, said)| said);
    Unavailable(said.unwrap_or("PostgreSQL refuses the query: does it fit the tables?"))
}

/// Whether the error says that the key is of no form that the column has.
fn is_no_key(state: &SqlState) -> bool {
    [
        SqlState::INVALID_TEXT_REPRESENTATION,
        SqlState::INVALID_BINARY_REPRESENTATION,
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        SqlState::INVALID_DATETIME_FORMAT,
        SqlState::DATETIME_FIELD_OVERFLOW,
        SqlState::CHARACTER_NOT_IN_REPERTOIRE,
        SqlState::INVALID_PARAMETER_VALUE,
        SqlState::STRING_DATA_RIGHT_TRUNCATION,
    ]
    .contains(state)
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        match error.code() {
            Some(state) if is_no_key(state) => Failure::NoKey,
            _ => Failure::Unavailable(said(&error)),
        }
    }
}
