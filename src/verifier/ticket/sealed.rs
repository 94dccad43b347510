//! The ticket itself, and what a store may know of it.
//!
//! Of a ticket's 128 random bits two values are derived that tell nothing of
//! each other (HMAC-SHA-256 as a key derivation, as in RFC 5869 §2.3): the id,
//! under which a store knows it, and a key, by which the identity is sealed
//! (AES-256-GCM). Only whoever shows the ticket brings the key along.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::super::original::WrittenOriginal;
use super::Redeemed;
use crate::clock::UnixSeconds;
use crate::hex::hex;
use crate::identity::{Identity, Method, Proof};

/// What every ticket begins with.
pub(super) const PREFIX: &str = "sgt_";

/// A ticket. Has no `Debug`: it is a secret.
pub(super) struct Ticket([u8; 16]);

/// What a store knows a ticket by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id([u8; 32]);

/// Whose tickets are counted together: the hash of verifier, issuer and subject,
/// which make an identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Holder([u8; 32]);

impl Ticket {
    /// A new one; none if the system gives no random bytes.
    pub(super) fn fresh() -> Option<Ticket> {
        let mut bits = [0; 16];
        aws_lc_rs::rand::fill(&mut bits).ok()?;
        Some(Ticket(bits))
    }

    /// The ticket that `shown` is, in the one form that it has.
    pub(super) fn read(shown: &[u8]) -> Option<Ticket> {
        let text = shown.strip_prefix(PREFIX.as_bytes())?;
        // 22 letters and no more: nothing long is decoded.
        if text.len() != 22 {
            return None;
        }
        let bits = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Ticket(bits.try_into().ok()?))
    }

    /// As the client shows it.
    pub(super) fn text(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }

    /// What a store knows it by.
    pub(super) fn id(&self) -> Id {
        Id(self.derive("sockgate ticket: id"))
    }

    /// `redeemed` for the store of the verifier `name`; none if it cannot be
    /// sealed.
    pub(super) fn seal(&self, name: &str, redeemed: &Redeemed) -> Option<Vec<u8>> {
        let mut text = serde_json::to_vec(&Written::of(redeemed)).ok()?;
        self.key()?
            .seal_in_place_append_tag(nonce(), Aad::from(name.as_bytes()), &mut text)
            .ok()?;
        Some(text)
    }

    /// What [`Ticket::seal`] sealed for the verifier `name`.
    pub(super) fn open(&self, name: &str, mut sealed: Vec<u8>) -> Option<Redeemed> {
        let key = self.key()?;
        let text = key.open_in_place(nonce(), Aad::from(name.as_bytes()), &mut sealed).ok()?;
        let mut written: Written = serde_json::from_slice(text).ok()?;
        let original = match written.original.take() {
            Some(original) => Some(original.read()?),
            None => None,
        };
        text.zeroize();
        let identity = Arc::new(Identity::proven(written.proof()).ok()?);
        Some(Redeemed { identity, original })
    }

    fn key(&self) -> Option<LessSafeKey> {
        let key = self.derive("sockgate ticket: seal");
        UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
    }

    fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut derived = [0; 32];
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        derived.copy_from_slice(hmac::sign(&key, purpose.as_bytes()).as_ref());
        derived
    }
}

/// Always the same: a key seals one identity and never another.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

impl Id {
    /// Hexadecimal.
    pub(super) fn text(&self) -> String {
        hex(&self.0)
    }
}

impl Holder {
    pub(super) fn of(identity: &Identity) -> Holder {
        let mut context = Context::new(&SHA256);
        let issuer = identity.issuer();
        let parts = [identity.verifier(), issuer.unwrap_or_default(), identity.subject()];
        context.update(&[u8::from(issuer.is_some())]);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Holder(hash)
    }

    /// Hexadecimal.
    pub(super) fn text(&self) -> String {
        hex(&self.0)
    }
}

/// A ticket's worth as it is sealed: everything that the identity is made of, and
/// the credential that proved it.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    subject: String,
    method: Method,
    verifier: Arc<str>,
    issuer: Option<String>,
    session: Option<String>,
    token_id: Option<String>,
    issued_at: Option<UnixSeconds>,
    expires: Option<UnixSeconds>,
    leeway: u32,
    claims: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    original: Option<WrittenOriginal>,
}

