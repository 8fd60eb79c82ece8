//! What happens to a server in years, each for a moment. Every one of them is over when it returns.

use std::process::Command;

use rustix::process::{Signal, kill_process};

use super::{Random, Stage};
use crate::common::process::succeed;
use crate::common::procfs;
use crate::masters;

pub type Trouble = fn(&Stage, &mut Random);

pub const TROUBLES: [(&str, Trouble); 11] = [
    ("renewals, one upon another", renewals),
    ("the connections to the bastion are killed", kills),
    ("the bastion is down", bastion_down),
    ("the bastion hangs", bastion_hangs),
    ("no descriptor is left", no_descriptors),
    ("no file may be written", no_files),
    ("nobody reads the log", no_log),
    ("the socket of clients is deleted", no_socket),
    ("the clock is set forth", set_forth),
    ("the clock is set back", set_back),
    ("nothing", nothing),
];

fn nothing(_: &Stage, random: &mut Random) {
    random.pause(3000);
}

fn renewals(stage: &Stage, random: &mut Random) {
    for _ in 0..5 {
        stage.tbot.signal(Signal::HUP);
        random.pause(200);
    }
}

fn kills(stage: &Stage, random: &mut Random) {
    for _ in 0..3 {
        for master in masters(&stage.tbot) {
            // It may have ended in between.
            kill_process(master, Signal::KILL).ok();
        }
        random.pause(1000);
    }
}

fn bastion_down(stage: &Stage, random: &mut Random) {
    let mut bastion = stage.bastion.lock().expect("nobody panics with it");
    bastion.kill();
    random.pause(3000);
    bastion.restart(None);
}

fn bastion_hangs(stage: &Stage, random: &mut Random) {
    let bastion = stage.bastion.lock().expect("nobody panics with it");
    bastion.freeze_sessions();
    bastion.freeze_listener(true);
    random.pause(4000);
    bastion.freeze_listener(false);
    bastion.kill_sessions();
}

/// Sets the soft limit of a resource.
fn limit(stage: &Stage, resource: &str, value: &str) {
    let pid = stage.tbot.pid().to_string();
    let mut prlimit = Command::new("prlimit");
    succeed(prlimit.args(["--pid", &pid, &format!("--{resource}={value}:")]));
}

/// Fewer than are open, some, or just enough for a while.
fn no_descriptors(stage: &Stage, random: &mut Random) {
    let (before, _) = procfs::descriptor_limits(stage.tbot.pid());
    for more in [0, 5, 20] {
        let few = procfs::descriptors(stage.tbot.pid()) + more;
        limit(stage, "nofile", &few.to_string());
        random.pause(1000);
    }
    limit(stage, "nofile", &before.to_string());
}

fn no_files(stage: &Stage, random: &mut Random) {
    limit(stage, "fsize", "1");
    stage.tbot.signal(Signal::HUP);
    random.pause(2000);
    limit(stage, "fsize", "unlimited");
    stage.tbot.signal(Signal::HUP);
}

fn no_log(stage: &Stage, random: &mut Random) {
    stage.tbot.stderr.leave();
    random.pause(3000);
    stage.tbot.stderr.read_on();
}

fn no_socket(stage: &Stage, _: &mut Random) {
    std::fs::remove_file(stage.tbot.socket()).ok();
}

fn set_forth(stage: &Stage, random: &mut Random) {
    jump(stage, random, 2 * 3600);
}

fn set_back(stage: &Stage, random: &mut Random) {
    jump(stage, random, -2 * 3600);
}

fn jump(stage: &Stage, random: &mut Random, seconds: i64) {
    stage.clock.set(seconds);
    random.pause(5000);
    stage.clock.set(0);
    stage.tbot.signal(Signal::HUP);
}

/// From now on there is no more address space than it has used, and a little: one that grows would be killed by it.
pub fn limit_memory(stage: &Stage) {
    const MORE: u64 = 64 << 20;
    let most = stage.tbot.metric("process_virtual_memory_bytes") + MORE;
    limit(stage, "as", &most.to_string());
}
