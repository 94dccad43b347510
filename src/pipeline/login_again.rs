//! Further login messages on a live connection: each must prove the same identity,
//! and the refusal of one speaks the dialect.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::exchange::Exchange;
use super::gate::Gate;
use super::login::{frame_down, frame_up};
use super::plan::Plan;
use crate::clock;
use crate::close::Reason;
use crate::credential::{Follower, Forwarded, MessageSource, Place, Progress, Sight};
use crate::expression::Variables;
use crate::identity::Identity;
use crate::relay::{Tap, TapVerdict, Watch};
use crate::verifier::{Credential, KeptOccasion, VerifyError};

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
    /// What it has said of a login that takes several messages.
    progress: Option<Box<Progress>>,
}

/// Who judges a further login.
struct Judge {
    plan: Arc<Plan>,
    identity: Arc<Identity>,
    gate: Arc<Gate>,
    /// The upgrade as verifiers are told; its headers are gone.
    occasion: KeptOccasion,
    /// What `rewrite` and `require` see besides the message, and `require` the identity;
    /// nothing if there is neither.
    variables: Variables,
    /// What client and upstream agreed to speak.
    subprotocol: Option<Box<str>>,
}

impl LoginTap {
    /// A tap for `exchange`, if its policy has login messages of a known shape.
    /// `follower` has seen the client's login, if that was a message; `subprotocol` is
    /// what the client was answered.
    pub(super) fn for_second_logins(
        exchange: &Exchange,
        identity: &Arc<Identity>,
        follower: Option<Follower>,
        subprotocol: Option<&str>,
    ) -> Option<Box<dyn Tap>> {
        let source = exchange.plan.access.sources.message().filter(|source| source.follows())?;
        let logged_in = follower.is_some();
        let follower = follower.unwrap_or_else(|| source.follower());
        let judge = Judge {
            plan: Arc::clone(&exchange.plan),
            identity: Arc::clone(identity),
            gate: Arc::clone(&exchange.gate),
            occasion: exchange.occasion_at(Place::Message).bare(),
            variables: exchange.variables(Some(identity), |name| {
                source.rewrites() || name == "request" && exchange.plan.access.rule.uses(name)
            }),
            subprotocol: subprotocol.map(Into::into),
        };
        let followed = Followed { follower, sight: Sight::Other, logged_in, progress: None };
        Some(Box::new(LoginTap {
            judge: Arc::new(judge),
            followed: Arc::new(Mutex::new(followed)),
        }))
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        lock(&self.followed)
    }

    fn source(&self) -> Option<&MessageSource> {
        self.judge.plan.access.sources.message()
    }
}

