//! An upstream that speaks before anybody is known (`dial: first`). It can be heard,
//! and by its type not spoken to: for that it is exchanged for a permit.
//!
//! ```compile_fail
//! async fn no_permit(mut upstream: sockgate::upstream::Previewed) {
//!     use tokio::io::AsyncWriteExt;
//!     upstream.write_all(b"of the client").await;
//! }
//! ```

use std::future::pending;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::endpoint::Endpoint;
use super::websocket::{UpgradeError, UpgradeRequest, Upgraded, upgrade};
use crate::policy::{Permit, Preview};
use crate::relay::frame::{Extensions, Header, Opcode, encode_close, judged_close};
use crate::stream::Stream;

/// An upstream that has switched protocols for nobody yet.
pub struct Previewed {
    stream: Stream,
    headers: HeaderMap,
    /// What it said that has not been heard; begins between two messages.
    incoming: BytesMut,
    /// How many bytes more may be heard.
    left: usize,
    _preview: Preview,
}

/// Why an upstream has no more to say.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// It closed in order.
    #[error("the upstream closed with {code}")]
    Closed {
        /// Its close code; 1005 for an empty Close.
        code: u16,
        /// What it said to it.
        text: String,
    },
    /// Its connection is gone.
    #[error("the upstream is gone")]
    Gone,
    /// It broke RFC 6455.
    #[error("the upstream broke the WebSocket protocol")]
    Broken,
}

/// How much is read at once.
const CHUNK: usize = 4096;

/// How long an upstream may take to take a Close.
const FAREWELL: Duration = Duration::from_secs(2);

/// Dials and upgrades for a client that has not said who it is. What `wanted` says
/// must not depend on who that is. At most `most` bytes are heard. The caller bounds
/// the time.
///
/// # Errors
/// As [`connect`](super::connect).
pub async fn preview(
    preview: Preview,
    endpoint: &Endpoint,
    wanted: UpgradeRequest,
    most: usize,
) -> Result<Previewed, UpgradeError> {
    let Upgraded { stream, ahead, headers } = upgrade(endpoint, wanted).await?;
    let incoming = BytesMut::from(&ahead[..]);
    Ok(Previewed { stream, headers, incoming, left: most, _preview: preview })
}

impl Previewed {
    /// The frames of the next whole messages, as they came, so that the client may
    /// be told something else between them. Once so much was heard that the next
    /// message is too long, for ever pending: it waits for the permit.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn hear(&mut self) -> Result<Bytes, Silence> {
        loop {
            let whole = whole(&self.incoming)?;
            if whole > self.left {
                return pending().await;
            }
            if whole > 0 {
                self.left -= whole;
                return Ok(self.incoming.split_to(whole).freeze());
            }
            let room = self.left.saturating_sub(self.incoming.len()).min(CHUNK);
            if room == 0 {
                return pending().await;
            }
            match self.stream.read_buf(&mut (&mut self.incoming).limit(room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(Silence::Gone),
            }
        }
    }

    /// The upstream, which may be spoken to from now on.
    pub fn granted(self, _permit: &Permit) -> Upgraded {
        let Previewed { stream, headers, incoming, .. } = self;
        Upgraded { stream, ahead: incoming.freeze(), headers }
    }

    /// Closes it: nobody came of the client.
    pub async fn leave(mut self, code: u16, text: &str) {
        let close = encode_close(code, text, Some(rand::random()));
        let leaving = async {
            self.stream.write_all(&close).await?;
            self.stream.shutdown().await
        };
        // Whether it hears that is its own affair.
        let _ = timeout(FAREWELL, leaving).await.is_ok();
    }
}

/// How many of `bytes` are whole messages, and control frames between them; why there
/// are no more, if there are none.
fn whole(bytes: &[u8]) -> Result<usize, Silence> {
    let (mut at, mut end, mut continues) = (0, 0, false);
    let silence = loop {
        let header = match Header::parse(&bytes[at..]) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(end),
            Err(_) => break Silence::Broken,
        };
        if header.mask.is_some() || !header.may_come(continues, Extensions::None) {
            break Silence::Broken;
        }
        let length = usize::try_from(header.payload).unwrap_or(usize::MAX);
        let start = at + header.len;
        let Some(payload) = bytes.get(start..start.saturating_add(length)) else { return Ok(end) };
        if header.opcode == Opcode::CLOSE {
            break closed(payload);
        }
        at = start + length;
        if !header.opcode.is_control() {
            continues = !header.fin;
        }
        if !continues {
            end = at;
        }
    };
    if end > 0 { Ok(end) } else { Err(silence) }
}

