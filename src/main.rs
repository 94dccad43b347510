//! The `sockgate` command.

use std::process::ExitCode;

/// Small objects of many sizes that live for days between others that live for
/// milliseconds: glibc keeps every page that one of them is left on.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    sockgate::cli::main()
}
