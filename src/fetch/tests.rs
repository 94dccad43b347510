//! The client against servers that are slow, broken, large and down.

use std::time::Instant;

use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn client(timeout: Duration) -> Fetch {
    let settings = FetchSettings { ca: None, allow_http: false, timeout: Span(timeout) };
    Fetch::build(&settings, Path::new("."), false).ok().unwrap()
}

fn url(text: &str) -> Url {
    Url::read(text, false).ok().unwrap()
}

async fn get(fetch: &Fetch, text: &str) -> Result<Answer, FetchError> {
    fetch.send(url(text).request(Method::GET)).await
}

/// Reads one request's head.
async fn head(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => text.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(text).unwrap()
}

/// A server that answers each connection's first request with `answer` and
/// closes; its URL.
async fn answering(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                head(&mut stream).await;
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn an_answer_is_read_to_its_end_whatever_its_status() {
    let answer = b"HTTP/1.1 418 no\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello".to_vec();
    let got = get(&client(Duration::from_secs(5)), &answering(answer).await).await.ok().unwrap();
    assert_eq!(
        (got.status.as_u16(), &got.headers["x-a"], &got.body[..]),
        (418, &"1".parse().unwrap(), &b"hello"[..])
    );
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let answer = b"HTTP/1.1 302 f\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_vec();
    let got = get(&client(Duration::from_secs(5)), &answering(answer).await).await.ok().unwrap();
    assert_eq!(got.status, StatusCode::FOUND);
}

#[tokio::test]
async fn a_body_over_a_mebibyte_is_refused_however_it_is_framed() {
    let body = vec![b'a'; BODY + 1];
    let sized = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let chunk =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len());
    for head in [sized, chunk, "HTTP/1.1 200 OK\r\n\r\n".to_owned()] {
        let url = answering([head.as_bytes(), &body].concat()).await;
        let got = get(&client(Duration::from_secs(10)), &url).await;
        assert_eq!(got.err(), Some(FetchError::TooLarge), "{head}");
    }
    let whole = [b"HTTP/1.1 200 OK\r\n\r\n", &body[1..]].concat();
    let got = get(&client(Duration::from_secs(10)), &answering(whole).await).await;
    assert_eq!(got.ok().unwrap().body.len(), BODY);
}

#[tokio::test]
async fn garbage_and_half_an_answer_are_broken() {
    let long = [b"HTTP/1.1 200 OK\r\nX: ", &vec![b'a'; 2 * HEAD][..]].concat();
    for answer in [
        &b""[..],
        b"\x16\x03\x01",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        &long,
    ] {
        let got = get(&client(Duration::from_secs(5)), &answering(answer.to_vec()).await).await;
        assert_eq!(got.err(), Some(FetchError::Broken), "{}", answer.len());
    }
}

#[tokio::test]
async fn the_timeout_is_over_the_whole_exchange() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    // A byte now and then is no answer either.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                head(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n").await;
                while stream.write_all(b"a").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    });
    let began = Instant::now();
    let got = get(&client(Duration::from_millis(200)), &url).await;
    assert_eq!(got.err(), Some(FetchError::Timeout));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_port_where_nobody_listens_and_a_name_that_is_none_are_told_apart() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let fetch = client(Duration::from_secs(5));
    assert_eq!(get(&fetch, &format!("http://{closed}/")).await.err(), Some(FetchError::Connect));
    let nowhere = Url::read("http://surely.invalid/", true).ok().unwrap();
    let got = fetch.send(nowhere.request(Method::GET)).await;
    assert_eq!(got.err(), Some(FetchError::Resolve));
}

#[tokio::test]
async fn connections_are_kept_and_one_that_ended_is_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (accepted, mut count) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = accepted.send(());
            tokio::spawn(async move {
                // Two answers a connection; the third request meets a dead one.
                for _ in 0..2 {
                    head(&mut stream).await;
                    let _ =
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
                head(&mut stream).await;
            });
        }
    });
    let fetch = client(Duration::from_secs(5));
    for _ in 0..5 {
        assert_eq!(get(&fetch, &url).await.ok().unwrap().body, "ok");
    }
    let mut connections = 0;
    while count.try_recv().is_ok() {
        connections += 1;
    }
    assert_eq!(connections, 3);
}

#[tokio::test]
async fn tls_is_verified_against_the_own_authorities() {
    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name: &str, text: String| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let cert = write("cert", pair.cert.pem());
    write("other", other.cert.pem());
    let server = tls::server(&cert, &write("key", pair.signing_key.serialize_pem()), None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = tokio_rustls::TlsAcceptor::from(Arc::clone(&server));
            tokio::spawn(async move {
                let Ok(mut stream) = server.accept(stream).await else { return };
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                let _ = stream.flush().await;
                let _ = stream.read(&mut [0; 1024]).await;
            });
        }
    });
    let ask = async |ca: Option<&str>, host: &str| {
        let settings =
            FetchSettings { ca: ca.map(PathBuf::from), allow_http: false, timeout: Span::secs(5) };
        let fetch = Fetch::build(&settings, dir.path(), ca.is_some()).ok().unwrap();
        let got = get(&fetch, &format!("https://{host}:{port}/")).await;
        got.map(|answer| answer.status.as_u16())
    };
    assert_eq!(ask(Some("cert"), "localhost").await, Ok(200));
    assert_eq!(ask(Some("other"), "localhost").await, Err(FetchError::Tls));
    assert_eq!(ask(Some("cert"), "127.0.0.1").await, Err(FetchError::Tls));
    assert_eq!(ask(None, "localhost").await, Err(FetchError::Tls));
}

#[test]
fn what_cannot_be_used_is_named_by_its_key() {
    let settings =
        FetchSettings { ca: Some("none.pem".into()), allow_http: false, timeout: Span::default() };
    let problems = Fetch::build(&settings, Path::new("/nowhere"), true).err().unwrap();
    let keys: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(keys, ["timeout", "ca"]);
}

#[test]
fn an_error_says_the_same_as_its_cause() {
    for error in [
        FetchError::Resolve,
        FetchError::Connect,
        FetchError::Tls,
        FetchError::Timeout,
        FetchError::Broken,
        FetchError::TooLarge,
    ] {
        assert_eq!(error.to_string(), error.cause());
    }
}
