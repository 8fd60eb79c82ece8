//! What README.md says of the program is what the program does, where that is cheap to tell.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::keys::{Keys, with_identity};
use crate::common::process::{run, succeed};
use crate::common::readme::{README, block, is_of_a_name, words};

fn is_of_a_flag(c: char) -> bool {
    c == '-' || c.is_ascii_lowercase()
}

#[test]
fn it_explains_every_key_of_a_configuration() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("tbot.yaml");
    let example = block("yaml", "version: v2");
    let check = |configuration: &str| {
        fs::write(&path, configuration).expect("the directory is ours");
        let mut check = Command::new(env!("CARGO_BIN_EXE_tbot"));
        run(check
            .args(["configure", "--check", "-c"])
            .arg(&path)
            .env_clear())
    };
    // The program lists its keys where it meets one it does not know.
    for (at, indent, table) in [
        ("version: v2\n", "", "| Key of the run |"),
        (
            "  - type: ssh-multiplexer\n",
            "    ",
            "| Key of an `ssh-multiplexer` |",
        ),
    ] {
        let end = check(&example.replace(at, &format!("{at}{indent}no-such-key: 1\n")));
        let (_, keys) = end
            .stderr
            .split_once("(allowed: ")
            .unwrap_or_else(|| panic!("{end:?}"));
        let (keys, _) = keys.split_once(')').expect("the list has an end");
        let (_, table) = README.split_once(table).expect("a table");
        let (table, _) = table.split_once("\n\n").expect("it has an end");
        for key in keys.split(", ") {
            assert!(table.contains(&format!("`{key}`")), "no row for {key}");
        }
    }
}

#[test]
fn its_clusters_and_templates_are_accepted_and_use_every_key() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let (path, templates) = (
        directory.path().join("clusters.yaml"),
        directory.path().join("templates.yaml"),
    );
    let example = block("yaml", "# clusters.yaml");
    let wanted = block("yaml", "# templates.yaml");
    let mut start = Command::new(env!("CARGO_BIN_EXE_tbot"));
    start.args(["start", "-c", "clusters.yaml"]);
    start.current_dir(directory.path()).env_clear();
    fs::write(&path, format!("{example}oneshot: true\n")).expect("the directory is ours");
    fs::write(&templates, wanted).expect("the directory is ours");
    let end = run(&mut start);
    assert!(
        end.status.success() && !end.stderr.contains("WARN"),
        "{end:?}"
    );

    let mut keys_of = |table: &str| {
        let end = run(&mut start);
        let (_, list) = end.stderr.split_once("(allowed: ").expect("it is refused");
        let (list, _) = list.split_once(')').expect("the list has an end");
        let (_, table) = README.split_once(table).expect("a table");
        let (table, _) = table.split_once("\n\n").expect("it has an end");
        let keys: Vec<String> = list.split(", ").map(str::to_owned).collect();
        for key in &keys {
            assert!(table.contains(&format!("`{key}`")), "no row for {key}");
        }
        keys
    };
    let (_, first) = example.split_once("- name: ").expect("a cluster");
    let wrong = example.replacen("- name: ", "- no-such-key: 1\n        name: ", 1);
    fs::write(&path, wrong).expect("the directory is ours");
    for key in keys_of("| Key of a cluster |") {
        let key = format!("{key}: ");
        assert!(
            key == "name: " || first.contains(&key),
            "the example is without {key}"
        );
    }
    fs::write(&path, example).expect("the directory is ours");
    let wrong = wanted.replacen("- template: ", "- no-such-key: 1\n    template: ", 1);
    fs::write(&templates, wrong).expect("the directory is ours");
    keys_of("| Key of a template |");
}

