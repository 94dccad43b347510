//! The `sockgate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    sockgate::cli::main()
}
