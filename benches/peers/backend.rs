//! The server behind the proxies: echoes WebSocket messages unmasked and says at `/ended`
//! how its connections ended. Beside nginx, another of it answers `auth_request`. One
//! thread.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_lc_rs::hmac;
use sockgate::handshake::accept_for;
use sockgate::relay::frame::{Header, Opcode, apply_mask};

use crate::machine;
use crate::poller::{Interest, Outbox, Poller, READ};
use crate::wire::{self, BINARY, CLOSE, FAREWELL, FLOOD, NORMAL};

const LISTENER: usize = usize::MAX;

/// The server in a process of its own. Ended when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts it on `cores`, as taskset wants them, or where its parent runs.
    pub(crate) fn start(cores: Option<&str>) -> io::Result<Server> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(cores) = cores {
            command.args(["taskset", "-c", cores]);
        }
        let mut child = command
            .arg(std::env::current_exe()?)
            .arg("backend")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
        let port: u16 = line.trim().parse().map_err(io::Error::other)?;
        Ok(Server { child, address: ([127, 0, 0, 1], port).into() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        machine::end(&mut self.child);
    }
}

/// Serves on a free port, which is printed, until killed.
pub(crate) fn run() -> io::Result<()> {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    listener.listen(4096)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from(listener);
    println!("{}", listener.local_addr()?.port());
    Backend {
        poller: Poller::new()?,
        peers: Vec::new(),
        free: Vec::new(),
        key: wire::verifying_key(),
        ended: Ended::default(),
        scratch: vec![0; READ],
        reply: Vec::with_capacity(READ),
    }
    .serve(&listener)
}

/// How upgraded connections ended.
#[derive(Default)]
struct Ended {
    with_close: u64,
    without: u64,
}

struct Backend {
    poller: Poller,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    key: hmac::Key,
    ended: Ended,
    scratch: Vec<u8>,
    reply: Vec<u8>,
}

struct Peer {
    socket: TcpStream,
    out: Outbox,
    /// The beginning of a head, HTTP's or a frame's, that is not complete.
    partial: Vec<u8>,
    upgraded: bool,
    /// What is left of the current frame, and how it is masked.
    payload: u64,
    offset: usize,
    mask: [u8; 4],
    /// The current frame's payload is not echoed.
    swallow: bool,
    /// It sends without an end.
    floods: bool,
    close_seen: bool,
    close_sent: bool,
}

