//! Where an upstream is and how to reach it: a URL read once, dialled many times.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::uri::PathAndQuery;
use rustls::pki_types::ServerName;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

use super::config::UpstreamConfig;
use crate::dial::{self, FirstWord};
use crate::problem::Problem;
use crate::stream::Stream;
use crate::tls::{self, ClientFiles};

/// A server behind the gate.
pub struct Endpoint {
    carrier: Carrier,
    tls: Option<(tls::Client, ServerName<'static>)>,
    speech: Speech,
    base_path: Option<Box<str>>,
    label: Box<str>,
}

/// What a server understands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speech {
    /// Plain HTTP alone.
    Http,
    /// WebSocket, and plain HTTP.
    WebSocket,
    /// Neither: bytes.
    Raw,
}

#[derive(PartialEq, Eq)]
enum Carrier {
    Tcp { host: Box<str>, port: u16 },
    Unix(PathBuf),
}

/// Why a connection to an upstream failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name does not resolve.
    #[error("the upstream's name does not resolve")]
    Resolve(#[source] io::Error),
    /// No address took the connection.
    #[error("the upstream does not accept connections")]
    Connect(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("the TLS handshake with the upstream failed")]
    Tls(#[source] io::Error),
}

impl DialError {
    /// The label of `sockgate_upstream_errors_total`.
    pub fn kind(&self) -> &'static str {
        match self {
            DialError::Resolve(_) => "resolve",
            DialError::Connect(_) => "connect",
            DialError::Tls(_) => "tls",
        }
    }
}

/// The parts of an upstream URL.
#[derive(Debug, PartialEq, Eq)]
struct Parts<'a> {
    scheme: &'a str,
    carrier: &'a str,
    path: Option<&'a str>,
}

impl Endpoint {
    /// Reads `config`; relative files are relative to `base`.
    ///
    /// # Errors
    /// All that is wrong with it, by key.
    pub fn build(config: &UpstreamConfig, base: &Path) -> Result<Endpoint, Vec<Problem>> {
        let url = |message: String| vec![Problem::new("url", message)];
        let parts = split(&config.url).map_err(|message| url(message.to_owned()))?;
        let secure = matches!(parts.scheme, "wss" | "https" | "tls");
        let speech = match parts.scheme {
            "tcp" | "tls" | "unix" => Speech::Raw,
            scheme if scheme.starts_with("ws") => Speech::WebSocket,
            _ => Speech::Http,
        };
        let carrier = if parts.scheme.ends_with("unix") {
            Carrier::Unix(PathBuf::from(parts.carrier))
        } else {
            let default = match (speech, secure) {
                (Speech::Raw, _) => 0,
                (_, true) => 443,
                (_, false) => 80,
            };
            let (host, port) =
                host_and_port(parts.carrier, default).map_err(|m| url(m.to_owned()))?;
            if port == 0 {
                return Err(url("needs a port: tcp://HOST:PORT or tls://HOST:PORT".to_owned()));
            }
            Carrier::Tcp { host: host.into(), port }
        };
        let tls = match (&carrier, secure) {
            (Carrier::Tcp { host, .. }, true) => Some(build_tls(config, host, base, speech)?),
            _ => None,
        };
        Ok(Endpoint {
            carrier,
            tls,
            speech,
            base_path: parts.path.map(Into::into),
            label: config.url.as_str().into(),
        })
    }

    /// Whether connections to `other` are made as to this one: the same address,
    /// name to verify, authorities, certificate and key.
    pub fn is_same(&self, other: &Endpoint) -> bool {
        let tls = |endpoint: &Endpoint| {
            endpoint.tls.as_ref().map(|(client, name)| (client.fingerprint, name.clone()))
        };
        self.label == other.label && self.carrier == other.carrier && tls(self) == tls(other)
    }

    /// Whether upgrades may lead to it.
    pub fn carries_upgrades(&self) -> bool {
        self.speech != Speech::Http
    }

    /// Whether it speaks neither WebSocket nor HTTP.
    pub fn is_raw(&self) -> bool {
        self.speech == Speech::Raw
    }

    /// The path of the URL, which replaces a route's prefix.
    pub fn base_path(&self) -> Option<&str> {
        self.base_path.as_deref()
    }

    /// The URL, for logs; it can hold no credential.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Connects, resolving the name anew and trying its addresses in turn.
    /// The caller bounds the time.
    ///
    /// # Errors
    /// [`DialError`], by step.
    pub(super) async fn dial(&self) -> Result<Stream, DialError> {
        self.dial_and_say(&[]).await.map(|(stream, _)| stream)
    }

    /// The same, and sends of `words` what can be sent at once; how much that was is
    /// told beside the stream.
    ///
    /// # Errors
    /// As [`Endpoint::dial`].
    pub(super) async fn dial_and_say(&self, words: &[u8]) -> Result<(Stream, usize), DialError> {
        let (host, port) = match &self.carrier {
            Carrier::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(DialError::Connect)?;
                return Ok((Stream::Unix(stream), 0));
            }
            Carrier::Tcp { host, port } => (host, *port),
        };
        let addresses = dial::resolve(host, port).await.map_err(DialError::Resolve)?;
        let Some((client, name)) = &self.tls else {
            let first =
                if self.speech == Speech::Raw { FirstWord::Unknown } else { FirstWord::Ours };
            let dialled = dial::connect_and_say(&addresses, first, words).await;
            let (stream, said) = dialled.map_err(DialError::Connect)?;
            return Ok((Stream::Tcp(stream), said));
        };
        let stream = dial::connect(&addresses, FirstWord::Ours).await;
        let stream = stream.map_err(DialError::Connect)?;
        let connector = TlsConnector::from(Arc::clone(&client.config));
        let stream = connector.connect(name.clone(), stream).await.map_err(DialError::Tls)?;
        Ok((Stream::TlsClient(Box::new(stream)), 0))
    }
}

