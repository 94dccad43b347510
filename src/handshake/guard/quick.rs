//! The usual upgrade, answered without hyper, which costs a good part less: it is
//! what a connection begins with, and a 101 is all that is said. Until it is
//! answered the head stays in the guard, so that any other answer can be left to
//! hyper.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::{HeadGuard, Phase};
use crate::close::Reason;
use crate::handshake::head;
use crate::stream::Stream;

impl HeadGuard {
    /// Waits for the first head, and gives that of an upgrade. Whatever else comes,
    /// the end of the stream too, is left to hyper.
    ///
    /// Cancel safe: what has come of the head is in the guard.
    pub async fn first_upgrade(&mut self) -> Option<request::Parts> {
        let length = std::future::poll_fn(|context| self.poll_head(context)).await?;
        let mut request = None;
        let verdict = length.and_then(|length| {
            let bytes = Bytes::copy_from_slice(&self.ahead[..length]);
            let head;
            (head, request) = head::read_upgrade(&bytes, self.most_fields)?;
            Ok((length, head))
        });
        self.phase = self.phase_after(verdict);
        request
    }

    /// How long the head is, once it is here or is known to be none.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<usize, Reason>>> {
        loop {
            // The end of the stream, or an error, comes again to whoever reads on.
            let Ok(false) = ready!(self.poll_fill(context)) else { return Poll::Ready(None) };
            let Phase::Head { scanned } = self.phase else { return Poll::Ready(None) };
            if let Some(length) = self.length_of_head(scanned) {
                return Poll::Ready(Some(length));
            }
            self.phase = Phase::Head { scanned: self.ahead.len() };
        }
    }

    /// Waits for the client to go away while its upgrade is judged and dialled for. What
    /// it sends meanwhile is held; once that is as much as in front of hyper, nothing
    /// more is read, its end neither.
    ///
    /// Cancel safe: what has come is in the guard.
    pub async fn departed(&mut self) {
        let head = match self.phase {
            Phase::Judged { left, .. } => left,
            _ => 0,
        };
        std::future::poll_fn(|context| {
            while self.ahead.len() - head < self.limits.header_bytes {
                let Ok(false) = ready!(self.poll_fill(context)) else { return Poll::Ready(()) };
            }
            Poll::Pending
        })
        .await;
    }

    /// Answers the upgrade that was taken with a 101 of these `headers`; gives
    /// back the stream and what the client sent behind its head.
    ///
    /// # Errors
    /// The client is gone, or takes nothing.
    pub async fn switch(mut self, headers: &HeaderMap) -> io::Result<(Stream, Bytes)> {
        if let Phase::Judged { left, .. } = self.phase {
            self.ahead.advance(left);
        }
        let mut answer = Vec::with_capacity(256);
        answer.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
        write_fields(&mut answer, headers);
        let writing = async {
            self.stream.write_all(&answer).await?;
            self.stream.flush().await
        };
        match self.limits.write_stall {
            Some(limit) => timeout(limit, writing).await??,
            None => writing.await?,
        }
        Ok((self.stream, self.ahead.freeze()))
    }
}

