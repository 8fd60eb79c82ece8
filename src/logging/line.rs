//! A line of the log, as text or JSON: written while an event is looked at, without anything in between.
//!
//! It lacks its time, which the [queue](super::queue) knows.

use std::cell::Cell;
use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::escape::{Place, json_string, message, stands, value};
use super::figure::Figure;
use super::said::{MESSAGE, Said, Value};

/// How much is expected of a line, so that few grow.
const USUAL: usize = 512;

/// The most that a thread keeps for its next line.
const KEPT: usize = 4096;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How lines look.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    Text { colours: bool },
    Json,
}

impl Style {
    /// What is in front of the time.
    pub fn head(self) -> &'static str {
        match self {
            Self::Text { colours: false } => "",
            Self::Text { colours: true } => "\x1b[2m",
            Self::Json => "{\"timestamp\":\"",
        }
    }

    /// What is behind the time.
    fn level(self, line: &mut Vec<u8>, level: Level) {
        let name = match level {
            Level::ERROR => " ERROR ",
            Level::WARN => "  WARN ",
            Level::INFO => "  INFO ",
            Level::DEBUG => " DEBUG ",
            Level::TRACE => " TRACE ",
        };
        // Those that tracing's own formatter has made familiar.
        let colour = match level {
            Level::ERROR => b'1',
            Level::WARN => b'3',
            Level::INFO => b'2',
            Level::DEBUG => b'4',
            Level::TRACE => b'5',
        };
        match self {
            Self::Text { colours: false } => line.extend_from_slice(name.as_bytes()),
            Self::Text { colours: true } => {
                line.extend_from_slice(b"\x1b[0m \x1b[3");
                line.push(colour);
                line.push(b'm');
                line.extend_from_slice(&name.as_bytes()[1..name.len() - 1]);
                line.extend_from_slice(b"\x1b[0m ");
            }
            Self::Json => {
                line.extend_from_slice(b"\",\"level\":\"");
                line.extend_from_slice(level.as_str().as_bytes());
                line.extend_from_slice(b"\",\"message\":");
            }
        }
    }
}

/// What is written to it may fail, and does not panic then, as `io::Write` does.
struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// A line on its way.
struct Line {
    style: Style,
    bytes: Vec<u8>,
    /// Where the message begins.
    message: usize,
}

/// Keeps the memory of a line that is done with for the next one of this thread.
pub(super) fn done(mut line: Vec<u8>) {
    if line.capacity() <= KEPT {
        line.clear();
        let _ = SPARE.try_with(|spare| spare.set(line));
    }
}

/// That of an event, from behind its time to its end.
pub(super) fn of_event(style: Style, event: &Event<'_>) -> Vec<u8> {
    let mut line = Line::new(style, *event.metadata().level());
    event.record(&mut line);
    line.end()
}

/// That of what is kept of one.
pub(super) fn of_said(style: Style, said: &Said) -> Vec<u8> {
    let mut line = Line::new(style, said.level);
    line.message(&said.message);
    for (name, value) in &said.fields {
        line.name(name);
        match value {
            Value::Text(text) => line.text(text),
            Value::Figure(figure) => figure.write(&mut line.bytes),
        }
    }
    line.end()
}

impl Line {
    fn new(style: Style, level: Level) -> Self {
        // Whoever logs while its thread ends has new memory.
        let mut bytes = SPARE.try_with(Cell::take).unwrap_or_default();
        bytes.reserve(USUAL);
        style.level(&mut bytes, level);
        Self {
            style,
            message: bytes.len(),
            bytes,
        }
    }

    fn end(mut self) -> Vec<u8> {
        if let Style::Json = self.style {
            self.bytes.push(b'}');
        }
        self.bytes.push(b'\n');
        self.bytes
    }

    fn message(&mut self, text: &str) {
        let fields = match self.bytes.len() > self.message {
            true => self.bytes.split_off(self.message),
            // Mostly: tracing gives the message first.
            false => Vec::new(),
        };
        match self.style {
            Style::Text { .. } => message(&mut self.bytes, text),
            Style::Json => json_string(&mut self.bytes, text),
        }
        self.bytes.extend_from_slice(&fields);
    }

