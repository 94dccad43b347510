//! epoll, level-triggered, and what one thread needs beside it.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// How much one read takes at most.
pub(crate) const READ: usize = 256 * 1024;

/// Which sockets can be read or written.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

/// What a socket is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
    Both,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        Ok(Poller { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(256) })
    }

    /// Reports `socket` as `token` while it can be read.
    pub(crate) fn add(&self, socket: impl AsFd, token: usize) -> io::Result<()> {
        let data = EventData::new_u64(token as u64);
        Ok(epoll::add(&self.epoll, socket, data, EventFlags::IN)?)
    }

    /// Reports `socket` when it is ready for what `interest` says.
    pub(crate) fn change(
        &self,
        socket: impl AsFd,
        token: usize,
        interest: Interest,
    ) -> io::Result<()> {
        let flags = match interest {
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
            Interest::Both => EventFlags::IN | EventFlags::OUT,
        };
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(token as u64), flags)?)
    }

    /// The tokens of what is ready, within `patience`.
    pub(crate) fn wait(&mut self, patience: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        ready.clear();
        self.events.clear();
        let patience = patience.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.extend(self.events.iter().map(|event| event.data.u64() as usize));
        Ok(())
    }
}

/// What waits for a socket that takes no more.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    at: usize,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes `bytes` behind what waits; false if something waits afterwards.
    pub(crate) fn write(&mut self, mut socket: &TcpStream, bytes: &[u8]) -> io::Result<bool> {
        let mut rest = bytes;
        if self.is_empty() {
            rest = &rest[write_some(&mut socket, rest)?..];
        }
        self.bytes.extend_from_slice(rest);
        Ok(self.is_empty())
    }

    /// Writes what waits; false if something still does.
    pub(crate) fn flush(&mut self, mut socket: &TcpStream) -> io::Result<bool> {
        self.at += write_some(&mut socket, &self.bytes[self.at..])?;
        if self.at == self.bytes.len() {
            *self = Outbox::default();
        }
        Ok(self.is_empty())
    }
}

/// Writes as much as the socket takes now.
pub(crate) fn write_some(socket: &mut impl io::Write, bytes: &[u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match socket.write(&bytes[done..]) {
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
