//! Sessions in PostgreSQL: over TLS and with a password; columns of every type, ids
//! of every type.

use tempfile::TempDir;

use super::*;
use crate::support::{PostgresServer, free_address};

const PASSWORD: &str = "canary-postgres-p@ss";
const ESCAPED: &str = "canary-postgres-p%40ss";

const SCHEMA: &str = "
CREATE TABLE users (id text PRIMARY KEY, name text);
INSERT INTO users VALUES ('alice', 'Name of alice');
CREATE TABLE sessions (id text PRIMARY KEY, user_id text, expires_at timestamptz, data jsonb);
";

struct Postgres {
    server: PostgresServer,
    authority: String,
}

impl Postgres {
    fn start() -> Postgres {
        canary(PASSWORD);
        canary(ESCAPED);
        let address = free_address();
        let (authority, certificate, key) = certificates(&address.ip().to_string());
        let server = PostgresServer::start(address, PASSWORD, Some((&certificate, &key)));
        server.sql(SCHEMA);
        Postgres { server, authority }
    }

    fn url(&self, parameters: &str) -> String {
        format!("postgres://gate:{ESCAPED}@{}/postgres{parameters}", self.server.address())
    }
}

impl Bench for Postgres {
    fn session(&self) -> String {
        format!(
            "store: \"{}\", subject: value.id, expires: value.expires_at, timeout: 1s, \
             query: \"SELECT u.id, u.name, s.expires_at, s.data FROM sessions s LEFT JOIN users u \
             ON u.id = s.user_id WHERE s.id = $1 -- by id\"",
            self.url("?sslmode=require")
        )
    }

    fn put(&self, id: &str, user: Option<&str>, ends: i64, padding: usize) {
        let user = user.map_or("NULL".to_owned(), |user| format!("'{user}'"));
        self.server.sql(&format!(
            "INSERT INTO sessions VALUES ('{id}', {user}, to_timestamp({ends}), \
             json_build_object('padding', repeat('x', {padding}))) \
             ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at"
        ));
    }

    fn spoil(&self, id: &str) {
        self.server.sql(&format!("INSERT INTO sessions VALUES ('{id}', 'alice', NULL, NULL)"));
    }

    fn stop(&mut self) {
        self.server.stop();
    }

    fn restart(&mut self) {
        self.server.restart();
    }
}

#[test]
fn sessions_in_postgres_pass_the_suite() {
    suite(&mut Postgres::start());
}

#[test]
fn whoever_answers_in_the_place_of_postgres_is_bounded() {
    misbehaving(|address| {
        format!(
            "store: \"postgres://gate@{address}/x?sslmode=disable\", subject: value.id, \
             expires: never, query: SELECT $1 AS id"
        )
    });
    misbehaving(|address| {
        format!(
            "store: \"postgres://gate@{address}/x\", subject: value.id, expires: never, \
             query: SELECT $1 AS id"
        )
    });
}

/// The table of many types, of which each row is a session of another.
const TYPES: &str = "
CREATE TABLE t (
  id int PRIMARY KEY, big bigint, flag boolean, note text, made timestamp, seen timestamptz,
  data jsonb, raw json, key uuid, bytes bytea, price numeric, tags text[], ends bigint
);
INSERT INTO t VALUES (
  7, 9007199254740993, true, 'n', '2030-01-02 03:04:05.5', '2030-01-02 03:04:05+02', '{\"a\": [1]}',
  '{\"b\": 1}', '0123abcd-0123-4567-89ab-0123456789ab', '\\x00ff', 12.50, '{a,b}', 1893456000000
), (8, NULL, NULL, NULL, NULL, NULL, NULL, '{\"c\": 1, \"c\": 2}', NULL, '\\x01', NULL, NULL, 1);
CREATE TABLE twins (id text, name text);
INSERT INTO twins VALUES ('a', 'alice'), ('a', 'bob');
CREATE ROLE reader LOGIN PASSWORD 'canary-pg-reader';
GRANT SELECT ON sessions TO reader;
";

