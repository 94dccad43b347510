//! Real applications, and the recipes for them as they are written: who logs in
//! there as a browser does opens a WebSocket through the gate, and who logs out
//! there does not any more.

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::support::{App, Jar, PostgresServer, Recipe, Redis as RedisServer, free_address};

const SERVER: &str = "ws://127.0.0.1:3000";
const ADMIN: &str = "canary-admin-token-0003";
const PAGES: &str = "http://127.0.0.1:3000";

/// Logs in and out at the application behind `gate`, and back in: what its cookies
/// are good for meanwhile. Gives the cookies of the second login.
fn logs_in_and_out(gate: &Gate, upstream: &Upstream, form: &str, subject: &str, name: &str) -> Jar {
    let mut jar = Jar::default();
    let path = |what: &str| format!("/ws/{what}-{}", unique());
    let upgrade = |what: &str, jar: &Jar| {
        let request = Request::upgrade(&path(what));
        if jar.cookies().is_empty() { request } else { request.header("Cookie", &jar.cookies()) }
    };
    assert_eq!(upgrade("before", &jar).closed(gate.address()).code, 4001);

    assert_eq!(jar.post(gate.address(), "/login", form).status / 100, 3);
    for (cookie, secret) in jar.pairs() {
        assert!(cookie.starts_with(name), "{cookie}");
        canary(secret);
    }
    upgrade("in", &jar).header("Cookie", "other=1").open(gate.address()).echoes("hello");
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some(subject));
    let cookies = seen.headers("cookie").join(";");
    assert_eq!(cookies, "other=1");

    // Nobody gets in with a session that they wrote themselves.
    let value = jar.cookie(name);
    for forged in [value.to_uppercase(), format!("{value}x"), value[1..].to_owned()] {
        let cookies = jar.cookies().replace(value, &forged);
        let request = Request::upgrade(&path("forged")).header("Cookie", &cookies);
        assert_eq!(request.closed(gate.address()).code, 4001);
    }
    let before = Jar::of(&jar.cookies());
    assert_eq!(jar.post(gate.address(), "/logout", "").status / 100, 3);
    assert_eq!(upgrade("out", &jar).closed(gate.address()).code, 4001);
    assert_eq!(jar.post(gate.address(), "/login", form).status / 100, 3);
    upgrade("again", &jar).open(gate.address()).echoes("hello");
    before
}

/// Whether a cookie from before the logout still opens a WebSocket.
fn is_good(gate: &Gate, old: &Jar) -> bool {
    let path = format!("/ws/old-{}", unique());
    let mut socket = Request::upgrade(&path).header("Cookie", &old.cookies()).open(gate.address());
    socket.send("hello");
    matches!(socket.read_frame(), Ok(Some(frame)) if frame.payload == b"hello")
}

#[test]
fn express_sessions_in_redis_open_a_websocket_until_the_logout() {
    let redis = RedisServer::start();
    let address = redis.address().to_string();
    let url = format!("redis://{address}");
    let secret = canary("canary-express-secret");
    let app = App::start("express.mjs", &["redis", &url, &secret, "older"]);
    let upstream = Upstream::start();
    let recipe = Recipe::read("express.md");
    let places = [("127.0.0.1:6379", &*address), (SERVER, &*upstream.ws()), (PAGES, &*app.url())];
    let gate = recipe.start_in(recipe.directory(), &places, &[("SESSION_SECRET", &secret)]);
    let old = logs_in_and_out(&gate, &upstream, "user=ada", "ada", "connect.sid");
    assert!(!is_good(&gate, &old));

    // The secret is changed at the application; the old one is still good at the gate.
    let rotated = App::start("express.mjs", &["redis", &url, "newest", &secret]);
    let mut jar = Jar::default();
    let address = rotated.address();
    assert_eq!(jar.post(address, "/login", "user=bob").status, 303);
    let request = |path: &str| Request::upgrade(path).header("Cookie", &jar.cookies());
    assert_eq!(request("/ws/rotated").closed(gate.address()).code, 4001);
    let config = std::fs::read_to_string(gate.config()).expect("the configuration");
    let both = config.replace("[{ env: SESSION_SECRET }]", "[newest, { env: SESSION_SECRET }]");
    assert_ne!(config, both);
    gate.rewrite(&both);
    gate.line("reloaded", |line| line["message"].as_str().is_some_and(|m| m.contains("reload")));
    request("/ws/a").open(gate.address()).echoes("hello");
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("bob"));
}