fn build_tls(
    config: &UpstreamConfig,
    host: &str,
    base: &Path,
    speech: Speech,
) -> Result<(tls::Client, ServerName<'static>), Vec<Problem>> {
    let written = config.tls.clone().unwrap_or_default();
    let name = written.server_name.as_deref().unwrap_or(host);
    let server_name =
        ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).map_err(|_| {
            vec![Problem::new("tls.server_name", "expected a DNS name or an IP address")]
        })?;
    let identity = match (&written.client_cert, &written.client_key) {
        (Some(cert), Some(key)) => Some((base.join(cert), base.join(key))),
        (None, None) => None,
        (Some(_), None) => {
            return Err(vec![Problem::new("tls.client_key", "is required with client_cert")]);
        }
        (None, Some(_)) => {
            return Err(vec![Problem::new("tls.client_cert", "is required with client_key")]);
        }
    };
    let files = ClientFiles { ca: written.ca.map(|path| base.join(path)), identity };
    let mut client =
        tls::client(&files).map_err(|error| vec![Problem::new("tls", error.to_string())])?;
    if speech == Speech::Raw {
        // Whatever it speaks, it is not HTTP.
        let mut config = (*client.config).clone();
        config.alpn_protocols.clear();
        client.config = Arc::new(config);
    }
    Ok((client, server_name))
}

fn split(url: &str) -> Result<Parts<'_>, &'static str> {
    const SCHEMES: &str = "expected ws://, wss://, ws+unix:/PATH, http://, https://, http+unix:/PATH, or, for a \
         raw server, tcp://HOST:PORT, tls://HOST:PORT or unix:/PATH";
    let (scheme, rest) = url.split_once(':').ok_or(SCHEMES)?;
    if url.contains(['?', '#', '@']) {
        return Err("an upstream URL has no user, query or fragment");
    }
    match scheme {
        "ws" | "wss" | "http" | "https" => {
            let rest = rest.strip_prefix("//").ok_or(SCHEMES)?;
            let (carrier, path) = match rest.find('/') {
                Some(at) => (&rest[..at], Some(&rest[at..])),
                None => (rest, None),
            };
            // It is written as it stands into the head of a request.
            if path.is_some_and(|path| path.parse::<PathAndQuery>().is_err()) {
                return Err("the path has a character that a URL must escape, as %3C for <");
            }
            // `ws://h/` says no more than `ws://h`.
            Ok(Parts { scheme, carrier, path: path.filter(|path| *path != "/") })
        }
        "tcp" | "tls" => {
            let carrier = rest.strip_prefix("//").ok_or(SCHEMES)?;
            match carrier.contains('/') {
                true => Err("the URL of a raw server has no path"),
                false => Ok(Parts { scheme, carrier, path: None }),
            }
        }
        "ws+unix" | "http+unix" | "unix" if rest.starts_with('/') => Ok(Parts {
            scheme,
            carrier: rest.strip_prefix("//").map_or(rest, |path| path),
            path: None,
        }),
        _ => Err(SCHEMES),
    }
}

fn host_and_port(authority: &str, default: u16) -> Result<(&str, u16), &'static str> {
    const FORM: &str = "expected HOST or HOST:PORT behind the scheme";
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| FORM)?),
        _ => (authority, default),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let sound = !bare.is_empty() && (bare.len() != host.len()) == bare.contains(':');
    if sound { Ok((bare, port)) } else { Err(FORM) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split() {
        let parts = |scheme, carrier, path| Ok(Parts { scheme, carrier, path });
        assert_eq!(split("ws://127.0.0.1:3000"), parts("ws", "127.0.0.1:3000", None));
        assert_eq!(split("wss://h/inner/"), parts("wss", "h", Some("/inner/")));
        assert_eq!(split("http://h/"), parts("http", "h", None));
        assert_eq!(split("ws+unix:/run/a.sock"), parts("ws+unix", "/run/a.sock", None));
        assert_eq!(split("tcp://h:1"), parts("tcp", "h:1", None));
        assert_eq!(split("tls://[::1]:1"), parts("tls", "[::1]:1", None));
        assert_eq!(split("unix:/run/a.sock"), parts("unix", "/run/a.sock", None));
        for bad in [
            "",
            "h:80",
            "ws:h",
            "tcp:h:1",
            "tls://h:1/x",
            "unix:x",
            "ftp://h",
            "ws://u:p@h",
            "ws://h?x",
            "ws://h/a<b",
            "ws://h/a\r\nx: 1",
            "ws+unix:x",
        ] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_and_ports_are_split() {
        assert_eq!(host_and_port("h", 80), Ok(("h", 80)));
        assert_eq!(host_and_port("h:81", 80), Ok(("h", 81)));
        assert_eq!(host_and_port("[::1]:81", 80), Ok(("::1", 81)));
        assert_eq!(host_and_port("[::1]", 80), Ok(("::1", 80)));
        for bad in ["", ":80", "h:", "h:x", "::1:80", "[h]:80"] {
            assert!(host_and_port(bad, 80).is_err(), "{bad}");
        }
    }
}
