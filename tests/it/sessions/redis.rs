//! Sessions in Redis: strings and hashes, with a password, over TLS, over a Unix
//! socket.

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::support::{Redis as RedisServer, free_address};

const PASSWORD: &str = "canary-redis-p@ss/word";
const ESCAPED: &str = "canary-redis-p%40ss%2Fword";

struct Redis(RedisServer);

impl Redis {
    fn url(&self) -> String {
        format!("redis://:{ESCAPED}@{}/2", self.0.address())
    }
}

/// The commands, in the database that the URLs name.
fn in_two(server: &RedisServer, words: &[&str]) {
    // Each command has a connection of its own; a script selects for its own time.
    let mut script = vec!["EVAL", "redis.call('SELECT', 2); return redis.call(unpack(ARGV))", "0"];
    script.extend(words);
    server.command(&script);
}

impl Bench for Redis {
    fn session(&self) -> String {
        format!(
            "store: \"{}\", key: \"'sess:' + credential\", subject: value.user, \
             expires: value.ends, timeout: 1s",
            self.url()
        )
    }

    fn put(&self, id: &str, user: Option<&str>, ends: i64, padding: usize) {
        let name = user.map(|user| format!("Name of {user}"));
        let padding = "x".repeat(padding);
        let value = json!({ "user": user, "name": name, "ends": ends, "padding": padding });
        in_two(&self.0, &["SET", &format!("sess:{id}"), &value.to_string()]);
    }

    fn spoil(&self, id: &str) {
        in_two(&self.0, &["SET", &format!("sess:{id}"), "{\"user\": \"alice\""]);
    }

    fn stop(&mut self) {
        self.0.stop();
    }

    fn restart(&mut self) {
        self.0.restart();
    }
}

#[test]
fn sessions_in_redis_pass_the_suite() {
    canary(PASSWORD);
    canary(ESCAPED);
    suite(&mut Redis(RedisServer::start_at(free_address(), Some(PASSWORD), &[])));
}

#[test]
fn whoever_answers_in_the_place_of_redis_is_bounded() {
    misbehaving(|address| format!("store: \"redis://{address}\", subject: value.user"));
}

