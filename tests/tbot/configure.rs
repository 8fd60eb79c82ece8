//! `tbot configure`: what it prints is started, what it checks is what a start would find.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::common::keys::Keys;
use crate::common::process::{Finished, run, succeed};
use crate::common::tbot::Start;
use crate::common::{http, is_root, mode, set_mode};

/// `tbot` with these words in `directory`, in an empty environment.
fn tbot<A: AsRef<OsStr>>(directory: &Path, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tbot"));
    command.args(args).current_dir(directory).env_clear();
    command
}

fn configure(directory: &Path, args: &str) -> Finished {
    run(&mut tbot(
        directory,
        ["configure"].into_iter().chain(args.split_whitespace()),
    ))
}

#[track_caller]
fn failed(end: &Finished, error: &str) {
    let said = (end.stdout.as_str(), end.stderr.as_str());
    assert_eq!(
        (end.status.code(), said),
        (Some(1), ("", &*format!("ERROR: {error}\n")))
    );
}

/// The example with each line that is a setting behind a `#` set.
fn all_set(example: &str) -> String {
    let set = |line: &str| {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        match rest.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') || key.starts_with("  ") => {
                format!("{indent}{key}\n")
            }
            _ => format!("{line}\n"),
        }
    };
    example.lines().map(set).collect()
}

#[test]
fn the_example_is_served() {
    let here = tempfile::tempdir().expect("a directory");
    let example = succeed(&mut tbot(here.path(), ["configure"]));
    let tbot = Start::config(|destination| {
        let example = example.replace("127.0.0.1:3001", "127.0.0.1:0");
        example.replace("/run/tbot", &destination.display().to_string())
    })
    .start();
    let (status, _) = http::get(tbot.address(), "/readyz/mux");
    assert_eq!(status, 200);
    assert!(tbot.destination.join("ssh_config").exists());
    assert!(!tbot.stderr.so_far().contains("is overridden"));
}

#[test]
fn the_example_shows_every_key_and_all_of_it_holds() {
    let room = tempfile::tempdir().expect("a directory");
    let keys = Keys::with_ca();
    let example = succeed(&mut tbot(room.path(), ["configure"]));
    fs::write(
        room.path().join("templates.yaml"),
        "proxy_templates: [{ template: a, host: b }]",
    )
    .expect("ours");
    let authority = fs::read_to_string(keys.path("ca.pub")).expect("it is there");
    fs::write(room.path().join("host_ca.pub"), authority).expect("ours");
    let here = room.path().display().to_string();
    let whole = all_set(&example)
        .replace("/etc/tbot/host_ca.pub", &format!("{here}/host_ca.pub"))
        .replace(
            "/etc/tbot/templates.yaml",
            &format!("{here}/templates.yaml"),
        )
        .replace("/run/tbot", &format!("{here}/run"))
        .replace("/var/lib/tbot", &format!("{here}/lib"));
    let file = room.path().join("whole.yaml");
    let check = |text: &str| {
        fs::write(&file, text).expect("ours");
        configure(room.path(), "--check -c whole.yaml")
    };
    let end = check(&whole);
    let expected = format!(
        "OK: ssh-multiplexer \"mux\" in {here}/run; ssh-multiplexer \"ssh-multiplexer-2\" in \
         {here}/run-clusters; identity \"files\" in {here}/lib/files; diagnostics at 127.0.0.1:3001\n"
    );
    assert_eq!(
        (end.status.code(), &*end.stdout, &*end.stderr),
        (Some(0), &*expected, "")
    );
    // What is commented out shows defaults, but for those that have none.
    let plain = configure(room.path(), "--check -c whole.yaml --log-format text");
    assert_eq!(plain.stderr, "");

    // The program lists its keys where it meets one that it does not know: of the run, then of what begins with
    // such a line and ends with such another.
    let tables = [
        ("version: v2\n", "", ""),
        ("  - type: ssh-multiplexer\n", "    ", "\n\n"),
        ("    - name: prod\n", "        ", "    - name:"),
        ("  - type: identity\n", "    ", "\n\n"),
        ("  join_method: ssh-ca\n", "  ", "\n# "),
    ];
    for (begin, indent, end_of_it) in tables {
        let (before, after) = whole.split_once(begin).expect(begin);
        let shown = match end_of_it {
            "" => whole.as_str(),
            end_of_it => after.split(end_of_it).next().unwrap_or_default(),
        };
        let end = check(&format!("{before}{begin}{indent}no-such-key: 1\n{after}"));
        let (_, list) = end
            .error()
            .split_once("(allowed: ")
            .expect("a list of keys");
        let (list, _) = list.split_once(')').expect("the list has an end");
        for key in list.split(", ") {
            let is_shown = shown
                .lines()
                .any(|line| line.starts_with(&format!("{indent}{key}:")));
            // The beginning has some, one is an older name, and clusters stand in place of others.
            let elsewhere =
                begin.contains(&format!("{key}: ")) || ["outputs", "clusters"].contains(&key);
            assert!(is_shown || elsewhere, "no {key} behind {begin}");
        }
    }
    assert!(whole.contains("\n    clusters:\n"));
}

