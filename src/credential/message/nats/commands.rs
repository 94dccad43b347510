//! The commands of a NATS client behind its permit, which may be cut anywhere
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol>).
//!
//! Stricter than nats-server where a line could be read in two ways: what it
//! would refuse anyway, and a carriage return anywhere but at the end, where
//! the server drops the last byte whatever it is.

/// A client's commands, followed for another CONNECT.
#[derive(Default)]
pub(in crate::credential::message) struct Commands {
    state: State,
    /// The first bytes of the line: its command, if it is one.
    word: Vec<u8>,
    /// The last argument so far: how long a payload is.
    last: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
enum State {
    /// Between two commands.
    #[default]
    Between,
    /// In the command's name.
    Word,
    /// In its arguments.
    Arguments,
    /// Behind the carriage return that ends its line.
    LineEnd,
    /// In a payload with its line end, of which this much is left.
    Payload(usize),
}

/// The longest command is HPUB and UNSUB; the longest number that the server reads
/// has nine digits.
const WORD: usize = 5;
const DIGITS: usize = 9;

impl Commands {
    /// Whether a command ends here.
    pub(in crate::credential::message) fn is_between(&self) -> bool {
        matches!(self.state, State::Between)
    }

    /// Reads on; true if there is a CONNECT among the commands, or what cannot be
    /// followed.
    pub(in crate::credential::message) fn is_broken_by(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            if let State::Payload(left) = self.state {
                let (read, rest) = bytes.split_at(bytes.len().min(left));
                self.state = match left - read.len() {
                    0 => State::Between,
                    left => State::Payload(left),
                };
                bytes = rest;
                continue;
            }
            if !self.follow(*first) {
                return true;
            }
            bytes = rest;
        }
        false
    }

    /// Whether `byte` of a line can be followed.
    fn follow(&mut self, byte: u8) -> bool {
        match (self.state, byte) {
            (State::LineEnd, b'\n') => self.ends_line(),
            // There is no other command with a C.
            (State::LineEnd, _) | (State::Between, b'\r' | b'\n' | b'C' | b'c') => false,
            (State::Word | State::Arguments, b'\n') => self.ends_line(),
            (State::Word | State::Arguments, b'\r') => {
                self.state = State::LineEnd;
                true
            }
            (State::Word, b' ' | b'\t') => {
                self.state = State::Arguments;
                self.is_known()
            }
            (State::Between | State::Word, _) => {
                self.state = State::Word;
                self.word.push(byte.to_ascii_uppercase());
                self.word.len() <= WORD
            }
            (State::Arguments, b' ' | b'\t') => {
                // Blanks at the end of the line do not count.
                if self.last.last().is_some_and(|last| *last != b' ') {
                    self.last.push(b' ');
                }
                true
            }
            (State::Arguments, _) => {
                if self.last.last() == Some(&b' ') {
                    self.last.clear();
                }
                // A longer argument is no number, however it goes on.
                if self.last.len() <= DIGITS {
                    self.last.push(byte);
                }
                true
            }
            (State::Payload(_), _) => false,
        }
    }

    fn is_known(&self) -> bool {
        matches!(&self.word[..], b"PUB" | b"HPUB" | b"SUB" | b"UNSUB" | b"PING" | b"PONG")
    }

    /// Whether what follows the line is known.
    fn ends_line(&mut self) -> bool {
        let known = self.is_known();
        let word = std::mem::take(&mut self.word);
        let last = std::mem::take(&mut self.last);
        self.state = State::Between;
        if !matches!(&word[..], b"PUB" | b"HPUB") {
            return known;
        }
        match payload(last.trim_ascii_end()) {
            Some(length) => {
                self.state = State::Payload(length + 2);
                true
            }
            None => false,
        }
    }
}

fn payload(digits: &[u8]) -> Option<usize> {
    let is_number = (1..=DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether something is found in `text`, which is the same however it is cut.
    fn broken(text: &str) -> bool {
        let whole = Commands::default().is_broken_by(text.as_bytes());
        for cut in 0..=text.len() {
            let mut commands = Commands::default();
            let (start, end) = text.as_bytes().split_at(cut);
            let found = commands.is_broken_by(start) || commands.is_broken_by(end);
            assert_eq!(found, whole, "{text:?} cut at {cut}");
        }
        whole
    }

    #[test]
    fn a_connect_is_found_between_commands_only() {
        assert!(broken("PING\r\nCONNECT {}\r\n"));
        assert!(broken("PUB a 5\r\nhello\r\nconnect {}\r\n"));
        assert!(broken("HPUB a b 2 5\r\nhello\r\nCoNNECT {}\r\n"));
        for fine in [
            "PUB a 15\r\nCONNECT {}\r\nab\n\r\nPONG\r\n",
            "pub\ta  reply\t5 \r\nhello\r\nSUB CONNECT 1\r\nUNSUB 1\nPING\r\n",
            "HPUB a 12 17\r\nNATS/1.0\r\n\r\nhello\r\nPING\r\n",
            "PUB a 0\r\n\r\nPING\r\n",
            "SUB a.very.long.subject.that.is.longer.than.a.number queue 99\r\n",
        ] {
            assert!(!broken(fine), "{fine:?}");
        }
    }

    #[test]
    fn what_two_servers_could_read_differently_cannot_be_followed() {
        for text in [
            "PUB a 3\r12\n1\r\nCONNECT {}\r\n",
            "PUB a 1234567890\r\n",
            "PUB a +5\r\nhello\r\n",
            "PUB a\r\n",
            "PUB\r\n",
            "PUB a 5x\r\n",
            " PING\r\n",
            "\r\n",
            "INFO {}\r\n",
            "MSG a 1 5\r\nhello\r\n",
            "PINGPONG\r\n",
            "PUBa 5\r\n",
        ] {
            assert!(broken(text), "{text:?}");
        }
    }
}
