//! JSON values to CEL values and back.

use std::collections::HashMap;

use cel::common::types::{
    CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelOptional,
    CelString, CelUInt,
};
use cel::common::value::Val;
use serde_json::{Map, Number, Value};

use super::plan::Failure;

/// Deeper values than any JSON parser of ours lets in.
const MAX_DEPTH: usize = 128;

/// What a result may still take: bytes of text, keys and elements together.
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn new(bytes: usize) -> Budget {
        Budget(bytes)
    }

    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), Failure> {
        self.0 = self.0.checked_sub(bytes).ok_or(Failure::TooLarge)?;
        Ok(())
    }
}

/// `value` for the interpreter: integers are `int`, larger ones `uint`, other
/// numbers `double`. Text is borrowed.
pub(super) fn to_cel(value: &Value) -> Result<Box<dyn Val + '_>, Failure> {
    into_cel(value, MAX_DEPTH)
}

/// `value` as JSON within `budget`. Keys come sorted, so that one value has one
/// text.
pub(super) fn from_cel(value: &dyn Val, budget: &mut Budget) -> Result<Value, Failure> {
    into_json(value, budget, MAX_DEPTH)
}

/// A copy of `value` within `budget`.
pub(super) fn copy(value: &Value, budget: &mut Budget) -> Result<Value, Failure> {
    measure(value, budget)?;
    Ok(value.clone())
}

fn measure(value: &Value, budget: &mut Budget) -> Result<(), Failure> {
    budget.spend(1)?;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        Value::String(text) => budget.spend(text.len()),
        Value::Array(items) => items.iter().try_for_each(|item| measure(item, budget)),
        Value::Object(members) => members.iter().try_for_each(|(key, item)| {
            budget.spend(key.len())?;
            measure(item, budget)
        }),
    }
}

fn into_cel(value: &Value, depth: usize) -> Result<Box<dyn Val + '_>, Failure> {
    let deeper = depth.checked_sub(1).ok_or(Failure::TooLarge)?;
    Ok(match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(truth) => Box::new(CelBool::from(*truth)),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), _, _) => Box::new(CelInt::from(integer)),
            (None, Some(large), _) => Box::new(CelUInt::from(large)),
            (None, None, Some(float)) => Box::new(CelDouble::from(float)),
            (None, None, None) => return Err(Failure::TooLarge),
        },
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(items) => {
            let items: Vec<_> =
                items.iter().map(|item| into_cel(item, deeper)).collect::<Result<_, _>>()?;
            Box::new(CelList::from(items))
        }
        Value::Object(members) => {
            let members: HashMap<CelMapKey<'_>, Box<dyn Val + '_>> = members
                .iter()
                .map(|(key, item)| Ok((CelMapKey::from(key.as_str()), into_cel(item, deeper)?)))
                .collect::<Result<_, Failure>>()?;
            Box::new(CelMap::from(members))
        }
    })
}

fn into_json(value: &dyn Val, budget: &mut Budget, depth: usize) -> Result<Value, Failure> {
    let deeper = depth.checked_sub(1).ok_or(Failure::TooLarge)?;
    budget.spend(1)?;
    if let Some(text) = value.downcast_ref::<CelString>() {
        budget.spend(text.inner().len())?;
        Ok(Value::String(text.inner().to_owned()))
    } else if let Some(list) = value.downcast_ref::<CelList>() {
        list.inner().iter().map(|item| into_json(item.as_ref(), budget, deeper)).collect()
    } else if let Some(map) = value.downcast_ref::<CelMap>() {
        let mut members = Vec::with_capacity(map.inner().len());
        for (key, item) in map.inner() {
            let key = match into_json(key.inner(), budget, deeper)? {
                Value::String(text) => text,
                other => other.to_string(),
            };
            members.push((key, into_json(item.as_ref(), budget, deeper)?));
        }
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Value::Object(Map::from_iter(members)))
    } else if let Some(optional) = value.downcast_ref::<CelOptional>() {
        optional.inner().map_or(Ok(Value::Null), |inner| into_json(inner, budget, deeper))
    } else if let Some(data) = value.downcast_ref::<CelBytes>() {
        budget.spend(data.inner().len())?;
        let text = std::str::from_utf8(data.inner()).map_err(|_| unprintable())?;
        Ok(Value::String(text.to_owned()))
    } else {
        scalar(value)
    }
}

fn scalar(value: &dyn Val) -> Result<Value, Failure> {
    let plain = cel::Value::try_from(value).map_err(|_| unprintable())?;
    match plain {
        cel::Value::Null => Ok(Value::Null),
        cel::Value::Bool(truth) => Ok(Value::Bool(truth)),
        cel::Value::Int(integer) => Ok(Value::from(integer)),
        cel::Value::UInt(integer) => Ok(Value::from(integer)),
        cel::Value::Float(float) => {
            Number::from_f64(float).map(Value::Number).ok_or_else(unprintable)
        }
        cel::Value::Timestamp(instant) => {
            let text = instant.to_rfc3339();
            let utc = text.strip_suffix("+00:00").map(|local| format!("{local}Z"));
            Ok(Value::String(utc.unwrap_or(text)))
        }
        _ => Err(unprintable()),
    }
}

fn unprintable() -> Failure {
    Failure::Interpreter("gives a value that JSON has no form for".to_owned())
}
