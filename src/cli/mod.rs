//! The command line: which verb, with which file.

mod check;
mod control;
mod explain;
mod keys;
mod serve;
mod signal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The exit status of a configuration that cannot be used.
const UNUSABLE: u8 = 2;

/// An auth proxy sidecar for WebSocket servers.
#[derive(Parser)]
#[command(
    name = "sockgate",
    version,
    about,
    subcommand_negates_reqs = true,
    after_help = "Without a command the gate runs with --config FILE until SIGTERM or SIGINT; SIGHUP\nreads the file again. SOCKGATE_<SECTION>__<KEY> overrides server, admin, log and limits."
)]
struct Arguments {
    /// The configuration file, YAML or TOML.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Validate; print the effective configuration, secrets masked.
    Check(File),
    /// Tell what would happen to one request, without any effect.
    Explain(explain::Arguments),
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Turn an API key on stdin into an entry of a key file.
    HashKey {
        /// Make a new key of 256 bits, and print it on stderr.
        #[arg(long)]
        generate: bool,
    },
    /// Ask the running process whether it is ready.
    Health(File),
    /// Start a drain on the running process and wait until it is over.
    Drain(File),
}

/// `--config FILE`.
#[derive(clap::Args)]
struct File {
    /// The configuration file, YAML or TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.verb {
        None => match arguments.config {
            Some(file) => serve::run(&file),
            None => Ok(ExitCode::from(UNUSABLE)),
        },
        Some(Verb::Check(file)) => Ok(check::run(&file.config)),
        Some(Verb::Explain(question)) => explain::run(question),
        Some(Verb::Schema) => check::schema(),
        Some(Verb::HashKey { generate }) => keys::run(generate),
        Some(Verb::Health(file)) => control::health(&file.config),
        Some(Verb::Drain(file)) => control::drain(&file.config),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("sockgate: {error:#}");
        ExitCode::FAILURE
    })
}

/// Loads `file`, or prints every problem of it.
fn load(file: &std::path::Path) -> Result<crate::config::Loaded, ExitCode> {
    crate::config::load(file).map_err(|mut error| {
        // What building would find as well: everything is told at once.
        if let Some(Err(unusable)) =
            error.readable.take().map(|loaded| crate::app::validate(&loaded))
        {
            error.add(unusable.problems);
            error.warnings.extend(unusable.warnings);
        }
        for warning in &error.warnings {
            eprintln!("{}: warning: {warning}", file.display());
        }
        eprintln!("{error}");
        ExitCode::from(UNUSABLE)
    })
}