fn closed(payload: &[u8]) -> Silence {
    match judged_close(payload) {
        Ok(code) => {
            let text = payload.get(2..).unwrap_or_default();
            Silence::Closed { code, text: String::from_utf8_lossy(text).into_owned() }
        }
        Err(_) => Silence::Broken,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;
    use crate::policy::{Origins, OwnOrigin, Previews};
    use crate::relay::frame::encode_frame;

    fn frame(opcode: Opcode, payload: &[u8], fin: bool) -> Vec<u8> {
        let mut frame = encode_frame(opcode, payload, None);
        frame[0] &= if fin { 0xff } else { 0x7f };
        frame
    }

    fn previewed(left: usize) -> (Previewed, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let own = OwnOrigin { host: "h", port: None, https: false };
        let preview = Previews::default().open(&Origins::Any, &HeaderMap::new(), &own).unwrap();
        let (stream, incoming) = (Stream::Unix(ours), BytesMut::new());
        let headers = HeaderMap::new();
        (Previewed { stream, headers, incoming, left, _preview: preview }, theirs)
    }

    /// What is heard of `bytes` within `most`, and what is left or comes of it.
    async fn heard(bytes: &[u8], most: usize) -> (Vec<u8>, Result<Vec<u8>, Silence>) {
        let (mut previewed, mut upstream) = previewed(most);
        upstream.write_all(bytes).await.unwrap();
        let mut heard = Vec::new();
        loop {
            match timeout(Duration::from_millis(20), previewed.hear()).await {
                Ok(Ok(frames)) => heard.extend_from_slice(&frames),
                Ok(Err(silence)) => return (heard, Err(silence)),
                Err(_) => break,
            }
        }
        drop(upstream);
        let Previewed { mut stream, incoming, .. } = previewed;
        let mut rest = incoming.to_vec();
        stream.read_to_end(&mut rest).await.unwrap();
        (heard, Ok(rest))
    }

    #[tokio::test]
    async fn whole_messages_are_heard_and_nothing_is_lost() {
        let text = frame(Opcode::TEXT, b"INFO", true);
        let ping = frame(Opcode::PING, b"", true);
        let start = frame(Opcode::TEXT, b"sta", false);
        let rest = frame(Opcode::CONTINUATION, b"rt", true);
        let all = [&text[..], &ping, &start, &ping, &rest, &text].concat();
        for cut in 0..=all.len() {
            let (heard, rest) = heard(&all[..cut], 1000).await;
            assert_eq!([heard, rest.unwrap()].concat(), all[..cut]);
        }
        assert_eq!(heard(&all, 1000).await, (all.clone(), Ok(Vec::new())));
        let open = [&text[..], &start, &ping].concat();
        let (told, rest) = heard(&open, 1000).await;
        assert_eq!((told, rest), (text, Ok([&start[..], &ping].concat())));
    }

    #[tokio::test]
    async fn what_is_beyond_the_bound_waits_for_the_permit() {
        let text = frame(Opcode::TEXT, &[b'x'; 50], true);
        let all = text.repeat(3);
        assert_eq!(heard(&all, 110).await, (text.repeat(2), Ok(text.clone())));
        assert_eq!(heard(&text, 51).await, (Vec::new(), Ok(text)));
    }

    #[tokio::test]
    async fn an_upstream_that_ends_or_breaks_the_rules_is_silent() {
        let text = frame(Opcode::TEXT, b"bye", true);
        let close = encode_close(4000, "why", None);
        let expected = Silence::Closed { code: 4000, text: "why".to_owned() };
        let both = heard(&[&text[..], &close].concat(), 100).await;
        assert_eq!(both, (text, Err(expected)));
        for broken in [
            encode_frame(Opcode::TEXT, b"masked", Some([1, 2, 3, 4])),
            frame(Opcode::CONTINUATION, b"stray", true),
            vec![0xc1, 0],
            frame(Opcode::CLOSE, b"1", true),
        ] {
            assert_eq!(heard(&broken, 100).await, (Vec::new(), Err(Silence::Broken)));
        }
        let (mut previewed, upstream) = previewed(10);
        drop(upstream);
        assert_eq!(previewed.hear().await, Err(Silence::Gone));
    }
}
