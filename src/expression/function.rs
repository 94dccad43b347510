//! The functions that an expression may call: CEL's standard ones, our own, and
//! the inner ones that keep a run within its fuel.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cel::common::functions::Function as Implementation;
use cel::common::types::{
    CelBool, CelBytes, CelInt, CelList, CelMap, CelString, DYN_TYPE, LIST_TYPE, STRING_TYPE, Type,
};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::{DeclarationError, Env, ExecutionError};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use regex::Regex;

use super::CompileError;
use super::convert::{Budget, from_cel};
use super::plan::MAX_RESULT;
use crate::hex::hex;

/// The name, behind an `@`, under which a run finds its fuel.
pub(super) const FUEL: &str = "fuel";
/// `@charge(value, weight, @fuel)`: the value, once its size is paid for.
pub(super) const CHARGE: &str = "@charge";
/// `@matches(text, @0)`: RE2 matching with a pattern compiled beforehand.
pub(super) const MATCHES: &str = "@matches";

/// Steps of one run; a step is around 100 ns.
const FULL: u64 = 200_000;

/// A function and the numbers of arguments it takes: called plainly, and as a
/// method (the receiver not counted).
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) plain: &'static [usize],
    pub(super) method: &'static [usize],
}

const fn function(
    name: &'static str,
    plain: &'static [usize],
    method: &'static [usize],
) -> Function {
    Function { name, plain, method }
}

/// Every function there is, but for operators and macros.
pub(super) const FUNCTIONS: &[Function] = &[
    function("bool", &[1], &[]),
    function("bytes", &[1], &[]),
    function("contains", &[], &[1]),
    function("double", &[1], &[]),
    function("duration", &[1], &[]),
    function("dyn", &[1], &[]),
    function("endsWith", &[], &[1]),
    function("getDate", &[], &[0, 1]),
    function("getDayOfMonth", &[], &[0, 1]),
    function("getDayOfWeek", &[], &[0, 1]),
    function("getDayOfYear", &[], &[0, 1]),
    function("getFullYear", &[], &[0, 1]),
    function("getHours", &[], &[0, 1]),
    function("getMilliseconds", &[], &[0, 1]),
    function("getMinutes", &[], &[0, 1]),
    function("getMonth", &[], &[0, 1]),
    function("getSeconds", &[], &[0, 1]),
    function("hasValue", &[], &[0]),
    function("int", &[1], &[]),
    function("matches", &[2], &[1]),
    function("or", &[], &[1]),
    function("orValue", &[], &[1]),
    function("size", &[1], &[0]),
    function("startsWith", &[], &[1]),
    function("string", &[1], &[]),
    function("timestamp", &[1], &[]),
    function("type", &[1], &[]),
    function("uint", &[1], &[]),
    function("value", &[], &[0]),
    function("base64", &[1], &[]),
    function("join", &[2], &[1]),
    function("json", &[1], &[]),
    function("sha256", &[1], &[]),
    function("split", &[2], &[1]),
    function("url_encode", &[1], &[]),
];

/// `optional.of(x)` and its siblings.
pub(super) const OPTIONAL: &[Function] = &[
    function("none", &[0], &[]),
    function("of", &[1], &[]),
    function("ofNonZeroValue", &[1], &[]),
];

/// The standard environment with our functions.
pub(super) fn environment() -> Result<Env, CompileError> {
    let mut environment = Env::stdlib();
    declare(&mut environment)
        .map_err(|error| CompileError(format!("cannot be evaluated: {error}")))?;
    Ok(environment)
}

fn declare(environment: &mut Env) -> Result<(), DeclarationError> {
    let plain: [(&str, Vec<Type>, Implementation); 8] = [
        ("sha256", vec![DYN_TYPE], sha256),
        ("base64", vec![DYN_TYPE], base64),
        ("url_encode", vec![STRING_TYPE], url_encode),
        ("json", vec![DYN_TYPE], json),
        ("join", vec![LIST_TYPE, STRING_TYPE], join),
        ("split", vec![STRING_TYPE, STRING_TYPE], split),
        (CHARGE, vec![DYN_TYPE, DYN_TYPE, DYN_TYPE], charge),
        (MATCHES, vec![DYN_TYPE, DYN_TYPE], matches),
    ];
    for (name, types, implementation) in plain {
        environment.add_overload(name, name, types, implementation)?;
    }
    environment.add_member_overload("join", "list_join", LIST_TYPE, vec![STRING_TYPE], join)?;
    environment.add_member_overload("split", "string_split", STRING_TYPE, vec![STRING_TYPE], split)
}

/// What a run may still spend.
#[derive(Debug)]
pub(super) struct Fuel(AtomicU64);

impl Fuel {
    pub(super) fn full() -> Fuel {
        Fuel(AtomicU64::new(FULL))
    }

    /// Whether a run asked for more than there was.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn spend(&self, steps: u64) {
        self.0.store(self.left().saturating_sub(steps), Ordering::Relaxed);
    }
}

/// A pattern compiled with the expression.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Regex);

impl Pattern {
    pub(super) fn new(regex: Regex) -> Pattern {
        Pattern(regex)
    }
}

/// Opaque to expressions: no operator and no function of theirs takes one.
macro_rules! inner_value {
    ($type:ident, $clone:expr) => {
        impl Val for $type {
            fn get_type(&self) -> &Type {
                &DYN_TYPE
            }

            fn cel_type() -> &'static Type {
                &DYN_TYPE
            }

            fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
                let clone: fn(&$type) -> $type = $clone;
                Box::new(clone(self))
            }

            fn as_any(&self) -> Option<&dyn Any> {
                Some(self)
            }
        }

        impl StaticVal for $type {}
    };
}

