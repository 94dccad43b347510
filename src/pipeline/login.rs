//! Message authentication: the client is upgraded first, its first message is
//! the credential, and the upstream is dialled only after the permit.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use crate::credential::{
    Follower, Forwarded, LoginMessage, MessageSource, Place, Presented, Progress, Refusal, Sight,
};
use crate::expression::Variables;
use crate::handshake::Host;
use crate::identity::Identity;
use crate::relay::frame::{Opcode, encode_frame};
use crate::relay::{Endpoint, EndpointError, FirstMessage, Tap, TapVerdict, Watch};
use crate::revocation::Revocations;
use crate::secret::Secret;
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
    /// What it has said so far.
    pub(super) progress: Progress,
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
        let LoggedIn { identity, admitted, message, forwarded, follower } = logged_in;
        let chosen = Some(&self.subprotocol);
        let mut upstream = match dial(&self.exchange, &admitted, &identity, chosen).await {
            Ok(upstream) => upstream,
            Err(Failure::Reason(reason)) => return self.end(client, reason.into()).await,
            Err(Failure::Answered(_)) => {
                return self.end(client, Reason::UpstreamRefused.into()).await;
            }
        };
        if let Some(forwarded) = forwarded
            && !is_timely(timeout, send_up(&mut upstream, &forwarded)).await
        {
            return self.end(client, Reason::UpstreamUnavailable.into()).await;
        }
        let settings = relay_settings(&self.exchange, &identity, Some(&message), &upstream.headers);
        let Login { exchange, record, ip_slot, .. } = *self;
        let tap = LoginTap::for_second_logins(&exchange, &identity, Some(follower));
        let session = Session::new(exchange, record, admitted.place, ip_slot, settings, tap);
        let (client, ahead) = client.into_parts();
        drop((awaited, gate));
        session.start(client, ahead, upstream.stream, upstream.ahead, open);
    }

    async fn enter(&mut self, client: &mut Endpoint) -> Result<LoggedIn, Ending> {
        let plan = Arc::clone(&self.exchange.plan);
        let Some(source) = plan.access.sources.message() else {
            return Err(Reason::MissingCredential.into());
        };
        let login = self.read(source, client).await?;
        let LoginMessage { token: Some(token), .. } = &login else {
            return Err(Reason::MissingCredential.into());
        };
        if token.expose().len() as u64 > plan.limits.credential_bytes.0 {
            return Err(Reason::MalformedCredential.into());
        }
        let follower = source.follower_behind(&login)?;
        let value = Secret::new(token.expose());
        let presented = Presented { index: source.index(), kind: "message", value, basic: false };
        let proven = admission::verify(&self.exchange, &presented, &mut self.record).await?;
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
    ) -> Result<LoginMessage, Ending> {
        let most = self.exchange.plan.limits.auth_message_bytes.0 as usize;
        let mut left = most;
        loop {
            let FirstMessage { payload, text } = client.read_message(left).await.map_err(ending)?;
            if let Some(login) = source.read(&mut self.progress, &payload, text, most)? {
                return Ok(login);
            }
            left = left.saturating_sub(payload.len().max(1));
            if left == 0 {
                return Err(Reason::AuthMessageTooLarge.into());
            }
        }
    }

    async fn end(self: Box<Self>, client: Endpoint, ending: Ending) {
        let Login { exchange, record, ip_slot, subprotocol, progress } = *self;
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
async fn send_up(upstream: &mut Upgraded, forwarded: &Forwarded) -> std::io::Result<()> {
    upstream.stream.write_all(&frame_up(forwarded)).await?;
    upstream.stream.flush().await
}

/// A message to the upstream, masked as every client's.
fn frame_up(forwarded: &Forwarded) -> Vec<u8> {
    let opcode = if forwarded.text { Opcode::TEXT } else { Opcode::BINARY };
    encode_frame(opcode, &forwarded.payload, Some(rand::random()))
}

/// Watches a live connection for further login messages: each must prove the
/// same identity.
pub(super) struct LoginTap {
    judge: Arc<Judge>,
    followed: Arc<Mutex<Followed>>,
}

/// The client's messages so far, seen by the tap and by the watch of one that is
/// large.
struct Followed {
    follower: Follower,
    /// What the message that was seen last is.
    sight: Sight,
    /// Whether the client has logged in by message.
    logged_in: bool,
}

/// Who judges a further login.
struct Judge {
    plan: Arc<super::plan::Plan>,
    identity: Arc<Identity>,
    revocations: Arc<Revocations>,
    upgrade: Upgrade,
    /// What a `rewrite` sees besides the message; nothing if there is none.
    variables: Variables,
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
    /// `follower` has seen the client's login, if that was a message.
    pub(super) fn for_second_logins(
        exchange: &Exchange,
        identity: &Arc<Identity>,
        follower: Option<Follower>,
    ) -> Option<Box<dyn Tap>> {
        let source = exchange.plan.access.sources.message().filter(|source| source.follows())?;
        let logged_in = follower.is_some();
        let follower = follower.unwrap_or_else(|| source.follower());
        let judge = Judge {
            plan: Arc::clone(&exchange.plan),
            identity: Arc::clone(identity),
            revocations: Arc::clone(&exchange.gate.revocations),
            upgrade: Upgrade {
                host: exchange.host.clone(),
                path: exchange.opening.path.as_str().into(),
                query: exchange.opening.query.as_deref().map(Into::into),
                https: exchange.client.https,
                ip: exchange.client.ip,
            },
            variables: exchange.variables(Some(identity), |_| source.rewrites()),
        };
        let followed = Followed { follower, sight: Sight::Other, logged_in };
        Some(Box::new(LoginTap {
            judge: Arc::new(judge),
            followed: Arc::new(Mutex::new(followed)),
        }))
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn source(&self) -> Option<&MessageSource> {
        self.judge.plan.access.sources.message()
    }
}

impl Judge {
    /// What the upstream gets in place of the login `message`. Whoever logged in
    /// without a message may still say the dialect's hello, which needs no token then.
    async fn judge(
        &self,
        message: &[u8],
        text: bool,
        first: bool,
    ) -> Result<Option<Forwarded>, Reason> {
        let limits = &self.plan.limits;
        let source = self.plan.access.sources.message().ok_or(Reason::Forbidden)?;
        let most = limits.auth_message_bytes.0 as usize;
        let login = source.read(&mut Progress::default(), message, text, most)?;
        // Behind the permit a login stands whole and alone in its message.
        let login = login.ok_or(Reason::MalformedCredential)?;
        source.follower_behind(&login)?;
        match &login.token {
            Some(token) => self.verify(source, token.expose()).await?,
            None if first => {}
            None => return Err(Reason::MissingCredential),
        }
        if source.consumes_later() {
            return Ok(None);
        }
        let mut variables = self.variables.clone();
        if source.rewrites() {
            variables.insert("message", login.parsed.clone());
        }
        source.forwarded(&login, self.identity.subject(), &variables)
    }

    async fn verify(&self, source: &MessageSource, token: &[u8]) -> Result<(), Reason> {
        let chain = self.plan.access.chains.get(source.index()).ok_or(Reason::Forbidden)?;
        let credential = Credential { value: token, basic: false };
        let occasion = Occasion {
            place: Place::Message,
            method: &Method::GET,
            https: self.upgrade.https,
            host: &self.upgrade.host,
            path: &self.upgrade.path,
            query: self.upgrade.query.as_deref(),
            ip: self.upgrade.ip,
            headers: &HeaderMap::new(),
            again: false,
        };
        match chain.verify(&credential, &occasion, clock::unix_now()).await.result {
            Ok(proven) if proven.is_same(&self.identity) => {
                self.revocations.judge(&proven, clock::unix_millis())
            }
            Ok(_) => Err(Reason::Forbidden),
            Err(VerifyError::Rejected(reason)) => Err(reason),
            Err(VerifyError::Unavailable(_)) => Err(Reason::VerifierUnavailable),
        }
    }
}

impl Tap for LoginTap {
    fn max_bytes(&self) -> usize {
        self.judge.plan.limits.auth_message_bytes.0 as usize
    }

    fn takes(&self, message: &[u8], text: bool) -> bool {
        let Some(source) = self.source() else { return false };
        let mut followed = self.followed();
        followed.sight = followed.follower.see(source, message, text);
        followed.sight != Sight::Other
    }

    fn could_take(&self, begun: &[u8]) -> bool {
        self.source().is_some_and(|source| source.could_match(begun))
    }

    fn take(
        &mut self,
        message: Vec<u8>,
        text: bool,
    ) -> Pin<Box<dyn Future<Output = TapVerdict> + Send>> {
        let judge = Arc::clone(&self.judge);
        let (hidden, first) = {
            let mut followed = self.followed();
            (followed.sight == Sight::Hidden, !std::mem::replace(&mut followed.logged_in, true))
        };
        Box::pin(async move {
            let judged = match hidden {
                true => Err(Reason::AmbiguousCredential),
                false => judge.judge(&message, text, first).await,
            };
            match judged {
                Ok(forwarded) => TapVerdict::Continue {
                    reply: None,
                    instead: forwarded.map(|forwarded| frame_up(&forwarded).into()),
                },
                Err(reason) => {
                    TapVerdict::Close { reason, code: reason.close_code(&judge.plan.access.codes) }
                }
            }
        })
    }

    fn watch(&self, text: bool) -> Option<Box<dyn Watch>> {
        self.followed().follower.begin(self.source()?, text);
        let code = Reason::AuthMessageTooLarge.close_code(&self.judge.plan.access.codes);
        Some(Box::new(LargeLogin { followed: Arc::clone(&self.followed), code }))
    }
}

/// Recognises a second login that is larger than a login may be.
struct LargeLogin {
    followed: Arc<Mutex<Followed>>,
    code: u16,
}

impl Watch for LargeLogin {
    fn follow(&mut self, payload: &[u8]) -> Option<(Reason, u16)> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_login = followed.follower.is_login(payload);
        is_login.then_some((Reason::AuthMessageTooLarge, self.code))
    }
}
