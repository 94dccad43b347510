//! `sockgate check` and `sockgate schema`.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::{UNUSABLE, load};
use crate::app;
use crate::config;

/// Validates `file`; prints the effective configuration, or every problem.
pub(super) fn run(file: &Path) -> ExitCode {
    let loaded = match load(file) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let validated = app::validate(&loaded);
    let further = match &validated {
        Ok(warnings) => warnings,
        Err(unusable) => &unusable.warnings,
    };
    for warning in loaded.warnings.iter().chain(further) {
        eprintln!("{}: warning: {warning}", file.display());
    }
    match validated {
        Ok(_) => {
            print(&loaded.effective());
            ExitCode::SUCCESS
        }
        Err(unusable) => {
            for problem in unusable.problems {
                eprintln!("{}: {problem}", file.display());
            }
            ExitCode::from(UNUSABLE)
        }
    }
}

/// Prints the JSON Schema.
pub(super) fn schema() -> anyhow::Result<ExitCode> {
    print(&format!("{}\n", serde_json::to_string_pretty(&config::schema())?));
    Ok(ExitCode::SUCCESS)
}

/// Prints to stdout; a reader that has left is no error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
