//! Every thread of this process: what it is called, what it does and waits for, and its stack.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use super::capture;
use super::encode::Builder;
use super::modules::modules;

/// More threads than this are counted, and not shown.
const MAX_THREADS: usize = 2000;

/// A thread, as the kernel tells of it.
struct Thread {
    id: i32,
    name: String,
    state: &'static str,
    /// System call and kernel function, as far as the kernel tells.
    waits: Vec<String>,
    user: Duration,
    system: Duration,
    /// Return addresses, leaf first; `None` if it did not answer.
    stack: Option<Vec<u64>>,
    /// Whether `stack` ends before the thread's beginning.
    is_cut: bool,
}

/// How the answer is to look, by the query parameter `debug`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// 0: pprof's format, a sample for each thread.
    Profile,
    /// 1: text, threads with one stack together.
    Grouped,
    /// 2: text, each thread.
    Each,
}

/// How many threads this process has.
pub(super) fn count() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

/// All threads with their stacks, these as long as `is_wanted`.
pub(super) fn show(form: Form, is_wanted: impl Fn() -> bool) -> io::Result<Vec<u8>> {
    let taken = SystemTime::now();
    let mut ids: Vec<i32> = fs::read_dir("/proc/self/task")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    ids.sort_unstable();
    let total = ids.len();
    ids.truncate(MAX_THREADS);
    // Before they are interrupted, or all would be seen answering. Some may have ended meanwhile.
    let mut threads: Vec<Thread> = ids.iter().filter_map(|id| Thread::read(*id)).collect();
    ids.retain(|id| threads.iter().any(|thread| thread.id == *id));
    capture::ask(&ids, is_wanted, |capture| {
        let mut stack = Vec::new();
        // Not for longer: a profile that is being taken needs them too.
        let is_whole = modules().unwind(capture, &mut stack);
        let thread = threads
            .iter_mut()
            .find(|thread| thread.id == capture.thread);
        if let Some(thread) = thread {
            (thread.stack, thread.is_cut) = (Some(stack), !is_whole);
        }
    })?;
    match form {
        Form::Profile => profile(&threads, taken),
        Form::Grouped => Ok(grouped(&threads, total).into_bytes()),
        Form::Each => Ok(each(&threads, total).into_bytes()),
    }
}

impl Thread {
    fn read(id: i32) -> Option<Self> {
        let file = |name: &str| fs::read_to_string(format!("/proc/self/task/{id}/{name}"));
        // proc_pid_stat(5): the name is in parentheses and may hold some itself; the fields behind it
        // count from 3.
        // A long name is cut, be it within a letter.
        let stat = fs::read(format!("/proc/self/task/{id}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let (head, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let time = |ticks: u64| {
            Duration::from_secs(ticks) / (rustix::param::clock_ticks_per_second() as u32).max(1)
        };
        let call = file("syscall").ok().and_then(|text| system_call(&text));
        let function = file("wchan")
            .ok()
            .filter(|name| !name.is_empty() && name != "0");
        Some(Self {
            id,
            name: head.split_once('(')?.1.to_owned(),
            state: state(fields.first()?),
            waits: call.into_iter().chain(function).collect(),
            user: time(ticks(14)?),
            system: time(ticks(15)?),
            stack: None,
            is_cut: false,
        })
    }
}

/// The letters of proc_pid_stat(5).
fn state(letter: &str) -> &'static str {
    match letter {
        "R" => "running",
        "S" => "sleeping",
        "D" => "in uninterruptible sleep",
        "T" | "t" => "stopped",
        "I" => "idle",
        "Z" | "X" => "ended",
        _ => "in an unknown state",
    }
}