#[test]
fn what_is_printed_for_flags_is_what_they_start() {
    let start = Start::multiplexer();
    let here = start.directory().to_owned();
    let odd = here.join("it's \"a\": #1 \u{fc}\u{2028}");
    let args = [
        "configure".as_ref(),
        "ssh-multiplexer".as_ref(),
        "--destination".as_ref(),
        odd.as_os_str(),
        "--name=true".as_ref(),
        "--diag-addr=127.0.0.1:0".as_ref(),
        "--shutdown-grace=0s".as_ref(),
        "--pid-file=x y".as_ref(),
        "--output=my tbot.yaml".as_ref(),
    ];
    let end = run(&mut tbot(&here, args));
    assert_eq!(
        (end.status.code(), &*end.stdout, &*end.stderr),
        (Some(0), "", "")
    );
    let made = fs::read_to_string(here.join("my tbot.yaml")).expect("it was written");
    assert!(made.contains("tbot start --pid-file \"x y\"\n"), "{made}");
    let tbot = Start::config(|_| made).start();
    assert_eq!(http::get(tbot.address(), "/readyz/true").0, 200);
    assert!(odd.join("v1.sock").exists());
}

#[test]
fn a_file_is_replaced_whole_and_keeps_what_it_is() {
    let room = tempfile::tempdir().expect("a directory");
    let here = room.path();
    let example = succeed(&mut tbot(here, ["configure"]));
    let read = |name: &str| fs::read_to_string(here.join(name)).expect("it is there");
    let names = || {
        let entries = fs::read_dir(here).expect("ours");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    // As `>` would make it.
    let mut shell = Command::new("sh");
    let umask = "umask 027 && exec \"$0\" configure -o new.yaml";
    succeed(
        shell
            .args(["-c", umask, env!("CARGO_BIN_EXE_tbot")])
            .current_dir(here)
            .env_clear(),
    );
    assert_eq!(
        (read("new.yaml"), mode(&here.join("new.yaml"))),
        (example.clone(), 0o640)
    );
    fs::write(here.join("old"), "old").expect("ours");
    set_mode(&here.join("old"), 0o604);
    if is_root() {
        std::os::unix::fs::chown(here.join("old"), Some(65534), Some(65534)).expect("root may");
    }
    let before = fs::metadata(here.join("old")).expect("ours");
    symlink("old", here.join("link")).expect("ours");
    assert!(configure(here, "-o link").status.success());
    let after = fs::metadata(here.join("old")).expect("ours");
    assert_eq!(
        (read("old"), mode(&here.join("old"))),
        (example.clone(), 0o604)
    );
    assert_eq!((before.uid(), before.gid()), (after.uid(), after.gid()));
    assert!(here.join("link").is_symlink());
    assert_ne!(before.ino(), after.ino(), "readers of the old one keep it");
    for (args, stdout) in [
        ("-o -", &*example),
        ("-o /dev/stdout", &*example),
        ("-o /dev/null", ""),
    ] {
        let end = configure(here, args);
        assert_eq!(
            (end.status.code(), &*end.stdout, &*end.stderr),
            (Some(0), stdout, "")
        );
    }
    symlink("nothing", here.join("dangling")).expect("ours");
    failed(&configure(here, "-o ."), "cannot write .: is a directory");
    failed(
        &configure(here, "-o no/x"),
        "cannot write no/x: No such file or directory",
    );
    failed(
        &configure(here, "-o dangling"),
        "cannot write dangling: No such file or directory",
    );
    failed(&configure(here, "--output="), "--output: the path is empty");
    // A file that does not fit leaves the old one.
    let mut limited = Command::new("prlimit");
    limited.args([
        "--fsize=100",
        env!("CARGO_BIN_EXE_tbot"),
        "configure",
        "-o",
        "old",
    ]);
    fs::write(here.join("old"), "old").expect("ours");
    let end = run(limited.current_dir(here).env_clear());
    failed(&end, "cannot write old: File too large");
    assert_eq!(read("old"), "old");
    assert_eq!(names(), ["dangling", "link", "new.yaml", "old"]);
}

#[test]
fn a_check_finds_what_a_start_would_and_touches_nothing() {
    let room = tempfile::tempdir().expect("a directory");
    let here = room.path();
    let right = "version: v2\ndiag_addr: 127.0.0.1:3001\nservices:\n  - type: ssh-multiplexer\n    \
                 destination: { type: directory, path: ./out }\n";
    fs::write(here.join("c.yaml"), right).expect("ours");
    let ok = |diagnostics: &str| {
        let out = here.join("out").display().to_string();
        format!("OK: ssh-multiplexer \"ssh-multiplexer-1\" in {out}; {diagnostics}\n")
    };
    let succeeded = |command: &mut Command, stdout: &str, stderr: &str| {
        let end = run(command);
        assert_eq!(
            (end.status.code(), &*end.stdout, &*end.stderr),
            (Some(0), stdout, stderr)
        );
    };
    let check = |args: &str| tbot(here, format!("configure --check {args}").split_whitespace());
    let at = ok("diagnostics at 127.0.0.1:3001");
    succeeded(&mut check("-c c.yaml"), &at, "");
    succeeded(check("").env("TBOT_CONFIG_PATH", "c.yaml"), &at, "");
    let base64 = {
        let encoded = succeed(
            Command::new("base64")
                .args(["-w0"])
                .arg(here.join("c.yaml")),
        );
        succeeded(&mut check(&format!("--config-string {encoded}")), &at, "");
        encoded
    };
    succeeded(check("").env("TBOT_CONFIG", base64), &at, "");
    succeeded(
        &mut check("-c c.yaml --diag-addr [::1]:3002"),
        &ok("diagnostics at [::1]:3002"),
        "WARN: c.yaml:2: diag_addr: 127.0.0.1:3001 is overridden by [::1]:3002 from --diag-addr\n",
    );
    succeeded(
        &mut check("-c c.yaml --oneshot"),
        "OK: nothing, as oneshot starts no multiplexer\n",
        "",
    );
    let mut flags = tbot(
        here,
        "configure ssh-multiplexer --check --destination out".split(' '),
    );
    succeeded(&mut flags, &ok("no diagnostics"), "");

    // What is wrong is said in the words of a start.
    for wrong in [
        "version: v1\n",
        "version: v2\n",
        "version: v2\nservices: [{ type: database }]\n",
        &right.replace("v2", "v3"),
        &right.replace("./out", "c.yaml"),
        &right.replace("3001", "30001000"),
        &format!("{right}    host_ca: [/no/such/file]\n"),
        &format!("{right}    proxy_templates_path: /no/such/file\n"),
        &format!(
            "{right}{}",
            right.split_once("services:\n").expect("it has them").1
        ),
        "a: [",
        "",
    ] {
        fs::write(here.join("w.yaml"), wrong).expect("ours");
        let started = run(&mut tbot(here, ["start", "-c", "w.yaml"]));
        failed(
            &run(&mut check("-c w.yaml")),
            started.error().trim_start_matches("ERROR: "),
        );
    }
    failed(
        &run(&mut check("")),
        "nothing to check: name a configuration file (tbot configure --check -c my-config.yaml) or a \
         service (tbot configure ssh-multiplexer --destination DIR)",
    );
    let entries = fs::read_dir(here).expect("ours");
    assert_eq!(entries.count(), 2, "the two files that were written here");
}

#[test]
fn what_makes_no_sense_together_is_said() {
    let room = tempfile::tempdir().expect("a directory");
    for (args, error) in [
        (
            "-c x",
            "--config: the example that tbot configure prints is always the same; tbot configure ssh-multiplexer prints one of flags, and --check checks them",
        ),
        (
            "--diag-addr a:1",
            "--diag-addr: the example that tbot configure prints is always the same; tbot configure ssh-multiplexer prints one of flags, and --check checks them",
        ),
        (
            "--check -c x -o y",
            "--output names a file to write, and --check writes none; leave one of them out",
        ),
        (
            "--check=perhaps",
            "--check: \"perhaps\" is neither true nor false (allowed: true, t, 1, false, f, 0)",
        ),
        (
            "ssh-multiplexer -c x --destination y",
            "--config: what is printed is made of flags alone; leave it out, or check it with --check",
        ),
        (
            "ssh-multiplexer",
            "tbot configure ssh-multiplexer needs --destination: a directory for its sockets and files",
        ),
        (
            "ssh-multiplexer --destination y --max-connections 0",
            "--max-connections: must be a whole number from 1 to 1000000, and is the number 0",
        ),
        (
            "ssh-multiplexer --destination y -o z --name A",
            "--name: \"A\" is no service name; it must be of the characters a-z 0-9 _ - and +",
        ),
        (
            "database",
            "\"database\" needs a Teleport cluster, which tbot-rs does without; remove it (tbot-rs serves: identity, ssh-multiplexer)",
        ),
    ] {
        failed(&configure(room.path(), args), error);
    }
    let newline = ["configure", "ssh-multiplexer", "--destination", "a\nb"];
    failed(
        &run(&mut tbot(room.path(), newline)),
        "--destination: has a control character: \"a\\nb\"",
    );
    assert_eq!(fs::read_dir(room.path()).expect("ours").count(), 0);
}
