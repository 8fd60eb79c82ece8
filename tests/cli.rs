//! The command line as a user meets it. What would run is asked of the library in `src/cli/start.rs`;
//! here are the real program's answers where nothing is started.
#![cfg(feature = "cli")]

mod program;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};

use program::{Room, run};

const MUX: [&str; 4] = ["start", "ssh-multiplexer", "--destination", "./out"];

/// `tbot start ssh-multiplexer --destination ./out` with `more` fails with this message.
#[track_caller]
fn refused(more: &[&str], message: &str) {
    let room = Room::new();
    room.tbot(MUX.iter().chain(more)).failed_with(message);
    assert_eq!(room.names(), [""; 0]);
}

#[test]
fn version_tells_what_was_built_from_what() {
    for args in [["version"], ["--version"], ["-V"]] {
        let run = Room::new().tbot(args);
        let lines: Vec<&str> = run.succeeded().lines().collect();
        assert_eq!(lines[0], concat!("tbot ", env!("CARGO_PKG_VERSION")));
        for (line, name) in lines[1..]
            .iter()
            .zip(["commit: ", "rustc: rustc 1.", "target: "])
        {
            assert!(line.starts_with(name) && line.len() > name.len(), "{line}");
        }
        assert_eq!(lines.len(), 4);
    }
}

#[test]
fn help_has_every_flag_with_its_default_and_variable() {
    const ROOT: [(&str, &str); 4] = [
        (
            "-c, --config PATH",
            "[default: none] [env: TBOT_CONFIG_PATH]",
        ),
        (
            "    --config-string BASE64",
            "[default: none] [env: TBOT_CONFIG]",
        ),
        ("-d, --debug", "[default: false] [env: TBOT_DEBUG]"),
        (
            "    --log-format text|json",
            "[default: text] [env: TBOT_LOG_FORMAT]",
        ),
    ];
    const START: [(&str, &str); 8] = [
        (
            "    --diag-addr HOST:PORT",
            "[default: none, no listener] [env: TBOT_DIAG_ADDR]",
        ),
        ("    --certificate-ttl DURATION", "[default: 1h]"),
        ("    --renewal-interval DURATION", "[default: 20m]"),
        ("    --oneshot", "[default: false]"),
        ("    --pid-file PATH", "[default: none]"),
        (
            "    --proxy-server HOST:PORT",
            "[default: none, targets are dialled] [env: TELEPORT_PROXY]",
        ),
        ("    --shutdown-grace DURATION", "[default: 10s]"),
        ("    --storage memory:|PATH", "[default: memory:]"),
    ];
    const MULTIPLEXER: [(&str, &str); 9] = [
        ("    --destination PATH", "[default: none, required]"),
        ("    --name NAME", "[default: ssh-multiplexer-N]"),
        ("    --cluster-name NAME", "[default: none, every host]"),
        ("    --proxy-command WORD", "[default: this program]"),
        ("    --proxy-templates-path PATH", "[default: none]"),
        ("    --enable-resumption", "[default: false]"),
        ("    --connect-timeout DURATION", "[default: 10s]"),
        ("    --max-connections NUMBER", "[default: 10000]"),
        (
            "    --allowed-uid UID",
            "[default: none but the one that runs tbot]",
        ),
    ];
    const INSTALL: [(&str, &str); 7] = [
        ("    --name UNIT", "[default: tbot]"),
        ("    --user USER", "[default: tbot]"),
        ("    --group GROUP", "[default: that of the user]"),
        (
            "    --destination DIR",
            "[default: /run/UNIT without --config, else none]",
        ),
        (
            "    --systemd-directory PATH",
            "[default: /etc/systemd/system]",
        ),
        ("    --write", "[default: false]"),
        ("    --force", "[default: false]"),
    ];
    let room = Room::new();
    let check = |args: &[&str], flags: &[&[(&str, &str)]]| {
        let run = room.tbot(args);
        let lines: Vec<&str> = run.succeeded().lines().collect();
        let flags: Vec<&(&str, &str)> = flags.iter().copied().flatten().collect();
        for (form, about) in &flags {
            let form = format!("  {form}");
            let at = lines.iter().position(|line| *line == form);
            let at = at.unwrap_or_else(|| panic!("no {form:?} in {args:?}"));
            assert!(lines[at + 1].ends_with(about), "{}", lines[at + 1]);
        }
        // And no other, but for --help and, at the root, --version.
        let shown = lines
            .iter()
            .filter(|line| line.starts_with("  ") && line.contains("--"));
        let shown = shown.filter(|line| !line.starts_with("          ")).count();
        assert_eq!(
            shown,
            flags.len() + if args.len() == 1 { 2 } else { 1 },
            "{lines:#?}"
        );
    };
    const WAIT: [(&str, &str); 3] = [
        (
            "    --diag-addr HOST:PORT|URL",
            "[default: none, required] [env: TBOT_DIAG_ADDR]",
        ),
        ("    --service NAME", "[default: every service]"),
        ("    --timeout DURATION", "[default: none, for ever]"),
    ];
    const CONFIGURE: [(&str, &str); 2] = [
        ("    --check", "[default: false]"),
        ("-o, --output PATH", "[default: -, to stdout]"),
    ];
    check(&["--help"], &[&ROOT]);
    check(&["start", "--help"], &[&ROOT, &START]);
    check(&["start", "-h"], &[&ROOT, &START]);
    check(&["help", "start"], &[&ROOT, &START]);
    check(
        &["start", "ssh-multiplexer", "--help"],
        &[&ROOT, &START, &MULTIPLEXER],
    );
    check(&["configure", "--help"], &[&ROOT, &START, &CONFIGURE]);
    check(
        &["configure", "ssh-multiplexer", "--help"],
        &[&ROOT, &START, &CONFIGURE, &MULTIPLEXER],
    );
    check(&["wait", "--help"], &[&ROOT[2..3], &WAIT]);
    check(
        &["install", "systemd", "--help"],
        &[&ROOT, &START, &INSTALL],
    );
    for command in ["version", "man", "completions"] {
        check(&[command, "--help"], &[&ROOT[2..3]]);
    }
    for command in ["start", "start ssh-multiplexer", "install systemd"] {
        let run = room.tbot(command.split(' ').chain(["--help"]));
        let says = "\nThe variable TBOT_LOG says what is logged: error, ";
        assert!(run.succeeded().contains(says), "{command}");
    }
    // Each says what it does there.
    for (command, debug) in [
        (
            "start",
            "          Log details, show the causes of errors, and serve profiles at ",
        ),
        (
            "wait",
            "          Print each reason to wait, as without --timeout, and the causes ",
        ),
        (
            "man",
            "          Show the causes of errors. [default: false]",
        ),
    ] {
        let run = room.tbot([command, "--help"]);
        assert!(run.succeeded().contains(debug), "{command}");
    }
    let last = "\ntbot COMMAND --help lists a command's flags; tbot man is the manual.\n";
    assert!(room.tbot(["--help"]).succeeded().ends_with(last));
    let run = room.tbot(["ssh-multiplexer-proxy-command", "--help"]);
    assert!(run.succeeded().contains("SOCKET HOST:PORT[|CLUSTER]"));
    for command in [
        "start",
        "start ssh-multiplexer",
        "wait",
        "configure",
        "configure ssh-multiplexer",
        "install systemd",
        "completions",
        "man",
        "version",
        "ssh-multiplexer-proxy-command",
    ] {
        let run = room.tbot(["--help"]);
        assert!(
            run.succeeded().lines().any(|line| line.trim() == command),
            "{command}"
        );
    }
}

