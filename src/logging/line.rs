//! What a line of the log says, and how it looks: as text or JSON, and whatever peers sent made harmless.
//!
//! Escaping is done here and nowhere else, so that no event can forget it.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::readyz::at_most_9999;

/// How much of one value is shown, in bytes: no line is longer than a few of these.
const LONGEST: usize = 4096;

/// How lines look.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    Text { colours: bool },
    Json,
}

/// What an event says.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub level: Level,
    pub message: String,
    pub fields: Vec<(&'static str, Value)>,
}

/// That of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    /// A number, or true or false, as both formats have it.
    Figure(String),
}

impl Said {
    pub fn of(event: &Event<'_>) -> Self {
        let mut said = Self {
            level: *event.metadata().level(),
            message: String::new(),
            fields: Vec::with_capacity(event.metadata().fields().len()),
        };
        event.record(&mut said);
        said
    }

    /// The whole line, with its end.
    pub fn line(&self, style: Style, at: SystemTime) -> Vec<u8> {
        let mut line = String::with_capacity(256);
        match style {
            Style::Json => self.json(&mut line, at),
            Style::Text { colours } => self.text(&mut line, at, colours),
        }
        line.push('\n');
        line.into_bytes()
    }

    fn text(&self, line: &mut String, at: SystemTime, colours: bool) {
        // The colours that tracing's own formatter has made familiar.
        let colour = match self.level {
            Level::ERROR => "31",
            Level::WARN => "33",
            Level::INFO => "32",
            Level::DEBUG => "34",
            Level::TRACE => "35",
        };
        // Without a format, as this is most of a line.
        let paint = |line: &mut String, code: &str, begin: &str, end: &str| match colours {
            true => line.extend(["\x1b[", code, "m", begin, end, "\x1b[0m"]),
            false => line.extend([begin, end]),
        };
        paint(line, "2", &time(at).to_string(), "");
        line.push(' ');
        let level = self.level.as_str();
        paint(line, colour, &"     "[level.len()..], level);
        line.push(' ');
        escape(line, &self.message, "", text_escape);
        for (name, value) in &self.fields {
            line.push(' ');
            paint(line, "2", name, "=");
            match value {
                Value::Figure(figure) => line.push_str(figure),
                Value::Text(text) if is_a_word(text) => line.push_str(text),
                Value::Text(text) => {
                    line.push('"');
                    escape(line, text, "\"\\", text_escape);
                    line.push('"');
                }
            }
        }
    }

    fn json(&self, line: &mut String, at: SystemTime) {
        let level = self.level.as_str();
        // Writing to a string does not fail, here and below.
        let _ = write!(
            line,
            "{{\"timestamp\":\"{}\",\"level\":\"{level}\",\"message\":",
            time(at)
        );
        json_string(line, &self.message);
        for (name, value) in &self.fields {
            let _ = write!(line, ",\"{name}\":");
            match value {
                Value::Figure(figure) => line.push_str(figure),
                Value::Text(text) => json_string(line, text),
            }
        }
        line.push('}');
    }

    fn add_text(&mut self, name: &'static str, mut text: String) {
        text.truncate(text.floor_char_boundary(LONGEST));
        match name {
            "message" => self.message = text,
            _ => self.fields.push((name, Value::Text(text))),
        }
    }

    fn add_figure(&mut self, name: &'static str, figure: String) {
        self.fields.push((name, Value::Figure(figure)));
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Of a message, and of what is given with `%`, this is the text itself.
        self.add_text(field.name(), format!("{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add_figure(field.name(), value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add_figure(field.name(), value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no other numbers.
        let figure = match value.is_finite() {
            true => format!("{value:?}"),
            false => "null".to_owned(),
        };
        self.add_figure(field.name(), figure);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add_figure(field.name(), value.to_string());
    }
}

/// In UTC, with microseconds (RFC 3339); the formatter knows the years from 1970 to 9999.
fn time(at: SystemTime) -> humantime::Rfc3339Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    humantime::format_rfc3339_micros(at_most_9999(since))
}

/// What is written as it is, without quotes.
fn is_a_word(text: &str) -> bool {
    let is_one = |c: char| !c.is_whitespace() && !"\"\\=".contains(c) && !is_harmful(c);
    let (plain, rest) = split_plain(text);
    let parts = plain.bytes().any(|byte| matches!(byte, b' ' | b'='));
    !text.is_empty() && !parts && rest.chars().all(is_one)
}

/// The text up to what is not plain in any format: nearly always all of it, and told without looking at characters.
fn split_plain(text: &str) -> (&str, &str) {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    // In front of which all is ASCII, so that a character begins there.
    let end = text.as_bytes().iter().position(|byte| !is_plain(byte));
    text.split_at(end.unwrap_or(text.len()))
}

/// What could end a line, move or colour what a terminal shows, or show text in another order than it is in (Unicode's
/// Bidi_Control, and the characters by which a line or a paragraph ends), or not at all.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` for a terminal, in one line.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    escape(&mut shown, text, "", text_escape);
    shown
}