#[test]
fn express_sessions_in_postgres_open_a_websocket_until_the_logout_and_end_by_revocation() {
    let postgres = PostgresServer::start(free_address(), "change-me", None);
    postgres.sql("CREATE DATABASE app");
    let address = postgres.address().to_string();
    let url = format!("postgres://gate:change-me@{address}/app");
    let secret = canary("canary-express-pg-secret");
    let app = App::start("express.mjs", &["postgres", &url, &secret, "older"]);
    let upstream = Upstream::start();
    let recipe = Recipe::read("express.md");
    let places = [("127.0.0.1:5432", &*address), (SERVER, &*upstream.ws()), (PAGES, &*app.url())];
    let config = recipe.placed(recipe.configs()[1], &places);
    // Its first request makes the table.
    assert_eq!(Jar::default().post(app.address(), "/login", "user=eve").status, 303);
    let config = format!("{config}admin: {{ listen: \"127.0.0.1:0\", token: {ADMIN} }}\n");
    let gate = Gate::start_with(&config, &[("SESSION_SECRET", &secret)]);
    let old = logs_in_and_out(&gate, &upstream, "user=ada", "ada", "connect.sid");
    assert!(!is_good(&gate, &old));

    let mut jar = Jar::default();
    assert_eq!(jar.post(app.address(), "/login", "user=bob").status, 303);
    let request = || Request::upgrade("/ws/a").header("Cookie", &jar.cookies());
    let mut live = request().open(gate.address());
    live.echoes("hello");
    // As the application knows it: `s:ID.SIGNATURE` is in the cookie.
    let cookie = jar.cookie("connect.sid").replace("s%3A", "");
    let id = cookie.split('.').next().expect("an id");
    let revoke = Request::new("POST", "/revoke").bearer(ADMIN);
    let answer = revoke.body(json!({ "session": id }).to_string()).send(gate.admin());
    assert_eq!(answer.json()["closed"], 1, "{}", answer.status);
    assert_eq!(live.closed().says(), (4001, "Session revoked"));
    assert_eq!(request().closed(gate.address()).says(), (4001, "Session revoked"));
}

#[test]
fn cookie_session_opens_a_websocket_and_both_of_its_cookies_are_cut() {
    let secret = canary("canary-cookie-session-secret");
    let app = App::start("express.mjs", &["cookie", &secret, "older"]);
    let upstream = Upstream::start();
    let recipe = Recipe::read("express.md");
    let config =
        recipe.placed(recipe.configs()[2], &[(SERVER, &upstream.ws()), (PAGES, &app.url())]);
    let gate = Gate::start_with(&config, &[("SESSION_SECRET", &secret)]);
    let old = logs_in_and_out(&gate, &upstream, "user=ada", "ada", "session");
    // As the page says: nothing is stored.
    assert!(is_good(&gate, &old));
    let alone = format!("session={}", old.cookie("session"));
    let request = Request::upgrade("/ws/alone").header("Cookie", &alone);
    assert_eq!(request.closed(gate.address()).code, 4001);
    assert_eq!(gate.reason("/ws/alone"), "malformed_credential");
}

#[test]
fn flask_sessions_open_a_websocket() {
    let secret = canary("canary-flask-secret");
    let app = App::start("flask_app.py", &[&secret, "older"]);
    let upstream = Upstream::start();
    let recipe = Recipe::read("flask.md");
    let places = [(SERVER, &*upstream.ws()), (PAGES, &*app.url())];
    let gate = recipe.start_in(recipe.directory(), &places, &[("FLASK_SECRET_KEY", &secret)]);
    let long = format!("user=ada&note={}", "x".repeat(500));
    for form in ["user=ada", &long] {
        let old = logs_in_and_out(&gate, &upstream, form, "ada", "session");
        assert!(form != long || old.cookie("session").starts_with('.'), "compressed");
    }
}

#[test]
fn django_sessions_in_a_database_open_a_websocket_until_the_logout() {
    let secret = canary("canary-django-secret");
    for engine in ["db", "cached_db"] {
        let recipe = Recipe::read("django.md");
        let directory = recipe.directory();
        let database = directory.path().join("db.sqlite3");
        let database = database.to_str().expect("UTF-8");
        let app = App::start("django_app.py", &[engine, database, &secret, "older"]);
        let upstream = Upstream::start();
        let places = [(SERVER, &*upstream.ws()), (PAGES, &*app.url())];
        let gate = recipe.start_in(directory, &places, &[("DJANGO_SECRET_KEY", &secret)]);
        let form = "user=ada&password=opensesame";
        let old = logs_in_and_out(&gate, &upstream, form, "1", "sessionid");
        assert!(!is_good(&gate, &old), "{engine}");
    }
}

