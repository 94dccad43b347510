//! Which of a credential's verifiers decides: a single one decides alone; of a
//! list, the first that recognises the credential's shape. Its verdict is
//! final: a later verifier is never asked for a second opinion.

use std::sync::Arc;

use super::{Credential, Occasion, Verifier, VerifyError};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::identity::Identity;

/// The verifiers of one credential, in the order of the file.
pub struct Chain(Vec<Arc<dyn Verifier>>);

/// What a chain decided.
pub struct Verdict {
    /// The name of the verifier that decided; none if no one recognised the
    /// credential.
    pub verifier: Option<Arc<str>>,
    /// Who the client is, or why that was not proven.
    pub result: Result<Arc<Identity>, VerifyError>,
}

impl Chain {
    /// A chain of `verifiers`; an empty one refuses everything.
    pub fn new(verifiers: Vec<Arc<dyn Verifier>>) -> Chain {
        Chain(verifiers)
    }

    /// The verifiers, in order.
    pub fn verifiers(&self) -> &[Arc<dyn Verifier>] {
        &self.0
    }

    /// The verifier that decides on `credential`.
    pub fn decider(&self, credential: &Credential<'_>) -> Option<&Arc<dyn Verifier>> {
        match self.0.as_slice() {
            [only] => Some(only),
            several => several.iter().find(|verifier| verifier.recognises(credential)),
        }
    }

    /// Has the deciding verifier judge `credential`.
    pub async fn verify(
        &self,
        credential: &Credential<'_>,
        occasion: &Occasion<'_>,
        now: UnixSeconds,
    ) -> Verdict {
        match self.decider(credential) {
            Some(decider) => Verdict {
                verifier: Some(Arc::clone(decider.name())),
                result: decider.verify(credential, occasion, now).await,
            },
            None => Verdict { verifier: None, result: Err(Reason::InvalidCredential.into()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::credential::Place;
    use crate::identity::{Method, Proof};
    use crate::verifier::Verification;
    use crate::verifier::occasion::Asked;

    /// Recognises what begins with its letter; admits what ends in `!`.
    struct Letter(Arc<str>);

    impl Verifier for Letter {
        fn name(&self) -> &Arc<str> {
            &self.0
        }

        fn recognises(&self, credential: &Credential<'_>) -> bool {
            credential.value.starts_with(self.0.as_bytes())
        }

        fn verify<'a>(
            &'a self,
            credential: &'a Credential<'a>,
            _: &'a Occasion<'a>,
            _: i64,
        ) -> Verification<'a> {
            Box::pin(async move {
                if !credential.value.ends_with(b"!") {
                    return Err(Reason::Expired.into());
                }
                let identity = Identity::proven(Proof {
                    subject: Value::from("alice"),
                    method: Method::Jwt,
                    verifier: Arc::clone(&self.0),
                    issuer: None,
                    session: None,
                    token_id: None,
                    issued_at: None,
                    expires: None,
                    leeway: 0,
                    claims: "{}".into(),
                })?;
                Ok(Arc::new(identity))
            })
        }
    }

    fn chain(names: &[&str]) -> Chain {
        Chain::new(
            names
                .iter()
                .map(|name| Arc::new(Letter((*name).into())) as Arc<dyn Verifier>)
                .collect(),
        )
    }

    async fn verdict(names: &[&str], value: &str) -> (Option<String>, Option<Reason>) {
        let credential = Credential { value: value.as_bytes(), basic: false };
        let asked = Asked::default();
        let verdict = chain(names).verify(&credential, &asked.with(Place::Message), 0).await;
        (verdict.verifier.map(|name| name.to_string()), verdict.result.err().map(|e| e.reason()))
    }

    #[tokio::test]
    async fn a_single_verifier_decides_whatever_the_shape() {
        assert_eq!(verdict(&["a"], "zzz!").await, (Some("a".into()), None));
    }

    #[tokio::test]
    async fn the_first_that_recognises_decides_and_no_later_one_is_asked() {
        assert_eq!(verdict(&["a", "b"], "b!").await, (Some("b".into()), None));
        assert_eq!(verdict(&["a", "ab"], "ab").await, (Some("a".into()), Some(Reason::Expired)));
    }

    #[tokio::test]
    async fn what_nobody_recognises_is_invalid() {
        assert_eq!(verdict(&["a", "b"], "c!").await, (None, Some(Reason::InvalidCredential)));
        assert_eq!(verdict(&[], "c!").await, (None, Some(Reason::InvalidCredential)));
    }
}
