//! Frame headers (RFC 6455 §5.2): following them through a byte stream without
//! touching payload, and writing the few frames that sockgate itself sends.
//!
//! What a frame may be is judged from its head alone (§5.2–5.5), since payload
//! passes unread; only a Close, which is small, is judged whole (§5.5.1).

/// The longest header: 2 bytes, a 64-bit length, a mask.
pub const MAX_HEADER: usize = 14;

/// The longest payload of a control frame (RFC 6455 §5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// A frame's opcode, as it is on the wire; reserved values included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opcode(u8);

/// One frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What kind of frame it is.
    pub opcode: Opcode,
    /// Whether it is the last of its message.
    pub fin: bool,
    /// The three reserved bits, in the low bits.
    pub rsv: u8,
    /// The masking key, if the payload is masked.
    pub mask: Option<[u8; 4]>,
    /// The length of the payload.
    pub payload: u64,
    /// The length of the header itself.
    pub len: usize,
}

/// A payload length with its top bit set, which RFC 6455 §5.2 rules out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame's payload length has its most significant bit set")]
pub struct Malformed;

/// A Close whose payload RFC 6455 §5.5.1 and §7.4 do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClose {
    /// Half a code, or one that must not be sent.
    #[error("a Close without a code that may be sent")]
    Code,
    /// The reason is not UTF-8.
    #[error("a Close whose reason is not UTF-8")]
    NotUtf8,
}

/// What two peers agreed on beyond RFC 6455, as far as a frame's head tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extensions {
    /// Nothing: no reserved bit and no reserved opcode has a meaning.
    #[default]
    None,
    /// permessage-deflate alone: RSV1 on a message's first frame (RFC 7692 §6).
    Deflate,
    /// Something else, which may use every reserved bit and opcode.
    Other,
}

/// Where in its frames one direction of a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameScanner {
    remaining: u64,
}

/// What the scanner found at the front of the bytes that it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes are payload of the current frame.
    Payload(usize),
    /// A header; its payload follows.
    Header(Header),
    /// The beginning of a header: show the same bytes again with more behind.
    More,
}

impl Opcode {
    /// A continued message.
    pub const CONTINUATION: Opcode = Opcode(0);
    /// A text message begins.
    pub const TEXT: Opcode = Opcode(1);
    /// A binary message begins.
    pub const BINARY: Opcode = Opcode(2);
    /// The closing handshake.
    pub const CLOSE: Opcode = Opcode(8);
    /// A ping.
    pub const PING: Opcode = Opcode(9);
    /// A pong.
    pub const PONG: Opcode = Opcode(10);

    /// The four bits of the wire.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whether the frame is a control frame (RFC 6455 §5.5), reserved or not.
    #[inline]
    pub fn is_control(self) -> bool {
        self.0 & 0x8 != 0
    }

    /// Whether only an extension can have given it a meaning (§5.2).
    #[inline]
    fn is_reserved(self) -> bool {
        self.0 & 0x7 > 2
    }
}

impl Extensions {
    /// What the entries of the `Sec-WebSocket-Extensions` of a 101 agree on.
    pub fn agreed<'a>(entries: impl Iterator<Item = &'a [u8]>) -> Extensions {
        entries.fold(Extensions::None, |agreed, entry| {
            let name = entry.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            if agreed != Extensions::Other && name.eq_ignore_ascii_case(b"permessage-deflate") {
                Extensions::Deflate
            } else {
                Extensions::Other
            }
        })
    }

    #[inline]
    fn allow(self, header: &Header) -> bool {
        match self {
            Extensions::None => header.rsv == 0 && !header.opcode.is_reserved(),
            Extensions::Deflate => {
                let begins = matches!(header.opcode, Opcode::TEXT | Opcode::BINARY);
                !header.opcode.is_reserved() && (header.rsv == 0 || header.rsv == 4 && begins)
            }
            Extensions::Other => true,
        }
    }
}

impl Header {
    /// Reads a header from the front of `bytes`; `None` if it is incomplete.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (payload, rest) = match (second & 0x7f, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
            }
            // Already the first length byte tells that the length is impossible.
            (127, [top, ..]) if top & 0x80 != 0 => return Err(Malformed),
            (126 | 127, _) => return Ok(None),
            (short, rest) => (u64::from(short), rest),
        };
        if payload >> 63 != 0 {
            return Err(Malformed);
        }
        let (mask, rest) = match (second & 0x80 != 0, rest) {
            (false, rest) => (None, rest),
            (true, [a, b, c, d, rest @ ..]) => (Some([*a, *b, *c, *d]), rest),
            (true, _) => return Ok(None),
        };
        Ok(Some(Header {
            opcode: Opcode(first & 0x0f),
            fin: first & 0x80 != 0,
            rsv: first >> 4 & 0x7,
            mask,
            payload,
            len: bytes.len() - rest.len(),
        }))
    }

    /// Whether the frame may come now, `in_message` or between two (RFC 6455
    /// §5.2, §5.4, §5.5): all that its head tells but the mask.
    #[inline]
    pub fn may_come(&self, in_message: bool, extensions: Extensions) -> bool {
        let fits = match self.opcode {
            Opcode::TEXT | Opcode::BINARY => !in_message,
            Opcode::CONTINUATION => in_message,
            opcode if opcode.is_control() => self.fin && self.payload <= MAX_CONTROL_PAYLOAD as u64,
            _ => true,
        };
        fits && self.is_minimal() && extensions.allow(self)
    }

    /// Whether the length is in its shortest form, as it must be.
    #[inline]
    fn is_minimal(&self) -> bool {
        let length = match self.payload {
            0..126 => 0,
            126..65_536 => 2,
            _ => 8,
        };
        self.len == 2 + length + self.mask.map_or(0, |mask| mask.len())
    }
}

