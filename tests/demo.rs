//! The demo of the README as a person uses it: the real program on free ports,
//! driven by `tests/e2e/demo.mjs` in headless Chromium.

#![expect(clippy::expect_used, reason = "a test that cannot go on says why")]

mod process;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use process::Process;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The story takes half a minute on two cores.
const STORY: Duration = Duration::from_secs(240);
/// `config/demo.yaml` drains for a second.
const FAREWELL: Duration = Duration::from_secs(10);

#[test]
fn the_demo_tells_its_story_in_a_browser() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("demo.yaml");
    std::fs::write(&config, on_free_ports()).expect("the file is written");
    let mut demo = Process::start(Command::new(program()).arg("--config").arg(&config));
    let url = format!("http://{}/", demo.gate_address());
    demo.wait_for("the URL, printed", |output| output.contains(&url).then_some(()));

    let mut story = Command::new("node");
    story.arg(Path::new(ROOT).join("tests/e2e/demo.mjs")).arg(&url);
    // Screenshots, for who wants to look at them.
    story.args(std::env::var_os("SHOTS"));
    let (status, told) = Process::start(&mut story).finish(STORY);
    assert!(status.success(), "{told}\nthe demo printed:\n{}", demo.output());

    demo.interrupt();
    let (status, printed) = demo.finish(FAREWELL);
    assert!(status.success(), "Ctrl-C ended it with {status}:\n{printed}");
    assert!(printed.contains("token=REDACTED"), "no URL token was logged:\n{printed}");
    assert!(!printed.contains("eyJ"), "a token was logged:\n{printed}");
}

/// The demo's own file; only the ports are others.
fn on_free_ports() -> String {
    let path = Path::new(ROOT).join("config/demo.yaml");
    let mut text = std::fs::read_to_string(path).expect("config/demo.yaml");
    // Held together until all are known: no port is given twice.
    let held = [0; 2].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a free port"));
    let [board, login] = held.each_ref().map(|free| free.local_addr().expect("bound").port());
    for (written, free) in [(8080, 0), (9090, 0), (3001, board), (3002, login)] {
        let written = format!("127.0.0.1:{written}");
        assert!(text.contains(&written), "config/demo.yaml has no {written}");
        text = text.replace(&written, &format!("127.0.0.1:{free}"));
    }
    text
}

/// `cargo test` puts examples beside the directory of the test programs.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/demo-…");
    let demo = profile.join("examples/demo");
    assert!(demo.exists(), "{} is missing: cargo build --example demo", demo.display());
    demo
}
