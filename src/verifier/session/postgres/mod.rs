//! Sessions in PostgreSQL: one query, prepared once on each of a few connections,
//! in sessions that can only read.

mod bound;
mod location;
mod statement;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use self::bound::bounded;
pub(super) use self::location::Location;
use self::statement::Prepared;
use super::super::{Unavailable, VerifyError};
use super::signed::django::Django;
use super::sql::{self, Row};
use super::store::{Fetching, Record, Store, VALUE_BYTES};
use crate::clock::UnixSeconds;

/// How many connections there are at most.
const CONNECTIONS: usize = 4;

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
    /// Nobody can answer; and which connections are no good any more.
    Unavailable(Unavailable, Damage),
    /// The row was read, and cannot be used.
    Row(VerifyError),
}

/// Which connections an error tells to give up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// None: the query failed, as it would on any other.
    Query,
    /// The one that was asked on: its plan is out of date, say.
    Connection,
    /// All: the server ends, or is not there.
    Server,
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
            Err(Failure::Unavailable(unavailable, _)) => return Err(unavailable.into()),
            Err(Failure::Row(error)) => return Err(error),
        };
        row.map(|row| sql::record(row, self.django.as_ref())).transpose()
    }

    async fn row(&self, key: &str) -> Result<Option<Row>, Failure> {
        // A connection that idled may be dead, or its plan out of date: then once
        // more on a new one.
        let idle = self.idle().pop();
        if let Some(open) = idle
            && !open.driver.0.is_finished()
        {
            let answer = open.prepared.row(&open.client, key).await;
            match damage(&answer) {
                Damage::Query => {
                    self.idle().push(open);
                    return answer;
                }
                Damage::Connection => {}
                Damage::Server => self.idle().clear(),
            }
        }
        let open = self.open().await.map_err(|no| Failure::Unavailable(no, Damage::Server))?;
        let answer = open.prepared.row(&open.client, key).await;
        if damage(&answer) == Damage::Query {
            self.idle().push(open);
        }
        answer
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Open>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self) -> Result<Open, Unavailable> {
        let stream = self.location.dial().await?;
        let stream = bounded(stream, VALUE_BYTES);
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

/// Class 22, data exceptions. The query is prepared by then, and all that is new
/// to it is the key: it is of no form that the column has, or has a character that
/// the database does not.
const DATA_EXCEPTION: &str = "22";

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        let state = error.code().map(SqlState::code);
        let damage = match state {
            Some(state) if state.starts_with(DATA_EXCEPTION) => return Failure::NoKey,
            None => Damage::Server,
            // The connection, the server's shutdown, its resources.
            Some(state) if ["08", "57P0", "53"].iter().any(|class| state.starts_with(class)) => {
                Damage::Server
            }
            // A plan or a statement that is gone, a standby that replays.
            Some(state) if ["0A", "26", "40"].iter().any(|class| state.starts_with(class)) => {
                Damage::Connection
            }
            Some(_) => Damage::Query,
        };
        Failure::Unavailable(said(&error), damage)
    }
}

fn damage<T>(answer: &Result<T, Failure>) -> Damage {
    match answer {
        Err(Failure::Unavailable(_, damage)) => *damage,
        Ok(_) | Err(Failure::NoKey | Failure::Row(_)) => Damage::Query,
    }
}
