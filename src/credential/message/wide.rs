//! JSON in UTF-16 and UTF-32, which readers that are given bytes tell from UTF-8 by
//! its zeros (RFC 4627 §3), as `json.loads` of Python does.

use std::borrow::Cow;

/// Turns a message into UTF-8, a piece at a time.
#[derive(Default)]
pub(super) struct Decoder {
    encoding: Option<Encoding>,
    /// Bytes that are less than a character, or than it takes to tell the encoding.
    rest: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Encoding {
    Utf8,
    Utf16 { big: bool },
    Utf32 { big: bool },
}

/// How many bytes tell the encoding.
const TELLING: usize = 4;

impl Decoder {
    /// The next `piece`, as far as it can be told.
    pub(super) fn decode<'a>(&mut self, piece: &'a [u8]) -> Cow<'a, [u8]> {
        if self.rest.is_empty() && self.encoding.is_none() {
            self.encoding = piece.first_chunk().copied().map(Encoding::of);
        }
        if self.rest.is_empty() && matches!(self.encoding, Some(Encoding::Utf8)) {
            return piece.into();
        }
        self.rest.extend_from_slice(piece);
        let told = self.encoding.or_else(|| self.rest.first_chunk().copied().map(Encoding::of));
        self.encoding = told;
        let Some(encoding) = told else { return Cow::default() };
        match encoding {
            Encoding::Utf8 => std::mem::take(&mut self.rest).into(),
            Encoding::Utf16 { big } => self.utf16(big).into_bytes().into(),
            Encoding::Utf32 { big } => self.utf32(big).into_bytes().into(),
        }
    }

    fn utf16(&mut self, big: bool) -> String {
        let (pairs, odd) = self.rest.as_chunks::<2>();
        let unit = |pair: &[u8; 2]| {
            if big { u16::from_be_bytes(*pair) } else { u16::from_le_bytes(*pair) }
        };
        let mut units: Vec<u16> = pairs.iter().map(unit).collect();
        let mut left = odd.to_vec();
        // The other half of the character is still to come.
        if let Some(high) = units.pop_if(|unit| matches!(unit, 0xD800..0xDC00)) {
            let bytes = if big { high.to_be_bytes() } else { high.to_le_bytes() };
            left.splice(0..0, bytes);
        }
        self.rest = left;
        String::from_utf16_lossy(&units)
    }

    fn utf32(&mut self, big: bool) -> String {
        let (words, odd) = self.rest.as_chunks::<4>();
        let word = |word: &[u8; 4]| {
            if big { u32::from_be_bytes(*word) } else { u32::from_le_bytes(*word) }
        };
        let character = |code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        let text = words.iter().map(word).map(character).collect();
        self.rest = odd.to_vec();
        text
    }
}

impl Encoding {
    /// The encoding of JSON that begins with these bytes.
    fn of(begun: [u8; TELLING]) -> Encoding {
        match begun {
            [0, 0, 0xFE, 0xFF] | [0, 0, _, _] => Encoding::Utf32 { big: true },
            [0xFF, 0xFE, 0, 0] | [_, 0, 0, 0] => Encoding::Utf32 { big: false },
            [0xFE, 0xFF, ..] | [0, ..] => Encoding::Utf16 { big: true },
            [0xFF, 0xFE, ..] | [_, 0, ..] => Encoding::Utf16 { big: false },
            _ => Encoding::Utf8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_is_told_and_read_however_it_is_cut() {
        let text = "{\"type\":\"äöü \u{2200} \u{1f511}\"}";
        let utf16 = |big: bool| -> Vec<u8> {
            let units = text.encode_utf16();
            units
                .flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
                .collect()
        };
        let utf32 = |big: bool| -> Vec<u8> {
            let codes = text.chars().map(u32::from);
            codes
                .flat_map(|code| if big { code.to_be_bytes() } else { code.to_le_bytes() })
                .collect()
        };
        let encoded = [text.into(), utf16(true), utf16(false), utf32(true), utf32(false)];
        for bytes in encoded {
            for size in 1..=bytes.len() {
                let mut decoder = Decoder::default();
                let pieces =
                    bytes.chunks(size).flat_map(|piece| decoder.decode(piece).into_owned());
                let told: Vec<u8> = pieces.collect();
                assert_eq!(String::from_utf8(told).unwrap(), text, "{size}");
            }
        }
    }
}
