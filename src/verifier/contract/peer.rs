//! Servers for verifiers that ask: one that answers as a test says, and some that
//! are broken in every way that a server can be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::occasion::Asked;
use super::super::{Credential, Verifier, VerifyError};
use super::CANARY;
use crate::close::Reason;
use crate::credential::Place;

/// One request, as it came.
pub(in crate::verifier) struct Seen {
    /// Request line and headers.
    pub(in crate::verifier) head: String,
    pub(in crate::verifier) body: String,
}

impl Seen {
    /// The value of the first header of this name, in lower case.
    pub(in crate::verifier) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// A server that answers each request with status line, headers and body of
/// `answer`, such as `("200 OK", "X-User: ada\r\n", "{}")`.
pub(in crate::verifier) async fn serving<F>(answer: F) -> SocketAddr
where
    F: Fn(&Seen) -> (&'static str, String, String) + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                while let Some(seen) = read(&mut stream).await {
                    let (status, headers, body) = answer(&seen);
                    let length = body.len();
                    let text = format!(
                        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
                    );
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut seen = Seen { head: text, body: String::new() };
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    seen.body = String::from_utf8_lossy(&bytes[head..]).into_owned();
    Some(seen)
}

/// What a broken server does with a connection.
#[derive(Clone, Copy, Debug)]
enum Broken {
    Hangs,
    Leaves,
    Drips,
    Says(&'static [u8]),
    Floods,
}

const BROKEN: [Broken; 11] = [
    Broken::Hangs,
    Broken::Leaves,
    Broken::Drips,
    Broken::Floods,
    Broken::Says(b"canary-garbage\r\n\r\n"),
    Broken::Says(b"\x15\x03\x01\x00\x02\x02\x16"),
    Broken::Says(
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"active\":true,\"sub\":\"canary",
    ),
    Broken::Says(b"HTTP/1.1 500 canary\r\nContent-Length: 6\r\n\r\ncanary"),
    Broken::Says(b"HTTP/1.1 404 canary\r\nContent-Length: 0\r\n\r\n"),
    Broken::Says(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\ncanary",
    ),
    Broken::Says(b"HTTP/1.1 101 canary\r\nUpgrade: canary\r\nConnection: upgrade\r\n\r\n"),
];

async fn breaking(how: Broken) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Of a request as much as comes first, whatever it is written in.
                let _ = stream.read(&mut [0; 4096]).await;
                let head = b"HTTP/1.1 200 OK\r\nX-User: canary\r\nContent-Length: 9999999\r\n\r\n";
                match how {
                    Broken::Leaves => {}
                    Broken::Hangs => std::future::pending().await,
                    Broken::Says(answer) => stream.write_all(answer).await.unwrap_or_default(),
                    Broken::Drips => {
                        let _ = stream.write_all(head).await;
                        while stream.write_all(b" ").await.is_ok() {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    }
                    Broken::Floods => {
                        let _ = stream.write_all(head).await;
                        while stream.write_all(&[b' '; 65536]).await.is_ok() {}
                    }
                }
            });
        }
    });
    address
}

/// Holds the verifier that `make` makes for a server to this: whatever is wrong
/// with the server, the credential is neither good nor bad, the answer comes in
/// time, and says nothing of either. `make` sets a timeout of `timeout`.
pub(in crate::verifier) async fn survives(
    timeout: Duration,
    make: impl Fn(SocketAddr) -> Arc<dyn Verifier>,
) {
    survives_with(b"canary-token", timeout, make).await;
}

/// The same with a credential of one's own.
pub(in crate::verifier) async fn survives_with(
    credential: &[u8],
    timeout: Duration,
    make: impl Fn(SocketAddr) -> Arc<dyn Verifier>,
) {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    is_unavailable("nobody listens", credential, timeout, make(nobody)).await;
    for how in BROKEN {
        let verifier = make(breaking(how).await);
        is_unavailable(&format!("{how:?}"), credential, timeout, verifier).await;
    }
    follows_no_redirect(credential, make).await;
}

async fn is_unavailable(
    what: &str,
    credential: &[u8],
    timeout: Duration,
    verifier: Arc<dyn Verifier>,
) {
    let ask = |verifier| ask(verifier, credential);
    let began = Instant::now();
    let error = ask(&verifier).await.err().unwrap_or_else(|| panic!("{what}: admitted"));
    assert!(matches!(error, VerifyError::Unavailable(_)), "{what}: {error}");
    assert_eq!(error.reason(), Reason::VerifierUnavailable);
    let said = format!("{error} {error:?}");
    assert!(!said.contains(CANARY), "{said}");
    assert!(began.elapsed() < timeout + Duration::from_secs(2), "{what}: {:?}", began.elapsed());
    // Nor is it remembered.
    assert!(matches!(ask(&verifier).await, Err(VerifyError::Unavailable(_))), "{what}");
}

async fn follows_no_redirect(credential: &[u8], make: impl Fn(SocketAddr) -> Arc<dyn Verifier>) {
    let elsewhere = serving(|_| panic!("a redirect was followed")).await;
    let away =
        move |_: &Seen| ("307 away", format!("Location: http://{elsewhere}/\r\n"), "".into());
    assert!(ask(&make(serving(away).await), credential).await.is_err());
}

async fn ask(verifier: &Arc<dyn Verifier>, credential: &[u8]) -> Result<(), VerifyError> {
    let asked = Asked::default();
    let credential = Credential { value: credential, basic: false };
    verifier.verify(&credential, &asked.with(Place::Message), 1_700_000_000).await.map(|_| ())
}
