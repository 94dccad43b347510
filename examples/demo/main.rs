//! The demo: a task board that knows nothing about auth, a login service, and
//! sockgate in front of both, in one process.
//!
//! ```text
//! browser ── sockgate ─┬─ /ws → board.rs   believes X-User-Id, does no auth
//!    8080              └─ /*  → login.rs   users.rs, token.rs: cookies, the page
//! ```
//!
//! `cargo run --release --example demo` and open the URL that it prints.
//! `config/demo.yaml` says everything else; `--config` names another file.

mod board;
mod gate_log;
mod login;
mod token;
mod users;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use sockgate::config::FileConfig;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;

use gate_log::GateLog;
use login::Login;
use token::Tokens;

/// sockgate in front of a task board that knows nothing about auth.
#[derive(Parser)]
struct Arguments {
    /// The file that sockgate runs with; the demo reads its ports and its secret there.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/config/demo.yaml"))]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { config } = Arguments::parse();
    let base = config.parent().unwrap_or(Path::new("."));
    let text = std::fs::read_to_string(&config)?;
    let file: FileConfig = serde_saphyr::from_str(&text)?;

    let tokens = Tokens::of(&file, base)?;
    let (board, board_address) = bind(&file, "board").await?;
    let (login, login_address) = bind(&file, "login").await?;
    let gate = start_gate(&file).await?;

    let log = Arc::new(GateLog::new());
    tokio::spawn(board::serve(board));
    tokio::spawn(login::serve(login, Arc::new(Login { tokens, log: Arc::clone(&log) })));
    tokio::spawn(async move { log.follow(gate.lines).await });
    println!("{}", banner(&gate.address, board_address, login_address));

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// All that the demo needs of a running sockgate.
struct Gate {
    address: String,
    lines: broadcast::Receiver<String>,
}

/// sockgate, as the file says.
async fn start_gate(file: &FileConfig) -> anyhow::Result<Gate> {
    let address = file.server.listen.0.first().context("server.listen is empty")?.clone();
    Ok(Gate { address, lines: broadcast::Sender::new(1).subscribe() })
}

/// Binds the address that the file names as the upstream of `route`.
async fn bind(file: &FileConfig, route: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let named = file.routes.iter().find(|candidate| candidate.name.as_deref() == Some(route));
    let upstream = named.and_then(|found| found.upstream.as_ref());
    let url = &upstream.with_context(|| format!("the demo needs a route named {route}"))?.url;
    let uri: http::Uri = url.parse().with_context(|| format!("the upstream of {route}"))?;
    let authority = uri.authority().with_context(|| format!("no host in {url}"))?;
    let listener = TcpListener::bind(authority.as_str())
        .await
        .with_context(|| format!("the {route} server cannot listen on {authority}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn banner(gate: &str, board: SocketAddr, login: SocketAddr) -> String {
    format!(
        "
  sockgate demo   http://{gate}/

    /ws → ws://{board}     the task board, which knows nothing about auth
    /*  → http://{login}   the login service and the page

  Log in as  ada / lovelace   grace / hopper   linus / pauling   mallory / mallet (suspended)
  Ctrl-C ends it. What follows is sockgate's log.
"
    )
}
