//! Messages taken out of the client's stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;

use super::*;
use crate::close::Reason;
use crate::relay::{Initiator, TapVerdict, Watch};

type Taken = Arc<Mutex<Vec<(Vec<u8>, bool)>>>;

/// Takes what begins with `auth`, and closes on `auth bad`.
struct Auth(Taken);

impl Tap for Auth {
    fn max_bytes(&self) -> usize {
        200
    }

    fn takes(&self, message: &[u8], _: bool) -> bool {
        message.starts_with(b"auth")
    }

    fn take(
        &mut self,
        message: Vec<u8>,
        text: bool,
    ) -> Pin<Box<dyn Future<Output = TapVerdict> + Send>> {
        let bad = message == b"auth bad";
        self.0.lock().unwrap().push((message, text));
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if bad {
                TapVerdict::Close { reason: Reason::Forbidden, code: 4003, reply: None }
            } else {
                let reply = Some(super::text("welcome", None).into());
                TapVerdict::Continue { reply, instead: None }
            }
        })
    }

    fn could_take(&self, begun: &[u8], _: bool) -> bool {
        begun.starts_with(b"auth se")
    }

    fn watch(&self, _: bool) -> Option<Box<dyn Watch>> {
        Some(Box::new(HasX))
    }
}

fn tapped() -> (Rig, Taken) {
    let taken = Taken::default();
    let tap: Option<Box<dyn Tap>> = Some(Box::new(Auth(taken.clone())));
    (Setup { tap, ..Setup::default() }.start(), taken)
}