#[test]
fn django_sessions_in_a_cookie_open_a_websocket() {
    let secret = canary("canary-django-cookie-secret");
    let recipe = Recipe::read("django.md");
    let directory = recipe.directory();
    let database = directory.path().join("db.sqlite3");
    let database = database.to_str().expect("UTF-8");
    let app = App::start("django_app.py", &["signed_cookies", database, &secret]);
    let upstream = Upstream::start();
    let places = [(SERVER, &*upstream.ws()), (PAGES, &*app.url())];
    let config = recipe.placed(recipe.configs()[1], &places);
    let gate = Gate::start_with(&config, &[("DJANGO_SECRET_KEY", &secret)]);
    logs_in_and_out(&gate, &upstream, "user=ada&password=opensesame", "1", "sessionid");
}

#[test]
fn the_recipe_for_redis_and_that_for_a_django_cache_of_json_work_as_written() {
    let redis = RedisServer::start();
    let address = redis.address().to_string();
    let upstream = Upstream::start();
    let recipe = Recipe::read("redis.md");
    let places = [("127.0.0.1:6379", &*address), (SERVER, &*upstream.ws())];
    let gate = recipe.start_in(recipe.directory(), &places, &[]);
    let session = json!({ "user_id": 7, "name": "Ada" }).to_string();
    redis.command(&["SET", "session:abc", &session, "EX", "60"]);
    Request::upgrade("/ws/a").cookie("abc").open(gate.address()).echoes("hello");
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("7"));
    assert_eq!(upstream.last().header("x-user-name"), Some("Ada"));
    redis.command(&["DEL", "session:abc"]);
    assert_eq!(Request::upgrade("/ws/b").cookie("abc").closed(gate.address()).code, 4001);

    let recipe = Recipe::read("django.md");
    let places =
        [("127.0.0.1:6379", &*address), (SERVER, &*upstream.ws()), (PAGES, "http://127.0.0.1:9")];
    let config = recipe.placed(recipe.configs()[2], &places);
    let gate = Gate::start(&config);
    let session = json!({ "_auth_user_id": "9" }).to_string();
    redis.command(&["SET", ":1:django.contrib.sessions.cacheabc", &session, "EX", "60"]);
    let request = Request::upgrade("/ws/a").header("Cookie", "sessionid=abc");
    request.open(gate.address()).echoes("hello");
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("9"));
    // What Django's own serializer writes is no JSON, and is refused.
    redis.command(&["SET", ":1:django.contrib.sessions.cachepickle", "\u{0080}\u{0005}}."]);
    let request = Request::upgrade("/ws/b").header("Cookie", "sessionid=pickle");
    assert_eq!(request.closed(gate.address()).code, 4001);
}

#[test]
fn the_recipes_for_databases_work_as_written() {
    let recipe = Recipe::read("sql.md");
    let upstream = Upstream::start();
    let directory: TempDir = recipe.directory();
    let schema = recipe.file("schema.sql");
    let rows = "INSERT INTO users VALUES (7, 'Ada');
        INSERT INTO sessions VALUES ('abc', 7, '2099-01-01 00:00:00'), ('old', 7, '2020-01-01 00:00:00')";
    let database = rusqlite::Connection::open(directory.path().join("app.db")).expect("opened");
    database.execute_batch(schema).and_then(|()| database.execute_batch(rows)).expect("a schema");
    let gate = recipe.start_in(directory, &[(SERVER, &upstream.ws())], &[]);
    let works = |gate: &Gate| {
        Request::upgrade("/ws/a").cookie("abc").open(gate.address()).echoes("hello");
        assert_eq!(upstream.last().header("x-forwarded-user"), Some("7"));
        assert_eq!(Request::upgrade("/ws/b").cookie("old").closed(gate.address()).code, 4002);
        assert_eq!(Request::upgrade("/ws/c").cookie("abd").closed(gate.address()).code, 4001);
    };
    works(&gate);

    let postgres = PostgresServer::start(free_address(), "change-me", None);
    postgres.sql("CREATE DATABASE app");
    postgres.sql(&format!("\\c app\n{schema};\n{rows}"));
    let address = postgres.address().to_string();
    let places = [("127.0.0.1:5432", &*address), (SERVER, &*upstream.ws())];
    works(&Gate::start(&recipe.placed(recipe.configs()[1], &places)));
}
