//! A stream of PostgreSQL's messages, each of bounded size: one that is announced
//! larger is an error before it is read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// The kind of a message, and its length.
const HEADER: usize = 5;

/// `stream`, of which no message is longer than a limit.
pub(super) struct Bounded {
    stream: Stream,
    scan: Scan,
}

/// Follows messages by their headers.
struct Scan {
    limit: usize,
    header: Vec<u8>,
    /// Bytes of the current message still to come.
    rest: usize,
}

impl Bounded {
    pub(super) fn new(stream: Stream, limit: usize) -> Bounded {
        Bounded { stream, scan: Scan { limit, header: Vec::with_capacity(HEADER), rest: 0 } }
    }
}

impl Scan {
    fn advance(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = if self.rest > 0 {
                let taken = self.rest.min(bytes.len());
                self.rest -= taken;
                taken
            } else {
                let taken = (HEADER - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..taken]);
                if let [_, a, b, c, d] = *self.header {
                    // The length counts itself.
                    let length = u32::from_be_bytes([a, b, c, d]).checked_sub(4);
                    let length = length.ok_or(io::ErrorKind::InvalidData)?;
                    self.rest = length as usize;
                    if self.rest > self.limit {
                        return Err(io::ErrorKind::FileTooLarge.into());
                    }
                    self.header.clear();
                }
                taken
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }
}

impl AsyncRead for Bounded {
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

impl AsyncWrite for Bounded {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &[u8]) -> Option<io::ErrorKind> {
        let new = || Scan { limit: 16, header: Vec::new(), rest: 0 };
        let whole = new().advance(text).err().map(|error| error.kind());
        let mut single = new();
        let mut last = None;
        for byte in text {
            last = last.or(single.advance(&[*byte]).err().map(|error| error.kind()));
        }
        assert_eq!(whole, last);
        whole
    }

    #[test]
    fn messages_pass_up_to_the_limit_and_no_further() {
        let message = |length: u32| {
            let body = vec![b'D'; length as usize];
            [&b"D"[..], &(length + 4).to_be_bytes(), &body].concat()
        };
        assert_eq!(scan(&[message(16), message(0), message(3)].concat().repeat(9)), None);
        assert_eq!(scan(&message(17)[..5]), Some(io::ErrorKind::FileTooLarge));
        assert_eq!(scan(b"D\0\0\0\x03"), Some(io::ErrorKind::InvalidData));
        assert_eq!(scan(b"HTTP/1.1"), Some(io::ErrorKind::FileTooLarge));
        assert_eq!(scan(b"D\0"), None);
    }
}
