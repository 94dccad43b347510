//! Tokens in a form that two readers could read differently, most of them
//! correctly signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::sign::b64;
use super::{INVALID, MALFORMED, NOW, admits, claims, hs256, judge, refuses, secret};

#[tokio::test]
async fn only_the_compact_form_in_canonical_base64url_is_read() {
    let good = secret().token("HS256", &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("three parts") };
    let resigned = |header: &str, payload: &str| {
        let signed = format!("{header}.{payload}");
        let signature = secret().signature("HS256", signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    };
    let json = r#"{"alg":"HS256"} "#;
    // 16 bytes: two characters with four spare bits at the end.
    let canonical = b64(json);
    let trailing = format!("{}B", canonical.strip_suffix('A').unwrap());
    admits(&hs256(), "the canonical one", &resigned(&canonical, payload)).await;
    // Bytes that need + and / in the standard alphabet.
    let plus = r#"{"alg":"HS256","x":"~~~???>>>"}"#;
    let standard = STANDARD.encode(plus);
    assert!(standard.contains(['+', '/']));
    let general =
        format!(r#"{{"payload":"{payload}","protected":"{header}","signature":"{signature}"}}"#);
    let flattened = format!(
        r#"{{"payload":"{payload}","signatures":[{{"protected":"{header}","signature":"{signature}"}}]}}"#
    );
    let spare = signature.strip_suffix(|_: char| true).unwrap();
    let variants: Vec<String> = ('A'..='Z')
        .chain('a'..='z')
        .chain('0'..='9')
        .map(|last| format!("{spare}{last}"))
        .filter(|variant| variant != signature)
        .collect();
    let mut table = vec![
        ("empty", String::new(), MALFORMED),
        ("one part", header.to_owned(), MALFORMED),
        ("two parts", format!("{header}.{payload}"), MALFORMED),
        ("four parts", format!("{good}.{signature}"), MALFORMED),
        ("five parts", format!("{good}.{signature}.{signature}"), MALFORMED),
        ("a dot behind", format!("{good}."), MALFORMED),
        ("a dot before", format!(".{good}"), MALFORMED),
        ("dots", "..".to_owned(), MALFORMED),
        ("no header", format!(".{payload}.{signature}"), MALFORMED),
        ("no payload", resigned(header, ""), INVALID),
        ("JSON serialization", general, MALFORMED),
        ("JSON serialization, flattened", flattened, MALFORMED),
        ("a space before", format!(" {good}"), MALFORMED),
        ("a space behind", format!("{good} "), INVALID),
        ("a newline behind", format!("{good}\n"), INVALID),
        ("CRLF behind", format!("{good}\r\n"), INVALID),
        ("NUL behind", format!("{good}\0"), INVALID),
        (
            "a newline within",
            resigned(header, &format!("{}\n{}", &payload[..4], &payload[4..])),
            INVALID,
        ),
        ("padded header", resigned(&format!("{header}="), payload), MALFORMED),
        ("padded payload", resigned(header, &format!("{payload}=")), INVALID),
        ("padded twice", resigned(header, &format!("{payload}==")), INVALID),
        ("padded signature", format!("{good}="), INVALID),
        ("percent-encoded", good.replace('.', "%2E"), MALFORMED),
        ("standard alphabet", resigned(&standard.replace('=', ""), payload), MALFORMED),
        ("trailing bits in the header", resigned(&trailing, payload), MALFORMED),
        ("Bearer", format!("Bearer {good}"), MALFORMED),
        ("non-ASCII", format!("é{good}"), MALFORMED),
        ("1 MB", format!("{header}.{}.{signature}", "A".repeat(1 << 20)), MALFORMED),
        ("1 MB of header", format!("{}.{payload}.{signature}", "A".repeat(1 << 20)), MALFORMED),
        (
            "100 KB of kid",
            secret().raw(
                "HS256",
                &json!({"alg": "HS256", "kid": "k".repeat(100_000)}).to_string(),
                b"{}",
            ),
            MALFORMED,
        ),
    ];
    for variant in variants {
        let what = "another last character";
        table.push((what, format!("{header}.{payload}.{variant}"), INVALID));
    }
    refuses(&hs256(), table).await;
}

#[tokio::test]
async fn trailing_bits_of_a_payload_are_invalid_even_if_signed() {
    let json = format!(r#"{{"sub":"alice","exp":{}}}"#, NOW + 60);
    let padded = json + &" ".repeat(3);
    let padded = &padded[..padded.len() - (padded.len() + 2) % 3];
    assert_eq!(padded.len() % 3, 1);
    let header = b64(r#"{"alg":"HS256"}"#);
    let canonical = b64(padded);
    let trailing = format!("{}B", canonical.strip_suffix('A').unwrap());
    for (payload, expected) in [(canonical, None), (trailing, Some(INVALID))] {
        let signed = format!("{header}.{payload}");
        let token = format!("{signed}.{}", b64(secret().signature("HS256", signed.as_bytes())));
        assert_eq!(judge(&hs256(), token.as_bytes()).await.err(), expected);
    }
}

/// Parts of a header or payload that two readers could read differently.
fn treacherous(good: &str) -> Vec<(&'static str, Vec<u8>)> {
    let inner = &good[1..good.len() - 1];
    let with = |more: &str| format!("{{{inner},{more}}}").into_bytes();
    vec![
        ("BOM", [b"\xef\xbb\xbf", good.as_bytes()].concat()),
        ("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("trailing garbage", format!("{good}x").into_bytes()),
        ("a second object", format!("{good}{good}").into_bytes()),
        ("trailing NUL", format!("{good}\0").into_bytes()),
        ("array", format!("[{good}]").into_bytes()),
        ("string", br#""text""#.to_vec()),
        ("null", b"null".to_vec()),
        ("number", b"1".to_vec()),
        ("nothing", vec![]),
        (
            "bad UTF-8",
            with("\"x\":\"\u{1}\"").iter().map(|b| if *b == 1 { 0xff } else { *b }).collect(),
        ),
        ("control character in a string", with("\"x\":\"\n\"")),
        ("lone surrogate", with(r#""x":"\ud800""#)),
        ("trailing comma", format!("{{{inner},}}").into_bytes()),
        ("comment", format!("{{{inner}/**/}}").into_bytes()),
        ("a name twice", with(r#""x":1,"x":1"#)),
        ("a name twice, escaped", with(r#""x":1,"\u0078":2"#)),
        ("a name twice, deep", with(r#""x":[{"y":{"a":1,"a":2}}]"#)),
        ("33 deep", with(&format!("\"x\":{}{}", "[".repeat(32), "]".repeat(32)))),
        ("6,000 deep", with(&format!("\"x\":{}", "[".repeat(6000)))),
        ("1e400", with(r#""x":1e400"#)),
        ("NaN", with(r#""x":NaN"#)),
        ("leading zero", with(r#""x":01"#)),
    ]
}

#[tokio::test]
async fn headers_and_payloads_are_strict_json_objects() {
    let header = r#"{"alg":"HS256"}"#;
    let payload = claims().to_string();
    let mut table = Vec::new();
    for (what, bytes) in treacherous(header) {
        let signed = format!("{}.{}", b64(bytes), b64(&payload));
        let signature = secret().signature("HS256", signed.as_bytes());
        // An empty header leaves no third part to speak of: also malformed.
        table.push((what, format!("{signed}.{}", b64(signature)), MALFORMED));
    }
    for (what, bytes) in treacherous(&payload) {
        table.push((what, secret().raw("HS256", header, &bytes), INVALID));
    }
    for (what, header) in [
        ("alg twice", r#"{"alg":"none","alg":"HS256"}"#),
        ("alg twice, escaped", r#"{"alg":"HS256","\u0061lg":"none"}"#),
        ("kid twice", r#"{"alg":"HS256","kid":"a","kid":"b"}"#),
    ] {
        table.push((what, secret().raw("HS256", header, payload.as_bytes()), MALFORMED));
    }
    for (what, payload) in [
        ("sub twice", format!(r#"{{"sub":"alice","sub":"root","exp":{}}}"#, NOW + 60)),
        (
            "sub twice, escaped",
            format!(r#"{{"sub":"alice","s\u0075b":"root","exp":{}}}"#, NOW + 60),
        ),
        ("exp twice", format!(r#"{{"sub":"alice","exp":1,"exp":{}}}"#, NOW + 60)),
        ("exp 1e400", r#"{"sub":"alice","exp":1e400}"#.to_owned()),
    ] {
        table.push((what, secret().raw("HS256", header, payload.as_bytes()), INVALID));
    }
    refuses(&hs256(), table).await;
}

#[tokio::test]
async fn a_token_that_nests_100_000_deep_does_no_harm() {
    let deep = format!("{{\"alg\":\"HS256\",\"x\":{}", "[".repeat(100_000));
    let table = vec![
        ("header", secret().raw("HS256", &deep, b"{}"), MALFORMED),
        ("payload", secret().raw("HS256", r#"{"alg":"HS256"}"#, deep.as_bytes()), MALFORMED),
    ];
    refuses(&hs256(), table).await;
}
