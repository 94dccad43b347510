//! Every way in which a connection ends.

use tokio::time::Instant;

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
    for (code, close) in [
        (4242, client_close.clone()),
        (1005, encode_frame(Opcode::CLOSE, b"", Some(MASK))),
        (1005, encode_frame(Opcode::CLOSE, b"x", Some(MASK))),
    ] {
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
        ([part.clone(), ping].concat(), more),
        (part, large),
    ] {
        let mut rig = limited(100);
        put(&mut rig.client, &[&passes[..], &offends[..6]].concat()).await;
        let got = arrived(&mut rig.upstream).await;
        assert_eq!(got[..passes.len()], passes);
        assert_closed(&got[passes.len()..], 1009, "Message too big", true);
        assert_closed(&arrived(&mut rig.client).await, 1009, "Message too big", false);
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
    assert_closed(&arrived(&mut rig.client).await, 1002, "Protocol error", false);
    put(&mut rig.upstream, &encode_close(1002, "", None)).await;
    drop((rig.client, rig.upstream));
    let reason = Some(Reason::ProtocolError);
    assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1002, reason));
}

#[tokio::test(start_paused = true)]
async fn a_frame_masked_the_wrong_way_is_closed_with_1002() {
    let mut rig = rig();
    put(&mut rig.client, &[text("fine", Some(MASK)), text("bare", None)].concat()).await;
    let got = arrived(&mut rig.upstream).await;
    assert_eq!(assert_closed(&got, 1002, "Protocol error", true), 1);
    assert_closed(&arrived(&mut rig.client).await, 1002, "Protocol error", false);
    drop((rig.client, rig.upstream));
    let reason = Some(Reason::ProtocolError);
    assert_eq!(rig.ended.await.unwrap(), ended(Sockgate, 1002, reason));

    let mut rig = self::rig();
    put(&mut rig.upstream, &text("masked", Some(MASK))).await;
    assert_closed(&arrived(&mut rig.client).await, 1002, "Protocol error", false);
    drop((rig.client, rig.upstream));
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
