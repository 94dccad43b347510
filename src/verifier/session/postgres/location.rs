//! Where a PostgreSQL is, as whom to log in, and whom to believe: a URL of libpq
//! with `sslmode` as there.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::dial::{self, FirstWord};
use crate::secret::Secret;
use crate::stream::Stream;
use crate::tls::{ClientFiles, TlsError, Trust, client_trusting};
use crate::verifier::Unavailable;

/// The port without which a URL means this one.
const PORT: u16 = 5432;
/// `SSLRequest`: its length and its number.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A database that can be dialled.
pub(in super::super) struct Location {
    /// Hosts, user, password, database. Has a `Debug` that shows no password.
    pub(super) login: Config,
    hosts: Vec<(Host, u16)>,
    encryption: Encryption,
    /// Whether the server has to prove who it is.
    verified: bool,
}

/// Whether the connection is encrypted.
enum Encryption {
    /// `disable`.
    Never,
    /// `prefer`: if the server can.
    IfOffered(Arc<ClientConfig>),
    /// `require` and above.
    Always(Arc<ClientConfig>),
}

/// Why a URL cannot be used. Holds nothing of it.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum LocationError {
    /// No URL of libpq.
    #[error(
        "expected postgres://user:password@host:5432/database; `@`, `/`, `?` and `#` in a \
         password are written %40, %2F, %3F and %23"
    )]
    Malformed,
    /// It says not as whom.
    #[error("the URL names no user: postgres://user:password@host/database")]
    NoUser,
    /// It says not where.
    #[error("the URL names no host: postgres://user:password@host/database")]
    NoHost,
    /// Another `sslmode`.
    #[error("sslmode is disable, prefer, require, verify-ca or verify-full")]
    SslMode,
    /// A parameter of libpq that stands elsewhere here.
    #[error("sslrootcert of the URL is the key `ca` here")]
    RootCert,
    /// Authorities that nobody asks.
    #[error("`ca` has no effect with sslmode=disable or prefer: write sslmode=verify-full")]
    CaUnused,
    /// The authorities cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Location {
    /// Reads `url`; `ca` is the file of the authorities.
    pub(in super::super) fn parse(
        url: &Secret,
        ca: Option<&Path>,
    ) -> Result<Location, LocationError> {
        let text = std::str::from_utf8(url.expose()).map_err(|_| LocationError::Malformed)?;
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let mut mode = None;
        let mut kept = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", _)) => return Err(LocationError::RootCert),
                Some(_) | None => kept.push(parameter),
            }
        }
        let plain = match kept.is_empty() {
            true => base.to_owned(),
            false => format!("{base}?{}", kept.join("&")),
        };
        let mut login: Config = plain.parse().map_err(|_| LocationError::Malformed)?;
        // Encryption is ours: by the time that the crate is asked, it is done.
        login.ssl_mode(SslMode::Disable);
        if login.get_application_name().is_none() {
            login.application_name("sockgate");
        }
        if login.get_user().is_none_or(str::is_empty) {
            return Err(LocationError::NoUser);
        }
        let ports = login.get_ports();
        let port = |index| ports.get(index).or(ports.first()).copied().unwrap_or(PORT);
        let hosts: Vec<_> = login.get_hosts().iter().cloned().enumerate().collect();
        let hosts: Vec<_> = hosts.into_iter().map(|(index, host)| (host, port(index))).collect();
        let named = |(host, _): &(Host, u16)| !matches!(host, Host::Tcp(name) if name.is_empty());
        if hosts.is_empty() || !hosts.iter().all(named) {
            return Err(LocationError::NoHost);
        }
        let (encryption, verified) = encryption(mode, ca)?;
        Ok(Location { login, hosts, encryption, verified })
    }

    /// What about this URL deserves a look.
    pub(in super::super) fn warning(&self) -> Option<&'static str> {
        let near = |(host, _): &(Host, u16)| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost"
                    || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
            }
        };
        (!self.verified && !self.hosts.iter().all(near)).then_some(
            "does not verify that it talks to the right server: add sslmode=verify-full to the \
             URL, and `ca` if its certificate is of an authority of your own",
        )
    }

    /// A connection to the first host that takes one, encrypted if it is to be.
    pub(super) async fn dial(&self) -> Result<Stream, Unavailable> {
        let mut last = Unavailable("cannot connect to PostgreSQL");
        for (host, port) in &self.hosts {
            match self.dial_one(host, *port).await {
                Ok(stream) => return Ok(stream),
                Err(unavailable) => last = unavailable,
            }
        }
        Err(last)
    }

    async fn dial_one(&self, host: &Host, port: u16) -> Result<Stream, Unavailable> {
        let unreachable = |_: std::io::Error| Unavailable("cannot connect to PostgreSQL");
        let name = match host {
            Host::Unix(directory) => {
                let path = directory.join(format!(".s.PGSQL.{port}"));
                return UnixStream::connect(path).await.map(Stream::Unix).map_err(unreachable);
            }
            Host::Tcp(name) => name,
        };
        let addresses = dial::resolve(name, port).await.map_err(unreachable)?;
        let stream = dial::connect(&addresses, FirstWord::Ours).await.map_err(unreachable)?;
        match &self.encryption {
            Encryption::Never => Ok(Stream::Tcp(stream)),
            Encryption::IfOffered(config) => encrypt(stream, config, name, false).await,
            Encryption::Always(config) => encrypt(stream, config, name, true).await,
        }
    }
}

