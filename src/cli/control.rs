//! `sockgate health` and `sockgate drain`: talk to the running process on its
//! admin listener. For exec probes and `preStop`: the image has no curl.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::load;
use super::signal::terminate;
use crate::config::Loaded;

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks `/readyz`; 0 if ready, 1 if not.
pub(super) fn health(file: &Path) -> anyhow::Result<ExitCode> {
    let loaded = match load(file) {
        Ok(loaded) => loaded,
        Err(code) => return Ok(code),
    };
    let (status, body) = block_on(ask(&loaded, "GET", "/readyz", None))??;
    println!("{body}");
    Ok(if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts a drain and waits until the process is gone.
pub(super) fn drain(file: &Path) -> anyhow::Result<ExitCode> {
    let loaded = match load(file) {
        Ok(loaded) => loaded,
        Err(code) => return Ok(code),
    };
    block_on(async {
        let token = match &loaded.file.admin.token {
            None => None,
            Some(token) => Some(token.resolve(&loaded.base).context("admin.token")?),
        };
        let (_, body) = ask(&loaded, "GET", "/healthz", None).await?;
        let pid = serde_json::from_str::<Value>(&body).ok().and_then(|body| body["pid"].as_u64());
        match &token {
            Some(token) => {
                let token =
                    std::str::from_utf8(token.expose()).context("admin.token is not text")?;
                let (status, _) = ask(&loaded, "POST", "/drain", Some(token)).await?;
                if status != StatusCode::ACCEPTED {
                    bail!("the running process answered {status}; is its admin.token this file's?");
                }
            }
            // A second signal would cut short the drain that somebody has begun.
            None if is_draining(&loaded).await => {}
            None => terminate(pid.context("/healthz does not tell the pid")?)?,
        }
        wait_until_gone(&loaded).await
    })?
}

async fn is_draining(loaded: &Loaded) -> bool {
    let answer = ask(loaded, "GET", "/readyz", None).await.ok();
    let body = answer.and_then(|(_, body)| serde_json::from_str::<Value>(&body).ok());
    body.is_some_and(|body| body["status"] == "draining")
}

/// The admin listener is the last to go.
async fn wait_until_gone(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let server = &loaded.file.server;
    let most = server.drain_delay.0 + server.drain.0 + Duration::from_secs(10);
    let deadline = Instant::now() + most;
    while Instant::now() < deadline {
        if TcpStream::connect(address(loaded)).await.is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the process is still there after {} s", most.as_secs())
}

/// The admin listener as a client reaches it: a wildcard is the loopback.
fn address(loaded: &Loaded) -> String {
    let listen = &loaded.file.admin.listen;
    match listen.rsplit_once(':') {
        Some(("" | "0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        Some(_) | None => listen.clone(),
    }
}

async fn ask(
    loaded: &Loaded,
    method: &str,
    path: &str,
    token: Option<&str>,
) -> anyhow::Result<(StatusCode, String)> {
    let address = address(loaded);
    let asking = async {
        let stream = TcpStream::connect(&address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", &address);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), 64 * 1024).collect().await;
        let body = body.map_err(|_| anyhow::anyhow!("the answer is too long"))?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let timely = tokio::time::timeout(TIMEOUT, asking).await;
    timely
        .context("no answer in time")
        .flatten()
        .with_context(|| format!("asking {address} (admin.listen)"))
}

fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(future))
}
