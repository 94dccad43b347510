//! The few fields of a certificate that say whose it is (RFC 5280 §4.1–4.2), read as
//! DER (X.690 §10). Signatures and chains are rustls' business, and done.

use serde_json::Value;

use super::timestamp;
use crate::clock::UnixSeconds;

/// What a certificate says.
pub(super) struct Certificate {
    /// The URIs, DNS names and e-mail addresses of `subjectAltName`.
    pub(super) uris: Vec<String>,
    pub(super) dns: Vec<String>,
    pub(super) emails: Vec<String>,
    /// The common names of the subject.
    pub(super) common_names: Vec<String>,
    /// Whether `extKeyUsage` is there and names `clientAuth`.
    pub(super) is_for_clients: bool,
    pub(super) not_after: UnixSeconds,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;

const COMMON_NAME: [u8; 3] = [0x55, 4, 3];
const ALT_NAME: [u8; 3] = [0x55, 0x1D, 17];
const KEY_USAGE: [u8; 3] = [0x55, 0x1D, 37];
const CLIENT_AUTH: [u8; 8] = [0x2B, 6, 1, 5, 5, 7, 3, 2];

/// What is left to read.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: its tag and its contents.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (length, rest) = match (first, rest) {
            (0..=0x7F, rest) => (usize::from(*first), rest),
            (0x81, [a, rest @ ..]) => (usize::from(*a), rest),
            (0x82, [a, b, rest @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), rest),
            _ => return None,
        };
        // There is one form for each length.
        if *first == 0x81 && length < 0x80 || *first == 0x82 && length < 0x100 {
            return None;
        }
        let contents = rest.get(..length)?;
        self.0 = rest.get(length..)?;
        Some((*tag, contents))
    }

    /// The contents of the next element, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, contents)| contents)
    }

    /// The contents of the next element if it has this tag.
    fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.take(tag) } else { None }
    }

    /// Every element, or nothing if one is malformed.
    fn all(mut self) -> Option<Vec<(u8, &'a [u8])>> {
        let mut elements = Vec::new();
        while !self.0.is_empty() {
            elements.push(self.next()?);
        }
        Some(elements)
    }
}

/// Reads the whole of `der`.
pub(super) fn read(der: &[u8]) -> Option<Certificate> {
    let mut whole = Der(der);
    let mut certificate = Der(whole.take(SEQUENCE)?);
    let mut body = Der(certificate.take(SEQUENCE)?);
    if !whole.0.is_empty() {
        return None;
    }
    body.optional(VERSION);
    // Serial number, algorithm, issuer.
    body.next()?;
    body.take(SEQUENCE)?;
    body.take(SEQUENCE)?;
    let mut validity = Der(body.take(SEQUENCE)?);
    validity.next()?;
    let not_after = time(validity.next()?)?;
    let common_names = common_names(body.take(SEQUENCE)?)?;
    let mut certificate = Certificate {
        uris: Vec::new(),
        dns: Vec::new(),
        emails: Vec::new(),
        common_names,
        is_for_clients: false,
        not_after,
    };
    // The key, and perhaps two unique ids.
    let rest = body.all()?;
    if let Some((_, extensions)) = rest.iter().find(|(tag, _)| *tag == EXTENSIONS) {
        for (_, extension) in Der(Der(extensions).take(SEQUENCE)?).all()? {
            certificate.extend(Der(extension))?;
        }
    }
    Some(certificate)
}

impl Certificate {
    /// Takes note of one extension.
    fn extend(&mut self, mut extension: Der<'_>) -> Option<()> {
        let name = extension.take(OBJECT)?;
        extension.optional(BOOLEAN);
        let mut value = Der(extension.take(OCTETS)?);
        if name == ALT_NAME {
            for (tag, contents) in Der(value.take(SEQUENCE)?).all()? {
                let names = match tag {
                    0x81 => &mut self.emails,
                    0x82 => &mut self.dns,
                    0x86 => &mut self.uris,
                    _ => continue,
                };
                // IA5String.
                names.push(text(contents).filter(|text| text.is_ascii())?);
            }
        } else if name == KEY_USAGE {
            let purposes = Der(value.take(SEQUENCE)?).all()?;
            self.is_for_clients |=
                purposes.iter().any(|(tag, one)| *tag == OBJECT && *one == CLIENT_AUTH);
        }
        Some(())
    }
}

fn common_names(subject: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for (tag, set) in Der(subject).all()? {
        if tag != SET {
            return None;
        }
        for (_, attribute) in Der(set).all()? {
            let mut attribute = Der(attribute);
            if attribute.take(OBJECT)? == COMMON_NAME {
                // UTF8String, PrintableString, IA5String; others are not read.
                let (0x0C | 0x13 | 0x16, value) = attribute.next()? else { return None };
                names.push(text(value)?);
            }
        }
    }
    Some(names)
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// `YYMMDDHHMMSSZ`, of which 50 and later are of the last century, or with four digits
/// for the year (§4.1.2.5).
fn time((tag, contents): (u8, &[u8])) -> Option<UnixSeconds> {
    let written = std::str::from_utf8(contents).ok()?.strip_suffix('Z')?;
    let written = match tag {
        UTC_TIME if written.len() == 12 => {
            format!("{}{written}", if written.as_bytes()[0] < b'5' { "20" } else { "19" })
        }
        GENERALIZED_TIME if written.len() == 14 => written.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| written.get(from..to);
    let (date, clock) = (
        format!("{}-{}-{}", part(0, 4)?, part(4, 6)?, part(6, 8)?),
        format!("{}:{}:{}", part(8, 10)?, part(10, 12)?, part(12, 14)?),
    );
    timestamp::read(&Value::String(format!("{date}T{clock}Z")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};

    use super::*;

    fn der() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI("spiffe://x/a".try_into().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_says_whose_it_is() {
        let read = read(&der()).unwrap();
        assert_eq!((read.uris, read.dns), (vec!["spiffe://x/a".into()], vec!["a.example".into()]));
        assert_eq!((read.emails.len(), read.common_names.len()), (0, 1));
        assert!(read.is_for_clients && read.not_after > 0);
    }

    proptest! {
        #[test]
        fn no_change_of_a_certificate_panics(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            end in any::<prop::sample::Index>(),
        ) {
            let mut der = der();
            for (at, byte) in changes {
                let at = at.index(der.len());
                der[at] = byte;
            }
            read(&der);
            read(&der[..end.index(der.len())]);
        }
    }
}
