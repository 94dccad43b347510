//! Sessions in a SQLite file that somebody else writes: opened read-only, in
//! whatever journal mode it is, and asked on threads that may block.
//!
//! An id is bound as text. To a column of numbers SQLite compares it as a number, of
//! which there are many spellings: one that is not SQLite's own is refused where
//! that number, too, finds a row.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};
use tokio::sync::Semaphore;

use super::super::{Unavailable, VerifyError};
use super::signed::django::Django;
use super::sql::{self, Cell, Row};
use super::store::{Fetching, Record, Store, VALUE_BYTES};
use crate::clock::UnixSeconds;
use crate::close::Reason;

/// How many look-ups read at once; the others wait.
const READERS: usize = 4;
/// How many steps of SQLite's machine a reader makes before it asks whether anybody
/// still waits.
const STEPS: i32 = 1000;

/// Sessions in one file.
pub(super) struct SqliteStore {
    file: Arc<File>,
    readers: Arc<Semaphore>,
    django: Option<Django>,
}

/// What a reader needs, on its own thread.
struct File {
    path: PathBuf,
    query: Box<str>,
    timeout: Duration,
    /// Connections that nobody reads with.
    idle: Mutex<Vec<Open>>,
}

/// An open connection, and which file it has open: one that was replaced is
/// another.
struct Open {
    connection: Connection,
    identity: (u64, u64),
}

impl SqliteStore {
    pub(super) fn new(
        path: PathBuf,
        query: &str,
        timeout: Duration,
        django: Option<Django>,
    ) -> SqliteStore {
        let file = File { path, query: query.into(), timeout, idle: Mutex::default() };
        SqliteStore { file: Arc::new(file), readers: Arc::new(Semaphore::new(READERS)), django }
    }

    async fn record(&self, key: &str) -> Result<Option<Record>, VerifyError> {
        let broken = Unavailable("the look-up broke off");
        let place = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| broken)?;
        let file = Arc::clone(&self.file);
        let key = key.to_owned();
        // Whoever waits may be gone before the thread is done; then it stops soon.
        let unwanted = Arc::new(AtomicBool::new(false));
        let guard = Guard(Arc::clone(&unwanted));
        let reading = tokio::task::spawn_blocking(move || {
            let _place = place;
            file.row(&key, unwanted)
        });
        let row = reading.await.map_err(|_| broken)?;
        drop(guard);
        match row? {
            Some(row) => sql::record(row, self.django.as_ref()).map(Some),
            None => Ok(None),
        }
    }
}

impl Store for SqliteStore {
    fn fetch<'a>(&'a self, key: &'a str, _: UnixSeconds) -> Fetching<'a> {
        Box::pin(self.record(key))
    }
}

/// Tells a reader, when dropped, that nobody waits for it any more.
struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl File {
    fn row(&self, key: &str, unwanted: Arc<AtomicBool>) -> Result<Option<Row>, VerifyError> {
        let mut open = self.open()?;
        // Asked as the query runs: an interrupt that comes before it would be lost.
        let stops = move || unwanted.load(Ordering::Relaxed);
        open.connection
            .progress_handler(STEPS, Some(stops))
            .map_err(|error| unavailable(&error))?;
        let row = one_row(&open.connection, &self.query, key);
        if row.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(open);
        }
        row
    }

    /// An idle connection to the file that is there now, or a new one.
    fn open(&self) -> Result<Open, Unavailable> {
        let absent = |_| Unavailable("the SQLite file cannot be opened");
        let there = std::fs::metadata(&self.path).map_err(absent)?;
        // To open a pipe takes as long as nobody writes into it.
        if !there.is_file() {
            return Err(Unavailable("the SQLite file is no regular file"));
        }
        let identity = (there.dev(), there.ino());
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|open| open.identity == identity);
        if let Some(open) = idle.pop() {
            return Ok(open);
        }
        drop(idle);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opening = || {
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(self.timeout)?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(Open { connection, identity })
        };
        opening().map_err(|error: rusqlite::Error| unavailable(&error))
    }
}

fn one_row(connection: &Connection, query: &str, key: &str) -> Result<Option<Row>, VerifyError> {
    let failed = |error: rusqlite::Error| VerifyError::from(unavailable(&error));
    let mut statement = connection.prepare(query).map_err(failed)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    sql::distinct(&names)?;
    if statement.parameter_count() != 1 {
        return Err(Unavailable("the query must use $1, and no other parameter").into());
    }
    let mut rows = statement.query([key]).map_err(failed)?;
    let Some(row) = rows.next().map_err(failed)? else { return Ok(None) };
    let mut found = Row { id: key.to_owned(), ..Row::default() };
    let mut size = 0;
    for (index, name) in names.into_iter().enumerate() {
        let cell = cell(row.get_ref(index).map_err(failed)?, &mut size)?;
        if let Cell::Bytes(_) = cell {
            found.bytes.push(name.clone());
        }
        found.columns.insert(name, sql::value(cell)?);
    }
    if rows.next().map_err(failed)?.is_some() {
        return Err(Reason::InvalidCredential.into());
    }
    drop(rows);
    if let Some(number) = other_spelling(connection, key).map_err(failed)?
        && statement.exists([number]).map_err(failed)?
    {
        return Err(Reason::InvalidCredential.into());
    }
    Ok(Some(found))
}

