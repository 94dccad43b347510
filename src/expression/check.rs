//! What the text of an expression alone decides: its names, its functions, its
//! patterns, its nesting. The checked expression pays for what it does: see
//! [`charge`].

use std::collections::BTreeSet;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators,
};
use cel::parser::{ParseErrors, Parser};
use regex::{Regex, RegexBuilder};

use super::CompileError;
use super::function::{FUNCTIONS, Function, MATCHES, OPTIONAL};
use super::tree::{affixes, charge, inner_name, is_inner, is_literal, is_type, size};
use crate::problem::suggestion;

/// The deepest tree that is interpreted on a worker's stack.
const MAX_DEPTH: usize = 64;
/// The deepest nesting of `map`, `filter`, `all`, `exists` and `exists_one`.
const MAX_LOOPS: usize = 3;
/// The largest compiled pattern, in bytes.
const MAX_PATTERN: usize = 256 << 10;

const OPERATORS: [&str; 21] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::OPT_INDEX,
    operators::OPT_SELECT,
    operators::NOT_STRICTLY_FALSE,
    operators::IN,
];

const MACROS: [&str; 7] = ["has", "all", "exists", "exists_one", "existsOne", "map", "filter"];

/// An expression that may be evaluated.
pub(super) struct Checked {
    pub(super) root: IdedExpr,
    /// What [`affixes`] gives.
    pub(super) affixes: [String; 2],
    /// The free variables, by their first segment.
    pub(super) variables: BTreeSet<String>,
    /// The patterns of `matches`, in the order of their inner names.
    pub(super) patterns: Vec<Regex>,
}

/// Parses and checks `source`.
pub(super) fn parse(source: &str) -> Result<Checked, CompileError> {
    let (mut root, info) = Parser::new()
        .enable_optional_syntax(true)
        .parse_with_source_info(source)
        .map_err(|errors| syntax_error(&errors))?;
    let mut checker = Checker {
        source,
        info,
        locals: Vec::new(),
        variables: BTreeSet::new(),
        patterns: Vec::new(),
    };
    let affixes = affixes(&root);
    checker.visit(&mut root, MAX_DEPTH, MAX_LOOPS)?;
    Ok(Checked { root, affixes, variables: checker.variables, patterns: checker.patterns })
}

/// `text` without line breaks and of a readable length.
pub(super) fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(160) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

struct Checker<'s> {
    source: &'s str,
    info: SourceInfo,
    locals: Vec<String>,
    variables: BTreeSet<String>,
    patterns: Vec<Regex>,
}