#[test]
fn its_credential_in_files_is_written_and_uses_every_key() {
    let keys = Keys::with_ca();
    keys.generate("user_ca", &["-t", "ed25519"], "");
    keys.generate("host_ca", &["-t", "ed25519"], "");
    let example = block("yaml", "# files.yaml");
    let at = keys.path("").display().to_string();
    let here = example
        .replace("/etc/tbot/", &at)
        .replace("/var/lib/tbot/", &at);
    let path = keys.write("files.yaml", &here);
    let mut start = Command::new(env!("CARGO_BIN_EXE_tbot"));
    start.args(["start", "-c"]).arg(&path).env_clear();
    let end = run(&mut start);
    assert!(
        end.status.success() && !end.stderr.contains("WARN"),
        "{end:?}"
    );
    for name in [
        "key",
        "key.pub",
        "key-cert.pub",
        "ssh_config",
        "known_hosts",
    ] {
        assert!(keys.path("backup").join(name).exists(), "{name}");
        assert!(
            README.contains(&format!("`{name}`")),
            "README.md has no {name}"
        );
    }
    keys.write("files.yaml", here + "    no-such-key: 1\n");
    let end = run(&mut start);
    let (_, list) = end.stderr.split_once("(allowed: ").expect("it is refused");
    let (list, _) = list.split_once(')').expect("the list has an end");
    let (_, table) = README
        .split_once("| Key of an `identity` |")
        .expect("a table");
    let (table, _) = table.split_once("\n\n").expect("it has an end");
    for key in list.split(", ") {
        assert!(
            example.contains(&format!(" {key}: ")),
            "the example is without {key}"
        );
        assert!(table.contains(&format!("`{key}`")), "no row for {key}");
    }
}

#[test]
fn it_names_every_flag_and_no_other() {
    let help = |words: &[&str]| {
        let mut tbot = Command::new(env!("CARGO_BIN_EXE_tbot"));
        succeed(tbot.args(words).arg("--help"))
    };
    let help = help(&[])
        + &help(&["configure", "ssh-multiplexer"])
        + &help(&["wait"])
        + &help(&["install", "systemd"]);
    let flags: BTreeSet<&str> = words(&help, "--", is_of_a_flag).collect();
    let (_, section) = README
        .split_once("\n## Command line\n")
        .expect("the section is there");
    let (section, _) = section
        .split_once("\n## ")
        .expect("another section follows");
    let named: BTreeSet<&str> = words(section, "--", is_of_a_flag)
        .filter(|word| word.contains(char::is_alphabetic) && !word.starts_with("---"))
        .collect();
    assert_eq!(flags, named);
}

#[test]
fn it_shows_defaults_and_variables_as_the_help_does() {
    let mut tbot = Command::new(env!("CARGO_BIN_EXE_tbot"));
    let mut help = succeed(tbot.args(["configure", "ssh-multiplexer", "--help"]));
    let mut tbot = Command::new(env!("CARGO_BIN_EXE_tbot"));
    help += &succeed(tbot.args(["wait", "--help"]));
    let mut tbot = Command::new(env!("CARGO_BIN_EXE_tbot"));
    help += &succeed(tbot.args(["install", "systemd", "--help"]));
    let mut row = String::new();
    for line in help.lines().filter(|line| line.starts_with("  ")) {
        // What is said of one may name another.
        let is_term = !line.starts_with("          ");
        if let Some(flag) = words(line, "--", is_of_a_flag).next().filter(|_| is_term) {
            // With its value, as two commands may have flags of one name.
            let form = line.trim_start().split(", ").last().unwrap_or_default();
            let form = format!("`{}`", form.replace('|', "\\|"));
            let short = format!(", {form}");
            let is_its =
                |row: &&str| row.starts_with(&format!("| {form} |")) || row.contains(&short);
            let found = README.lines().find(is_its);
            let found = found.unwrap_or_else(|| panic!("README.md has no row for {flag}"));
            row = found.to_owned();
        }
        // [default: …] [env: …]
        for (kind, value) in line
            .split('[')
            .skip(1)
            .filter_map(|part| part.split_once(": "))
        {
            let value = value.trim_end().trim_end_matches(']');
            let cell = match kind {
                "env" => format!("| `{value}` |"),
                _ => format!("| {value} |"),
            };
            let row = row.replace("`ssh-multiplexer-N`", "ssh-multiplexer-N");
            assert!(row.contains(&cell), "no {cell} in {row}");
        }
    }
}

