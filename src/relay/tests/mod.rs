//! The relay between two in-memory peers whose every byte the test decides.

mod carrying;
mod closing;
mod tapping;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::frame::{Header, Opcode, apply_mask, encode_close, encode_frame};
use super::pump::{Peer, Pump};
use super::{Control, Ended, RelaySettings, Tap};
use crate::clock::Ticker;
use crate::stream::Parting;

pub(super) const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

impl Parting for DuplexStream {
    fn ends_quietly(&self) -> bool {
        true
    }
}

/// A relay that runs, and the far ends of its two peers.
pub(super) struct Rig {
    pub(super) client: DuplexStream,
    pub(super) upstream: DuplexStream,
    pub(super) control: Arc<Control>,
    pub(super) ticker: Arc<Ticker>,
    pub(super) ended: JoinHandle<Ended>,
}

#[derive(Default)]
pub(super) struct Setup {
    pub(super) settings: RelaySettings,
    pub(super) tap: Option<Box<dyn Tap>>,
    pub(super) client_ahead: Bytes,
    pub(super) upstream_ahead: Bytes,
    pub(super) capacity: Option<usize>,
}

impl Setup {
    pub(super) fn start(self) -> Rig {
        let capacity = self.capacity.unwrap_or(1 << 20);
        let (client, near_client) = duplex(capacity);
        let (upstream, near_upstream) = duplex(capacity);
        let ticker = Arc::new(Ticker::default());
        let control = Arc::new(Control::new(0));
        let pump = Pump::new(
            Peer { stream: near_client, ahead: self.client_ahead },
            Peer { stream: near_upstream, ahead: self.upstream_ahead },
            control.clone(),
            ticker.clone(),
            &self.settings,
            self.tap,
        );
        Rig { client, upstream, control, ticker, ended: tokio::spawn(pump) }
    }
}

pub(super) fn rig() -> Rig {
    Setup::default().start()
}

/// Lets the relay do all that it can: the paused clock only moves then.
pub(super) async fn idle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// What has arrived, without waiting for more than the relay has to give.
pub(super) async fn arrived(stream: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let wait = Duration::from_millis(1);
    while let Ok(Ok(1..)) = tokio::time::timeout(wait, stream.read_buf(&mut bytes)).await {}
    bytes
}

/// Everything up to the end of the stream.
pub(super) async fn rest(stream: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

pub(super) async fn put(stream: &mut DuplexStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
}

/// Whole frames with their payload unmasked; panics if any byte is left over.
pub(super) fn frames(mut bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let header = Header::parse(bytes).unwrap().expect("a whole header");
        let end = header.len + header.payload as usize;
        assert!(bytes.len() >= end, "a whole frame");
        let mut payload = bytes[header.len..end].to_vec();
        apply_mask(&mut payload, header.mask.unwrap_or_default(), 0);
        frames.push((header, payload));
        bytes = &bytes[end..];
    }
    frames
}

pub(super) fn text(payload: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    encode_frame(Opcode::TEXT, payload.as_bytes(), mask)
}

/// The same frame, but not the last of its message.
pub(super) fn unfinished(mut frame: Vec<u8>) -> Vec<u8> {
    frame[0] &= 0x7f;
    frame
}

/// The payload of a Close with `code` and `reason`.
pub(super) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    encode_close(code, reason, None)[2..].to_vec()
}

/// Asserts that `bytes` are whole frames of which only the last is a Close.
pub(super) fn assert_closed(bytes: &[u8], code: u16, reason: &str, masked: bool) -> usize {
    let frames = frames(bytes);
    let ((header, payload), before) = frames.split_last().expect("a Close");
    assert_eq!(header.opcode, Opcode::CLOSE);
    assert_eq!(header.mask.is_some(), masked);
    assert_eq!(*payload, close_payload(code, reason));
    assert!(before.iter().all(|(header, _)| header.opcode != Opcode::CLOSE));
    before.len()
}
