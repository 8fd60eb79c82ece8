//! The inputs in `tests/fuzz/corpus/`, and others that differ from them a little, as ordinary tests.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Random;

/// A file of a corpus is small, so that whoever meets it can read it.
const LARGEST: u64 = 4096;

/// Tries every file in the corpus `name`, and then mutations of all: always the same ones, as many as there is time
/// for but `most`.
fn holds(name: &str, most: usize, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 5, "{directory:?} has {} files", paths.len());
    let mut seeds = Vec::new();
    for path in &paths {
        let seed = fs::read(path).expect("it can be read");
        assert!(seed.len() as u64 <= LARGEST, "{path:?} is too large");
        tried(&seed, target, &path.display().to_string());
        seeds.push(seed);
    }
    let (begin, mut random) = (Instant::now(), Random::of(name.as_bytes()));
    for number in 0..most {
        let seed = &seeds[number % seeds.len()];
        let mutated = mutated(seed, &seeds, &mut random);
        tried(&mutated, target, &format!("mutation {number} of {name}"));
        if begin.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
}

fn tried(input: &[u8], target: fn(&[u8]), what: &str) {
    let went = catch_unwind(|| target(input));
    assert!(went.is_ok(), "{what}: \"{}\"", input.escape_ascii());
}

/// Some small changes of the kinds that libFuzzer makes.
fn mutated(seed: &[u8], seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\r\n\t :|[]{}$%\"'\\/?#-+.0129aA";
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(16)).min(bytes.len());
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = TELLING[random.below(TELLING.len())],
            2 => bytes.insert(at, TELLING[random.below(TELLING.len())]),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let other = &seeds[random.below(seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn request_head() {
    holds("request_head", 5000, super::request_head);
}

#[test]
fn v1_request() {
    holds("v1_request", 3000, super::v1_request);
}

#[test]
fn agent_messages() {
    holds("agent_messages", 1000, super::agent_messages);
}

#[test]
fn mux_replies() {
    holds("mux_replies", 3000, super::mux_replies);
}

#[test]
fn configuration() {
    holds("configuration", 3000, super::configuration);
}

#[test]
fn proxy_template() {
    holds("proxy_template", 3000, super::proxy_template);
}
