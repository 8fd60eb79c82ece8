//! The unit that `tbot install systemd` writes, by a real systemd.
#![cfg(feature = "pprof")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use rustix::process::{getegid, geteuid};
use tempfile::TempDir;

use crate::common::frozen::Frozen;
use crate::common::http;
use crate::common::keys::{Keys, signed_by};
use crate::common::process::{Process, run, succeed};
use crate::common::procfs;
use crate::common::readme::README;
use crate::common::systemd::Systemd;
use crate::common::wait::until;
use crate::common::{STRANGER, is_root};

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

/// What `systemd-analyze` says of a unit, which must be nothing.
fn verify(unit: &Path, exposure: u32) {
    let mut analyze = Command::new("systemd-analyze");
    let verified = run(analyze.args(["verify", "--man=no"]).arg(unit));
    // It may have something to say of this machine's own units.
    let name = unit.file_name().and_then(|name| name.to_str());
    assert!(
        verified.status.success() && !verified.stderr.contains(name.expect("text")),
        "{verified:?}"
    );
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true"]);
    analyze.arg(format!("--threshold={exposure}"));
    let security = run(analyze.arg(unit));
    assert!(security.status.success(), "{security:?}");
}

#[test]
fn systemd_understands_every_unit_that_it_writes_and_finds_it_safe() {
    let directory = TempDir::new().expect("a directory for temporary files");
    let at = |name: &str| directory.path().join(name).display().to_string();
    // Words that mean something to systemd, or would.
    let odd = at("a b%n\"'$HOME\\;ü");
    let config = at("c %d.yaml");
    let yaml = |more: &str| {
        format!(
            "version: v2\nservices:\n- {{ type: ssh-multiplexer, destination: {{ type: directory, path: {more} }} }}\n"
        )
    };
    fs::write(&config, yaml("/var/lib/a/b")).expect("the directory is ours");
    let pid = at("run/x.pid");
    let cases: [(&[&str], &[&str]); 6] = [
        (&[], &["RuntimeDirectory=tbot", "PrivateTmp=yes"]),
        (
            &["--destination", &odd, "--user", "0", "--group", "adm"],
            &["User=0", "Group=adm", "ReadWritePaths=\"/"],
        ),
        (
            &[
                "-c",
                &config,
                "--pid-file",
                "/run/a/b/x.pid",
                "--debug=false",
            ],
            &["StateDirectory=a/b", "RuntimeDirectory=a/b"],
        ),
        (
            &["-c", &config, "--destination=file:///var/run/x%20y"],
            &["StateDirectory=a/b", "RuntimeDirectory=\"x y\""],
        ),
        (
            &["--diag-addr", "[::]:80", "--shutdown-grace=1h", "-d"],
            &["AmbientCapabilities=CAP_NET_BIND_SERVICE"],
        ),
        (
            &["--pid-file", &pid],
            &["RuntimeDirectory=tbot", "ReadWritePaths="],
        ),
    ];
    for (number, (words, lines)) in cases.into_iter().enumerate() {
        let name = format!("tbot-{number}");
        let mut write = install(&["--write", "--systemd-directory", &at(""), "--name", &name]);
        let told = succeed(write.args(words));
        assert!(
            told.ends_with(&format!("\n  systemctl restart {name}\n")),
            "{told}"
        );
        let path = directory.path().join(format!("{name}.service"));
        // Tenths of 10; by root, and in directories for all, it is a little more.
        verify(&path, if number == 0 { 20 } else { 25 });
        let unit = fs::read_to_string(path).expect("it was written");
        for line in lines {
            assert!(
                unit.lines().any(|one| one.starts_with(line)),
                "{line} in {unit}"
            );
        }
        // What systemd would start is what is accepted.
        let start = unit
            .lines()
            .find(|line| line.starts_with("ExecStart="))
            .expect("a line");
        assert!(
            start.contains("=false") == words.contains(&"--debug=false"),
            "{start}"
        );
        let in_tmp = words.contains(&&*odd) || words.contains(&&*pid);
        assert_eq!(unit.contains("PrivateTmp="), !in_tmp);
    }
}

