//! The demo: a task board that knows nothing about auth, a login service, and
//! sockgate in front of both, in one process.
//!
//! ```text
//! browser ── sockgate ─┬─ /ws → board.rs   believes X-User-Id, does no auth
//!    8080              └─ /*  → login.rs   users.rs, token.rs: cookies, the page
//! ```
//!
//! `cargo run --example demo` and open the URL that it prints.
//! `config/demo.yaml` says everything else; `--config` names another file.

mod board;
mod gate_log;
mod login;
mod token;
mod users;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use sockgate::app::{App, Options};
use sockgate::config::{FileConfig, Loaded};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use gate_log::{GateLog, Tee};
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
    let loaded = sockgate::config::load(&config)?;

    let tokens = Tokens::of(&loaded.file, &loaded.base)?;
    let (board, board_address) = bind(&loaded.file, "board").await?;
    let (login, login_address) = bind(&loaded.file, "login").await?;
    let log = Arc::new(GateLog::new());
    let gate = start_gate(loaded, Tee::new(Arc::clone(&log))).await?;

    tokio::spawn(board::serve(board));
    tokio::spawn(login::serve(login, Arc::new(Login { tokens, log })));
    println!("{}", banner(&gate.address, board_address, login_address));

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    gate.app.shutdown().await;
    Ok(())
}

/// All that the demo needs of a running sockgate.
struct Gate {
    app: App,
    address: String,
}

/// sockgate, as the file says.
async fn start_gate(loaded: Loaded, log: Tee) -> anyhow::Result<Gate> {
    let options = Options { log: Some(Box::new(log)), ..Options::default() };
    let app = App::start(loaded, options).await?;
    let address = app.addresses().first().context("server.listen is empty")?.to_string();
    Ok(Gate { address, app })
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
