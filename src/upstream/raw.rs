//! A server that speaks neither WebSocket nor HTTP: dialled, and told first what it
//! needs to know.

use tokio::io::AsyncWriteExt as _;

use super::endpoint::{DialError, Endpoint};
use crate::policy::Permit;
use crate::stream::Stream;

/// Dials, and writes `preface` before anything of the client. The permit is the proof
/// that this client may have it. The caller bounds the time.
///
/// # Errors
/// [`DialError`], by step.
pub async fn connect_raw(
    _permit: &Permit,
    endpoint: &Endpoint,
    preface: &[u8],
) -> Result<Stream, DialError> {
    let mut stream = endpoint.dial().await?;
    if !preface.is_empty() {
        stream.write_all(preface).await.map_err(DialError::Connect)?;
        stream.flush().await.map_err(DialError::Connect)?;
    }
    Ok(stream)
}