/// The number that `key` is to SQLite, if it writes that otherwise.
fn other_spelling(
    connection: &Connection,
    key: &str,
) -> rusqlite::Result<Option<rusqlite::types::Value>> {
    let numeric = |byte: u8| byte.is_ascii_digit() || b"+-.eE ".contains(&byte);
    if !key.bytes().all(numeric) {
        return Ok(None);
    }
    // The cast has the affinity of numbers, and so is text that is one compared as one.
    let asked = "SELECT CAST($1 AS NUMERIC) WHERE CAST($1 AS NUMERIC) = $1 \
                 AND CAST(CAST($1 AS NUMERIC) AS TEXT) <> $1";
    connection.prepare(asked)?.query_row([key], |row| row.get(0)).optional()
}

fn cell<'a>(value: ValueRef<'a>, size: &mut usize) -> Result<Cell<'a>, VerifyError> {
    let cell = match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Integer(number),
        ValueRef::Real(number) => Cell::Real(number),
        ValueRef::Text(text) => Cell::Text(text),
        ValueRef::Blob(bytes) => Cell::Bytes(bytes),
    };
    *size += match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 8,
    };
    if *size > VALUE_BYTES { Err(Reason::InvalidCredential.into()) } else { Ok(cell) }
}

/// The error in words of ours: SQLite's quote the query and values.
fn unavailable(error: &rusqlite::Error) -> Unavailable {
    Unavailable(match error {
        rusqlite::Error::SqliteFailure(cause, _) => match cause.code {
            ErrorCode::CannotOpen => "the SQLite file cannot be opened",
            ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt => {
                "the SQLite file is no database, or damaged"
            }
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => "the SQLite file stays locked",
            ErrorCode::ReadOnly => "the query writes, and the SQLite file is read only",
            ErrorCode::PermissionDenied => "the SQLite file may not be read",
            ErrorCode::OperationInterrupted => "SQLite does not answer in time",
            _ => "SQLite refuses the query: does it fit the tables?",
        },
        rusqlite::Error::SqlInputError { .. } => {
            "SQLite refuses the query: does it fit the tables?"
        }
        rusqlite::Error::MultipleStatement => "the query must be one statement",
        _ => "SQLite gives no answer",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(path: PathBuf, query: &str) -> SqliteStore {
        SqliteStore::new(path, query, Duration::from_secs(1), None)
    }

    #[tokio::test]
    async fn a_pipe_or_a_directory_as_the_file_is_unavailable_at_once() {
        let place = tempfile::tempdir().unwrap();
        let pipe = place.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for path in [pipe, place.path().to_owned(), "/dev/null".into()] {
            let store = store(path, "SELECT $1 AS id");
            let asking = tokio::time::timeout(Duration::from_secs(5), store.record("key"));
            let error = asking.await.expect("an answer in time").err();
            let expected = Unavailable("the SQLite file is no regular file");
            assert_eq!(error, Some(expected.into()));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_reader_stops_whenever_the_one_who_waits_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       SELECT $1 AS a FROM n WHERE i < 0";
        let store = store(path, endless);
        for round in 0..200 {
            let patience = Duration::from_micros(round * 10);
            assert!(tokio::time::timeout(patience, store.record("a")).await.is_err());
        }
        let readers = u32::try_from(READERS).unwrap();
        let all = tokio::time::timeout(Duration::from_secs(5), store.readers.acquire_many(readers));
        assert!(all.await.is_ok(), "a reader goes on for nobody");
    }

    #[tokio::test]
    async fn a_session_has_one_spelling_whether_its_id_is_a_number_or_text() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.db");
        let schema = "CREATE TABLE t (number INTEGER, real REAL, any NUMERIC, text TEXT, plain);
            INSERT INTO t VALUES (7, 1.5, 700, '07', 5), (-1, 2.0, 9007199254740993, '1e3', '6')";
        Connection::open(&path).unwrap().execute_batch(schema).unwrap();
        for (column, ids, spellings) in [
            ("number", &["7", "-1"][..], &["07", "+7", " 7", "7 ", "7.0", "70e-1", "-01"][..]),
            ("real", &["1.5", "2"], &["1.50", "15e-1", "2.0", "2.", "+1.5"]),
            ("any", &["700", "9007199254740993"], &["7e2", "700.0", "0700"]),
            ("text", &["07", "1e3"], &["7", "1000", "7.0", "1E3"]),
            ("plain", &["6"], &["5", "06", "6.0"]),
        ] {
            let store = store(path.clone(), &format!("SELECT 1 AS a FROM t WHERE {column} = $1"));
            for id in ids {
                let record = store.record(id).await.ok().flatten();
                assert_eq!(record.and_then(|record| record.id).as_deref(), Some(*id), "{column}");
            }
            for other in spellings {
                let found = store.record(other).await;
                assert!(matches!(found, Ok(None) | Err(VerifyError::Rejected(_))), "{other}");
            }
        }
    }

    #[tokio::test]
    async fn columns_that_hold_bytes_are_known_by_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        let store = store(path, "SELECT $1 AS id, x'3333' AS ends");
        let record = store.record("key").await.ok().flatten().unwrap();
        assert_eq!(record.value, serde_json::json!({ "id": "key", "ends": "3333" }));
        assert_eq!(record.bytes, ["ends"]);
    }
}