inner_value!(Fuel, |fuel| Fuel(AtomicU64::new(fuel.left())));
inner_value!(Pattern, Pattern::clone);

type Arguments<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

fn charge<'b, 'v>(mut arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let [value, weight, fuel] = arguments.as_slice() else { return refuse(CHARGE) };
    let (Some(weight), Some(fuel)) = (weight.downcast_ref::<CelInt>(), fuel.downcast_ref::<Fuel>())
    else {
        return refuse(CHARGE);
    };
    let weight = u64::try_from(*weight.inner()).unwrap_or(u64::MAX).max(1);
    let limit = fuel.left() / weight;
    let steps = steps_of(value.as_ref(), limit);
    fuel.spend(steps.saturating_mul(weight));
    if steps >= limit {
        fuel.spend(u64::MAX);
        return refuse(CHARGE);
    }
    Ok(arguments.swap_remove(0))
}

/// One per value and one per 32 bytes, counted no further than `limit`.
fn steps_of(value: &dyn Val, limit: u64) -> u64 {
    let bytes = |length: usize| 1 + length as u64 / 32;
    if limit == 0 {
        return 1;
    }
    if let Some(text) = value.downcast_ref::<CelString>() {
        bytes(text.inner().len())
    } else if let Some(data) = value.downcast_ref::<CelBytes>() {
        bytes(data.inner().len())
    } else if let Some(list) = value.downcast_ref::<CelList>() {
        let mut steps = 1;
        for item in list.inner() {
            if steps >= limit {
                break;
            }
            steps += steps_of(item.as_ref(), limit - steps);
        }
        steps
    } else if let Some(map) = value.downcast_ref::<CelMap>() {
        let mut steps = 1;
        for (key, item) in map.inner() {
            if steps >= limit {
                break;
            }
            steps += steps_of(key.inner(), limit - steps);
            steps += steps_of(item.as_ref(), limit.saturating_sub(steps));
        }
        steps
    } else {
        1
    }
}

fn matches<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let [value, pattern] = arguments.as_slice() else { return refuse("matches") };
    let (Some(value), Some(pattern)) = (text(value), pattern.downcast_ref::<Pattern>()) else {
        return Err(ExecutionError::no_such_overload("matches", vec![]));
    };
    Ok(CowVal::owned(CelBool::from(pattern.0.is_match(value))))
}

fn sha256<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let data = octets(&arguments, "sha256")?;
    let digest = digest::digest(&digest::SHA256, data);
    string(hex(digest.as_ref()))
}

fn base64<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let data = octets(&arguments, "base64")?;
    if data.len() > MAX_RESULT {
        return refuse("base64");
    }
    string(STANDARD.encode(data))
}

fn url_encode<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let data = octets(&arguments, "url_encode")?;
    if data.len() > MAX_RESULT {
        return refuse("url_encode");
    }
    string(percent_encode(data, ESCAPED).to_string())
}

/// All but what is unreserved (RFC 3986 §2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn json<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let [value] = arguments.as_slice() else { return refuse("json") };
    match from_cel(value.as_ref(), &mut Budget::new(MAX_RESULT)) {
        Ok(value) => string(value.to_string()),
        Err(_) => refuse("json"),
    }
}

fn join<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let [list, separator] = arguments.as_slice() else { return refuse("join") };
    let (Some(list), Some(separator)) = (list.downcast_ref::<CelList>(), text(separator)) else {
        return refuse("join");
    };
    let mut joined = String::new();
    for (index, item) in list.inner().iter().enumerate() {
        let Some(item) = item.downcast_ref::<CelString>() else { return refuse("join") };
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(item.inner());
        if joined.len() > MAX_RESULT {
            return refuse("join");
        }
    }
    string(joined)
}

fn split<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let [whole, separator] = arguments.as_slice() else { return refuse("split") };
    let (Some(whole), Some(separator)) = (text(whole), text(separator)) else {
        return refuse("split");
    };
    if separator.is_empty() || whole.len() > MAX_RESULT {
        return refuse("split");
    }
    let parts: Vec<Box<dyn Val + 'v>> = whole
        .split(separator)
        .map(|part| Box::new(CelString::from(part.to_owned())) as Box<dyn Val + 'v>)
        .collect();
    Ok(CowVal::owned(CelList::from(parts)))
}

fn text<'a>(value: &'a CowVal<'_, '_>) -> Option<&'a str> {
    value.downcast_ref::<CelString>().map(CelString::inner)
}

/// The bytes of the only argument.
fn octets<'a>(arguments: &'a Arguments<'_, '_>, name: &str) -> Result<&'a [u8], ExecutionError> {
    let value = arguments.first().ok_or_else(|| no_value(name))?;
    if let Some(data) = value.downcast_ref::<CelBytes>() {
        return Ok(data.inner());
    }
    text(value).map(str::as_bytes).ok_or_else(|| no_value(name))
}

fn string<'b, 'v>(text: String) -> Outcome<'b, 'v> {
    if text.len() > 2 * MAX_RESULT {
        return refuse("string");
    }
    Ok(CowVal::owned(CelString::from(text)))
}

fn no_value(name: &str) -> ExecutionError {
    ExecutionError::function_error(name, "not for this value")
}

fn refuse<'b, 'v>(name: &str) -> Outcome<'b, 'v> {
    Err(no_value(name))
}
