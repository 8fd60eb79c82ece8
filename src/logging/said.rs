//! What a warning or an error says, kept to be compared with others.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::escape::LONGEST;
use super::figure::Figure;

/// The field that is not one.
pub(super) const MESSAGE: &str = "message";

/// The field with the user who is to blame.
pub(super) const USER: &str = "uid";

/// What an event says.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub level: Level,
    pub message: String,
    pub fields: Vec<(&'static str, Value)>,
    /// That of [`USER`].
    pub user: Option<u64>,
}

/// That of a field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Figure(Figure),
}

impl Said {
    pub fn of(event: &Event<'_>) -> Self {
        let mut said = Self {
            level: *event.metadata().level(),
            message: String::new(),
            fields: Vec::with_capacity(event.metadata().fields().len()),
            user: None,
        };
        event.record(&mut said);
        said
    }

    fn add_text(&mut self, name: &'static str, mut text: String) {
        // One byte more than is shown: that it goes on is shown, too.
        text.truncate(text.ceil_char_boundary(LONGEST + 1));
        match name {
            MESSAGE => self.message = text,
            _ => self.fields.push((name, Value::Text(text))),
        }
    }

    fn add_figure(&mut self, field: &Field, figure: Figure) {
        self.fields.push((field.name(), Value::Figure(figure)));
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Of a message, and of what is given with `%`, this is the text itself.
        let mut text = String::new();
        // It fails where `value` itself does, for which `format!` would panic.
        let _ = write!(text, "{value:?}");
        self.add_text(field.name(), text);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == USER {
            self.user = Some(value);
        }
        self.add_figure(field, Figure::Unsigned(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add_figure(field, Figure::Signed(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add_figure(field, Figure::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add_figure(field, Figure::Truth(value));
    }
}
