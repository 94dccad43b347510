//! CONNECT packets, sound and unsound.

use proptest::prelude::*;

use super::*;

fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_text(&mut bytes, text).unwrap();
    bytes
}

/// A CONNECT of `level` with `flags` and what follows the keep-alive.
fn packet(level: u8, flags: u8, payload: &[Vec<u8>]) -> Vec<u8> {
    let body = [text("MQTT"), vec![level, flags, 0, 60], payload.concat()].concat();
    let mut packet = vec![0x10];
    push_length(&mut packet, body.len());
    [packet, body].concat()
}

fn v3() -> Vec<u8> {
    packet(4, 0xc2, &[text("me"), text("ann"), text("t")])
}

fn v5() -> Vec<u8> {
    let properties = vec![5, 0x11, 0, 0, 0, 9];
    packet(5, 0xc2, &[properties, text("me"), text("ann"), text("t")])
}

fn whole(bytes: &[u8]) -> Result<LoginMessage, Reason> {
    read(bytes, 1000).map(|login| login.expect("a whole packet"))
}

fn content(login: &LoginMessage) -> &Connect {
    match &login.content {
        Content::Mqtt(connect) => connect,
        _ => panic!("another dialect"),
    }
}

#[test]
fn connect_gives_token_and_user_name() {
    for bytes in [v3(), v5(), packet(5, 0x42, &[vec![0], text("me"), text("t")])] {
        let login = whole(&bytes).unwrap();
        assert_eq!(login.token.unwrap().expose(), b"t");
        assert_eq!(login.parsed["client_id"], "me");
        assert_eq!(login.parsed["password"], "t");
    }
    assert_eq!(whole(&v3()).unwrap().name.as_deref(), Some("ann"));
    let login = whole(&packet(4, 2, &[text("me")])).unwrap();
    assert!(login.token.is_none() && login.name.is_none());
}

#[test]
fn a_packet_may_be_split_anywhere_and_others_may_follow() {
    for bytes in [v3(), v5()] {
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut], 1000).unwrap().is_none(), "cut at {cut}");
        }
        let ping = [0xc0, 0];
        let login = whole(&[&bytes[..], &ping].concat()).unwrap();
        assert!(login.behind.ends_with(&ping));
    }
}

#[test]
fn the_version_is_known_early() {
    let bytes = v5();
    assert_eq!(version(&bytes[..9]), Some(Version::V5));
    assert_eq!(version(&v3()), Some(Version::V3));
    assert_eq!(version(&bytes[..8]), None);
    assert_eq!(version(b""), None);
    assert_eq!(version(&packet(3, 2, &[])), None);
}

#[test]
fn what_is_no_connect_is_refused() {
    let with = |level, flags, payload: &[Vec<u8>]| packet(level, flags, payload);
    for (bytes, reason) in [
        (vec![0xc0, 0], Reason::MissingCredential),
        (vec![0x82, 1, 1], Reason::MissingCredential),
        (vec![0x11, 0], Reason::MalformedCredential),
        (vec![0x10, 0xff, 0xff, 0xff, 0xff, 1], Reason::MalformedCredential),
        (vec![0x10, 0xff, 0xff, 0x7f], Reason::AuthMessageTooLarge),
        (with(3, 2, &[text("me")]), Reason::MalformedCredential),
        (with(4, 3, &[text("me")]), Reason::MalformedCredential),
        (with(4, 0x42, &[text("me"), text("t")]), Reason::MalformedCredential),
        (with(4, 0x0a, &[text("me")]), Reason::MalformedCredential),
        (with(4, 0x1e, &[text("me"), text("w"), text("w")]), Reason::MalformedCredential),
        (with(4, 2, &[text("me"), text("more")]), Reason::MalformedCredential),
        (with(4, 2, &[text("m\0e")]), Reason::MalformedCredential),
        (with(4, 0xc2, &[text("me"), text("ann"), text("")]), Reason::MalformedCredential),
        (with(4, 0xc2, &[text("me"), text("ann"), vec![0, 1, 0xff]]), Reason::MalformedCredential),
        (with(4, 0xc2, &[text("me"), text("ann"), vec![0, 9, 1]]), Reason::MalformedCredential),
        // Another way to log in.
        (with(5, 2, &[vec![4, 0x15, 0, 1, b'x'], text("me")]), Reason::MalformedCredential),
        (with(5, 2, &[vec![4, 0x21, 0, 1, 0x21], text("me")]), Reason::MalformedCredential),
        (with(5, 2, &[vec![1, 0x7f], text("me")]), Reason::MalformedCredential),
        (with(5, 2, &[vec![6, 0x21, 0, 1, 0x21, 0, 1], text("me")]), Reason::MalformedCredential),
    ] {
        assert_eq!(read(&bytes, 1000).err(), Some(reason), "{bytes:?}");
    }
}

