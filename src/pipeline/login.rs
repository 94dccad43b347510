//! Message authentication: the client is upgraded first, its first message is
//! the credential, and the upstream is dialled only after the permit.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::IpSlot;
use super::admission::{self, Admitted, admit};
use super::after::refuse;
use super::exchange::Exchange;
use super::session::Session;
use super::slots::{Open, Unauthenticated};
use super::upgrade::{Failure, dial, relay_settings};
use crate::clock;
use crate::close::Reason;
use crate::connection::Carrier;
use crate::credential::{LoginMessage, LoginWatch, MessageFormat, Place, Presented};
use crate::handshake::Host;
use crate::identity::Identity;
use crate::relay::frame::{Opcode, encode_frame};
use crate::relay::{Endpoint, EndpointError, FirstMessage, Tap, TapVerdict, Watch};
use crate::revocation::Revocations;
use crate::stream::Stream;
use crate::telemetry::Record;
use crate::upstream::Upgraded;
use crate::verifier::{Credential, Occasion, VerifyError};

/// A client that has been upgraded and has yet to say who it is.
pub(super) struct Login {
    /// The request.
    pub(super) exchange: Exchange,
    /// What is told of it.
    pub(super) record: Record,
    /// Its part in the count of its address.
    pub(super) ip_slot: Option<IpSlot>,
    /// The subprotocol that the client was answered.
    pub(super) subprotocol: Option<String>,
}

/// Who the first message proved, and what it said.
struct LoggedIn {
    identity: Arc<Identity>,
    admitted: Admitted,
    message: Value,
    forwarded: Option<(Opcode, Vec<u8>)>,
}

/// Why a client does not get in.
enum Ending {
    /// For a reason of the table.
    Refused(Reason),
    /// A text message that is not UTF-8 (RFC 6455 §8.1).
    NotUtf8,
    /// The client has left.
    Gone,
}

impl From<Reason> for Ending {
    fn from(reason: Reason) -> Ending {
        Ending::Refused(reason)
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
    ) {
        let mut client = Endpoint::new(client, ahead);
        let gate = Arc::clone(&self.exchange.gate);
        let awaited = gate.awaited_login();
        let timeout = self.exchange.plan.auth_timeout();
        let entering = tokio::time::timeout(timeout, self.enter(&mut client));
        let entered = tokio::select! {
            biased;
            entered = entering => entered.unwrap_or(Err(Ending::Refused(Reason::AuthTimeout))),
            () = gate.stopped() => Err(Ending::Refused(Reason::Draining)),
        };
        let logged_in = match entered {
            Ok(logged_in) => logged_in,
            Err(ending) => return self.end(client, ending).await,
        };
        drop(unauthenticated);
        let LoggedIn { identity, admitted, message, forwarded } = logged_in;
        let chosen = Some(&self.subprotocol);
        let mut upstream = match dial(&self.exchange, &admitted, &identity, chosen).await {
            Ok(upstream) => upstream,
            Err(Failure::Reason(reason)) => return self.end(client, reason.into()).await,
            Err(Failure::Answered(_)) => {
                return self.end(client, Reason::UpstreamRefused.into()).await;
            }
        };
        if let Some((opcode, payload)) = forwarded
            && !is_timely(timeout, send_up(&mut upstream, opcode, &payload)).await
        {
            return self.end(client, Reason::UpstreamUnavailable.into()).await;
        }
        let settings = relay_settings(&self.exchange, &identity, Some(&message), &upstream.headers);
        let Login { exchange, record, ip_slot, .. } = *self;
        let session = Session::new(exchange, record, admitted.place, ip_slot, settings, &identity);
        let (client, ahead) = client.into_parts();
        drop((awaited, gate));
        session.start(client, ahead, upstream.stream, upstream.ahead, open);
    }

    async fn enter(&mut self, client: &mut Endpoint) -> Result<LoggedIn, Ending> {
        let plan = Arc::clone(&self.exchange.plan);
        let Some(source) = plan.access.sources.message() else {
            return Err(Reason::MissingCredential.into());
        };
        let most = plan.limits.auth_message_bytes.0 as usize;
        let FirstMessage { payload, text } = client.read_message(most).await.map_err(ending)?;
        let LoginMessage { token, parsed } = source.read(&payload, text)?;
        if token.expose().len() as u64 > plan.limits.credential_bytes.0 {
            return Err(Reason::MalformedCredential.into());
        }
        let presented =
            Presented { index: source.index(), kind: "message", value: token, basic: false };
        let identity = admission::verify(&self.exchange, &presented, &mut self.record).await?;
        let admitted = admit(&self.exchange, &identity, Carrier::Socket, Some(&parsed))?;
        let mut variables = self.exchange.variables(Some(&identity), |_| source.rewrites());
        variables.insert("message", parsed.clone());
        let forwarded = source.forwarded(&payload, &parsed, &variables)?;
        // What an expression gives is text, whatever it replaces.
        let opcode = if text || source.rewrites() { Opcode::TEXT } else { Opcode::BINARY };
        let forwarded = forwarded.map(|payload| (opcode, payload));
        Ok(LoggedIn { identity, admitted, message: parsed, forwarded })
    }

