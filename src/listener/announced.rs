//! A connection that a proxy announces: its header of the PROXY protocol comes before
//! everything else, TLS included.

use std::io;

use tokio::io::AsyncReadExt as _;

use super::Accepted;
use crate::proxy_protocol::{Ends, Malformed, decode, wanted};

impl Accepted {
    /// Reads the header, and not a byte more: whose connection this is, unless the
    /// proxy speaks for itself. The peer is that one from now on. The caller bounds
    /// the time.
    ///
    /// # Errors
    /// What is no header, or the connection's own.
    pub async fn read_announcement(&mut self) -> io::Result<Option<Ends>> {
        let malformed = |_: Malformed| io::Error::from(io::ErrorKind::InvalidData);
        let mut header = Vec::new();
        while let Some(more) = wanted(&header).map_err(malformed)? {
            let begun = header.len();
            header.resize(begun + more, 0);
            self.stream.read_exact(&mut header[begun..]).await?;
        }
        let ends = decode(&header).map_err(malformed)?.ends;
        if let Some(ends) = ends {
            self.peer = Some(ends.client);
        }
        Ok(ends)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;
    use crate::proxy_protocol::{Details, Version, encode};
    use crate::stream::Stream;

    #[tokio::test]
    async fn what_follows_the_header_is_left_to_others() {
        let ends = Ends {
            client: "192.0.2.1:4711".parse().unwrap(),
            server: "192.0.2.2:443".parse().unwrap(),
        };
        let details = Details { authority: "a", unique_id: "b", identity: None };
        for version in [Version::V1, Version::V2] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let header = encode(version, ends, &details).unwrap();
            theirs.write_all(&[&header[..], b"GET"].concat()).await.unwrap();
            let mut accepted = Accepted { stream: Stream::Unix(ours), peer: None };
            assert_eq!(accepted.read_announcement().await.unwrap(), Some(ends));
            assert_eq!(accepted.peer, Some(ends.client));
            let mut rest = [0; 3];
            accepted.stream.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"GET");
        }
        for wrong in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"PROXY TCP4 x\r\n    ", b"PROX"] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(wrong).await.unwrap();
            drop(theirs);
            let mut accepted = Accepted { stream: Stream::Unix(ours), peer: None };
            assert!(accepted.read_announcement().await.is_err());
        }
    }
}
