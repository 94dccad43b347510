//! How an expression is evaluated: looked up or assembled where that is all it
//! asks for, interpreted where not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError};
use regex::Regex;
use serde_json::{Map, Value};

use super::convert::{Budget, copy, from_cel, to_cel};
use super::function::{CHARGE, FUEL, Fuel, Pattern, environment};
use super::{CompileError, Variables, check, tree};

/// The largest result: bytes of text, keys and elements together.
pub(super) const MAX_RESULT: usize = 64 << 10;

/// The ways to a value, cheapest first.
pub(super) enum Plan {
    /// Text, a number: known already.
    Constant(Value),
    /// A dotted path over a variable: one look-up per segment.
    Path(Box<[Box<str>]>),
    /// A map whose keys are written out, in the order written.
    Object(Box<[(Box<str>, Plan)]>),
    /// A list.
    List(Box<[Plan]>),
    /// Anything else.
    Program(Box<Program>),
}

/// What the interpreter needs.
pub(super) struct Program {
    root: IdedExpr,
    environment: Arc<Env>,
    /// The dotted names in the program: what of the variables is converted.
    names: Box<[Name]>,
    patterns: Arc<[Pattern]>,
}

/// A dotted name and its segments.
struct Name {
    written: Box<str>,
    path: Box<[Box<str>]>,
}

/// Why there is no value.
#[derive(Debug)]
pub(super) enum Failure {
    /// A key or element that is not there.
    Missing,
    /// A name that no variable, type or function has.
    Undeclared(String),
    /// The fuel ran out.
    Exhausted,
    /// The result is over [`MAX_RESULT`], or nests too deep.
    TooLarge,
    /// What the interpreter says. It may quote values: for the rehearsal only.
    Interpreter(String),
}

impl Plan {
    /// The plan of a checked expression.
    pub(super) fn new(root: IdedExpr, patterns: Vec<Regex>) -> Result<Plan, CompileError> {
        let patterns: Arc<[Pattern]> = patterns.into_iter().map(Pattern::new).collect();
        let mut shared = None;
        plan(root, &patterns, &mut shared)
    }

    /// The value under `variables`.
    pub(super) fn evaluate(&self, variables: &Variables) -> Result<Value, Failure> {
        self.within(variables, &mut Budget::new(MAX_RESULT))
    }

    fn within(&self, variables: &Variables, budget: &mut Budget) -> Result<Value, Failure> {
        match self {
            Plan::Constant(value) => copy(value, budget),
            Plan::Path(path) => copy(look_up(variables, path)?, budget),
            Plan::Object(entries) => {
                let mut object = Map::with_capacity(entries.len());
                for (key, plan) in entries {
                    budget.spend(key.len())?;
                    object.insert(key.to_string(), plan.within(variables, budget)?);
                }
                Ok(Value::Object(object))
            }
            Plan::List(items) => {
                items.iter().map(|plan| plan.within(variables, budget)).collect::<Result<_, _>>()
            }
            Plan::Program(program) => program.run(variables, budget),
        }
    }
}

impl Program {
    fn run(&self, variables: &Variables, budget: &mut Budget) -> Result<Value, Failure> {
        // The interpreter is a third party's: a fault of it is a refusal here
        // and not the end of the process.
        catch_unwind(AssertUnwindSafe(|| self.interpret(variables, budget)))
            .unwrap_or_else(|_| Err(Failure::Interpreter("interpreter fault".to_owned())))
    }

    fn interpret(&self, variables: &Variables, budget: &mut Budget) -> Result<Value, Failure> {
        let scope = Scope {
            variables,
            names: self
                .names
                .iter()
                .map(|name| {
                    let value = look_up(variables, &name.path).ok().map(to_cel).transpose()?;
                    Ok((&*name.written, value))
                })
                .collect::<Result<_, Failure>>()?,
            fuel: Fuel::full(),
            patterns: &self.patterns,
        };
        let mut context = Context::with_env(Arc::clone(&self.environment));
        context.set_variable_resolver(&scope);
        let result = cel::Value::resolve_val(&self.root, &context);
        // Logical operators may have absorbed the error: an exhausted run is
        // no answer, whatever it says.
        if scope.fuel.is_exhausted() {
            return Err(Failure::Exhausted);
        }
        from_cel(result.map_err(failure)?.as_ref(), budget)
    }
}

impl Failure {
    /// For a person who reads why an expression without variables fails.
    pub(super) fn cause(&self) -> String {
        match self {
            Failure::Missing => "no such key".to_owned(),
            Failure::Undeclared(name) => format!("unknown name \"{name}\""),
            Failure::Exhausted => "takes too many steps".to_owned(),
            Failure::TooLarge => format!("gives more than {} KiB", MAX_RESULT >> 10),
            Failure::Interpreter(text) => check::one_line(text),
        }
    }
}

/// What the interpreter sees: the variables, and what our own functions need.
struct Scope<'v> {
    variables: &'v Variables,
    names: Vec<(&'v str, Option<Box<dyn Val + 'v>>)>,
    fuel: Fuel,
    patterns: &'v [Pattern],
}

