//! TLS in front and behind, and Unix sockets on either side.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;

use super::support::{
    Gate, PATIENCE, Request, Response, Upstream, dial, eventually, members, token,
};

/// An authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "the authority of a test");
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    /// A certificate of `name` and its key, both as PEM.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (params.signed_by(&key, &self.0).expect("signed"), key)
    }

    /// Writes `tls.crt` and `tls.key` for `name`.
    fn write(&self, directory: &Path, name: &str) -> CertificateDer<'static> {
        let (certificate, key) = self.issue(name);
        std::fs::write(directory.join("tls.crt"), certificate.pem()).expect("written");
        std::fs::write(directory.join("tls.key"), key.serialize_pem()).expect("written");
        certificate.der().clone()
    }

    fn server(&self, name: &str) -> Arc<rustls::ServerConfig> {
        let (certificate, key) = self.issue(name);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a pair");
        Arc::new(config)
    }

    /// Connects to `gate` as `name`, trusting this authority.
    fn connect(
        &self,
        gate: &Gate,
        name: &str,
    ) -> rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("an authority");
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let session = rustls::ClientConnection::new(Arc::new(config), name).expect("a session");
        rustls::StreamOwned::new(session, dial(gate.address()))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

const TLS: &str = "server: { listen: \"127.0.0.1:0\", tls: { cert: tls.crt, key: tls.key } }\n";

#[test]
fn the_front_speaks_tls_and_the_upstream_is_told() {
    let (authority, upstream) = (Authority::new(), Upstream::start());
    let directory = TempDir::new().expect("a directory");
    authority.write(directory.path(), "gate.test");
    let gate = Gate::start_in(directory, &(members(&upstream.ws()) + TLS), &[]);
    let request = Request::upgrade("/ws/a").cookie(&token("alice")).origin("https://gate.test");
    let mut socket = request.open_on(authority.connect(&gate, "gate.test"));
    socket.echoes("hello");
    socket.echoes(&"x".repeat(100_000));
    assert_eq!(upstream.last().header("x-forwarded-proto"), Some("https"));
    socket.finish();
    let refused = Request::upgrade("/ws/a").open_on(authority.connect(&gate, "gate.test"));
    assert_eq!(refused.closed().says(), (4001, "Unauthorized"));
}

#[test]
fn an_http_origin_is_not_the_same_as_a_page_over_tls() {
    let (authority, upstream) = (Authority::new(), Upstream::start());
    let directory = TempDir::new().expect("a directory");
    authority.write(directory.path(), "gate.test");
    let gate = Gate::start_in(directory, &(members(&upstream.ws()) + TLS), &[]);
    let request = Request::upgrade("/ws/a").cookie(&token("alice")).origin("http://gate.test");
    let mut stream = authority.connect(&gate, "gate.test");
    std::io::Write::write_all(&mut stream, &request.bytes()).expect("sent");
    assert_eq!(Response::read_head(&mut stream).expect("an answer").status, 403);
}

#[test]
fn plain_bytes_on_a_tls_port_disturb_nobody() {
    let (authority, upstream) = (Authority::new(), Upstream::start());
    let directory = TempDir::new().expect("a directory");
    authority.write(directory.path(), "gate.test");
    let gate = Gate::start_in(directory, &(members(&upstream.ws()) + TLS), &[]);
    let mut stream = dial(gate.address());
    std::io::Write::write_all(&mut stream, &Request::upgrade("/ws/a").bytes()).expect("sent");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP/1.1 101"));
    let request = Request::upgrade("/ws/a").cookie(&token("alice"));
    request.open_on(authority.connect(&gate, "gate.test")).echoes("hello");
}

