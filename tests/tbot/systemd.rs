//! The unit that `tbot install systemd` writes, by a real systemd.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::frozen::Frozen;
use crate::common::http;
use crate::common::keys::{Keys, signed_by};
use crate::common::process::{Process, succeed};
use crate::common::procfs;
use crate::common::systemd::Systemd;
use crate::common::wait::until;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tbot");

fn install(words: &[&str]) -> Command {
    let mut tbot = Command::new(PROGRAM);
    tbot.args(["install", "systemd"]).args(words);
    tbot.env_clear();
    tbot
}

#[test]
fn what_it_prints_by_default_is_the_unit_of_the_archive() {
    let printed = succeed(&mut install(&[]));
    let unit = printed.replace(PROGRAM, "/usr/local/bin/tbot");
    assert_eq!(unit, include_str!("../../src/tbot.service"));
}

/// Does what tbot says is to be done next.
fn do_next(systemd: &Systemd, told: &str) {
    let (_, steps) = told.split_once("Next, as root:\n").expect("it says so");
    succeed(systemd.command("sh").args(["-exc", steps]));
}

#[test]
fn a_unit_runs_hardened_reloads_is_restarted_when_it_hangs_and_stops_in_order() {
    let Some(systemd) = Systemd::start(Path::new(PROGRAM)) else {
        return;
    };
    let keys = Keys::with_ca();
    let bastion = keys.sshd();
    let user = &bastion.user;
    // A bastion, a program that signs, an identity in files, a pid file, profiles.
    let etc = systemd.path("/etc/tbot");
    fs::create_dir(&etc).expect("it is the test's own");
    let place = |name: &str, content: &str, mode: u32| {
        let path = etc.join(name);
        fs::write(&path, content).expect("it is the test's own");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("as well");
    };
    let onboarding = signed_by(Path::new("/etc/tbot/sign"));
    place(
        "tbot.yaml",
        &format!(
            "version: v2\ndebug: true\ndiag_addr: 127.0.0.1:0\nproxy_server: {}\nonboarding: {onboarding}\n\
             services:\n\
             - {{ type: ssh-multiplexer, name: mux, destination: {{ type: directory, path: /run/tbot/mux }}, \
                  cluster_name: prod, user: {user}, host_ca: [/etc/tbot/ca.pub] }}\n\
             - {{ type: identity, name: files, destination: {{ type: directory, path: /var/lib/tbot/files }} }}\n",
            bastion.address
        ),
        0o644,
    );
    place("ca.pub", &keys.text("ca.pub"), 0o644);
    place(
        "sign",
        &format!(
            "#!/bin/sh\nset -e\nd=$(mktemp -d)\ncat >$d/k.pub\n\
             ssh-keygen -q -s /etc/tbot/ca -I x -n {user} -V -1m:+1h $d/k.pub\ncat $d/k-cert.pub\n"
        ),
        0o755,
    );
    place("ca", &keys.text("ca"), 0o600);
    succeed(systemd.command("useradd").args(["--system", "tbot"]));
    succeed(systemd.command("chown").args(["tbot", "/etc/tbot/ca"]));
    let words = ["install", "systemd", "-c", "/etc/tbot/tbot.yaml", "--write"];
    let mut tbot = systemd.command("/usr/local/bin/tbot");
    let told = succeed(
        tbot.args(words)
            .args(["--pid-file", "/run/tbot/mux/tbot.pid"]),
    );
    // Less patience than the unit has.
    let more = systemd.path("/etc/systemd/system/tbot.service.d");
    fs::create_dir(&more).expect("it is the test's own");
    let mut drop_in = fs::File::create(more.join("test.conf")).expect("as well");
    writeln!(drop_in, "[Service]\nWatchdogSec=3s\nRestartSec=100ms").expect("it can be written");
    do_next(&systemd, &told);

    let unit = "tbot.service";
    let property = |name: &str| systemd.property(unit, name);
    assert_eq!(property("ActiveState"), "active");
    let main = systemd.main_pid(unit).expect("it runs");
    let pid_file = systemd.path("/run/tbot/mux/tbot.pid");
    let pid = fs::read_to_string(&pid_file).expect("it is there");
    assert_eq!(pid.trim(), property("MainPID"));
    let status = |part: &str| {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("its status", || {
                last = property("StatusText");
                last.contains(part).then_some(())
            });
        }));
        assert!(found.is_ok(), "{part} in {last:?}");
    };
    status("healthy: files, identity, mux");
    assert!(systemd.path("/var/lib/tbot/files/key-cert.pub").exists());
    // It cannot write elsewhere, whoever it is, nor become anyone.
    let process = fs::read_to_string(format!("/proc/{main}/status")).expect("it runs");
    for line in ["NoNewPrivs:\t1", "CapBnd:\t0000000000000000", "Seccomp:\t2"] {
        assert!(process.contains(line), "no {line} in {process}");
    }
    let mounts = fs::read_to_string(format!("/proc/{main}/mounts")).expect("it runs");
    let root = mounts
        .lines()
        .rfind(|line| line.split(' ').nth(1) == Some("/"));
    let options = root.and_then(|line| line.split(' ').nth(3)).unwrap_or("");
    assert!(options.split(',').any(|option| option == "ro"), "{mounts}");
    // Whom it serves: the real ssh, through the bastion.
    let ssh = |command: &str| {
        let mut ssh = systemd.command_as("tbot", "ssh");
        ssh.args(["-F", "/run/tbot/mux/ssh_config", "-l", user, "-p"]);
        ssh.args([
            &bastion.address.port().to_string(),
            "127.0.0.1.prod",
            command,
        ]);
        ssh.env_remove("SSH_AUTH_SOCK");
        ssh
    };
    assert_eq!(succeed(&mut ssh("echo hello")), "hello\n");
    let address = procfs::listeners(main)[0];
    let (code, body) = http::get(address, "/debug/pprof/threads?debug=1");
    assert_eq!(code, 200, "{body}");
    let (code, body) = http::get(address, "/metrics");
    assert!(code == 200 && body.contains("process_cpu_seconds_total"));

    fs::remove_file(systemd.path("/run/tbot/mux/ssh_config")).expect("root may");
    let reloaded = systemd.systemctl(&["reload", unit]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    until("the file is back", || {
        systemd
            .path("/run/tbot/mux/ssh_config")
            .exists()
            .then_some(())
    });
    assert_eq!(property("MainPID"), pid.trim());

    // Who hangs is started anew. The tracer lets the dead go only at its own end.
    let frozen = Frozen::thread(main, "mux-relay-0").expect("root may");
    until("systemd has noticed", || {
        (property("SubState") == "stop-watchdog").then_some(())
    });
    assert_eq!(property("Result"), "watchdog");
    drop(frozen);
    until("it is started anew", || {
        let state = (property("NRestarts"), property("ActiveState"));
        (state == ("1".into(), "active".into())).then_some(())
    });
    status("healthy: files, identity, mux");
    let again = fs::read_to_string(&pid_file).expect("it is there");
    assert_eq!(again.trim(), property("MainPID"));

    // A connection through the bastion ends in its own time.
    let mut open = Process::spawn_with_input(&mut ssh("echo open; cat"));
    open.stdout.line("open");
    let mut stop = systemd.command("systemctl");
    let stopping = Process::spawn(stop.args(["stop", unit]));
    status("stopping with 1 connection open");
    open.input().write_all(b"still\n").expect("it is open");
    open.stdout.line("still");
    open.close_input();
    assert!(open.exit().success());
    assert!(stopping.finish().status.success());
    assert_eq!(property("Result"), "success");
    assert_eq!(property("ActiveState"), "inactive");
    assert!(!systemd.path("/run/tbot/mux").exists());
}
