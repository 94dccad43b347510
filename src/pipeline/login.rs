//! Message authentication: the client is upgraded first, its first message is
//! the credential, and the upstream is dialled only after the permit; one that
//! speaks first is dialled before, and is not spoken to.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::IpSlot;
use super::admission::{self, Admitted, admit};
use super::after::{Stage, refuse};
use super::exchange::Exchange;
use super::gate::Answering;
use super::login_again::LoginTap;
use super::session::Session;
use super::slots::{Open, Unauthenticated};
use super::upgrade::{Failure, dial, dial_first, relay_settings};
use crate::close::Reason;
use crate::connection::Carrier;
use crate::credential::{
    Follower, Forwarded, LoginMessage, MessageSource, Presented, Progress, Refusal,
};
use crate::identity::Identity;
use crate::policy::Preview;
use crate::relay::frame::{Opcode, encode_frame};
use crate::relay::{Endpoint, EndpointError, FirstMessage};
use crate::secret::Secret;
use crate::stream::Stream;
use crate::telemetry::Record;
use crate::upstream::{Previewed, Silence, Upgraded};

/// A client that has been upgraded and has yet to say who it is.
pub(super) struct Login {
    /// The request.
    pub(super) exchange: Box<Exchange>,
    /// What is told of it.
    pub(super) record: Record,
    /// Its part in the count of its address.
    pub(super) ip_slot: Option<IpSlot>,
    /// The subprotocol that the client was answered.
    pub(super) subprotocol: Option<String>,
    /// What it has said so far.
    pub(super) progress: Progress,
    /// Lets it hear what its upstream says first.
    pub(super) preview: Option<Preview>,
}

/// Who the first message proved, and what it said.
struct LoggedIn {
    identity: Arc<Identity>,
    admitted: Admitted,
    message: Value,
    forwarded: Option<Forwarded>,
    follower: Follower,
}

/// Why a client does not get in.
enum Ending {
    /// For a reason of the table.
    Refused(Reason),
    /// A text message that is not UTF-8 (RFC 6455 §8.1).
    NotUtf8,
    /// The upstream, which speaks first, has closed with this.
    Closed { code: u16, text: String },
    /// The client has left.
    Gone,
}

impl From<Reason> for Ending {
    fn from(reason: Reason) -> Ending {
        Ending::Refused(reason)
    }
}

impl From<Silence> for Ending {
    fn from(silence: Silence) -> Ending {
        match silence {
            Silence::Closed { code, text } => Ending::Closed { code, text },
            Silence::Gone => Reason::UpstreamUnavailable.into(),
            Silence::Broken => Reason::ProtocolError.into(),
        }
    }
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Ending {
        match failure {
            Failure::Reason(reason) => reason.into(),
            Failure::Answered(_) => Reason::UpstreamRefused.into(),
        }
    }
}