/// Writes header fields and the empty line that ends a head (RFC 9112 §2.1).
pub fn write_fields<'f>(
    bytes: &mut Vec<u8>,
    fields: impl IntoIterator<Item = (&'f HeaderName, &'f HeaderValue)>,
) {
    for (name, value) in fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixStream;

    use super::super::{FEW_FIELDS, GuardLimits, STAND_IN};
    use super::*;

    const HEAD: &str =
        "GET /ws?a=b HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nX: 1\r\nX: 2\r\n\r\n";

    async fn guarded(sent: &str) -> (HeadGuard, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(sent.as_bytes()).await.unwrap();
        ours.readable().await.unwrap();
        let limits = GuardLimits { header_bytes: 1024, write_stall: None };
        (HeadGuard::new(Stream::Unix(ours), limits).0, theirs)
    }

    #[tokio::test]
    async fn an_upgrade_is_taken_and_answered_with_what_comes_behind_kept() {
        let (mut guard, mut theirs) = guarded(&format!("{HEAD}behind")).await;
        let head = guard.first_upgrade().await.unwrap();
        assert_eq!((head.method.as_str(), head.uri.to_string()), ("GET", "/ws?a=b".to_owned()));
        assert_eq!(head.headers.get_all("x").iter().collect::<Vec<_>>(), ["1", "2"]);
        let mut headers = HeaderMap::new();
        headers.insert("upgrade", "websocket".parse().unwrap());
        let (stream, ahead) = guard.switch(&headers).await.unwrap();
        assert_eq!(&ahead[..], b"behind");
        drop(stream);
        let mut answer = String::new();
        theirs.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n");
    }

    #[tokio::test]
    async fn a_head_that_was_taken_is_still_there_for_hyper() {
        let (mut guard, _theirs) = guarded(HEAD).await;
        assert!(guard.first_upgrade().await.is_some());
        let mut all = vec![0; HEAD.len()];
        guard.read_exact(&mut all).await.unwrap();
        assert_eq!(all, HEAD.as_bytes());
    }

    #[tokio::test]
    async fn whatever_else_comes_is_left_to_hyper() {
        let many: String = (0..=FEW_FIELDS).map(|n| format!("x{n}:\r\n")).collect();
        let others = [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            HEAD.replace("Host", "Host: b\r\nHost"),
            HEAD.replace("X: 1", &many),
        ];
        for sent in others {
            let (mut guard, theirs) = guarded(&sent).await;
            assert!(guard.first_upgrade().await.is_none(), "{sent}");
            drop(theirs);
            let mut read = Vec::new();
            // A refused head never ends: its stand-in asks for an answer.
            let reading = timeout(Duration::from_millis(50), guard.read_to_end(&mut read));
            let refused = reading.await.is_err();
            assert_eq!(refused, read == STAND_IN, "{sent}");
        }
        let (mut guard, theirs) = guarded(&HEAD[..HEAD.len() - 1]).await;
        drop(theirs);
        assert!(guard.first_upgrade().await.is_none());
        assert!(guard.has_part_of_a_head());
    }

    #[tokio::test]
    async fn a_client_that_leaves_while_it_is_judged_is_noticed() {
        let (mut guard, mut theirs) = guarded(&format!("{HEAD}behind")).await;
        guard.first_upgrade().await.unwrap();
        for piece in ["more", "and more"] {
            theirs.write_all(piece.as_bytes()).await.unwrap();
            let waiting = timeout(Duration::from_millis(10), guard.departed());
            assert!(waiting.await.is_err(), "it is still there");
        }
        drop(theirs);
        guard.departed().await;
        let (_, held) = guard.into_parts();
        assert_eq!(held, format!("{HEAD}behindmoreand more"));
    }

    #[tokio::test]
    async fn what_a_client_sends_while_it_is_judged_is_held_within_bounds() {
        let (mut guard, mut theirs) = guarded(HEAD).await;
        guard.first_upgrade().await.unwrap();
        let flood = tokio::spawn(async move { theirs.write_all(&[0; 1 << 22]).await });
        assert!(timeout(Duration::from_millis(50), guard.departed()).await.is_err());
        assert!(!flood.is_finished(), "it was all read");
        let held = guard.into_parts().1.len() - HEAD.len();
        assert!((1024..8192).contains(&held), "{held}");
    }

    #[tokio::test]
    async fn a_head_that_comes_in_pieces_is_waited_for() {
        let (mut guard, mut theirs) = guarded("\r\n").await;
        for piece in HEAD.as_bytes().chunks(3) {
            let waiting = timeout(Duration::from_millis(1), guard.first_upgrade());
            assert!(waiting.await.is_err(), "it did not wait");
            theirs.write_all(piece).await.unwrap();
        }
        let head = guard.first_upgrade().await.unwrap();
        assert_eq!(head.uri.to_string(), "/ws?a=b");
    }
}
