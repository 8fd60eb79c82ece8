//! Tells the program what it was built from, for `tbot version` and `tbot_build_info`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    // A commit moves one of these; all are absent in a source archive.
    // The last one orders the static program.
    for file in [
        ".git/HEAD",
        ".git/refs/heads",
        ".git/packed-refs",
        ".ci/seldom.ld",
    ] {
        if std::path::Path::new(file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let target = std::env::var("TARGET").unwrap_or_default();
    // Only of our own: a package may lie in a repository of others.
    let commit = match std::path::Path::new(".git").exists() {
        true => first_line("git", &["rev-parse", "--short=12", "HEAD"]),
        false => "unknown".into(),
    };
    println!("cargo::rustc-env=TBOT_COMMIT={commit}");
    println!(
        "cargo::rustc-env=TBOT_RUSTC={}",
        first_line(&rustc, &["--version"])
    );
    println!("cargo::rustc-env=TBOT_TARGET={target}");
}

/// The first line a command prints, or `unknown` where it is missing or fails.
fn first_line(program: &str, args: &[&str]) -> String {
    Command::new(program)
        .args(args)
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .and_then(|text| text.lines().next().map(str::to_owned))
        .unwrap_or_else(|| "unknown".into())
}
