//! The login service: an ordinary REST back end that hands out session
//! cookies and serves the page. sockgate passes it through (`policy: public`).
//!
//! | request       | answer                                                              |
//! |---------------|---------------------------------------------------------------------|
//! | `GET /`       | the page                                                            |
//! | `POST /login` | `{"name", "password", "ttl"?}` → the session cookie, or 401         |
//! | `POST /logout`| ends the cookie                                                     |
//! | `GET /session`| who the cookie says you are                                         |
//! | `GET /token`  | a token of a minute, for the URL or the first message; 401 without a cookie |
//! | `GET /log`    | sockgate's log lines, as server-sent events: a demo's liberty       |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HeaderValue, REFERRER_POLICY,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::json;
use sockgate::clock::UnixSeconds;
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;

use crate::gate_log::GateLog;
use crate::token::Tokens;
use crate::users::{self, User};

const PAGE: &str = include_str!("index.html");
const PAGE_POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; \
    script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

const SESSION_TTL: u32 = 8 * 60 * 60;
const TOKEN_TTL: u32 = 60;
const BODY_BYTES: usize = 4 << 10;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Body = BoxBody<Bytes, Infallible>;

/// What the handlers share.
pub(crate) struct Login {
    pub(crate) tokens: Tokens,
    pub(crate) log: Arc<GateLog>,
}

/// Serves every connection of `listener`, for ever.
pub(crate) async fn serve(listener: TcpListener, login: Arc<Login>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let login = Arc::clone(&login);
        tokio::spawn(async move {
            let service =
                service_fn(|request| async { Ok::<_, Infallible>(login.answer(request).await) });
            // A client that goes away half-way is no news to a login service.
            hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

/// The body of `POST /login`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    name: String,
    password: String,
    /// Seconds until the session ends, to see what happens then.
    #[serde(default)]
    ttl: Option<u32>,
}

impl Login {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => page(),
            (&Method::GET, "/session") => self.session(request.headers()),
            (&Method::GET, "/token") => self.token(request.headers()),
            (&Method::GET, "/log") => self.log(),
            (&Method::POST, "/login") => self.login(request).await,
            (&Method::POST, "/logout") => {
                with_cookie(reply(StatusCode::OK, &json!({})), "", "; Max-Age=0")
            }
            _ => reply(StatusCode::NOT_FOUND, &json!({ "error": "Not found" })),
        }
    }

    async fn login(&self, request: Request<Incoming>) -> Response<Body> {
        // Another site's form cannot send this type without a preflight.
        if request.headers().get(CONTENT_TYPE).is_none_or(|value| value != "application/json") {
            return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send application/json");
        }
        let Ok(body) = Limited::new(request.into_body(), BODY_BYTES).collect().await else {
            return refuse(StatusCode::BAD_REQUEST, "That body cannot be read");
        };
        let Ok(Credentials { name, password, ttl }) = serde_json::from_slice(&body.to_bytes())
        else {
            return refuse(StatusCode::BAD_REQUEST, "Expected {name, password, ttl?}");
        };
        let checked =
            tokio::task::spawn_blocking(move || users::authenticate(&name, &password)).await;
        let Some(user) = checked.ok().flatten() else {
            return refuse(StatusCode::UNAUTHORIZED, "Wrong name or password");
        };
        let ttl = ttl.unwrap_or(SESSION_TTL).clamp(1, SESSION_TTL);
        match self.tokens.issue(user, ttl) {
            Ok(session) => {
                with_cookie(reply(StatusCode::OK, &who(user, session.expires)), &session.token, "")
            }
            Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "Cannot sign"),
        }
    }

    fn session(&self, headers: &HeaderMap) -> Response<Body> {
        match self.user(headers) {
            Some((user, expires)) => reply(StatusCode::OK, &who(user, expires)),
            None => reply(StatusCode::OK, &json!({ "user": null })),
        }
    }

    fn token(&self, headers: &HeaderMap) -> Response<Body> {
        let Some((user, _)) = self.user(headers) else {
            return refuse(StatusCode::UNAUTHORIZED, "Log in first");
        };
        match self.tokens.issue(user, TOKEN_TTL) {
            Ok(token) => reply(StatusCode::OK, &json!(token)),
            Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "Cannot sign"),
        }
    }

    /// Comments keep the stream alive: sockgate ends a response without progress.
    fn log(&self) -> Response<Body> {
        let (recent, lines) = self.log.read();
        let event = |line: Arc<str>| frame(&format!("data: {line}\n\n"));
        let hello = stream::iter([frame(": sockgate's log\n\n")]);
        let kept = hello.chain(stream::iter(recent.into_iter().map(event)));
        let live = stream::unfold(lines, move |mut lines| async move {
            let next = match tokio::time::timeout(KEEP_ALIVE, lines.recv()).await {
                Ok(Ok(line)) => event(line),
                Ok(Err(RecvError::Lagged(_))) | Err(_) => frame(": still here\n\n"),
                Ok(Err(RecvError::Closed)) => return None,
            };
            Some((next, lines))
        });
        let body = StreamBody::new(kept.chain(live));
        let mut response = Response::new(BoxBody::new(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// Whose session cookie came along.
    fn user(&self, headers: &HeaderMap) -> Option<(&'static User, UnixSeconds)> {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|line| line.split(';')).map(str::trim);
        self.tokens.read(pairs.find_map(|pair| pair.strip_prefix("session="))?)
    }
}

fn page() -> Response<Body> {
    let mut response = Response::new(Full::from(PAGE).boxed());
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn who(user: &User, expires: UnixSeconds) -> serde_json::Value {
    json!({ "user": user, "expires": expires })
}

fn refuse(status: StatusCode, error: &str) -> Response<Body> {
    reply(status, &json!({ "error": error }))
}

fn reply(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Full::from(body.to_string()).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// No `Max-Age` at login: the browser keeps showing an expired session, and
/// sockgate says so (4002) instead of seeing no cookie at all (4001).
fn with_cookie(mut response: Response<Body>, value: &str, end: &str) -> Response<Body> {
    let cookie = format!("session={value}; HttpOnly; SameSite=Lax; Path=/{end}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

fn frame(text: &str) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())))
}
