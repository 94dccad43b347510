//! The rule of a policy, and the decision under it.

use std::sync::Arc;

use serde_json::Value;

use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::expression::{Expression, Variables};
use crate::identity::Identity;
use crate::problem::Problem;

/// The variables of `require`.
const VARIABLES: [&str; 3] = ["identity", "request", "message"];

/// Compiled `require`.
#[derive(Default)]
pub struct Rule {
    expression: Option<Expression>,
}

/// The proof that a policy admitted an identity. Only this room makes one, and
/// nothing dials an upstream without it.
pub struct Permit {
    identity: Arc<Identity>,
}

/// A policy's no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
}

/// What a policy says about an identity and a request.
pub enum Decision {
    /// It may.
    Allow(Permit),
    /// It may not.
    Deny(Denial),
}

impl Rule {
    /// Compiles `require`; without one, every identity may.
    ///
    /// # Errors
    /// An expression that does not compile, or can be seen to give no bool.
    pub fn compile(require: Option<&str>) -> Result<Rule, Problem> {
        let Some(source) = require else { return Ok(Rule::default()) };
        let problem = |message: String| Problem::new("require", message);
        let expression =
            Expression::compile(source, &VARIABLES).map_err(|error| problem(error.to_string()))?;
        let constant = !VARIABLES.iter().any(|variable| expression.uses(variable));
        if constant && !matches!(expression.evaluate(&Variables::new()), Ok(Value::Bool(_))) {
            return Err(problem("is not true or false".to_owned()));
        }
        Ok(Rule { expression: Some(expression) })
    }

    /// Whether the rule uses `variable`.
    pub fn uses(&self, variable: &str) -> bool {
        self.expression.as_ref().is_some_and(|expression| expression.uses(variable))
    }

    /// Whether `variables` satisfy the rule. An error is a no.
    pub fn is_satisfied(&self, variables: &Variables) -> bool {
        match &self.expression {
            None => true,
            Some(expression) => matches!(expression.evaluate(variables), Ok(Value::Bool(true))),
        }
    }
}

impl Permit {
    /// Whom the policy admitted.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }
}

/// Decides whether `identity` may, under `rule` and at `now`.
pub fn decide(
    rule: &Rule,
    identity: Arc<Identity>,
    variables: &Variables,
    now: UnixSeconds,
) -> Decision {
    if identity.deadline().is_some_and(|deadline| deadline <= now) {
        return Decision::Deny(Denial { reason: Reason::Expired });
    }
    if !rule.is_satisfied(variables) {
        return Decision::Deny(Denial { reason: Reason::Forbidden });
    }
    Decision::Allow(Permit { identity })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::{Method, Proof};

    fn identity(role: Value, expires: Option<UnixSeconds>) -> Arc<Identity> {
        let proof = Proof {
            subject: json!("alice"),
            method: Method::Jwt,
            verifier: "app".into(),
            issuer: None,
            session: None,
            token_id: None,
            issued_at: None,
            expires,
            leeway: 30,
            claims: json!({ "role": role }).to_string().into(),
        };
        Arc::new(Identity::proven(proof).unwrap())
    }

    fn decided(require: Option<&str>, identity: Arc<Identity>) -> Result<(), Reason> {
        let rule = Rule::compile(require).unwrap();
        let variables = Variables::from([("identity", identity.variable())]);
        match decide(&rule, Arc::clone(&identity), &variables, 1000) {
            Decision::Allow(permit) => {
                assert!(Arc::ptr_eq(permit.identity(), &identity));
                Ok(())
            }
            Decision::Deny(denial) => Err(denial.reason),
        }
    }

    #[test]
    fn the_rule_decides() {
        let rule = Some("identity.claims.role in [\"member\", \"admin\"]");
        assert_eq!(decided(rule, identity(json!("admin"), None)), Ok(()));
        assert_eq!(decided(rule, identity(json!("guest"), None)), Err(Reason::Forbidden));
        assert_eq!(decided(None, identity(json!("guest"), None)), Ok(()));
    }

    #[test]
    fn an_error_or_another_type_refuses() {
        for rule in [
            "identity.claims.nope == 1",
            "identity.claims.role + 1 == 2",
            "identity.claims.role",
            "identity.claims.role == \"1\" ? 1 : 2",
            "request.path == \"/\"",
        ] {
            let decision = decided(Some(rule), identity(json!("true"), None));
            assert_eq!(decision, Err(Reason::Forbidden), "{rule}");
        }
    }

    #[test]
    fn the_deadline_counts_with_leeway() {
        for (expires, expected) in [
            (Some(969), Err(Reason::Expired)),
            (Some(970), Err(Reason::Expired)),
            (Some(971), Ok(())),
            (Some(i64::MAX), Ok(())),
            (None, Ok(())),
        ] {
            assert_eq!(decided(None, identity(json!("a"), expires)), expected, "{expires:?}");
        }
        let both = decided(Some("false"), identity(json!("a"), Some(1)));
        assert_eq!(both, Err(Reason::Expired));
    }

    #[test]
    fn rules_that_cannot_decide_are_refused() {
        for rule in ["\"yes\"", "1", "identiy.subject == \"a\"", "claims.role == 1", "true &&"] {
            assert_eq!(Rule::compile(Some(rule)).err().unwrap().path, "require", "{rule}");
        }
        assert!(Rule::compile(Some("true")).is_ok());
        assert!(Rule::compile(Some("message.room == \"a\"")).unwrap().uses("message"));
        assert!(!Rule::compile(None).unwrap().uses("request"));
    }
}