#[test]
fn the_time_to_live_is_the_end_and_every_kind_of_value_is_read() {
    let server = RedisServer::start();
    let address = server.address();
    let upstream = Upstream::start();
    let store = format!("store: \"redis://{address}\"");
    let gate = Gate::start(&config(
        &[
            ("json", &format!("{store}, subject: value.user.id")),
            ("text", &format!("{store}, value: string, key: \"'text:' + credential\"")),
            ("hash", &format!("{store}, value: hash, subject: value.user, expires: value.ends")),
            ("hashed", &format!("{store}, key: \"'h:' + sha256(credential)\", subject: value.u")),
            ("never", &format!("{store}, subject: value.user.id, expires: never")),
        ],
        &upstream,
    ));
    let user = |name: &str| upstream.last().header(name).map(str::to_owned);

    // To live for another second and a bit: its connection does not live longer.
    server.command(&["SET", "a", r#"{"user": {"id": 7}}"#, "PX", "2500"]);
    let mut live = Request::upgrade("/ws/json/live").cookie("a").open(gate.address());
    live.echoes("hello");
    assert_eq!(user("x-forwarded-user").as_deref(), Some("7"));
    opens(&gate, "never", "a");
    assert_eq!(live.closed().says(), (4002, "Session expired"));
    eventually("Redis forgets it", || server.command(&["EXISTS", "a"]) == ":0");
    is(refused(&gate, "json", "a"), INVALID, "gone");

    // One that Redis would keep for ever is none, unless `expires` says so.
    server.command(&["SET", "text:for-ever", "alice"]);
    is(refused(&gate, "text", "for-ever"), INVALID, "without an end");
    server.command(&["SET", "for-ever", r#"{"user": {"id": 7}}"#]);
    opens(&gate, "never", "for-ever");
    let line = logged(&gate, "has no time to live");
    assert_eq!((&line["level"], &line["verifier"]), (&"warn".into(), &"text".into()));

    server.command(&["SET", "text:t", "alice", "EX", "60"]);
    opens(&gate, "text", "t");
    assert_eq!(user("x-forwarded-user").as_deref(), Some("alice"));
    let ends = (unix_now() + 60).to_string();
    server.command(&["HSET", "h", "user", "carol", "name", "Carol", "ends", &ends]);
    opens(&gate, "hash", "h");
    assert_eq!(user("x-name").as_deref(), Some("Carol"));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"s");
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    server.command(&["SET", &format!("h:{digest}"), r#"{"u": "dora"}"#, "EX", "60"]);
    opens(&gate, "hashed", "s");
    assert_eq!(user("x-forwarded-user").as_deref(), Some("dora"));
    assert_eq!(upstream.last().header("x-session"), Some(&*digest));

    // Keys of another kind are no sessions, and say nothing of themselves.
    server.command(&["RPUSH", "list", "x"]);
    is(refused(&gate, "json", "list"), INVALID, "a list");
    is(refused(&gate, "hash", "text:t"), INVALID, "a string");
    is(refused(&gate, "json", "h"), INVALID, "a hash");
    server.command(&["SET", "twice", r#"{"user": {"id": 1, "id": 2}}"#]);
    is(refused(&gate, "json", "twice"), INVALID, "two readers could differ");
}

#[test]
fn redis_is_reached_over_tls_and_over_a_unix_socket() {
    let address = free_address();
    let host = address.ip().to_string();
    let (authority, certificate, key) = certificates(&host);
    let (strange, ..) = certificates(&host);
    let directory = TempDir::new().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let [ca, cert, key] = [("ca.pem", &authority), ("r.crt", &certificate), ("r.key", &key)]
        .map(|(n, t)| write(n, t));
    write("other.pem", &strange);
    let free = TcpListener::bind((address.ip(), 0)).expect("a port").local_addr().expect("bound");
    let (port, socket) = (free.port().to_string(), directory.path().join("redis.sock"));
    let socket = socket.to_str().expect("UTF-8");
    let server = RedisServer::start_at(
        address,
        Some(PASSWORD),
        &[
            "--tls-port",
            &port,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
            "--tls-auth-clients",
            "no",
            "--unixsocket",
            socket,
        ],
    );
    server.command(&["SET", "a", r#"{"user": "alice"}"#]);
    server.command(&[
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">canary-reader",
        "~a*",
        "+@read",
        "+select",
    ]);
    canary("canary-reader");
    let upstream = Upstream::start();
    let rest = "subject: value.user, expires: never";
    let tls = |ca: &str| {
        format!("store: \"rediss://:{ESCAPED}@{host}:{port}\", ca: {ca}, timeout: 2s, {rest}")
    };
    let login = |login: &str| format!("store: \"redis://{login}{}\", {rest}", server.address());
    let unix = format!("store: \"unix:{socket}?password={ESCAPED}\", {rest}");
    let config = config(
        &[
            ("trusted", &tls("ca.pem")),
            ("strange", &tls("other.pem")),
            ("unix", &unix),
            ("reader", &login("reader:canary-reader@")),
            ("nobody", &login("")),
            ("wrong", &login("reader:canary-reader-not@")),
        ],
        &upstream,
    );
    let gate = Gate::start_in(directory, &config, &[]);
    opens(&gate, "trusted", "a");
    is(refused(&gate, "strange", "a"), UNAVAILABLE, "another authority");
    opens(&gate, "unix", "a");
    opens(&gate, "reader", "a");
    is(refused(&gate, "reader", "b"), UNAVAILABLE, "not its key");
    is(refused(&gate, "nobody", "a"), UNAVAILABLE, "no password");
    is(refused(&gate, "wrong", "a"), UNAVAILABLE, "another password");
    logged(&gate, "Redis wants a password in the URL");
    logged(&gate, "Redis refuses the user name or password of the URL");
}