#[test]
fn columns_and_ids_of_every_type_are_read_or_refused_and_never_break() {
    let postgres = Postgres::start();
    canary("canary-pg-reader");
    postgres.server.sql(TYPES);
    let directory = TempDir::new().expect("a directory");
    std::fs::write(directory.path().join("ca.pem"), &postgres.authority).expect("written");
    let (other, ..) = certificates(&postgres.server.address().ip().to_string());
    std::fs::write(directory.path().join("other.pem"), other).expect("written");
    let plain = postgres.url("?sslmode=disable");
    let query = |query: &str| {
        format!("store: \"{plain}\", expires: never, subject: string(value.id), query: \"{query}\"")
    };
    let id = "SELECT 'alice' AS id, $1::text AS shown";
    let tls = |mode: &str, ca: &str| {
        let url = postgres.url(mode);
        format!("store: \"{url}\", {ca}expires: never, subject: value.id, query: \"{id}\"")
    };
    let reader =
        format!("postgres://reader:canary-pg-reader@{}/postgres", postgres.server.address());
    let reader = |query: &str| {
        format!("store: \"{reader}\", expires: never, subject: value.id, query: \"{query}\"")
    };
    let socket = postgres.server.directory().display().to_string().replace('/', "%2F");
    let port = postgres.server.address().port();
    let upstream = Upstream::start();
    let seen = "identity.claims";
    let sessions = [
        ("int", query("SELECT * FROM t WHERE id = $1")),
        ("bigint", query("SELECT id FROM t WHERE big = $1")),
        ("uuid", query("SELECT id FROM t WHERE key = $1")),
        ("bytea", query("SELECT id FROM t WHERE bytes = $1")),
        ("numeric", query("SELECT id FROM t WHERE price = $1")),
        ("time", query("SELECT id FROM t WHERE seen = $1")),
        ("bool", query("SELECT id FROM t WHERE flag = $1")),
        ("raw", query("SELECT id, raw FROM t WHERE id = $1")),
        ("many", query("SELECT id, name FROM twins WHERE id = $1")),
        ("same", query("SELECT a.id, b.id FROM twins a JOIN twins b USING (name) WHERE a.id = $1")),
        (
            "writes",
            query("WITH x AS (DELETE FROM twins RETURNING id) SELECT id FROM x WHERE id = $1"),
        ),
        ("calls", query("SELECT set_config('a.b', $1, false) AS id, nextval('q')")),
        (
            "sleeps",
            query("SELECT $1::text AS id FROM pg_sleep(5)")
                .replace("expires", "timeout: 500ms, expires"),
        ),
        ("syntax", query("SELEKT $1")),
        ("nothing", query("SELECT id FROM nothing WHERE id = $1")),
        ("two", query("SELECT id FROM t WHERE id = $1 AND note = $2")),
        (
            "ms",
            format!(
                "store: \"{plain}\", expires: value.ends, subject: value.id, query: \"SELECT id, ends FROM t WHERE id = $1\""
            ),
        ),
        (
            "made",
            format!(
                "store: \"{plain}\", expires: value.made, subject: value.id, query: \"SELECT id, made FROM t WHERE id = $1\""
            ),
        ),
        ("full", tls("?sslmode=verify-full", "ca: ca.pem, ")),
        ("ca", tls("?sslmode=verify-ca", "ca: ca.pem, ")),
        ("default", tls("", "ca: ca.pem, ")),
        ("other", tls("?sslmode=verify-full", "ca: other.pem, ")),
        ("prefer", tls("", "")),
        (
            "unix",
            format!(
                "store: \"postgres://gate:{ESCAPED}@{socket}:{port}/postgres\", expires: never, subject: value.id, query: \"{id}\""
            ),
        ),
        ("mine", reader("SELECT user_id AS id FROM sessions WHERE id = $1")),
        ("theirs", reader("SELECT id FROM t WHERE note = $1")),
        ("wrong", tls("", "").replace(ESCAPED, "canary-pg-wrong")),
    ];
    let sessions: Vec<(&str, &str)> =
        sessions.iter().map(|(name, session)| (*name, session.as_str())).collect();
    let config = config(&sessions, &upstream)
        .replace("X-Name: identity.claims.name", &format!("X-Name: json({seen})"));
    let gate = Gate::start_in(directory, &config, &[]);

    opens(&gate, "int", "7");
    let claims: Value =
        serde_json::from_str(upstream.last().header("x-name").expect("claims")).expect("JSON");
    assert_eq!(
        claims,
        serde_json::json!({
            "id": 7, "big": 9_007_199_254_740_993_i64, "flag": true, "note": "n",
            "made": "2030-01-02 03:04:05.5", "seen": "2030-01-02T01:04:05+00:00",
            "data": { "a": [1] }, "raw": { "b": 1 }, "key": "0123abcd-0123-4567-89ab-0123456789ab",
            "bytes": "00ff", "price": 12.5, "tags": ["a", "b"], "ends": 1_893_456_000_000_i64,
        })
    );
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("7"));

    for (name, good, bad) in [
        ("int", "7", ["x", "99999999999999999999", "7.5"]),
        ("bigint", "9007199254740993", ["9007199254740992", "x", "1e400"]),
        ("uuid", "0123abcd-0123-4567-89ab-0123456789ab", ["7", "0123abcd", "zzz"]),
        ("bytea", "\\x00ff", ["\\xzz", "\\x00", "x"]),
        ("numeric", "12.5", ["NaN", "x", "13"]),
        ("time", "2030-01-02 01:04:05Z", ["yesterday", "x", "2030-99-99"]),
        ("bool", "true", ["x", "false", "2"]),
    ] {
        opens(&gate, name, good);
        for bad in bad {
            is(refused(&gate, name, bad), INVALID, &format!("{name} {bad}"));
        }
    }
    for (name, id, spellings) in [
        ("int", "7", &["07", "+7", "0007"][..]),
        ("numeric", "12.5", &["12.50", "012.500", "1.25e1"]),
        (
            "uuid",
            "0123abcd-0123-4567-89ab-0123456789ab",
            &[
                "{0123abcd-0123-4567-89ab-0123456789ab}",
                "0123ABCD-0123-4567-89AB-0123456789AB",
                "0123abcd0123456789ab0123456789ab",
            ],
        ),
        ("bytea", "\\x00ff", &["\\x00FF", "\\x 00 ff"]),
        ("bool", "true", &["t", "YES", "1"]),
        ("time", "2030-01-02 01:04:05+00", &["2030-01-02T03:04:05+02", "2030-01-02 01:04:05Z"]),
    ] {
        for spelling in spellings {
            opens(&gate, name, spelling);
            assert_eq!(upstream.last().header("x-session"), Some(id), "{name} {spelling}");
        }
    }
    is(refused(&gate, "raw", "8"), INVALID, "JSON that can be read in two ways");
    is(refused(&gate, "many", "a"), INVALID, "two rows");
    for name in ["same", "writes", "calls", "sleeps", "syntax", "nothing", "two", "theirs", "wrong"]
    {
        is(refused(&gate, name, "a"), UNAVAILABLE, name);
    }
    assert_eq!(postgres.server.sql("SELECT count(*) FROM twins"), "2");
    opens(&gate, "ms", "7");
    is(refused(&gate, "ms", "8"), EXPIRED, "a millisecond after 1970");
    opens(&gate, "made", "7");
    is(refused(&gate, "made", "8"), INVALID, "NULL is no end");
    for name in ["full", "ca", "default", "prefer", "unix"] {
        opens(&gate, name, "x");
    }
    is(refused(&gate, "other", "x"), UNAVAILABLE, "another authority");
    is(refused(&gate, "mine", "absent"), INVALID, "may read, and is not there");
    for said in [
        "a table of the query does not exist",
        "the query is not SQL",
        "two columns of the query have the same name",
        "its certificate was refused",
        "PostgreSQL refuses the user or password of the URL",
        "may not read the tables",
    ] {
        logged(&gate, said);
    }
}
