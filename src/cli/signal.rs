//! SIGTERM to the process that `/healthz` names. Not by the system's `kill`, which
//! the image has not; and only to a sockgate: whoever answers on the admin address,
//! or a gate in another pid namespace, may name a process that is somebody else's
//! here.
//!
//! Known by `/proc`. Where there is none the answer of `/healthz` has to do.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// What to do if the process cannot be signalled from here.
const INSTEAD: &str = "run this in the gate's container, or set admin.token";

/// Asks process `pid` to end.
///
/// # Errors
/// If it is not here, not a sockgate, or not ours to signal.
pub(super) fn terminate(pid: u64) -> anyhow::Result<()> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.with_context(|| format!("/healthz tells no pid but {pid}"))?;
    if pid == u64::from(std::process::id()) {
        bail!("process {pid}, which /healthz names, is this very command here; {INSTEAD}");
    }
    if let Ok(own) = Program::of("self") {
        match Program::of(&pid.to_string()) {
            Ok(program) if program.is_like(&own) => {}
            Ok(Program { name, .. }) => {
                bail!("process {pid}, which /healthz names, is {name} here, no sockgate; {INSTEAD}")
            }
            Err(_) => bail!("there is no process {pid} here, which /healthz names; {INSTEAD}"),
        }
    }
    kill_process(process, Signal::TERM)
        .with_context(|| format!("cannot signal process {pid}; {INSTEAD}"))
}

/// What a process runs.
struct Program {
    /// Device and inode, where they may be known.
    file: Option<(u64, u64)>,
    name: String,
}

impl Program {
    /// What the process `/proc/ID` runs.
    fn of(id: &str) -> io::Result<Program> {
        let process = Path::new("/proc").join(id);
        let executable = process.join("exe");
        let file = fs::metadata(&executable).ok().map(|file| (file.dev(), file.ino()));
        // Another user's executable is not told, but how it was called is.
        let path = fs::read_link(&executable).or_else(|_| {
            let called = fs::read(process.join("cmdline"))?;
            let first = called.split(|byte| *byte == 0).next().unwrap_or_default();
            Ok::<_, io::Error>(PathBuf::from(String::from_utf8_lossy(first).into_owned()))
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // As Linux says of one that an update has replaced.
        let name = name.trim_end_matches(" (deleted)");
        let name = if name.is_empty() { "something else" } else { name }.to_owned();
        Ok(Program { file, name })
    }

    /// The same file, or one of the same name: an update replaces the file.
    fn is_like(&self, other: &Program) -> bool {
        (self.file.is_some() && self.file == other.file) || self.name == other.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_file_or_by_name() {
        let program = |file, name: &str| Program { file, name: name.to_owned() };
        let own = program(Some((1, 2)), "sockgate");
        assert!(program(Some((1, 2)), "gate").is_like(&own));
        assert!(program(Some((1, 3)), "sockgate").is_like(&own));
        assert!(program(None, "sockgate").is_like(&own));
        assert!(!program(Some((1, 3)), "sh").is_like(&own));
        assert!(!program(None, "sh").is_like(&program(None, "sockgate")));
    }

    #[test]
    fn this_command_is_not_what_drains() {
        assert!(terminate(u64::from(std::process::id())).is_err());
        assert!(terminate(0).is_err());
        assert!(terminate(u64::MAX).is_err());
    }
}
