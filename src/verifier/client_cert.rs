//! The certificate that a client showed in its TLS handshake, which rustls has verified
//! up to an authority of `server.tls.client_ca`: who it names is the subject, and its
//! `notAfter` the end. The field that the policy names must have exactly one value.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::x509::{self, Certificate};
use super::{Credential, Occasion, Verification, Verifier, VerifyError};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::credential::CertificateField;
use crate::hex::hex;
use crate::identity::{Identity, Method, Proof};

/// What stands for a verifier where a policy takes certificates.
const NAME: &str = "client_cert";

/// Verifies certificates by one of their fields.
struct ClientCertificate {
    name: Arc<str>,
    field: CertificateField,
}

/// The verifier of a credential `{client_cert: FIELD}`; the credential is the
/// certificate, DER.
pub fn client_certificate(field: CertificateField) -> Arc<dyn Verifier> {
    Arc::new(ClientCertificate { name: NAME.into(), field })
}

impl ClientCertificate {
    fn judge(&self, der: &[u8], now: UnixSeconds) -> Result<Arc<Identity>, VerifyError> {
        let certificate = x509::read(der).ok_or(Reason::InvalidCredential)?;
        // RFC 5280 §4.2.1.12: without the extension it would be good for anything.
        if !certificate.is_for_clients {
            return Err(Reason::InvalidCredential.into());
        }
        if certificate.not_after <= now {
            return Err(Reason::Expired.into());
        }
        let sha256 = hex(digest(&SHA256, der).as_ref());
        let Certificate { uris, dns, emails, common_names, not_after, .. } = certificate;
        let values = match self.field {
            CertificateField::SanUri => uris.as_slice(),
            CertificateField::SanDns => dns.as_slice(),
            CertificateField::SanEmail => emails.as_slice(),
            CertificateField::Cn => common_names.as_slice(),
            CertificateField::Sha256 => std::slice::from_ref(&sha256),
        };
        let [subject] = values else { return Err(Reason::InvalidCredential.into()) };
        let claims = json!({
            "san_uri": uris, "san_dns": dns, "san_email": emails, "cn": common_names,
            "sha256": sha256,
        });
        let identity = Identity::proven(Proof {
            subject: Value::from(subject.as_str()),
            method: Method::ClientCert,
            verifier: Arc::clone(&self.name),
            issuer: None,
            session: None,
            token_id: None,
            issued_at: None,
            expires: Some(not_after),
            leeway: 0,
            claims: claims.to_string().into(),
        })?;
        Ok(Arc::new(identity))
    }
}

impl Verifier for ClientCertificate {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn recognises(&self, _: &Credential<'_>) -> bool {
        true
    }

    fn verify<'a>(
        &'a self,
        credential: &'a Credential<'a>,
        _: &'a Occasion<'a>,
        now: UnixSeconds,
    ) -> Verification<'a> {
        Box::pin(async move { self.judge(credential.value, now) })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};

    use super::*;

    /// 2030-01-01.
    const END: UnixSeconds = 1_893_456_000;

    fn params() -> CertificateParams {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI("spiffe://x/ada".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("ada@x.example".try_into().unwrap()));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Ada");
        params.distinguished_name.push(DnType::OrganizationName, "X");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params
    }

    fn der(params: &CertificateParams) -> Vec<u8> {
        params.clone().self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn judge(der: &[u8], field: CertificateField, now: UnixSeconds) -> Result<String, Reason> {
        let verifier = ClientCertificate { name: NAME.into(), field };
        let judged = verifier.judge(der, now).map_err(VerifyError::reason)?;
        assert_eq!(judged.expires(), Some(END));
        Ok(judged.subject().to_owned())
    }

    #[test]
    fn the_subject_is_the_one_value_of_the_field() {
        let der = der(&params());
        for (field, expected) in [
            (CertificateField::SanUri, "spiffe://x/ada"),
            (CertificateField::SanDns, "a.example"),
            (CertificateField::SanEmail, "ada@x.example"),
            (CertificateField::Cn, "Ada"),
            (CertificateField::Sha256, &hex(digest(&SHA256, &der).as_ref())),
        ] {
            assert_eq!(judge(&der, field, END - 1).as_deref(), Ok(expected));
            assert_eq!(judge(&der, field, END), Err(Reason::Expired));
        }
    }

    #[test]
    fn no_value_two_values_and_another_purpose_are_refused() {
        let mut two = params();
        two.subject_alt_names.push(SanType::URI("spiffe://x/eve".try_into().unwrap()));
        two.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "Eve");
        let mut none = params();
        none.subject_alt_names.clear();
        none.distinguished_name = rcgen::DistinguishedName::new();
        let invalid = Err(Reason::InvalidCredential);
        for field in [CertificateField::SanUri, CertificateField::Cn] {
            assert_eq!(judge(&der(&two), field, END - 1), invalid);
            assert_eq!(judge(&der(&none), field, END - 1), invalid);
        }
        for purposes in [vec![], vec![ExtendedKeyUsagePurpose::ServerAuth]] {
            let mut other = params();
            other.extended_key_usages = purposes;
            assert_eq!(judge(&der(&other), CertificateField::Cn, END - 1), invalid);
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_and_never_breaks() {
        let der = der(&params());
        for index in 0..der.len() {
            assert!(judge(&der[..index], CertificateField::Cn, END - 1).is_err());
            let mut changed = der.clone();
            changed[index] = changed[index].wrapping_add(0x80);
            // Whatever it says now, it says it without a panic.
            let _ = ClientCertificate { name: NAME.into(), field: CertificateField::Cn }
                .judge(&changed, END - 1);
        }
        assert!(judge(&[&der[..], b"x"].concat(), CertificateField::Cn, END - 1).is_err());
    }
}
