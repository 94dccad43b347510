//! Following the frames of one direction through what was read: what passes,
//! what stops here, and where sockgate's own frames may go. No I/O.

use super::control::{Control, Direction};
use super::frame::{
    Extensions, Header, InvalidClose, MAX_CONTROL_PAYLOAD, Opcode, apply_mask, close_code,
    judged_close,
};
use super::pipe::{Course, Pipe};
use crate::close::Reason;

/// What a pipe must know to take a step.
pub(super) struct Rules<'a> {
    pub(super) direction: Direction,
    pub(super) control: &'a Control,
    pub(super) now: u32,
    /// The most payload bytes of one message.
    pub(super) limit: u64,
    /// What the peers agreed on.
    pub(super) extensions: Extensions,
    /// The payload of sockgate's own pings, whose pongs stop here.
    pub(super) token: Option<[u8; 8]>,
    /// Where something waits to be put in.
    pub(super) gap: Gap,
    /// The other peer has sent its Close: behind this one's comes its end.
    pub(super) answering: bool,
}

/// A place where sockgate's own frames may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// Nothing waits.
    None,
    /// Between two frames.
    Frames,
    /// Between two messages.
    Messages,
}

/// Where a scan stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// At the end of the bytes.
    End,
    /// Before a frame head that needs more bytes.
    Hungry,
    /// Between two frames, as asked, or until a tap has judged a message.
    Boundary,
    /// Where a tap begins anew with what follows.
    Whole,
    /// Before the Close that was awaited.
    Answer,
    /// Before a frame that must not pass; the code to close with.
    Violation(Reason, u16),
}

/// What the next frame is to the pipe.
pub(super) enum Next {
    Hungry,
    /// So many bytes are the answer to sockgate's own ping.
    OwnPong(usize),
    /// It must not pass; the code to close with.
    Violation(Reason, u16),
    Frame(Header),
}

/// How far a scan came.
pub(super) struct Scan {
    /// So many bytes at the front are for the target.
    pub(super) forward: usize,
    /// So many bytes were looked at.
    pub(super) read: usize,
    pub(super) stop: Stop,
}

impl Pipe {
    /// Whether the target is at such a place.
    pub(super) fn is_gap(&self, gap: Gap) -> bool {
        match gap {
            Gap::None => false,
            Gap::Frames => !self.mid_frame(),
            Gap::Messages => !self.mid_frame() && !self.in_message,
        }
    }

    /// Follows the frames in `bytes` and moves what is for the target to the
    /// front, which costs nothing unless one of our own pongs is cut out.
    pub(super) fn scan(&mut self, bytes: &mut [u8], rules: &Rules<'_>) -> Scan {
        if self.course == Course::Blind {
            return Scan { forward: 0, read: bytes.len(), stop: Stop::End };
        }
        let skimmed = self.skim(bytes, rules);
        if skimmed == bytes.len() {
            return Scan { forward: skimmed, read: skimmed, stop: Stop::End };
        }
        let (mut forward, mut read) = (skimmed, skimmed);
        let mut data = false;
        let stop = loop {
            let payload = self.scanner.payload(bytes.len() - read);
            data |= self.data && payload > 0;
            close_up(bytes, read, payload, &mut forward);
            read += payload;
            if !self.scanner.at_boundary() {
                break Stop::End;
            }
            if self.is_gap(rules.gap) && !self.is_discarding() {
                break Stop::Boundary;
            }
            if read == bytes.len() {
                break Stop::End;
            }
            match self.next(&bytes[read..], rules) {
                Next::Hungry => break Stop::Hungry,
                Next::OwnPong(length) => read += length,
                Next::Violation(reason, code) => break Stop::Violation(reason, code),
                Next::Frame(header)
                    if header.opcode == Opcode::CLOSE && self.course == Course::Await =>
                {
                    break Stop::Answer;
                }
                Next::Frame(header) => {
                    self.enter(&header, &bytes[read + header.len..], rules);
                    data |= self.data;
                    close_up(bytes, read, header.len, &mut forward);
                    read += header.len;
                }
            }
        };
        if data && !self.is_discarding() {
            rules.control.passed_data(rules.now);
        }
        Scan { forward, read, stop }
    }

    /// Goes past what needs no thought at the front: data frames, while nothing
    /// waits to be put in. That is nearly everything, so it is kept short.
    fn skim(&mut self, bytes: &[u8], rules: &Rules<'_>) -> usize {
        if self.course != Course::Pass || rules.gap != Gap::None {
            return 0;
        }
        let tally = rules.control.tally(rules.direction);
        let mut read = self.scanner.payload(bytes.len());
        let mut data = self.data && read > 0;
        while self.scanner.at_boundary() {
            let short = self.skim_short(&bytes[read..], rules);
            read += short;
            data |= short > 0;
            if read == bytes.len() {
                break;
            }
            let header = match Header::parse(&bytes[read..]) {
                Ok(Some(header))
                    if !header.opcode.is_control() && self.fault(&header, rules).is_none() =>
                {
                    header
                }
                Ok(_) | Err(_) => break,
            };
            self.enter_data(&header);
            tally.add_frames(header.opcode, 1);
            self.scanner.enter(&header);
            data = true;
            read += header.len;
            read += self.scanner.payload(bytes.len() - read);
        }
        if data {
            rules.control.passed_data(rules.now);
        }
        read
    }

