//! The configuration file: assembled from the rooms' own types, read, checked
//! as a whole.
//!
//! A file goes through four steps, and every step reports all that is wrong:
//!
//! 1. `source`: text (YAML or TOML) → a tree of values; `environment` puts the
//!    overrides of `server`, `admin`, `log` and `limits` over it.
//! 2. `shape`: the tree → [`FileConfig`]; unknown keys, wrong types, missing keys.
//! 3. `check` and `routes`: what the keys mean together; names, ranges, exposure.
//! 4. not here: the pipeline's plan compiles expressions and loads keys, with
//!    the rooms' own functions and the same [`Problem`](crate::problem::Problem).
//!
//! No message repeats a value that may be a secret. No room imports this one.

mod address;
mod check;
mod effective;
mod environment;
mod file;
mod lifetime;
mod load;
mod logouts;
mod read;
mod routes;
mod schema;
mod shape;
mod source;
#[cfg(test)]
mod tests;
mod tickets;

pub use self::check::key as key_path;
pub use self::file::{AdminConfig, FileConfig, PolicyConfig, RouteConfig};
pub use self::load::{LoadError, Loaded, load, load_from};
pub use self::schema::schema;