/// Adds `text` with what is harmful or in `also` as `replace` writes it.
fn escape(line: &mut String, text: &str, also: &str, replace: fn(&mut String, char)) {
    let (plain, rest) = split_plain(text);
    line.push_str(plain);
    for c in rest.chars() {
        match is_harmful(c) || also.contains(c) {
            true => replace(line, c),
            false => line.push(c),
        }
    }
}

/// As in a string of Rust: `\n`, `\u{1b}`.
fn text_escape(line: &mut String, c: char) {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' => line.extend(c.escape_default()),
        _ => line.extend(c.escape_unicode()),
    }
}

fn json_string(line: &mut String, text: &str) {
    line.push('"');
    escape(line, text, "\"\\", |line, c| match c {
        '"' | '\\' | '\n' | '\r' | '\t' => line.extend(c.escape_default()),
        _ => {
            // By halves beyond 16 bits (RFC 8259, 7).
            for half in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(line, "\\u{half:04x}");
            }
        }
    });
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn said(text: &str) -> Said {
        let mut said = Said {
            level: Level::WARN,
            message: String::new(),
            fields: Vec::new(),
        };
        said.add_text("message", text.to_owned());
        said.add_text("request", text.to_owned());
        said.add_figure("sent", "7".into());
        said
    }

    fn line(text: &str, style: Style) -> String {
        let at = UNIX_EPOCH + Duration::from_micros(1_763_856_818_569_217);
        String::from_utf8(said(text).line(style, at)).expect("UTF-8")
    }

    const TEXT: Style = Style::Text { colours: false };

    #[test]
    fn text_is_one_line_that_can_be_read() {
        assert_eq!(
            line("no way", TEXT),
            "2025-11-23T00:13:38.569217Z  WARN no way request=\"no way\" sent=7\n"
        );
        assert_eq!(
            line("db1:22|prod", TEXT),
            "2025-11-23T00:13:38.569217Z  WARN db1:22|prod request=db1:22|prod sent=7\n"
        );
        assert!(
            line("a\"b\\\n", TEXT).ends_with(" WARN a\"b\\\\n request=\"a\\\"b\\\\\\n\" sent=7\n")
        );
        assert!(line("", TEXT).ends_with(" WARN  request=\"\" sent=7\n"));
    }

    #[test]
    fn colours_are_around_what_is_ours() {
        assert_eq!(
            line("x\x1b[0m", Style::Text { colours: true }),
            "\x1b[2m2025-11-23T00:13:38.569217Z\x1b[0m \x1b[33m WARN\x1b[0m x\\u{1b}[0m \
             \x1b[2mrequest=\x1b[0m\"x\\u{1b}[0m\" \x1b[2msent=\x1b[0m7\n"
        );
    }

    #[test]
    fn json_gives_every_character_back_and_holds_no_harmful_one() {
        // In pieces that are not cut.
        let all: Vec<char> = ('\0'..='\u{2fff}')
            .chain('\u{fe00}'..='\u{1_00ff}')
            .chain('\u{e_0000}'..='\u{e_00ff}')
            .collect();
        for piece in all.chunks(500) {
            let text: String = piece.iter().collect();
            for style in [TEXT, Style::Json] {
                let line = line(&text, style);
                let line = line.strip_suffix('\n').expect("it has an end");
                assert!(!line.contains(is_harmful), "{line:?}");
            }
            let json: serde_json::Value =
                serde_json::from_str(&line(&text, Style::Json)).expect("JSON");
            assert_eq!(json["message"], text);
            assert_eq!(json["request"], text);
            assert_eq!(json["sent"], 7);
        }
    }

    #[test]
    fn what_is_endless_is_cut_and_no_time_is_too_strange() {
        let endless = "ü".repeat(100_000);
        for style in [TEXT, Style::Json] {
            assert!(line(&endless, style).len() < 2 * LONGEST + 200);
        }
        let year = Duration::from_secs(365 * 24 * 3600);
        for (at, begin) in [
            (UNIX_EPOCH - year, "1970-01-01T00:00:00.000000Z "),
            (UNIX_EPOCH + 20_000 * year, "9999-12-31T23:59:59.000000Z "),
        ] {
            let line = said("x").line(TEXT, at);
            assert!(line.starts_with(begin.as_bytes()));
        }
    }
}
