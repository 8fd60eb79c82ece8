//! What the program stands on: every crate for a reason, from one registry, and no async runtime.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::common::process::succeed;

const MANIFEST: &str = include_str!("../../Cargo.toml");
const LOCK: &str = include_str!("../../Cargo.lock");
const README: &str = include_str!("../../README.md");

/// The lines of `text` between the one that is `heading` and the next that begins with `end`.
fn section<'t>(text: &'t str, heading: &str, end: &'t str) -> impl Iterator<Item = &'t str> {
    let mut lines = text.lines();
    assert!(lines.any(|line| line == heading), "there is no {heading}");
    lines.take_while(move |line| !line.starts_with(end))
}

/// What stands between two of `quote` in `text`.
fn quoted(text: &str, quote: char) -> impl Iterator<Item = &str> {
    text.split(quote).skip(1).step_by(2)
}

#[test]
fn no_async_runtime_is_among_them() {
    let bans: Vec<&str> = section(include_str!("../../.ci/deny.toml"), "[bans]", "]")
        .skip_while(|line| *line != "deny = [")
        .flat_map(|line| quoted(line, '"'))
        .collect();
    assert!(bans.contains(&"tokio") && bans.contains(&"mio"), "{bans:?}");
    let names: Vec<&str> = LOCK
        .lines()
        .filter_map(|line| line.strip_prefix("name = "))
        .flat_map(|name| quoted(name, '"'))
        .collect();
    assert!(names.contains(&"tbot-rs"), "{names:?}");
    for ban in bans {
        assert!(!names.contains(&ban), "Cargo.lock has {ban}");
    }
}

#[test]
fn all_come_from_crates_io() {
    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
    for package in LOCK.split("\n[[package]]\n").skip(1) {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|value| quoted(value, '"').next())
        };
        match value("source = ") {
            Some(source) => assert_eq!(source, CRATES_IO, "{package}"),
            None => assert_eq!(value("name = "), Some("tbot-rs"), "{package}"),
        }
    }
}

#[test]
fn the_readme_gives_the_reason_for_each() {
    // Each with what needs it: features, or tests.
    let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (heading, tests) in [("[dependencies]", false), ("[dev-dependencies]", true)] {
        for line in section(MANIFEST, heading, "[") {
            let Some((name, _)) = line.split_once(" = ") else {
                continue;
            };
            let by: BTreeSet<&str> = section(MANIFEST, "[features]", "[")
                .filter(|line| line.contains(&format!("\"dep:{name}\"")))
                .filter_map(|line| line.split(" = ").next())
                .collect();
            match used.entry(name) {
                Entry::Occupied(mut known) => _ = known.get_mut().insert("tests"),
                Entry::Vacant(new) => {
                    _ = new.insert(if tests { ["tests only"].into() } else { by })
                }
            }
        }
    }
    let explained: BTreeMap<&str, BTreeSet<&str>> = rows()
        .flat_map(|row| {
            row.names
                .into_iter()
                .map(move |name| (name, row.by.clone()))
        })
        .collect();
    assert_eq!(used, explained);
}

#[test]
fn the_readme_counts_what_each_feature_costs() {
    let rows: BTreeMap<&str, &str> = section(README, "| Feature | Crates | What it is |", "\n")
        .skip(1)
        .take_while(|line| line.starts_with("| "))
        .filter_map(|row| {
            let mut cells = row.split(" | ");
            let feature = cells.next()?.trim_start_matches("| ").trim_matches('`');
            Some((feature, cells.next()?))
        })
        .collect();
    let features = section(MANIFEST, "[features]", "[").filter_map(|line| line.split_once(" = "));
    let features: BTreeSet<&str> = features
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with('#'))
        .chain(["none"])
        .collect();
    assert_eq!(rows.keys().copied().collect::<BTreeSet<_>>(), features);
    for (feature, count) in rows {
        let crates = crates(if feature == "none" { "" } else { feature });
        assert_eq!(count, crates.to_string(), "{feature}");
    }
}