impl Backend {
    fn serve(mut self, listener: &TcpListener) -> io::Result<()> {
        self.poller.add(listener, LISTENER)?;
        let mut ready = Vec::new();
        loop {
            self.poller.wait(Duration::from_secs(60), &mut ready)?;
            for &token in &ready {
                if token == LISTENER {
                    self.accept(listener)?;
                } else if let Some(mut peer) = self.peers.get_mut(token).and_then(Option::take) {
                    // A peer that breaks its connection is just gone.
                    if self.turn(&mut peer, token).unwrap_or(false) {
                        self.peers[token] = Some(peer);
                    } else {
                        self.free.push(token);
                        if peer.upgraded && peer.close_seen {
                            self.ended.with_close += 1;
                        } else if peer.upgraded {
                            self.ended.without += 1;
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        while let Ok((socket, _)) = listener.accept() {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let token = self.free.pop().unwrap_or_else(|| {
                self.peers.push(None);
                self.peers.len() - 1
            });
            self.poller.add(&socket, token)?;
            self.peers[token] = Some(Peer::new(socket));
        }
        Ok(())
    }

    /// One read, or what waits to be written; false if the connection is over.
    fn turn(&mut self, peer: &mut Peer, token: usize) -> io::Result<bool> {
        if peer.floods {
            let flood = wire::frame(BINARY, &[0; 16 * 1024], false);
            while peer.out.flush(&peer.socket)? && peer.out.write(&peer.socket, &flood)? {}
            return Ok(true);
        }
        if !peer.out.is_empty() {
            if peer.out.flush(&peer.socket)? {
                self.poller.change(&peer.socket, token, Interest::Read)?;
            }
            return Ok(true);
        }
        let kept = peer.partial.len();
        self.scratch[..kept].copy_from_slice(&peer.partial);
        let count = match peer.socket.read(&mut self.scratch[kept..]) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        peer.partial.clear();
        self.reply.clear();
        let bytes = &mut self.scratch[..kept + count];
        if peer.upgraded {
            peer.echo(bytes, &mut self.reply)?;
        } else {
            peer.answer(bytes, &mut self.reply, &self.key, &self.ended)?;
        }
        if !peer.out.write(&peer.socket, &self.reply)? || peer.floods {
            self.poller.change(&peer.socket, token, Interest::Write)?;
        }
        // Both have said Close: the server ends the connection (RFC 6455 §7.1.1).
        Ok(!(peer.close_seen && peer.close_sent && peer.out.is_empty()))
    }
}

impl Peer {
    fn new(socket: TcpStream) -> Peer {
        Peer {
            socket,
            out: Outbox::default(),
            partial: Vec::new(),
            upgraded: false,
            payload: 0,
            offset: 0,
            mask: [0; 4],
            swallow: false,
            floods: false,
            close_seen: false,
            close_sent: false,
        }
    }

    /// Answers requests until one is an upgrade.
    fn answer(
        &mut self,
        bytes: &mut [u8],
        reply: &mut Vec<u8>,
        key: &hmac::Key,
        ended: &Ended,
    ) -> io::Result<()> {
        let Some(end) = wire::find(bytes, b"\r\n\r\n").map(|end| end + 4) else {
            self.partial.extend_from_slice(bytes);
            return Ok(());
        };
        let (request, rest) = bytes.split_at_mut(end);
        let head = std::str::from_utf8(request).map_err(|_| io::ErrorKind::InvalidData)?;
        if let Some(nonce) = wire::header(head, "sec-websocket-key").filter(|_| !is_auth(head)) {
            reply.extend_from_slice(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                  Connection: Upgrade\r\nSec-WebSocket-Accept: ",
            );
            reply.extend_from_slice(accept_for(nonce.as_bytes()).as_bytes());
            reply.extend_from_slice(b"\r\n\r\n");
            self.upgraded = true;
            return if rest.is_empty() { Ok(()) } else { self.echo(rest, reply) };
        }
        if is_auth(head) {
            let shown = wire::header(head, "authorization").unwrap_or_default();
            let token = shown.strip_prefix("Bearer ").unwrap_or_default();
            let status = if wire::is_genuine(key, token.as_bytes()) {
                "204 No Content"
            } else {
                "401 Unauthorized"
            };
            reply.extend_from_slice(
                format!("HTTP/1.1 {status}\r\nX-User: user\r\nContent-Length: 0\r\n\r\n")
                    .as_bytes(),
            );
        } else {
            let body = format!("{} {}", ended.with_close, ended.without);
            reply.extend_from_slice(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                    .as_bytes(),
            );
        }
        if rest.is_empty() { Ok(()) } else { self.answer(rest, reply, key, ended) }
    }

    /// Frames come in masked and go out unmasked, as they come.
    fn echo(&mut self, mut bytes: &mut [u8], reply: &mut Vec<u8>) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.payload == 0 {
                let header = Header::parse(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
                // A control frame and a farewell are looked at whole.
                let whole = header.is_some_and(|header| {
                    let control = header.opcode.is_control() || header.opcode == Opcode::TEXT;
                    !control || (bytes.len() - header.len) as u64 >= header.payload
                });
                let Some(header) = header.filter(|_| whole) else {
                    self.partial.extend_from_slice(bytes);
                    return Ok(());
                };
                bytes = &mut bytes[header.len..];
                self.begin(&header, bytes, reply);
            }
            let length = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            let (payload, rest) = bytes.split_at_mut(length);
            if self.mask != [0; 4] {
                apply_mask(payload, self.mask, self.offset);
            }
            if !self.swallow {
                reply.extend_from_slice(payload);
            }
            self.payload -= length as u64;
            self.offset = (self.offset + length) % 4;
            bytes = rest;
        }
        Ok(())
    }

    fn begin(&mut self, header: &Header, after: &[u8], reply: &mut Vec<u8>) {
        self.payload = header.payload;
        self.mask = header.mask.unwrap_or_default();
        self.offset = 0;
        self.swallow = false;
        if header.opcode == Opcode::CLOSE {
            self.close_seen = true;
            self.swallow = self.close_sent;
            self.close_sent = true;
        } else if header.opcode == Opcode::TEXT && header.payload == FAREWELL.len() as u64 {
            let mut text = after[..FAREWELL.len()].to_vec();
            apply_mask(&mut text, self.mask, 0);
            self.floods = text == FLOOD;
            self.swallow = text == FAREWELL || self.floods;
            if self.floods {
                // What waits here is not the proxy's; best effort, it is seen in the figure.
                let _ = socket2::SockRef::from(&self.socket).set_send_buffer_size(16 * 1024);
            }
            if text == FAREWELL {
                self.close_sent = true;
                reply.extend_from_slice(&wire::frame(CLOSE, &NORMAL, false));
            }
        }
        if !self.swallow {
            reply.extend_from_slice(&wire::head(header.opcode.bits(), header.payload, false));
        }
    }
}

fn is_auth(head: &str) -> bool {
    head.starts_with("GET /auth ")
}
