//! OpenID Connect Discovery 1.0: from an issuer to the URL of its keys. Reads;
//! fetches nothing.

use serde_json::Value;

use crate::fetch::{Url, UrlError};
use crate::json;

/// Where the document of an issuer stands, below its URL (§4).
const DOCUMENT: &str = "/.well-known/openid-configuration";

/// The longest issuer that is repeated to the operator.
const SHOWN: usize = 200;

/// Why a discovery document leads to no keys.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DiscoveryError {
    #[error("the discovery document is not a JSON object")]
    NotADocument,
    #[error("the discovery document is of another issuer{0}; `issuer` must be exactly that one")]
    OtherIssuer(String),
    #[error("the discovery document has no jwks_uri")]
    NoKeys,
    #[error("the jwks_uri of the discovery document: {0}")]
    Url(#[from] UrlError),
}

/// The URL of the discovery document of `issuer`: a slash at its end does not
/// count here (§4.1), though it does in `iss`.
pub(super) fn document_url(issuer: &str) -> String {
    format!("{}{DOCUMENT}", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// The URL of the keys that the `document` of `issuer` names (§4.3). Plain http is
/// for an issuer that is asked so itself, unless `allow_http`.
pub(super) fn keys_url(
    document: &[u8],
    issuer: &str,
    allow_http: bool,
) -> Result<Url, DiscoveryError> {
    let Ok(Value::Object(members)) = json::parse(document) else {
        return Err(DiscoveryError::NotADocument);
    };
    let found = members.get("issuer").and_then(Value::as_str).unwrap_or_default();
    if found != issuer {
        return Err(DiscoveryError::OtherIssuer(shown(found)));
    }
    let written = members.get("jwks_uri").and_then(Value::as_str).ok_or(DiscoveryError::NoKeys)?;
    let url = Url::read(written, allow_http)?;
    // Loopback is ours, and nothing that an issuer elsewhere has a say about.
    let by_https = issuer.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("https:"));
    if by_https && !url.is_https() && !allow_http {
        return Err(DiscoveryError::Url(UrlError::PlainHttp));
    }
    Ok(url)
}

/// The issuer that was found, for who has to write it down; nothing if it is not
/// such that a line can hold it.
fn shown(found: &str) -> String {
    let plain = (1..=SHOWN).contains(&found.len()) && found.bytes().all(|b| b.is_ascii_graphic());
    if plain { format!(", \"{found}\"") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_document_stands_below_the_issuer() {
        for (issuer, expected) in [
            ("https://a", "https://a/.well-known/openid-configuration"),
            ("https://a/", "https://a/.well-known/openid-configuration"),
            ("https://a/realms/x", "https://a/realms/x/.well-known/openid-configuration"),
            ("https://a/v2.0/", "https://a/v2.0/.well-known/openid-configuration"),
        ] {
            assert_eq!(document_url(issuer), expected);
        }
    }

    fn found(document: &Value, issuer: &str) -> Result<String, DiscoveryError> {
        let url = keys_url(document.to_string().as_bytes(), issuer, false)?;
        Ok(url.request(Method::GET).uri().to_string())
    }

    #[test]
    fn the_document_must_be_of_exactly_this_issuer() {
        let document = json!({"issuer": "https://a/", "jwks_uri": "https://b/keys", "x": [{}]});
        assert_eq!(found(&document, "https://a/"), Ok("https://b/keys".to_owned()));
        for issuer in ["https://a", "https://A/", "https://a//", "https://b/", ""] {
            let error = found(&document, issuer).unwrap_err();
            assert_eq!(error, DiscoveryError::OtherIssuer(", \"https://a/\"".to_owned()));
        }
        for other in [json!(1), json!(null), json!(["https://a/"]), json!("a\nb"), json!("")] {
            let document = json!({"issuer": other, "jwks_uri": "https://b/keys"});
            let error = found(&document, "https://a/").unwrap_err();
            assert_eq!(error, DiscoveryError::OtherIssuer(String::new()), "{document}");
        }
    }

    #[test]
    fn a_document_cannot_lead_to_where_no_key_may_come_from() {
        let with = |keys: Value| json!({"issuer": "https://a", "jwks_uri": keys});
        let plain = Err(DiscoveryError::Url(UrlError::PlainHttp));
        // Not even to loopback, which is ours and not the issuer's.
        for url in ["http://a/keys", "http://127.0.0.1/keys", "http://localhost/", "HTTP://[::1]/"]
        {
            assert_eq!(found(&with(json!(url)), "https://a"), plain, "{url}");
        }
        for url in ["", "/keys", "file:///etc/passwd", "gopher://a/"] {
            let error = found(&with(json!(url)), "https://a");
            assert_eq!(error, Err(DiscoveryError::Url(UrlError::Form)), "{url}");
        }
        for keys in [json!(null), json!(1), json!(["https://a"])] {
            assert_eq!(found(&with(keys), "https://a"), Err(DiscoveryError::NoKeys));
        }
        let local = json!({"issuer": "http://127.0.0.1:1", "jwks_uri": "http://127.0.0.1:1/k"});
        assert!(found(&local, "http://127.0.0.1:1").is_ok());
        let away = json!({"issuer": "http://127.0.0.1:1", "jwks_uri": "http://a/k"});
        assert_eq!(found(&away, "http://127.0.0.1:1"), plain);
        let text = with(json!("http://a/keys")).to_string();
        assert!(keys_url(text.as_bytes(), "https://a", true).is_ok());
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in ["", "[]", "null", "<html>", r#"{"issuer":"a","issuer":"b"}"#, "{}x"] {
            let error = keys_url(text.as_bytes(), "a", true).err();
            assert_eq!(error, Some(DiscoveryError::NotADocument), "{text}");
        }
    }
}
