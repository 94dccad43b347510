//! `format: text`: the whole message is the token.

use serde_json::Value;

use super::{Content, LoginMessage};
use crate::close::Reason;
use crate::credential::config::MessageConfig;
use crate::problem::Problem;
use crate::secret::Secret;

/// A text message has no parts that a key could name.
pub(super) fn check(config: &MessageConfig, problems: &mut Vec<Problem>) {
    if config.token.is_some() {
        let message = "belongs to `format: json`; with text the whole message is the token";
        problems.push(Problem::new("message.token", message));
    }
    if !config.conditions.is_empty() {
        problems.push(Problem::new("message.where", "belongs to `format: json`"));
    }
}

pub(super) fn read(payload: &[u8], is_text: bool) -> Result<LoginMessage, Reason> {
    match std::str::from_utf8(payload) {
        Ok(text) if !text.is_empty() => {
            let (token, parsed) = (Some(Secret::new(text)), Value::String(text.to_owned()));
            Ok(LoginMessage::new(token, parsed, Content::Whole, payload, is_text))
        }
        Ok(_) | Err(_) => Err(Reason::MalformedCredential),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_message_is_the_token() {
        let read = |payload: &[u8]| {
            read(payload, true).map(|login| login.token.unwrap().expose().to_vec())
        };
        assert_eq!(read(b" a b\n"), Ok(b" a b\n".to_vec()));
        assert_eq!(read(b""), Err(Reason::MalformedCredential));
        assert_eq!(read(b"\xff"), Err(Reason::MalformedCredential));
    }
}
