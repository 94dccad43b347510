//! `process_*`, as Prometheus clients name them, read from `/proc/self` when
//! they are asked for. What cannot be read keeps its last value.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Error, IntGauge};

/// Clock ticks a second in `/proc`: `USER_HZ`, which Linux fixes for user space.
const TICKS: f64 = 100.0;

/// The metrics of this process.
pub(super) struct ProcessCollector {
    cpu_seconds: Counter,
    resident_memory: IntGauge,
    virtual_memory: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    start_time: IntGauge,
}

impl ProcessCollector {
    pub(super) fn new() -> Result<ProcessCollector, Error> {
        Ok(ProcessCollector {
            cpu_seconds: Counter::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            )?,
            resident_memory: IntGauge::new(
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
            )?,
            virtual_memory: IntGauge::new(
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
            )?,
            open_fds: IntGauge::new("process_open_fds", "Number of open file descriptors.")?,
            max_fds: IntGauge::new("process_max_fds", "Maximum number of open file descriptors.")?,
            start_time: IntGauge::new(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            )?,
        })
    }

    fn update(&self) {
        let status = read("/proc/self/status");
        set(&self.resident_memory, labelled(&status, "VmRSS:").map(|kib| kib * 1024));
        set(&self.virtual_memory, labelled(&status, "VmSize:").map(|kib| kib * 1024));
        set(&self.max_fds, labelled(&read("/proc/self/limits"), "Max open files"));
        let open = fs::read_dir("/proc/self/fd").map(Iterator::count);
        // One of them is the directory that is being read.
        set(&self.open_fds, open.ok().and_then(|n| i64::try_from(n).ok()).map(|n| n - 1));
        let stat = Stat::parse(&read("/proc/self/stat"));
        if let Some(Stat { cpu_ticks, start_ticks }) = stat {
            let spent = cpu_ticks / TICKS - self.cpu_seconds.get();
            self.cpu_seconds.inc_by(spent.max(0.0));
            let booted = labelled(&read("/proc/stat"), "btime");
            #[expect(clippy::cast_possible_truncation, reason = "seconds since boot fit")]
            set(&self.start_time, booted.map(|booted| booted + (start_ticks / TICKS) as i64));
        }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [
            &self.resident_memory,
            &self.virtual_memory,
            &self.open_fds,
            &self.max_fds,
            &self.start_time,
        ];
        self.cpu_seconds
            .desc()
            .into_iter()
            .chain(gauges.into_iter().flat_map(Collector::desc))
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.update();
        let gauges = [
            &self.resident_memory,
            &self.virtual_memory,
            &self.open_fds,
            &self.max_fds,
            &self.start_time,
        ];
        self.cpu_seconds
            .collect()
            .into_iter()
            .chain(gauges.into_iter().flat_map(Collector::collect))
            .collect()
    }
}

/// Two facts of `/proc/self/stat` (proc(5)).
struct Stat {
    cpu_ticks: f64,
    start_ticks: f64,
}

impl Stat {
    fn parse(stat: &str) -> Option<Stat> {
        // The name, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let field = |number: usize| -> Option<f64> {
            fields.split_ascii_whitespace().nth(number - 3)?.parse().ok()
        };
        Some(Stat { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)? })
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn set(gauge: &IntGauge, value: Option<i64>) {
    if let Some(value) = value {
        gauge.set(value);
    }
}

/// The first number behind `label` at the start of a line.
fn labelled(text: &str, label: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let process = ProcessCollector::new().unwrap();
        process.update();
        assert!(process.resident_memory.get() > 100_000);
        assert!(process.virtual_memory.get() >= process.resident_memory.get());
        assert!(process.open_fds.get() >= 3);
        assert!(process.max_fds.get() >= process.open_fds.get());
        let age = crate::clock::unix_now() - process.start_time.get();
        assert!((-2..86_400).contains(&age), "{age}");
        assert_eq!(process.desc().len(), 6);
    }

    #[test]
    fn a_name_with_parentheses_is_skipped() {
        let stat = "7 (a) b) R 1 1 1 0 -1 4 1 0 0 0 30 12 0 0 20 0 1 0 999 1";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.cpu_ticks, stat.start_ticks), (42.0, 999.0));
        assert!(Stat::parse("").is_none());
    }
}
