//! What the upstream gets in place of a login: `forward`.

use serde_json::Value;

use super::rewrite::{self, Rewritten};
use super::{
    Content, Dialect, LoginMessage, MessageSource, Progress, graphql, phoenix, socketio, stomp,
};
use crate::close::Reason;
use crate::credential::config::{ForwardConfig, ForwardWord, MessageFormat};
use crate::expression::{Expression, Variables};
use crate::problem::Problem;

/// A message for the upstream.
#[derive(Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The payload of the message.
    pub payload: Vec<u8>,
    /// Whether the message is text.
    pub text: bool,
}

/// What becomes of a login.
pub(super) enum Forward {
    Consume,
    Strip,
    Whole,
    Rewrite(Expression),
}

/// The variables that a `rewrite` sees.
const VARIABLES: [&str; 3] = ["identity", "request", "message"];

impl Forward {
    pub(super) fn compile(
        format: MessageFormat,
        config: Option<&ForwardConfig>,
        problems: &mut Vec<Problem>,
    ) -> Option<Forward> {
        match config {
            None => Some(match format {
                MessageFormat::Json | MessageFormat::Text => Forward::Consume,
                MessageFormat::Graphql
                | MessageFormat::Stomp
                | MessageFormat::Mqtt
                | MessageFormat::Phoenix
                | MessageFormat::Centrifuge
                | MessageFormat::Nats
                | MessageFormat::Socketio => Forward::Strip,
            }),
            Some(ForwardConfig::Whole(false)) => Some(Forward::Consume),
            Some(ForwardConfig::Whole(true)) => Some(Forward::Whole),
            Some(ForwardConfig::Named(ForwardWord::Strip)) => {
                if format == MessageFormat::Text {
                    let message = "nothing is left of a text message without its token; \
                                   use false, true or {rewrite: CEL}";
                    problems.push(Problem::new("forward", message));
                }
                Some(Forward::Strip)
            }
            Some(ForwardConfig::Rewrite(written)) => {
                match Expression::compile(&written.rewrite, &VARIABLES) {
                    Ok(expression) => Some(Forward::Rewrite(expression)),
                    Err(error) => {
                        problems.push(Problem::new("forward.rewrite", error.to_string()));
                        None
                    }
                }
            }
        }
    }
}

impl Progress {
    /// What the client said before its login that the upstream waits for.
    pub fn held(&self) -> Option<Forwarded> {
        self.pong.then(|| Forwarded { payload: socketio::PONG.to_vec(), text: true })
    }
}

impl MessageSource {
    /// Whether [`MessageSource::forwarded`] evaluates an expression.
    pub fn rewrites(&self) -> bool {
        matches!(self.forward, Forward::Rewrite(_))
    }

    /// What the upstream gets in place of `login`, which proved `subject`; `None`
    /// if nothing.
    ///
    /// # Errors
    /// [`Reason::Forbidden`] if the login claims another name than the subject's, or
    /// if the rewritten message cannot be sent.
    pub fn forwarded(
        &self,
        login: &LoginMessage,
        subject: &str,
        variables: &Variables,
    ) -> Result<Option<Forwarded>, Reason> {
        let claimed = login.name.as_deref().filter(|name| !name.is_empty());
        let is_stomp = matches!(self.dialect, Dialect::Stomp(_));
        let another = |name: &str| name != subject || is_stomp && stomp::has_two_readings(name);
        if !self.rewrites() && claimed.is_some_and(another) {
            return Err(Reason::Forbidden);
        }
        let (mut payload, text) = match &self.forward {
            Forward::Consume => (Vec::new(), login.text),
            Forward::Whole => {
                return Ok(Some(Forwarded { payload: login.whole.clone(), text: login.text }));
            }
            Forward::Strip => (self.stripped(login, subject)?, login.text),
            Forward::Rewrite(expression) => {
                let instead =
                    rewrite::rewritten(variables, |variables| expression.evaluate(variables))?;
                // What an expression gives is text, unless the dialect is one of bytes.
                let text = match self.dialect {
                    Dialect::Mqtt => false,
                    Dialect::Nats(_) => login.text,
                    Dialect::Json(_)
                    | Dialect::Text
                    | Dialect::Graphql(_)
                    | Dialect::Stomp(_)
                    | Dialect::Phoenix(_)
                    | Dialect::Centrifuge(_)
                    | Dialect::Socketio(_) => true,
                };
                (self.rewritten(login, instead)?, text)
            }
        };
        payload.extend_from_slice(&login.behind);
        Ok((!payload.is_empty()).then_some(Forwarded { payload, text }))
    }

