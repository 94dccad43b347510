//! `forward: {rewrite: CEL}`: another message in place of the login.

use serde_json::{Map, Value};

use crate::close::Reason;
use crate::expression::{EvaluateError, Variables};

/// The variables whose content a stranger may have chosen.
const FOREIGN: [&str; 2] = ["identity", "request"];

/// What an expression gave in place of the login.
#[derive(Debug, PartialEq)]
pub(super) enum Rewritten {
    /// A message as it is.
    Text(String),
    /// A list.
    List(Value),
    /// Fields of the dialect, or JSON.
    Fields(Map<String, Value>),
}

/// What to send instead. A line protocol ends its commands with control
/// characters: those of the expression itself may stand, those that come from
/// identity or request would be commands of a stranger and are forbidden.
pub(super) fn rewritten(
    variables: &Variables,
    evaluate: impl Fn(&Variables) -> Result<Value, EvaluateError>,
) -> Result<Rewritten, Reason> {
    match evaluate(variables).map_err(|_| Reason::Forbidden)? {
        Value::String(text) => match harmless(variables) {
            // What harmless variables would have given tells whether the
            // control characters found their way into the text.
            Some(harmless) => match evaluate(&harmless) {
                Ok(Value::String(other)) if other == text => Ok(Rewritten::Text(text)),
                Ok(_) | Err(_) => Err(Reason::Forbidden),
            },
            None => Ok(Rewritten::Text(text)),
        },
        Value::Object(fields) => Ok(Rewritten::Fields(fields)),
        list @ Value::Array(_) => Ok(Rewritten::List(list)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Err(Reason::Forbidden),
    }
}

/// The text that an expression gives for a server of lines, as `rewritten`.
///
/// # Errors
/// [`Reason::Forbidden`] if it gives no text, or one with control characters of
/// identity or request.
pub fn harmless_text(
    variables: &Variables,
    evaluate: impl Fn(&Variables) -> Result<Value, EvaluateError>,
) -> Result<String, Reason> {
    match rewritten(variables, evaluate)? {
        Rewritten::Text(text) => Ok(text),
        Rewritten::List(_) | Rewritten::Fields(_) => Err(Reason::Forbidden),
    }
}

/// The variables without control characters in identity and request, unless
/// there were none.
fn harmless(variables: &Variables) -> Option<Variables> {
    let is_harmful = |name: &&str| variables.get(name).is_some_and(has_control);
    if !FOREIGN.iter().any(is_harmful) {
        return None;
    }
    let mut copy = variables.clone();
    for name in FOREIGN {
        if let Some(value) = copy.get_mut(name) {
            clean(value);
        }
    }
    Some(copy)
}

fn has_control(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(char::is_control),
        Value::Array(items) => items.iter().any(has_control),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.contains(char::is_control) || has_control(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn clean(value: &mut Value) {
    match value {
        Value::String(text) => text.retain(|character| !character.is_control()),
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(members) => {
            members.retain(|name, _| !name.contains(char::is_control));
            members.values_mut().for_each(clean);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rewrite(identity: Value, of: fn(&Variables) -> Value) -> Result<String, Reason> {
        let variables = Variables::from([("identity", identity), ("message", json!("a\nb"))]);
        Ok(match rewritten(&variables, |variables| Ok(of(variables)))? {
            Rewritten::Text(text) => text,
            Rewritten::List(list) => list.to_string(),
            Rewritten::Fields(fields) => Value::Object(fields).to_string(),
        })
    }

    fn command(variables: &Variables) -> Value {
        let name = variables.get("identity").unwrap()["subject"].as_str().unwrap_or_default();
        Value::from(format!("USER {name}\r\n"))
    }

    #[test]
    fn control_characters_of_the_expression_may_stand() {
        assert_eq!(rewrite(json!({ "subject": "ann" }), command), Ok("USER ann\r\n".into()));
        assert_eq!(rewrite(json!({}), |v| v.get("message").unwrap().clone()), Ok("a\nb".into()));
        let elsewhere = json!({ "subject": "ann", "claims": { "bio": "x\ny" } });
        assert_eq!(rewrite(elsewhere, command), Ok("USER ann\r\n".into()));
    }

    #[test]
    fn control_characters_of_the_identity_are_forbidden_in_text() {
        let evil = json!({ "subject": "ann\r\nQUIT" });
        assert_eq!(rewrite(evil.clone(), command), Err(Reason::Forbidden));
        let as_json = rewrite(evil, |variables| variables.get("identity").unwrap().clone());
        assert_eq!(as_json, Ok(r#"{"subject":"ann\r\nQUIT"}"#.into()));
    }

    #[test]
    fn what_is_no_message_is_forbidden() {
        assert_eq!(rewrite(json!({}), |_| json!(1)), Err(Reason::Forbidden));
        let failed = rewritten(&Variables::new(), |_| Err(EvaluateError::Missing));
        assert_eq!(failed, Err(Reason::Forbidden));
    }
}