#[test]
fn help_reads_no_configuration() {
    let room = Room::new();
    let run = run(room
        .command(["start", "--help", "-c", "/nowhere/x.yaml"])
        .env("TBOT_DEBUG", "perhaps"));
    assert!(
        run.succeeded()
            .contains("Usage: tbot start -c PATH [FLAGS]")
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let room = Room::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let run = run(room.command(["--help"]).stdout(writer));
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn what_cannot_be_printed_is_an_error() {
    let room = Room::new();
    for words in [
        &["version"][..],
        &["--help"],
        &["start", "--help"],
        &["man"],
        &["completions", "zsh"],
        &["configure"],
        &["configure", "ssh-multiplexer", "--destination", "/run/x"],
        &["install", "systemd"],
    ] {
        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("it is there");
        run(room.command(words).stdout(full))
            .failed_with("cannot write to stdout: No space left on device");
        let tbot = room.command(words);
        let by_shell = |script: &str| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", script]).arg(tbot.get_program());
            run(shell.args(tbot.get_args()).current_dir(room.path()))
        };
        by_shell("exec \"$0\" \"$@\" >&-").failed_with("cannot write to stdout: it is closed");
        // Who wants to see nothing is no error, nor is who may be asked to read it.
        assert_eq!(
            by_shell("exec \"$0\" \"$@\" <>/dev/null 1<>/dev/null").succeeded(),
            ""
        );
    }
}

#[test]
fn a_closed_stderr_does_not_change_the_exit_code() {
    let room = Room::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = room
        .command(["strat"])
        .stderr(writer)
        .stdout(Stdio::null())
        .status();
    assert_eq!(status.expect("it runs").code(), Some(1));
}

#[test]
fn an_unknown_command_is_told_with_a_near_miss() {
    const COMMANDS: &str = "(allowed: start, wait, configure, install, completions, man, version, ssh-multiplexer-proxy-command)";
    let room = Room::new();
    for (args, message) in [
        (vec![], "no command is given (tbot --help lists what there is)".to_owned()),
        (vec!["strat"], format!("unknown command \"strat\"; did you mean \"start\"? {COMMANDS}")),
        (vec!["serve"], format!("unknown command \"serve\" {COMMANDS}")),
        (vec![""], format!("unknown command \"\" {COMMANDS}")),
        (vec!["start", "ssh-multiplexor"], "tbot start: unknown command \"ssh-multiplexor\"; did you mean \"ssh-multiplexer\"? (allowed: ssh-multiplexer)".into()),
        (vec!["start", "my.yaml"], "tbot start: unknown command \"my.yaml\" (allowed: ssh-multiplexer)".into()),
        (vec!["start", "ssh-multiplexer", "x"], "unexpected argument \"x\"".into()),
        (vec!["version", "x"], "unexpected argument \"x\"".into()),
        (vec!["start", "database"], "\"database\" needs a Teleport cluster, which tbot-rs does without; remove it (tbot-rs serves: identity, ssh-multiplexer)".into()),
        (vec!["install"], "tbot install needs systemd behind it".into()),
        (vec!["install", "sytemd"], "tbot install: unknown command \"sytemd\"; did you mean \"systemd\"? (allowed: systemd)".into()),
        (vec!["migrate"], "the command migrate is not in this version of tbot-rs".into()),
        (vec!["wiat"], format!("unknown command \"wiat\"; did you mean \"wait\"? {COMMANDS}")),
        (vec!["configure", "ssh-multiplexr"], "tbot configure: unknown command \"ssh-multiplexr\"; did you mean \"ssh-multiplexer\"? (allowed: ssh-multiplexer)".into()),
        (vec!["init"], "the command init needs a Teleport cluster, which tbot-rs does without; leave it out".into()),
        (vec!["-d", "ssh-multiplexer-proxy-command", "a"], "unexpected argument \"a\"".into()),
        (vec!["-d", "ssh-multiplexer-proxy-command"], "--debug is no flag of `tbot ssh-multiplexer-proxy-command`, but one of `tbot start`, `tbot wait`, `tbot configure`, `tbot install systemd`, `tbot completions`, `tbot man`, `tbot version`".into()),
    ] {
        room.tbot(&args).failed_with(&message);
    }
}

#[test]
fn an_unknown_flag_is_told_with_a_near_miss() {
    const SEE: &str = "(tbot start ssh-multiplexer --help lists what there is)";
    for (flag, message) in [
        (
            "--destinatoin=x",
            format!("unknown flag --destinatoin; did you mean \"--destination\"? {SEE}"),
        ),
        (
            "--diag_addr=x",
            format!("unknown flag --diag_addr; did you mean \"--diag-addr\"? {SEE}"),
        ),
        ("--colour", format!("unknown flag --colour {SEE}")),
        ("-x", format!("unknown flag -x {SEE}")),
        (
            "-d=false",
            "unexpected argument for option '-d': \"false\"".into(),
        ),
        (
            "--oneshot=",
            "--oneshot: \"\" is neither true nor false (allowed: true, t, 1, false, f, 0)".into(),
        ),
        (
            "--debug=maybe",
            "--debug: \"maybe\" is neither true nor false (allowed: true, t, 1, false, f, 0)"
                .into(),
        ),
        ("--diag-addr", "--diag-addr needs a value".into()),
        ("-c", "--config needs a value".into()),
        ("--destination=y", "--destination is given twice".into()),
    ] {
        refused(&[flag], &message);
    }
    Room::new()
        .tbot(["start", "--destination", "x"])
        .failed_with("--destination is no flag of `tbot start`, but one of `tbot start ssh-multiplexer`, `tbot configure ssh-multiplexer`, `tbot install systemd`");
    Room::new()
        .tbot(["version", "--oneshot"])
        .failed_with("--oneshot is no flag of `tbot version`, but one of `tbot start`, `tbot configure`, `tbot install systemd`");
    Room::new()
        .tbot(["-c", "x", "version"])
        .failed_with("--config is no flag of `tbot version`, but one of `tbot start`, `tbot configure`, `tbot install systemd`");
    Room::new()
        .tbot(["start", "--timeout", "1s"])
        .failed_with("--timeout is no flag of `tbot start`, but one of `tbot wait`");
    // A near miss is one that the command takes; before any command, one of all.
    for (line, message) in [
        (
            "wait --servce x",
            "unknown flag --servce; did you mean \"--service\"? (tbot wait --help lists what there is)",
        ),
        (
            "wait --diag-adr x",
            "unknown flag --diag-adr; did you mean \"--diag-addr\"? (tbot wait --help lists what there is)",
        ),
        (
            "start --servce x",
            "unknown flag --servce (tbot start --help lists what there is)",
        ),
        (
            "install --wrte",
            "unknown flag --wrte; did you mean \"--write\"? (tbot install systemd --help lists what there is)",
        ),
        (
            "version -x",
            "unknown flag -x (tbot version --help lists what there is)",
        ),
        (
            "--servce x wait",
            "unknown flag --servce; did you mean \"--service\"? (tbot --help lists what there is)",
        ),
        (
            "help wait --servce",
            "unknown flag --servce; did you mean \"--service\"? (tbot wait --help lists what there is)",
        ),
        (
            "wiat --servce x",
            "unknown command \"wiat\"; did you mean \"wait\"? (allowed: start, wait, configure, install, completions, man, version, ssh-multiplexer-proxy-command)",
        ),
    ] {
        Room::new().tbot(line.split(' ')).failed_with(message);
    }
}

#[test]
fn a_flag_of_the_original_is_told_why_not() {
    const CLUSTER: &str = "needs a Teleport cluster, which tbot-rs does without; leave it out";
    for (flag, why) in [
        ("--token", CLUSTER),
        ("--join-method", CLUSTER),
        ("--auth-server", CLUSTER),
        ("--ca-pin", CLUSTER),
        ("--insecure", CLUSTER),
        ("--fips", CLUSTER),
    ] {
        refused(&[flag, "x"], &format!("{flag} {why}"));
    }
}

#[test]
fn a_bad_value_is_told_by_its_flag() {
    const FORM: &str = "(a duration is written like 1h30m, 90s or 100ms)";
    const DIRECTORY: &str = "{ type: directory, path: /opt/machine-id }";
    for (flag, value, message) in [
        ("--diag-addr", "http://127.0.0.1:3001", "\"http://127.0.0.1:3001\" is a URL; it must be host:port, such as 127.0.0.1:3001".to_owned()),
        ("--diag-addr", "", "\"\" has no port; it must be host:port, such as 127.0.0.1:3001".into()),
        ("--log-format", "xml", "unknown value \"xml\" (allowed: text, json)".into()),
        ("--certificate-ttl", "60", format!("\"60\" has a number without a unit: ns, us, ms, s, m or h {FORM}")),
        ("--certificate-ttl", "25h", "25h is too long; the longest is 24h".into()),
        ("--certificate-ttl", "5m", "5m is not longer than the renewal_interval of 20m; a credential must be renewed before it ends".into()),
        ("--renewal-interval", "2h", "2h is not shorter than the credential_ttl of 1h; a credential must be renewed before it ends".into()),
        ("--shutdown-grace", "-1s", format!("\"-1s\" is negative {FORM}")),
        ("--connect-timeout", "0s", "must be longer than 0s".into()),
        ("--pid-file", "", "the path is empty".into()),
        ("--storage", "", "the path is empty".into()),
        ("--storage", "s3://bucket", "\"s3\" is of an unknown scheme; write a path or file:///path".into()),
        ("--name", "identity", "the name \"identity\" is reserved (reserved: ca-rotation, crl-cache, heartbeat, identity, spiffe-trust-bundle-cache)".into()),
        ("--cluster-name", "a b", "\"a b\" is no cluster name; it must be a DNS name or a label of one, such as prod or prod.example.com, of the characters a-z 0-9 - and .".into()),
        ("--proxy-command", "", "the program of the command is empty".into()),
        ("--max-connections", "0", "must be a whole number from 1 to 1000000, and is the number 0".into()),
        ("--max-connections", "many", "must be a whole number from 1 to 1000000, and is the text \"many\"".into()),
        ("--allowed-uid", "root", "must be a whole number from 0 to 4294967294, and is the text \"root\"".into()),
    ] {
        refused(&[flag, value], &format!("{flag}: {message}"));
    }
    for (destination, message) in [
        ("", "the path is empty".to_owned()),
        (
            "file",
            "\"file\" is no directory; the destination must be a directory, or nothing yet".into(),
        ),
        (
            "file:///dev/null",
            "\"/dev/null\" is no directory; the destination must be a directory, or nothing yet"
                .into(),
        ),
        (
            "file:///dev/nul%6c",
            "\"/dev/null\" is no directory; the destination must be a directory, or nothing yet"
                .into(),
        ),
        (
            "file://host/path",
            "\"file://host/path\" names no absolute path; write file:///path".into(),
        ),
        (
            "file:///a%00b",
            "has a control character: \"/a\\0b\"".into(),
        ),
        (
            "memory:",
            format!(
                "\"memory\" cannot hold sockets and files of an ssh-multiplexer; use {DIRECTORY}"
            ),
        ),
        (
            "memory://",
            format!(
                "\"memory\" cannot hold sockets and files of an ssh-multiplexer; use {DIRECTORY}"
            ),
        ),
        (
            "kubernetes-secret://x",
            format!(
                "\"kubernetes_secret\" cannot hold sockets and files of an ssh-multiplexer; use {DIRECTORY}"
            ),
        ),
        (
            "http://x",
            "\"http\" is of an unknown scheme; write a path or file:///path".into(),
        ),
    ] {
        let room = Room::new();
        room.write("file", "");
        room.tbot(["start", "ssh-multiplexer", "--destination", destination])
            .failed_with(&format!("--destination: {message}"));
    }
}

#[test]
fn a_bad_variable_is_told_by_its_name() {
    for (name, value, message) in [
        (
            "TBOT_DEBUG",
            "yes",
            "\"yes\" is neither true nor false (allowed: true, t, 1, false, f, 0)",
        ),
        (
            "TBOT_LOG_FORMAT",
            "xml",
            "unknown value \"xml\" (allowed: text, json)",
        ),
        (
            "TBOT_LOG",
            "inof",
            "unknown level \"inof\"; did you mean \"info\"? (allowed: error, warn, info, debug, trace, and \
             PART=LEVEL, as in info,tbot::connection=warn)",
        ),
        (
            "TBOT_LOG",
            "info,tbot::mux=debug",
            "unknown part \"tbot::mux\"; did you mean \"tbot::bot\"? (allowed: tbot::bot, tbot::connection, \
             tbot::diagnostics, tbot::identity, tbot::logging, tbot::multiplexer, tbot::task)",
        ),
        (
            "TBOT_DIAG_ADDR",
            "3001",
            "\"3001\" is a port without a host; it must be host:port, such as 127.0.0.1:3001",
        ),
        (
            "TBOT_CONFIG",
            "%",
            "not base64; encode the configuration with: base64 -w0 my-config.yaml",
        ),
    ] {
        run(Room::new().command(MUX).env(name, value)).failed_with(&format!("{name}: {message}"));
    }
    let bytes = OsString::from_vec(vec![b'a', 0xff]);
    run(Room::new().command(MUX).env("TBOT_LOG_FORMAT", &bytes))
        .failed_with("TBOT_LOG_FORMAT: \"a\u{fffd}\" is not UTF-8 text");
    run(Room::new().command(MUX).env("TBOT_LOG", &bytes))
        .failed_with("TBOT_LOG: \"a\u{fffd}\" is not UTF-8 text");
    run(Room::new()
        .command(["start"])
        .env("TBOT_CONFIG_PATH", "x.yaml"))
    .failed_with("cannot read x.yaml: no such file or directory (is the path right?)");
}

#[test]
fn arguments_that_are_no_paths_are_utf_8() {
    let bytes = || OsString::from_vec(vec![b'a', 0xff]);
    let room = Room::new();
    let mux = || MUX.iter().map(OsString::from);
    room.tbot(mux().chain(["--name".into(), bytes()]))
        .failed_with("--name: \"a\u{fffd}\" is not UTF-8 text");
    room.tbot([bytes()])
        .failed_with("\"a\u{fffd}\" is not UTF-8 text");
    // A path may be of any bytes.
    std::fs::write(room.path().join(bytes()), "").expect("written");
    room.tbot(["start".into(), "ssh-multiplexer".into(), "--destination".into(), bytes()])
        .failed_with("--destination: \"a\u{fffd}\" is no directory; the destination must be a directory, or nothing yet");
    room.tbot(["start".into(), "-c".into(), bytes()])
        .failed_with("a\u{fffd}: empty; a configuration begins with version: v2");
}

#[test]
fn a_run_needs_a_configuration_or_a_service() {
    Room::new().tbot(["start"]).failed_with(
        "nothing to start: name a configuration file (tbot start -c my-config.yaml) or a service \
         (tbot start ssh-multiplexer --destination DIR)",
    );
    Room::new().tbot(["start", "ssh-multiplexer"]).failed_with(
        "tbot start ssh-multiplexer needs --destination: a directory for its sockets and files",
    );
}

#[test]
fn a_configuration_comes_from_one_place() {
    const BOTH: &str = "are both given; only one of them can be the configuration";
    let room = Room::new();
    room.tbot(["start", "-c", "x", "--config-string", "eA=="])
        .failed_with(&format!("--config and --config-string {BOTH}"));
    let both = |command: &mut std::process::Command| {
        run(command
            .env("TBOT_CONFIG_PATH", "x")
            .env("TBOT_CONFIG", "eA=="))
    };
    both(&mut room.command(["start"]))
        .failed_with(&format!("TBOT_CONFIG_PATH and TBOT_CONFIG {BOTH}"));
    // A flag is stronger than either variable. `eTogMQ` is `y: 1` without its padding.
    both(&mut room.command(["start", "--config-string", "eTog\nMQ"]))
        .failed_with("--config-string:1: the key \"version\" is missing; write version: v2");
    both(&mut room.command(["start", "-c", "z"]))
        .failed_with("cannot read z: no such file or directory (is the path right?)");
    run(room.command(["start"]).env("TBOT_CONFIG", "eTogMQ=="))
        .failed_with("TBOT_CONFIG:1: the key \"version\" is missing; write version: v2");
}

#[test]
fn a_service_of_flags_is_checked_against_those_of_the_file() {
    let room = Room::new();
    room.write(
        "c.yaml",
        "version: v2\nservices:\n  - type: ssh-multiplexer\n    name: ssh-multiplexer-2\n    destination: { type: directory, path: ./a }\n",
    );
    room.tbot(MUX.iter().chain(&["-c", "c.yaml"])).failed_with(
        "tbot start ssh-multiplexer: the name \"ssh-multiplexer-2\" is that of services[0]; it is \
         this one's by default: write a \"name\" of its own",
    );
    room.tbot(
        MUX.iter()
            .chain(&["-c", "c.yaml", "--name", "ssh-multiplexer-2"]),
    )
    .failed_with(
        "--name: the name \"ssh-multiplexer-2\" is that of services[0]; each service needs its own",
    );
    let shown = room.path().join("a");
    room.tbot([
        "start",
        "ssh-multiplexer",
        "-c",
        "c.yaml",
        "--name",
        "b",
        "--destination",
        "a",
    ])
    .failed_with(&format!(
        "--destination: {shown:?} is the destination of services[0]; each service needs its own"
    ));
    assert_eq!(room.names(), ["c.yaml"]);
}

#[test]
fn what_a_flag_overrides_has_to_be_right_too() {
    let room = Room::new();
    room.write("c.yaml", "version: v2\ndiag_addr: nowhere\n");
    room.tbot(["start", "-c", "c.yaml", "--diag-addr", "127.0.0.1:0"]).failed_with(
        "c.yaml:2: diag_addr: \"nowhere\" has no port; it must be host:port, such as 127.0.0.1:3001",
    );
}

#[test]
fn debug_shows_the_causes_of_an_error() {
    let room = Room::new();
    let message = "cannot read x: no such file or directory (is the path right?)";
    let chain = format!("{message}\n  caused by: No such file or directory (os error 2)");
    room.tbot(["start", "-c", "x"]).failed_with(message);
    room.tbot(["start", "-c", "x", "-d"]).failed_with(&chain);
    room.tbot(["-dc", "x", "start"]).failed_with(&chain);
    run(room.command(["start", "-c", "x"]).env("TBOT_DEBUG", "T")).failed_with(&chain);
    run(room
        .command(["start", "-c", "x", "--debug=0"])
        .env("TBOT_DEBUG", "1"))
    .failed_with(message);
}

#[test]
fn an_error_is_one_line_whatever_is_in_a_path() {
    let path = "/no\u{1b}[31m\nERROR: x";
    Room::new()
        .tbot(["configure", "--check", "-c", path])
        .failed_with(
            "cannot read /no\\u{1b}[31m\\nERROR: x: no such file or directory (is the path right?)",
        );
}
