//! The first message as the credential: recognised, read, and turned into what
//! the upstream gets of it. One file per dialect.
//!
//! Pure: the caller reads the message, bounded in bytes and time.

mod json;
mod pointer;
mod probe;
mod refresh;
mod rewrite;
mod text;
mod watch;

use serde_json::Value;

use self::json::JsonLogin;
pub use self::refresh::{RefreshMessage, RefreshWatch};
pub use self::watch::LoginWatch;
use super::config::{ForwardConfig, ForwardWord, MessageConfig, MessageFormat};
use crate::close::Reason;
use crate::expression::{Expression, Variables};
use crate::problem::Problem;
use crate::secret::Secret;

/// How a policy reads a login message, and what it forwards of it.
pub struct MessageSource {
    index: usize,
    dialect: Dialect,
    forward: Forward,
}

/// A login message that was read.
pub struct LoginMessage {
    /// The credential.
    pub token: Secret,
    /// `message` as CEL sees it: the JSON, or the text.
    pub parsed: Value,
}

enum Dialect {
    Json(JsonLogin),
    Text,
}

enum Forward {
    Consume,
    Strip,
    Whole,
    Rewrite(Expression),
}

impl MessageSource {
    /// The label of the kind.
    pub const KIND: &'static str = "message";

    /// The variables that a `rewrite` sees.
    const VARIABLES: [&'static str; 3] = ["identity", "request", "message"];

    pub(super) fn compile(
        config: &MessageConfig,
        forward: Option<&ForwardConfig>,
        index: usize,
    ) -> Result<MessageSource, Vec<Problem>> {
        let mut problems = Vec::new();
        let dialect = match config.format {
            MessageFormat::Json => JsonLogin::compile(config, &mut problems).map(Dialect::Json),
            MessageFormat::Text => {
                text::check(config, &mut problems);
                Some(Dialect::Text)
            }
        };
        let forward = match forward {
            None | Some(ForwardConfig::Whole(false)) => Some(Forward::Consume),
            Some(ForwardConfig::Whole(true)) => Some(Forward::Whole),
            Some(ForwardConfig::Named(ForwardWord::Strip)) => {
                if config.format == MessageFormat::Text {
                    let message = "nothing is left of a text message without its token; \
                                   use false, true or {rewrite: CEL}";
                    problems.push(Problem::new("forward", message));
                }
                Some(Forward::Strip)
            }
            Some(ForwardConfig::Rewrite(written)) => {
                match Expression::compile(&written.rewrite, &Self::VARIABLES) {
                    Ok(expression) => Some(Forward::Rewrite(expression)),
                    Err(error) => {
                        problems.push(Problem::new("forward.rewrite", error.to_string()));
                        None
                    }
                }
            }
        };
        match (dialect, forward) {
            (Some(dialect), Some(forward)) if problems.is_empty() => {
                Ok(MessageSource { index, dialect, forward })
            }
            _ => Err(problems),
        }
    }

    /// Which entry of `credentials` this is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The dialect.
    pub fn format(&self) -> MessageFormat {
        match self.dialect {
            Dialect::Json(_) => MessageFormat::Json,
            Dialect::Text => MessageFormat::Text,
        }
    }

    /// Whether [`MessageSource::forwarded`] evaluates an expression.
    pub fn rewrites(&self) -> bool {
        matches!(self.forward, Forward::Rewrite(_))
    }

    /// Whether a message after the permit is another login and must not reach
    /// the upstream. `text` messages have no shape to be known by.
    pub fn matches(&self, payload: &[u8], _text: bool) -> bool {
        match &self.dialect {
            Dialect::Json(login) => login.matches(payload),
            Dialect::Text => false,
        }
    }

    /// The same for a message that is too large to be seen whole.
    pub fn watch(&self) -> Option<LoginWatch> {
        match &self.dialect {
            Dialect::Json(login) => Some(login.watch()),
            Dialect::Text => None,
        }
    }

    /// Reads a login message, text or binary.
    ///
    /// # Errors
    /// [`Reason::MissingCredential`] if it is no login message,
    /// [`Reason::MalformedCredential`] if it is one without a usable token or
    /// cannot be read, [`Reason::AmbiguousCredential`] if two readers could
    /// read it differently.
    pub fn read(&self, payload: &[u8], _text: bool) -> Result<LoginMessage, Reason> {
        match &self.dialect {
            Dialect::Json(login) => login.read(payload),
            Dialect::Text => text::read(payload),
        }
    }

    /// What the upstream gets in place of the login message `payload`, which
    /// was read as `parsed`; `None` if nothing.
    ///
    /// # Errors
    /// [`Reason::Forbidden`] if the rewritten message cannot be sent.
    pub fn forwarded(
        &self,
        payload: &[u8],
        parsed: &Value,
        variables: &Variables,
    ) -> Result<Option<Vec<u8>>, Reason> {
        match (&self.forward, &self.dialect) {
            (Forward::Consume, _) | (Forward::Strip, Dialect::Text) => Ok(None),
            (Forward::Whole, _) => Ok(Some(payload.to_vec())),
            (Forward::Strip, Dialect::Json(login)) => {
                Ok(Some(login.without_token(parsed).to_string().into_bytes()))
            }
            (Forward::Rewrite(expression), _) => {
                rewrite::rewritten(variables, |variables| expression.evaluate(variables)).map(Some)
            }
        }
    }
}
