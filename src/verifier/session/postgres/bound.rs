//! A stream of PostgreSQL's messages, of which those that answer one question are
//! bounded together, whatever their kinds: one that would be too much is an error
//! when it is announced. The login is a question, too.

use std::io;

use crate::stream::{Scan, Scanned, Stream};

/// The kind of a message, and its length.
const HEADER: usize = 5;
/// `ReadyForQuery`, the end of every answer.
const READY: u8 = b'Z';

/// `stream`, of which no answer is longer than `limit`.
pub(super) fn bounded(stream: Stream, limit: usize) -> Scanned<impl Scan> {
    Scanned::new(stream, Answers::new(limit))
}

/// Follows messages by their headers.
struct Answers {
    limit: usize,
    /// Bytes that the current answer has announced.
    announced: usize,
    header: Vec<u8>,
    /// Bytes of the current message still to come.
    rest: usize,
}

impl Answers {
    fn new(limit: usize) -> Answers {
        Answers { limit, announced: 0, header: Vec::with_capacity(HEADER), rest: 0 }
    }
}

impl Scan for Answers {
    fn advance(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = if self.rest > 0 {
                let taken = self.rest.min(bytes.len());
                self.rest -= taken;
                taken
            } else {
                let taken = (HEADER - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..taken]);
                if let [kind, a, b, c, d] = *self.header {
                    // The length counts itself.
                    let length = u32::from_be_bytes([a, b, c, d]).checked_sub(4);
                    let length = length.ok_or(io::ErrorKind::InvalidData)?;
                    self.rest = length as usize;
                    if kind == READY {
                        self.announced = 0;
                    }
                    self.announced = self.announced.saturating_add(HEADER + self.rest);
                    if self.announced > self.limit {
                        return Err(io::ErrorKind::FileTooLarge.into());
                    }
                    self.header.clear();
                }
                taken
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &[u8]) -> Option<io::ErrorKind> {
        let whole = Answers::new(32).advance(text).err().map(|error| error.kind());
        let mut single = Answers::new(32);
        let mut last = None;
        for byte in text {
            last = last.or(single.advance(&[*byte]).err().map(|error| error.kind()));
        }
        assert_eq!(whole, last);
        whole
    }

    fn message(kind: u8, length: u32) -> Vec<u8> {
        [&[kind][..], &(length + 4).to_be_bytes(), &vec![kind; length as usize]].concat()
    }

    #[test]
    fn a_message_passes_up_to_the_limit_and_no_further() {
        assert_eq!(scan(&message(b'D', 27)), None);
        assert_eq!(scan(&message(b'D', 28)[..5]), Some(io::ErrorKind::FileTooLarge));
        assert_eq!(scan(b"D\0\0\0\x03"), Some(io::ErrorKind::InvalidData));
        assert_eq!(scan(b"HTTP/1.1"), Some(io::ErrorKind::FileTooLarge));
        assert_eq!(scan(b"D\0"), None);
    }

    #[test]
    fn what_answers_one_question_adds_up_whatever_its_kind() {
        for kind in [b'D', b'N', b'S', b'A', b'd', b'1'] {
            assert_eq!(scan(&message(kind, 3).repeat(4)), None);
            assert_eq!(scan(&message(kind, 3).repeat(5)), Some(io::ErrorKind::FileTooLarge));
            assert_eq!(scan(&message(kind, 0).repeat(7)), Some(io::ErrorKind::FileTooLarge));
        }
    }

    #[test]
    fn the_next_question_begins_anew() {
        let answer = [message(b'D', 10), message(b'Z', 1)].concat();
        assert_eq!(scan(&answer.repeat(50)), None);
        assert_eq!(scan(&message(b'Z', 28)), Some(io::ErrorKind::FileTooLarge));
    }
}