impl Written {
    fn of(redeemed: &Redeemed) -> Written {
        let identity = &redeemed.identity;
        Written {
            subject: identity.subject().to_owned(),
            method: identity.kind(),
            verifier: Arc::clone(identity.verifier()),
            issuer: identity.issuer().map(str::to_owned),
            session: identity.session().map(str::to_owned),
            token_id: identity.token_id().map(str::to_owned),
            issued_at: identity.issued_at(),
            expires: identity.expires(),
            leeway: identity.leeway(),
            claims: identity.claims_text().into(),
            original: redeemed.original.as_ref().map(WrittenOriginal::of),
        }
    }

    fn proof(self) -> Proof {
        Proof {
            subject: self.subject.into(),
            method: self.method,
            verifier: self.verifier,
            issuer: self.issuer,
            session: self.session,
            token_id: self.token_id,
            issued_at: self.issued_at,
            expires: self.expires,
            leeway: self.leeway,
            claims: self.claims,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Place;
    use crate::verifier::{Credential, Original};

    fn alice() -> Redeemed {
        let identity = Identity::proven(Proof {
            subject: "alice".into(),
            method: Method::ApiKeys,
            verifier: "app".into(),
            issuer: Some("https://id.example".to_owned()),
            session: Some("canary-session".to_owned()),
            token_id: Some("j-1".to_owned()),
            issued_at: Some(5),
            expires: Some(1_900_000_000),
            leeway: 17,
            claims: r#"{"name":"Alice","roles":["a"]}"#.into(),
        });
        let credential = Credential { value: b"canary-cookie", basic: false };
        Redeemed {
            identity: Arc::new(identity.ok().unwrap()),
            original: Some(Original::of(&credential, Place::Cookie("sid"))),
        }
    }

    #[test]
    fn the_whole_identity_comes_back() {
        let ticket = Ticket::fresh().unwrap();
        let sealed = ticket.seal("tickets", &alice()).unwrap();
        assert!(!sealed.windows(5).any(|piece| piece == b"alice" || piece == b"canar"));
        let back = Ticket::read(ticket.text().as_bytes()).unwrap().open("tickets", sealed);
        let back = back.unwrap();
        assert!(*back.identity == *alice().identity);
        let original = back.original.unwrap();
        assert_eq!(original.credential().value, b"canary-cookie");
        assert_eq!(original.place(), Place::Cookie("sid"));
        let bare = Redeemed { original: None, ..alice() };
        let sealed = ticket.seal("tickets", &bare).unwrap();
        assert!(ticket.open("tickets", sealed).unwrap().original.is_none());
    }

    #[test]
    fn what_another_ticket_or_verifier_sealed_stays_sealed() {
        let (ticket, other) = (Ticket::fresh().unwrap(), Ticket::fresh().unwrap());
        let sealed = ticket.seal("tickets", &alice()).unwrap();
        assert!(other.open("tickets", sealed.clone()).is_none());
        assert!(ticket.open("others", sealed.clone()).is_none());
        let mut changed = sealed.clone();
        changed[0] ^= 1;
        assert!(ticket.open("tickets", changed).is_none());
        assert!(ticket.open("tickets", Vec::new()).is_none());
        assert!(ticket.open("tickets", sealed).is_some());
    }

    #[test]
    fn a_ticket_has_one_form() {
        let ticket = Ticket::fresh().unwrap();
        let text = ticket.text();
        assert_eq!(text.len(), 26);
        assert!(Ticket::read(text.as_bytes()).unwrap().id() == ticket.id());
        let all_bits = format!("{PREFIX}{}", "_".repeat(22));
        let bad =
            [&text[1..], &text[..25], &format!("{text}="), &format!(" {text}"), &all_bits, ""];
        assert!(bad.iter().all(|text| Ticket::read(text.as_bytes()).is_none()));
    }

    #[test]
    fn neither_of_the_derived_values_is_the_ticket() {
        let ticket = Ticket([7; 16]);
        assert_ne!(ticket.id().0, ticket.derive("sockgate ticket: seal"));
        assert!(!ticket.id().text().contains(&hex(&ticket.0)));
    }
}
