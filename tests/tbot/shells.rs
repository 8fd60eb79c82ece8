//! `tbot completions` in the real shells, and `tbot man` in the real formatter.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::Command;

use tempfile::TempDir;

use crate::common::process::{Process, run, succeed};
use crate::common::readme::words;

const TBOT: &str = env!("CARGO_BIN_EXE_tbot");

fn tbot(args: &str) -> String {
    succeed(Command::new(TBOT).args(args.split_whitespace()).env_clear())
}

/// The commands that the help lists, the empty one first.
fn commands() -> Vec<String> {
    let help = tbot("--help");
    let (_, list) = help.split_once("\nCommands:\n").expect("a list");
    let (list, _) = list.split_once("\n\n").expect("it has an end");
    let names = list.lines().filter(|line| !line.starts_with("   "));
    [String::new()]
        .into_iter()
        .chain(names.map(|line| line.trim().to_owned()))
        .collect()
}

/// The flags that the help of a command lists.
fn flags(command: &str) -> BTreeSet<String> {
    let help = tbot(&format!("{command} --help"));
    let lines = help
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("       "));
    lines
        .filter_map(|line| words(line, "--", |c| c == '-' || c.is_ascii_lowercase()).next())
        .map(str::to_owned)
        .collect()
}

/// The words that may stand behind a command's.
fn next(command: &str) -> BTreeSet<String> {
    if command == "completions" {
        return ["bash", "zsh", "fish"].map(str::to_owned).into();
    }
    if command == "install" {
        return ["systemd".to_owned()].into();
    }
    let below = commands();
    let below = below.iter().filter_map(|other| match command {
        "" => Some(other.as_str()),
        command => other.strip_prefix(command)?.strip_prefix(' '),
    });
    let first = below.filter_map(|rest| rest.split(' ').next());
    first
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A directory with what can be completed to, and nothing of the user who runs the tests.
fn room() -> TempDir {
    let room = tempfile::tempdir().expect("a directory");
    for name in ["my file.yaml", "other", "v1.sock"] {
        fs::write(room.path().join(name), "").expect("ours");
    }
    fs::create_dir(room.path().join("out dir")).expect("ours");
    room
}

fn shell(program: &str, room: &TempDir) -> Command {
    let mut shell = Command::new(program);
    shell.current_dir(room.path()).env_clear();
    shell.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    shell
        .env("HOME", room.path())
        .env("TBOT", TBOT)
        .env("TERM", "dumb");
    shell.env("INPUTRC", "/dev/null").env("LC_ALL", "C.UTF-8");
    shell
}

/// An interactive shell on a terminal of its own, in which `tbot` prints its number and its arguments.
struct Terminal {
    script: Process,
    runs: usize,
    _room: TempDir,
}

const PRINTS: &str =
    "tbot() { runs=$((runs+1)); printf '<%s' $runs; printf '[%s]' \"$@\"; echo '>'; }";

impl Terminal {
    fn open(command: &str, setup: &str) -> Self {
        let room = room();
        let mut script = shell("script", &room);
        script.args(["-qfec", command, "/dev/null"]);
        let mut terminal = Self {
            script: Process::spawn_with_input(&mut script),
            runs: 0,
            _room: room,
        };
        // In two words, as the line itself is shown, too.
        terminal.send(&format!("{setup}; {PRINTS}; echo '<re''ady>'\n"));
        terminal.script.stdout.line("<ready>");
        terminal
    }

    fn send(&mut self, text: &str) {
        self.script
            .input()
            .write_all(text.as_bytes())
            .expect("the shell reads");
    }

    /// The arguments that `line` comes to when the tabulator is pressed behind it.
    fn completed(&mut self, line: &str) -> Vec<String> {
        self.send(&format!("{line}\t\n"));
        self.runs += 1;
        let begin = format!("<{}[", self.runs);
        let said = self.script.stdout.line(&begin);
        let (_, arguments) = said.split_once(&begin).expect("it was found by it");
        let (arguments, _) = arguments
            .rsplit_once("]>")
            .unwrap_or_else(|| panic!("{said:?}"));
        arguments.split("][").map(str::to_owned).collect()
    }

    #[track_caller]
    fn completes(&mut self, line: &str, to: &str) {
        let arguments = self.completed(line);
        // zsh takes the slash of a directory away where the line ends.
        let last = arguments.last().map(|last| last.trim_end_matches('/'));
        assert_eq!(last, Some(to), "{line:?} came to {arguments:?}");
    }

    /// Every command, every flag of each, and values.
    fn completes_everything(&mut self) {
        for command in commands() {
            let line = |word: &str| format!("tbot {command} {word}");
            for word in next(&command) {
                let typed = &word[..word.len() - 1];
                self.completes(&line(typed), &common(&next(&command), typed));
            }
            let flags = flags(&command);
            for flag in &flags {
                let typed = &flag[..flag.len() - 1];
                let arguments = self.completed(&line(typed));
                // A value may stand behind `=`.
                let last = arguments.last().map(|last| last.trim_end_matches('='));
                assert_eq!(last, Some(&*common(&flags, typed)), "{command}: {flag}");
            }
        }
        for (line, to) in [
            ("tbot start --log-format j", "json"),
            ("tbot start --log-format=j", "--log-format=json"),
            ("tbot start -c my", "my file.yaml"),
            ("tbot start --config my", "my file.yaml"),
            ("tbot start --config=my", "--config=my file.yaml"),
            ("tbot start ssh-multiplexer --destination o", "out dir"),
            ("tbot configure -o ot", "other"),
            ("tbot ssh-multiplexer-proxy-command v", "v1.sock"),
            // What is no command is none.
            ("tbot --diag-addr 127.0.0.1:3001 wai", "wait"),
            ("tbot --diag-addr='[::1]:3001' wai", "wait"),
            ("tbot -c start versi", "version"),
            ("tbot --oneshot star", "start"),
            ("tbot version --diag-add", "--diag-add"),
            ("tbot start --diag-addr my", "my"),
            ("tbot my", "my"),
            ("tbot no such ot", "ot"),
        ] {
            self.completes(line, to);
        }
    }
}

/// What all that begin with `typed` have in common.
fn common(known: &BTreeSet<String>, typed: &str) -> String {
    let mut matching = known.iter().filter(|known| known.starts_with(typed));
    let mut common = matching.next().expect("one of them was typed").clone();
    for other in matching {
        while !other.starts_with(&common) {
            common.pop();
        }
    }
    common
}

#[test]
fn bash_completes_every_command_and_flag() {
    let bash = "bash --norc --noprofile -i";
    Terminal::open(bash, "PS1=; source <(\"$TBOT\" completions bash)").completes_everything();
}

#[test]
fn zsh_completes_every_command_and_flag() {
    const SETUP: &str = "PS1=; setopt no_beep no_auto_list; autoload -Uz compinit; compinit -u -D; \
                         source <(\"$TBOT\" completions zsh)";
    Terminal::open("zsh -f -i", SETUP).completes_everything();
    // As packages install it.
    const AUTOLOADED: &str = "PS1=; setopt no_beep no_auto_list; mkdir f; \
                              \"$TBOT\" completions zsh >f/_tbot; fpath=($PWD/f $fpath); \
                              autoload -Uz compinit; compinit -u -D";
    let mut zsh = Terminal::open("zsh -f -i", AUTOLOADED);
    zsh.completes("tbot wai", "wait");
    zsh.completes("tbot start --destinat", "--destinat");
    zsh.completes("tbot start -c my", "my file.yaml");
}

/// What a shell lists behind a line, by a program that prints one a line.
fn lists_everything(list: impl Fn(&str) -> BTreeSet<String>) {
    for command in commands() {
        let space = if command.is_empty() { "" } else { " " };
        let line = format!("tbot {command}{space}");
        assert_eq!(list(&format!("{line}--")), flags(&command), "{line}--");
        if !command.starts_with("ssh-") {
            assert_eq!(list(&line), next(&command), "{line}");
        }
    }
}

#[test]
fn bash_lists_every_command_and_flag() {
    let room = room();
    lists_everything(|line| {
        const LIST: &str = "source <(\"$TBOT\" completions bash); COMP_WORDS=(\"$@\"); \
                            COMP_CWORD=$(($# - 1)); _tbot; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let mut bash = shell("bash", &room);
        bash.args(["--norc", "-c", LIST, "bash"])
            .args(line.split(' '));
        let list = succeed(&mut bash);
        list.lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    });
}

#[test]
fn fish_lists_every_command_flag_and_value() {
    let room = room();
    let list = |line: &str| -> BTreeSet<String> {
        let mut fish = shell("fish", &room);
        const LIST: &str = "$TBOT completions fish | source; complete -C $LINE";
        fish.env("LINE", line).args(["--no-config", "-c", LIST]);
        let end = run(&mut fish);
        assert_eq!((end.status.code(), &*end.stderr), (Some(0), ""));
        let word = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
        end.stdout.lines().map(word).collect()
    };
    lists_everything(list);
    for (line, expected) in [
        ("tbot start --log-format ", vec!["text", "json"]),
        ("tbot start --log-format=j", vec!["--log-format=json"]),
        ("tbot start -c my", vec!["my file.yaml"]),
        ("tbot start --config=my", vec!["--config=my file.yaml"]),
        (
            "tbot start ssh-multiplexer --destination o",
            vec!["out dir/"],
        ),
        ("tbot ssh-multiplexer-proxy-command v", vec!["v1.sock"]),
        ("tbot --diag-addr 127.0.0.1:3001 wai", vec!["wait"]),
        ("tbot -c start versi", vec!["version"]),
        ("tbot version --diag-add", vec![]),
        ("tbot start --diag-addr my", vec![]),
        ("tbot version ot", vec![]),
        ("tbot no such ot", vec![]),
    ] {
        let found: BTreeSet<String> = list(line)
            .iter()
            .map(|word| word.replace('\\', ""))
            .collect();
        assert_eq!(
            found,
            expected.into_iter().map(str::to_owned).collect(),
            "{line}"
        );
    }
}

#[test]
fn a_shell_that_is_not_known_is_an_error() {
    const ALLOWED: &str = "(allowed: bash, zsh, fish)";
    for (args, error) in [
        (
            "completions",
            format!("tbot completions needs one word more {ALLOWED}"),
        ),
        (
            "completions bsh",
            format!("unknown command \"bsh\"; did you mean \"bash\"? {ALLOWED}"),
        ),
        ("completions bash x", "unexpected argument \"x\"".into()),
        ("man x", "unexpected argument \"x\"".into()),
    ] {
        let end = run(Command::new(TBOT).args(args.split(' ')).env_clear());
        assert_eq!(end.error(), format!("ERROR: {error}"));
    }
}

#[test]
fn the_manual_has_everything_and_no_mistake() {
    let room = room();
    fs::write(room.path().join("tbot.1"), tbot("man")).expect("ours");
    let mut groff = shell("groff", &room);
    groff.args(["-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=200n", "tbot.1"]);
    let end = run(&mut groff);
    assert_eq!((end.status.code(), &*end.stderr), (Some(0), ""));
    // Words are joined by one blank, and minus signs are those of ASCII, which can be copied.
    let page = end.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for command in commands() {
        assert!(page.contains(&format!("tbot {command}")), "{command}");
        let help = tbot(&format!("{command} --help"));
        let entries: Vec<&str> = help.lines().filter(|line| line.starts_with("  ")).collect();
        for entry in entries.iter().filter(|line| !line.starts_with("Usage")) {
            let entry = entry.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(page.contains(&entry), "{entry:?} is not in {page}");
        }
    }
    assert!(page.contains("TBOT_LOG It says what is logged: "), "{page}");
    let sections = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "OPTIONS",
        "ENVIRONMENT",
        "FILES",
        "SIGNALS",
        "EXIT STATUS",
        "EXAMPLES",
        "SEE ALSO",
    ];
    let found: Vec<&str> = end
        .stdout
        .lines()
        .filter(|line| line.starts_with(char::is_alphabetic))
        .collect();
    let inside = found
        .iter()
        .filter(|line| !line.starts_with("TBOT(1)") && !line.starts_with("tbot"));
    assert_eq!(inside.copied().collect::<Vec<_>>(), sections);
    for env in words(&tbot("start ssh-multiplexer --help"), "[env: ", |c| {
        c != ']'
    }) {
        assert!(page.contains(env.trim_start_matches("[env: ")), "{env}");
    }
}
