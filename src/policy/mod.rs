//! May this identity open this connection: origins, the rule, limits.
//!
//! Pure: values and `now` in, decisions out. Who the identity is was settled by
//! a verifier; what a refusal looks like is for the pipeline.

mod config;
mod limit;
mod origin;
mod preview;
mod rule;

pub use self::config::{
    CodesConfig, LimitsConfig, OnSubjectLimit, OriginsConfig, Reject, RouteLimitsConfig,
};
pub use self::limit::{Counts, IpKey, RateLimiter, Slot};
pub use self::origin::{Origins, OwnOrigin};
pub use self::preview::{Preview, Previews};
pub use self::rule::{Decision, Denial, Permit, Rule, decide};