impl VariableResolver for Scope<'_> {
    /// The interpreter asks for the longest dotted name first (`a.b.c`, `a.b`,
    /// `a`), so only what an expression selects is ever converted.
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if let Some(internal) = name.strip_prefix('@') {
            if internal == FUEL {
                return Some(CowVal::Borrowed(&self.fuel));
            }
            let pattern = self.patterns.get(internal.parse::<usize>().ok()?)?;
            return Some(CowVal::Borrowed(pattern));
        }
        if let Some((_, value)) = self.names.iter().find(|(known, _)| *known == name) {
            return value.as_deref().map(CowVal::Borrowed);
        }
        // A path that ends early: the interpreter wants what there is of it, to
        // say which key is missing.
        let path: Vec<&str> = name.split('.').collect();
        let value = to_cel(look_up(self.variables, &path).ok()?).ok()?;
        Some(CowVal::Owned(value))
    }
}

/// The value at `path`: the variable, then one member per segment.
fn look_up<'v, S: AsRef<str>>(variables: &'v Variables, path: &[S]) -> Result<&'v Value, Failure> {
    let (variable, members) = path.split_first().ok_or(Failure::Missing)?;
    let mut value = variables.get(variable.as_ref()).ok_or(Failure::Missing)?;
    for member in members {
        value = match value {
            Value::Object(object) => object.get(member.as_ref()).ok_or(Failure::Missing)?,
            Value::Null => return Err(Failure::Missing),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(Failure::Interpreter("member of something that has none".to_owned()));
            }
        };
    }
    Ok(value)
}

/// The cheapest plan of `node`; `shared` is the environment, built at most once.
fn plan(
    node: IdedExpr,
    patterns: &Arc<[Pattern]>,
    shared: &mut Option<Arc<Env>>,
) -> Result<Plan, CompileError> {
    let node = unpaid(node);
    if let Some(path) = path_of(&node.expr) {
        return Ok(Plan::Path(path));
    }
    match node.expr {
        Expr::Literal(LiteralValue::String(text)) => {
            Ok(Plan::Constant(Value::String(text.into_inner())))
        }
        Expr::List(list) if list.optional_indices.is_empty() => {
            let items = list.elements.into_iter().map(|item| plan(item, patterns, shared));
            Ok(Plan::List(items.collect::<Result<_, _>>()?))
        }
        Expr::Map(map) if map.entries.iter().all(|entry| text_key(&entry.expr).is_some()) => {
            let mut entries = Vec::with_capacity(map.entries.len());
            for entry in map.entries {
                let Some(key) = text_key(&entry.expr).map(Box::<str>::from) else { continue };
                if entries.iter().any(|(known, _)| *known == key) {
                    return Err(CompileError(format!("has the key \"{key}\" twice in one map")));
                }
                if let EntryExpr::MapEntry(entry) = entry.expr {
                    entries.push((key, plan(entry.value, patterns, shared)?));
                }
            }
            Ok(Plan::Object(entries.into()))
        }
        other => {
            let root = IdedExpr { id: node.id, expr: other };
            let environment = match shared {
                Some(environment) => Arc::clone(environment),
                None => Arc::clone(shared.insert(Arc::new(environment()?))),
            };
            let names = tree::names(&root)
                .into_iter()
                .map(|name| Name {
                    path: name.split('.').map(Box::from).collect(),
                    written: name.into_boxed_str(),
                })
                .collect();
            let patterns = Arc::clone(patterns);
            Ok(Plan::Program(Box::new(Program { root, environment, names, patterns })))
        }
    }
}

/// `node` without a charge on it: the size of a result has its own bound.
fn unpaid(node: IdedExpr) -> IdedExpr {
    match node.expr {
        Expr::Call(mut call) if call.func_name == CHARGE && !call.args.is_empty() => {
            call.args.swap_remove(0)
        }
        other => IdedExpr { id: node.id, expr: other },
    }
}

/// The key of a map entry that is plain text and not optional.
fn text_key(entry: &EntryExpr) -> Option<&str> {
    match entry {
        EntryExpr::MapEntry(entry) if !entry.optional => match &entry.key.expr {
            Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
            _ => None,
        },
        EntryExpr::MapEntry(_) | EntryExpr::StructField(_) => None,
    }
}

/// `a.b["c"]` as its segments, if the expression is nothing else.
fn path_of(expr: &Expr) -> Option<Box<[Box<str>]>> {
    let mut segments: Vec<Box<str>> = Vec::new();
    let mut expr = expr;
    loop {
        match expr {
            Expr::Ident(name) if !tree::is_type(name) => {
                segments.push(name.as_str().into());
                segments.reverse();
                return Some(segments.into());
            }
            Expr::Select(select) if !select.test => {
                segments.push(select.field.as_str().into());
                expr = &select.operand.expr;
            }
            Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
                [operand, key] => {
                    let Expr::Literal(LiteralValue::String(key)) = &key.expr else { return None };
                    segments.push(key.inner().into());
                    expr = &operand.expr;
                }
                _ => return None,
            },
            _ => return None,
        }
    }
}

fn failure(error: ExecutionError) -> Failure {
    match error {
        ExecutionError::NoSuchKey(_) | ExecutionError::IndexOutOfBounds(_) => Failure::Missing,
        ExecutionError::UndeclaredReference(name) => Failure::Undeclared(name.to_string()),
        other => Failure::Interpreter(other.to_string()),
    }
}
