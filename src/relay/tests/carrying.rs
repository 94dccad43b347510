//! Bytes arrive as they were sent, but for sockgate's own pings and their pongs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::*;
use crate::relay::frame::{Extensions, encode_ping};
use crate::relay::{Direction, TapVerdict};

/// A whole message as `direction` may carry it where permessage-deflate was
/// agreed: in fragments of any length, with control frames between them.
fn any_message(direction: Direction) -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![0usize..20, 100usize..140, 1000usize..3000, 65_530usize..66_000];
    let control = (prop_oneof![Just(Opcode::PING), Just(Opcode::PONG)], 0usize..126);
    let fragment = (length, any::<[u8; 4]>(), proptest::option::of(control));
    (vec(fragment, 1..4), any::<bool>(), any::<bool>()).prop_map(
        move |(fragments, text, deflated)| {
            let (mut message, last) = (Vec::new(), fragments.len() - 1);
            for (index, (length, mask, control)) in fragments.into_iter().enumerate() {
                let mask = (direction == Direction::Up).then_some(mask);
                let opcode = match (index, text) {
                    (0, true) => Opcode::TEXT,
                    (0, false) => Opcode::BINARY,
                    _ => Opcode::CONTINUATION,
                };
                let payload: Vec<u8> = (0..length).map(|at| (at * 7 + index) as u8).collect();
                let mut frame = encode_frame(opcode, &payload, mask);
                frame[0] &= if index < last { 0x7f } else { 0xff };
                frame[0] |= if index == 0 && deflated { 0x40 } else { 0 };
                message.extend(frame);
                if let Some((opcode, length)) = control {
                    message.extend(encode_frame(opcode, &vec![b'c'; length], mask));
                }
            }
            message
        },
    )
}

async fn write_in_pieces(mut stream: impl AsyncWrite + Unpin, bytes: &[u8], pieces: Vec<usize>) {
    let mut rest = bytes;
    for piece in pieces.iter().cycle() {
        let (now, later) = rest.split_at((*piece).min(rest.len()));
        stream.write_all(now).await.unwrap();
        tokio::task::yield_now().await;
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
}

/// Both sides write and read at once; `ahead` came before `up`.
async fn exchange(rig: Rig, ahead: &[u8], up: &[u8], down: &[u8], pieces: [Vec<usize>; 2]) {
    let [client_pieces, upstream_pieces] = pieces;
    let (mut client_read, client_write) = tokio::io::split(rig.client);
    let (mut upstream_read, upstream_write) = tokio::io::split(rig.upstream);
    let expected = [ahead, up].concat();
    let (mut got_up, mut got_down) = (vec![0; expected.len()], vec![0; down.len()]);
    let ((), (), read_up, read_down) = tokio::join!(
        write_in_pieces(client_write, up, client_pieces),
        write_in_pieces(upstream_write, down, upstream_pieces),
        upstream_read.read_exact(&mut got_up),
        client_read.read_exact(&mut got_down),
    );
    read_up.unwrap();
    read_down.unwrap();
    assert!(got_up == expected, "client to upstream");
    assert!(got_down == down, "upstream to client");
}

fn run(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future);
}

pub(super) struct Untaking;

impl Tap for Untaking {
    fn max_bytes(&self) -> usize {
        2000
    }

    fn takes(&self, _: &[u8], _: bool) -> bool {
        false
    }

    fn take(&mut self, _: Vec<u8>, _: bool) -> Pin<Box<dyn Future<Output = TapVerdict> + Send>> {
        unreachable!("it takes nothing")
    }
}

/// What the messages begin with that are taken.
const MARK: u8 = b'!';

fn is_taken(message: &[u8]) -> bool {
    message.first() == Some(&MARK) && message.len() <= 2000
}

/// Takes what begins with [`MARK`].
struct Marked(Arc<Mutex<Vec<Vec<u8>>>>);

impl Tap for Marked {
    fn max_bytes(&self) -> usize {
        2000
    }

    fn takes(&self, message: &[u8], _: bool) -> bool {
        is_taken(message)
    }

