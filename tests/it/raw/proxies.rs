//! The PROXY protocol: what haproxy reads of what the gate writes, and what the gate
//! believes of what a proxy says.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use super::*;
use crate::support::{Upstream, canary, example, free_address};

/// haproxy with a configuration of its own; killed on drop.
struct Haproxy {
    child: Child,
    lines: mpsc::Receiver<String>,
    _directory: TempDir,
}

impl Haproxy {
    #[track_caller]
    fn start(config: &str) -> Haproxy {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("haproxy.cfg");
        std::fs::write(&path, config).expect("written");
        let mut child = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy starts (tests/run setup installs it)");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Haproxy { child, lines, _directory: directory }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The fields of a PROXY header of version 2 by their kinds, read by the words of the
/// specification alone.
fn fields(header: &[u8], addresses: usize) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &header[16 + addresses..];
    let mut fields = Vec::new();
    while let [kind, high, low, more @ ..] = rest {
        let (value, behind) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        fields.push((*kind, value.to_vec()));
        rest = behind;
    }
    fields
}

#[test]
fn haproxy_reads_who_it_is_in_either_version() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let behind = listener.local_addr().expect("bound");
    let front = free_address();
    let haproxy = Haproxy::start(&format!(
        "global\n log stdout format raw local0\ndefaults\n mode tcp\n timeout client 10s\n \
         timeout server 10s\n timeout connect 5s\n log global\n log-format \
         \"%ci %cp %[fc_pp_authority] %[fc_pp_unique_id] end\"\nfrontend f\n bind {front} \
         accept-proxy\n default_backend b\nbackend b\n server s {behind}\n"
    ));
    let route = |version: &str| {
        format!("upstream: {{ url: \"tcp://{front}\", proxy_protocol: {version} }}")
    };
    let routes = config(&[("/v1", &route("v1")), ("/v2", &route("v2"))]);
    let gate = Gate::start(&routes.replace("name: raw, ", ""));
    eventually("haproxy listens", || TcpStream::connect(front).is_ok());
    for version in ["v1", "v2"] {
        let stream = TcpStream::connect(gate.address()).expect("a connection");
        let port = stream.local_addr().expect("bound").port();
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        let request = Request::upgrade(&format!("/{version}")).cookie(&token("ada"));
        let mut socket = request.open_on(stream);
        socket.send_frame(&binary(*b"hello"));
        let mut server = accept(&listener);
        assert_eq!(read(&mut server, 5), b"hello", "nothing but the payload comes through");
        socket.send_frame(&Frame::close(1000, ""));
        assert_eq!(read_all(&mut server), b"");
        drop(server);
        assert_eq!(socket.closed().code, 1000);
        let id = gate.record(&format!("/{version}"))["id"].as_str().expect("an id").to_owned();
        let expected = match version {
            "v1" => format!("127.0.0.1 {port} - - end"),
            _ => format!("127.0.0.1 {port} gate.test {id} end"),
        };
        let line = loop {
            let line = haproxy.lines.recv_timeout(PATIENCE).expect("a line of haproxy");
            if line.ends_with(" end") && line.contains(&port.to_string()) {
                break line;
            }
        };
        assert_eq!(line, expected);
    }
}

