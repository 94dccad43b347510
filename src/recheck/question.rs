//! What is kept of a login to ask its verifier again.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use http::{HeaderMap, Method};

use crate::clock::UnixSeconds;
use crate::credential::{Place, Scheme};
use crate::handshake::Host;
use crate::identity::Identity;
use crate::verifier::{KeptOccasion, Occasion, Original, Recheck, Verifier, VerifyError};

/// A credential, and whom to ask about it. Has no `Debug`: it holds a secret.
pub struct Question {
    verifier: Arc<str>,
    original: Original,
    /// The request, for verifiers that judge by that too.
    occasion: Option<KeptOccasion>,
}

/// What makes two questions one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Question {
    /// What `verifier`, which needs `kind`, is to be asked about `original` again;
    /// none if it is never asked. `occasion` is the request of the connection.
    pub fn new(
        verifier: &Arc<str>,
        kind: Recheck,
        original: Original,
        occasion: &Occasion<'_>,
    ) -> Option<Question> {
        let occasion = match kind {
            Recheck::Never => return None,
            Recheck::Credential => None,
            Recheck::Request => Some(Occasion { place: original.place(), ..*occasion }.kept()),
        };
        Some(Question { verifier: Arc::clone(verifier), original, occasion })
    }

    /// The name of the verifier.
    pub fn verifier(&self) -> &Arc<str> {
        &self.verifier
    }

    /// Has `verifier` judge anew.
    ///
    /// # Errors
    /// As [`Verifier::verify`].
    pub async fn ask(
        &self,
        verifier: &dyn Verifier,
        now: UnixSeconds,
    ) -> Result<Arc<Identity>, VerifyError> {
        let (host, headers) = (Host { name: "".into(), port: None }, HeaderMap::new());
        let nothing = Occasion {
            place: self.original.place(),
            method: &Method::GET,
            https: false,
            host: &host,
            path: "",
            query: None,
            ip: [0, 0, 0, 0].into(),
            headers: &headers,
            certificate: None,
            again: true,
        };
        let occasion = match &self.occasion {
            Some(kept) => Occasion { again: true, ..kept.lent() },
            None => nothing,
        };
        verifier.verify(&self.original.credential(), &occasion, now).await
    }

    pub(super) fn key(&self) -> Key {
        let mut context = Context::new(&SHA256);
        let mut add = |part: &[u8]| {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        };
        let credential = self.original.credential();
        add(self.verifier.as_bytes());
        add(&[u8::from(credential.basic), u8::from(self.occasion.is_some())]);
        add(credential.value);
        if let Some(kept) = &self.occasion {
            let asked = kept.lent();
            let (kind, name, scheme) = place(asked.place);
            let port = asked.host.port.map_or([0; 3], |port| {
                let [high, low] = port.to_be_bytes();
                [1, high, low]
            });
            for part in [
                &[kind, scheme, u8::from(asked.https), u8::from(asked.query.is_some())],
                name.as_bytes(),
                asked.method.as_str().as_bytes(),
                asked.host.name.as_bytes(),
                &port,
                asked.path.as_bytes(),
                asked.query.unwrap_or_default().as_bytes(),
                asked.ip.to_string().as_bytes(),
            ] {
                add(part);
            }
            for (name, value) in asked.headers {
                add(name.as_str().as_bytes());
                add(value.as_bytes());
            }
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        Key(key)
    }
}

fn place(place: Place<'_>) -> (u8, &str, u8) {
    match place {
        Place::Cookie(name) => (0, name, 0),
        Place::Query(name) => (1, name, 0),
        Place::Header(name, Scheme::Bearer) => (2, name.as_str(), 0),
        Place::Header(name, Scheme::Basic) => (2, name.as_str(), 1),
        Place::Header(name, Scheme::None) => (2, name.as_str(), 2),
        Place::Subprotocol => (3, "", 0),
        Place::Message => (4, "", 0),
        Place::Certificate => (5, "", 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verifier::Credential;

    fn question(verifier: &str, value: &[u8], kind: Recheck, path: &str, tenant: &str) -> Question {
        let host = Host { name: "app.example".into(), port: None };
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", tenant.parse().unwrap());
        let credential = Credential { value, basic: false };
        let occasion = Occasion {
            place: Place::Cookie("sid"),
            method: &Method::GET,
            https: true,
            host: &host,
            path,
            query: None,
            ip: [192, 0, 2, 7].into(),
            headers: &headers,
            certificate: None,
            again: false,
        };
        let original = Original::of(&credential, Place::Cookie("sid"));
        Question::new(&verifier.into(), kind, original, &occasion).unwrap()
    }

    #[test]
    fn what_is_asked_alike_is_one_question() {
        let key = |verifier, value: &str, kind, path, tenant| {
            question(verifier, value.as_bytes(), kind, path, tenant).key()
        };
        let by_credential = |path, tenant| key("app", "s", Recheck::Credential, path, tenant);
        assert!(by_credential("/a", "x") == by_credential("/b", "y"));
        assert!(by_credential("/a", "x") != key("app", "t", Recheck::Credential, "/a", "x"));
        assert!(by_credential("/a", "x") != key("own", "s", Recheck::Credential, "/a", "x"));
        let by_request = |path, tenant| key("app", "s", Recheck::Request, path, tenant);
        assert!(by_request("/a", "x") == by_request("/a", "x"));
        assert!(by_request("/a", "x") != by_request("/b", "x"));
        assert!(by_request("/a", "x") != by_request("/a", "y"));
        assert!(by_request("/a", "x") != by_credential("/a", "x"));
    }
}
