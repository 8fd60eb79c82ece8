//! What an operator is told about a file that is no configuration, or not a whole one; and that no
//! file hangs, floods or crashes the program.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use super::program::{self, Room};
use super::{BASE, KEYS, SERVICE_KEYS, refused};
use tbot::config::{Overrides, Source, load};

#[test]
fn a_version_is_named_and_known() {
    for (version, message) in [
        (
            "version: v1",
            ":1: version: v1 is the old format, which tbot-rs does not read; write version: v2 (`tbot migrate` of Teleport's tbot converts a file)",
        ),
        (
            "version: v3",
            ":1: version: unknown version \"v3\"; write version: v2",
        ),
        (
            "version: 2",
            ":1: version: unknown version \"2\"; write version: v2",
        ),
        (
            "version:",
            ":1: version: unknown version \"null\"; write version: v2",
        ),
        (
            "services: []",
            ":1: the key \"version\" is missing; write version: v2",
        ),
        (
            "# a comment\n\nservices: []",
            ":3: the key \"version\" is missing; write version: v2",
        ),
    ] {
        // The version is looked at first: another version has other keys.
        refused(format!("{version}\ncolour: red\n"), message);
    }
}

#[test]
fn text_that_is_no_configuration_is_refused() {
    const EMPTY: &str = ": empty; a configuration begins with version: v2";
    let tall = format!("{BASE}x: {}", "[".repeat(200));
    for (text, message) in [
        ("", EMPTY),
        ("\n\n# nothing\n", EMPTY),
        ("---\n", EMPTY),
        ("null", EMPTY),
        (
            "hello",
            ":1: must be a mapping of keys and values, and is the text \"hello\"",
        ),
        (
            "\n- version: v2",
            ":2: must be a mapping of keys and values, and is a list",
        ),
        (
            "version: v2\n---\nversion: v2\n",
            ":3: a second document begins here; a configuration is one document",
        ),
        (
            "version: v2\nservices: []\nversion: v2\n",
            ":3: version: this key stands here for the second time; keep one of them",
        ),
        (
            "version: v2\nservices: []\n",
            ":1: there is no service to run; add one under \"services\", or start one with tbot start ssh-multiplexer --destination DIR",
        ),
        (
            "version: v2\nservices:\n",
            ":1: there is no service to run; add one under \"services\", or start one with tbot start ssh-multiplexer --destination DIR",
        ),
        (
            "version: v2\n\tx: 1\n",
            ":2: not valid YAML: found a tab character that violates indentation",
        ),
        (
            "version: v2\nx: [1, 2\ny: 3\n",
            ":3: not valid YAML: did not find expected ',' or ']'",
        ),
        (
            "version: v2\nx: *nobody\n",
            ":2: not valid YAML: unknown anchor",
        ),
        (
            "version: v2\n[a]: 1\n",
            ":2: not valid YAML: invalid type: sequence, expected a key of text",
        ),
        (&tall, ":5: not valid YAML: recursion limit exceeded"),
    ] {
        refused(text, message);
    }
    refused(
        format!("{BASE}    name: a\n    name: b\n"),
        ":6: services[0].name: this key stands here for the second time; keep one of them",
    );
    refused(b"version: v2\n# caf\xe9\n", ":2: not UTF-8 text");
    refused([0xff, 0xfe, b'v', 0], ":1: not UTF-8 text");
}

