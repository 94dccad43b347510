//! The variables of an expression: two or three, looked up by walking them.

use serde_json::Value;

/// The variables that an expression sees, by name.
#[derive(Clone, Default)]
pub struct Variables(Vec<(&'static str, Value)>);

impl Variables {
    /// None at all.
    pub fn new() -> Variables {
        Variables::default()
    }

    /// Sets `name`, whatever it was.
    pub fn insert(&mut self, name: &'static str, value: Value) {
        match self.get_mut(name) {
            Some(known) => *known = value,
            None => self.0.push((name, value)),
        }
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.0.iter_mut().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Takes `name` out.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Sets all that `others` are.
    pub fn extend(&mut self, others: Variables) {
        for (name, value) in others.0 {
            self.insert(name, value);
        }
    }
}

impl<const N: usize> From<[(&'static str, Value); N]> for Variables {
    fn from(variables: [(&'static str, Value); N]) -> Variables {
        Variables(variables.into())
    }
}
