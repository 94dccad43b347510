//! What Linux tells of a process: CPU time, memory, system calls; and which core
//! it runs on.

use std::fs;
use std::io::{self, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps this thread, and what it starts, on `core`.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// How many descriptors a process may have, raised as far as may be.
pub(crate) fn raise_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: Some(65_536), maximum: Some(65_536) };
    let own = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.maximum.is_some_and(|most| most < 65_536)
        && setrlimit(Resource::Nofile, wanted).is_err()
    {
        // Only root raises the hard limit, and not everywhere.
        let _ = setrlimit(Resource::Nofile, own);
    } else {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(65_536), ..limit });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(65_536)
}

/// A process and all that it started.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut at = 0;
    while let Some(&pid) = pids.get(at) {
        for thread in threads(pid) {
            let file = format!("/proc/{pid}/task/{thread}/children");
            let children = fs::read_to_string(file).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    pids
}

fn threads(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The time that the threads of `pids` have had on a core.
pub(crate) fn cpu(pids: &[u32]) -> Duration {
    let nanoseconds = |pid: &u32, thread: &String| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let sum = pids
        .iter()
        .flat_map(|pid| {
            threads(*pid).into_iter().filter_map(move |thread| nanoseconds(pid, &thread))
        })
        .sum();
    Duration::from_nanos(sum)
}

/// The resident memory of `pids`, in bytes.
pub(crate) fn rss(pids: &[u32]) -> u64 {
    let kib = |pid: &u32| -> Option<u64> {
        // Exact; the figures of `status` are kept by each thread and come late.
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    pids.iter().filter_map(kib).sum::<u64>() * 1024
}

/// What the kernel holds for all TCP sockets, in bytes.
pub(crate) fn socket_memory() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let mut words = line.split_whitespace().skip_while(|word| *word != "mem");
    let pages: u64 = words.nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Counts the system calls of a process while it lives: with `perf`, which does
/// not slow the process down.
pub(crate) struct SyscallCounter(Child);

impl SyscallCounter {
    /// None where perf is not there or not allowed to.
    pub(crate) fn start(pids: &[u32]) -> Option<SyscallCounter> {
        let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let mut child = Command::new("perf")
            .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &list])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        // It has no way to say that it has begun.
        std::thread::sleep(Duration::from_millis(300));
        child.try_wait().ok()?.is_none().then_some(SyscallCounter(child))
    }

    /// The number of calls since the start.
    pub(crate) fn stop(mut self) -> Option<u64> {
        kill_process(Pid::from_child(&self.0), Signal::INT).ok()?;
        let mut text = String::new();
        self.0.stderr.take()?.read_to_string(&mut text).ok()?;
        self.0.wait().ok()?;
        text.lines().find(|line| line.contains("sys_enter"))?.split(',').next()?.parse().ok()
    }
}

/// The machine and its kernel, in one line.
pub(crate) fn description() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    format!("{model}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

/// Ends a process in order, or at all.
pub(crate) fn end(child: &mut Child) {
    let family = family(child.id());
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    for _ in 0..300 {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for pid in family.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = child.wait();
}
