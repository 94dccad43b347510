//! What is wrong with a configuration: one [`Problem`] each, gathered so that
//! all are reported at once.

use std::fmt;

/// One thing to mend: where, what, and the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key path, such as `routes[0].policy`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and how to mend it; never a secret.
    pub message: String,
}

impl Problem {
    /// A problem at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { path: path.into(), message: message.into() }
    }

    /// The same problem below `prefix`: `token` under `admin` is `admin.token`.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Problem {
        self.path = match self.path.as_str() {
            "" => prefix.to_owned(),
            rest if rest.starts_with('[') => format!("{prefix}{rest}"),
            rest => format!("{prefix}.{rest}"),
        };
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            formatter.write_str(&self.message)
        } else {
            write!(formatter, "{}: {}", self.path, self.message)
        }
    }
}

/// `; did you mean "members"?` for the nearest of `known`, or nothing.
pub fn suggestion<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(written, name), name))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| format!("; did you mean \"{name}\"?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_join() {
        assert_eq!(Problem::new("token", "x").under("admin").path, "admin.token");
        assert_eq!(Problem::new("[0].host", "x").under("routes").path, "routes[0].host");
        assert_eq!(Problem::new("", "x").under("routes").path, "routes");
    }

    #[test]
    fn suggests_the_nearest_name_only_if_near() {
        assert_eq!(suggestion("mebers", ["public", "members"]), "; did you mean \"members\"?");
        assert_eq!(suggestion("zzz", ["public", "members"]), "");
    }
}
