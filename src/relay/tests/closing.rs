//! Every way in which a connection ends.

use tokio::time::Instant;

use super::carrying::Untaking;
use super::*;
use crate::close::Reason;
use crate::relay::Initiator::{self, Client, Sockgate, Upstream};

fn ended(initiator: Initiator, code: u16, reason: Option<Reason>) -> Ended {
    Ended { initiator, code, reason }
}

#[tokio::test(start_paused = true)]
async fn a_requested_close_goes_between_two_frames_at_every_cut() {
    let up = [text("one", Some(MASK)), text("another", Some(MASK))].concat();
    let down = [text("one", None), encode_frame(Opcode::BINARY, &[7; 130], None)].concat();
    for cut in 0..=up.len().max(down.len()) {
        let (up_cut, down_cut) = (cut.min(up.len()), cut.min(down.len()));
        let mut rig = rig();
        put(&mut rig.client, &up[..up_cut]).await;
        put(&mut rig.upstream, &down[..down_cut]).await;
        idle().await;
        assert!(rig.control.request_close(Reason::Expired, 4002));
        idle().await;
        put(&mut rig.client, &up[up_cut..]).await;
        put(&mut rig.upstream, &down[down_cut..]).await;
        let got = arrived(&mut rig.client).await;
        let whole = assert_closed(&got, 4002, "Session expired", false);
        assert!(whole == 2 || down_cut < down.len() && whole < 2, "{cut}");
        assert_closed(&arrived(&mut rig.upstream).await, 4002, "Session expired", true);

        put(&mut rig.client, &encode_close(4002, "", Some(MASK))).await;
        assert_eq!(rest(&mut rig.client).await, b"");
        assert!(!rig.ended.is_finished());
        put(&mut rig.upstream, &encode_close(4002, "", None)).await;
        assert_eq!(rest(&mut rig.upstream).await, b"");
        drop((rig.client, rig.upstream));
        assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 4002, Some(Reason::Expired)));
    }
}

#[tokio::test(start_paused = true)]
async fn every_request_wakes_an_idle_relay_and_not_only_the_first() {
    let mut rig = rig();
    for _ in 0..3 {
        idle().await;
        rig.control.request_ping();
        assert_eq!(arrived(&mut rig.client).await[..2], [0x89, 8]);
    }
    idle().await;
    rig.control.request_close(Reason::Expired, 4002);
    assert_closed(&arrived(&mut rig.client).await, 4002, "Session expired", false);
}

#[tokio::test(start_paused = true)]
async fn peers_that_never_answer_a_close_are_let_go_after_two_seconds() {
    let mut rig = rig();
    let start = Instant::now();
    rig.control.request_close(Reason::Draining, 1001);
    assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1001, Some(Reason::Draining)));
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2100), "{took:?}");
    assert_closed(&rest(&mut rig.client).await, 1001, "Going away", false);
    assert_closed(&rest(&mut rig.upstream).await, 1001, "Going away", true);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_stalls_half_way_is_given_up_after_two_seconds() {
    let mut rig = rig();
    let half = &text("half a frame", None)[..6];
    put(&mut rig.upstream, half).await;
    idle().await;
    let start = Instant::now();
    rig.control.request_close(Reason::Draining, 1001);
    assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1001, Some(Reason::Draining)));
    assert!(start.elapsed() < Duration::from_millis(2100));
    assert_eq!(rest(&mut rig.client).await, half);
    assert_closed(&rest(&mut rig.upstream).await, 1001, "Going away", true);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_floods_does_not_put_off_the_deadline() {
    let rig = rig();
    let (mut client_read, mut client_write) = tokio::io::split(rig.client);
    let flood = tokio::spawn(async move {
        let junk = encode_frame(Opcode::BINARY, &vec![0; 60_000], Some(MASK));
        while client_write.write_all(&junk).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let (mut upstream_read, _write) = tokio::io::split(rig.upstream);
    tokio::spawn(async move { upstream_read.read_to_end(&mut Vec::new()).await });
    idle().await;
    let start = Instant::now();
    rig.control.request_close(Reason::Draining, 1001);
    assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1001, Some(Reason::Draining)));
    assert!(start.elapsed() < Duration::from_millis(2100));
    flood.await.unwrap();
    let mut got = Vec::new();
    client_read.read_to_end(&mut got).await.unwrap();
    assert_closed(&got, 1001, "Going away", false);
}

