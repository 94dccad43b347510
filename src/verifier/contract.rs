//! What every verifier must do, whatever its kind. A new kind makes one
//! [`Sample`] of itself and calls [`holds`], or [`holds_once`] if what it verifies is
//! used up by that; one that asks over a network calls [`survives`] too.

mod lines;
mod peer;

use std::sync::Arc;

pub(super) use self::lines::{Lines, telemetry};
pub(super) use self::peer::{Seen, serving, survives, survives_with};
use super::occasion::Asked;
use super::{Chain, Credential, Verifier, VerifyError};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::credential::Place;
use crate::identity::Identity;

/// Stands in every secret of a sample; must show nowhere.
const CANARY: &str = "canary";

/// A verifier and what it must say at `now` to four credentials.
pub(super) struct Sample {
    pub(super) verifier: Arc<dyn Verifier>,
    pub(super) now: UnixSeconds,
    pub(super) valid: Vec<u8>,
    pub(super) subject: &'static str,
    pub(super) method: &'static str,
    pub(super) wrong: Vec<u8>,
    pub(super) expired: Option<Vec<u8>>,
    pub(super) without_subject: Option<Vec<u8>>,
}

impl Sample {
    async fn ask(&self, value: &[u8]) -> Result<Arc<Identity>, VerifyError> {
        let asked = Asked::default();
        let occasion = asked.with(Place::Message);
        self.verifier.verify(&Credential { value, basic: false }, &occasion, self.now).await
    }

    async fn refusal(&self, value: &[u8]) -> Reason {
        match self.ask(value).await {
            Ok(_) => panic!("admitted {} bytes", value.len()),
            Err(error) => {
                let said = format!("{error} {error:?}");
                assert!(!said.contains(CANARY), "{said}");
                assert!(matches!(error, VerifyError::Rejected(_)), "{said}");
                error.reason()
            }
        }
    }
}

/// Holds the verifier of `sample` to the contract.
pub(super) async fn holds(sample: Sample) {
    admits_the_valid(&sample).await;
    refuses_the_others(&sample).await;
    names_itself_in_a_chain(&sample, &[&sample.valid, &sample.wrong]).await;
}

/// The same for a verifier that admits each credential once, as whoever it was issued
/// for: none of all that is refused uses the valid one up.
pub(super) async fn holds_once(sample: Sample) {
    refuses_the_others(&sample).await;
    names_itself_in_a_chain(&sample, &[&sample.wrong]).await;
    let identity = match sample.ask(&sample.valid).await {
        Ok(identity) => identity,
        Err(error) => panic!("the valid one is refused: {error}"),
    };
    assert_eq!((identity.subject(), identity.method()), (sample.subject, sample.method));
    assert_eq!(sample.refusal(&sample.valid).await, Reason::InvalidCredential);
}

async fn refuses_the_others(sample: &Sample) {
    assert_eq!(sample.refusal(&sample.wrong).await, Reason::InvalidCredential);
    if let Some(expired) = &sample.expired {
        assert_eq!(sample.refusal(expired).await, Reason::Expired);
    }
    if let Some(without_subject) = &sample.without_subject {
        assert_eq!(sample.refusal(without_subject).await, Reason::InvalidCredential);
    }
    refuses_garbage(sample).await;
    refuses_every_variant_of_the_valid(sample).await;
}

async fn admits_the_valid(sample: &Sample) {
    for _ in 0..2 {
        let identity = match sample.ask(&sample.valid).await {
            Ok(identity) => identity,
            Err(error) => panic!("the valid one is refused: {error}"),
        };
        assert_eq!(identity.subject(), sample.subject);
        assert_eq!(identity.method(), sample.method);
        assert_eq!(identity.verifier(), sample.verifier.name());
        assert!(!identity.is_anonymous());
    }
    assert!(sample.verifier.recognises(&Credential { value: &sample.valid, basic: false }));
}

async fn refuses_garbage(sample: &Sample) {
    let huge = vec![b'a'; 1 << 20];
    let dots = vec![b'.'; 1 << 20];
    let garbage: [&[u8]; 9] =
        [b"", b" ", b"..", b"null", b"undefined", b"\0", b"\xff\xfe", &huge, &dots];
    for value in garbage {
        let reason = sample.refusal(value).await;
        let expected = [Reason::InvalidCredential, Reason::MalformedCredential];
        assert!(expected.contains(&reason), "{reason:?} for {} bytes", value.len());
        for basic in [false, true] {
            // Recognising must not fail either, whatever it answers.
            sample.verifier.recognises(&Credential { value, basic });
        }
    }
}

async fn refuses_every_variant_of_the_valid(sample: &Sample) {
    let valid = &sample.valid;
    let mut variants = vec![
        [b" ", &valid[..]].concat(),
        [&valid[..], b"\n"].concat(),
        [&valid[..], b"="].concat(),
    ];
    for index in 0..valid.len() {
        let mut changed = valid.clone();
        changed[index] ^= 1;
        variants.push(changed);
        variants.push(valid[..index].to_vec());
    }
    for variant in variants {
        sample.refusal(&variant).await;
    }
}

async fn names_itself_in_a_chain(sample: &Sample, values: &[&[u8]]) {
    let chain = Chain::new(vec![Arc::clone(&sample.verifier)]);
    for value in values {
        let asked = Asked::default();
        let occasion = asked.with(Place::Message);
        let credential = Credential { value, basic: false };
        let verdict = chain.verify(&credential, &occasion, sample.now).await;
        assert_eq!(verdict.verifier.as_ref(), Some(sample.verifier.name()));
    }
}