impl FrameScanner {
    /// Whether the next byte begins a frame.
    #[inline]
    pub fn at_boundary(&self) -> bool {
        self.remaining == 0
    }

    /// How many of `available` bytes are payload of the current frame; they
    /// count as seen.
    #[inline]
    pub fn payload(&mut self, available: usize) -> usize {
        let taken = usize::try_from(self.remaining).map_or(available, |left| left.min(available));
        self.remaining -= taken as u64;
        taken
    }

    /// Goes past `header`: what follows is its payload.
    #[inline]
    pub fn enter(&mut self, header: &Header) {
        self.remaining = header.payload;
    }

    /// Looks at the front of `bytes` and goes past what it returns.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        if !self.at_boundary() && !bytes.is_empty() {
            return Ok(Step::Payload(self.payload(bytes.len())));
        }
        Ok(match Header::parse(bytes)? {
            Some(header) => {
                self.enter(&header);
                Step::Header(header)
            }
            None => Step::More,
        })
    }
}

/// Masks or unmasks `bytes`, the payload from its byte `offset` on (§5.3).
pub fn apply_mask(bytes: &mut [u8], mut mask: [u8; 4], offset: usize) {
    mask.rotate_left(offset % 4);
    let (words, rest) = bytes.as_chunks_mut();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// One whole, final frame. A mask is for frames to an upstream.
pub fn encode_frame(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(MAX_HEADER + payload.len());
    let masked = if mask.is_some() { 0x80 } else { 0 };
    frame.push(0x80 | opcode.0);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..=125), _) => frame.push(masked | short),
        (_, Ok(medium)) => {
            frame.push(masked | 126);
            frame.extend_from_slice(&medium.to_be_bytes());
        }
        (_, Err(_)) => {
            frame.push(masked | 127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask.unwrap_or_default()[..if mask.is_some() { 4 } else { 0 }]);
    let start = frame.len();
    frame.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut frame[start..], mask, 0);
    }
    frame
}

/// A Close frame (§5.5.1); a reason that is too long is cut between characters.
pub fn encode_close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut end = reason.len().min(MAX_CONTROL_PAYLOAD - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    encode_frame(Opcode::CLOSE, &payload, mask)
}

/// A Ping frame to a client (§5.5.2), unmasked.
pub fn encode_ping(token: [u8; 8]) -> [u8; 10] {
    let mut frame = [0x80 | Opcode::PING.0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    frame[2..].copy_from_slice(&token);
    frame
}

/// The code of a Close's whole payload, unmasked; 1005 for an empty one (§7.1.5).
///
/// # Errors
/// [`InvalidClose`].
pub fn judged_close(payload: &[u8]) -> Result<u16, InvalidClose> {
    let code = match payload {
        [] => return Ok(1005),
        [_] => return Err(InvalidClose::Code),
        [high, low, reason @ ..] => {
            std::str::from_utf8(reason).map_err(|_| InvalidClose::NotUtf8)?;
            u16::from_be_bytes([*high, *low])
        }
    };
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(code),
        _ => Err(InvalidClose::Code),
    }
}

