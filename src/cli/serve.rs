//! The default verb: run the gate until a signal or an operator ends it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{UNUSABLE, load};
use crate::app::{App, Options, StartError};
use crate::config::Loaded;

/// Runs until SIGTERM, SIGINT or a drain by the operator.
pub(super) fn run(file: &Path) -> anyhow::Result<ExitCode> {
    let loaded = match load(file) {
        Ok(loaded) => loaded,
        Err(code) => return Ok(code),
    };
    let threads = match loaded.file.server.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        threads => threads,
    };
    let mut runtime = match threads {
        // One needs no queue that others could take from.
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime =
        runtime.worker_threads(threads).enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(serve(loaded))
}

async fn serve(loaded: Loaded) -> anyhow::Result<ExitCode> {
    // Before anything is bound, so that no early signal is lost.
    let mut term = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let app = match App::start(loaded, Options::default()).await {
        Ok(app) => Arc::new(app),
        Err(error @ (StartError::Config(..) | StartError::Bind { .. })) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(UNUSABLE));
        }
        Err(error) => return Err(error.into()),
    };
    let mut signals = tokio::select! {
        () = asked(&mut term, &mut interrupt) => 1,
        () = app.drain_requested() => 0,
    };
    let impatient = async {
        // The first asks for what an operator may have begun already: whoever stops a
        // process whose drain was requested has not lost patience with it.
        while signals < 2 {
            asked(&mut term, &mut interrupt).await;
            signals += 1;
        }
    };
    tokio::select! {
        () = app.drain() => {}
        () = impatient => {}
    }
    if let Some(app) = Arc::into_inner(app) {
        app.shutdown().await;
    }
    Ok(ExitCode::SUCCESS)
}

async fn asked(term: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}