impl Login {
    /// Reads the first message and goes on to the relay, or refuses.
    pub(super) async fn run(
        mut self: Box<Self>,
        client: Stream,
        ahead: Bytes,
        open: Option<Open>,
        unauthenticated: Option<Unauthenticated>,
        answering: Option<Answering>,
    ) -> Option<Stage> {
        let mut client = Endpoint::new(client, ahead);
        let gate = Arc::clone(&self.exchange.gate);
        let timeout = self.exchange.plan.auth_timeout();
        let mut previewed = None;
        let entering = tokio::time::timeout(timeout, self.enter(&mut client, &mut previewed));
        let entered = tokio::select! {
            biased;
            entered = entering => entered.unwrap_or(Err(Ending::Refused(Reason::AuthTimeout))),
            () = gate.stopped() => Err(Ending::Refused(Reason::Draining)),
        };
        let logged_in = match entered {
            Ok(logged_in) => logged_in,
            Err(ending) => {
                self.end(client, previewed, ending).await;
                return None;
            }
        };
        drop(unauthenticated);
        let LoggedIn { identity, admitted, message, forwarded, follower } = logged_in;
        let chosen = Some(&self.subprotocol);
        let most = self.exchange.plan.limits.auth_message_bytes.0 as usize;
        let reached = match previewed {
            Some(previewed) => Ok(previewed.granted(&admitted.permit)),
            None => tokio::select! {
                biased;
                reached = dial(&self.exchange, &admitted, &identity, chosen) => reached,
                () = client.departed(most) => {
                    self.end(client, None, Ending::Gone).await;
                    return None;
                }
            },
        };
        let mut upstream = match reached {
            Ok(upstream) => upstream,
            Err(failure) => {
                self.end(client, None, failure.into()).await;
                return None;
            }
        };
        for forwarded in self.progress.held().into_iter().chain(forwarded) {
            if !is_timely(timeout, send_up(&mut upstream, &forwarded)).await {
                self.end(client, None, Reason::UpstreamUnavailable.into()).await;
                return None;
            }
        }
        let settings = relay_settings(&self.exchange, &identity, Some(&message), &upstream.headers);
        let Login { exchange, record, ip_slot, subprotocol, .. } = *self;
        let subprotocol = subprotocol.as_deref();
        let tap = LoginTap::for_second_logins(&exchange, &identity, Some(follower), subprotocol);
        let session = Session::new(exchange, record, admitted.place, ip_slot, settings, tap);
        let (client, ahead) = client.into_parts();
        drop((answering, gate));
        Some(session.stage(client, ahead, upstream.stream, upstream.ahead, open))
    }

    async fn enter(
        &mut self,
        client: &mut Endpoint,
        previewed: &mut Option<Previewed>,
    ) -> Result<LoggedIn, Ending> {
        let plan = Arc::clone(&self.exchange.plan);
        let Some(source) = plan.access.sources.message() else {
            return Err(Reason::MissingCredential.into());
        };
        if let Some(preview) = self.preview.take() {
            *previewed = Some(dial_first(&self.exchange, preview, &self.subprotocol).await?);
        }
        let login = self.read(source, client, previewed).await?;
        let LoginMessage { token: Some(token), .. } = &login else {
            return Err(Reason::MissingCredential.into());
        };
        if token.expose().len() as u64 > plan.limits.credential_bytes.0 {
            return Err(Reason::MalformedCredential.into());
        }
        let follower = source.follower_behind(&login)?;
        let value = Secret::new(token.expose());
        let presented = Presented { index: source.index(), kind: "message", value, basic: false };
        let most = plan.limits.auth_message_bytes.0 as usize;
        let proven = tokio::select! {
            biased;
            proven = admission::verify(&self.exchange, &presented, &mut self.record) => proven?,
            () = client.departed(most) => return Err(Ending::Gone),
        };
        let identity = Arc::clone(&proven.identity);
        let admitted = admit(&self.exchange, proven, Carrier::Socket, Some(&login.parsed))?;
        let mut variables = self.exchange.variables(Some(&identity), |_| source.rewrites());
        variables.insert("message", login.parsed.clone());
        let forwarded = source.forwarded(&login, identity.subject(), &variables)?;
        Ok(LoggedIn { identity, admitted, message: login.parsed, forwarded, follower })
    }

    /// Reads messages until they are a login. Each counts for a byte at least, so
    /// that there is an end to empty ones.
    async fn read(
        &mut self,
        source: &MessageSource,
        client: &mut Endpoint,
        previewed: &mut Option<Previewed>,
    ) -> Result<LoginMessage, Ending> {
        let most = self.exchange.plan.limits.auth_message_bytes.0 as usize;
        let mut left = most;
        loop {
            let FirstMessage { payload, text } = next(client, previewed, left).await?;
            if let Some(login) = source.read(&mut self.progress, &payload, text, most)? {
                return Ok(login);
            }
            left = left.saturating_sub(payload.len().max(1));
            if left == 0 {
                return Err(Reason::AuthMessageTooLarge.into());
            }
        }
    }