fn lock(followed: &Mutex<Followed>) -> MutexGuard<'_, Followed> {
    followed.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Judge {
    /// The plan of the route as a reload left it: it may have changed who verifies, and
    /// what is required.
    fn plan_now(&self) -> Arc<Plan> {
        let plans = self.gate.plans.load();
        Arc::clone(plans.named(&self.plan.name).unwrap_or(&self.plan))
    }

    /// What the upstream gets in place of the login `message`. Whoever logged in
    /// without a message may still say the dialect's hello, which needs no token then.
    async fn judge(
        &self,
        message: &[u8],
        text: bool,
        followed: &Mutex<Followed>,
        first: bool,
        progress: &mut Progress,
    ) -> Result<Option<Forwarded>, Reason> {
        let limits = &self.plan.limits;
        let source = self.plan.access.sources.message().ok_or(Reason::Forbidden)?;
        let most = limits.auth_message_bytes.0 as usize;
        let Some(login) = source.read(progress, message, text, most)? else {
            lock(followed).follower.awaits_rest();
            lock(followed).progress = Some(Box::new(std::mem::take(progress)));
            return Ok(None);
        };
        // What came behind it belongs to the stream that is followed: a packet that began
        // there goes on in the next message.
        if !lock(followed).follower.goes_on(&login) {
            return Err(Reason::AmbiguousCredential);
        }
        match &login.token {
            Some(token) if token.expose().len() as u64 > limits.credential_bytes.0 => {
                return Err(Reason::MalformedCredential);
            }
            Some(token) => {
                let proven = self.verify(source, token.expose()).await?;
                self.require(&proven, &login.parsed)?;
            }
            // Of who came by another credential only the message is new.
            None if first && self.plan_now().access.rule.uses("message") => {
                self.require(&self.identity, &login.parsed)?;
            }
            None if first => {}
            None => return Err(Reason::MissingCredential),
        }
        lock(followed).logged_in |= !source.greets_often();
        if source.consumes_later() {
            return Ok(None);
        }
        let mut variables = self.variables.clone();
        if source.rewrites() {
            variables.insert("message", login.parsed.clone());
        }
        source.forwarded(&login, self.identity.subject(), &variables)
    }

    /// The end of a client whose further login came as far as `progress`.
    fn refuse(&self, reason: Reason, progress: &Progress) -> TapVerdict {
        let access = &self.plan.access;
        let source = access.sources.message();
        let refusal = source
            .and_then(|source| source.refusal(progress, self.subprotocol.as_deref(), reason))
            .unwrap_or_default();
        let reply = refusal.message.map(|(text, message)| frame_down(text, &message).into());
        // The connection was a live one: it closes as those do, in every dialect.
        let code = reason.close_code(&access.codes);
        TapVerdict::Close { reason, code, reply }
    }

    /// Whether `require` admits `identity` by this message, as it did by the first.
    fn require(&self, identity: &Arc<Identity>, message: &Value) -> Result<(), Reason> {
        let (mut variables, now) = (self.variables.clone(), self.plan_now());
        // What a reload asks of the request may not have been kept.
        let is_known = !now.access.rule.uses("request") || variables.get("request").is_some();
        let rule = if is_known { &now.access.rule } else { &self.plan.access.rule };
        if rule.uses("identity") {
            variables.insert("identity", identity.variable());
        }
        if rule.uses("message") {
            variables.insert("message", message.clone());
        }
        if rule.is_satisfied(&variables) { Ok(()) } else { Err(Reason::Forbidden) }
    }

    async fn verify(&self, source: &MessageSource, token: &[u8]) -> Result<Arc<Identity>, Reason> {
        let now = self.plan_now();
        let index = now.access.sources.message().map(MessageSource::index);
        let chain = index.and_then(|index| now.access.chains.get(index));
        let chain = chain.or_else(|| self.plan.access.chains.get(source.index()));
        // Where the policy tells no more, those of the same names decide.
        let chain = self.gate.plans.load().present(chain.ok_or(Reason::Forbidden)?);
        let credential = Credential { value: token, basic: false };
        match chain.verify(&credential, &self.occasion.lent(), clock::unix_now()).await.result {
            Ok(proven) if proven.is_same(&self.identity) => {
                self.gate.revocations.judge(&proven, clock::unix_millis())?;
                Ok(proven)
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

    fn could_take(&self, begun: &[u8], text: bool) -> bool {
        self.source().is_some_and(|source| {
            source.could_match(begun)
                || self.followed().follower.see(source, begun, text) != Sight::Other
        })
    }

    fn take(
        &mut self,
        message: Vec<u8>,
        text: bool,
    ) -> Pin<Box<dyn Future<Output = TapVerdict> + Send>> {
        let (judge, shared) = (Arc::clone(&self.judge), Arc::clone(&self.followed));
        let (hidden, first, mut progress) = {
            let mut followed = self.followed();
            let progress = followed.progress.take().map(|begun| *begun).unwrap_or_default();
            (followed.sight == Sight::Hidden, !followed.logged_in, progress)
        };
        Box::pin(async move {
            let judged = match hidden {
                true => Err(Reason::AmbiguousCredential),
                false => judge.judge(&message, text, &shared, first, &mut progress).await,
            };
            match judged {
                Ok(forwarded) => TapVerdict::Continue {
                    reply: None,
                    instead: forwarded.map(|forwarded| frame_up(&forwarded).into()),
                },
                Err(reason) => judge.refuse(reason, &progress),
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
        let mut followed = lock(&self.followed);
        let is_login = followed.follower.is_login(payload);
        is_login.then_some((Reason::AuthMessageTooLarge, self.code))
    }
}
