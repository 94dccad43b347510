//! The pure steps on a connection's way, each on its own:
//! `cargo bench --bench micro`.

#![expect(clippy::expect_used, reason = "a bench that cannot go on says why")]

use std::path::Path;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method};
use jsonwebtoken::{Algorithm, EncodingKey, Header as JwtHeader};
use serde_json::json;
use sockgate::clock::unix_now;
use sockgate::credential::{CredentialConfig, Offered, Place, Sources};
use sockgate::handshake::Host;
use sockgate::relay::frame::{FrameScanner, Opcode, Step, encode_frame};
use sockgate::telemetry::Redactor;
use sockgate::verifier::{Credential, Occasion, VerifierConfig, build};

const SECRET: &str = "the-secret-of-the-bench-which-is-long-enough-..";
const TARGET: &str =
    "/ws/room%20one?room=42&token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl&lang=en";

fn main() {
    divan::main();
}

// ---- frame headers --------------------------------------------------------

/// Following the headers of one read's worth of frames.
#[divan::bench(args = [16, 64, 1024, 16 * 1024])]
fn frame_headers(bencher: Bencher<'_, '_>, payload: usize) {
    let frame = encode_frame(Opcode::BINARY, &vec![b'x'; payload], Some([1, 2, 3, 4]));
    let count = (64 * 1024 / frame.len()).max(1);
    let bytes = frame.repeat(count);
    bencher
        .counter(ItemsCount::new(count))
        .counter(BytesCount::new(bytes.len()))
        .bench_local(|| follow(black_box(&bytes)));
}

fn follow(mut bytes: &[u8]) -> usize {
    let (mut scanner, mut headers) = (FrameScanner::default(), 0);
    while !bytes.is_empty() {
        match scanner.step(bytes).expect("well-formed") {
            Step::Payload(length) => bytes = &bytes[length..],
            Step::Header(header) => {
                headers += 1;
                bytes = &bytes[header.len..];
            }
            Step::More => break,
        }
    }
    headers
}

// ---- credentials ----------------------------------------------------------

