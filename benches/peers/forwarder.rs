//! The bound: a TCP forwarder that holds no buffer and knows no WebSocket. One
//! task a connection reads into one scratch buffer, writes at once, and keeps
//! bytes only while the other side takes none. What a proxy costs above it is
//! what it does with the bytes.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

/// Forwards every connection on `port` to `backend` until killed.
pub(crate) fn run(port: u16, backend: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from(([0, 0, 0, 0], port)))?;
        let listener: TcpListener = socket.listen(4096)?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(async move {
                client.set_nodelay(true)?;
                let upstream = TcpStream::connect(backend).await?;
                upstream.set_nodelay(true)?;
                Forward::new(client, upstream).await
            });
        }
    })
}

/// Both ways of one connection.
pub(crate) struct Forward<S> {
    client: S,
    upstream: S,
    up: Way,
    down: Way,
}

impl<S> Forward<S> {
    pub(crate) fn new(client: S, upstream: S) -> Forward<S> {
        Forward { client, upstream, up: Way::default(), down: Way::default() }
    }
}

#[derive(Default)]
struct Way {
    kept: Vec<u8>,
    at: usize,
    ended: bool,
    shut: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Forward<S> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Forward { client, upstream, up, down } = self.get_mut();
        SCRATCH.with_borrow_mut(|scratch| {
            let up = up.poll_move(client, upstream, context, scratch);
            let down = down.poll_move(upstream, client, context, scratch);
            match (up, down) {
                (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                    Poll::Ready(Err(error))
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
                (Poll::Pending, _) | (_, Poll::Pending) => Poll::Pending,
            }
        })
    }
}

impl Way {
    fn poll_move<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        from: &mut S,
        to: &mut S,
        context: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<io::Result<()>> {
        loop {
            while self.at < self.kept.len() {
                self.at += ready!(Pin::new(&mut *to).poll_write(context, &self.kept[self.at..]))?;
            }
            if self.at > 0 {
                (self.kept, self.at) = (Vec::new(), 0);
            }
            if self.ended {
                if !self.shut {
                    ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(context, &mut buffer))?;
            let mut bytes = buffer.filled();
            self.ended = bytes.is_empty();
            while !bytes.is_empty() {
                match Pin::new(&mut *to).poll_write(context, bytes)? {
                    Poll::Ready(count) => bytes = &bytes[count..],
                    Poll::Pending => {
                        self.kept = bytes.to_vec();
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}
