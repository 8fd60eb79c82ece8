//! Text of others, made harmless for a line of the log or of a terminal.
//!
//! Escaping is done here and nowhere else, so that no event can forget it.

use std::fmt::Display;
use std::io::Write;

use crate::harmful::is_harmful;

/// How much of one value is shown, in bytes as they are shown: no line is longer than a few of these.
pub(super) const LONGEST: usize = 4096;

/// Behind what was cut.
const CUT: char = '…';

/// Of a byte that is written as it is in any format.
const PLAIN: u8 = 0;
/// Of one that is, too, but for which a value in text gets quotes.
const PARTS: u8 = 1;
/// Of one that is escaped between quotes.
const QUOTE: u8 = 2;
/// Of one that is escaped, or is of a character that may be.
const OTHER: u8 = 4;

/// The kind of each byte. Nearly all text is plain, and this tells so without looking at characters.
const KINDS: [u8; 256] = {
    let mut kinds = [OTHER; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        kinds[byte as usize] = match byte {
            b' ' | b'=' => PARTS,
            b'"' | b'\\' => QUOTE,
            _ => PLAIN,
        };
        byte += 1;
    }
    kinds
};

/// Where a text is to stand.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// As the message of a line of text.
    Message,
    /// As a value in text, without quotes.
    Word,
    /// Between quotes.
    Quotes,
}

/// Whether it can stand there as it is, as far as that is seen without looking at characters.
pub(super) fn stands(text: &[u8], place: Place) -> bool {
    let kinds = kinds(text);
    let fits = match place {
        Place::Message => kinds & OTHER == 0,
        Place::Word => kinds == PLAIN && !text.is_empty(),
        Place::Quotes => kinds & (QUOTE | OTHER) == 0,
    };
    fits && text.len() <= LONGEST
}

/// All kinds that are in `text`.
fn kinds(text: &[u8]) -> u8 {
    let kinds = text.iter().map(|byte| KINDS[usize::from(*byte)]);
    kinds.fold(PLAIN, |all, kind| all | kind)
}

/// `text` for a terminal, in one line.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = Vec::with_capacity(text.len());
    escape(&mut shown, text, usize::MAX, "", text_escape);
    String::from_utf8_lossy(&shown).into_owned()
}

/// Adds a message to a line of text.
pub(super) fn message(line: &mut Vec<u8>, text: &str) {
    match stands(text.as_bytes(), Place::Message) {
        true => line.extend_from_slice(text.as_bytes()),
        false => escape(line, text, LONGEST, "", text_escape),
    }
}

/// Adds a value to a line of text, in quotes where it needs some.
pub(super) fn value(line: &mut Vec<u8>, text: &str) {
    let is_in_word = |c: char| !c.is_whitespace() && !"\"\\=".contains(c) && !is_harmful(c);
    // Letters of other scripts are of words, too.
    let is_word = || kinds(text.as_bytes()) == OTHER && text.chars().all(is_in_word);
    match stands(text.as_bytes(), Place::Word) || (text.len() <= LONGEST && is_word()) {
        true => line.extend_from_slice(text.as_bytes()),
        false => quoted(line, text, text_escape),
    }
}

/// Adds a string of JSON.
pub(super) fn json_string(line: &mut Vec<u8>, text: &str) {
    quoted(line, text, json_escape);
}

fn quoted(line: &mut Vec<u8>, text: &str, replace: fn(&mut Vec<u8>, char)) {
    line.push(b'"');
    match stands(text.as_bytes(), Place::Quotes) {
        true => line.extend_from_slice(text.as_bytes()),
        false => escape(line, text, LONGEST, "\"\\", replace),
    }
    line.push(b'"');
}

/// Adds `text` with what is harmful or in `also` as `replace` writes it, up to about `most` bytes.
fn escape(
    line: &mut Vec<u8>,
    text: &str,
    most: usize,
    also: &str,
    replace: fn(&mut Vec<u8>, char),
) {
    let end = line.len().saturating_add(most);
    for c in text.chars() {
        if line.len() >= end {
            return push(line, CUT);
        }
        match is_harmful(c) || also.contains(c) {
            true => replace(line, c),
            false => push(line, c),
        }
    }
}

fn push(line: &mut Vec<u8>, c: char) {
    line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn put(line: &mut Vec<u8>, shown: impl Display) {
    // Writing to memory does not fail.
    let _ = write!(line, "{shown}");
}

/// As in a string of Rust: `\n`, `\u{1b}`.
fn text_escape(line: &mut Vec<u8>, c: char) {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' => put(line, c.escape_default()),
        _ => put(line, c.escape_unicode()),
    }
}

fn json_escape(line: &mut Vec<u8>, c: char) {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' => put(line, c.escape_default()),
        _ => {
            // By halves beyond 16 bits (RFC 8259, 7).
            for half in c.encode_utf16(&mut [0; 2]) {
                put(line, format_args!("\\u{half:04x}"));
            }
        }
    }
}
