//! Every example of `config/examples` as it is written, between the real clients and
//! servers of its protocol: `tests/e2e/protocols`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::support::{Gate, SECRET, run};

fn examples() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples"))
}

/// Plays the script of `protocol`, which has so many cases, around a gate with its
/// example.
#[track_caller]
fn play(protocol: &str, cases: usize) {
    play_by("node", protocol, cases);
}

#[track_caller]
fn play_by(interpreter: &str, protocol: &str, cases: usize) {
    let extension = if interpreter == "node" { "mjs" } else { "py" };
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/protocols");
    let mut child = Command::new(interpreter)
        .arg(format!("{scripts}/{protocol}.{extension}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs (tests/run setup installs it)");
    let mut told = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    told.read_line(&mut line).expect("a line");
    let ports: BTreeMap<String, u16> = serde_json::from_str(&line)
        .unwrap_or_else(|_| panic!("{protocol}: no ports (tests/run setup): {line}"));
    let example = examples().join(format!("{}.yaml", protocol.split('-').next().expect("a name")));
    let mut config = std::fs::read_to_string(example).expect("an example");
    assert!(config.contains("0.0.0.0:8080"), "{protocol}: an example listens on 8080");
    config = config.replace("0.0.0.0:8080", "127.0.0.1:0");
    for (written, here) in &ports {
        let written = format!("//127.0.0.1:{written}");
        assert!(config.contains(&written), "{protocol}: no {written}");
        config = config.replace(&written, &format!("//127.0.0.1:{here}"));
    }
    let directory = TempDir::new().expect("a directory");
    let gate = Gate::start_in(directory, &config, &[("JWT_SECRET", SECRET)]);
    let mut stdin = child.stdin.take().expect("piped");
    let case = json!({ "gate": format!("ws://{}", gate.address()), "secret": SECRET });
    writeln!(stdin, "{case}").expect("it reads");
    let mut results = String::new();
    told.read_to_string(&mut results).expect("results");
    assert!(child.wait().expect("it ends").success(), "{protocol}: {results}");
    assert!(results.contains(&format!("passed {cases} of {cases}\n")), "{protocol}: {results}");
    // No JWT may stand in what the gate prints, whatever the protocol hid it in.
    assert!(!gate.output().contains("eyJ"), "{protocol}: {}", gate.output());
}

#[test]
fn every_example_is_accepted_as_written() {
    let page = std::fs::read_to_string(examples().join("../../docs/protocols.md")).expect("a page");
    let mut count = 0;
    for entry in std::fs::read_dir(examples()).expect("examples") {
        let path = entry.expect("an entry").path();
        let outcome =
            run(&["check", "--config", path.to_str().expect("UTF-8")], &[("JWT_SECRET", SECRET)]);
        assert_eq!(outcome.code, 0, "{}: {}", path.display(), outcome.stderr);
        assert_eq!(outcome.stderr, "", "{}", path.display());
        let name = path.file_name().expect("a name").to_string_lossy();
        assert!(page.contains(&format!("(../config/examples/{name})")), "{name} is not linked");
        count += 1;
    }
    assert!(count >= 10, "only {count} examples");
}

#[test]
fn graphql_ws_and_subscriptions_transport_ws() {
    play("graphql", 7);
}

#[test]
fn stompjs_and_rabbitmq() {
    play("stomp", 3);
}

#[test]
fn mqtt_js_and_mosquitto_in_chromium_too() {
    play("mqtt", 5);
}

#[test]
fn paho_and_mosquitto() {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python3");
    play_by(python, "mqtt-paho", 3);
}

#[test]
fn nats_ws_and_nats_server() {
    play("nats", 4);
}

#[test]
fn socket_io() {
    play("socketio", 4);
}

#[test]
fn centrifuge_js() {
    play("centrifuge", 3);
}

#[test]
fn phoenix() {
    play("phoenix", 6);
}

#[test]
fn signalr_in_chromium_too() {
    play("signalr", 4);
}

#[test]
fn actioncable_and_rails() {
    play("actioncable", 3);
}

#[test]
fn pusher_js_in_chromium() {
    play("pusher", 1);
}

#[test]
fn kubernetes_exec_in_chromium() {
    play("kubernetes", 1);
}
