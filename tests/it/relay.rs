//! The pipe: frames pass unread and unchanged, and end in order.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::{Domain, Type};

use super::support::{
    Frame, Gate, Opcode, PATIENCE, Request, Socket, Upstream, eventually, members, token,
};

fn start(limits: &str, upstream: &Upstream) -> Gate {
    Gate::start(&format!("{}limits: {{ {limits} }}\n", members(&upstream.ws())))
}

fn open(gate: &Gate, path: &str) -> Socket {
    Request::upgrade(path).cookie(&token("alice")).open(gate.address())
}

#[test]
fn messages_of_every_size_come_back_byte_for_byte() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let mut socket = open(&gate, "/ws/echo");
    let sizes = [0, 1, 2, 125, 126, 127, 128, 1000, 16_383, 65_535, 65_536, 65_537, 1 << 20];
    for size in sizes {
        let payload: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
        let frame = Frame::new(Opcode::Binary, payload);
        socket.send_frame(&frame);
        assert!(socket.receive() == frame, "{size} bytes");
    }
    socket.finish();
    assert_eq!(upstream.close(), Some(1000));
    let line = gate.line("of the close", |line| line["code"] == 1000);
    let sum: usize = sizes.iter().sum();
    assert!(line["bytes_up"].as_u64().expect("a count") >= sum as u64, "{line}");
    assert!(line["bytes_down"].as_u64().expect("a count") >= sum as u64, "{line}");
}

#[test]
fn fragments_reserved_bits_and_control_frames_pass_as_they_are() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let request = Request::upgrade("/ws/echo")
        .cookie(&token("alice"))
        .header("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits");
    let mut socket = request.open(gate.address());
    assert_eq!(socket.head.header("sec-websocket-extensions"), Some("permessage-deflate"));
    assert_eq!(
        upstream.last().header("sec-websocket-extensions"),
        Some("permessage-deflate; client_max_window_bits")
    );
    let compressed = Frame {
        reserved: 0b100,
        ..Frame::new(Opcode::Text, b"\xf2\x48\xcd\xc9\xc9\x07\x00".to_vec())
    };
    let frames = [
        Frame::text("one ").unfinished(),
        Frame::new(Opcode::Continuation, "two ").unfinished(),
        Frame::new(Opcode::Continuation, ""),
        compressed.clone(),
        compressed.clone().unfinished(),
        Frame::new(Opcode::Continuation, b"\x01\x02".to_vec()),
        Frame::text(""),
        Frame::new(Opcode::Binary, ""),
    ];
    for frame in &frames {
        socket.send_frame(frame);
    }
    for frame in &frames {
        assert_eq!(&socket.receive(), frame);
    }
    socket.send_frame(&Frame::text("part").unfinished());
    socket.send_frame(&Frame::new(Opcode::Ping, "between fragments"));
    socket.send_frame(&Frame::new(Opcode::Continuation, ""));
    assert_eq!(socket.receive(), Frame::text("part").unfinished());
    let pong = socket.read_frame().expect("a frame").expect("not the end");
    assert_eq!(pong, Frame::new(Opcode::Pong, "between fragments"), "the upstream's own pong");
}

#[test]
fn a_ping_of_the_upstream_reaches_the_client_and_its_pong_the_upstream() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let mut socket = open(&gate, "/ws/ping");
    let ping = socket.read_frame().expect("a frame").expect("not the end");
    assert_eq!(ping, Frame::new(Opcode::Ping, "from the upstream"));
    socket.send_frame(&Frame::new(Opcode::Pong, "from the upstream"));
    eventually("the pong arrives", || upstream.messages() == ["(pong)"]);
}

#[test]
fn a_frame_sent_byte_by_byte_arrives_whole() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let mut socket = open(&gate, "/ws/slow-300");
    assert_eq!(socket.receive(), Frame::new(Opcode::Binary, vec![b'x'; 300]));
    let frame = Frame::new(Opcode::Binary, vec![b'y'; 200]);
    for byte in frame.masked() {
        socket.send_bytes(&[byte]);
    }
    assert_eq!(socket.receive(), frame);
}

#[test]
fn what_the_upstream_says_with_its_101_arrives() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let mut socket = open(&gate, "/ws/greet");
    assert_eq!(socket.text(), "welcome");
    socket.echoes("hello");
}

/// A 101 has none (RFC 9110 §8.6): a client might wait for that many bytes.
#[test]
fn a_content_length_of_the_upstreams_101_stops_at_the_gate() {
    let upstream = Upstream::start();
    let gate = Gate::start(&members(&upstream.ws()));
    let mut socket = open(&gate, "/ws/length");
    assert_eq!(socket.head.header("content-length"), None);
    assert_eq!(socket.head.header("x-kept"), Some("yes"));
    socket.echoes("hello");
}

