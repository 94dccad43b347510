//! From a host and a port to a TCP connection: the name is resolved anew each
//! time, and its addresses are tried in turn. Whoever dials bounds the whole time.

use std::io;
use std::io::ErrorKind::{NotConnected, WouldBlock};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use crate::stream::set_up;

/// How long one address of several may take before the next is tried.
const PER_ADDRESS: Duration = Duration::from_secs(2);

/// The addresses of `host`: a name, or an IP address without brackets, which is
/// taken as it is.
///
/// # Errors
/// If the name does not resolve, or to nothing.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    if addresses.is_empty() { Err(io::ErrorKind::AddrNotAvailable.into()) } else { Ok(addresses) }
}

/// Who says the first word on a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FirstWord {
    /// Whoever dials, and at once: it carries the acknowledgement that ends TCP's
    /// handshake, and the server wakes up once, to a connection with a request.
    Ours,
    /// Perhaps the server, which must not wait for that acknowledgement.
    Unknown,
}

/// A connection to the first of `addresses` that takes one, set up as all of ours.
///
/// # Errors
/// What the last address said.
pub async fn connect(addresses: &[SocketAddr], first: FirstWord) -> io::Result<TcpStream> {
    connect_and_say(addresses, first, &[]).await.map(|(stream, _)| stream)
}

/// The same, and sends what the socket takes of `words` at once, which is told beside
/// it: that they can be sent is how a connection is found to be there.
///
/// # Errors
/// As [`connect`].
pub async fn connect_and_say(
    addresses: &[SocketAddr],
    first: FirstWord,
    words: &[u8],
) -> io::Result<(TcpStream, usize)> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let connecting = connect_to(*address, first, words);
        let connected = if addresses.len() > 1 {
            tokio::time::timeout(PER_ADDRESS, connecting)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        } else {
            connecting.await
        };
        match connected {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(
    address: SocketAddr,
    first: FirstWord,
    words: &[u8],
) -> io::Result<(TcpStream, usize)> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    set_up(&socket);
    if first == FirstWord::Ours {
        // Best effort: only a packet is at stake.
        let _ = socket.set_tcp_quickack(false);
    }
    match socket.connect(&address.into()) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // On the same machine TCP's handshake is over before the call returns.
    let said = match words {
        [] => socket.peer_addr().map(|_| 0),
        words => socket.send(words),
    };
    let stream = TcpStream::from_std(socket.into())?;
    match said {
        Ok(said) => Ok((stream, said)),
        Err(error) if matches!(error.kind(), WouldBlock | NotConnected) => {
            stream.writable().await?;
            stream.take_error()?.map_or(Ok((stream, 0)), Err)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn addresses_are_tried_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(
            connect(&[closed, open], FirstWord::Ours).await.unwrap().peer_addr().unwrap(),
            open
        );
        assert_eq!(
            connect(&[closed], FirstWord::Ours).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(connect(&[], FirstWord::Ours).await.is_err());
    }

    #[tokio::test]
    async fn words_are_said_to_the_first_that_listens_and_to_nobody_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for first in [FirstWord::Ours, FirstWord::Unknown] {
            let dialled = connect_and_say(&[closed, open], first, b"hello").await;
            let (mut stream, said) = dialled.unwrap();
            stream.write_all(&b"hello"[said..]).await.unwrap();
            drop(stream);
            let mut heard = String::new();
            listener.accept().await.unwrap().0.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "hello");
            let refused = connect_and_say(&[closed], first, b"hello").await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
    }

    /// A queue that is full drops the first packet, which is sent again after a second.
    #[tokio::test]
    async fn a_connection_that_takes_a_while_is_waited_for_before_words_are_said() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(1).unwrap();
        let listener = TcpListener::from_std(socket.into()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut before = Vec::new();
        for _ in 0..2 {
            before.push(connect(&[address], FirstWord::Unknown).await.unwrap());
        }
        let dialling =
            tokio::spawn(
                async move { connect_and_say(&[address], FirstWord::Ours, b"hello").await },
            );
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!dialling.is_finished(), "the queue was not full");
        for _ in 0..2 {
            listener.accept().await.unwrap();
        }
        let (mut stream, said) = dialling.await.unwrap().unwrap();
        assert_eq!(said, 0);
        stream.write_all(b"hello").await.unwrap();
        drop(stream);
        let mut heard = String::new();
        listener.accept().await.unwrap().0.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");
    }

    #[tokio::test]
    async fn an_address_is_not_looked_up() {
        assert_eq!(resolve("::1", 7).await.unwrap(), ["[::1]:7".parse().unwrap()]);
        assert_eq!(resolve("127.0.0.1", 7).await.unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        assert!(resolve("surely.invalid", 7).await.is_err());
    }
}