/// From proc_pid_syscall(5): the number and its arguments, `-1` outside a call, or `running`.
fn system_call(text: &str) -> Option<String> {
    let number: libc::c_long = text.split_ascii_whitespace().next()?.parse().ok()?;
    // What a thread is found waiting in; the rest goes by number.
    let known = [
        (libc::SYS_accept, "accept"),
        (libc::SYS_accept4, "accept4"),
        (libc::SYS_clock_nanosleep, "clock_nanosleep"),
        (libc::SYS_close, "close"),
        (libc::SYS_connect, "connect"),
        (libc::SYS_epoll_pwait, "epoll_pwait"),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_epoll_wait, "epoll_wait"),
        (libc::SYS_fdatasync, "fdatasync"),
        (libc::SYS_fsync, "fsync"),
        (libc::SYS_futex, "futex"),
        (libc::SYS_openat, "openat"),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_poll, "poll"),
        (libc::SYS_ppoll, "ppoll"),
        (libc::SYS_read, "read"),
        (libc::SYS_recvfrom, "recvfrom"),
        (libc::SYS_recvmsg, "recvmsg"),
        (libc::SYS_restart_syscall, "restart_syscall"),
        (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait"),
        (libc::SYS_sendmsg, "sendmsg"),
        (libc::SYS_sendto, "sendto"),
        (libc::SYS_wait4, "wait4"),
        (libc::SYS_waitid, "waitid"),
        (libc::SYS_write, "write"),
        (libc::SYS_writev, "writev"),
    ];
    if number < 0 {
        return None;
    }
    let name = known.iter().find(|(known, _)| *known == number);
    Some(name.map_or_else(
        || format!("system call {number}"),
        |(_, name)| (*name).into(),
    ))
}

fn profile(threads: &[Thread], taken: SystemTime) -> io::Result<Vec<u8>> {
    const COUNT: (&str, &str) = ("threads", "count");
    let modules = modules();
    let mut builder = Builder::new(&modules, &[COUNT]);
    builder.taken(taken, COUNT, 1);
    for thread in threads {
        let stack = thread.stack.as_deref().unwrap_or_default();
        let labels = [("thread", &*thread.name), ("state", thread.state)];
        builder.sample(stack, vec![1], &labels);
    }
    builder.finish()
}

fn grouped(threads: &[Thread], total: usize) -> String {
    let mut groups: BTreeMap<&[u64], Vec<&str>> = BTreeMap::new();
    for thread in threads {
        let stack = thread.stack.as_deref().unwrap_or_default();
        groups.entry(stack).or_default().push(&thread.name);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    let mut text = format!("threads profile: total {total}\n");
    for (stack, names) in groups {
        let _ = write!(text, "{} @", names.len());
        for address in stack {
            let _ = write!(text, " {address:#x}");
        }
        let _ = writeln!(text, "\n# {}", names.join(", "));
        show_stack(&mut text, Some(stack), "#\t");
        text.push('\n');
    }
    text
}

fn each(threads: &[Thread], total: usize) -> String {
    let mut text = format!("{total} threads\n");
    for thread in threads {
        let name = thread.name.escape_debug();
        let _ = write!(text, "\nthread {} \"{name}\" [{}", thread.id, thread.state);
        for wait in &thread.waits {
            let _ = write!(text, ", {wait}");
        }
        let (user, system) = (thread.user.as_secs_f64(), thread.system.as_secs_f64());
        let _ = writeln!(text, "] CPU {user:.2} s user, {system:.2} s system");
        show_stack(&mut text, thread.stack.as_deref(), "    ");
        if thread.is_cut {
            text.push_str("    (its callers are cut off)\n");
        }
    }
    if threads.len() < total {
        let _ = writeln!(
            text,
            "\n{} more threads are not shown",
            total - threads.len()
        );
    }
    text
}

/// A stack, a line for each function.
pub(super) fn show_stack(text: &mut String, stack: Option<&[u64]>, indent: &str) {
    let Some(stack) = stack else {
        let _ = writeln!(text, "{indent}(no stack: it did not answer in time)");
        return;
    };
    let modules = modules();
    for address in stack {
        let frames = modules.frames(*address);
        if frames.is_empty() {
            let module = modules.module(*address);
            let module = module.map_or("?".into(), |(_, module)| module.path.display().to_string());
            let _ = writeln!(text, "{indent}{address:#x} in {module}");
        }
        for frame in frames {
            let _ = write!(text, "{indent}{address:#x} {}", frame.function);
            if let Some(file) = &frame.file {
                let _ = write!(text, " at {file}:{}", frame.line);
            }
            text.push('\n');
        }
    }
}