    /// The login without its token; empty if nothing is left of it.
    fn stripped(&self, login: &LoginMessage, subject: &str) -> Result<Vec<u8>, Reason> {
        Ok(match (&self.dialect, &login.content) {
            (Dialect::Json(json), _) => json.without_token(&login.parsed).to_string().into_bytes(),
            (Dialect::Graphql(graphql), _) => graphql.stripped(&login.parsed),
            (Dialect::Stomp(stomp), Content::Stomp(connect)) => stomp.stripped(connect),
            (Dialect::Mqtt, Content::Mqtt(connect)) => connect.stripped(subject)?,
            (Dialect::Phoenix(phoenix), Content::Phoenix(message)) => {
                phoenix.stripped(message, &login.parsed)
            }
            (Dialect::Centrifuge(centrifuge), Content::Centrifuge(behind)) => {
                centrifuge.stripped(&login.parsed, behind)
            }
            (Dialect::Nats(nats), _) => nats.stripped(&login.parsed),
            (Dialect::Socketio(socketio), _) => socketio.stripped(&login.parsed),
            // No part of a text is left without its token.
            (
                Dialect::Text
                | Dialect::Stomp(_)
                | Dialect::Mqtt
                | Dialect::Phoenix(_)
                | Dialect::Centrifuge(_),
                _,
            ) => Vec::new(),
        })
    }

    fn rewritten(&self, login: &LoginMessage, instead: Rewritten) -> Result<Vec<u8>, Reason> {
        match (&self.dialect, &login.content, instead) {
            (Dialect::Json(_) | Dialect::Text, _, Rewritten::Fields(fields)) => {
                Ok(Value::Object(fields).to_string().into_bytes())
            }
            (Dialect::Json(_) | Dialect::Text, _, Rewritten::List(list)) => {
                Ok(list.to_string().into_bytes())
            }
            (Dialect::Mqtt, Content::Mqtt(connect), Rewritten::Fields(fields)) => {
                connect.rewritten(&fields)
            }
            (Dialect::Mqtt, _, _) => Err(Reason::Forbidden),
            (_, _, Rewritten::Text(text)) => Ok(text.into_bytes()),
            (Dialect::Graphql(_), _, Rewritten::Fields(fields)) => {
                Ok(graphql::rewritten(&login.parsed, Value::Object(fields)))
            }
            (Dialect::Stomp(stomp), Content::Stomp(connect), Rewritten::Fields(fields)) => {
                stomp.rewritten(connect, &fields)
            }
            (Dialect::Phoenix(_), Content::Phoenix(message), Rewritten::Fields(fields)) => {
                Ok(phoenix::rewritten(message, Value::Object(fields)))
            }
            (
                Dialect::Centrifuge(centrifuge),
                Content::Centrifuge(behind),
                Rewritten::Fields(fields),
            ) => Ok(centrifuge.rewritten(&login.parsed, behind, &fields)),
            (Dialect::Nats(nats), _, Rewritten::Fields(fields)) => {
                Ok(nats.rewritten(&login.parsed, &fields))
            }
            (Dialect::Socketio(_), _, Rewritten::Fields(fields)) => {
                Ok(socketio::rewritten(&login.parsed, Value::Object(fields)))
            }
            (
                Dialect::Graphql(_)
                | Dialect::Stomp(_)
                | Dialect::Phoenix(_)
                | Dialect::Centrifuge(_)
                | Dialect::Nats(_)
                | Dialect::Socketio(_),
                _,
                Rewritten::Fields(_) | Rewritten::List(_),
            ) => Err(Reason::Forbidden),
        }
    }
}
