//! TLS for the load: one certificate for all proxies, and a client that trusts it.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const NAME: &str = "bench.example";

/// What a client trusts.
pub(crate) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Puts a certificate and its key into `directory`.
    pub(crate) fn create(directory: &Path) -> io::Result<Trust> {
        let made =
            rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(directory.join("cert.pem"), &cert)?;
        fs::write(directory.join("key.pem"), &key)?;
        fs::write(directory.join("both.pem"), cert + &key)?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Trust(Arc::new(config)))
    }

    /// A TLS connection on `stream`, whose handshake goes with the first write.
    pub(crate) fn connect(
        &self,
        stream: TcpStream,
    ) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let connection =
            ClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, stream))
    }
}