#[test]
fn subprotocols_are_negotiated_end_to_end() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let request =
        Request::upgrade("/ws/echo").cookie(&token("alice")).protocols("chat.v2, chat.v1");
    let socket = request.open(gate.address());
    assert_eq!(socket.head.header("sec-websocket-protocol"), Some("chat.v2"));
    assert_eq!(upstream.last().header("sec-websocket-protocol"), Some("chat.v2, chat.v1"));
}

#[test]
fn close_codes_of_the_upstream_pass_untouched() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    for code in [1000, 1001, 1003, 1008, 1011, 3000, 4001, 4321, 4999] {
        let closed = open(&gate, &format!("/ws/close-{code}")).closed();
        assert_eq!(closed.says(), (code, "told so"));
    }
    gate.metric_becomes("sockgate_closes_total", &["initiator=\"upstream\"", "code=\"4xxx\""], 2.0);
    gate.metric_becomes("sockgate_closes_total", &["initiator=\"upstream\"", "code=\"3xxx\""], 1.0);
}

#[test]
fn close_codes_of_the_client_pass_untouched() {
    for code in [1000, 1001, 3456, 4321] {
        let upstream = Upstream::start();
        let gate = start("ping_interval: 30s", &upstream);
        let mut socket = open(&gate, "/ws/echo");
        socket.send_frame(&Frame::close(code, "bye"));
        assert_eq!(socket.closed().says(), (code, "bye"));
        assert_eq!(upstream.close(), Some(code));
        let line = gate.line("of the close", |line| line["code"] == code);
        assert_eq!(line["initiator"], "client");
    }
}

#[test]
fn a_client_that_vanishes_ends_the_upstreams_socket() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let mut socket = open(&gate, "/ws/echo");
    socket.echoes("hello");
    drop(socket);
    upstream.close();
    gate.metric_becomes("sockgate_connections_open", &[], 0.0);
}

#[test]
fn an_upstream_that_dies_between_frames_is_told_as_1013() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    assert_eq!(open(&gate, "/ws/drop").closed().code, 1013);
    let mut socket = open(&gate, "/ws/echo");
    socket.echoes("hello");
    socket.send("hang up");
    assert_eq!(socket.closed().code, 1013);
}

#[test]
fn an_upstream_that_dies_inside_a_frame_ends_the_socket_without_a_close() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    open(&gate, "/ws/drop-in-frame").ends_without_close();
}

#[test]
fn a_message_over_the_bound_is_1009_for_both_peers() {
    type Act = fn(&mut Socket);
    let cases: [(&str, Act); 3] = [
        ("/ws/echo", |socket| socket.send(&"x".repeat(1025))),
        ("/ws/echo", |socket| {
            socket.send_frame(&Frame::text(&"x".repeat(600)).unfinished());
            let _ =
                socket.try_send_bytes(&Frame::new(Opcode::Continuation, "x".repeat(600)).masked());
        }),
        ("/ws/push-1025", |_| {}),
    ];
    for (path, act) in cases {
        let upstream = Upstream::start();
        let gate = start("message_bytes: 1KiB", &upstream);
        let mut socket = open(&gate, path);
        act(&mut socket);
        // The first fragment may have come back by then.
        assert_eq!(socket.closed().says(), (1009, "Message too big"), "{path}");
    }
    let upstream = Upstream::start();
    let gate = start("message_bytes: 1KiB", &upstream);
    let mut socket = open(&gate, "/ws/echo");
    for _ in 0..3 {
        socket.echoes(&"x".repeat(1024));
    }
}

/// What nobody may send (RFC 6455 §5.2–5.5, §7.4): the head and the payload of a
/// frame, and what makes it one.
const BROKEN: [(&str, &[u8], &[u8]); 12] = [
    ("RSV1", &[0xc1, 1], b"x"),
    ("RSV2", &[0xa2, 1], b"x"),
    ("RSV3 on a ping", &[0x99, 0], b""),
    ("a reserved data opcode", &[0x83, 1], b"x"),
    ("a reserved control opcode", &[0x8b, 0], b""),
    ("a ping in fragments", &[0x09, 0], b""),
    ("a ping of 126 bytes", &[0x89, 126, 0, 126], &[b'x'; 126]),
    ("a continuation of nothing", &[0x80, 1], b"x"),
    ("a length in too many bytes", &[0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1], b"x"),
    ("a length that cannot be", &[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], b""),
    ("a Close of one byte", &[0x88, 1], b"x"),
    ("a Close that says 1006", &[0x88, 2], b"\x03\xee"),
];