    /// Goes past whole frames of less than 126 bytes that are a whole message each, as
    /// most are: their first two bytes tell that nothing is wrong with them.
    #[inline]
    fn skim_short(&mut self, bytes: &[u8], rules: &Rules<'_>) -> usize {
        if self.in_message {
            return 0;
        }
        let (masked, head) = match rules.direction {
            Direction::Up => (0x80, 6),
            Direction::Down => (0, 2),
        };
        let most = rules.limit.min(125) as usize;
        let (mut read, mut frames) = (0, [0_u64; 2]);
        while let [first @ (0x81 | 0x82), second, ..] = bytes[read..] {
            let payload = usize::from(second & 0x7f);
            let length = head + payload;
            if second & 0x80 != masked || payload > most || bytes.len() - read < length {
                break;
            }
            frames[usize::from(first & 1)] += 1;
            read += length;
        }
        if read > 0 {
            let tally = rules.control.tally(rules.direction);
            tally.add_frames(Opcode::BINARY, frames[0]);
            tally.add_frames(Opcode::TEXT, frames[1]);
            (self.data, self.withheld) = (true, false);
        }
        read
    }

    /// What is wrong with a frame that comes now, as far as its head tells.
    #[inline]
    pub(super) fn fault(&self, header: &Header, rules: &Rules<'_>) -> Option<(Reason, u16)> {
        // RFC 6455 §5.1: a client masks and a server does not.
        if header.mask.is_some() != (rules.direction == Direction::Up)
            || !header.may_come(self.in_message, rules.extensions)
        {
            return Some((Reason::ProtocolError, 1002));
        }
        let before = if header.opcode == Opcode::CONTINUATION { self.message } else { 0 };
        let large =
            !header.opcode.is_control() && before.saturating_add(header.payload) > rules.limit;
        large.then_some((Reason::MessageTooLarge, 1009))
    }

    /// What the frame is that begins with `bytes`; changes nothing.
    pub(super) fn next(&self, bytes: &[u8], rules: &Rules<'_>) -> Next {
        let header = match Header::parse(bytes) {
            Ok(Some(header)) => header,
            Ok(None) => return Next::Hungry,
            Err(_) => return Next::Violation(Reason::ProtocolError, 1002),
        };
        let payload = &bytes[header.len..];
        if self.is_discarding() {
            // Of what is dropped only a Close's code is of interest.
            let half = header.opcode == Opcode::CLOSE && header.payload >= 2 && payload.len() < 2;
            return if half { Next::Hungry } else { Next::Frame(header) };
        }
        if let Some((reason, code)) = self.fault(&header, rules) {
            return Next::Violation(reason, code);
        }
        if header.opcode == Opcode::CLOSE {
            return judge_close(header, payload);
        }
        match rules.token.filter(|_| may_answer_ping(&header)) {
            None => Next::Frame(header),
            Some(token) => match payload.get(..token.len()) {
                None => Next::Hungry,
                Some(masked) if answers(&header, masked, token) => {
                    Next::OwnPong(header.len + token.len())
                }
                Some(_) => Next::Frame(header),
            },
        }
    }

    /// Goes into a frame whose payload begins with `payload`.
    pub(super) fn enter(&mut self, header: &Header, payload: &[u8], rules: &Rules<'_>) {
        self.scanner.enter(header);
        self.data = !header.opcode.is_control();
        self.withheld = self.is_discarding();
        if header.opcode == Opcode::CLOSE && self.peer_close.is_none() {
            self.peer_close = Some(close_code(header, payload));
        }
        if self.withheld {
            return;
        }
        self.target_closed |= header.opcode == Opcode::CLOSE;
        rules.control.tally(rules.direction).add_frames(header.opcode, 1);
        if self.data {
            self.enter_data(header);
        }
    }

    /// Goes into the frame of a message, or past it if it is whole.
    #[inline]
    pub(super) fn enter_data(&mut self, header: &Header) {
        let before = if header.opcode == Opcode::CONTINUATION { self.message } else { 0 };
        self.message = if header.fin { 0 } else { before.saturating_add(header.payload) };
        self.in_message = !header.fin;
        (self.data, self.withheld) = (true, false);
    }
}

/// Moves `length` bytes at `from` to the end of what is forwarded.
fn close_up(bytes: &mut [u8], from: usize, length: usize, forward: &mut usize) {
    if *forward != from && length > 0 {
        bytes.copy_within(from..from + length, *forward);
    }
    *forward += length;
}

/// A Close is looked at whole: it is small, and the last that its sender says.
fn judge_close(header: Header, payload: &[u8]) -> Next {
    let mut plain = [0; MAX_CONTROL_PAYLOAD];
    let Some((plain, masked)) = usize::try_from(header.payload)
        .ok()
        .and_then(|length| Some((plain.get_mut(..length)?, payload.get(..length)?)))
    else {
        return Next::Hungry;
    };
    plain.copy_from_slice(masked);
    apply_mask(plain, header.mask.unwrap_or_default(), 0);
    match judged_close(plain) {
        Ok(_) => Next::Frame(header),
        Err(InvalidClose::Code) => Next::Violation(Reason::ProtocolError, 1002),
        Err(InvalidClose::NotUtf8) => Next::Violation(Reason::ProtocolError, 1007),
    }
}

fn may_answer_ping(header: &Header) -> bool {
    header.opcode == Opcode::PONG && header.payload == 8 && header.rsv == 0
}

fn answers(header: &Header, masked: &[u8], token: [u8; 8]) -> bool {
    let mask = header.mask.unwrap_or_default();
    masked
        .iter()
        .zip(token)
        .zip(mask.iter().cycle())
        .all(|((byte, token), mask)| byte ^ mask == token)
}
