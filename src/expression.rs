//! CEL expressions, compiled once and bounded.

use std::collections::BTreeMap;

use serde_json::Value;

/// The variables that an expression sees, by name.
pub type Variables = BTreeMap<&'static str, Value>;

/// A compiled CEL expression.
pub struct Expression {
    source: Box<str>,
}

/// Why an expression cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

/// Why an expression gave no value. Holds no value of any variable.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A key or claim that is not there.
    #[error("no such key")]
    Missing,
    /// Anything else: types, bounds, an over-long run.
    #[error("cannot be evaluated")]
    Failed,
}

impl Expression {
    /// Compiles `source`, which may use the variables named in `known`.
    pub fn compile(_source: &str, _known: &[&str]) -> Result<Expression, CompileError> {
        todo!()
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the expression uses `variable`.
    pub fn uses(&self, _variable: &str) -> bool {
        todo!()
    }

    /// The value under `variables`.
    pub fn evaluate(&self, _variables: &Variables) -> Result<Value, EvaluateError> {
        todo!()
    }
}
