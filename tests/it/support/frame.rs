//! WebSocket frames (RFC 6455 §5.2), written here anew so that the tests do not
//! believe the code they test.

use std::io::{self, Read};

/// The opcode of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// 0x0
    Continuation,
    /// 0x1
    Text,
    /// 0x2
    Binary,
    /// 0x8
    Close,
    /// 0x9
    Ping,
    /// 0xA
    Pong,
}

impl Opcode {
    fn from_number(number: u8) -> Option<Opcode> {
        Some(match number {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    fn number(self) -> u8 {
        match self {
            Opcode::Continuation => 0,
            Opcode::Text => 1,
            Opcode::Binary => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        }
    }
}

/// One frame, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The last of its message.
    pub(crate) fin: bool,
    /// The three reserved bits; RSV1 marks a compressed message (RFC 7692 §6).
    pub(crate) reserved: u8,
    /// What it is.
    pub(crate) opcode: Opcode,
    /// The payload without mask.
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// A whole message, or a control frame.
    pub(crate) fn new(opcode: Opcode, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { fin: true, reserved: 0, opcode, payload: payload.into() }
    }

    /// A text message.
    pub(crate) fn text(text: &str) -> Frame {
        Frame::new(Opcode::Text, text)
    }

    /// A Close with `code` and `reason`.
    pub(crate) fn close(code: u16, reason: &str) -> Frame {
        Frame::new(Opcode::Close, [&code.to_be_bytes(), reason.as_bytes()].concat())
    }

    /// The same frame, with more to follow.
    pub(crate) fn unfinished(mut self) -> Frame {
        self.fin = false;
        self
    }

    /// The payload as text.
    #[track_caller]
    pub(crate) fn as_text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("a text payload")
    }

    /// The bytes of the frame, masked as a client must (RFC 6455 §5.3).
    pub(crate) fn masked(&self) -> Vec<u8> {
        self.bytes(Some([0x37, 0xfa, 0x21, 0x3d]))
    }

    /// The bytes of the frame as a server sends it.
    pub(crate) fn unmasked(&self) -> Vec<u8> {
        self.bytes(None)
    }

    fn bytes(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut out = vec![u8::from(self.fin) << 7 | self.reserved << 4 | self.opcode.number()];
        let bit = if mask.is_some() { 0x80 } else { 0 };
        match self.payload.len() {
            short @ 0..=125 => out.push(bit | short as u8),
            medium @ 126..=65_535 => {
                out.push(bit | 126);
                out.extend((medium as u16).to_be_bytes());
            }
            long => {
                out.push(bit | 127);
                out.extend((long as u64).to_be_bytes());
            }
        }
        match mask {
            None => out.extend(&self.payload),
            Some(mask) => {
                out.extend(mask);
                out.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
            }
        }
        out
    }

    /// Reads one frame and removes its mask. `None` at the end of the stream.
    pub(crate) fn read(stream: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut head = [0_u8; 2];
        if stream.read(&mut head[..1])? == 0 {
            return Ok(None);
        }
        stream.read_exact(&mut head[1..])?;
        let length = match head[1] & 0x7f {
            126 => {
                let mut bytes = [0_u8; 2];
                stream.read_exact(&mut bytes)?;
                usize::from(u16::from_be_bytes(bytes))
            }
            127 => {
                let mut bytes = [0_u8; 8];
                stream.read_exact(&mut bytes)?;
                u64::from_be_bytes(bytes) as usize
            }
            short => usize::from(short),
        };
        let mut mask = [0_u8; 4];
        if head[1] & 0x80 != 0 {
            stream.read_exact(&mut mask)?;
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        let opcode = Opcode::from_number(head[0] & 0x0f)
            .ok_or_else(|| io::Error::other(format!("opcode {:#x}", head[0] & 0x0f)))?;
        Ok(Some(Frame {
            fin: head[0] & 0x80 != 0,
            reserved: head[0] >> 4 & 0b111,
            opcode,
            payload,
        }))
    }
}