#[test]
fn another_unit_is_replaced_only_by_force_and_a_link_never() {
    let directory = TempDir::new().expect("a directory for temporary files");
    let path = directory.path().join("tbot.service");
    let at = directory.path().display().to_string();
    let write = |more: &[&str]| {
        let mut install = install(&["--write", "--systemd-directory", &at]);
        run(install.args(more))
    };
    fs::write(&path, "precious").expect("the directory is ours");
    let error = write(&[]).error().to_owned();
    let expected = "tbot.service is there, and another one: --force replaces it";
    assert!(error.ends_with(expected), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
    let written = write(&["--force"]);
    let (_, told) = written
        .stdout
        .split_once("/tbot.service is written. ")
        .expect("it was");
    let told: String = told.lines().map(|line| format!("{line}\n    ")).collect();
    assert!(
        README.contains(&format!("/tbot.service is written. {told}#")),
        "{told}"
    );
    let unit = fs::read_to_string(&path).expect("it is there");
    assert_eq!(unit, succeed(&mut install(&[])));
    // It is of who wrote it, and nobody else may change it, however it was before.
    let is_ours = |why: &str| {
        let about = fs::metadata(&path).expect("it is there");
        let ids = (about.uid(), about.gid(), about.mode() & 0o7777);
        let us = (geteuid().as_raw(), getegid().as_raw(), 0o644);
        assert_eq!(ids, us, "{why}");
    };
    is_ours("it was another");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("it is ours");
    assert!(write(&[]).stdout.contains("tbot.service is written. "));
    is_ours("its mode was another");
    if is_root() {
        for force in [&[][..], &["--force"]] {
            std::os::unix::fs::chown(&path, Some(STRANGER), Some(STRANGER)).expect("as root");
            assert!(write(force).stdout.contains("tbot.service is written. "));
            is_ours("it was another's");
        }
        std::os::unix::fs::chown(&path, Some(STRANGER), None).expect("as root");
        fs::write(&path, "another").expect("as root");
        assert!(write(&["--force"]).status.success());
        is_ours("it was another one of another's");
    }
    let mut careful = Command::new("/bin/sh");
    careful.args(["-c", "umask 077; rm \"$1/tbot.service\"; exec \"$0\" install systemd --write --systemd-directory \"$1\""]);
    succeed(careful.args([PROGRAM, &at]));
    is_ours("the umask was another");
    let same = write(&[]);
    assert!(
        same.stdout
            .contains("tbot.service is as it should be. Next, ")
    );
    assert!(write(&["-d"]).error().ends_with(expected));
    // As `systemctl mask` leaves one.
    fs::remove_file(&path).expect("the directory is ours");
    std::os::unix::fs::symlink("/dev/null", &path).expect("the directory is ours");
    let masked = write(&["--force"]);
    assert!(
        masked
            .error()
            .contains("tbot.service is a symbolic link, as systemctl mask makes")
    );
    let missing = run(&mut install(&["--write", "--systemd-directory=/nowhere"]));
    let expected = "cannot write /nowhere/tbot.service: No such file or directory";
    assert!(missing.error().ends_with(expected), "{missing:?}");
    assert_eq!(fs::read_dir(&at).expect("ours").count(), 1);
}

#[test]
fn what_would_not_start_is_not_written() {
    let directory = TempDir::new().expect("a directory for temporary files");
    let at = directory.path().display().to_string();
    let config = directory.path().join("c.yaml");
    fs::write(&config, "version: v2\nservice: []\n").expect("the directory is ours");
    let config = config.display().to_string();
    let once = directory.path().join("once.yaml");
    fs::write(&once, "version: v2\noneshot: true\nservices: [{ type: ssh-multiplexer, destination: { type: directory, path: /run/x } }]\n").expect("the directory is ours");
    let once = once.display().to_string();
    let string = ["--config-string", "dmVyc2lvbjogdjIK"];
    for (words, error) in [
        (&["-c", &*config][..], "service: unknown key; did you mean"),
        (&["-c", "/nowhere/c.yaml"], "cannot read /nowhere/c.yaml: "),
        (&["--oneshot"], "oneshot: it writes files and ends"),
        (&["-c", &*once], "oneshot: it writes files and ends"),
        (
            &["--diag-addr", "3001"],
            "--diag-addr: \"3001\" is a port without a host",
        ),
        (&string, "--config-string: everyone may read a unit"),
        (&["--destination", "~/mux"], "~ is not expanded here"),
        (
            &["--pid-file", "/run/tbot.pid"],
            "/run is not for tbot alone: ",
        ),
        (
            &["--destination", "/run/a/../b"],
            "systemd does not understand \"/run/a/../b\": ",
        ),
        (
            &["--destination", "/var/lib/dpkg"],
            "/var/lib/dpkg has files of others, and systemd would take it",
        ),
        (
            &["--name", "../tbot"],
            "--name: \"../tbot\" is no name that systemd takes",
        ),
        (
            &["--user", "a\nb"],
            "--user: \"a\\nb\" is no name that systemd takes",
        ),
        (
            &["--group", ""],
            "--group: \"\" is no name that systemd takes",
        ),
        (
            &["--user", "65535"],
            "--user: 65535 is no user: a number is from 0 ",
        ),
        (&["--user", "4294967295"], "--user: 4294967295 is no user: "),
        (
            &["--group", "4294967295"],
            "--group: 4294967295 is no group: ",
        ),
        (&["--user", "4294967296"], "--user: 4294967296 is no user: "),
        (&["--user", "01000"], "--user: 01000 is no user: "),
    ] {
        let end = run(install(&["--write", "--systemd-directory", &at]).args(words));
        assert!(end.error().contains(error), "{error:?} in {end:?}");
        assert_eq!(end.stdout, "");
    }
    assert_eq!(fs::read_dir(&at).expect("ours").count(), 2);
    // Variables stand for flags here, too.
    let end = run(install(&[]).env("TBOT_CONFIG_PATH", "/nowhere/c.yaml"));
    assert!(
        end.error().contains("cannot read /nowhere/c.yaml: "),
        "{end:?}"
    );
    let unit = succeed(install(&[]).env("TBOT_DIAG_ADDR", "127.0.0.1:3002"));
    assert!(unit.contains(" --diag-addr 127.0.0.1:3002 "), "{unit}");
}

#[test]
fn files_that_the_unit_would_miss_are_told() {
    let directory = TempDir::new_in("/tmp").expect("a directory for temporary files");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let config = at("c.yaml");
    let (key, ssh) = (at("key"), at("ssh.conf"));
    let text = format!(
        "version: v2\nproxy_server: 'a:22'\nonboarding: {{ join_method: key-file, key_path: {key} }}\n\
         services: [{{ type: ssh-multiplexer, ssh_config_path: {ssh}, destination: {{ type: directory, path: /run/x }} }}]\n"
    );
    fs::write(&config, text).expect("the directory is ours");
    fs::write(&key, "").expect("the directory is ours");
    let mode = |path: &str, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    mode(&at(""), 0o700);
    let told = |user: &str, more: &[&str]| {
        let end = run(install(&["-c", &config, "--user", user]).args(more));
        assert!(end.status.success(), "{end:?}");
        end.stderr
    };
    let missing = format!("WARN: {ssh} is not there\n");
    // Who may read what others' directories hold, who may not, who is not there yet, and who is of another group.
    let owner = rustix::process::geteuid().as_raw().to_string();
    assert_eq!(told(&owner, &[]), missing);
    let kept = |path: &str| {
        format!(
            "WARN: {path} cannot be read by nobody (look at owner and mode, also of the directories above)\n"
        )
    };
    let both = kept(&config) + &kept(&key) + &missing;
    assert_eq!(told("nobody", &[]), both);
    assert_eq!(told("nobody-yet", &[]), missing);
    assert_eq!(told("nobody", &["--group", "adm"]), missing);
    // The directory alone may be what keeps them out, and the file alone.
    for path in [&at(""), &config, &key] {
        mode(path, 0o755);
    }
    assert_eq!(told("nobody", &[]), missing);
    mode(&key, 0o640);
    assert_eq!(told("nobody", &[]), kept(&key) + &missing);
}

/// Does what tbot says is to be done next.
fn do_next(systemd: &Systemd, told: &str) {
    let (_, steps) = told.split_once("Next, as root:\n").expect("it says so");
    succeed(systemd.command("sh").args(["-exc", steps]));
}

#[test]
fn what_it_says_is_to_be_done_next_is_all_that_is() {
    let Some(systemd) = Systemd::start(Path::new(PROGRAM)) else {
        return;
    };
    let mut tbot = systemd.command("/usr/local/bin/tbot");
    tbot.args([
        "install", "systemd", "--write", "--name", "mux", "--user", "some",
    ]);
    tbot.args(["--group", "ones", "--diag-addr", "127.0.0.1:0"]);
    // Which three programs read in three ways.
    let destination = "/etc/it's %n \"$HOME\" ${HOME} \\x41;ü";
    let told = succeed(tbot.args(["--destination", destination]));
    do_next(&systemd, &told);
    assert_eq!(systemd.property("mux", "ActiveState"), "active");
    assert_eq!(systemd.property("mux", "UnitFileState"), "enabled");
    let main = systemd.main_pid("mux").expect("it runs");
    assert!(systemd.path(destination).join("v1.sock").exists());
    let (code, body) = http::get(procfs::listeners(main)[0], "/readyz");
    assert_eq!(code, 200, "{body}");
    let stopped = systemd.systemctl(&["stop", "mux"]);
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(systemd.property("mux", "Result"), "success");
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
    let frozen = Frozen::thread(main, "mux-0").expect("root may");
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
