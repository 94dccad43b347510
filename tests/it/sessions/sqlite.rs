//! Sessions in SQLite: a file that an application writes meanwhile.

use std::path::PathBuf;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

struct Sqlite {
    directory: TempDir,
}

impl Sqlite {
    fn path(&self) -> PathBuf {
        self.directory.path().join("app.db")
    }

    fn start() -> Sqlite {
        let sqlite = Sqlite { directory: TempDir::new().expect("a directory") };
        let schema = "PRAGMA journal_mode = WAL;
            CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT);
            INSERT INTO users VALUES ('alice', 'Name of alice');
            CREATE TABLE sessions (id TEXT PRIMARY KEY, user_id TEXT, expires_at INT, data TEXT);";
        open(&sqlite.path()).execute_batch(schema).expect("a schema");
        sqlite
    }
}

fn open(path: &PathBuf) -> Connection {
    let connection = Connection::open(path).expect("a database");
    connection.busy_timeout(Duration::from_secs(5)).expect("set");
    connection
}

impl Bench for Sqlite {
    fn session(&self) -> String {
        format!(
            "store: \"sqlite:{}\", subject: value.id, expires: value.expires_at, timeout: 1s, \
             query: \"SELECT u.id, u.name, s.expires_at, s.data FROM sessions s LEFT JOIN users u \
             ON u.id = s.user_id WHERE s.id = $1\"",
            self.path().display()
        )
    }

    fn put(&self, id: &str, user: Option<&str>, ends: i64, padding: usize) {
        let row = rusqlite::params![id, user, ends, "x".repeat(padding)];
        open(&self.path())
            .execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)", row)
            .expect("inserted");
    }

    fn spoil(&self, id: &str) {
        let row = rusqlite::params![id, "alice", "when it is over", ""];
        open(&self.path())
            .execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", row)
            .expect("inserted");
    }

    fn stop(&mut self) {
        std::fs::rename(self.path(), self.directory.path().join("away")).expect("renamed");
    }

    fn restart(&mut self) {
        std::fs::rename(self.directory.path().join("away"), self.path()).expect("renamed");
    }
}

#[test]
fn sessions_in_sqlite_pass_the_suite() {
    suite(&mut Sqlite::start());
}

/// The example of the contract, as it stands there.
const COURSE: &str = r#"
verifiers:
  sessions:
    session:
      store: sqlite:app.db
      query: SELECT u.id, u.name, s.expires_at FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = $1
      subject: value.id
      expires: value.expires_at
policies:
  members:
    credentials:
      - { cookie: session, verifier: sessions }
identity:
  headers: { X-Forwarded-User: identity.subject, X-Name: identity.claims.name }
"#;

#[test]
fn the_example_of_the_contract_works_as_it_stands_while_the_application_writes() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("app.db");
    // In WAL mode, by a writer who stays.
    let writer = open(&path);
    let ends = unix_now() + 60;
    writer
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             PRAGMA foreign_keys = OFF;
             CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
             CREATE TABLE sessions (
               id TEXT PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users(id),
               expires_at DATETIME NOT NULL
             );
             INSERT INTO users VALUES (7, 'Ada');
             INSERT INTO sessions VALUES
               ('seconds', 7, {ends}), ('text', 7, datetime({ends}, 'unixepoch')),
               ('iso', 7, strftime('%Y-%m-%dT%H:%M:%fZ', {ends}, 'unixepoch')),
               ('milliseconds', 7, {ends}000), ('float', 7, {ends}.5),
               ('over', 7, datetime('now', '-1 second')), ('nobody', 8, {ends}), ('null', 7, '')"
        ))
        .expect("a schema");
    let upstream = Upstream::start();
    let routes =
        format!("routes: [{{ path: /ws/*, policy: members, upstream: \"{}\" }}]\n", upstream.ws());
    let gate = Gate::start_in(directory, &format!("{COURSE}{routes}"), &[]);
    let says = |id: &str| {
        let path = format!("/ws/{}", unique());
        let closed = Request::upgrade(&path).cookie(id).closed(gate.address());
        (closed.code, gate.reason(&path))
    };
    for id in ["seconds", "text", "iso", "milliseconds", "float"] {
        Request::upgrade("/ws/a").cookie(id).open(gate.address()).echoes("hello");
        let seen = upstream.last();
        assert_eq!(seen.header("x-forwarded-user"), Some("7"), "{id}");
        assert_eq!(seen.header("x-name"), Some("Ada"), "{id}");
    }
    is(says("over"), EXPIRED, "over");
    is(says("nobody"), INVALID, "a user that is gone");
    is(says("null"), INVALID, "no end");
    is(says("absent"), INVALID, "absent");

    // Between two writes of a transaction nothing is seen, and nobody waits.
    writer
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO sessions VALUES ('new', 7, 4102444800);")
        .expect("begun");
    is(says("new"), INVALID, "not yet");
    Request::upgrade("/ws/a").cookie("text").open(gate.address()).echoes("hello");
    writer.execute_batch("COMMIT").expect("committed");
    writer.execute("DELETE FROM sessions WHERE id = 'seconds'", []).expect("deleted");
    is(says("seconds"), INVALID, "logged out");
    let metric = gate.metric(
        "sockgate_auth_decisions_total",
        &["verifier=\"sessions\"", "reason=\"invalid_credential\""],
    );
    assert!(metric >= 5.0, "{metric}");
}