#[test]
fn the_readme_names_every_crate_of_the_diagnostics_alone() {
    let always = rows().filter(|row| row.by.is_empty());
    let named: Vec<&str> = always
        .flat_map(|row| [row.names, row.brought].concat())
        .collect();
    let compiled = tree("");
    assert!(compiled.len() <= 40, "{}", compiled.len());
    assert_eq!(named.len(), compiled.len(), "each is named once");
    let count = format!("the {} of `none`", compiled.len());
    assert!(README.contains(&count), "README.md does not say {count}");
    let compiled: BTreeSet<&str> = compiled
        .iter()
        .filter_map(|one| one.split(' ').next())
        .collect();
    assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), compiled);
}

#[test]
fn its_package_is_what_builds_and_checks_it() {
    let mut list = Command::new(env!("CARGO"));
    list.current_dir(env!("CARGO_MANIFEST_DIR"));
    let list = succeed(list.args(["package", "--list", "--allow-dirty", "--offline"]));
    for file in [
        "src/lib.rs",
        "README.md",
        "LICENSE",
        "Cargo.lock",
        "tests/api.txt",
        "Makefile",
    ] {
        assert!(list.lines().any(|line| line == file), "no {file} in {list}");
    }
    for line in list.lines() {
        let kinds = [
            "src/",
            "tests/",
            ".ci/",
            "Cargo.",
            "README.md",
            "LICENSE",
            "Makefile",
            ".cargo_vcs_info.json",
        ];
        assert!(
            kinds.iter().any(|kind| line.starts_with(kind)),
            "{line} is packed, too"
        );
    }
}

#[test]
fn what_the_tests_use_changes_nothing_in_the_static_program() {
    // `make test` builds it along with an example, for which cargo takes the features that either asks of a crate;
    // `make reproducible` without.
    let built = |edges: &str| {
        let mut tree = Command::new(env!("CARGO"));
        tree.current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["tree", "--locked", "--prefix=none", "--format={p} {f}"])
            .args([edges, "--target=x86_64-unknown-linux-gnu"])
            .args(["--no-default-features", "--features=cli,pprof"]);
        let lines = succeed(&mut tree);
        let lines = lines
            .lines()
            .map(|line| line.trim_end_matches(" (*)").to_owned());
        // Those of procedural macros are in no program.
        let is_in = |line: &String| {
            !["proc-macro2 ", "syn "]
                .iter()
                .any(|name| line.starts_with(name))
        };
        lines.filter(is_in).collect::<BTreeSet<_>>()
    };
    let (alone, along) = (built("--edges=normal"), built("--edges=normal,dev"));
    let name = |line: &str| line.split(' ').next().map(str::to_owned);
    let names: BTreeSet<_> = alone.iter().map(|line| name(line)).collect();
    let other: Vec<_> = along
        .difference(&alone)
        .filter(|line| names.contains(&name(line)))
        .collect();
    assert!(other.is_empty(), "{other:#?}");
}

/// A row of the README's table: crates, the features or tests that need them, and the crates that come with them.
struct Row {
    names: Vec<&'static str>,
    by: BTreeSet<&'static str>,
    brought: Vec<&'static str>,
}

/// The table's rows, each of which gives a reason.
fn rows() -> impl Iterator<Item = Row> {
    section(README, "## Dependencies", "## ").filter_map(|line| {
        let (first, reason) = line
            .strip_prefix("| ")
            .filter(|row| row.starts_with('`'))?
            .split_once(" | ")?;
        assert!(reason.len() > 5, "no reason in {line}");
        let (own, brought) = first.split_once("; by ").unwrap_or((first, ""));
        let (names, by) = own.split_once(" (").unwrap_or((own, ""));
        let by = by.trim_end_matches(')').split(", ");
        Some(Row {
            names: quoted(names, '`').collect(),
            by: by
                .map(|feature| feature.trim_matches('`'))
                .filter(|feature| !feature.is_empty())
                .collect(),
            brought: quoted(brought, '`').collect(),
        })
    })
}

/// How many other crates are compiled for the library or program with `features`.
fn crates(features: &str) -> usize {
    tree(features).len()
}

/// Their names and versions.
fn tree(features: &str) -> BTreeSet<String> {
    let mut tree = Command::new(env!("CARGO"));
    tree.current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--locked", "--prefix=none"])
        .args(["--edges=normal,build", "--target=x86_64-unknown-linux-gnu"])
        .args(["--no-default-features", "--features", features]);
    let tree = succeed(&mut tree);
    // `name v1.2.3`, and remarks.
    let crates = tree
        .lines()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "));
    crates.filter(|one| !one.starts_with("tbot-rs ")).collect()
}
