//! Tokens that are good only from the client that they were issued to, which proves
//! itself by its certificate (RFC 8705 §3.1; the claim `cnf`, RFC 7800 §3.1).

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::close::Reason;
use crate::json::member;

/// The one way to confirm who presents a token that is understood.
const THUMBPRINT: &str = "x5t#S256";

/// The certificate that a token needs beside it: the SHA-256 of its DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binding([u8; 32]);

impl Binding {
    /// What `claims` bind their token to; none if anybody may present it.
    ///
    /// # Errors
    /// [`Reason::InvalidCredential`] for a binding that is malformed, or to anything
    /// else, whose proof would not be looked at.
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Option<Binding>, Reason> {
        let Some(confirmation) = member(claims, "cnf") else { return Ok(None) };
        let members = confirmation.as_object().filter(|members| members.len() == 1);
        members
            .and_then(|members| members.get(THUMBPRINT)?.as_str())
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok())
            .map(|thumbprint| Some(Binding(thumbprint)))
            .ok_or(Reason::InvalidCredential)
    }

    /// Whether the client has shown that certificate; `shown` is what it did show, DER.
    pub(super) fn is_met(&self, shown: Option<&[u8]>) -> bool {
        shown.is_some_and(|der| digest(&SHA256, der).as_ref() == self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(confirmation: Value) -> Result<Option<Binding>, Reason> {
        Binding::read(json!({ "cnf": confirmation }).as_object().unwrap())
    }

    fn thumbprint(der: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, der))
    }

    #[test]
    fn only_the_certificate_that_the_token_names_meets_it() {
        let binding = read(json!({ THUMBPRINT: thumbprint(b"a") })).unwrap().unwrap();
        assert!(binding.is_met(Some(b"a")));
        assert!(!binding.is_met(Some(b"b")));
        assert!(!binding.is_met(None));
        assert_eq!(Binding::read(&Map::new()), Ok(None));
    }

    #[test]
    fn what_is_not_understood_is_no_reason_to_let_anybody_present_it() {
        let good = thumbprint(b"a");
        for confirmation in [
            json!(null),
            json!([]),
            json!({}),
            json!(good),
            json!({ "jkt": good }),
            json!({ THUMBPRINT: good, "jkt": good }),
            json!({ THUMBPRINT: null }),
            json!({ THUMBPRINT: "" }),
            json!({ THUMBPRINT: good[1..] }),
            json!({ THUMBPRINT: format!("{good}=") }),
            json!({ THUMBPRINT: format!("{good}AA") }),
            json!({ "x5t": good }),
        ] {
            assert_eq!(
                read(confirmation.clone()),
                Err(Reason::InvalidCredential),
                "{confirmation}"
            );
        }
    }
}
