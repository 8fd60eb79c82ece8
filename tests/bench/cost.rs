//! What the kernel says that processes cost.

use std::collections::HashMap;
use std::fs;

use rustix::process::Pid;

/// CPU time so far.
pub struct Cpu {
    processes: HashMap<Pid, f64>,
    children: f64,
}

impl Cpu {
    /// Of these processes, and of all children of ours that have ended.
    pub fn of(processes: &[Pid]) -> Self {
        Self {
            processes: processes
                .iter()
                .map(|pid| (*pid, of_process(*pid)))
                .collect(),
            children: of_ended_children(),
        }
    }

    /// In seconds. A process that was not there before began with nothing.
    pub fn since(&self, before: &Self) -> f64 {
        let spent = |(pid, now): (&Pid, &f64)| now - before.processes.get(pid).unwrap_or(&0.0);
        let processes: f64 = self.processes.iter().map(spent).sum();
        processes + self.children - before.children
    }
}

/// Memory in bytes, pages that are shared by many in equal parts.
pub fn memory(processes: impl IntoIterator<Item = Pid>) -> f64 {
    let of_process = |pid: Pid| {
        let path = format!("/proc/{}/smaps_rollup", pid.as_raw_pid());
        let text = fs::read_to_string(path).expect("it lives");
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = pss.and_then(|value| value.trim().strip_suffix(" kB"));
        let kib: f64 = kib.and_then(|kib| kib.parse().ok()).expect("a number");
        kib * 1024.0
    };
    processes.into_iter().map(of_process).sum()
}

/// By the scheduler, to the nanosecond.
fn of_process(pid: Pid) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid())).expect("it lives");
    let of_task = |task: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    tasks.filter_map(of_task).sum::<f64>() / 1e9
}

/// In steps of a tick, mostly 10 ms.
fn of_ended_children() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("there is a /proc");
    // Behind the name, in parentheses, from the state on: cutime and cstime (proc_pid_stat(5)).
    let (_, rest) = stat.rsplit_once(')').expect("a name in parentheses");
    let words = rest.split_whitespace().skip(13).take(2);
    let ticks: f64 = words.filter_map(|word| word.parse::<f64>().ok()).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}
