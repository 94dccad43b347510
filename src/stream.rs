//! A byte stream to a peer, whatever carries it: TCP, a Unix socket, TLS.
//!
//! One enum instead of a trait object, so that the relay's reads and writes are
//! direct calls and a plain connection pays nothing for TLS.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection};
use rustix::net::{SendFlags, send};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected byte stream.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS that sockgate terminates.
    TlsServer(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// TLS that sockgate starts.
    TlsClient(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// One of those above in the form of another protocol.
    Other(Box<dyn Duplex>),
}

/// Anything that is read and written.
pub trait Duplex: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin> Duplex for S {}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::TlsServer($stream) => $call,
            Stream::TlsClient($stream) => $call,
            Stream::Other($stream) => $call,
        }
    };
}

/// Sets what a TCP socket of ours is like, a listener's for those it accepts.
///
/// No small frame waits for the acknowledgement of the last one. And the kernel
/// does not grow the buffers to tens of megabytes for a peer that does not read,
/// and for one that sends to such a peer: a pod's memory limit counts socket
/// memory.
pub fn set_up(socket: &impl AsFd) {
    // Linux doubles the sizes; best effort, since only time and memory are at stake.
    let socket = SockRef::from(socket);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_send_buffer_size(128 * 1024);
    let _ = socket.set_recv_buffer_size(256 * 1024);
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
            Stream::TlsServer(stream) => stream.is_write_vectored(),
            Stream::TlsClient(stream) => stream.is_write_vectored(),
            Stream::Other(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}

/// How a stream ends.
pub trait Parting {
    /// Whether a peer that has nothing more to say only ends it. TLS has its close_notify to
    /// say (RFC 8446 §6.1).
    fn ends_quietly(&self) -> bool;

    /// Takes `bytes` to be sent with the shutdown, which has to follow at once; how many
    /// were taken. The rest is for a write, as is all of it where nothing is gained.
    fn take_last(&self, _bytes: &[u8]) -> usize {
        0
    }
}

impl Parting for Stream {
    fn ends_quietly(&self) -> bool {
        matches!(self, Stream::Tcp(_) | Stream::Unix(_))
    }

    fn take_last(&self, bytes: &[u8]) -> usize {
        let Stream::Tcp(tcp) = self else { return 0 };
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        // What is wrong with the stream is wrong with the write that follows, too.
        tcp.try_io(Interest::WRITABLE, || Ok(send(tcp, bytes, flags)?)).unwrap_or(0)
    }
}

/// Follows what is read of a stream.
pub trait Scan {
    /// Takes note of `bytes`, which follow what was scanned before.
    ///
    /// # Errors
    /// What the read fails with, that brought them.
    fn advance(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A stream that shows a scanner every byte before anybody else reads it.
pub struct Scanned<S> {
    stream: Stream,
    scan: S,
}

impl<S: Scan> Scanned<S> {
    /// `stream`, of which nothing has been read yet, or nothing that `scan` should see.
    pub fn new(stream: Stream, scan: S) -> Scanned<S> {
        Scanned { stream, scan }
    }
}

impl<S: Scan + Unpin> AsyncRead for Scanned<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(this.scan.advance(&buffer.filled()[before..])),
            other => other,
        }
    }
}

impl<S: Unpin> AsyncWrite for Scanned<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// So that hyper's pool can hold one.
impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
