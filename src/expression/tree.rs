//! The tree of an expression: what it is made of, and how a part of it is made
//! to pay.

use std::collections::BTreeSet;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::CelInt;

use super::function::{CHARGE, FUEL};

const TYPES: [&str; 11] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "optional_type",
    "string",
    "type",
    "uint",
];

/// Whether `name` is that of a CEL type, as in `type(x) == string`.
pub(super) fn is_type(name: &str) -> bool {
    TYPES.contains(&name)
}

/// Every dotted name in a checked expression that may be a variable's.
pub(super) fn names(root: &IdedExpr) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    collect_names(&root.expr, &mut names);
    names
}

/// Wraps `node` so that its value costs `weight` steps for each of its parts.
pub(super) fn charge(node: &mut IdedExpr, weight: usize) {
    let id = node.id;
    let weight = CelInt::from(i64::try_from(weight).unwrap_or(i64::MAX));
    let weight = IdedExpr { id, expr: Expr::Literal(LiteralValue::Int(weight)) };
    let value = std::mem::take(node);
    *node = IdedExpr {
        id,
        expr: Expr::Call(CallExpr {
            func_name: CHARGE.to_owned(),
            target: None,
            args: vec![value, weight, inner_name(id, FUEL)],
        }),
    };
}

/// The text that every value of an expression begins and ends with because it is
/// written there: `"a:"` and `"!"` of `"a:" + x + "!"`.
pub(super) fn affixes(root: &IdedExpr) -> [String; 2] {
    let mut terms = Vec::new();
    collect_terms(root, &mut terms);
    let written: Vec<Option<&str>> = terms.iter().map(|term| text(term)).collect();
    if written.iter().all(Option::is_some) {
        return Default::default();
    }
    let prefix = written.iter().map_while(|text| *text).collect();
    let suffix: Vec<&str> = written.iter().rev().map_while(|text| *text).collect();
    [prefix, suffix.into_iter().rev().collect()]
}

/// The terms of a sum, in order; an expression that is none is one.
fn collect_terms<'a>(node: &'a IdedExpr, terms: &mut Vec<&'a IdedExpr>) {
    match &node.expr {
        Expr::Call(call) if call.func_name == operators::ADD && call.target.is_none() => {
            call.args.iter().for_each(|term| collect_terms(term, terms));
        }
        _ => terms.push(node),
    }
}

fn text(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

pub(super) fn inner_name(id: u64, name: &str) -> IdedExpr {
    IdedExpr { id, expr: Expr::Ident(format!("@{name}")) }
}

pub(super) fn is_literal(node: &IdedExpr) -> bool {
    matches!(node.expr, Expr::Literal(_))
}

pub(super) fn is_inner(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::Ident(name) if name.starts_with('@'))
}

/// The parts of an expression, the comprehensions among them included.
fn parts(expr: &Expr) -> Vec<&IdedExpr> {
    match expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => Vec::new(),
        Expr::Select(select) => vec![&*select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(comprehension) => vec![
            &comprehension.iter_range,
            &comprehension.accu_init,
            &comprehension.loop_cond,
            &comprehension.loop_step,
            &comprehension.result,
        ],
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Struct(message) => {
            message.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect()
        }
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        EntryExpr::StructField(field) => vec![&field.value],
    }
}

pub(super) fn size(expr: &Expr) -> usize {
    1 + parts(expr).into_iter().map(|part| size(&part.expr)).sum::<usize>()
}

fn collect_names(expr: &Expr, names: &mut BTreeSet<String>) {
    match dotted(expr) {
        Some(name) => {
            if !name.starts_with('@') && !is_type(&name) {
                names.insert(name);
            }
        }
        None => parts(expr).into_iter().for_each(|part| collect_names(&part.expr, names)),
    }
}

/// `a.b.c`, if the expression is such a name.
fn dotted(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            dotted(&select.operand.expr).map(|operand| format!("{operand}.{}", select.field))
        }
        _ => None,
    }
}