/// How to encrypt, and whether the server has to prove who it is.
fn encryption(mode: Option<&str>, ca: Option<&Path>) -> Result<(Encryption, bool), LocationError> {
    let config = |trust| {
        let files = ClientFiles { ca: ca.map(Path::to_owned), identity: None };
        client_trusting(&files, trust)
    };
    Ok(match (mode, ca) {
        (Some("disable" | "prefer" | "allow"), Some(_)) => return Err(LocationError::CaUnused),
        (Some("disable"), None) => (Encryption::Never, false),
        // Who names authorities wants them asked.
        (None, Some(_)) | (Some("verify-full"), _) => {
            (Encryption::Always(config(Trust::Name)?), true)
        }
        (None | Some("prefer" | "allow"), None) => {
            (Encryption::IfOffered(config(Trust::Anyone)?), false)
        }
        // As libpq: with authorities at hand, `require` asks them.
        (Some("verify-ca"), _) | (Some("require"), Some(_)) => {
            (Encryption::Always(config(Trust::Chain)?), true)
        }
        (Some("require"), None) => (Encryption::Always(config(Trust::Anyone)?), false),
        (Some(_), _) => return Err(LocationError::SslMode),
    })
}

async fn encrypt(
    mut stream: TcpStream,
    config: &Arc<ClientConfig>,
    name: &str,
    required: bool,
) -> Result<Stream, Unavailable> {
    let broken = |_: std::io::Error| Unavailable("the connection to PostgreSQL broke");
    stream.write_all(&SSL_REQUEST).await.map_err(broken)?;
    match (stream.read_u8().await.map_err(broken)?, required) {
        (b'S', _) => {}
        (b'N', false) => return Ok(Stream::Tcp(stream)),
        (b'N', true) => return Err(Unavailable("PostgreSQL does not offer TLS")),
        _ => return Err(Unavailable("whoever answers is no PostgreSQL")),
    }
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| Unavailable("the host of the URL is no name that a certificate could have"))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|_| Unavailable("PostgreSQL cannot be trusted: its certificate was refused"))?;
    Ok(Stream::TlsClient(Box::new(stream)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, ca: Option<&str>) -> Result<Location, LocationError> {
        Location::parse(&Secret::new(url), ca.map(Path::new))
    }

    fn problem(url: &str, ca: Option<&str>) -> String {
        let said = parse(url, ca).err().unwrap().to_string();
        assert!(!said.contains("canary"), "{said}");
        said
    }

    #[test]
    fn urls_of_libpq_are_read() {
        for url in [
            "postgres://app:canary@db/app",
            "postgresql://app@127.0.0.1:5433/app?sslmode=disable",
            "postgres://app:p%40@db1:1,db2:2/app?sslmode=require&application_name=x",
            "postgres:///app?host=/run/postgresql&user=app",
            "postgres://app@db/app?sslmode=prefer",
        ] {
            assert!(parse(url, None).is_ok(), "{url}");
        }
        let two = parse("postgres://a@db1:1,db2:2/x", None).ok().unwrap();
        assert_eq!(two.hosts.iter().map(|(_, port)| *port).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(parse("postgres://a@db/x", None).ok().unwrap().hosts[0].1, PORT);
    }

    #[test]
    fn what_is_wrong_is_said_and_never_quoted() {
        assert!(problem("postgres://db/app", None).contains("no user"));
        assert!(problem("postgres://canary@/app", None).contains("no host"));
        assert!(problem("postgres://a:can/ary@db:x/app", None).contains("%2F"));
        assert!(problem("postgres://a@db/app?sslmode=canary", None).contains("verify-full"));
        assert!(problem("postgres://a@db/app?sslrootcert=x", None).contains("`ca`"));
        assert!(problem("postgres://a@db/app?canary=x", None).contains("expected postgres"));
        assert!(problem("postgres://a@db/app?sslmode=disable", Some("ca")).contains("no effect"));
        assert!(problem("postgres://a@db/app", Some("ca.pem")).contains("cannot read ca.pem"));
    }

    #[test]
    fn a_server_elsewhere_that_nobody_verifies_deserves_a_look() {
        let warns = |url: &str| parse(url, None).ok().unwrap().warning().is_some();
        assert!(warns("postgres://a@db/app"));
        assert!(warns("postgres://a@db/app?sslmode=require"));
        assert!(!warns("postgres://a@db/app?sslmode=verify-full"));
        assert!(!warns("postgres://a@127.0.0.1/app"));
        assert!(!warns("postgres:///app?host=/run/postgresql&user=a"));
    }
}
