//! policy

mod config;

pub use self::config::{
    CodesConfig, LimitsConfig, OnSubjectLimit, OriginsConfig, Reject, RouteLimitsConfig,
};
