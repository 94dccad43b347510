//! The PROXY protocol, versions 1 and 2 (haproxy's `proxy-protocol.txt`): the line
//! before a connection that says whose it is. Bytes in, bytes out.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader, Tlv};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The versions that can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// One line of text: addresses and ports.
    V1,
    /// Binary, with room for more.
    V2,
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Who opened it; port 0 where that is not known.
    pub client: SocketAddr,
    /// Whom to.
    pub server: SocketAddr,
}

/// What version 2 says besides.
pub struct Details<'a> {
    /// `PP2_TYPE_AUTHORITY`: the host that the client asked for; none if empty.
    pub authority: &'a str,
    /// `PP2_TYPE_UNIQUE_ID`, at most 128 bytes.
    pub unique_id: &'a str,
    /// 0xE0, the first of those for own use: the identity, as JSON.
    pub identity: Option<&'a [u8]>,
}

/// A header that was received.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// Whose connection it is; none if the proxy speaks for itself.
    pub ends: Option<Ends>,
}

/// Bytes that are no header, or one that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no header of the PROXY protocol")]
pub struct Malformed;

/// How version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1.
const LINE: usize = 107;
/// The most that version 2 may announce, in bytes: more is no header of a proxy.
const ANNOUNCED: usize = 4096;
/// The first kind of those that anybody may give a meaning.
const IDENTITY: u8 = 0xE0;
/// `PP2_TYPE_CRC32C`.
const CRC32C: u8 = 0x03;

/// The header for a connection; none if it would be too long to be one.
pub fn encode(version: Version, ends: Ends, details: &Details<'_>) -> Option<Vec<u8>> {
    let Ends { client, server } = one_family(ends);
    let mut header = ProxyHeader::with_address(ProxiedAddress::stream(client, server));
    let mut bytes = Vec::new();
    if version == Version::V1 {
        header.encode_v1(&mut bytes).ok()?;
        return Some(bytes);
    }
    let fits = |text: &[u8]| u16::try_from(text.len()).is_ok();
    if !fits(details.authority.as_bytes()) || !details.identity.is_none_or(fits) {
        return None;
    }
    if !details.authority.is_empty() {
        header.append_tlv(Tlv::Authority(Cow::Borrowed(details.authority)));
    }
    header.append_tlv(Tlv::UniqueId(Cow::Borrowed(details.unique_id.as_bytes())));
    if let Some(identity) = details.identity {
        header.append_tlv(Tlv::Custom(IDENTITY, Cow::Borrowed(identity)));
    }
    // Of the whole header, in which it is zero itself, and comes last.
    header.append_tlv(Tlv::Crc32c(0));
    header.encode_v2(&mut bytes).ok()?;
    let at = bytes.len() - 4;
    let sum = crc32c(&bytes).to_be_bytes();
    bytes[at..].copy_from_slice(&sum);
    Some(bytes)
}

/// How many bytes more to read, at least, before `begun` is a whole header; none if
/// it is one.
///
/// # Errors
/// That it will never be one.
pub fn wanted(begun: &[u8]) -> Result<Option<usize>, Malformed> {
    let signed = begun.len().min(SIGNATURE.len());
    if begun[..signed] == SIGNATURE[..signed] && !begun.is_empty() {
        let [high, low] = match begun {
            [_, _, _, _, _, _, _, _, _, _, _, _, _, _, high, low, ..] => [*high, *low],
            _ => return Ok(Some(16 - begun.len())),
        };
        let announced = usize::from(u16::from_be_bytes([high, low]));
        if announced > ANNOUNCED {
            return Err(Malformed);
        }
        return Ok(Some(16 + announced - begun.len()).filter(|more| *more > 0));
    }
    let named = begun.len().min(6);
    if begun[..named] != b"PROXY "[..named] || begun.len() > LINE {
        return Err(Malformed);
    }
    match begun.ends_with(b"\n") {
        true => Ok(None),
        // The shortest line is `PROXY UNKNOWN`; behind that, not a byte too many.
        false => Ok(Some(15_usize.saturating_sub(begun.len()).max(1))),
    }
}

/// Reads a whole header.
///
/// # Errors
/// [`Malformed`], or its checksum is wrong.
pub fn decode(whole: &[u8]) -> Result<Received, Malformed> {
    let (header, length) =
        ProxyHeader::parse(whole, ParseConfig::default()).map_err(|_| Malformed)?;
    if length != whole.len() || !is_sound(whole) {
        return Err(Malformed);
    }
    let ends = header.proxied_address().map(|address| Ends {
        client: canonical(address.source),
        server: canonical(address.destination),
    });
    Ok(Received { ends })
}

