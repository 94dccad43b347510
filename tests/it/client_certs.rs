//! Client certificates: who they name is who comes in, as long as they last; who has
//! none, a strange one or a revoked one does not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;

use super::support::{
    Gate, PATIENCE, Request, Response, SECRET, Token, Upstream, eventually, example, run, token,
};

/// An authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "the clients' authority");
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    /// A certificate of a client with this URI.
    fn client(&self, uri: &str, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.subject_alt_names.push(SanType::URI(uri.try_into().expect("a URI")));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        Some((certificate.der().clone(), key))
    }

    /// The list on which these serial numbers stand.
    fn revoking(&self, serials: &[u64]) -> String {
        self.revoking_until(2040, serials)
    }

    /// The same, due to be replaced when that year begins.
    fn revoking_until(&self, year: i32, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).expect("signed").pem().expect("PEM")
    }
}

type Shown = Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>;
type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// Connects to the gate, whose certificate is in `directory`, and shows `shown`.
fn connect(gate: &Gate, shown: &Shown) -> Tls {
    let path = gate.directory().join("tls.crt");
    let pem = std::fs::read_to_string(path).expect("a certificate");
    let own =
        <CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(pem.as_bytes());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.expect("a certificate")).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(vec![certificate.clone()], key.clone_key())
            .expect("a pair"),
    };
    let name = ServerName::try_from("gate.test").expect("a name");
    let connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect(gate.address()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    rustls::StreamOwned::new(connection, stream)
}

fn write_own(directory: &Path) {
    let own = rcgen::generate_simple_self_signed(["gate.test".to_owned()]).expect("a pair");
    std::fs::write(directory.join("tls.crt"), own.cert.pem()).expect("written");
    std::fs::write(directory.join("tls.key"), own.signing_key.serialize_pem()).expect("written");
}

fn start(directory: TempDir, upstream: &Upstream) -> Gate {
    write_own(directory.path());
    let config = format!(
        r#"
server: {{ listen: "127.0.0.1:0", tls: {{ cert: tls.crt, key: tls.key, client_ca: clients.crt }} }}
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  members: {{ credentials: [{{ client_cert: san_uri }}, {{ cookie: session, verifier: app }}] }}
identity:
  headers: {{ X-Forwarded-User: identity.subject, X-Method: identity.method, X-By: identity.verifier }}
routes:
  - {{ path: "/ws/*", policy: members, upstream: "{}" }}
"#,
        upstream.ws()
    );
    Gate::start_in(directory, &config, &[])
}

fn upgrade(path: &str) -> Request {
    Request::upgrade(path).replace("Host", "gate.test")
}

/// Whether the gate takes the TLS handshake.
fn takes(mut tls: Tls) -> bool {
    let written = tls.write_all(b"GET /none HTTP/1.1\r\nHost: gate.test\r\n\r\n");
    written.is_ok() && matches!(tls.read(&mut [0; 12]), Ok(1..))
}