#[test]
fn a_client_that_breaks_the_rfc_is_closed_with_1002_after_its_last_answer() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let masked = |head: &[u8], payload: &[u8]| {
        let mut bytes = head.to_vec();
        bytes[1] |= 0x80;
        [&bytes, &[0; 4][..], payload].concat()
    };
    let begun = Frame::text("begun").unfinished().masked();
    let mut all: Vec<_> =
        BROKEN.iter().map(|(name, head, payload)| (*name, masked(head, payload))).collect();
    all.push(("a message in a message", [begun, Frame::text("x").masked()].concat()));
    all.push(("no mask", Frame::text("x").unmasked()));
    for (name, broken) in all {
        let mut socket = open(&gate, "/ws/echo");
        socket.send_bytes(&[Frame::text("before").masked(), broken].concat());
        let closed = socket.closed();
        assert_eq!(closed.says(), (1002, "Protocol error"), "{name}");
        assert_eq!(closed.messages[0], "before", "{name}");
        assert_eq!(upstream.close(), Some(1002), "{name}");
    }
    let line = gate.line("of a close", |line| line["code"] == 1002);
    assert_eq!(
        (&line["initiator"], &line["reason"]),
        (&"sockgate".into(), &"protocol_error".into())
    );
    assert!(upstream.messages().iter().all(|message| message == "before" || message == "begun"));
}

#[test]
fn an_upstream_that_breaks_the_rfc_is_closed_with_1002_too() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    for (name, head, payload) in BROKEN {
        let sent = [&Frame::text("before").unmasked(), head, payload].concat();
        let hex: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
        let closed = open(&gate, &format!("/ws/hex-{hex}")).closed();
        assert_eq!(closed.says(), (1002, "Protocol error"), "{name}");
        assert_eq!(closed.messages, ["before"], "{name}");
        assert_eq!(upstream.close(), Some(1002), "{name}");
    }
    assert_eq!(open(&gate, "/ws/hex-818000000000").closed().code, 1002, "a masked frame");
    assert_eq!(open(&gate, "/ws/hex-880303e8ff").closed().code, 1007, "not UTF-8");
}

#[test]
fn permessage_deflate_gives_a_meaning_to_rsv1_alone() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let request = Request::upgrade("/ws/echo")
        .cookie(&token("alice"))
        .header("Sec-WebSocket-Extensions", "permessage-deflate");
    for (reserved, opcode) in
        [(0b010, Opcode::Text), (0b100, Opcode::Ping), (0b101, Opcode::Binary)]
    {
        let mut socket = request.open(gate.address());
        let compressed = Frame { reserved: 0b100, ..Frame::new(Opcode::Binary, [0]) };
        socket.send_frame(&compressed);
        assert_eq!(socket.receive(), compressed);
        socket.send_frame(&Frame { reserved, ..Frame::new(opcode, "") });
        assert_eq!(socket.closed().says(), (1002, "Protocol error"), "{reserved:b}");
    }
}

fn resident(gate: &Gate) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gate.pid())).expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

#[test]
fn a_client_that_does_not_read_stops_the_upstream_and_fills_no_buffer() {
    let upstream = Upstream::start();
    let gate = start("stall_timeout: 60s", &upstream);
    let before = resident(&gate);
    let mut socket = open(&gate, "/ws/flood");
    let (mut last, mut since) = (0, Instant::now());
    eventually("the upstream cannot send more", || {
        let now = upstream.flooded();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_millis(500)
    });
    let grown = resident(&gate).saturating_sub(before);
    assert!(grown < 8 * 1024, "the gate grew by {grown} KiB for one client that does not read");
    let stopped = upstream.flooded();
    while upstream.flooded() <= stopped + 1_000_000 {
        assert_eq!(socket.receive().payload.len(), 65_000);
    }
}

/// The gate waits for a client that may still have to answer: what comes once its socket
/// is closed makes the kernel take back what the client has not got yet.
#[test]
fn a_client_that_answers_a_ping_behind_its_close_gets_all_that_the_upstream_said() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let stream = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    stream.set_recv_buffer_size(8192).expect("a small one");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.connect(&gate.address().into()).expect("the gate listens");
    let request = Request::upgrade("/ws/parting").cookie(&token("alice"));
    let mut socket = request.open_on(TcpStream::from(stream));
    socket.send_frame(&Frame::close(1000, ""));
    let ping = socket.read_frame().expect("a frame").expect("not the end");
    assert_eq!(ping, Frame::new(Opcode::Ping, ""));
    // By then the upstream has ended, and far from all that it said is on its way.
    std::thread::sleep(Duration::from_millis(200));
    socket.send_frame(&Frame::new(Opcode::Pong, ""));
    let last = socket.read_frame().expect("no reset").expect("not the end");
    assert_eq!(last.payload.len(), 150_000);
    let close = socket.read_frame().expect("no reset").expect("not the end");
    assert_eq!(close, Frame::close(1000, ""));
    assert_eq!(socket.read_frame().expect("no reset"), None);
}

