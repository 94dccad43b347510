//! CEL expressions (<https://cel.dev>), compiled once, bounded in size and time.
//!
//! An expression comes from the configuration and is trusted; the values it
//! sees come from clients and are not. So everything that depends on the text
//! alone is refused when it is compiled (names, functions, patterns, nesting),
//! and everything that grows with the values costs fuel when it is evaluated.
//! This room knows no variable: callers name them and bring their values.

mod check;
mod convert;
mod function;
mod plan;
mod tree;
mod variables;

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use self::check::Checked;
use self::plan::Plan;
pub use self::variables::Variables;
use crate::problem::suggestion;

/// The longest source, in bytes.
const MAX_SOURCE: usize = 4096;

/// Enough for any source of [`MAX_SOURCE`]: the parser recurses once per operator.
const PARSER_STACK: usize = 64 << 20;

/// A compiled CEL expression.
pub struct Expression {
    source: Box<str>,
    variables: Box<[Box<str>]>,
    affixes: [Box<str>; 2],
    plan: Plan,
}

/// Why an expression cannot be used: one line, with line and column where known.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

/// Why an expression gave no value. Holds no value of any variable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// A key, claim or list element that is not there.
    #[error("no such key")]
    Missing,
    /// Anything else: types, bounds, an over-long run.
    #[error("cannot be evaluated")]
    Failed,
}

impl Expression {
    /// Compiles `source`, which may use the variables named in `known`.
    ///
    /// # Errors
    /// If the source is over 4 KiB, is not CEL, names an unknown variable or
    /// function, nests too deep, has a pattern that is not a regular expression,
    /// or can be seen to fail always.
    pub fn compile(source: &str, known: &[&str]) -> Result<Expression, CompileError> {
        if source.trim().is_empty() {
            return Err(CompileError("is empty; expected a CEL expression".to_owned()));
        }
        if source.len() > MAX_SOURCE {
            return Err(CompileError(format!(
                "is {} bytes long; an expression may have at most {MAX_SOURCE}",
                source.len()
            )));
        }
        let checked = parse(source)?;
        if let Some(unknown) = checked.variables.iter().find(|name| !known.contains(&name.as_str()))
        {
            return Err(unknown_variable(unknown, known));
        }
        let variables = checked.variables.into_iter().map(String::into_boxed_str).collect();
        let affixes = checked.affixes.map(String::into_boxed_str);
        let plan = Plan::new(checked.root, checked.patterns)?;
        let mut expression = Expression { source: source.into(), variables, affixes, plan };
        expression.rehearse()?;
        Ok(expression)
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the expression uses `variable`.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.iter().any(|name| **name == *variable)
    }

    /// `text`, a value of the expression, without what is written out at its beginning
    /// and at its end: `x` of `"sess:" + x`. Values that differ differ without it, too.
    pub fn inner<'a>(&self, text: &'a str) -> &'a str {
        let [prefix, suffix] = &self.affixes;
        let inner = text.strip_prefix(&**prefix).and_then(|rest| rest.strip_suffix(&**suffix));
        inner.unwrap_or(text)
    }

    /// The names of an expression that is nothing but a dotted path, the
    /// variable's first.
    pub fn path(&self) -> Option<impl Iterator<Item = &str>> {
        match &self.plan {
            Plan::Path(path) => Some(path.iter().map(|name| &**name)),
            Plan::Constant(_) | Plan::Object(_) | Plan::List(_) | Plan::Program(_) => None,
        }
    }

    /// The value under `variables`. Never panics, and costs a bounded number of
    /// steps whatever the variables hold.
    ///
    /// # Errors
    /// [`EvaluateError::Missing`] for a key that is not there, else
    /// [`EvaluateError::Failed`].
    pub fn evaluate(&self, variables: &Variables) -> Result<Value, EvaluateError> {
        self.plan.evaluate(variables).map_err(EvaluateError::from)
    }

    /// Runs the expression once, so that what can be known to fail fails when
    /// the configuration is loaded. One without variables becomes its value.
    fn rehearse(&mut self) -> Result<(), CompileError> {
        // Variables have no value yet: only what none could mend counts.
        match self.plan.evaluate(&Variables::new()) {
            Ok(value) if self.variables.is_empty() => {
                self.plan = Plan::Constant(value);
                Ok(())
            }
            Err(failure) if self.variables.is_empty() => {
                Err(CompileError(format!("always fails: {}", failure.cause())))
            }
            Err(plan::Failure::Undeclared(name)) if !self.uses(&name) => {
                Err(CompileError(format!("unknown name \"{name}\"")))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl From<plan::Failure> for EvaluateError {
    fn from(failure: plan::Failure) -> EvaluateError {
        match failure {
            plan::Failure::Missing => EvaluateError::Missing,
            plan::Failure::Undeclared(_)
            | plan::Failure::Exhausted
            | plan::Failure::TooLarge
            | plan::Failure::Interpreter(_) => EvaluateError::Failed,
        }
    }
}

/// Parses and checks on a thread of its own: 4 KiB of operators can nest deeper
/// than a worker's stack, and the parser's faults end there as errors.
fn parse(source: &str) -> Result<Checked, CompileError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("cel-parser".to_owned())
            .stack_size(PARSER_STACK)
            .spawn_scoped(scope, || {
                catch_unwind(AssertUnwindSafe(|| check::parse(source)))
                    .unwrap_or_else(|_| Err(CompileError("cannot be parsed".to_owned())))
            })
            .map_err(|error| CompileError(format!("cannot be parsed: {error}")))?
            .join()
            .unwrap_or_else(|_| Err(CompileError("cannot be parsed".to_owned())))
    })
}

fn unknown_variable(unknown: &str, known: &[&str]) -> CompileError {
    let hint = suggestion(unknown, known.iter().copied());
    let names = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    CompileError(format!("unknown variable \"{unknown}\" (known: {names}){hint}"))
}

#[cfg(test)]
mod tests;
