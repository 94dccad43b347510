//! Against a server that this file plays; a real PostgreSQL is asked in `tests/it`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::close::Reason;
use crate::secret::Secret;

/// What the server does that is not as it should be.
#[derive(Clone)]
enum Play {
    /// Notices without end in place of the end of the login.
    Notices,
    /// Says this again and again in answer to the query.
    Endless(Vec<u8>),
    /// Says this once, and is ready for the next one.
    Once(Vec<u8>),
}

struct Server {
    store: PostgresStore,
    /// Bytes that were written.
    written: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(play: Play) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://a@{}/a?sslmode=disable", listener.local_addr().unwrap());
        let written = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let counters = (Arc::clone(&written), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counters.1.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(talk(stream, play.clone(), Arc::clone(&counters.0)));
            }
        });
        let location = Location::parse(&Secret::new(url), None).ok().unwrap();
        let query = "SELECT id FROM s WHERE id = $1";
        let store = PostgresStore::new(location, query, Duration::from_secs(2), None);
        Server { store, written, connections }
    }

    async fn ask(&self) -> Result<Option<Record>, VerifyError> {
        let asking = self.store.record("key");
        tokio::time::timeout(Duration::from_secs(5), asking).await.expect("an answer in time")
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// An error with this SQLSTATE.
fn error(state: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C{state}\0Mcanary\0\0").as_bytes())
}

/// A row with one column, and behind it the parameter.
fn row(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    let key = [&[0, 0, 0, 3][..], b"KEY"].concat();
    message(b'D', &[&[0, 2][..], &length, text.as_bytes(), &key].concat())
}

async fn talk(mut stream: TcpStream, play: Play, written: Arc<AtomicUsize>) -> Option<()> {
    let say = async |stream: &mut TcpStream, text: &[u8]| {
        written.fetch_add(text.len(), Ordering::SeqCst);
        stream.write_all(text).await.ok()
    };
    stream.set_nodelay(true).ok()?;
    let ready = message(b'Z', b"I");
    let length = stream.read_u32().await.ok()?;
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await.ok()?;
    say(&mut stream, &message(b'R', &[0; 4])).await?;
    if let Play::Notices = play {
        let text = "x".repeat(100_000);
        let notice = message(b'N', format!("SNOTICE\0C00000\0M{text}\0\0").as_bytes());
        loop {
            say(&mut stream, &notice).await?;
        }
    }
    say(&mut stream, &ready).await?;
    let mut columns = 0;
    loop {
        let kind = stream.read_u8().await.ok()?;
        let mut body = vec![0; stream.read_u32().await.ok()? as usize - 4];
        stream.read_exact(&mut body).await.ok()?;
        let answer = match (kind, &play) {
            (b'Q', _) => [message(b'C', b"SET\0"), ready.clone()].concat(),
            (b'P', _) => message(b'1', b""),
            (b'D', _) => {
                // The query, and then the query with the parameter beside it.
                columns += 1;
                let column = [&b"id\0"[..], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 25]].concat();
                let column = [&column[..], &[255; 6], &[0, 0]].concat().repeat(columns);
                let row = [&[0, u8::try_from(columns).unwrap()][..], &column].concat();
                [message(b't', &[0, 1, 0, 0, 0, 25]), message(b'T', &row)].concat()
            }
            (b'B', Play::Once(text)) if text[0] == b'E' => text.clone(),
            (b'B', _) => message(b'2', b""),
            (b'E', Play::Endless(text)) => loop {
                say(&mut stream, text).await?;
            },
            (b'E', Play::Once(text)) if text[0] != b'E' => {
                [&text[..], &message(b'C', b"SELECT 1\0")].concat()
            }
            (b'S', _) => ready.clone(),
            _ => continue,
        };
        say(&mut stream, &answer).await?;
    }
}

#[tokio::test]
async fn an_answer_without_end_is_given_up_whatever_it_is_made_of() {
    let kept = 8 << 20;
    let parameter = message(b'S', &[&b"a\0"[..], &[b'x'; 1000], b"\0"].concat());
    let plays = [
        Play::Notices,
        Play::Endless(row(&"\"x\"".repeat(30_000))),
        Play::Endless(message(b'N', b"SNOTICE\0C00000\0Mx\0\0").repeat(1000)),
        Play::Endless(parameter),
    ];
    for play in plays {
        let server = Server::start(play).await;
        let answer = server.ask().await;
        assert!(answer.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
        let written = server.written.load(Ordering::SeqCst);
        // Some of it is in the buffers of sockets.
        assert!(written < kept, "{written}");
    }
}

#[tokio::test]
async fn one_row_is_a_session_and_two_are_none() {
    let server = Server::start(Play::Once(row("\"ada\""))).await;
    let record = server.ask().await.ok().flatten().unwrap();
    assert_eq!(record.value, serde_json::json!({ "id": "ada" }));
    assert_eq!(record.id.as_deref(), Some("KEY"));
    let server = Server::start(Play::Once(row("\"ada\"").repeat(2))).await;
    let rejected = VerifyError::from(Reason::InvalidCredential);
    for _ in 0..2 {
        assert_eq!(server.ask().await.err(), Some(rejected));
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn every_data_exception_of_the_query_means_no_such_session() {
    for state in ["22P05", "22P02", "22021", "22012", "22001", "2200X"] {
        let server = Server::start(Play::Once(error(state))).await;
        assert!(matches!(server.ask().await, Ok(None)), "{state}");
    }
    let server = Server::start(Play::Once(error("42703"))).await;
    assert!(matches!(server.ask().await, Err(VerifyError::Unavailable(_))));
}

#[tokio::test]
async fn an_error_of_the_query_costs_no_connection_and_one_of_the_server_all() {
    let connections = async |state: &str| {
        let server = Server::start(Play::Once(error(state))).await;
        for _ in 0..3 {
            let _ = server.ask().await;
        }
        let idle = server.store.idle().len();
        (server.connections.load(Ordering::SeqCst), idle)
    };
    for state in ["22P05", "42703", "57014", "21000", "42501"] {
        assert_eq!(connections(state).await, (1, 1), "{state}");
    }
    // A plan out of date, a standby that replays: this connection alone, and anew.
    // Of the server: this one, and every idle one.
    for state in ["0A000", "26000", "40001", "08006", "57P01", "57P03", "53300"] {
        assert_eq!(connections(state).await, (3, 0), "{state}");
    }
}

#[tokio::test]
async fn a_plan_out_of_date_leaves_the_other_connections_alone() {
    for (state, left) in [("0A000", 1), ("57P01", 0)] {
        let server = Server::start(Play::Once(error(state))).await;
        for _ in 0..2 {
            let open = server.store.open().await.ok().unwrap();
            server.store.idle().push(open);
        }
        assert!(server.ask().await.is_err());
        assert_eq!(server.store.idle().len(), left, "{state}");
    }
}