    fn take(
        &mut self,
        message: Vec<u8>,
        _: bool,
    ) -> Pin<Box<dyn Future<Output = TapVerdict> + Send>> {
        self.0.lock().unwrap().push(message);
        Box::pin(async { TapVerdict::Continue { reply: None, instead: None } })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_pass_byte_for_byte_under_any_segmentation(
        up in vec(any_message(Direction::Up), 1..6),
        down in vec(any_message(Direction::Down), 1..6),
        client_pieces in vec(1usize..5000, 1..8),
        upstream_pieces in vec(1usize..100_000, 1..8),
        capacity in prop_oneof![20usize..100, 100usize..5000, 60_000usize..200_000],
        ahead in 0usize..300,
    ) {
        run(async move {
            let (up, down) = (up.concat(), down.concat());
            let (ahead, up) = up.split_at(ahead.min(up.len() - 1));
            let ahead = Bytes::copy_from_slice(ahead);
            let settings = RelaySettings { extensions: Extensions::Deflate, ..RelaySettings::default() };
            let setup = Setup { settings, client_ahead: ahead.clone(), capacity: Some(capacity), ..Setup::default() };
            exchange(setup.start(), &ahead, up, &down, [client_pieces, upstream_pieces]).await;
        });
    }

    #[test]
    fn all_that_a_tap_does_not_take_passes_in_its_order(
        messages in vec((vec((0usize..900, any::<bool>()), 1..4), any::<bool>(), any::<bool>()), 1..12),
        mask in any::<[u8; 4]>(),
        pieces in vec(1usize..3000, 1..8),
        capacity in prop_oneof![20usize..100, 100usize..5000, Just(1 << 20)],
    ) {
        run(async move {
            let (mut sent, mut passes, mut marked) = (Vec::new(), Vec::new(), Vec::new());
            for (fragments, binary, is_marked) in messages {
                let (last, mut message, mut frames) = (fragments.len() - 1, Vec::new(), Vec::new());
                for (index, (length, ping)) in fragments.into_iter().enumerate() {
                    let opcode = match (index, binary) {
                        (0, true) => Opcode::BINARY,
                        (0, false) => Opcode::TEXT,
                        _ => Opcode::CONTINUATION,
                    };
                    let mut payload = vec![index as u8; length];
                    if index == 0 && is_marked {
                        payload.insert(0, MARK);
                    }
                    message.extend(&payload);
                    let frame = encode_frame(opcode, &payload, Some(mask));
                    frames.extend(if index < last { unfinished(frame) } else { frame });
                    // A ping between two messages keeps its place.
                    if ping && index == last {
                        let ping = encode_frame(Opcode::PING, b"p", Some(mask));
                        sent.extend(&frames);
                        if is_taken(&message) { marked.push(message) } else { passes.extend(&frames) }
                        (frames, message) = (ping, Vec::new());
                    }
                }
                sent.extend(&frames);
                if is_taken(&message) { marked.push(message) } else { passes.extend(&frames) }
            }
            passes.extend(text("the end", Some(mask)));
            sent.extend(text("the end", Some(mask)));
            let taken = Arc::default();
            let tap: Option<Box<dyn Tap>> = Some(Box::new(Marked(Arc::clone(&taken))));
            let rig = Setup { tap, capacity: Some(capacity), ..Setup::default() }.start();
            let (mut client, mut upstream) = (rig.client, rig.upstream);
            let mut got = vec![0; passes.len()];
            let ((), read) = tokio::join!(
                write_in_pieces(&mut client, &sent, pieces),
                upstream.read_exact(&mut got),
            );
            read.unwrap();
            assert!(got == passes);
            assert!(*taken.lock().unwrap() == marked);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn the_greeting_and_what_was_read_ahead_come_first() {
    let greeting = text("welcome", None);
    let mut rig = Setup {
        settings: RelaySettings { greeting: greeting.clone().into(), ..RelaySettings::default() },
        client_ahead: text("early", Some(MASK)).into(),
        upstream_ahead: text("hello", None).into(),
        ..Setup::default()
    }
    .start();
    put(&mut rig.upstream, &text("then", None)).await;
    let expected = [greeting, text("hello", None), text("then", None)].concat();
    assert_eq!(arrived(&mut rig.client).await, expected);
    assert_eq!(arrived(&mut rig.upstream).await, text("early", Some(MASK)));
}

/// Reads the token of the ping that the relay sends when asked.
async fn ping(rig: &mut Rig) -> [u8; 8] {
    rig.control.request_ping();
    let got = arrived(&mut rig.client).await;
    let frames = frames(&got);
    let (header, payload) = frames.first().expect("a ping");
    assert_eq!((header.opcode, frames.len(), header.mask), (Opcode::PING, 1, None));
    payload[..].try_into().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_ping_goes_between_two_frames_at_every_cut() {
    let first = unfinished(text("one", None));
    let second = encode_frame(Opcode::CONTINUATION, &[7; 130], None);
    let stream = [first, second].concat();
    for cut in 0..=stream.len() {
        let mut rig = rig();
        put(&mut rig.upstream, &stream[..cut]).await;
        let mut got = arrived(&mut rig.client).await;
        rig.control.request_ping();
        got.extend(arrived(&mut rig.client).await);
        put(&mut rig.upstream, &stream[cut..]).await;
        got.extend(arrived(&mut rig.client).await);
        let frames = frames(&got);
        let pings: Vec<_> =
            frames.iter().filter(|(header, _)| header.opcode == Opcode::PING).collect();
        assert_eq!(pings.len(), 1, "cut at {cut}");
        let ping = encode_ping(pings[0].1[..].try_into().unwrap());
        let at = got.windows(ping.len()).position(|window| window == ping).unwrap();
        got.drain(at..at + ping.len());
        assert_eq!(got, stream, "cut at {cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_waiting_for_a_boundary_goes_inside_a_later_read() {
    let mut rig = rig();
    let frame = encode_frame(Opcode::BINARY, &[1; 1000], None);
    put(&mut rig.upstream, &frame[..500]).await;
    arrived(&mut rig.client).await;
    rig.control.request_ping();
    idle().await;
    put(&mut rig.upstream, &[&frame[500..], &frame[..500]].concat()).await;
    let got = arrived(&mut rig.client).await;
    assert_eq!(got[504..506], [0x89, 8]);
    assert_eq!(got[514..], frame[..500]);
}

#[tokio::test(start_paused = true)]
async fn pongs_to_our_pings_stop_here_at_every_cut_and_others_pass() {
    let (before, after) = (text("before", Some(MASK)), text("after", Some(MASK)));
    for cut in 0..=14 {
        let mut rig = rig();
        let token = ping(&mut rig).await;
        let ours = encode_frame(Opcode::PONG, &token, Some([5, 6, 7, 8]));
        put(&mut rig.client, &[&before[..], &ours[..cut]].concat()).await;
        idle().await;
        put(&mut rig.client, &[&ours[cut..], &after[..]].concat()).await;
        assert_eq!(arrived(&mut rig.upstream).await, [&before[..], &after].concat(), "{cut}");
        assert_eq!(rig.control.tally(Direction::Up).frames(), [2, 0, 0, 0, 0, 0]);

        let mut other = token;
        other[7] ^= 1;
        for payload in [&other[..], &[], &token[..7]] {
            let pong = encode_frame(Opcode::PONG, payload, Some(MASK));
            put(&mut rig.client, &pong).await;
            assert_eq!(arrived(&mut rig.upstream).await, pong);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_and_counts_are_kept() {
    let mut rig = rig();
    rig.ticker.set(5);
    ping(&mut rig).await;
    assert_eq!(rig.control.unanswered_since(), Some(5));
    rig.ticker.set(7);
    put(&mut rig.client, &encode_frame(Opcode::PING, b"", Some(MASK))).await;
    arrived(&mut rig.upstream).await;
    assert_eq!((rig.control.last_client_tick(), rig.control.last_data_tick()), (7, 0));
    assert_eq!(rig.control.unanswered_since(), None);
    rig.ticker.set(9);
    let message = encode_frame(Opcode::BINARY, &[0; 300], None);
    put(&mut rig.upstream, &message[..100]).await;
    idle().await;
    rig.ticker.set(11);
    put(&mut rig.upstream, &message[100..]).await;
    idle().await;
    assert_eq!((rig.control.last_client_tick(), rig.control.last_data_tick()), (7, 11));
    let (up, down) = (rig.control.tally(Direction::Up), rig.control.tally(Direction::Down));
    assert_eq!((up.bytes(), up.frames()), (6, [0, 0, 0, 1, 0, 0]));
    assert_eq!((down.bytes(), down.frames()), (304, [0, 1, 0, 0, 0, 0]));
}

/// Writes until the relay takes no more; how much it took.
async fn flood(stream: &mut DuplexStream, bytes: &[u8]) -> usize {
    let mut taken = 0;
    let wait = Duration::from_millis(1);
    while let Ok(count) = tokio::time::timeout(wait, stream.write(&bytes[taken..])).await {
        taken += count.unwrap();
        if taken == bytes.len() {
            break;
        }
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_holds_back_the_other_one() {
    let capacity = 1024;
    let mut rig = Setup { capacity: Some(capacity), ..Setup::default() }.start();
    rig.ticker.set(3);
    let stream = encode_frame(Opcode::BINARY, &vec![9; 4 << 20], None);
    let taken = flood(&mut rig.upstream, &stream).await;
    assert!(taken <= 2 * capacity + (64 << 10), "{taken}");
    assert_eq!(rig.control.stalled_since(Direction::Down), Some(3));
    assert_eq!(rig.control.stalled_since(Direction::Up), None);
    rig.ticker.set(8);
    let mut got = vec![0; 100];
    rig.client.read_exact(&mut got).await.unwrap();
    idle().await;
    assert_eq!(rig.control.stalled_since(Direction::Down), Some(8));
    let later = taken + 100;
    let (sent, received) = tokio::join!(rig.upstream.write_all(&stream[taken..later]), async {
        let mut got = vec![0; later - 100];
        rig.client.read_exact(&mut got).await.map(|_| got)
    });
    sent.unwrap();
    got.extend(received.unwrap());
    idle().await;
    assert!(got == stream[..later]);
    assert_eq!(rig.control.stalled_since(Direction::Down), None);
}