    async fn end(self: Box<Self>, client: Endpoint, ending: Ending) {
        let Login { exchange, record, ip_slot, .. } = *self;
        match ending {
            Ending::Refused(Reason::ProtocolError) => {
                record.refused(Reason::ProtocolError, 101, Some(1002));
                client.close(1002, Reason::ProtocolError.text()).await;
            }
            Ending::Refused(reason) => {
                let code = reason.close_code(&exchange.plan.access.codes);
                record.refused(reason, 101, Some(code));
                refuse(client, exchange.reject_message(reason), code, reason.text()).await;
            }
            Ending::NotUtf8 => {
                record.refused(Reason::ProtocolError, 101, Some(1007));
                client.close(1007, Reason::ProtocolError.text()).await;
            }
            // Nothing was decided: the record says that it was abandoned.
            Ending::Gone => drop(record),
        }
        drop(ip_slot);
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
async fn send_up(upstream: &mut Upgraded, opcode: Opcode, payload: &[u8]) -> std::io::Result<()> {
    let frame = encode_frame(opcode, payload, Some(rand::random()));
    upstream.stream.write_all(&frame).await?;
    upstream.stream.flush().await
}

/// Watches a live connection for further login messages: each must prove the
/// same identity, and none reaches the upstream.
pub(super) struct LoginTap {
    plan: Arc<super::plan::Plan>,
    identity: Arc<Identity>,
    revocations: Arc<Revocations>,
    upgrade: Arc<Upgrade>,
}

/// What verifiers are told about the upgrade of a live connection; its headers
/// are gone.
struct Upgrade {
    host: Host,
    path: Box<str>,
    query: Option<Box<str>>,
    https: bool,
    ip: IpAddr,
}

impl LoginTap {
    /// A tap for `exchange`, if its policy has login messages of a known shape.
    pub(super) fn for_second_logins(
        exchange: &Exchange,
        identity: &Arc<Identity>,
    ) -> Option<Box<dyn Tap>> {
        let source = exchange.plan.access.sources.message()?;
        match source.format() {
            MessageFormat::Json => Some(Box::new(LoginTap {
                plan: Arc::clone(&exchange.plan),
                identity: Arc::clone(identity),
                revocations: Arc::clone(&exchange.gate.revocations),
                upgrade: Arc::new(Upgrade {
                    host: exchange.host.clone(),
                    path: exchange.opening.path.as_str().into(),
                    query: exchange.opening.query.as_deref().map(Into::into),
                    https: exchange.client.https,
                    ip: exchange.client.ip,
                }),
            })),
            MessageFormat::Text => None,
        }
    }

    async fn judge(
        plan: &super::plan::Plan,
        identity: &Identity,
        revocations: &Revocations,
        upgrade: &Upgrade,
        message: &[u8],
        text: bool,
    ) -> Result<(), Reason> {
        let sources = &plan.access.sources;
        let source = sources.message().ok_or(Reason::Forbidden)?;
        let login = source.read(message, text)?;
        let chain = plan.access.chains.get(source.index()).ok_or(Reason::Forbidden)?;
        let credential = Credential { value: login.token.expose(), basic: false };
        let occasion = Occasion {
            place: Place::Message,
            method: &Method::GET,
            https: upgrade.https,
            host: &upgrade.host,
            path: &upgrade.path,
            query: upgrade.query.as_deref(),
            ip: upgrade.ip,
            headers: &HeaderMap::new(),
        };
        match chain.verify(&credential, &occasion, clock::unix_now()).await.result {
            Ok(proven) if proven.is_same(identity) => {
                revocations.judge(&proven, clock::unix_millis())
            }
            Ok(_) => Err(Reason::Forbidden),
            Err(VerifyError::Rejected(reason)) => Err(reason),
            Err(VerifyError::Unavailable(_)) => Err(Reason::VerifierUnavailable),
        }
    }
}

impl Tap for LoginTap {
    fn max_bytes(&self) -> usize {
        self.plan.limits.auth_message_bytes.0 as usize
    }

    fn takes(&self, message: &[u8], text: bool) -> bool {
        self.plan.access.sources.message().is_some_and(|source| source.matches(message, text))
    }

    fn take(
        &mut self,
        message: Vec<u8>,
        text: bool,
    ) -> Pin<Box<dyn Future<Output = TapVerdict> + Send>> {
        let (plan, identity) = (Arc::clone(&self.plan), Arc::clone(&self.identity));
        let (revocations, upgrade) = (Arc::clone(&self.revocations), Arc::clone(&self.upgrade));
        Box::pin(async move {
            match LoginTap::judge(&plan, &identity, &revocations, &upgrade, &message, text).await {
                Ok(()) => TapVerdict::Continue { reply: None },
                Err(reason) => {
                    TapVerdict::Close { reason, code: reason.close_code(&plan.access.codes) }
                }
            }
        })
    }
    fn watch(&self) -> Option<Box<dyn Watch>> {
        let watch = self.plan.access.sources.message()?.watch()?;
        let code = Reason::AuthMessageTooLarge.close_code(&self.plan.access.codes);
        Some(Box::new(LargeLogin { watch, code }))
    }
}

/// Recognises a second login that is larger than a login may be.
struct LargeLogin {
    watch: LoginWatch,
    code: u16,
}

impl Watch for LargeLogin {
    fn follow(&mut self, payload: &[u8]) -> Option<(Reason, u16)> {
        self.watch.is_login(payload).then_some((Reason::AuthMessageTooLarge, self.code))
    }
}