#[test]
fn strip_names_the_subject_and_keeps_the_rest() {
    let will = [text("topic"), text("gone")].concat();
    let bytes = packet(4, 0xe6, &[text("me"), will.clone(), text("x"), text("t")]);
    let login = whole(&bytes).unwrap();
    let expected = packet(4, 0xa6, &[text("me"), will, text("ann")]);
    assert_eq!(content(&login).stripped("ann"), Ok(expected));

    let properties = vec![5, 0x11, 0, 0, 0, 9];
    let will = [vec![2, 0x01, 1], text("topic"), text("gone")].concat();
    let bytes =
        packet(5, 0xc6, &[properties.clone(), text("me"), will.clone(), text("x"), text("t")]);
    let login = whole(&bytes).unwrap();
    let expected = packet(5, 0x86, &[properties, text("me"), will, text("ann")]);
    assert_eq!(content(&login).stripped("ann"), Ok(expected));
}

#[test]
fn a_rewrite_sets_the_three_fields() {
    let bytes = v3();
    let login = whole(&bytes).unwrap();
    let rewritten = |fields: Value| content(&login).rewritten(fields.as_object().unwrap());
    assert_eq!(
        rewritten(json!({ "client_id": "c", "username": "u", "password": "p" })),
        Ok(packet(4, 0xc2, &[text("c"), text("u"), text("p")]))
    );
    assert_eq!(rewritten(json!({})), Ok(packet(4, 2, &[text("me")])));
    assert_eq!(
        rewritten(json!({ "password": "p" })),
        Ok(packet(4, 0xc2, &[text("me"), text(""), text("p")]))
    );
    for bad in [json!({ "user": "u" }), json!({ "username": 1 }), json!({ "username": "a\0" })] {
        assert_eq!(rewritten(bad), Err(Reason::Forbidden));
    }
    let long = "x".repeat(70_000);
    assert_eq!(rewritten(json!({ "username": long })), Err(Reason::Forbidden));
}

#[test]
fn refusals_are_connacks_of_the_clients_version() {
    let packet = |reason, version| refusal(reason, version).message.map(|(_, packet)| packet);
    assert_eq!(packet(Reason::Expired, Some(Version::V3)), Some(vec![0x20, 2, 0, 5]));
    assert_eq!(packet(Reason::Expired, Some(Version::V5)), Some(vec![0x20, 3, 0, 0x87, 0]));
    let unavailable = Reason::VerifierUnavailable;
    assert_eq!(packet(unavailable, Some(Version::V5)), Some(vec![0x20, 3, 0, 0x88, 0]));
    assert_eq!(packet(Reason::AuthTimeout, None), None);
}

proptest! {
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = (read(&bytes, 64), version(&bytes));
        let mut begun = packet(5, bytes.first().copied().unwrap_or(0), &[bytes]);
        let _ = (read(&begun, 1000), version(&begun));
        begun.truncate(12);
        let _ = read(&begun, 1000);
    }
}
