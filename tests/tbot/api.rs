//! What users of the library can name: recorded in `tests/api.txt`, so that no change of it goes unseen.
//!
//! It is read from the sources, for all features at once, so that the record depends on no compiler. What sources do
//! not say, such as which types are `Send`, is for `tests/diagnostics/embedding.rs`.

mod print;
mod source;
mod surface;

use std::fs;
use std::path::Path;

use self::source::Crate;
use self::surface::surface;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The record as it should be: each name with its signature, the features, and whose types we show.
fn record() -> String {
    let names = surface(&Crate::read(&Path::new(ROOT).join("src/lib.rs")));
    let names = names.into_iter().map(|line| line + "\n");
    let manifest = include_str!("../../Cargo.toml");
    let section = |heading: &str| {
        let (_, section) = manifest.split_once(heading).expect("the section is there");
        let section = section.split("\n[").next().unwrap_or_default();
        section.lines().filter_map(|line| line.split_once(" = "))
    };
    let features = section("\n[features]\n").map(|(name, with)| {
        let with: Vec<&str> = with
            .split(['"', ',', ' ', '[', ']'])
            .filter(|with| !with.is_empty() && !with.starts_with("dep:"))
            .collect();
        format!("feature {name}: {}\n", with.join(", ")).replace(": \n", "\n")
    });
    let shown = section("\n[dependencies]\n")
        .filter(|(name, _)| ["prometheus", "ssh-key", "tiny_http"].contains(name));
    let shown = shown.map(|(name, version)| {
        let version = version.split('"').nth(1).unwrap_or_default();
        format!("crate {name}: {version}\n")
    });
    names.chain(features).chain(shown).collect()
}

/// The lines that are in one of both only.
fn changes(before: &str, now: &str) -> Vec<String> {
    let without = |some: &str, others: &str, sign: &str| -> Vec<String> {
        let others: Vec<&str> = others.lines().collect();
        let some = some.lines().filter(|line| !others.contains(line));
        some.map(|line| format!("{sign} {line}")).collect()
    };
    [without(before, now, "-"), without(now, before, "+")].concat()
}

#[test]
fn it_is_as_recorded() {
    let (path, now) = (Path::new(ROOT).join("tests/api.txt"), record());
    if std::env::var_os("TBOT_RECORD").is_some() {
        fs::write(&path, &now).expect("tests/ can be written");
    }
    let before = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        before == now,
        "the public API is not the one in tests/api.txt; if that is meant, `make api` records it anew:\n{}",
        changes(&before, &now).join("\n")
    );
}