#[test]
fn a_certificate_is_a_login_as_long_as_it_lasts() {
    let authority = Authority::new();
    let directory = TempDir::new().expect("a directory");
    std::fs::write(directory.path().join("clients.crt"), authority.0.pem()).expect("written");
    let upstream = Upstream::start();
    let gate = start(directory, &upstream);

    let ada = authority.client("spiffe://x/ada", |_| {});
    upgrade("/ws/ada").open_on(connect(&gate, &ada)).echoes("hello");
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("spiffe://x/ada"));
    assert_eq!(
        (seen.header("x-method"), seen.header("x-by")),
        (Some("client_cert"), Some("client_cert"))
    );
    let record = gate.record("/ws/ada");
    assert_eq!(
        (&record["credential"], &record["verifier"]),
        (&"client_cert".into(), &"client_cert".into())
    );
    // Browsers show a certificate to any page's socket: the origin is checked.
    let foreign = upgrade("/ws/x").origin("https://evil.example");
    let mut stream = connect(&gate, &ada);
    stream.write_all(&foreign.bytes()).expect("written");
    assert_eq!(Response::read_head(&mut stream).expect("an answer").status, 403);

    // Without one, the next credential decides; with one, it alone.
    upgrade("/ws/none").cookie(&token("bob")).open_on(connect(&gate, &None)).echoes("hello");
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("bob"));
    let nobody = authority.client("spiffe://x/eve", |params| params.subject_alt_names.clear());
    let two = authority.client("spiffe://x/eve", |params| {
        params.subject_alt_names.push(SanType::URI("spiffe://x/ada".try_into().expect("a URI")));
    });
    let any = authority.client("spiffe://x/eve", |params| params.extended_key_usages.clear());
    for (index, shown) in [nobody, two, any].iter().enumerate() {
        let path = format!("/ws/bad-{index}");
        let request = upgrade(&path).cookie(&token("bob"));
        assert_eq!(request.open_on(connect(&gate, shown)).closed().code, 4001, "{path}");
        assert_eq!(gate.reason(&path), "invalid_credential");
    }
    // Of another authority, for servers, or over: the handshake itself fails.
    let strange = Authority::new().client("spiffe://x/ada", |_| {});
    let server = authority.client("spiffe://x/ada", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let over = authority.client("spiffe://x/ada", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    for shown in [strange, server, over] {
        assert!(!takes(connect(&gate, &shown)));
    }
    // It ends while the socket is open.
    let soon = authority.client("spiffe://x/ada", |params| {
        params.not_after = (SystemTime::now() + Duration::from_secs(3)).into();
    });
    let mut live = upgrade("/ws/live").open_on(connect(&gate, &soon));
    live.echoes("hello");
    assert_eq!(live.closed().says(), (4002, "Session expired"));
}

/// RFC 8705 §3.1: a stolen token is of no use to whoever has not the key as well.
#[test]
fn a_token_bound_to_a_certificate_is_good_beside_that_one_alone() {
    let authority = Authority::new();
    let directory = TempDir::new().expect("a directory");
    std::fs::write(directory.path().join("clients.crt"), authority.0.pem()).expect("written");
    write_own(directory.path());
    let upstream = Upstream::start();
    let config = format!(
        r#"
server: {{ listen: "127.0.0.1:0", tls: {{ cert: tls.crt, key: tls.key, client_ca: clients.crt }} }}
verifiers:
  app: {{ jwt: {{ secret: {SECRET}, algorithms: [HS256] }} }}
policies:
  members:
    credentials:
      - {{ query: token, verifier: app }}
      - {{ message: {{ where: {{ /type: auth }}, token: /token }}, verifier: app }}
    reject_message: 'reason.text'
    lifetime: {{ refresh: {{ where: {{ /type: again }}, token: /token, verifier: app }} }}
routes:
  - {{ path: "/ws/*", policy: members, upstream: "{}" }}
"#,
        upstream.ws()
    );
    let gate = Gate::start_in(directory, &config, &[]);
    let (ada, eve) =
        (authority.client("spiffe://x/ada", |_| {}), authority.client("spiffe://x/eve", |_| {}));
    let bound = |shown: &Shown| {
        let (certificate, _) = shown.as_ref().expect("a certificate");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
        let thumbprint = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest);
        Token::of("ada").claim("cnf", serde_json::json!({ "x5t#S256": thumbprint })).sign()
    };
    let (hers, another) = (bound(&ada), bound(&eve));
    let open = |path: &str, shown: &Shown| upgrade(path).open_on(connect(&gate, shown));
    let login = |kind: &str, token: &str| format!(r#"{{"type":"{kind}","token":"{token}"}}"#);
    // Twice: a verified token is remembered, and its certificate with it.
    for _ in 0..2 {
        open(&format!("/ws/hers?token={hers}"), &ada).echoes("hello");
        for (name, shown) in [("eve", &eve), ("none", &None)] {
            let mut socket = open(&format!("/ws/{name}?token={hers}"), shown);
            assert_eq!(socket.text(), "Unauthorized", "{name}");
            assert_eq!(socket.closed().code, 4001, "{name}");
            assert_eq!(gate.reason(&format!("/ws/{name}")), "invalid_credential");
        }
    }
    let mut by_message = open("/ws/message", &ada);
    by_message.send(&login("auth", &hers));
    by_message.echoes("hello");
    // A login is renewed by a token of the same kind, beside the same certificate.
    by_message.send(&login("again", &another));
    assert_eq!(by_message.text(), "Unauthorized");
    std::thread::sleep(Duration::from_millis(1_100));
    by_message.send(&login("again", &hers));
    by_message.echoes("still here");
    let mut refused = open("/ws/message", &eve);
    refused.send(&login("auth", &hers));
    assert_eq!(refused.text(), "Unauthorized");
    assert_eq!(refused.closed().code, 4001);
}

#[test]
fn revoked_certificates_and_missing_ones_are_turned_away_in_the_handshake() {
    let authority = Authority::new();
    let directory = TempDir::new().expect("a directory");
    let inside = |name: &str| directory.path().join(name);
    std::fs::write(inside("clients.crt"), authority.0.pem()).expect("written");
    std::fs::write(inside("clients.crl"), authority.revoking(&[7])).expect("written");
    let upstream = Upstream::start();
    write_own(directory.path());
    let config = example("client-certificates.yaml", &[("ws://127.0.0.1:3000", &upstream.ws())]);
    let gate = Gate::start_in(directory, &config, &[]);
    let numbered = |serial: u64| {
        authority.client("spiffe://x/ada", |params| {
            params.serial_number = Some(SerialNumber::from(serial));
        })
    };
    let (good, revoked) = (numbered(8), numbered(7));
    upgrade("/ws/a").open_on(connect(&gate, &good)).echoes("hello");
    assert!(!takes(connect(&gate, &revoked)));
    assert!(!takes(connect(&gate, &None)));
    // The list is read again when it changes.
    let list = gate.directory().join("clients.crl");
    std::fs::write(list, authority.revoking(&[8])).expect("written");
    eventually("the list is read again", || !takes(connect(&gate, &good)));
    assert!(takes(connect(&gate, &revoked)));
    // One that is out of date says nothing about today, and the operator hears of it.
    let list = gate.directory().join("clients.crl");
    std::fs::write(list, authority.revoking_until(2021, &[])).expect("written");
    eventually("the list is out of date", || !takes(connect(&gate, &revoked)));
    eventually("that is logged", || gate.output().contains("client_crl has expired"));
}

#[test]
fn check_wants_an_authority_and_one_field() {
    let check = |tls: &str, credential: &str| {
        let directory = TempDir::new().expect("a directory");
        write_own(directory.path());
        let authority = Authority::new();
        std::fs::write(directory.path().join("clients.crt"), authority.0.pem()).expect("written");
        let path = directory.path().join("sockgate.yaml");
        let text = format!(
            "server: {{ listen: \"127.0.0.1:0\", tls: {{ cert: tls.crt, key: tls.key{tls} }} }}\n\
             policies: {{ m: {{ credentials: [{credential}] }} }}\n\
             routes: [{{ path: /ws, policy: m, upstream: \"ws://127.0.0.1:1\" }}]\n"
        );
        std::fs::write(&path, text).expect("written");
        run(&["check", "--config", path.to_str().expect("UTF-8")], &[])
    };
    let ca = ", client_ca: clients.crt";
    for field in ["san_uri", "san_dns", "san_email", "cn", "sha256"] {
        let outcome = check(ca, &format!("{{ client_cert: {field} }}"));
        assert_eq!(outcome.code, 0, "{field}: {}", outcome.stderr);
    }
    for (tls, credential, expected) in [
        ("", "{ client_cert: cn }", "client_cert: needs server.tls.client_ca"),
        (ca, "{ client_cert: dn }", "client_cert"),
        (ca, "{ client_cert: cn, verifier: app }", "verifier"),
        (ca, "{ client_cert: cn, cookie: a }", "exactly one of"),
        (", client_ca: tls.key", "{ client_cert: cn }", "server.tls"),
        (", client_ca: clients.crt, client_crl: tls.crt", "{ client_cert: cn }", "server.tls"),
        (", client_cert_required: true", "{ client_cert: cn }", "client_cert_required"),
    ] {
        let outcome = check(tls, credential);
        assert_eq!(outcome.code, 2, "{tls} {credential}");
        assert!(outcome.stderr.contains(expected), "{credential}: {}", outcome.stderr);
    }
}