#[test]
fn it_names_every_metric_and_no_other() {
    let keys = Keys::with_ca();
    let tbot = with_identity(&keys.ssh_ca("root"), "proxy_server: 127.0.0.1:1", "").start();
    let metrics = tbot.metrics();
    let families: BTreeSet<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let named = |prefix| words(README, prefix, is_of_a_name).filter(|name| !name.ends_with('_'));
    assert_eq!(families, named("tbot_").chain(named("process_")).collect());
    // With the type it has, unless Prometheus' convention says it.
    for line in metrics.lines() {
        let Some(family) = line.strip_prefix("# TYPE tbot_") else {
            continue;
        };
        let (name, kind) = family.split_once(' ').expect("a name and a type");
        let row = format!("\n| `tbot_{name}` | {kind}");
        assert!(README.contains(&row), "README.md has no row {row:?}");
    }
    // And every reason of a refusal, in the table of its metric.
    for line in metrics.lines() {
        let Some((name, reason)) = line.split_once("{reason=\"") else {
            continue;
        };
        let (_, table) = README
            .split_once(&format!("\n| `reason` of `{name}` |"))
            .unwrap_or_else(|| panic!("README.md has no table of {name}'s reasons"));
        let (table, _) = table.split_once("\n\n").expect("the table has an end");
        let reason = reason.split('"').next().unwrap_or_default();
        let is_its = |row: &str| {
            let cell = row.split(" | ").next().unwrap_or_default();
            cell.contains(&format!("`{reason}`"))
        };
        assert!(table.lines().any(is_its), "no row for {reason} of {name}");
    }
}

#[test]
fn its_archive_is_the_one_that_is_made() {
    let archive = concat!(
        "tbot-",
        env!("CARGO_PKG_VERSION"),
        "-x86_64-unknown-linux-gnu"
    );
    let named: BTreeSet<&str> = README
        .split_whitespace()
        .filter(|word| word.starts_with("tbot-") && word.contains("-linux-"))
        .map(|word| word.split(".tar").next().unwrap_or(word))
        .collect();
    assert_eq!(named, [archive].into());
}

#[test]
fn its_other_examples_of_embedding_are_programs_that_run() {
    let (_, section) = README.split_once("\n## Embedding\n").expect("a section");
    let (section, _) = section.split_once("\n## ").expect("another one follows");
    let links: Vec<&str> = words(section, "tests/examples/", |c| {
        c == '/' || c == '.' || is_of_a_name(c)
    })
    .collect();
    assert!(links.len() >= 3, "{links:?}");
    for link in links {
        let entry = format!("\npath = \"{link}\"\n");
        let manifest = include_str!("../../Cargo.toml");
        assert!(manifest.contains(&entry), "cargo does not build {link}");
    }
}

#[test]
fn its_example_of_embedding_is_the_one_that_the_documentation_tests() {
    let documented: Vec<&str> = include_str!("../../src/diagnostics/mod.rs")
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .skip_while(|line| *line != "```")
        .skip(1)
        .take_while(|line| *line != "```")
        .filter(|line| !line.starts_with("# "))
        .collect();
    assert_eq!(
        block("rust", "use tbot::").lines().collect::<Vec<_>>(),
        documented
    );
}

#[test]
fn what_contributors_are_told_is_where_it_says() {
    let (_, section) = README.split_once("\n## Contributing\n").expect("a section");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let steps = section
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    let mut lists = 0;
    for step in steps {
        lists += usize::from(step.starts_with("1. "));
        let quoted: Vec<&str> = step.split('`').skip(1).step_by(2).collect();
        let (paths, words): (Vec<&str>, Vec<&str>) =
            quoted.iter().partition(|word| root.join(word).is_file());
        let texts: Vec<String> = paths
            .iter()
            .map(|path| fs::read_to_string(root.join(path)).expect("it is text"))
            .collect();
        for word in words {
            assert!(!word.contains(".rs"), "there is no {word}");
            let last = word.rsplit("::").next().unwrap_or(word);
            let is_command = word.starts_with("tbot ");
            assert!(
                is_command || texts.iter().any(|text| text.contains(last)),
                "{word} is not where step {step:?} says"
            );
        }
    }
    assert_eq!(lists, 4, "route, metric, flag, service");
}