#[test]
fn a_file_that_is_locked_damaged_or_replaced_is_told_apart_from_a_bad_id() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("app.db");
    let schema = "CREATE TABLE s (id TEXT, user TEXT, blob BLOB); INSERT INTO s VALUES ('a', 'alice', x'00ff')";
    let writer = open(&path);
    writer.execute_batch(schema).expect("a schema");
    std::fs::write(directory.path().join("garbage.db"), "x".repeat(4096)).expect("written");
    let session = |file: &str, query: &str| {
        format!(
            "store: \"sqlite:{file}\", subject: value.user, expires: never, timeout: 500ms, \
             query: \"{query}\""
        )
    };
    let good = "SELECT user, blob AS name FROM s WHERE id = $1";
    let slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                SELECT $1 AS user FROM n WHERE i < 0";
    let upstream = Upstream::start();
    let config = config(
        &[
            ("good", &session("app.db", good)),
            ("garbage", &session("garbage.db", good)),
            ("missing", &session("missing.db", good)),
            ("slow", &session("app.db", slow)),
            ("writes", &session("app.db", "DELETE FROM s WHERE id = $1 RETURNING user")),
            ("attach", &session("app.db", "ATTACH $1 AS x")),
            ("same", &session("app.db", "SELECT user, id AS user FROM s WHERE id = $1")),
            ("two", &session("app.db", "SELECT user FROM s WHERE id = $1; SELECT 1")),
            ("syntax", &session("app.db", "SELEKT $1")),
            (
                "many",
                &session("app.db", "SELECT user FROM s, (SELECT 1 UNION SELECT 2) WHERE id = $1"),
            ),
        ],
        &upstream,
    );
    let gate = Gate::start_in(directory, &config, &[]);
    opens(&gate, "good", "a");
    assert_eq!(upstream.last().header("x-name"), Some("00ff"));
    is(refused(&gate, "many", "a"), INVALID, "two rows");
    for name in ["garbage", "missing", "slow", "writes", "attach", "same", "two", "syntax"] {
        let began = Instant::now();
        is(refused(&gate, name, "a"), UNAVAILABLE, name);
        assert!(began.elapsed() < Duration::from_secs(2), "{name}: {:?}", began.elapsed());
    }
    assert!(!gate.directory().join("missing.db").exists());
    opens(&gate, "good", "a");

    writer.execute_batch("BEGIN EXCLUSIVE").expect("locked");
    is(refused(&gate, "good", "a"), UNAVAILABLE, "locked");
    writer.execute_batch("ROLLBACK").expect("unlocked");
    eventually("it is read again", || admits(&gate, "good", "a"));

    let fresh = gate.directory().join("fresh.db");
    open(&fresh).execute_batch(&schema.replace("alice", "bob")).expect("a schema");
    std::fs::rename(&fresh, &path).expect("renamed");
    opens(&gate, "good", "a");
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("bob"));
}