#[test]
fn a_renewed_certificate_is_read_again_and_keeps_the_sockets() {
    let (authority, upstream) = (Authority::new(), Upstream::start());
    let directory = TempDir::new().expect("a directory");
    authority.write(directory.path(), "gate.test");
    let gate = Gate::start_in(directory, &(members(&upstream.ws()) + TLS), &[]);
    let request = Request::upgrade("/ws/a").cookie(&token("alice"));
    let mut old = request.open_on(authority.connect(&gate, "gate.test"));
    old.echoes("before");
    let renewed = authority.write(gate.directory(), "gate.test");
    eventually("the new certificate is shown", || {
        let mut stream = authority.connect(&gate, "gate.test");
        let _ = std::io::Write::write_all(&mut stream, &Request::get("/none").bytes());
        let _ = Response::read_head(&mut stream);
        stream.conn.peer_certificates().is_some_and(|shown| shown[0] == renewed)
    });
    old.echoes("after");
    std::fs::write(gate.directory().join("tls.crt"), "nonsense").expect("written");
    gate.signal("HUP");
    gate.metric_becomes("sockgate_config_last_reload_successful", &[], 0.0);
    old.echoes("still here");
    request.open_on(authority.connect(&gate, "gate.test")).echoes("as before");
}

#[test]
fn a_tls_upstream_is_verified_against_its_own_authority() {
    let authority = Authority::new();
    let upstream = Upstream::start_tls(authority.server("localhost"));
    let url = format!("wss://{}", upstream.address());
    let cases = [
        ("ca: ca.crt, server_name: localhost", 101),
        ("ca: ca.crt, server_name: other.test", 502),
        ("server_name: localhost", 502),
    ];
    for (tls, status) in cases {
        let directory = TempDir::new().expect("a directory");
        std::fs::write(directory.path().join("ca.crt"), authority.0.pem()).expect("written");
        let config = members("URL")
            .replace(
                "upstream: \"URL\"",
                &format!("upstream: {{ url: \"{url}\", tls: {{ {tls} }} }}"),
            )
            .replace("origins: same", "reject: http");
        let gate = Gate::start_in(directory, &config, &[]);
        let request = Request::upgrade("/ws/a").cookie(&token("alice"));
        if status == 101 {
            request.open(gate.address()).echoes("hello");
            let plain = Request::get("/ws/report").cookie(&token("alice")).send(gate.address());
            assert_eq!(plain.status, 200);
        } else {
            assert_eq!(request.send(gate.address()).status, status, "{tls}");
        }
    }
}

#[test]
fn unix_sockets_serve_on_either_side() {
    let directory = TempDir::new().expect("a directory");
    let behind = directory.path().join("app.sock");
    let upstream = Upstream::start_unix(&behind);
    let front = directory.path().join("front.sock");
    let config = format!(
        "{}server: {{ listen: [\"unix:{}\", \"127.0.0.1:0\"] }}\n",
        members(&format!("ws+unix:{}", behind.display())),
        front.display()
    );
    let gate = Gate::start_in(directory, &config, &[]);
    let connect = || {
        let stream = UnixStream::connect(&front).expect("the gate listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        stream
    };
    let request = Request::upgrade("/ws/a").cookie(&token("alice"));
    request.open_on(connect()).echoes("through two Unix sockets");
    request.open(gate.address()).echoes("through one");
    let mut stream = connect();
    let plain = Request::get("/ws/report").cookie(&token("alice"));
    std::io::Write::write_all(&mut stream, &plain.bytes()).expect("sent");
    assert_eq!(Response::read(&mut stream).expect("an answer").status, 200);
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("alice"));
}

#[test]
fn a_stale_unix_socket_does_not_keep_the_gate_from_starting() {
    let upstream = Upstream::start();
    let directory = TempDir::new().expect("a directory");
    let front = directory.path().join("front.sock");
    drop(std::os::unix::net::UnixListener::bind(&front).expect("bound"));
    let config =
        members(&upstream.ws()) + &format!("server: {{ listen: \"unix:{}\" }}\n", front.display());
    let _gate = Gate::start_in(directory, &config, &[]);
    let stream = UnixStream::connect(front).expect("the gate listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    Request::upgrade("/ws/a").cookie(&token("alice")).open_on(stream).echoes("hello");
}