    /// Refuses, and lets an upstream that has spoken already hear of it.
    async fn end(self: Box<Self>, client: Endpoint, previewed: Option<Previewed>, ending: Ending) {
        let (code, text) = match &ending {
            Ending::Refused(reason) => {
                (reason.close_code(&self.exchange.plan.access.codes), reason.text())
            }
            Ending::NotUtf8 | Ending::Closed { .. } | Ending::Gone => (1001, ""),
        };
        let leaving = async {
            if let Some(previewed) = previewed {
                previewed.leave(code, text).await;
            }
        };
        tokio::join!(self.end_client(client, ending), leaving);
    }

    async fn end_client(self: Box<Self>, client: Endpoint, ending: Ending) {
        let Login { exchange, record, ip_slot, subprotocol, progress, .. } = *self;
        match ending {
            Ending::Refused(Reason::ProtocolError) => {
                record.refused(Reason::ProtocolError, 101, Some(1002));
                client.close(1002, Reason::ProtocolError.text()).await;
            }
            Ending::Refused(reason) => {
                let access = &exchange.plan.access;
                let dialect = access
                    .sources
                    .message()
                    .and_then(|source| source.refusal(&progress, subprotocol.as_deref(), reason));
                let (message, code) = match dialect {
                    Some(Refusal { message, code }) => (message, code),
                    None => {
                        let message = exchange.reject_message(reason);
                        (message.map(|message| (true, message.into_bytes())), None)
                    }
                };
                let code = code.unwrap_or_else(|| reason.close_code(&access.codes));
                record.refused(reason, 101, Some(code));
                refuse(client, message, code, reason.text()).await;
            }
            Ending::NotUtf8 => {
                record.refused(Reason::ProtocolError, 101, Some(1007));
                client.close(1007, Reason::ProtocolError.text()).await;
            }
            Ending::Closed { code, text } => {
                // A code for none cannot be sent.
                let code = if code == 1005 { 1000 } else { code };
                record.refused(Reason::UpstreamUnavailable, 101, Some(code));
                client.close(code, &text).await;
            }
            // Nothing was decided: the record says that it was abandoned.
            Ending::Gone => drop(record),
        }
        drop(ip_slot);
    }
}

/// The client's next message of at most `most` bytes; what the upstream says in the
/// meantime goes to the client.
async fn next(
    client: &mut Endpoint,
    previewed: &mut Option<Previewed>,
    most: usize,
) -> Result<FirstMessage, Ending> {
    let Some(previewed) = previewed else {
        return client.read_message(most).await.map_err(ending);
    };
    loop {
        let heard = tokio::select! {
            biased;
            message = client.read_message(most) => return message.map_err(ending),
            heard = previewed.hear() => heard?,
        };
        client.queue(&heard);
    }
}

fn ending(error: EndpointError) -> Ending {
    match error {
        EndpointError::ProtocolError => Ending::Refused(Reason::ProtocolError),
        EndpointError::TooLarge => Ending::Refused(Reason::AuthMessageTooLarge),
        EndpointError::NotUtf8 => Ending::NotUtf8,
        EndpointError::Gone { .. } => Ending::Gone,
    }
}

/// Whether a write is done in time: its peer may take nothing.
async fn is_timely(most: Duration, writing: impl Future<Output = std::io::Result<()>>) -> bool {
    matches!(tokio::time::timeout(most, writing).await, Ok(Ok(())))
}

/// Sends a message to the upstream ahead of the relay.
async fn send_up(upstream: &mut Upgraded, forwarded: &Forwarded) -> std::io::Result<()> {
    upstream.stream.write_all(&frame_up(forwarded)).await?;
    upstream.stream.flush().await
}

/// A message to the client.
pub(super) fn frame_down(text: bool, payload: &[u8]) -> Vec<u8> {
    let opcode = if text { Opcode::TEXT } else { Opcode::BINARY };
    encode_frame(opcode, payload, None)
}

/// A message to the upstream, masked as every client's.
pub(super) fn frame_up(forwarded: &Forwarded) -> Vec<u8> {
    let opcode = if forwarded.text { Opcode::TEXT } else { Opcode::BINARY };
    encode_frame(opcode, &forwarded.payload, Some(rand::random()))
}
