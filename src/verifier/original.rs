//! A credential as a client showed it, kept to be shown to its verifier again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderName;
use serde::{Deserialize, Serialize};

use super::Credential;
use crate::credential::{Place, Scheme};
use crate::secret::Secret;

/// A credential and where it stood. Has no `Debug`: it is a secret.
pub struct Original {
    value: Secret,
    basic: bool,
    place: OwnPlace,
}

/// A [`Place`] with a name of its own.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OwnPlace {
    Cookie(Box<str>),
    Query(Box<str>),
    Header(#[serde(with = "header_name")] HeaderName, Scheme),
    Subprotocol,
    Message,
}

impl Original {
    /// A copy of `credential`, which stood at `place`.
    pub fn of(credential: &Credential<'_>, place: Place<'_>) -> Original {
        Original {
            value: Secret::new(credential.value),
            basic: credential.basic,
            place: OwnPlace::of(place),
        }
    }

    /// The credential.
    pub fn credential(&self) -> Credential<'_> {
        Credential { value: self.value.expose(), basic: self.basic }
    }

    /// Where it stood.
    pub fn place(&self) -> Place<'_> {
        self.place.lent()
    }
}

impl OwnPlace {
    pub(super) fn of(place: Place<'_>) -> OwnPlace {
        match place {
            Place::Cookie(name) => OwnPlace::Cookie(name.into()),
            Place::Query(name) => OwnPlace::Query(name.into()),
            Place::Header(name, scheme) => OwnPlace::Header(name.clone(), scheme),
            Place::Subprotocol => OwnPlace::Subprotocol,
            Place::Message => OwnPlace::Message,
        }
    }

    pub(super) fn lent(&self) -> Place<'_> {
        match self {
            OwnPlace::Cookie(name) => Place::Cookie(name),
            OwnPlace::Query(name) => Place::Query(name),
            OwnPlace::Header(name, scheme) => Place::Header(name, *scheme),
            OwnPlace::Subprotocol => Place::Subprotocol,
            OwnPlace::Message => Place::Message,
        }
    }
}

/// An [`Original`] as a ticket seals it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenOriginal {
    value: String,
    basic: bool,
    place: OwnPlace,
}

impl WrittenOriginal {
    pub(super) fn of(original: &Original) -> WrittenOriginal {
        WrittenOriginal {
            value: STANDARD.encode(original.value.expose()),
            basic: original.basic,
            place: original.place.clone(),
        }
    }

    pub(super) fn read(self) -> Option<Original> {
        let value = Secret::new(STANDARD.decode(self.value).ok()?);
        Some(Original { value, basic: self.basic, place: self.place })
    }
}

mod header_name {
    use http::header::HeaderName;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(name: &HeaderName, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(name.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<HeaderName, D::Error> {
        String::deserialize(from)?.parse().map_err(|_| D::Error::custom("no header name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_comes_back_wherever_it_stood() {
        let name = HeaderName::from_static("x-key");
        for place in [
            Place::Cookie("session"),
            Place::Query("token"),
            Place::Header(&name, Scheme::Basic),
            Place::Subprotocol,
            Place::Message,
        ] {
            let credential = Credential { value: b"user:\xff\0", basic: true };
            let written = WrittenOriginal::of(&Original::of(&credential, place));
            let text = serde_json::to_string(&written).unwrap();
            let back: WrittenOriginal = serde_json::from_str(&text).unwrap();
            let back = back.read().unwrap();
            assert_eq!(back.place(), place);
            assert_eq!(
                (back.credential().value, back.credential().basic),
                (&b"user:\xff\0"[..], true)
            );
        }
        let odd = r#"{"value":"%","basic":false,"place":"message"}"#;
        let odd: WrittenOriginal = serde_json::from_str(odd).unwrap();
        assert!(odd.read().is_none());
    }
}
