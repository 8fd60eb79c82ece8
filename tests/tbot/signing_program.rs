//! `join_method: command` with programs that misbehave: tbot gets rid of them, in time, and says why.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::keys::{Keys, await_healthy, await_reason, listed, readyz, with_identity};
use crate::common::process::Process;
use crate::common::tbot::{Start, Tbot};
use crate::common::wait::{PATIENCE, until};

/// A tbot whose keys are signed by a script.
fn with_script(keys: &Keys, name: &str, lines: &str, timeout: &str) -> Start {
    let script = keys.script(name, lines);
    let onboarding = format!(
        "{{ join_method: command, command: [{}, s3cret-t0ken], command_timeout: {timeout} }}",
        script.display()
    );
    with_identity(&onboarding, "", "")
}

/// Lines of a script that sign the key on its standard input.
pub fn sign(keys: &Keys) -> String {
    format!(
        "d=$(mktemp -d {at}/XXXXXX)\ncat >$d/k.pub\nssh-keygen -q -s {at}/ca -I x -n root -V -1m:+1h $d/k.pub\n\
         cat $d/k-cert.pub\n",
        at = keys.path("").display()
    )
}

/// Waits until the processes whose numbers are in `pids` have ended.
fn await_gone(keys: &Keys, pids: &str) {
    let pids = keys.text(pids);
    assert_ne!(pids, "");
    for pid in pids.split_whitespace() {
        until(&format!("process {pid} is gone"), || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }
}

fn peak_memory(tbot: &Tbot) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", tbot.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes.expect("a number").parse().expect("a number")
}

#[test]
fn what_it_started_goes_with_it_however_it_ends() {
    let keys = Keys::with_ca();
    let (at, sign) = (keys.path(""), sign(&keys));
    let at = at.display();
    // Children that hold its output, that ignore signals, that write without end.
    for (name, lines, reason) in [
        (
            "well",
            format!(
                "{sign}\nsleep 600 & echo $! >>{at}/well.pids\nyes >&2 & echo $! >>{at}/well.pids\n"
            ),
            None,
        ),
        (
            "badly",
            format!("sleep 600 & echo $! >{at}/badly.pids\necho no token >&2\nexit 3"),
            Some("/badly failed (exit status 3): no token"),
        ),
        (
            "floods",
            format!(
                "(trap '' TERM INT; yes 'it says much' >&2) & echo $! >{at}/floods.pids\nsleep 0.1\nexit 1"
            ),
            Some("/floods failed (exit status 1)"),
        ),
        (
            "deaf",
            format!(
                "trap '' TERM INT HUP\nexec >&- 2>&- <&-\necho $$ >{at}/deaf.pids\nwhile :; do sleep 1; done"
            ),
            Some("/deaf did not end within 2s"),
        ),
        (
            "prints",
            format!("yes & echo $! $$ >{at}/prints.pids\nwait"),
            Some("/prints printed more than 65536 bytes, which is no certificate"),
        ),
    ] {
        let begun = Instant::now();
        let tbot = with_script(&keys, name, &lines, "2s").start();
        match reason {
            None => await_healthy(&tbot, "identity"),
            Some(reason) => {
                let found = await_reason(&tbot, "identity");
                assert!(found.contains(reason), "{found:?} has {reason:?}");
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{name}");
        await_gone(&keys, &format!("{name}.pids"));
    }
}

#[test]
fn its_last_words_are_shown_and_neither_its_arguments_nor_all_it_said() {
    let keys = Keys::new();
    let lines = "head -c 100000000 /dev/zero >&2\nprintf '\\n\\033[2Jthe reason \\007%0900d\\n' 7 >&2\nexit 1";
    let tbot = with_script(&keys, "talks", lines, "30s").start();
    let before = peak_memory(&tbot);
    let reason = await_reason(&tbot, "identity");
    assert!(
        reason.contains("/talks failed (exit status 1): \\u{1b}[2Jthe reason \\u{7}00000"),
        "{reason}"
    );
    assert!(reason.ends_with("0…") && reason.len() < 700, "{reason}");
    assert!(peak_memory(&tbot) < before + 8 * 1024, "memory is bounded");
    let tbot = with_script(&keys, "useless", "echo hello", "30s").start();
    let reason = await_reason(&tbot, "identity");
    assert!(!reason.contains("s3cret"), "{reason}");
    assert!(!tbot.stderr.so_far().contains("s3cret"));
}

#[test]
fn output_that_comes_right_after_its_end_counts() {
    let keys = Keys::with_ca();
    let lines = format!(
        "({}sleep 0.1) &\nexec sleep 0",
        sign(&keys).replace("cat >", "cat <&3 >")
    );
    let tbot = with_script(&keys, "late", &format!("exec 3<&0\n{lines}"), "30s").start();
    await_healthy(&tbot, "identity");
    assert_eq!(listed(&tbot).len(), 2);
}

#[test]
fn it_may_take_the_key_late_or_not_at_all() {
    let keys = Keys::with_ca();
    let tbot = with_script(&keys, "slow", &format!("sleep 0.3\n{}", sign(&keys)), "30s").start();
    await_healthy(&tbot, "identity");
    let tbot = with_script(&keys, "blind", "exec <&-\nexit 4", "30s").start();
    assert!(await_reason(&tbot, "identity").ends_with("/blind failed (exit status 4)"));
    assert_eq!(readyz(&tbot, "mux").0, 503);
}

#[test]
fn its_end_is_known_where_whoever_started_tbot_ignores_the_end_of_children() {
    let keys = Keys::with_ca();
    let ignoring: &[&str] = &["/usr/bin/env", "--ignore-signal=CHLD"];
    let tbot = with_script(&keys, "well", &sign(&keys), "30s")
        .through(ignoring)
        .start();
    await_healthy(&tbot, "identity");
    let tbot = with_script(&keys, "badly", "exit 3", "30s")
        .through(ignoring)
        .start();
    assert!(await_reason(&tbot, "identity").ends_with("/badly failed (exit status 3)"));
}

#[test]
fn once_ends_by_a_signal_and_leaves_nothing_behind() {
    let keys = Keys::new();
    let script = keys.script(
        "hangs",
        &format!(
            "sleep 600 & echo $! $$ >{}\nwait",
            keys.path("pids").display()
        ),
    );
    let yaml = keys.write(
        "tbot.yaml",
        format!(
            "version: v2\noneshot: true\nonboarding: {{ join_method: command, command: [{}], command_timeout: 1h }}\n\
             services: [{{ type: identity, destination: {{ type: directory, path: {} }} }}]\n",
            script.display(),
            keys.path("out").display()
        ),
    );
    for signal in [Signal::TERM, Signal::INT] {
        let mut tbot = Command::new(env!("CARGO_BIN_EXE_tbot"));
        let tbot = Process::spawn(tbot.args(["start", "-c"]).arg(&yaml));
        until("the program runs", || {
            fs::read_to_string(keys.path("pids"))
                .ok()
                .filter(|pids| pids.ends_with('\n'))
        });
        let begun = Instant::now();
        tbot.signal(signal);
        let end = tbot.finish();
        assert!(
            end.error()
                .contains("/hangs was ended, as tbot is stopping"),
            "{end:?}"
        );
        assert!(begun.elapsed() < PATIENCE / 10, "{:?}", begun.elapsed());
        await_gone(&keys, "pids");
        fs::remove_file(keys.path("pids")).expect("it is there");
    }
}
