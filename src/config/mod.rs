//! The configuration file.

mod file;

pub use self::file::{AdminConfig, FileConfig, PolicyConfig, RouteConfig};