#[test]
fn what_is_large_is_refused_before_it_is_felt() {
    let many = |text: &str, n: usize| text.repeat(n);
    refused(
        many("#", (1 << 20) + 1),
        ": larger than 1 MiB, which no configuration is",
    );
    refused(
        format!("{BASE}x: {}", many("[a, {b: ", 600)),
        ":5: not valid YAML: recursion limit exceeded",
    );
    // Nine levels of ten: a billion.
    let mut bomb = format!("{BASE}x0: &x0 [a,a,a,a,a,a,a,a,a,a]\n");
    for n in 1..10 {
        let items = vec![format!("*x{}", n - 1); 10].join(",");
        bomb += &format!("x{n}: &x{n} [{items}]\n");
    }
    refused(bomb, ": not valid YAML: repetition limit exceeded");
    // One alias for each of a list's own items: a square, which no limit on depth sees.
    refused(
        format!(
            "{BASE}a: &a [{}]\nb: [{}]\n",
            many("1,", 3000),
            many("*a,", 3000)
        ),
        ":5: its aliases add up to more than any configuration holds",
    );
    refused(
        format!(
            "{BASE}a: &a {}\nb: [{}]\n",
            many("x", 500_000),
            many("*a,", 9)
        ),
        ":5: its aliases add up to more than any configuration holds",
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told_by_its_path() {
    let room = Room::new();
    let start = |path: &str| room.tbot(["start", "-c", path]);
    start("nope.yaml")
        .failed_with("cannot read nope.yaml: no such file or directory (is the path right?)");
    start(".").failed_with("cannot read .: it is a directory, not a configuration file");
    start("").failed_with("the path of the configuration file is empty");
    start("/dev/zero").failed_with("cannot read /dev/zero: it is a device, not a file");
    start("/dev/tty").failed_with("cannot read /dev/tty: it is a device, not a file");
    let _socket = UnixListener::bind(room.path().join("socket")).expect("the room is ours");
    start("socket").failed_with("cannot read socket: it is a socket, not a file");
    let large = File::create(room.path().join("large")).expect("the room is ours");
    large.set_len(8 << 30).expect("it takes no room");
    start("large").failed_with("large: larger than 1 MiB, which no configuration is");
    room.write("file", "");
    start("file/x").failed_with("cannot read file/x: not a directory");
}

#[test]
fn brackets_are_as_many_as_it_takes() {
    let room = Room::new();
    let mut text = format!("{BASE}    proxy_templates:\n");
    for n in 0..250 {
        text += &format!(
            "      # [[[[ {n}\n      - {{ template: '[a-z]{n}[.](?:\\[\\[|[{{])[0-9]', host: db{n} }}\n"
        );
    }
    room.write("c.yaml", &text);
    let checked = room.tbot(["configure", "--check", "-c", "c.yaml"]);
    assert!(checked.succeeded().starts_with("OK: "), "{checked:?}");
}

/// Ended after a while, as what is tested here did not end by itself once.
fn ended<A: AsRef<OsStr>>(room: &Room, args: impl IntoIterator<Item = A>) -> Command {
    let tbot = room.command(args);
    let mut timeout = Command::new("timeout");
    timeout.arg("60").arg(tbot.get_program());
    timeout.args(tbot.get_args()).current_dir(room.path());
    timeout.stdin(Stdio::null());
    timeout
}

#[test]
fn what_takes_for_ever_to_read_is_refused_in_time() {
    let room = Room::new();
    let tags = (0..70_000).map(|n| format!("%TAG !{n:x}! x\n"));
    room.write("nested", format!("{BASE}x: {}", "[".repeat(1_000_000)));
    room.write("tags", tags.collect::<String>() + "---\n" + BASE);
    std::thread::scope(|scope| {
        for file in ["nested", "tags"] {
            let words = ["configure", "--check", "-c", file];
            let mut command = ended(&room, words);
            scope.spawn(move || {
                program::run(&mut command).failed_with(&format!(
                    "{file}: not read within 5s (are brackets nested without an end, or tags declared?)"
                ));
            });
        }
    });
}

#[test]
fn a_configuration_may_come_by_a_pipe() {
    let room = Room::new();
    let text = format!("{BASE}diag_addr: 127.0.0.1:3001\n");
    room.write("c.yaml", &text);
    let by_shell = |script: &str| {
        let mut shell = room.command([""; 0]);
        let tbot = shell.get_program().to_owned();
        shell = Command::new("/bin/bash");
        shell
            .args(["-c", script])
            .arg(tbot)
            .current_dir(room.path());
        program::run(&mut shell)
    };
    for script in [
        "\"$0\" configure --check -c <(cat c.yaml)",
        // It comes in parts, with the others still to be written.
        "\"$0\" configure --check -c <(head -c 20 c.yaml; sleep 0.2; tail -c +21 c.yaml)",
        "cat c.yaml | \"$0\" configure --check -c /dev/stdin",
        "\"$0\" configure --check -c /dev/stdin < c.yaml",
        // Who wrote it has gone.
        "exec 7< <(cat c.yaml); wait $!; \"$0\" configure --check -c /dev/fd/7",
        "mkfifo fifo; (sleep 0.2; cat c.yaml > fifo) & \"$0\" configure --check -c fifo",
    ] {
        let end = by_shell(script);
        assert!(end.succeeded().starts_with("OK: "), "{script}: {end:?}");
    }
    by_shell("yes | \"$0\" start -c /dev/stdin")
        .failed_with("/dev/stdin: larger than 1 MiB, which no configuration is");
}

#[test]
fn a_pipe_that_does_not_come_to_its_end_is_not_waited_for() {
    const LATE: &str = "the pipe did not come to its end within 5s";
    let room = Room::new();
    let made = Command::new("mkfifo")
        .arg(room.path().join("fifo"))
        .status();
    assert!(made.expect("it is there").success());
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(b"version: v2\n").expect("there is room");
    let mut of_stdin = ended(&room, ["start", "-c", "/dev/stdin"]);
    of_stdin.stdin(reader);
    let commands = [
        (of_stdin, "/dev/stdin"),
        (ended(&room, ["start", "-c", "fifo"]), "fifo"),
        (ended(&room, ["configure", "--check", "-c", "fifo"]), "fifo"),
    ];
    // They take their five seconds together.
    std::thread::scope(|scope| {
        for (mut command, path) in commands {
            scope.spawn(move || {
                program::run(&mut command).failed_with(&format!("cannot read {path}: {LATE}"));
            });
        }
    });
    drop(writer);
}

#[test]
fn the_line_is_that_of_the_key_however_it_is_written() {
    refused(
        "# one\n%YAML 1.2\n---\nversion: v2\n\nservices:\n\n  # a mux\n  -\n    type: ssh-multiplexer\n    \"colour\":\n      red\n",
        &format!(":11: services[0].colour: unknown key ({SERVICE_KEYS})"),
    );
    // Behind an alias the line is where the value is written.
    refused(
        "version: v2\nservices:\n  - &a\n    type: ssh-multiplexer\n    name: UP\n    destination: { type: directory, path: x }\n",
        ":5: services[0].name: \"UP\" is no service name; it must be of the characters a-z 0-9 _ - and +",
    );
    refused(
        format!("{BASE}\r\n\r\ncolour: red\r\n"),
        &format!(":7: colour: unknown key ({KEYS})"),
    );
}

#[test]
fn no_damage_to_a_configuration_panics() {
    let sample = format!(
        "{BASE}    name: mux\n    proxy_command: [a, 'b', \"c\\n\"]\n    allowed_uids: &u [1, 2]\n\
         diag_addr: '[::1]:3001'\ncredential_ttl: 1h30m\nstorage: {{ type: memory }}\nx: *u\n"
    );
    let attempt = |bytes: &[u8]| {
        if let Ok(source) = Source::bytes("c.yaml".into(), bytes.to_vec())
            && let Err(error) = load(Some(&source), Overrides::default())
        {
            let error = error.to_string();
            assert!(!error.contains('\n') && error.len() < 2000, "{error}");
        }
    };
    for end in 0..sample.len() {
        attempt(&sample.as_bytes()[..end]);
    }
    let hostile = b"\0\t\n :-[]{}&*!|>'\"%@`#?,~<\x7f\xc3\xff0.e";
    for place in 0..sample.len() {
        for (n, &byte) in hostile.iter().enumerate() {
            let mut bytes = sample.clone().into_bytes();
            match (place + n) % 2 {
                0 => bytes[place] = byte,
                _ => bytes.insert(place, byte),
            }
            attempt(&bytes);
        }
    }
}
