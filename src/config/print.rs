//! Values of flags as a configuration file has them.

use super::node::{Node, Origin, Value};
use super::{Error, quoted};

/// `key: value` on one line; an error is a path that no file of text can hold.
pub(crate) fn entry(key: &str, node: &Node) -> Result<String, Error> {
    let mut line = format!("{key}: ");
    put(&mut line, node)?;
    Ok(line)
}

fn put(line: &mut String, node: &Node) -> Result<(), Error> {
    match &node.value {
        Value::Text(text) => put_text(line, text),
        Value::Path(path) => match path.to_str() {
            Some(text) => put_text(line, text),
            None => {
                let path = quoted(&path.to_string_lossy());
                let origin = match node.origin {
                    Origin::Given(name) => name,
                    Origin::File => "the file",
                };
                return Err(Error::new(format!(
                    "{origin}: {path} is not UTF-8 text, as all of a configuration is"
                )));
            }
        },
        Value::List(items) => {
            line.push('[');
            for (n, item) in items.iter().enumerate() {
                line.push_str(if n == 0 { "" } else { ", " });
                put(line, item)?;
            }
            line.push(']');
        }
        Value::Map(entries) => {
            line.push_str("{ ");
            for (n, (key, node)) in entries.iter().enumerate() {
                line.push_str(if n == 0 { "" } else { ", " });
                line.push_str(&entry(key, node)?);
            }
            line.push_str(" }");
        }
        plain => line.push_str(&plain.to_string()),
    }
    Ok(())
}

/// In quotes, unless it is a word, path or duration that no reader of YAML takes for anything else.
fn put_text(line: &mut String, text: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let mut letters = text.chars();
    let is_word = match letters.next() {
        // `true`, `no`, `null` and their like are short.
        Some('a'..='z') => text.len() > 5 && text.chars().all(plain),
        Some('/') => letters.all(plain),
        Some('1'..='9') => text.len() > 1 && is_duration(text),
        _ => false,
    };
    if is_word {
        return line.push_str(text);
    }
    line.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            // The rest may be a line's end to YAML, or nothing that it bears.
            ' '..='~' => line.push(c),
            c if c.is_alphanumeric() => line.push(c),
            c => *line += &format!("\\U{:08x}", u32::from(c)),
        }
    }
    line.push('"');
}

/// Numbers with units; without the one at the end it would be a number itself.
fn is_duration(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_digit() || "hms".contains(c))
        && text.ends_with(['h', 'm', 's'])
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::super::yaml;
    use super::*;
    use crate::config::Value;

    #[test]
    fn what_is_printed_is_read_as_the_same() {
        let odd: Vec<String> = (0..=0x2100)
            .chain([0xd7ff, 0xe000, 0xfeff, 0xfffd, 0xfffe, 0x1f600, 0x10ffff])
            .filter_map(char::from_u32)
            .map(|c| format!("a{c}b"))
            .collect();
        let words = [
            "",
            " ",
            "~",
            "true",
            "yes",
            "no",
            "on",
            "null",
            "NULL",
            "0",
            "1",
            "007",
            "0x1f",
            "0o7",
            "1e5",
            "1.5",
            ".inf",
            ".5s",
            "1h30m",
            "90s",
            "-1",
            "--y",
            "- a",
            "a: b",
            "a #b",
            "# a",
            "'",
            "\"",
            "\\",
            "\\n",
            "a\nb",
            "a\r\n b",
            "\t",
            " a ",
            "[a]",
            "{a}",
            "a, b",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`",
            "---",
            "...",
            "<<",
            "=",
            "v2",
            "[::1]:3001",
            "127.0.0.1:3001",
            "12:30:45",
            "2001-01-01",
            "/a b",
            "/a-b_c.d",
            "/ü/\u{4e2d}",
            "ssh-multiplexer",
            "falsey",
            "1_000",
            "1m",
            "10",
            "{{ x }}",
        ];
        for text in odd.iter().map(String::as_str).chain(words) {
            for value in [Value::Text(text.into()), Value::Path(text.into())] {
                let node = |value| Node::new(value, Origin::Given("--x"));
                let list = node(Value::List(vec![node(value.clone()), node(value.clone())]));
                let map = node(Value::Map(vec![
                    ("k".into(), node(value)),
                    ("l".into(), list),
                ]));
                let line = entry("key", &map).expect("it is UTF-8");
                assert_eq!(line.lines().count(), 1, "{line}");
                let source = Source::bytes("x".into(), line.clone().into()).expect("it is text");
                let read =
                    yaml::parse(&source, "").unwrap_or_else(|error| panic!("{line}: {error}"));
                let text = Value::Text(text.into());
                let file = |value| Node::new(value, Origin::File);
                let list = file(Value::List(vec![file(text.clone()), file(text.clone())]));
                let map = file(Value::Map(vec![
                    ("k".into(), file(text)),
                    ("l".into(), list),
                ]));
                assert_eq!(read, file(Value::Map(vec![("key".into(), map)])), "{line}");
            }
        }
    }
}
