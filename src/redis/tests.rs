//! Against a server that this file plays; a real Redis is asked in `tests/it`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// What to answer to what was read, on the connection of this number.
type Answer = fn(usize, &str) -> Option<Vec<u8>>;

/// Answers what it reads by `answer`, which is given the number of the
/// connection and what was read; ends the connection on `None`.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answer: Answer) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        let read = String::from_utf8_lossy(&buffer[..length]).into_owned();
                        let Some(reply) = answer(number, &read) else { return };
                        if stream.write_all(&reply).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Server { address, connections }
    }

    fn redis(&self, login: &str) -> Redis {
        let url = Secret::new(format!("redis://{login}{}/0", self.address));
        let options = Options { ca: None, timeout: Duration::from_millis(500) };
        Redis::new(&url, &options).ok().unwrap()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn ping() -> Pipeline {
    let mut pipeline = pipe();
    pipeline.cmd("PING");
    pipeline
}

#[tokio::test]
async fn one_connection_carries_every_question() {
    let server =
        Server::start(|_, read| Some(b"+PONG\r\n".repeat(read.matches("PING").count()))).await;
    let redis = server.redis("");
    assert_eq!(server.connections(), 0);
    let ping = ping();
    let asked = (0..20).map(|_| redis.ask(&ping));
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.unwrap(), [Value::SimpleString("PONG".to_owned())]);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_ended_is_opened_anew() {
    let server = Server::start(|number, read| match (number, read.contains("LAST")) {
        (1, true) => None,
        _ => Some(b"+PONG\r\n".to_vec()),
    })
    .await;
    let redis = server.redis("");
    assert!(redis.ask(&ping()).await.is_ok());
    let mut last = pipe();
    last.cmd("LAST");
    assert!(redis.ask(&last).await.is_ok());
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_soon_said() {
    let redis = {
        let server = Server::start(|_, _| None).await;
        // Nobody listens on a port that was just given back.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Server { address: free, ..server }.redis("")
    };
    let error = redis.ask(&ping()).await.unwrap_err();
    assert!(matches!(error, RedisError::Unreachable(io::ErrorKind::ConnectionRefused)), "{error}");
}

#[tokio::test]
async fn silence_ends_in_time_and_the_next_question_is_asked_anew() {
    let server = Server::start(|number, _| {
        Some(if number == 1 { Vec::new() } else { b"+PONG\r\n".to_vec() })
    })
    .await;
    let redis = server.redis("");
    assert!(matches!(redis.ask(&ping()).await, Err(RedisError::TimedOut)));
    assert!(redis.ask(&ping()).await.is_ok());
}

#[tokio::test]
async fn garbage_breaks_the_connection() {
    let answers: [Answer; 2] = [
        |_, _| Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        |_, _| Some(b"\0\xff\xfe\r\n".to_vec()),
    ];
    for answer in answers {
        let server = Server::start(answer).await;
        let error = server.redis("").ask(&ping()).await.unwrap_err();
        assert!(matches!(error, RedisError::Broken(_)), "{error}");
    }
}

#[tokio::test]
async fn an_answer_too_large_is_told_to_who_asked_for_it_and_to_nobody_else() {
    let answers: [Answer; 3] = [
        // Both commands may come in one read.
        |_, read| {
            Some(if read.contains("HUGE") { &b"$1048577\r\na"[..] } else { b"+PONG\r\n" }.into())
        },
        |_, read| {
            Some(if read.contains("HUGE") { &b"*1000000\r\n"[..] } else { b"+PONG\r\n" }.into())
        },
        // Both wait when it comes.
        |number, read| {
            let huge = b"*1000000\r\n".to_vec();
            Some(match (number, read.contains("PING"), read.contains("HUGE")) {
                (1, true, _) | (2.., false, true) => huge,
                (1, false, _) => Vec::new(),
                _ => b"+PONG\r\n".to_vec(),
            })
        },
    ];
    let mut huge = pipe();
    huge.cmd("HUGE");
    for answer in answers {
        let server = Server::start(answer).await;
        let redis = server.redis("");
        let ping = ping();
        let (first, second) = tokio::join!(redis.ask(&huge), redis.ask(&ping));
        assert!(matches!(first, Err(RedisError::TooLarge)), "{first:?}");
        assert!(second.is_ok(), "{second:?}");
        assert!(redis.ask(&ping).await.is_ok());
    }
}

#[tokio::test]
async fn a_refusal_is_its_code_and_nothing_else() {
    let server = Server::start(|_, read| {
        Some(if read.contains("AUTH") {
            b"-WRONGPASS canary is not the password\r\n".to_vec()
        } else {
            b"-WRONGTYPE Operation against canary\r\n".to_vec()
        })
    })
    .await;
    let error = server.redis("").ask(&ping()).await.unwrap_err();
    assert_eq!(error.to_string(), "Redis refuses: WRONGTYPE");
    let error = server.redis(":canary@").ask(&ping()).await.unwrap_err();
    assert_eq!(error.to_string(), "Redis refuses: the login");
    assert!(!format!("{error:?}").contains("canary"));
}

#[test]
fn a_ca_without_tls_is_refused() {
    let options = Options { ca: Some("ca.pem".into()), timeout: Duration::from_secs(1) };
    let made = |url: &str| Redis::new(&Secret::new(url), &options).err().unwrap().to_string();
    assert!(made("redis://h").contains("rediss://"));
    assert!(made("unix:/r").contains("rediss://"));
    assert!(made("rediss://h").contains("cannot read ca.pem"));
}
