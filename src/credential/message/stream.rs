//! Dialects whose messages are pieces of one byte stream, followed behind the
//! permit for the beginning of another login: MQTT packets, STOMP frames.

use super::mqtt::{self, Length};

/// The packets of an MQTT client (3.1.1 §2), which may be cut anywhere.
#[derive(Default)]
pub(super) struct Packets {
    state: Packet,
}

#[derive(Default)]
enum Packet {
    /// Between two packets.
    #[default]
    Between,
    /// Behind the first byte of one.
    Head(Length),
    /// So many bytes of it are left.
    Body(usize),
}

impl Packets {
    /// Whether a packet ends here.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.state, Packet::Between)
    }

    /// Reads on; true if there is a CONNECT among the packets, or what is none.
    pub(super) fn is_broken_by(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.state {
                Packet::Between => {
                    if mqtt::is_login(*first) {
                        return true;
                    }
                    self.state = Packet::Head(Length::default());
                    bytes = rest;
                }
                Packet::Head(length) => {
                    match length.read(*first) {
                        Ok(None) => {}
                        Ok(Some(0)) => self.state = Packet::Between,
                        Ok(Some(length)) => self.state = Packet::Body(length),
                        Err(_) => return true,
                    }
                    bytes = rest;
                }
                Packet::Body(left) => {
                    let (read, rest) = bytes.split_at(bytes.len().min(*left));
                    *left -= read.len();
                    if *left == 0 {
                        self.state = Packet::Between;
                    }
                    bytes = rest;
                }
            }
        }
        false
    }
}

/// The frames of a STOMP client (1.2, "STOMP Frames"), which may be cut anywhere.
#[derive(Default)]
pub(super) struct Frames {
    state: Frame,
    /// The beginning of the line that is being read.
    line: Vec<u8>,
    content_length: Option<usize>,
}

#[derive(Clone, Copy, Default)]
enum Frame {
    /// Between two frames, where clients send line ends as heart-beats.
    #[default]
    Between,
    Command,
    Headers,
    /// A body of this many more bytes.
    Counted(usize),
    /// A body up to the next NUL.
    Body,
}

/// No line that matters here is longer.
const LINE: usize = 128;

const LENGTH: &[u8] = b"content-length";

/// The largest number of a server that counts in 32 bits.
const LONGEST: usize = i32::MAX as usize;

impl Frames {
    /// Whether a frame ends here.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.state, Frame::Between)
    }

    /// Whether `message` begins as a login does. A server may look at each message
    /// by itself, wherever the frames are.
    pub(super) fn begins_login(message: &[u8]) -> bool {
        let message = message.trim_ascii_start();
        let line = message.split(|byte| *byte == b'\n').next().unwrap_or_default();
        line.len() < message.len() && is_login(line)
    }

    /// Reads on; true if there is a login among the frames, or a length that two
    /// servers could read differently.
    pub(super) fn is_broken_by(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            match self.state {
                Frame::Between => match first {
                    b'\n' | b'\r' | 0 => bytes = rest,
                    _ => self.state = Frame::Command,
                },
                Frame::Command | Frame::Headers => {
                    bytes = rest;
                    if matches!(first, b'\n' | 0) {
                        if self.ends_line() {
                            return true;
                        }
                        if *first == 0 {
                            self.ends_frame();
                        }
                    } else if self.line.len() < LINE {
                        self.line.push(*first);
                    }
                }
                Frame::Counted(left) => {
                    let (read, rest) = bytes.split_at(bytes.len().min(left));
                    let left = left - read.len();
                    self.state = if left == 0 { Frame::Body } else { Frame::Counted(left) };
                    bytes = rest;
                }
                Frame::Body => {
                    bytes = match bytes.iter().position(|byte| *byte == 0) {
                        Some(end) => {
                            self.ends_frame();
                            bytes.get(end + 1..).unwrap_or_default()
                        }
                        None => &[],
                    };
                }
            }
        }
        false
    }

    fn ends_line(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        match self.state {
            Frame::Command => {
                self.state = Frame::Headers;
                // Of a longer line the end is not known.
                line.len() >= LINE || is_login(line)
            }
            _ if line.is_empty() => {
                self.state =
                    self.content_length.filter(|n| *n > 0).map_or(Frame::Body, Frame::Counted);
                false
            }
            _ => self.is_other_length(line),
        }
    }

    /// Takes a content length; true for a second one, for what is no number, and for a
    /// header that could be one to somebody.
    fn is_other_length(&mut self, line: &[u8]) -> bool {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            // Too long to tell its name, or to some the empty line before the body.
            return line.len() >= LINE || line.trim_ascii().is_empty();
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !name.trim_ascii().eq_ignore_ascii_case(LENGTH) {
            return false;
        }
        // With blanks, in capitals, or beyond what many count to, it is none to some.
        let is_plain = name == LENGTH && line.len() < LINE && value.iter().all(u8::is_ascii_digit);
        let length = std::str::from_utf8(value).ok().filter(|_| is_plain);
        let length = length.and_then(|text| text.parse().ok()).filter(|n| *n <= LONGEST);
        length.is_none() || std::mem::replace(&mut self.content_length, length).is_some()
    }

    fn ends_frame(&mut self) {
        *self = Frames::default();
    }
}

