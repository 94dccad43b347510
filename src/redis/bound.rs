//! A stream of RESP answers, each of bounded size: a value that is announced
//! larger is an error before a byte of it is read, and a parser behind never
//! waits for more than that.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::stream::{Scan, Scanned, Stream};

/// The longest first line of an element: a number, an error, a status.
const LINE_BYTES: usize = 4096;
/// The most elements that one array may announce.
const ELEMENTS: u64 = 1 << 16;

/// A stream whose answers are bounded.
pub(super) type Bounded = Scanned<Telling>;

/// `stream`, of which no answer is longer than `limit`. `too_large` is set when one
/// is: of the error itself nobody is told.
pub(super) fn bounded(stream: Stream, limit: usize, too_large: Arc<AtomicBool>) -> Bounded {
    Scanned::new(stream, Telling { scan: Answers::new(limit), too_large })
}

/// Tells of an answer that is too large.
pub(super) struct Telling {
    scan: Answers,
    too_large: Arc<AtomicBool>,
}

impl Scan for Telling {
    fn advance(&mut self, bytes: &[u8]) -> io::Result<()> {
        let scanned = self.scan.advance(bytes);
        if scanned.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::FileTooLarge) {
            self.too_large.store(true, Ordering::Relaxed);
        }
        scanned
    }
}

/// Follows answers by the first lines of their elements.
struct Answers {
    limit: usize,
    /// Bytes of the current answer.
    size: usize,
    /// Elements that the current answer still announces.
    elements: u64,
    /// Bytes of the current bulk string still to come, its line end included.
    bulk: usize,
    /// The current first line.
    line: Vec<u8>,
}

impl Answers {
    fn new(limit: usize) -> Answers {
        Answers { limit, size: 0, elements: 0, bulk: 0, line: Vec::new() }
    }

    fn advance(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = if self.bulk > 0 {
                let taken = self.bulk.min(bytes.len());
                self.bulk -= taken;
                if self.bulk == 0 {
                    self.element_over();
                }
                taken
            } else {
                self.first_line(bytes)?
            };
            self.size += taken;
            if self.size > self.limit {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            if self.elements == 0 && self.bulk == 0 && self.line.is_empty() {
                self.size = 0;
            }
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn first_line(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.line.is_empty() && self.elements == 0 {
            self.elements = 1;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        if self.line.len() + taken > LINE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.line.extend_from_slice(&bytes[..taken]);
        if end.is_some() {
            let line = std::mem::take(&mut self.line);
            self.announced(&line)?;
        }
        Ok(taken)
    }

    /// What the first line of an element announces.
    fn announced(&mut self, line: &[u8]) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let (kind, rest) = line.split_first().ok_or_else(invalid)?;
        let count = || {
            let text = rest.strip_suffix(b"\r\n").ok_or_else(invalid)?;
            std::str::from_utf8(text).ok().and_then(|t| t.parse::<i64>().ok()).ok_or_else(invalid)
        };
        match kind {
            b'+' | b'-' | b':' => self.element_over(),
            b'$' => match count()? {
                -1 => self.element_over(),
                length => {
                    let length = usize::try_from(length).map_err(|_| invalid())?;
                    if length > self.limit {
                        return Err(io::ErrorKind::FileTooLarge.into());
                    }
                    self.bulk = length + 2;
                }
            },
            b'*' => match count()? {
                -1 => self.element_over(),
                length => {
                    let length = u64::try_from(length).map_err(|_| invalid())?;
                    if length > ELEMENTS {
                        return Err(io::ErrorKind::FileTooLarge.into());
                    }
                    self.elements = self.elements.saturating_add(length);
                    self.element_over();
                }
            },
            // RESP3, which nobody asked for, or no RESP at all.
            _ => return Err(invalid()),
        }
        Ok(())
    }

    fn element_over(&mut self) {
        self.elements = self.elements.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How a scan with a limit of 64 ends, whole and byte by byte alike.
    fn scan(text: &[u8]) -> Option<io::ErrorKind> {
        let whole = Answers::new(64).advance(text).err().map(|error| error.kind());
        let mut scan = Answers::new(64);
        let mut single = None;
        for byte in text {
            single = single.or(scan.advance(&[*byte]).err().map(|error| error.kind()));
        }
        assert_eq!(whole, single);
        whole
    }

    #[test]
    fn answers_pass_one_after_another_without_adding_up() {
        let answer =
            b"*3\r\n$3\r\na\r\n\r\n:12\r\n*1\r\n$-1\r\n+OK\r\n-ERR no\r\n*0\r\n*-1\r\n$0\r\n\r\n";
        assert_eq!(scan(&answer.repeat(50)), None);
    }

    #[test]
    fn a_large_answer_is_an_error_when_it_is_announced() {
        let too_large = Some(io::ErrorKind::FileTooLarge);
        assert_eq!(scan(b"$64\r\n"), None);
        assert_eq!(scan(b"$65\r\n"), too_large);
        assert_eq!(scan(b"*65537\r\n"), too_large);
        assert_eq!(scan(&[&b"*20\r\n"[..], &b":1234\r\n".repeat(10)].concat()), too_large);
        assert_eq!(
            scan(b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n$40\r\n0123456789012345678901234567890123456789\r\n"),
            too_large
        );
    }

    #[test]
    fn what_is_no_resp2_is_an_error() {
        for text in
            [&b"HTTP/1.1 200 OK\r\n"[..], b"$-2\r\n", b"*x\r\n", b"$5\n", b"%1\r\n", b"\r\n"]
        {
            assert_eq!(scan(text), Some(io::ErrorKind::InvalidData), "{text:?}");
        }
        let mut scan = Answers::new(1 << 20);
        assert!(scan.advance(&[b'+'; LINE_BYTES + 1]).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in proptest::collection::vec(
            prop_oneof![Just(b'$'), Just(b'*'), Just(b'\r'), Just(b'\n'), Just(b'1'), any::<u8>()],
            0..80,
        )) {
            let mut scan = Answers::new(64);
            let _ = scan.advance(&text);
        }
    }
}