    /// What is in front of a field's value. A byte alone costs less than a slice.
    #[inline(always)]
    fn name(&mut self, name: &str) {
        let Self { style, bytes, .. } = self;
        match style {
            Style::Text { colours: false } => bytes.push(b' '),
            Style::Text { colours: true } => bytes.extend_from_slice(b" \x1b[2m"),
            Style::Json => {
                bytes.push(b',');
                bytes.push(b'"');
            }
        }
        bytes.extend_from_slice(name.as_bytes());
        match style {
            Style::Text { colours: false } => bytes.push(b'='),
            Style::Text { colours: true } => bytes.extend_from_slice(b"=\x1b[0m"),
            Style::Json => {
                bytes.push(b'"');
                bytes.push(b':');
            }
        }
    }

    fn text(&mut self, text: &str) {
        match self.style {
            Style::Json => json_string(&mut self.bytes, text),
            Style::Text { .. } => value(&mut self.bytes, text),
        }
    }

    fn figure(&mut self, field: &Field, figure: Figure) {
        self.name(field.name());
        figure.write(&mut self.bytes);
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            MESSAGE => self.message(value),
            name => {
                self.name(name);
                self.text(value);
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let (is_json, is_message) = (matches!(self.style, Style::Json), field.name() == MESSAGE);
        if !is_message {
            self.name(field.name());
        }
        // In its place, where nearly every text can stay as it is.
        let begin = self.bytes.len();
        if is_json {
            self.bytes.push(b'"');
        }
        let text = self.bytes.len();
        // Of a message, and of what is given with `%`, this is the text itself. It fails where `value` itself does.
        let _ = write!(Text(&mut self.bytes), "{value:?}");
        let place = match is_message {
            _ if is_json => Place::Quotes,
            true => Place::Message,
            false => Place::Word,
        };
        if stands(&self.bytes[text..], place) && !(is_message && begin > self.message) {
            if is_json {
                self.bytes.push(b'"');
            }
            return;
        }
        let text = self.bytes.split_off(text);
        let text = String::from_utf8_lossy(&text);
        self.bytes.truncate(begin);
        match is_message {
            true => self.message(&text),
            false => self.text(&text),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.figure(field, Figure::Unsigned(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.figure(field, Figure::Signed(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.figure(field, Figure::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.figure(field, Figure::Truth(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::escape::LONGEST;
    use std::sync::{Arc, Mutex};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Metadata, Subscriber};

    /// Keeps the last line, made of an event in both ways.
    struct Last(Style, Arc<Mutex<String>>);

    impl Subscriber for Last {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn event(&self, event: &Event<'_>) {
            let line = of_event(self.0, event);
            let kept = of_said(self.0, &Said::of(event));
            assert_eq!(line, kept);
            let line = String::from_utf8(line).expect("UTF-8");
            *self.1.lock().expect("no panic") = line;
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    fn line_of(style: Style, log: impl FnOnce()) -> String {
        let last = Arc::default();
        tracing::subscriber::with_default(Last(style, Arc::clone(&last)), log);
        let last = last.lock().expect("no panic");
        style.head().to_owned() + "TIME" + &last
    }

    /// Of an event with a text in each way in which one is given.
    fn line(text: &str, style: Style) -> String {
        let shown = tracing::field::display(text);
        line_of(style, || {
            tracing::warn!(request = text, target = shown, sent = 7, "{text}")
        })
    }

    const TEXT: Style = Style::Text { colours: false };

    #[test]
    fn text_is_one_line_that_can_be_read() {
        assert_eq!(
            line("no way", TEXT),
            "TIME  WARN no way request=\"no way\" target=\"no way\" sent=7\n"
        );
        assert_eq!(
            line("db1:22|prod", TEXT),
            "TIME  WARN db1:22|prod request=db1:22|prod target=db1:22|prod sent=7\n"
        );
        assert_eq!(
            line("bücher", TEXT),
            "TIME  WARN bücher request=bücher target=bücher sent=7\n"
        );
        assert_eq!(
            line("a\"b\\\n", TEXT),
            "TIME  WARN a\"b\\\\n request=\"a\\\"b\\\\\\n\" target=\"a\\\"b\\\\\\n\" sent=7\n"
        );
        assert_eq!(
            line("", TEXT),
            "TIME  WARN  request=\"\" target=\"\" sent=7\n"
        );
        assert_eq!(
            line("a=b", TEXT),
            "TIME  WARN a=b request=\"a=b\" target=\"a=b\" sent=7\n"
        );
    }

    #[test]
    fn every_kind_of_value_is_as_both_formats_have_it() {
        let log = || {
            let (nan, none) = (f64::NAN, None::<u32>);
            tracing::debug!(
                low = -3,
                ms = 0.25,
                nan,
                none,
                yes = true,
                list = ?["a b"],
                "message"
            );
        };
        assert_eq!(
            line_of(TEXT, log),
            "TIME DEBUG message low=-3 ms=0.25 nan=null yes=true list=\"[\\\"a b\\\"]\"\n"
        );
        assert_eq!(
            line_of(Style::Json, log),
            "{\"timestamp\":\"TIME\",\"level\":\"DEBUG\",\"message\":\"message\",\"low\":-3,\"ms\":0.25,\
             \"nan\":null,\"yes\":true,\"list\":\"[\\\"a b\\\"]\"}\n"
        );
        // Whoever gives its message last.
        let late = || tracing::error!(uid = 1, message = "late\n");
        assert_eq!(line_of(TEXT, late), "TIME ERROR late\\n uid=1\n");
        let late = || tracing::trace!(uid = 1, message = %"late");
        assert_eq!(
            line_of(Style::Json, late),
            "{\"timestamp\":\"TIME\",\"level\":\"TRACE\",\"message\":\"late\",\"uid\":1}\n"
        );
    }

    #[test]
    fn a_value_that_cannot_be_shown_is_what_there_is_of_it() {
        struct Half;

        impl fmt::Debug for Half {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("half")?;
                Err(fmt::Error)
            }
        }

        let log = || tracing::warn!(request = ?Half, "{Half:?}");
        assert_eq!(line_of(TEXT, log), "TIME  WARN half request=half\n");
    }

    #[test]
    fn colours_are_around_what_is_ours() {
        assert_eq!(
            line("x\x1b[0m", Style::Text { colours: true }),
            "\x1b[2mTIME\x1b[0m \x1b[33m WARN\x1b[0m x\\u{1b}[0m \
             \x1b[2mrequest=\x1b[0m\"x\\u{1b}[0m\" \x1b[2mtarget=\x1b[0m\"x\\u{1b}[0m\" \
             \x1b[2msent=\x1b[0m7\n"
        );
    }

    #[test]
    fn json_gives_every_character_back_and_no_line_holds_a_harmful_one() {
        // Those that Unicode 16 calls controls, line breaks, changes of direction, annotations or nothing to see.
        let harmful = |c: char| {
            let c = u32::from(c);
            matches!(c, 0..=0x1f | 0x7f..=0x9f | 0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5)
                || matches!(c, 0x180b..=0x180f | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f)
                || matches!(c, 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb)
                || matches!(c, 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
        };
        // In pieces that are not cut.
        let all: Vec<char> = ('\0'..=char::MAX)
            .filter(|c| *c < '\u{1_e000}' || ('\u{d_ff00}'..'\u{e_1100}').contains(c))
            .collect();
        for piece in all.chunks(300) {
            let text: String = piece.iter().collect();
            for style in [TEXT, Style::Json] {
                let line = line(&text, style);
                let line = line.strip_suffix('\n').expect("it has an end");
                assert!(!line.contains(harmful), "{line:?}");
                assert!(!line.contains('…') || text.contains('…'), "{line:?}");
            }
            let json: serde_json::Value =
                serde_json::from_str(&line(&text, Style::Json)).expect("JSON");
            assert_eq!(json["message"], text);
            assert_eq!(json["request"], text);
            assert_eq!(json["target"], text);
            assert_eq!(json["sent"], 7);
        }
    }

    #[test]
    fn what_is_endless_is_cut_and_says_so_whatever_is_made_of_it() {
        for text in ["a", "ü", "\"", "\x1b", "\u{202e}", "\u{e0001}", "\0"] {
            for length in [LONGEST + 1, 100_000] {
                let text = text.repeat(length);
                for style in [TEXT, Style::Json] {
                    let line = line(&text, style);
                    assert!(line.len() < 3 * LONGEST + 200, "{}", line.len());
                    assert_eq!(line.matches('…').count(), 3, "{line}");
                    if let Style::Json = style {
                        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
                        assert_eq!(json["message"], json["target"]);
                    }
                }
            }
        }
        let fits = "a".repeat(LONGEST);
        assert_eq!(line(&fits, TEXT).matches(&fits).count(), 3);
        assert!(!line(&fits, TEXT).contains(['…', '"']));
    }
}