#[test]
fn a_client_that_takes_no_bytes_is_stalled_and_ended() {
    let upstream = Upstream::start();
    let gate = start("stall_timeout: 1s, ping_interval: 0", &upstream);
    let _socket = open(&gate, "/ws/flood");
    assert_eq!(gate.line("of the end", |line| line["reason"] == "stalled")["code"], 1001);
    eventually("the upstream's socket ends", || !upstream.closes().is_empty());
    gate.metric_becomes("sockgate_connections_open", &[], 0.0);
}

#[test]
fn an_upstream_that_takes_no_bytes_is_stalled_and_ended() {
    let upstream = Upstream::start();
    let gate = start("stall_timeout: 1s, ping_interval: 0", &upstream);
    let mut socket = open(&gate, "/ws/deaf");
    let frame = Frame::new(Opcode::Binary, vec![0; 60_000]).masked();
    let began = Instant::now();
    while socket.try_send_bytes(&frame).is_ok() {
        assert!(began.elapsed() < 3 * PATIENCE, "a deaf upstream swallows for ever");
    }
    gate.line("of the end", |line| line["reason"] == "stalled");
}

#[test]
fn a_client_that_answers_no_ping_is_dead() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 300ms", &upstream);
    let began = Instant::now();
    let closed = open(&gate, "/ws/echo").closed_without_pongs();
    assert_eq!(closed.says(), (1001, "Idle timeout"));
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(upstream.close(), Some(1001));
    gate.line("of the end", |line| line["reason"] == "dead");
}

#[test]
fn the_pong_to_a_ping_of_the_gate_stops_at_the_gate() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 300ms", &upstream);
    let mut socket = open(&gate, "/ws/echo");
    let began = Instant::now();
    for _ in 0..4 {
        let ping = socket.read_frame().expect("a frame").expect("not the end");
        assert_eq!(ping.opcode, Opcode::Ping);
        socket.send_frame(&Frame::new(Opcode::Pong, ping.payload));
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    socket.send("still here");
    assert_eq!(socket.receive(), Frame::text("still here"));
    assert_eq!(upstream.messages(), ["still here"]);
}

#[test]
fn an_idle_connection_is_closed_though_its_client_answers_pings() {
    let upstream = Upstream::start();
    let gate = start("idle_timeout: 1s, ping_interval: 200ms", &upstream);
    let began = Instant::now();
    let mut socket = open(&gate, "/ws/echo");
    socket.echoes("hello");
    assert_eq!(socket.closed().says(), (1001, "Idle timeout"));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    gate.line("of the end", |line| line["reason"] == "idle");
}

#[test]
fn a_peer_that_never_answers_the_close_is_left_after_two_seconds() {
    let upstream = Upstream::start();
    let config = members(&upstream.ws())
        .replace("    origins: same\n", "    origins: same\n    lifetime: { max: 500ms }\n");
    let gate = Gate::start(&config);
    let mut socket = open(&gate, "/ws/deaf");
    let close = loop {
        let frame = socket.read_frame().expect("a frame").expect("not the end");
        if frame.opcode == Opcode::Close {
            break frame;
        }
    };
    assert_eq!(close.payload[..2], 4002_u16.to_be_bytes());
    let began = Instant::now();
    while let Ok(Some(_)) = socket.read_frame() {}
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    gate.metric_becomes("sockgate_connections_open", &[], 0.0);
}

#[test]
fn many_connections_do_not_mix_their_bytes() {
    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let mut sockets: Vec<_> = (0..50).map(|_| open(&gate, "/ws/echo")).collect();
    for round in 0..5 {
        for (number, socket) in sockets.iter_mut().enumerate() {
            socket.send(&format!("{round} of {number}"));
        }
        for (number, socket) in sockets.iter_mut().enumerate() {
            assert_eq!(socket.text(), format!("{round} of {number}"));
        }
    }
    assert!(gate.metric("sockgate_connections_open", &["route=\"chat\""]) > 49.5);
}

/// A client nobody here wrote.
#[tokio::test]
async fn tungstenite_is_served_and_told_why_it_is_refused() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

    let upstream = Upstream::start();
    let gate = start("ping_interval: 30s", &upstream);
    let url = format!("ws://{}/ws/echo?token={}", gate.address(), token("alice"));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("admitted");
    for message in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
        socket.send(message.clone()).await.expect("sent");
        assert_eq!(socket.next().await.expect("a message").expect("sound"), message);
    }
    socket.close(None).await.expect("closed");

    let url = format!("ws://{}/ws/echo", gate.address());
    let request = url.into_client_request().expect("a request");
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("upgraded");
    let Message::Close(Some(close)) = socket.next().await.expect("a frame").expect("sound") else {
        panic!("no Close");
    };
    assert_eq!((u16::from(close.code), close.reason.as_str()), (4001, "Unauthorized"));
}
