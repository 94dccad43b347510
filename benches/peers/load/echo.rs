//! Messages back and forth on open connections.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Latencies, PATIENCE, Seen, establish};
use crate::poller::{Interest, Poller, READ, write_some};
use crate::proxy::Running;
use crate::wire::{self, BINARY, Openings};

/// How many messages are under way.
#[derive(Clone, Copy)]
pub(crate) enum Window {
    /// So many on every connection.
    Each(usize),
    /// So many in all, which go around the connections.
    All(usize),
}

/// Open connections with messages of one size.
pub(crate) struct Echo {
    poller: Poller,
    peers: Vec<Peer>,
    /// Messages as sent, one behind the other, at least one.
    sent: Vec<u8>,
    sent_length: usize,
    /// One message as it comes back.
    expected: Vec<u8>,
    scratch: Vec<u8>,
    window: Window,
    /// Whose turn it is to send, with [`Window::All`].
    next: usize,
}

struct Peer {
    socket: TcpStream,
    /// Bytes still to be sent, and where in the message they begin.
    to_send: usize,
    at: usize,
    /// How much of the current echo has come.
    come: usize,
    begun: VecDeque<Instant>,
    blocked: bool,
}

impl Echo {
    /// Opens `connections` for messages of that `content`.
    pub(crate) fn open(
        proxy: &Running,
        openings: &mut Openings,
        connections: usize,
        content: &[u8],
        window: Window,
    ) -> io::Result<Echo> {
        let poller = Poller::new()?;
        let mut peers = Vec::new();
        for (token, socket) in establish(proxy, openings, connections)?.into_iter().enumerate() {
            socket.set_nonblocking(true)?;
            poller.add(&socket, token)?;
            let begun = VecDeque::new();
            peers.push(Peer { socket, to_send: 0, at: 0, come: 0, begun, blocked: false });
        }
        let message = wire::frame(BINARY, content, true);
        Ok(Echo {
            poller,
            peers,
            sent_length: message.len(),
            sent: message.repeat((32 * 1024 / message.len()).max(1)),
            expected: wire::frame(BINARY, content, false),
            scratch: vec![0; READ],
            window,
            next: 0,
        })
    }

    /// Sends for so long, then waits for the last echoes.
    pub(crate) fn run(&mut self, duration: Duration) -> io::Result<Seen> {
        let began = Instant::now();
        let mut latency = Latencies::new();
        let (mut completed, mut under_way) = (0, 0);
        match self.window {
            Window::Each(count) => {
                for token in 0..self.peers.len() {
                    self.send(token, count, began)?;
                    under_way += count;
                }
            }
            Window::All(count) => {
                for _ in 0..count {
                    let token = self.turn();
                    self.send(token, 1, began)?;
                    under_way += 1;
                }
            }
        }
        let mut ready = Vec::new();
        let mut last = began;
        while under_way > 0 {
            self.poller.wait(Duration::from_secs(1), &mut ready)?;
            let now = Instant::now();
            if !ready.is_empty() {
                last = now;
            } else if now.duration_since(last) > PATIENCE {
                return Err(io::Error::other(format!("{under_way} echoes never came")));
            }
            let over = now.duration_since(began) >= duration;
            for &token in &ready {
                let come = self.receive(token)?;
                for _ in 0..come {
                    let begun = self.peers[token].begun.pop_front().unwrap_or(now);
                    latency.note(now.duration_since(begun));
                }
                completed += come as u64;
                under_way -= come;
                if over {
                    self.send(token, 0, now)?;
                    continue;
                }
                under_way += come;
                match self.window {
                    Window::Each(_) => self.send(token, come, now)?,
                    Window::All(_) => {
                        for _ in 0..come {
                            let token = self.turn();
                            self.send(token, 1, now)?;
                        }
                    }
                }
            }
        }
        Ok(Seen { completed, elapsed: began.elapsed(), latency, lost: 0, failed: 0 })
    }

    fn turn(&mut self) -> usize {
        self.next = (self.next + 1) % self.peers.len();
        self.next
    }

    /// Puts `messages` more on their way, as far as the socket takes them.
    fn send(&mut self, token: usize, messages: usize, now: Instant) -> io::Result<()> {
        let peer = &mut self.peers[token];
        peer.to_send += messages * self.sent_length;
        for _ in 0..messages {
            peer.begun.push_back(now);
        }
        let mut blocked = false;
        while peer.to_send > 0 && !blocked {
            let end = self.sent.len().min(peer.at + peer.to_send);
            let count = write_some(&mut &peer.socket, &self.sent[peer.at..end])?;
            blocked = count < end - peer.at;
            peer.to_send -= count;
            peer.at = (peer.at + count) % self.sent_length;
        }
        if blocked != peer.blocked {
            peer.blocked = blocked;
            let interest = if blocked { Interest::Both } else { Interest::Read };
            self.poller.change(&peer.socket, token, interest)?;
        }
        Ok(())
    }

    /// Reads once, compares, and counts the echoes that are complete.
    fn receive(&mut self, token: usize) -> io::Result<usize> {
        let peer = &mut self.peers[token];
        let count = match (&peer.socket).read(&mut self.scratch) {
            Ok(0) => return Err(io::Error::other("a connection ended")),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        let (mut bytes, mut complete) = (&self.scratch[..count], 0);
        while !bytes.is_empty() {
            let length = bytes.len().min(self.expected.len() - peer.come);
            let (part, rest) = bytes.split_at(length);
            if part != &self.expected[peer.come..peer.come + length] {
                return Err(io::Error::other("an echo is not what was sent"));
            }
            bytes = rest;
            peer.come += length;
            if peer.come == self.expected.len() {
                peer.come = 0;
                complete += 1;
            }
        }
        Ok(complete)
    }
}