/// Finding the credential in a browser's handshake, and cutting it out.
#[divan::bench(args = ["cookie", "query", "header", "subprotocol"])]
fn credential(bencher: Bencher<'_, '_>, kind: &str) {
    let (config, field, value) = match kind {
        "cookie" => {
            (json!({"cookie": "session"}), "cookie", "theme=dark; session=abc.def.ghi; lang=en")
        }
        "query" => (json!({"query": "token"}), "x-nothing", "-"),
        "header" => (json!({"header": "authorization"}), "authorization", "Bearer abc.def.ghi"),
        _ => (json!({"subprotocol_pair": "bearer"}), "x-nothing", "-"),
    };
    let mut config = config;
    config["verifier"] = json!("app");
    let config: CredentialConfig = serde_json::from_value(config).expect("a credential");
    let sources = Sources::compile(&[config]).unwrap_or_else(|_| panic!("sources"));
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "chat.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0.0.0"),
        ("origin", "https://chat.example.com"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("accept-language", "en-GB,en;q=0.9"),
        ("cache-control", "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(field, HeaderValue::from_static(value));
    let query = Some("room=42&token=abc.def.ghi&lang=en");
    let subprotocols = ["chat.v2", "bearer", "abc.def.ghi"];
    bencher.with_inputs(|| headers.clone()).bench_local_values(|mut headers| {
        let offered =
            Offered { headers: &headers, query, subprotocols: &subprotocols, certificate: None };
        let finding = sources.find(black_box(&offered), 8192);
        let query = sources.cut(&mut headers, query).map(std::borrow::Cow::into_owned);
        (finding, query, sources.cut_subprotocols(&subprotocols), headers)
    });
}

// ---- logins among messages -------------------------------------------------

/// Telling that a message is no second login; `escaped` has to be read for it.
#[divan::bench(args = ["64 B", "15 KiB", "15 KiB, escaped"])]
fn other_message(bencher: Bencher<'_, '_>, kind: &str) {
    let config = json!({
        "message": { "where": { "/type": "auth" }, "token": "/token" }, "verifier": "app",
    });
    let config: CredentialConfig = serde_json::from_value(config).expect("a credential");
    let sources = Sources::compile(&[config]).unwrap_or_else(|_| panic!("sources"));
    let source = sources.message().expect("a message");
    let (length, line) = match kind {
        "64 B" => (1, "a line"),
        "15 KiB" => (600, "a line of the text"),
        _ => (600, "a line of the t\u{0}xt"),
    };
    let message = json!({ "type": "say", "room": "lobby", "lines": vec![line; length] });
    let (message, mut follower) = (message.to_string(), source.follower());
    bencher
        .counter(BytesCount::new(message.len()))
        .bench_local(|| follower.see(source, black_box(message.as_bytes()), true));
}

// ---- JWT ------------------------------------------------------------------

/// One token's verification, claims and subject included; nothing is cached.
#[divan::bench(args = ["HS256", "RS256", "ES256"])]
fn jwt(bencher: Bencher<'_, '_>, algorithm: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let (algorithm, key, config) = keys(algorithm, directory.path());
    let config: VerifierConfig = serde_json::from_value(config).expect("a verifier");
    let built = build("app", &config, directory.path()).unwrap_or_else(|_| panic!("a verifier"));
    let now = unix_now();
    let claims = json!({
        "iss": "bench", "sub": "user-1", "jti": "1", "exp": now + 3600,
        "name": "A. User", "roles": ["member"],
    });
    let token = jsonwebtoken::encode(&JwtHeader::new(algorithm), &claims, &key).expect("a token");
    let credential = Credential { value: token.as_bytes(), basic: false };
    let host = Host { name: "app.example".into(), port: None };
    let headers = HeaderMap::new();
    let occasion = Occasion {
        place: Place::Query("token"),
        method: &Method::GET,
        https: false,
        host: &host,
        path: "/ws",
        query: None,
        ip: [127, 0, 0, 1].into(),
        headers: &headers,
        certificate: None,
        again: false,
    };
    let verify = || built.verifier.verify(black_box(&credential), &occasion, now).now_or_never();
    assert!(verify().is_some_and(|verified| verified.is_ok()), "the token is good");
    bencher.bench_local(verify);
}

/// A key to sign with, and the verifier that knows it.
fn keys(algorithm: &str, directory: &Path) -> (Algorithm, EncodingKey, serde_json::Value) {
    let generate = |kind: &'static rcgen::SignatureAlgorithm| {
        let pair = rcgen::KeyPair::generate_for(kind).expect("a key");
        std::fs::write(directory.join("key.pem"), pair.public_key_pem()).expect("written");
        pair.serialize_pem()
    };
    let config = |name: &str| json!({"jwt": {"public_key": "key.pem", "algorithms": [name]}});
    match algorithm {
        "RS256" => {
            let pem = generate(&rcgen::PKCS_RSA_SHA256);
            let key = EncodingKey::from_rsa_pem(pem.as_bytes()).expect("an RSA key");
            (Algorithm::RS256, key, config("RS256"))
        }
        "ES256" => {
            let pem = generate(&rcgen::PKCS_ECDSA_P256_SHA256);
            let key = EncodingKey::from_ec_pem(pem.as_bytes()).expect("an EC key");
            (Algorithm::ES256, key, config("ES256"))
        }
        _ => {
            let config = json!({"jwt": {"secret": SECRET, "algorithms": ["HS256"]}});
            (Algorithm::HS256, EncodingKey::from_secret(SECRET.as_bytes()), config)
        }
    }
}

// ---- redaction ------------------------------------------------------------

/// A request target, as every log line has one.
#[divan::bench]
fn redact_url(bencher: Bencher<'_, '_>) {
    let redactor = Redactor::new(["session".to_owned()]);
    bencher.bench_local(|| redactor.url(black_box(TARGET)));
}

/// A line of free text.
#[divan::bench]
fn redact_text(bencher: Bencher<'_, '_>) {
    let redactor = Redactor::new(["session".to_owned()]);
    let text = "cannot reach https://id.example.com/keys?api_key=abc: connection refused";
    bencher.bench_local(|| redactor.text(black_box(text)));
}
