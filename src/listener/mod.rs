//! Accepts byte streams and says who is at the other end: TCP, Unix sockets,
//! TLS on top of TCP, proxies that speak for others. What the bytes mean is not this room's business.

mod announced;
mod config;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

pub use self::config::{ServerConfig, ServerTlsConfig};
use crate::proxy_protocol::Ends;
use crate::stream::{Stream, set_up};

/// Where to listen, as parsed from `server.listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `host:port`; the host may be a name, `[::1]`, or empty for all addresses.
    Tcp(String),
    /// `unix:PATH`, relative to the configuration file.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(FORM) } else { Ok(ListenAddress::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if port.parse::<u16>().is_err() || bare_v6 || host.contains('/') {
            return Err(FORM);
        }
        let host = if host.is_empty() { "0.0.0.0" } else { host };
        Ok(ListenAddress::Tcp(format!("{host}:{port}")))
    }
}

/// A bound listener.
pub struct Listener {
    socket: Socket,
    address: String,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// An accepted byte stream.
pub struct Accepted {
    /// The stream, before any TLS.
    pub stream: Stream,
    /// The address of the peer; none for a Unix socket.
    pub peer: Option<SocketAddr>,
}

impl Accepted {
    /// The two ends of the connection; none for a Unix socket.
    pub fn ends(&self) -> Option<Ends> {
        match &self.stream {
            Stream::Tcp(stream) => {
                Some(Ends { client: self.peer?, server: stream.local_addr().ok()? })
            }
            Stream::Unix(_) | Stream::TlsServer(_) | Stream::TlsClient(_) | Stream::Other(_) => {
                None
            }
        }
    }
}

impl Listener {
    /// Binds. A stale Unix socket that nobody answers on is replaced.
    ///
    /// # Errors
    /// What the system says: the address is taken, not ours, not permitted.
    pub async fn bind(address: &ListenAddress) -> io::Result<Listener> {
        match address {
            ListenAddress::Tcp(address) => {
                let addresses: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
                let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                for address in addresses {
                    match bind_tcp(address) {
                        Ok(socket) => {
                            let address = socket.local_addr()?.to_string();
                            return Ok(Listener { socket: Socket::Tcp(socket), address });
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            ListenAddress::Unix(path) => {
                remove_stale(path)?;
                let socket = UnixListener::bind(path)?;
                // The directory decides who may connect, as for other sidecars.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
                let address = format!("unix:{}", path.display());
                Ok(Listener { socket: Socket::Unix(socket, path.clone()), address })
            }
        }
    }

    /// The address as bound, with the port that the system chose.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether TLS can be spoken on it.
    pub fn is_tcp(&self) -> bool {
        matches!(self.socket, Socket::Tcp(_))
    }

    /// The next stream. Errors of one connection and a lack of descriptors are
    /// waited out here: an accept loop has nobody to tell.
    pub async fn accept(&self) -> Accepted {
        loop {
            let accepted = match &self.socket {
                Socket::Tcp(socket) => socket.accept().await.map(|(stream, peer)| Accepted {
                    stream: Stream::Tcp(stream),
                    peer: Some(peer),
                }),
                Socket::Unix(socket, _) => socket
                    .accept()
                    .await
                    .map(|(stream, _)| Accepted { stream: Stream::Unix(stream), peer: None }),
            };
            match accepted {
                Ok(accepted) => return accepted,
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            // Best effort: the next start replaces a stale socket anyway.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Linux hands the options of a listener down to what it accepts, so that no
    // connection costs the calls.
    set_up(&socket);
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)
        }
        Ok(_) => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"))
        }
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed() {
        let tcp = |text: &str| Ok(ListenAddress::Tcp(text.to_owned()));
        assert_eq!("0.0.0.0:80".parse(), tcp("0.0.0.0:80"));
        assert_eq!(":80".parse(), tcp("0.0.0.0:80"));
        assert_eq!("[::1]:80".parse(), tcp("[::1]:80"));
        assert_eq!("unix:/run/x".parse(), Ok(ListenAddress::Unix("/run/x".into())));
        for bad in ["", "80", "a:b", "::1:80", "unix:", "http://a:80", "a:70000"] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let address = ListenAddress::Unix(path.clone());
        let first = Listener::bind(&address).await.unwrap();
        assert_eq!(Listener::bind(&address).await.err().unwrap().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
    }
}