/// Whether the checksum is right, if version 2 has one.
fn is_sound(whole: &[u8]) -> bool {
    if !whole.starts_with(&SIGNATURE) {
        return true;
    }
    let addresses = match whole.get(13) {
        Some(0x11 | 0x12) => 12,
        Some(0x21 | 0x22) => 36,
        Some(0x31 | 0x32) => 216,
        Some(_) | None => 0,
    };
    let mut at = 16 + addresses;
    while let Some([kind, high, low]) = whole.get(at..at + 3) {
        let value = at + 3;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind == CRC32C {
            let Some(told) = whole.get(value..value + 4).filter(|_| length == 4) else {
                return false;
            };
            let mut zeroed = whole.to_vec();
            zeroed[value..value + 4].fill(0);
            return crc32c(&zeroed).to_be_bytes() == told;
        }
        at = value + length;
    }
    // Fields that end elsewhere than the header may have hidden one.
    at == whole.len() || addresses == 216
}

/// Castagnoli's checksum (RFC 4960, appendix B).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ ((sum & 1) * 0x82F6_3B78))
    };
    !bytes.iter().fold(!0, step)
}

/// Both ends as IPv6 if one is: the protocol has one family for both.
fn one_family(ends: Ends) -> Ends {
    let Ends { client, server } = ends;
    match (client.ip(), server.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => ends,
        _ => Ends { client: as_v6(client), server: as_v6(server) },
    }
}

fn as_v6(address: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    (ip, address.port()).into()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    (address.ip().to_canonical(), address.port()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, server: &str) -> Ends {
        Ends { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    const NONE: Details<'_> = Details { authority: "", unique_id: "r", identity: None };

    /// What `wanted` says, byte by byte, before the header is whole.
    fn followed(whole: &[u8]) -> bool {
        let mut length = 0;
        while let Ok(Some(more)) = wanted(&whole[..length]) {
            length += more;
            if length > whole.len() {
                return false;
            }
        }
        length == whole.len()
    }

    #[test]
    fn what_is_written_is_read_again_without_a_byte_too_many() {
        for (client, server) in [
            ("192.0.2.1:1", "198.51.100.7:443"),
            ("[2001:db8::1]:65535", "[2001:db8::2]:80"),
            ("192.0.2.1:0", "[2001:db8::2]:80"),
        ] {
            let ends = ends(client, server);
            let details = Details {
                authority: "chat.example.com",
                unique_id: "0123",
                identity: Some(b"{\"subject\":\"ada\"}"),
            };
            for version in [Version::V1, Version::V2] {
                let header = encode(version, ends, &details).unwrap();
                assert!(followed(&header), "{version:?} {client}");
                assert_eq!(decode(&header), Ok(Received { ends: Some(ends) }));
            }
        }
        let line = encode(Version::V1, ends("192.0.2.1:1", "198.51.100.7:443"), &NONE);
        assert_eq!(line.unwrap(), b"PROXY TCP4 192.0.2.1 198.51.100.7 1 443\r\n");
    }

    #[test]
    fn a_changed_header_is_refused() {
        let whole = encode(Version::V2, ends("192.0.2.1:1", "192.0.2.2:2"), &NONE).unwrap();
        // Of another kind, the checksum is none.
        let kind = whole.len() - 7;
        for index in (0..whole.len()).filter(|index| *index != kind) {
            let mut changed = whole.clone();
            changed[index] ^= 1;
            assert!(decode(&changed).is_err() || wanted(&changed) != Ok(None), "{index}");
        }
        assert!(decode(&whole[..whole.len() - 1]).is_err());
        assert!(decode(&[&whole[..], b"x"].concat()).is_err());
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        let local = [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat();
        assert!(followed(&local));
        assert_eq!(decode(&local), Ok(Received { ends: None }));
        assert!(followed(b"PROXY UNKNOWN\r\n"));
        assert_eq!(decode(b"PROXY UNKNOWN\r\n"), Ok(Received { ends: None }));
    }

    #[test]
    fn what_is_no_header_is_known_early_and_none_is_long() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXX ", b"\x16\x03\x01", b"\r\n\r\nx"] {
            assert!((0..=bytes.len()).any(|length| wanted(&bytes[..length]).is_err()), "{bytes:?}");
        }
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; 100]].concat();
        assert_eq!(wanted(&endless), Err(Malformed));
        let large = [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
        assert_eq!(wanted(&large), Err(Malformed));
        let identity = vec![b'x'; 70_000];
        let details = Details { identity: Some(&identity), ..NONE };
        assert_eq!(encode(Version::V2, ends("1.1.1.1:1", "1.1.1.1:1"), &details), None);
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }
}