#[tokio::test(start_paused = true)]
async fn the_peers_own_closing_handshake_passes_untouched() {
    let client_close = encode_close(4242, "bye", Some(MASK));
    for (code, close) in
        [(4242, client_close.clone()), (1005, encode_frame(Opcode::CLOSE, b"", Some(MASK)))]
    {
        let mut rig = rig();
        put(&mut rig.client, &[text("last", Some(MASK)), close.clone()].concat()).await;
        let sent = [text("last", Some(MASK)), close].concat();
        assert_eq!(arrived(&mut rig.upstream).await, sent);
        let answer = encode_close(1000, "ok", None);
        put(&mut rig.upstream, &answer).await;
        assert_eq!(arrived(&mut rig.client).await, answer);
        drop(rig.upstream);
        assert_eq!(rest(&mut rig.client).await, b"");
        drop(rig.client);
        assert_eq!(rig.ended.await.unwrap(), ended(Client, code, None));
    }
}

#[tokio::test(start_paused = true)]
async fn behind_a_closing_handshake_one_end_is_enough() {
    for upstream_ends in [true, false] {
        let mut rig = rig();
        put(&mut rig.client, &encode_close(1000, "", Some(MASK))).await;
        idle().await;
        put(&mut rig.upstream, &encode_close(1000, "", None)).await;
        idle().await;
        assert!(!rig.ended.is_finished());
        let ending = if upstream_ends { &mut rig.upstream } else { &mut rig.client };
        ending.shutdown().await.unwrap();
        let start = Instant::now();
        assert_eq!(rig.ended.await.unwrap(), ended(Client, 1000, None));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(rest(&mut rig.client).await, encode_close(1000, "", None));
        assert_eq!(rest(&mut rig.upstream).await, encode_close(1000, "", Some(MASK)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_may_have_more_to_say_is_waited_for() {
    let pinged: fn(Option<[u8; 4]>) -> Vec<u8> = |mask| encode_frame(Opcode::PING, b"", mask);
    let much: fn(Option<[u8; 4]>) -> Vec<u8> =
        |mask| encode_frame(Opcode::BINARY, &[0; 20_000], mask);
    for upstream_ends in [true, false] {
        for before in [pinged, much] {
            let mut rig = rig();
            let (ending, mask, staying, answer) = match upstream_ends {
                true => (&mut rig.upstream, None, &mut rig.client, Some(MASK)),
                false => (&mut rig.client, Some(MASK), &mut rig.upstream, None),
            };
            put(staying, &encode_close(1000, "", answer)).await;
            idle().await;
            let said = [before(mask), encode_close(1000, "", mask)].concat();
            put(ending, &said).await;
            ending.shutdown().await.unwrap();
            idle().await;
            assert!(!rig.ended.is_finished());
            put(staying, &encode_frame(Opcode::PONG, b"", answer)).await;
            assert_eq!(rest(staying).await, said);
            staying.shutdown().await.unwrap();
            let start = Instant::now();
            rig.ended.await.unwrap();
            assert!(start.elapsed() < Duration::from_millis(10));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_upstreams_close_is_named_at_every_cut() {
    let close = encode_close(3999, "kept secret", None);
    for cut in 0..=close.len() {
        let mut rig = rig();
        put(&mut rig.upstream, &close[..cut]).await;
        idle().await;
        put(&mut rig.upstream, &close[cut..]).await;
        assert_eq!(arrived(&mut rig.client).await, close);
        drop(rig.upstream);
        assert_eq!(rest(&mut rig.client).await, b"");
        drop(rig.client);
        assert_eq!(rig.ended.await.unwrap(), ended(Upstream, 3999, None), "{cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn sockets_that_stay_open_after_both_closes_end_after_two_seconds() {
    let mut rig = rig();
    let start = Instant::now();
    put(&mut rig.client, &encode_close(1000, "", Some(MASK))).await;
    put(&mut rig.upstream, &encode_close(1000, "", None)).await;
    assert_eq!(rig.ended.await.unwrap(), ended(Client, 1000, None));
    assert!(start.elapsed() < Duration::from_millis(2100));
    assert_closed(&rest(&mut rig.client).await, 1000, "", false);
}

#[tokio::test(start_paused = true)]
async fn no_second_close_follows_a_peers_own() {
    let mut rig = rig();
    let close = encode_close(1000, "", Some(MASK));
    put(&mut rig.client, &close).await;
    idle().await;
    rig.control.request_close(Reason::Draining, 1001);
    assert_eq!(rig.ended.await.unwrap(), ended(Client, 1000, None));
    assert_eq!(rest(&mut rig.upstream).await, close);
    assert_closed(&rest(&mut rig.client).await, 1001, "Going away", false);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_client_still_gets_its_reply() {
    let mut rig = rig();
    put(&mut rig.client, &text("question", Some(MASK))).await;
    rig.client.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.upstream).await, text("question", Some(MASK)));
    put(&mut rig.upstream, &text("answer", None)).await;
    drop(rig.upstream);
    assert_eq!(rest(&mut rig.client).await, text("answer", None));
    assert_eq!(rig.ended.await.unwrap(), ended(Client, 1006, None));
}

#[tokio::test(start_paused = true)]
async fn a_vanished_client_takes_the_upstream_with_it() {
    let mut rig = rig();
    let start = Instant::now();
    put(&mut rig.client, &text("half", Some(MASK))[..7]).await;
    drop(rig.client);
    assert_eq!(rest(&mut rig.upstream).await, text("half", Some(MASK))[..7]);
    assert_eq!(rig.ended.await.unwrap(), ended(Client, 1006, None));
    assert!(start.elapsed() < Duration::from_millis(2100));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_dies_between_frames_is_reported_by_1013() {
    let mut rig = rig();
    put(&mut rig.upstream, &text("last", None)).await;
    drop(rig.upstream);
    let got = arrived(&mut rig.client).await;
    assert_eq!(assert_closed(&got, 1013, "Bad gateway", false), 1);
    put(&mut rig.client, &encode_close(1013, "", Some(MASK))).await;
    assert_eq!(rest(&mut rig.client).await, b"");
    drop(rig.client);
    let reason = Some(Reason::UpstreamUnavailable);
    assert_eq!(rig.ended.await.unwrap(), ended(Upstream, 1013, reason));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_dies_inside_a_frame_ends_the_client_without_a_close() {
    let frame = text("never whole", None);
    for cut in 1..frame.len() {
        let mut rig = rig();
        put(&mut rig.upstream, &frame[..cut]).await;
        drop(rig.upstream);
        assert_eq!(rest(&mut rig.client).await, frame[..cut]);
        drop(rig.client);
        let reason = Some(Reason::UpstreamUnavailable);
        assert_eq!(rig.ended.await.unwrap(), ended(Upstream, 1006, reason));
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_ends_after_the_clients_close_is_no_failure() {
    let mut rig = rig();
    put(&mut rig.client, &encode_close(1001, "", Some(MASK))).await;
    idle().await;
    drop(rig.upstream);
    assert_eq!(rest(&mut rig.client).await, b"");
    drop(rig.client);
    assert_eq!(rig.ended.await.unwrap(), ended(Client, 1001, None));
}

fn limited(bytes: u64) -> Rig {
    let settings = RelaySettings { message_bytes: Some(bytes), ..RelaySettings::default() };
    Setup { settings, ..Setup::default() }.start()
}

#[tokio::test(start_paused = true)]
async fn a_message_over_the_limit_is_closed_with_1009_from_its_head() {
    let fits = encode_frame(Opcode::BINARY, &[1; 100], Some(MASK));
    let part = unfinished(fits.clone());
    let more = encode_frame(Opcode::CONTINUATION, b"1", Some(MASK));
    let ping = encode_frame(Opcode::PING, b"between", Some(MASK));
    let large = encode_frame(Opcode::TEXT, &[1; 101], Some(MASK));
    for (passes, offends) in [
        ([fits.clone(), fits].concat(), large.clone()),
        ([part, ping].concat(), more),
        (Vec::new(), large),
    ] {
        let mut rig = limited(100);
        put(&mut rig.client, &[&passes[..], &offends[..6]].concat()).await;
        let got = arrived(&mut rig.upstream).await;
        assert_eq!(got[..passes.len()], passes);
        assert_closed(&got[passes.len()..], 1009, "Message too big", true);
        // What the upstream says to the messages before still gets through.
        let answer = text("answer", None);
        put(&mut rig.upstream, &[&answer[..], &encode_close(1009, "", None)].concat()).await;
        let got = arrived(&mut rig.client).await;
        assert_eq!(got[..answer.len()], answer);
        assert_closed(&got[answer.len()..], 1009, "Message too big", false);
        // The rest of the offending frame is skipped to find the client's Close.
        put(&mut rig.client, &offends[6..]).await;
        put(&mut rig.client, &encode_close(1009, "", Some(MASK))).await;
        assert_eq!(rest(&mut rig.client).await, b"");
        drop(rig);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_message_over_the_limit_is_closed_too() {
    let mut rig = limited(100);
    put(&mut rig.upstream, &encode_frame(Opcode::TEXT, &[1; 101], None)).await;
    assert_closed(&arrived(&mut rig.client).await, 1009, "Message too big", false);
    let reason = Some(Reason::MessageTooLarge);
    assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1009, reason));
    assert_closed(&rest(&mut rig.upstream).await, 1009, "Message too big", true);
}

#[tokio::test(start_paused = true)]
async fn an_impossible_frame_is_closed_with_1002_from_the_boundary_before_it() {
    let mut rig = rig();
    let impossible = [0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4];
    put(&mut rig.client, &[&text("fine", Some(MASK))[..], &impossible].concat()).await;
    let got = arrived(&mut rig.upstream).await;
    assert_eq!(assert_closed(&got, 1002, "Protocol error", true), 1);
    put(&mut rig.upstream, &encode_close(1002, "", None)).await;
    assert_closed(&arrived(&mut rig.client).await, 1002, "Protocol error", false);
    drop((rig.client, rig.upstream));
    let reason = Some(Reason::ProtocolError);
    assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1002, reason));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_end_of_a_message_but_not_for_long() {
    let part = unfinished(text("one ", None));
    let end = encode_frame(Opcode::CONTINUATION, b"two", None);
    for ends in [true, false] {
        let mut rig = rig();
        put(&mut rig.upstream, &part).await;
        idle().await;
        let start = Instant::now();
        rig.control.request_close(Reason::Draining, 1001);
        assert_eq!(arrived(&mut rig.client).await, part);
        assert!(arrived(&mut rig.upstream).await.is_empty());
        tokio::time::sleep(Duration::from_millis(500)).await;
        if ends {
            put(&mut rig.upstream, &end).await;
        } else {
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
        let got = arrived(&mut rig.client).await;
        assert_eq!(assert_closed(&got, 1001, "Going away", false), usize::from(ends));
        assert_closed(&arrived(&mut rig.upstream).await, 1001, "Going away", true);
        put(&mut rig.client, &encode_close(1001, "", Some(MASK))).await;
        put(&mut rig.upstream, &encode_close(1001, "", None)).await;
        assert_eq!(rest(&mut rig.client).await, b"");
        assert!(start.elapsed() < Duration::from_millis(1200), "{:?}", start.elapsed());
    }
    // A client's own fragments, and other reasons, which do not wait.
    let mut rig = rig();
    put(&mut rig.client, &unfinished(text("one ", Some(MASK)))).await;
    idle().await;
    rig.control.request_close(Reason::Draining, 1001);
    assert!(arrived(&mut rig.client).await.is_empty());
    let end = encode_frame(Opcode::CONTINUATION, b"two", Some(MASK));
    put(&mut rig.client, &end).await;
    assert_eq!(assert_closed(&arrived(&mut rig.upstream).await, 1001, "Going away", true), 2);
    let mut rig = self::rig();
    put(&mut rig.upstream, &part).await;
    idle().await;
    rig.control.request_close(Reason::Expired, 4002);
    assert_eq!(assert_closed(&arrived(&mut rig.client).await, 4002, "Session expired", false), 1);
}

/// Frames that nobody may send, without extensions; the last as `masked` says.
fn broken_frames(masked: bool) -> Vec<(&'static str, Vec<u8>)> {
    let mask = masked.then_some(MASK);
    let first = |first: u8| {
        let mut frame = text("odd", mask);
        frame[0] = first;
        frame
    };
    let key = if masked { &MASK[..] } else { &[] };
    let bit = if masked { 0x80 } else { 0 };
    let begun = unfinished(text("begun", mask));
    vec![
        ("masked the wrong way", text("odd", (!masked).then_some(MASK))),
        ("RSV1", first(0xc1)),
        ("RSV2", first(0xa1)),
        ("RSV3", first(0x91)),
        ("a reserved data opcode", first(0x83)),
        ("a reserved control opcode", first(0x8b)),
        ("a fragmented ping", first(0x09)),
        ("a long ping", encode_frame(Opcode::PING, &[b'x'; 126], mask)),
        ("a continuation of nothing", first(0x80)),
        ("a message in a message", [begun, text("odd", mask)].concat()),
        ("a length in too many bytes", [&[0x81, bit | 126, 0, 0], key].concat()),
        ("a length with the top bit", vec![0x82, bit | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
        ("a Close with half a code", encode_frame(Opcode::CLOSE, b"x", mask)),
        ("a Close with 1005", encode_close(1005, "", mask)),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_breaks_the_rfc_is_closed_with_1002_and_never_passes() {
    for tapped in [false, true] {
        for (name, broken) in broken_frames(true) {
            let tap = tapped.then(|| Box::new(Untaking) as Box<dyn Tap>);
            let mut rig = Setup { tap, ..Setup::default() }.start();
            put(&mut rig.client, &[text("fine", Some(MASK)), broken].concat()).await;
            let got = arrived(&mut rig.upstream).await;
            let whole = assert_closed(&got, 1002, "Protocol error", true);
            assert_eq!(
                whole,
                if name == "a message in a message" && !tapped { 2 } else { 1 },
                "{name}"
            );
            put(&mut rig.upstream, &encode_close(1002, "", None)).await;
            let got = arrived(&mut rig.client).await;
            assert_eq!(assert_closed(&got, 1002, "Protocol error", false), 0, "{name}");
            drop((rig.client, rig.upstream));
            let reason = Some(Reason::ProtocolError);
            assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1002, reason), "{name}");
        }
    }
    for (name, broken) in broken_frames(false) {
        let mut rig = rig();
        put(&mut rig.upstream, &[text("fine", None), broken].concat()).await;
        let got = arrived(&mut rig.client).await;
        let whole = assert_closed(&got, 1002, "Protocol error", false);
        assert_eq!(whole, if name == "a message in a message" { 2 } else { 1 }, "{name}");
        assert_closed(&arrived(&mut rig.upstream).await, 1002, "Protocol error", true);
        drop((rig.client, rig.upstream));
        let reason = Some(Reason::ProtocolError);
        assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1002, reason), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_whose_reason_is_not_text_is_answered_with_1007() {
    let mut rig = rig();
    put(&mut rig.client, &encode_frame(Opcode::CLOSE, b"\x03\xe8\xff", Some(MASK))).await;
    assert_closed(&arrived(&mut rig.upstream).await, 1007, "Protocol error", true);
    put(&mut rig.upstream, &encode_frame(Opcode::CLOSE, b"\x03\xe8\xff", None)).await;
    assert_closed(&arrived(&mut rig.client).await, 1007, "Protocol error", false);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_the_rfc_still_hears_what_was_answered_before() {
    let answers = [text("one", None), encode_frame(Opcode::BINARY, &[2; 3000], None)].concat();
    let broken = [0xc1, 0x80, 0, 0, 0, 0];
    // The upstream closes, ends, or does neither.
    for ending in [&encode_close(1002, "", None)[..], &encode_close(1000, "bye", None), b"", b"?"] {
        let mut rig = rig();
        let start = Instant::now();
        put(&mut rig.client, &broken).await;
        idle().await;
        for part in answers.chunks(700) {
            put(&mut rig.upstream, part).await;
            idle().await;
        }
        match ending {
            b"" => rig.upstream.shutdown().await.unwrap(),
            b"?" => tokio::time::sleep(Duration::from_secs(1)).await,
            close => put(&mut rig.upstream, close).await,
        }
        let got = arrived(&mut rig.client).await;
        assert_eq!(got[..answers.len()], answers);
        assert_closed(&got[answers.len()..], 1002, "Protocol error", false);
        assert!(start.elapsed() < Duration::from_millis(1200));
        // The client has two seconds for its own, however long that took.
        let reason = Some(Reason::ProtocolError);
        assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1002, reason));
        assert!(start.elapsed() > Duration::from_secs(2));
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_floods_does_not_put_off_the_close_of_a_broken_client() {
    let mut rig = rig();
    put(&mut rig.client, &[0xc1, 0x80, 0, 0, 0, 0]).await;
    let flood = tokio::spawn(async move {
        let junk = encode_frame(Opcode::BINARY, &vec![0; 6000], None);
        while rig.upstream.write_all(&junk).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let start = Instant::now();
    let got = rest(&mut rig.client).await;
    assert!(assert_closed(&got, 1002, "Protocol error", false) > 500);
    assert!(start.elapsed() < Duration::from_millis(3100), "{:?}", start.elapsed());
    flood.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broken_client_that_has_gone_is_not_waited_for() {
    let mut rig = rig();
    put(&mut rig.client, &[0xc1, 0x80, 0, 0, 0, 0]).await;
    drop(rig.client);
    assert_closed(&arrived(&mut rig.upstream).await, 1002, "Protocol error", true);
    put(&mut rig.upstream, &encode_close(1002, "", None)).await;
    drop(rig.upstream);
    let reason = Some(Reason::ProtocolError);
    assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1002, reason));
}

#[tokio::test(start_paused = true)]
async fn two_that_break_the_rfc_at_once_are_both_closed() {
    let mut rig = rig();
    put(&mut rig.client, &[0xc1, 0x80, 0, 0, 0, 0]).await;
    idle().await;
    put(&mut rig.upstream, &[0xc1, 0]).await;
    assert_closed(&arrived(&mut rig.client).await, 1002, "Protocol error", false);
    assert_closed(&arrived(&mut rig.upstream).await, 1002, "Protocol error", true);
    let reason = Some(Reason::ProtocolError);
    assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1002, reason));
}

#[tokio::test(start_paused = true)]
async fn a_close_waits_behind_bytes_that_a_slow_client_has_yet_to_take() {
    let mut rig = Setup { capacity: Some(1000), ..Setup::default() }.start();
    let sent = encode_frame(Opcode::BINARY, &[3; 2500], None);
    rig.upstream.write_all(&sent).await.unwrap();
    idle().await;
    rig.control.request_close(Reason::Expired, 4002);
    let got = arrived(&mut rig.client).await;
    assert_eq!(got[..sent.len()], sent);
    assert_closed(&got[sent.len()..], 4002, "Session expired", false);
}

/// A ping behind a Close would not be answered (RFC 6455 §5.5.2): the Close is the question.
#[tokio::test(start_paused = true)]
async fn behind_the_upstreams_close_its_answer_is_awaited_like_a_pong() {
    let mut rig = rig();
    rig.ticker.set(7);
    put(&mut rig.upstream, &encode_close(1000, "", None)).await;
    assert_closed(&arrived(&mut rig.client).await, 1000, "", false);
    rig.control.request_ping();
    assert_eq!(arrived(&mut rig.client).await, b"");
    assert_eq!(rig.control.unanswered_since(), Some(7));
}
