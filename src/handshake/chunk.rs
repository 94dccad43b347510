//! Follows a chunked body (RFC 9112 §7.1) to its end without decoding it, so
//! that the head behind it is found where hyper will look for it too.

/// Where in a chunked body the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    /// In the hexadecimal size; the value so far and the digits seen.
    Size(u64, u8),
    /// In a chunk extension; the bytes it may still have.
    Extension(u64, u16),
    /// Behind the CR of the size line.
    SizeEnd(u64),
    /// In the data; the bytes left.
    Data(u64),
    /// At the CR behind the data.
    DataCr,
    /// At the LF behind the data.
    DataLf,
    /// At the start of a trailer line; the bytes that trailers may still have.
    TrailerStart(u16),
    /// In a trailer line.
    Trailer(u16),
    /// Behind the CR of a trailer line.
    TrailerLf(u16),
    /// Behind the last CR.
    End,
    /// The body is over.
    Done,
}

/// The body breaks the grammar, or is padded without bound.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Chunked {
    /// The start of a body.
    pub(super) const START: Chunked = Chunked::Size(0, 0);

    /// How many of `bytes` belong to the body; less than all only when it is over.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && *self != Chunked::Done {
            if let Chunked::Data(left) = self {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += here;
                *left -= here as u64;
                if *left == 0 {
                    *self = Chunked::DataCr;
                }
                continue;
            }
            *self = self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn step(self, byte: u8) -> Result<Chunked, Malformed> {
        Ok(match (self, byte) {
            (Chunked::Size(size, digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F')
                if digits < 15 =>
            {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                Chunked::Size(size * 16 + u64::from(digit), digits + 1)
            }
            (Chunked::Size(size, 1..), b'\r') => Chunked::SizeEnd(size),
            (Chunked::Size(size, 1..), b';') => Chunked::Extension(size, 256),
            (Chunked::Extension(size, _), b'\r') => Chunked::SizeEnd(size),
            (Chunked::Extension(size, left @ 1..), b'\t' | 0x20..=0x7e) => {
                Chunked::Extension(size, left - 1)
            }
            (Chunked::SizeEnd(0), b'\n') => Chunked::TrailerStart(4096),
            (Chunked::SizeEnd(size), b'\n') => Chunked::Data(size),
            (Chunked::DataCr, b'\r') => Chunked::DataLf,
            (Chunked::DataLf, b'\n') => Chunked::START,
            (Chunked::TrailerStart(_), b'\r') => Chunked::End,
            (Chunked::Trailer(left), b'\r') => Chunked::TrailerLf(left),
            (Chunked::TrailerLf(left), b'\n') => Chunked::TrailerStart(left),
            (Chunked::TrailerStart(left @ 1..), 0x21..=0x7e)
            | (Chunked::Trailer(left @ 1..), b'\t' | 0x20..=0x7e | 0x80..) => {
                Chunked::Trailer(left - 1)
            }
            (Chunked::End, b'\n') => Chunked::Done,
            _ => return Err(Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_at_every_cut() {
        let body = b"5;x=1\r\nhello\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
        let mut bytes = body.to_vec();
        bytes.extend_from_slice(b"GET /next");
        for cut in 0..bytes.len() {
            let mut state = Chunked::START;
            let first = state.advance(&bytes[..cut]).unwrap();
            let second = state.advance(&bytes[first..]).unwrap();
            assert_eq!((first + second, state), (body.len(), Chunked::Done), "{cut}");
        }
    }

    #[test]
    fn ambiguous_bodies_are_refused() {
        for body in [
            "\r\n",
            "g\r\n",
            "5\n",
            "-1\r\n",
            "0x5\r\n",
            "5\r\nhelloX\r\n",
            "ffffffffffffffff\r\n",
            "0\r\n\n",
            " 5\r\n",
        ] {
            let mut state = Chunked::START;
            assert_eq!(state.advance(body.as_bytes()), Err(Malformed), "{body:?}");
        }
    }
}