#[tokio::test(start_paused = true)]
async fn a_fragmented_message_is_taken_whole_at_every_cut() {
    let ping = encode_frame(Opcode::PING, b"still", Some(MASK));
    let after = text("after", Some(MASK));
    let parts = [
        text("before", Some(MASK)),
        unfinished(text("au", Some(MASK))),
        ping.clone(),
        unfinished(encode_frame(Opcode::CONTINUATION, b"", Some(MASK))),
        encode_frame(Opcode::CONTINUATION, b"th me", Some([9, 9, 0, 1])),
        after.clone(),
    ];
    let sent = parts.concat();
    let expected = [parts[0].clone(), ping, after].concat();
    for cut in 0..=sent.len() {
        let (mut rig, taken) = tapped();
        put(&mut rig.client, &sent[..cut]).await;
        idle().await;
        put(&mut rig.client, &sent[cut..]).await;
        let early = arrived(&mut rig.upstream).await;
        assert!(expected.starts_with(&early) && early.len() < expected.len());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let got = [early, arrived(&mut rig.upstream).await].concat();
        assert_eq!(got, expected, "cut at {cut}");
        assert_eq!(*taken.lock().unwrap(), [(b"auth me".to_vec(), true)]);
        assert_eq!(arrived(&mut rig.client).await, text("welcome", None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_waits_for_the_end_of_the_upstreams_message() {
    let (mut rig, _) = tapped();
    let first = unfinished(text("one", None));
    let last = encode_frame(Opcode::CONTINUATION, b"two", None);
    put(&mut rig.upstream, &first).await;
    put(&mut rig.client, &text("auth", Some(MASK))).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(arrived(&mut rig.client).await, first);
    put(&mut rig.upstream, &[&last[..], &first].concat()).await;
    assert_eq!(arrived(&mut rig.client).await, [last, text("welcome", None), first].concat());
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_too_large_to_be_taken_pass_unchanged() {
    let large =
        encode_frame(Opcode::TEXT, format!("auth{}", "x".repeat(300)).as_bytes(), Some(MASK));
    let grows = [
        unfinished(text("auth", Some(MASK))),
        unfinished(encode_frame(Opcode::CONTINUATION, &[b'x'; 150], Some(MASK))),
        encode_frame(Opcode::CONTINUATION, &[b'x'; 150], Some(MASK)),
    ]
    .concat();
    for sent in [large, grows] {
        let (mut rig, taken) = tapped();
        put(&mut rig.client, &[&sent[..], &text("other", Some(MASK))].concat()).await;
        let got = arrived(&mut rig.upstream).await;
        assert_eq!(got, [&sent[..], &text("other", Some(MASK))].concat());
        assert!(taken.lock().unwrap().is_empty());
    }
}

/// Recognises a message by an `X` anywhere.
struct HasX;

impl Watch for HasX {
    fn follow(&mut self, payload: &[u8]) -> Option<(Reason, u16)> {
        payload.contains(&b'X').then_some((Reason::AuthMessageTooLarge, 4001))
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_shows_what_it_is_too_late_never_ends_at_the_upstream() {
    let spaces = [b' '; 300];
    let late = encode_frame(Opcode::TEXT, &[&spaces[..], b"X!"].concat(), Some(MASK));
    let early = [
        unfinished(text("X", Some(MASK))),
        encode_frame(Opcode::CONTINUATION, &spaces, Some(MASK)),
    ]
    .concat();
    for (sent, may_begin) in [(late, true), (early, false)] {
        let mut begun = false;
        for cut in (1..sent.len()).step_by(7) {
            let (mut rig, _) = tapped();
            put(&mut rig.client, &sent[..cut]).await;
            idle().await;
            put(&mut rig.client, &sent[cut..]).await;
            let close = arrived(&mut rig.client).await;
            assert_closed(&close, 4001, "Authentication message too large", false);
            tokio::time::sleep(Duration::from_secs(3)).await;
            let got = rest(&mut rig.upstream).await;
            // Unless it was said in what is held of it, its beginning is there.
            if (200..309).contains(&cut) && may_begin {
                assert!(sent.starts_with(&got) && got.len() < sent.len() - 1, "cut at {cut}");
                begun |= !got.is_empty();
            } else {
                assert_closed(&got, 4001, "Authentication message too large", true);
            }
        }
        assert_eq!(begun, may_begin);
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_message_arrives_as_it_was_sent_wherever_it_is_cut() {
    let long: String = ('a'..='z').cycle().take(700).collect();
    let (first, rest) = long.split_at(90);
    let ping = encode_frame(Opcode::PING, b"still", Some(MASK));
    let fragments = [
        unfinished(text(first, Some([1, 2, 3, 4]))),
        encode_frame(Opcode::CONTINUATION, rest.as_bytes(), Some([5, 6, 7, 8])),
    ];
    for sent in [text(&long, Some(MASK)), fragments.concat()] {
        for cut in (1..sent.len()).step_by(3) {
            let (mut rig, taken) = tapped();
            put(&mut rig.client, &sent[..cut]).await;
            idle().await;
            put(&mut rig.client, &sent[cut..]).await;
            put(&mut rig.client, &ping).await;
            idle().await;
            assert_eq!(arrived(&mut rig.upstream).await, [&sent[..], &ping].concat(), "{cut}");
            assert!(taken.lock().unwrap().is_empty());
        }
    }
    // What shows what it is behind what is held is found under its own mask.
    let late = format!("{long}X!");
    let (first, rest) = late.split_at(90);
    let late = [
        unfinished(text(first, Some([1, 2, 3, 4]))),
        encode_frame(Opcode::CONTINUATION, rest.as_bytes(), Some([5, 6, 7, 8])),
    ]
    .concat();
    for cut in (300..late.len()).step_by(3) {
        let (mut rig, _) = tapped();
        put(&mut rig.client, &late[..cut]).await;
        idle().await;
        put(&mut rig.client, &late[cut..]).await;
        let close = arrived(&mut rig.client).await;
        assert_closed(&close, 4001, "Authentication message too large", false);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_goes_out_when_the_client_ends_inside_a_message() {
    let part = unfinished(text("auth", Some(MASK)));
    for end in [encode_close(1000, "", Some(MASK)), Vec::new()] {
        let (mut rig, taken) = tapped();
        let sent = [&part[..], &end].concat();
        put(&mut rig.client, &sent).await;
        drop(rig.client);
        assert_eq!(rest(&mut rig.upstream).await, sent);
        assert!(taken.lock().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_for_the_tap_is_dropped_when_the_client_ends_inside_it() {
    let part = unfinished(text("auth secret", Some(MASK)));
    let close = encode_close(1000, "", Some(MASK));
    for (end, expected) in [(&close[..], &close[..]), (&[], &[])] {
        for cut in [part.len(), part.len() - 1] {
            if cut < part.len() && !end.is_empty() {
                continue;
            }
            let (mut rig, taken) = tapped();
            put(&mut rig.client, &[&part[..cut], end].concat()).await;
            drop(rig.client);
            assert_eq!(rest(&mut rig.upstream).await, expected);
            assert!(taken.lock().unwrap().is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_bound_is_of_the_payload_however_it_is_split() {
    let message = [b"auth".to_vec(), vec![b'x'; 196]].concat();
    let whole = text(std::str::from_utf8(&message).unwrap(), Some(MASK));
    let halves = [
        unfinished(encode_frame(Opcode::TEXT, &message[..100], Some(MASK))),
        encode_frame(Opcode::CONTINUATION, &message[100..], Some(MASK)),
    ];
    for sent in [whole, halves.concat()] {
        let (mut rig, taken) = tapped();
        put(&mut rig.client, &sent).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(arrived(&mut rig.upstream).await, b"");
        assert_eq!(*taken.lock().unwrap(), [(message.clone(), true)]);
    }
    let over = text(&format!("auth{}", "x".repeat(197)), Some(MASK));
    let tiny: Vec<u8> = (0..100)
        .flat_map(|n| match n {
            0 => unfinished(text("a", Some(MASK))),
            99 => encode_frame(Opcode::CONTINUATION, b"x", Some(MASK)),
            _ => unfinished(encode_frame(Opcode::CONTINUATION, b"x", Some(MASK))),
        })
        .collect();
    for sent in [over, tiny] {
        let (mut rig, taken) = tapped();
        put(&mut rig.client, &sent).await;
        assert_eq!(arrived(&mut rig.upstream).await, sent);
        assert!(taken.lock().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_verdict_can_close_both_sides() {
    let (mut rig, _) = tapped();
    put(&mut rig.client, &text("auth bad", Some(MASK))).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_closed(&arrived(&mut rig.client).await, 4003, "Forbidden", false);
    assert_closed(&arrived(&mut rig.upstream).await, 4003, "Forbidden", true);
    let ended = rig.ended.await.unwrap();
    assert_eq!((ended.initiator, ended.code), (Initiator::Sockgate, 4003));
}

#[tokio::test(start_paused = true)]
async fn a_close_requested_meanwhile_does_not_wait_for_the_verdict() {
    let (mut rig, _) = tapped();
    put(&mut rig.client, &text("auth", Some(MASK))).await;
    idle().await;
    rig.control.request_close(Reason::Draining, 1001);
    assert_closed(&arrived(&mut rig.client).await, 1001, "Going away", false);
}