/// A crate with one of each, and the changes that must be seen.
#[test]
fn every_change_of_it_is_seen() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let surface_of = |lib: &str, inner: &str| {
        fs::create_dir_all(directory.path().join("inner")).expect("the directory is ours");
        fs::write(directory.path().join("lib.rs"), lib).expect("the directory is ours");
        fs::write(directory.path().join("inner/mod.rs"), inner).expect("the directory is ours");
        let lines = surface(&Crate::read(&directory.path().join("lib.rs")));
        lines.into_iter().collect::<Vec<_>>().join("\n")
    };
    let lib = "mod inner;\npub use inner::Thing;\npub use std::io;\n\
               #[cfg(feature = \"x\")] pub mod more { pub const N: u8 = 1; pub trait Kind { fn kind(&self) -> u8; } }\n";
    let inner = "use std::fmt;\nuse std::path::PathBuf as Place;\n\
                 #[derive(Clone)] #[non_exhaustive] pub struct Thing { pub at: Place, hidden: u8 }\n\
                 impl Thing { pub fn new(mut at: Place) -> Self { todo!() } fn own(&self) {} }\n\
                 impl fmt::Display for Thing { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { todo!() } }\n\
                 pub enum Unreachable { A }\n#[cfg(test)] mod tests { pub struct Gone; }\n";
    let before = surface_of(lib, inner);
    let expected = "Thing: #[derive(Clone)] #[non_exhaustive] struct Thing\n\
                    Thing: has private fields\n\
                    Thing: impl std::fmt::Display for Thing\n\
                    Thing::at: field std::path::PathBuf\n\
                    Thing::new: fn new(at: std::path::PathBuf) -> Self\n\
                    io: use std::io\n\
                    more::Kind: trait Kind if \"x\"\n\
                    more::Kind::kind: fn kind(&self) -> u8 if \"x\"\n\
                    more::N: const N: u8 = 1 if \"x\"";
    assert_eq!(before, expected);
    // In which file, what becomes what, and what is seen of it.
    let seen: [(bool, &str, &str, &[&str]); 16] = [
        (
            false,
            "pub fn new",
            "fn new",
            &["- Thing::new: fn new(at: std::path::PathBuf) -> Self"],
        ),
        (
            false,
            "mut at: Place",
            "at: &Place",
            &[
                "- Thing::new: fn new(at: std::path::PathBuf) -> Self",
                "+ Thing::new: fn new(at: &std::path::PathBuf) -> Self",
            ],
        ),
        (
            false,
            "-> Self",
            "-> Option<Self>",
            &[
                "- Thing::new: fn new(at: std::path::PathBuf) -> Self",
                "+ Thing::new: fn new(at: std::path::PathBuf) -> Option<Self>",
            ],
        ),
        (
            false,
            "use std::path::PathBuf as Place",
            "use other::Place",
            &[
                "- Thing::at: field std::path::PathBuf",
                "- Thing::new: fn new(at: std::path::PathBuf) -> Self",
                "+ Thing::at: field other::Place",
                "+ Thing::new: fn new(at: other::Place) -> Self",
            ],
        ),
        (
            false,
            "fn own",
            "pub fn own",
            &["+ Thing::own: fn own(&self)"],
        ),
        (
            false,
            "derive(Clone)",
            "derive(Clone, Copy)",
            &[
                "- Thing: #[derive(Clone)] #[non_exhaustive] struct Thing",
                "+ Thing: #[derive(Clone, Copy)] #[non_exhaustive] struct Thing",
            ],
        ),
        (
            false,
            "#[non_exhaustive] ",
            "",
            &[
                "- Thing: #[derive(Clone)] #[non_exhaustive] struct Thing",
                "+ Thing: #[derive(Clone)] struct Thing",
            ],
        ),
        (
            false,
            "hidden: u8",
            "pub hidden: u8",
            &["- Thing: has private fields", "+ Thing::hidden: field u8"],
        ),
        (
            false,
            "pub at: Place",
            "at: Place",
            &["- Thing::at: field std::path::PathBuf"],
        ),
        (
            false,
            "impl fmt::Display",
            "#[cfg(feature = \"y\")] impl fmt::Display",
            &[
                "- Thing: impl std::fmt::Display for Thing",
                "+ Thing: impl std::fmt::Display for Thing if \"y\"",
            ],
        ),
        (
            true,
            "pub use inner::Thing",
            "#[cfg(feature = \"y\")] pub use inner::{Thing}",
            &[
                "- Thing: #[derive(Clone)] #[non_exhaustive] struct Thing",
                "- Thing: has private fields",
                "- Thing: impl std::fmt::Display for Thing",
                "- Thing::at: field std::path::PathBuf",
                "- Thing::new: fn new(at: std::path::PathBuf) -> Self",
                "+ Thing: #[derive(Clone)] #[non_exhaustive] struct Thing if \"y\"",
                "+ Thing: has private fields if \"y\"",
                "+ Thing: impl std::fmt::Display for Thing if \"y\"",
                "+ Thing::at: field std::path::PathBuf if \"y\"",
                "+ Thing::new: fn new(at: std::path::PathBuf) -> Self if \"y\"",
            ],
        ),
        (
            true,
            "inner::Thing",
            "inner::{Thing, Unreachable as U}",
            &["+ U: enum Unreachable", "+ U::A: variant"],
        ),
        (
            true,
            "pub use std::io",
            "pub use std::fs as io",
            &["- io: use std::io", "+ io: use std::fs"],
        ),
        (
            true,
            "N: u8 = 1",
            "N: u8 = 2",
            &[
                "- more::N: const N: u8 = 1 if \"x\"",
                "+ more::N: const N: u8 = 2 if \"x\"",
            ],
        ),
        (
            true,
            "-> u8;",
            "-> u8 { 1 }",
            &[
                "- more::Kind::kind: fn kind(&self) -> u8 if \"x\"",
                "+ more::Kind::kind: fn kind(&self) -> u8 { … } if \"x\"",
            ],
        ),
        // And what concerns nobody.
        (
            false,
            "{ todo!() } fn own(&self)",
            "{ loop {} } #[doc(hidden)] pub fn own(&mut self)",
            &[],
        ),
    ];
    for (in_lib, old, new, expected) in seen {
        let (lib, inner) = match in_lib {
            true => (lib.replace(old, new), inner.to_owned()),
            false => (lib.to_owned(), inner.replace(old, new)),
        };
        let changes = changes(&before, &surface_of(&lib, &inner));
        assert_eq!(changes, expected, "{old} to {new}");
    }
}