impl Checker<'_> {
    fn visit(
        &mut self,
        node: &mut IdedExpr,
        depth: usize,
        loops: usize,
    ) -> Result<(), CompileError> {
        let id = node.id;
        let Some(deeper) = depth.checked_sub(1) else {
            return Err(CompileError(format!(
                "nests deeper than {MAX_DEPTH} levels{}",
                self.place(id)
            )));
        };
        let mut pays = false;
        match &mut node.expr {
            Expr::Literal(_) => {}
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.visit(&mut select.operand, deeper, loops)?,
            Expr::List(list) => {
                pays = !list.elements.iter().all(is_literal);
                for element in &mut list.elements {
                    self.visit(element, deeper, loops)?;
                }
            }
            Expr::Map(map) => {
                pays = !map.entries.is_empty();
                for entry in &mut map.entries {
                    match &mut entry.expr {
                        EntryExpr::MapEntry(entry) => {
                            self.visit(&mut entry.key, deeper, loops)?;
                            self.visit(&mut entry.value, deeper, loops)?;
                        }
                        EntryExpr::StructField(_) => return Err(self.message(id)),
                    }
                }
            }
            Expr::Call(call) => {
                pays = self.call(id, call, deeper, loops)?;
            }
            Expr::Comprehension(comprehension) => {
                self.comprehension(id, comprehension, deeper, loops)?;
            }
            Expr::Struct(_) => return Err(self.message(id)),
            Expr::Unspecified => {
                return Err(CompileError(format!("cannot be read{}", self.place(id))));
            }
        }
        if pays {
            charge(node, 1);
        }
        Ok(())
    }

    fn name(&mut self, name: &str) {
        let inner = name.starts_with('@') || self.locals.iter().any(|local| local == name);
        if !inner && !is_type(name) {
            self.variables.insert(name.to_owned());
        }
    }

    /// Checks a call; says whether its result must be paid for.
    fn call(
        &mut self,
        id: u64,
        call: &mut CallExpr,
        depth: usize,
        loops: usize,
    ) -> Result<bool, CompileError> {
        if OPERATORS.contains(&call.func_name.as_str()) {
            let adds = call.func_name == operators::ADD;
            // `@result + [item]` of map and filter must keep its shape: the
            // interpreter appends in place then. The item pays for itself.
            let appends = adds && matches!(call.args.first(), Some(first) if is_inner(first));
            for argument in &mut call.args {
                match &mut argument.expr {
                    Expr::List(list) if appends => {
                        for element in &mut list.elements {
                            self.visit(element, depth, loops)?;
                        }
                    }
                    _ => self.visit(argument, depth, loops)?,
                }
            }
            return Ok(adds && !appends);
        }
        let namespaced = matches!(&call.target, Some(target)
            if matches!(&target.expr, Expr::Ident(name) if name == "optional"));
        let known = if namespaced { OPTIONAL } else { FUNCTIONS };
        self.known(id, call, known, namespaced)?;
        if let Some(target) = &mut call.target
            && !namespaced
        {
            self.visit(target, depth, loops)?;
        }
        for argument in &mut call.args {
            self.visit(argument, depth, loops)?;
        }
        if call.func_name == "matches" {
            self.compile_pattern(id, call)?;
        }
        let operand = match &mut call.target {
            Some(target) if !namespaced => Some(&mut **target),
            Some(_) | None => call.args.first_mut(),
        };
        if let Some(operand) = operand
            && !is_literal(operand)
        {
            charge(operand, 1);
        }
        Ok(false)
    }

    /// Refuses a function that does not exist, or not with these arguments.
    fn known(
        &self,
        id: u64,
        call: &CallExpr,
        known: &[Function],
        namespaced: bool,
    ) -> Result<(), CompileError> {
        let name = call.func_name.as_str();
        let place = self.place(id);
        if MACROS.contains(&name) && !namespaced {
            return Err(CompileError(format!("\"{name}\" does not take these arguments{place}")));
        }
        let Some(function) = known.iter().find(|function| function.name == name) else {
            let names = known.iter().map(|function| function.name).chain(MACROS);
            let hint = suggestion(name, names);
            return Err(CompileError(format!("unknown function \"{name}\"{place}{hint}")));
        };
        let as_method = call.target.is_some() && !namespaced;
        let counts = if as_method { function.method } else { function.plain };
        if counts.contains(&call.args.len()) {
            return Ok(());
        }
        let mut forms: Vec<String> = Vec::new();
        for count in function.plain {
            forms.push(format!("{name}({})", placeholders(*count)));
        }
        for count in function.method {
            forms.push(format!("x.{name}({})", placeholders(*count)));
        }
        Err(CompileError(format!("\"{name}\" is called as {}{place}", forms.join(" or "))))
    }

    /// Puts a pattern that is compiled once in the place of the text.
    fn compile_pattern(&mut self, id: u64, call: &mut CallExpr) -> Result<(), CompileError> {
        let place = self.place(id);
        let Some(Expr::Literal(LiteralValue::String(pattern))) =
            call.args.last().map(|argument| &argument.expr)
        else {
            return Err(CompileError(format!("the pattern of matches() must be text{place}")));
        };
        let regex = RegexBuilder::new(pattern.inner())
            .size_limit(MAX_PATTERN)
            .dfa_size_limit(MAX_PATTERN)
            .build()
            .map_err(|error| {
                // The last line says what is wrong, those before draw where.
                let error = error.to_string();
                let cause = error.lines().last().unwrap_or_default();
                let cause = cause.trim_start_matches("error: ");
                CompileError(format!("the pattern of matches() is not valid: {cause}{place}"))
            })?;
        let inner = inner_name(id, &self.patterns.len().to_string());
        self.patterns.push(regex);
        call.func_name = MATCHES.to_owned();
        call.args.pop();
        if let Some(target) = call.target.take() {
            call.args.push(*target);
        }
        call.args.push(inner);
        Ok(())
    }

    fn comprehension(
        &mut self,
        id: u64,
        comprehension: &mut ComprehensionExpr,
        depth: usize,
        loops: usize,
    ) -> Result<(), CompileError> {
        let Some(loops_left) = loops.checked_sub(1) else {
            return Err(CompileError(format!(
                "nests more than {MAX_LOOPS} loops{}",
                self.place(id)
            )));
        };
        // A loop in the range runs once, a loop in the body once per element;
        // both count as nested: nobody needs either.
        self.visit(&mut comprehension.iter_range, depth, loops_left)?;
        self.visit(&mut comprehension.accu_init, depth, loops_left)?;
        let outer = self.locals.len();
        self.locals.push(comprehension.iter_var.clone());
        self.locals.extend(comprehension.iter_var2.clone());
        self.locals.push(comprehension.accu_var.clone());
        for part in
            [&mut comprehension.loop_cond, &mut comprehension.loop_step, &mut comprehension.result]
        {
            self.visit(part, depth, loops_left)?;
        }
        self.locals.truncate(outer);
        let body = size(&comprehension.loop_cond.expr) + size(&comprehension.loop_step.expr);
        charge(&mut comprehension.iter_range, body);
        Ok(())
    }

    fn message(&self, id: u64) -> CompileError {
        CompileError(format!("has a message literal, which has no use here{}", self.place(id)))
    }

    /// ` (line 1, column 7)`, or nothing if unknown.
    fn place(&self, id: u64) -> String {
        let Some((start, _)) = self.info.offset_for(id) else { return String::new() };
        let before: String = self.source.chars().take(start as usize).collect();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!(" (line {line}, column {column})")
    }
}

/// The first error, on one line.
fn syntax_error(errors: &ParseErrors) -> CompileError {
    let Some(error) = errors.errors.first() else {
        return CompileError("is not a CEL expression".to_owned());
    };
    // What ANTLR would have accepted is a list of every token there is.
    let message = error.msg.split(" expecting {").next().unwrap_or_default();
    let message = one_line(message.trim_start_matches("Syntax error: "));
    let (line, column) = error.pos;
    if line < 1 {
        return CompileError(format!("is not a CEL expression: {message}"));
    }
    CompileError(format!(
        "is not a CEL expression: {message} (line {line}, column {})",
        column.max(0) + 1
    ))
}

fn placeholders(count: usize) -> &'static str {
    match count {
        0 => "",
        1 => "y",
        _ => "x, y",
    }
}
