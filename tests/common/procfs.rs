//! What the kernel says of a process.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::Pid;

/// How many descriptors it has open.
pub fn descriptors(pid: Pid) -> usize {
    entries(pid, "fd").len()
}

/// What its descriptors are, for a message.
pub fn descriptor_list(pid: Pid) -> Vec<String> {
    let mut list: Vec<String> = entries(pid, "fd")
        .into_iter()
        .filter_map(|fd| fs::read_link(fd).ok())
        .map(|target| target.display().to_string())
        .collect();
    list.sort();
    list
}

/// Where it listens by TCP over IPv4.
pub fn listeners(pid: Pid) -> Vec<SocketAddr> {
    const LISTEN: &str = "0A";
    let sockets = descriptor_list(pid);
    fs::read_to_string(path(pid, "net/tcp"))
        .expect("the process is there")
        .lines()
        .skip(1)
        .filter_map(|line| {
            // sl, local address, remote one, state, …, inode: proc_net_tcp(5).
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_its = sockets.contains(&format!("socket:[{}]", words.get(9)?));
            let (ip, port) = words[1].split_once(':')?;
            let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
            let port = u16::from_str_radix(port, 16).ok()?;
            (is_its && words[3] == LISTEN).then(|| (ip, port).into())
        })
        .collect()
}

/// How many descriptors each of its epoll(7) instances watches.
pub fn watched(pid: Pid) -> Vec<usize> {
    let watched = |info: PathBuf| {
        // A line each: proc_pid_fdinfo(5).
        let text = fs::read_to_string(info).ok()?;
        let lines = text.lines().filter(|line| line.starts_with("tfd:")).count();
        (lines > 0).then_some(lines)
    };
    entries(pid, "fdinfo")
        .into_iter()
        .filter_map(watched)
        .collect()
}

/// The names of its threads.
pub fn threads(pid: Pid) -> Vec<String> {
    entries(pid, "task")
        .into_iter()
        .filter_map(|task| fs::read_to_string(task.join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect()
}

/// The names of those that serve a multiplexer's connections.
pub fn serving(pid: Pid) -> Vec<String> {
    let mut names = threads(pid);
    names.retain(|name| {
        let number = name.strip_prefix("mux-");
        number.is_some_and(|number| number.parse::<usize>().is_ok())
    });
    names
}

/// How many of its threads `name` run or could.
pub fn running(pid: Pid, name: &str) -> usize {
    let stats = entries(pid, "task").into_iter();
    let prefix = format!("({name}) R ");
    let runs = |task: PathBuf| {
        Some(
            fs::read_to_string(task.join("stat"))
                .ok()?
                .contains(&prefix),
        )
    };
    stats.filter_map(runs).filter(|runs| *runs).count()
}

/// Whether it runs, sleeps, is stopped: a letter of proc_pid_stat(5).
pub fn state(pid: Pid) -> char {
    let stat = fs::read_to_string(path(pid, "stat")).expect("the process is there");
    let (_, rest) = stat.rsplit_once(") ").expect("a name in parentheses");
    rest.chars().next().expect("a state")
}

/// The number of its thread `name`.
pub fn thread(pid: Pid, name: &str) -> i32 {
    let named = |task: &PathBuf| {
        fs::read_to_string(task.join("comm")).is_ok_and(|found| found.trim_end() == name)
    };
    entries(pid, "task")
        .into_iter()
        .find(named)
        .and_then(|task| task.file_name()?.to_str()?.parse().ok())
        .unwrap_or_else(|| panic!("no thread {name}"))
}

/// Bytes of memory it has, and the most it ever had.
pub fn memory(pid: Pid) -> (u64, u64) {
    let status = fs::read_to_string(path(pid, "status")).expect("the process is there");
    let kilobytes = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    let bytes = |key| kilobytes(key).expect("proc_pid_status(5)") * 1024;
    (bytes("VmRSS:"), bytes("VmHWM:"))
}

/// Soft and hard limit of its open files.
pub fn descriptor_limits(pid: Pid) -> (u64, u64) {
    let limits = fs::read_to_string(path(pid, "limits")).expect("the process is there");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .expect("every kernel has this limit");
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    let mut next = || numbers.next().expect("two numbers");
    (next(), next())
}

/// Its children, their children and so on, the nearest first.
pub fn descendants(pid: Pid) -> Vec<Pid> {
    let parents: Vec<(Pid, i32)> = fs::read_dir("/proc")
        .expect("there is a /proc")
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name, in parentheses, may hold anything; behind it: state, parent.
            let (_, rest) = stat.rsplit_once(')')?;
            let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
            Some((Pid::from_raw(pid)?, parent))
        })
        .collect();
    let mut found = vec![pid];
    let mut place = 0;
    while place < found.len() {
        let parent = found[place].as_raw_pid();
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(child, _)| *child),
        );
        place += 1;
    }
    found.remove(0);
    found
}

fn entries(pid: Pid, directory: &str) -> Vec<PathBuf> {
    fs::read_dir(path(pid, directory))
        .expect("the process is there and ours")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

fn path(pid: Pid, file: &str) -> PathBuf {
    format!("/proc/{}/{file}", pid.as_raw_pid()).into()
}