fn is_login(command: &[u8]) -> bool {
    let command = command.trim_ascii();
    command.eq_ignore_ascii_case(b"CONNECT") || command.eq_ignore_ascii_case(b"STOMP")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether something is found in `bytes`, which is the same however they are cut.
    fn packets(bytes: &[u8]) -> bool {
        let whole = Packets::default().is_broken_by(bytes);
        for cut in 0..=bytes.len() {
            let mut packets = Packets::default();
            let (start, end) = bytes.split_at(cut);
            let found = packets.is_broken_by(start) || packets.is_broken_by(end);
            assert_eq!(found, whole, "cut at {cut}");
        }
        whole
    }

    fn frames(text: &str) -> bool {
        let whole = Frames::default().is_broken_by(text.as_bytes());
        for cut in 0..=text.len() {
            let mut frames = Frames::default();
            let (start, end) = text.as_bytes().split_at(cut);
            let found = frames.is_broken_by(start) || frames.is_broken_by(end);
            assert_eq!(found, whole, "cut at {cut}");
        }
        whole
    }

    #[test]
    fn a_connect_packet_is_found_between_others_only() {
        assert!(packets(&[0xc0, 0, 0x10, 0]));
        assert!(packets(&[0x30, 2, 0x10, 0x10, 0x1f]));
        assert!(!packets(&[0xc0, 0, 0x30, 3, 0x10, 0x10, 0x10, 0xc0, 0]));
        let long = [&[0x30, 0x80, 1][..], &[0x10; 128], &[0xc0, 0]].concat();
        assert!(!packets(&long));
        assert!(packets(&[0x30, 0xff, 0xff, 0xff, 0xff]));
    }

    #[test]
    fn a_login_frame_is_found_between_others_only() {
        assert!(frames("SEND\na:b\n\nbody\0\n\nCONNECT\nlogin:x\n\n\0"));
        assert!(frames("SEND\n\n\0stomp\r\n\r\n\0"));
        assert!(frames("SEND\n\0CONNECT\n\n\0"));
        assert!(!frames("SEND\n\nCONNECT\nlogin:x\0\n\nSEND\n\nx\0"));
        assert!(!frames("SEND\ncontent-length:12\n\na\0CONNECT\n\n\0\0SUBSCRIBE\n\n\0"));
        assert!(frames("SEND\ncontent-length:1\n\na\0CONNECT\n\n\0"));
        assert!(frames("SEND\ncontent-length:0\n\n\0CONNECT\n\n\0"));
        assert!(frames("SEND\ncontent-length:1\ncontent-length:9\n\na\0"));
        assert!(frames("SEND\ncontent-length:x\n\na\0"));
        assert!(!frames("SEND\nconnect:1\n\n\0\nCONNECTED\n\n\0"));
        // Lines that are longer than what is kept of them.
        let (zeros, blanks) = ("0".repeat(LINE), " ".repeat(LINE));
        assert!(frames(&format!("SEND\ncontent-length:{zeros}9\n\na\0")));
        assert!(frames(&format!("SEND\n{blanks}x:1\n\na\0")));
        assert!(frames(&format!("{blanks}CONNECT\n\n\0")));
        assert!(frames("SEND\n \n\na\0"));
        // Lengths that some servers take for one and some do not.
        for line in [
            "Content-Length:9",
            " content-length:9",
            "content-length: 9",
            "content-length:2147483648",
        ] {
            assert!(frames(&format!("SEND\n{line}\n\na\0")), "{line}");
        }
        assert!(!frames(&format!("SEND\nx:{zeros}{blanks}\n\na\0")));
    }

    #[test]
    fn a_message_that_begins_with_a_login_is_known_by_its_line() {
        assert!(Frames::begins_login(b"\r\n\nCONNECT\r\nlogin:x"));
        assert!(!Frames::begins_login(b"CONNECTED\n"));
        assert!(!Frames::begins_login(b"CONNECT"));
    }
}
