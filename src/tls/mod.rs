//! TLS by rustls, for the listeners and for the upstreams: files in, ready
//! configurations out. Nothing here opens a connection.

mod trust;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub use self::trust::{Trust, client_trusting};

/// Why a TLS configuration cannot be built. Never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read as PEM.
    #[error("cannot read {path}: {source}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("{0} holds no certificate; expected PEM with BEGIN CERTIFICATE")]
    NoCertificate(PathBuf),
    /// The file holds no revocation list.
    #[error("{0} holds no revocation list; expected PEM with BEGIN X509 CRL")]
    NoRevocationList(PathBuf),
    /// Certificate and key do not fit, or cannot be used.
    #[error("{0}")]
    Unusable(#[from] rustls::Error),
    /// The system has no certificate authorities.
    #[error("the system has no certificate authorities; install ca-certificates or set `ca`")]
    NoSystemRoots,
    /// The authorities cannot be used to verify anybody.
    #[error("{0}")]
    Roots(#[from] rustls::client::VerifierBuilderError),
}

/// The one cryptographic provider; named at each use because a process-wide
/// default could be another one.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The certificates of a PEM file, leaf first.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { path: path.to_owned(), source };
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if chain.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(chain) }
}

/// The first private key of a PEM file.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|source| TlsError::Pem { path: path.to_owned(), source })
}

/// The authorities in the file `ca`, or the system's.
fn authorities(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => certificates(path)?.into_iter().try_for_each(|one| roots.add(one))?,
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsError::NoSystemRoots);
            }
        }
    }
    Ok(roots)
}

/// Whom a server believes about its clients.
#[derive(Clone, Debug)]
pub struct ClientAuthorities {
    /// PEM: the authorities.
    pub ca: PathBuf,
    /// PEM: what they have revoked.
    pub crl: Option<PathBuf>,
    /// Whether a client without a certificate is turned away.
    pub required: bool,
}

/// A server that shows `cert` and speaks HTTP/1.1; with `clients` it asks for theirs.
///
/// # Errors
/// If a file cannot be read, or certificate and key do not fit.
pub fn server(
    cert: &Path,
    key: &Path,
    clients: Option<&ClientAuthorities>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(client_verifier(clients)?),
    };
    let mut config = builder.with_single_cert(certificates(cert)?, private_key(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn client_verifier(clients: &ClientAuthorities) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(authorities(Some(&clients.ca))?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    if let Some(path) = &clients.crl {
        let pem = |source| TlsError::Pem { path: path.clone(), source };
        let lists: Vec<_> = CertificateRevocationListDer::pem_file_iter(path)
            .map_err(pem)?
            .collect::<Result<_, _>>()
            .map_err(pem)?;
        if lists.is_empty() {
            return Err(TlsError::NoRevocationList(path.clone()));
        }
        // An authority in the middle need not have a list of its own. A list past its
        // `nextUpdate` says nothing about today (RFC 5280 §6.3.3): nobody gets in by it.
        builder = builder
            .with_crls(lists)
            .only_check_end_entity_revocation()
            .enforce_revocation_expiration();
    }
    if !clients.required {
        builder = builder.allow_unauthenticated();
    }
    Ok(builder.build()?)
}

/// Whom a client trusts, and what it shows.
#[derive(Clone, Debug, Default)]
pub struct ClientFiles {
    /// The authorities; the system's if none.
    pub ca: Option<PathBuf>,
    /// Certificate and key to show.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A client that verifies its server.
#[derive(Clone)]
pub struct Client {
    /// Ready to connect with.
    pub config: Arc<ClientConfig>,
    /// The same for clients made of the same authorities, certificate and key.
    pub fingerprint: u64,
}

/// Reads what a client trusts and shows.
///
/// # Errors
/// If a file cannot be read, or there are no authorities.
pub fn client(files: &ClientFiles) -> Result<Client, TlsError> {
    let mut hasher = DefaultHasher::new();
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                certificate.hash(&mut hasher);
                roots.add(certificate)?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs().certs;
            system.hash(&mut hasher);
            roots.add_parsable_certificates(system);
            if roots.is_empty() {
                return Err(TlsError::NoSystemRoots);
            }
        }
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_webpki_verifier(verifier);
    let mut config = match &files.identity {
        Some((cert, key)) => {
            let (chain, key) = (certificates(cert)?, private_key(key)?);
            chain.hash(&mut hasher);
            key.secret_der().hash(&mut hasher);
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Client { config: Arc::new(config), fingerprint: hasher.finish() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_read_and_a_mismatch_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let one = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let two = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let cert = write("cert", one.cert.pem());
        let key = write("key", one.signing_key.serialize_pem());
        let other = write("other", two.signing_key.serialize_pem());
        assert!(server(&cert, &key, None).is_ok());
        assert!(matches!(server(&cert, &other, None), Err(TlsError::Unusable(_))));
        assert!(matches!(server(&key, &key, None), Err(TlsError::NoCertificate(_))));
        assert!(matches!(server(&dir.path().join("none"), &key, None), Err(TlsError::Pem { .. })));
        let print = |ca: &Path, identity: Option<(&Path, &Path)>| {
            let identity = identity.map(|(cert, key)| (cert.to_owned(), key.to_owned()));
            client(&ClientFiles { ca: Some(ca.to_owned()), identity }).unwrap().fingerprint
        };
        let prints = [
            print(&cert, None),
            print(&write("another", two.cert.pem()), None),
            print(&cert, Some((&cert, &key))),
        ];
        assert_eq!(prints[0], print(&write("copy", one.cert.pem()), None));
        assert!(prints[0] != prints[1] && prints[0] != prints[2] && prints[1] != prints[2]);
    }
}