#[test]
fn version_2_tells_the_identity_and_a_client_behind_a_proxy() {
    let (listener, gate) = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let keys = format!(
            "upstream: {{ url: \"tcp://{address}\", proxy_protocol: v2, preamble: '\"hi\"' }}"
        );
        let server = "server: { listen: \"127.0.0.1:0\", trusted_proxies: [127.0.0.0/8] }\n";
        (listener, Gate::start(&format!("{server}{}", config(&[("\"/raw/*\"", &keys)]))))
    };
    let token = Token::of("ada").claim("roles", json!(["a"])).sign();
    let request = Request::upgrade("/raw").cookie(&token);
    let socket = request.header("X-Forwarded-For", "2001:db8::7").open(gate.address());
    let mut server = accept(&listener);
    let mut header = read(&mut server, 16);
    assert!(header.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x21"), "{header:?}");
    let length = u16::from_be_bytes([header[14], header[15]]);
    header.extend(read(&mut server, usize::from(length)));
    assert_eq!(&header[16..32], &[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(&header[32..48], &[&[0; 10][..], &[255, 255, 127, 0, 0, 1]].concat());
    assert_eq!(&header[48..50], [0, 0], "of a client behind a proxy the port is not known");
    assert_eq!(&header[50..52], gate.address().port().to_be_bytes());
    let fields = fields(&header, 36);
    let identity: serde_json::Value = serde_json::from_slice(&fields[2].1).expect("JSON");
    assert_eq!(fields.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [2, 5, 0xE0, 3]);
    assert_eq!((&identity["subject"], &identity["method"]), (&json!("ada"), &json!("jwt")));
    assert_eq!(
        (&identity["verifier"], &identity["claims"]["roles"][0]),
        (&json!("app"), &json!("a"))
    );
    assert!(identity["expires"].as_i64().is_some());
    assert_eq!(identity.as_object().expect("an object").len(), 5);
    assert_eq!(read(&mut server, 2), b"hi");
    drop(server);
    assert_eq!(socket.closed().code, 1000);
}

/// A gate that believes the proxies of `trusted`, in front of a WebSocket server.
fn believing(trusted: &str, upstream: &Upstream) -> Gate {
    let server = format!(
        "server: {{ listen: \"127.0.0.1:0\", trusted_proxies: {trusted}, proxy_protocol: true }}\n\
         limits: {{ header_timeout: 1s }}\n"
    );
    Gate::start(&format!("{server}{}", crate::support::members(&upstream.ws())))
}

#[test]
fn what_haproxy_says_of_the_client_is_believed() {
    let upstream = Upstream::start();
    let upstream_url = upstream.ws();
    let places = [("10.0.0.0/8", "127.0.0.0/8"), ("ws://127.0.0.1:3000", &*upstream_url)];
    let config = example("proxied.yaml", &places);
    let gate = Gate::start_with(&config, &[("JWT_SECRET", SECRET)]);
    for send in ["send-proxy", "send-proxy-v2"] {
        let front = free_address();
        let _haproxy = Haproxy::start(&format!(
            "defaults\n mode tcp\n timeout client 10s\n timeout server 10s\n timeout connect \
             5s\nfrontend f\n bind {front}\n default_backend b\nbackend b\n server s {} {send}\n",
            gate.address()
        ));
        eventually("haproxy listens", || TcpStream::connect(front).is_ok());
        // The client's own address is one of loopback that no listener here has.
        let path = format!("/ws/{send}");
        Request::upgrade(&path).bearer(&token("ada")).open(front).echoes("hello");
        let seen = upstream.last().header("x-forwarded-for").map(str::to_owned);
        assert_eq!(seen.as_deref(), Some("127.0.0.1"), "{send}");
    }
    for (header, ip) in [
        (&b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n"[..], "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "127.0.0.1"),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x0a\xc0\0\x02\x01\x12\x67\x01\xbb",
            "203.0.113.10",
        ),
    ] {
        // In two pieces, and with the request right behind.
        let request = Request::upgrade("/ws/a").bearer(&token("ada"));
        let request = request.header("X-Forwarded-For", "198.51.100.1").bytes();
        let mut stream = TcpStream::connect(gate.address()).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        stream.write_all(&header[..7]).expect("written");
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(&[&header[7..], &request].concat()).expect("written");
        assert!(read(&mut stream, 12).ends_with(b"101"));
        // A client that is no proxy of ours is not believed about others.
        let expected = if ip == "127.0.0.1" { "198.51.100.1" } else { ip };
        assert_eq!(upstream.last().header("x-forwarded-for"), Some(expected));
    }
}

#[test]
fn a_trusted_proxy_must_say_and_nobody_elses_word_is_read() {
    let upstream = Upstream::start();
    let secret = canary("canary-proxy-header-0001");
    let must = believing("[127.0.0.0/8]", &upstream);
    let request = Request::upgrade("/ws/a").bearer(&token("ada")).bytes();
    for bad in [
        &request[..],
        b"PROXY TCP4 203.0.113.9\r\n\r\n\r\n\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 99999 443\r\n",
        &[b"PROXY TCP4 ", &[b'1'; 200][..]].concat(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x00",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\x00\x00\x00\x00\x00",
        format!("PROXY {secret}\r\n\r\n").as_bytes(),
    ] {
        let mut stream = TcpStream::connect(must.address()).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        let _ = stream.write_all(bad);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{bad:?}");
    }
    // Nor may it keep a place by saying nothing.
    let began = Instant::now();
    let mut silent = TcpStream::connect(must.address()).expect("a connection");
    silent.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    silent.write_all(b"PROXY ").expect("written");
    assert!(!matches!(silent.read(&mut [0; 9]), Ok(1..)));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    let others = believing("[10.0.0.0/8]", &upstream);
    Request::upgrade("/ws/a").bearer(&token("ada")).open(others.address()).echoes("hello");
    let mut stream = TcpStream::connect(others.address()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let forged = [&b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n"[..], &request].concat();
    stream.write_all(&forged).expect("written");
    assert!(read(&mut stream, 12).ends_with(b"400"));
}