/// The code of a Close frame of which `payload` holds at least the first two
/// bytes that it has, still masked: 1005 where there are none (§7.1.5).
pub fn close_code(header: &Header, payload: &[u8]) -> u16 {
    match (header.payload, payload) {
        (2.., [high, low, ..]) => {
            let mask = header.mask.unwrap_or_default();
            u16::from_be_bytes([high ^ mask[0], low ^ mask[1]])
        }
        _ => 1005,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_headers_read_back_at_every_length_form() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let frame = encode_frame(Opcode::BINARY, &vec![7; length], mask);
                let header = Header::parse(&frame).unwrap().unwrap();
                assert_eq!(header.payload, length as u64);
                assert_eq!(header.mask, mask);
                assert_eq!(header.len + length, frame.len());
                for cut in 0..header.len {
                    assert_eq!(Header::parse(&frame[..cut]), Ok(None), "{length} cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn a_length_with_the_top_bit_cannot_be_read_past() {
        assert_eq!(Header::parse(&[0x82, 127, 0x80]), Err(Malformed));
        let strange = [0xff, 126, 0, 1];
        let header = Header::parse(&strange).unwrap().unwrap();
        assert_eq!((header.opcode.bits(), header.rsv, header.payload), (15, 7, 1));
    }

    #[test]
    fn what_may_come_depends_on_the_message_and_on_what_was_agreed() {
        use Extensions::{Deflate, None, Other};
        let ping_of_126 = [0x89, 126, 0, 126];
        let text_of_5_in_64_bits = [0x81, 127, 0, 0, 0, 0, 0, 0, 0, 5];
        // Between messages, and in one, without and with extensions.
        for (head, between, within) in [
            (&[0x81, 5][..], [true; 3], [false; 3]),
            (&[0x02, 5], [true; 3], [false; 3]),
            (&[0x80, 5], [false; 3], [true; 3]),
            (&[0x00, 5], [false; 3], [true; 3]),
            (&[0x8a, 125], [true; 3], [true; 3]),
            (&[0x09, 5], [false; 3], [false; 3]),
            (&ping_of_126, [false; 3], [false; 3]),
            (&text_of_5_in_64_bits, [false; 3], [false; 3]),
            (&[0xc1, 5], [false, true, true], [false; 3]),
            (&[0xa2, 5], [false, false, true], [false; 3]),
            (&[0xc0, 5], [false; 3], [false, false, true]),
            (&[0xc9, 5], [false, false, true], [false, false, true]),
            (&[0x83, 5], [false, false, true], [false, false, true]),
            (&[0x8b, 5], [false, false, true], [false, false, true]),
        ] {
            let header = Header::parse(head).unwrap().unwrap();
            let allowed =
                |within| [None, Deflate, Other].map(|agreed| header.may_come(within, agreed));
            assert_eq!((allowed(false), allowed(true)), (between, within), "{head:x?}");
        }
    }

    #[test]
    fn only_permessage_deflate_is_known_by_its_bits() {
        let agreed = |value: &str| Extensions::agreed(value.split(',').map(str::as_bytes));
        assert_eq!(Extensions::agreed(std::iter::empty()), Extensions::None);
        assert_eq!(agreed("Permessage-Deflate ; client_max_window_bits=9"), Extensions::Deflate);
        assert_eq!(agreed("permessage-deflate, permessage-bzip2"), Extensions::Other);
        assert_eq!(agreed("x-mux, permessage-deflate"), Extensions::Other);
    }

    #[test]
    fn a_close_has_a_code_that_may_be_sent_and_readable_words() {
        for (payload, code) in [
            (&b""[..], Ok(1005)),
            (b"\x03\xe8", Ok(1000)),
            (b"\x0f\xa1bye", Ok(4001)),
            (b"x", Err(InvalidClose::Code)),
            (b"\x03\xe7", Err(InvalidClose::Code)),
            (b"\x03\xed", Err(InvalidClose::Code)),
            (b"\x03\xee", Err(InvalidClose::Code)),
            (b"\x03\xf7", Err(InvalidClose::Code)),
            (b"\x13\x88", Err(InvalidClose::Code)),
            (b"\x03\xe8\xff", Err(InvalidClose::NotUtf8)),
        ] {
            assert_eq!(judged_close(payload), code, "{payload:x?}");
        }
    }

    #[test]
    fn the_scanner_follows_frames_byte_by_byte() {
        let mut stream = encode_frame(Opcode::TEXT, b"hello", Some([9, 8, 7, 6]));
        stream.extend(encode_close(1000, "bye", None));
        let mut scanner = FrameScanner::default();
        let (mut opcodes, mut waiting) = (Vec::new(), Vec::new());
        for byte in stream {
            waiting.push(byte);
            match scanner.step(&waiting).unwrap() {
                Step::More => continue,
                Step::Header(header) => opcodes.push(header.opcode),
                Step::Payload(count) => assert_eq!(count, 1),
            }
            waiting.clear();
        }
        assert_eq!(opcodes, [Opcode::TEXT, Opcode::CLOSE]);
        assert!(scanner.at_boundary() && waiting.is_empty());
    }

    #[test]
    fn close_reasons_are_cut_between_characters() {
        let frame = encode_close(4001, &"é".repeat(100), None);
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }

    #[test]
    fn close_codes_are_unmasked() {
        let frame = encode_close(4003, "", Some([0xaa, 0xbb, 0xcc, 0xdd]));
        let header = Header::parse(&frame).unwrap().unwrap();
        assert_eq!(close_code(&header, &frame[header.len..]), 4003);
        let empty = Header::parse(&[0x88, 0]).unwrap().unwrap();
        assert_eq!(close_code(&empty, &[]), 1005);
    }
}
