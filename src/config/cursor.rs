//! Typed reading of a tree: each value is taken at its place, so that every error says where it is.

use std::cell::RefCell;
use std::ffi::OsString;
use std::time::Duration;

use super::node::{Node, Origin, Place, Value};
use super::{Error, Source, did_you_mean, duration, foreign, quoted, show_duration, yaml};

/// Nothing here may take longer: a credential's life is the longest thing there is.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// One node and where it stands.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub node: &'a Node,
    place: Place,
    reading: &'a Reading<'a>,
}

/// What is the same for all cursors of one tree.
#[derive(Default)]
pub(super) struct Reading<'a> {
    pub source: Option<&'a Source>,
    pub warnings: RefCell<Vec<String>>,
}

impl<'a> Cursor<'a> {
    pub fn new(node: &'a Node, reading: &'a Reading<'a>) -> Self {
        Self {
            node,
            place: Place::default(),
            reading,
        }
    }

    /// An error about this value; `what` goes on from its name.
    pub fn error(&self, what: impl AsRef<str>) -> Error {
        Error::new(format!("{}: {}", self.name(), what.as_ref()))
    }

    /// Something to tell the operator about this value.
    pub fn warn(&self, what: impl AsRef<str>) {
        let warning = format!("{}: {}", self.name(), what.as_ref());
        self.reading.warnings.borrow_mut().push(warning);
    }

    /// `my-config.yaml:7: services[0].name`, `--name` or `TBOT_DEBUG`.
    fn name(&self) -> String {
        match (self.node.origin, self.reading.source) {
            (Origin::File, Some(source)) => {
                let name = format!("{}{}", yaml::prefix_of(source, &self.place), self.place);
                name.trim_end_matches([':', ' ']).to_owned()
            }
            (Origin::File, None) => self.place.to_string(),
            (Origin::Given(name), _) => name.to_owned(),
        }
    }

    /// What another value's error calls this one: `services[0]`, `--name`.
    pub fn short_name(&self) -> String {
        match self.node.origin {
            Origin::File => self.place.to_string(),
            Origin::Given(name) => name.to_owned(),
        }
    }

    fn wrong_type(&self, expected: &str) -> Error {
        let found = self.node.value.describe();
        self.error(format!("must be {expected}, and is {found}"))
    }

    /// Reads with `parse`, first what this value takes the place of: that has to be right, too, and
    /// where it differs the operator is told.
    fn read<T: PartialEq>(&self, parse: impl Fn(&Self) -> Result<T, Error>) -> Result<T, Error> {
        let shadowed = match &self.node.shadowed {
            None => None,
            Some(node) => {
                let cursor = Self {
                    node,
                    ..self.clone()
                };
                Some((parse(&cursor)?, cursor))
            }
        };
        let value = parse(self)?;
        if let Some((old, cursor)) = shadowed
            && old != value
        {
            cursor.warn(format!(
                "{} is overridden by {} from {}",
                cursor.node.value,
                self.node.value,
                self.name()
            ));
        }
        Ok(value)
    }

    /// The mapping here, whatever its keys are.
    pub fn map_of_any_keys(&self, what: &str) -> Result<Map<'a>, Error> {
        match &self.node.value {
            Value::Map(entries) => Ok(Map {
                cursor: self.clone(),
                entries,
            }),
            _ => Err(self.wrong_type(what)),
        }
    }

    /// The mapping here, once each of its keys is among `allowed`.
    pub fn map(&self, what: &str, allowed: &[&str]) -> Result<Map<'a>, Error> {
        let map = self.map_of_any_keys(what)?;
        for (key, node) in map.entries {
            if allowed.contains(&key.as_str()) {
                continue;
            }
            let cursor = map.child(key, node);
            if let Some(why) = foreign::key(key) {
                return Err(cursor.error(why));
            }
            let hint = did_you_mean(key, allowed.iter().copied()).unwrap_or_default();
            return Err(cursor.error(format!(
                "unknown key{hint} (allowed: {})",
                allowed.join(", ")
            )));
        }
        Ok(map)
    }

    /// The items of the list here; a key without a value is an empty list.
    pub fn list(&self, what: &str) -> Result<Vec<Self>, Error> {
        match &self.node.value {
            Value::Null => Ok(Vec::new()),
            Value::List(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(index, node)| Self {
                    node,
                    place: self.place.index(index),
                    ..self.clone()
                })
                .collect()),
            _ => Err(self.wrong_type(what)),
        }
    }

    pub fn bool(&self) -> Result<bool, Error> {
        match self.node.value {
            Value::Bool(value) => Ok(value),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    /// Text of one line. It may go into logs, `ssh_config` and terminals: no control characters.
    pub fn text(&self) -> Result<&'a str, Error> {
        match &self.node.value {
            Value::Text(text) if text.chars().any(char::is_control) => {
                Err(self.error(format!("has a control character: {}", quoted(text))))
            }
            Value::Text(text) => Ok(text),
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                let found = self.node.value.describe();
                Err(self.error(format!("must be text, and is {found}; put it in quotes")))
            }
            _ => Err(self.wrong_type("text")),
        }
    }

    /// A path, of any bytes where it is from the command line.
    pub fn path(&self) -> Result<OsString, Error> {
        let path = match &self.node.value {
            Value::Path(path) => path.clone(),
            _ => self.text()?.into(),
        };
        if path.is_empty() {
            return Err(self.error("the path is empty"));
        }
        if path.as_encoded_bytes().iter().any(u8::is_ascii_control) {
            let path = quoted(&path.display().to_string());
            return Err(self.error(format!("has a control character: {path}")));
        }
        Ok(path)
    }

    /// A whole number from `least` to `most`.
    pub fn number(&self, least: i128, most: i128) -> Result<i128, Error> {
        match self.node.value {
            Value::Int(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(self.wrong_type(&format!("a whole number from {least} to {most}"))),
        }
    }

    /// A duration of more than nothing and at most a day.
    pub fn duration(&self) -> Result<Duration, Error> {
        match self.duration_or_zero()? {
            Duration::ZERO => Err(self.error("must be longer than 0s")),
            duration => Ok(duration),
        }
    }

    /// A duration of at most a day.
    pub fn duration_or_zero(&self) -> Result<Duration, Error> {
        let text = match &self.node.value {
            Value::Int(number) => {
                return Err(self.error(format!(
                    "{number} is a bare number, and has to have a unit: write {number}s or {number}m"
                )));
            }
            Value::Text(text) => text,
            _ => return Err(self.wrong_type("a duration such as 1h30m")),
        };
        let duration = duration::parse(text).map_err(|what| self.error(what))?;
        if duration > LONGEST {
            let duration = show_duration(duration);
            return Err(self.error(format!("{duration} is too long; the longest is 24h")));
        }
        Ok(duration)
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Error> {
        let word = self.text()?;
        let known = || choices.iter().map(|(name, _)| *name);
        match choices.iter().find(|(name, _)| *name == word) {
            Some((_, value)) => Ok(*value),
            None => Err(self.error(format!(
                "unknown value {}{} (allowed: {})",
                quoted(word),
                did_you_mean(word, known()).unwrap_or_default(),
                known().collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}

/// A mapping whose keys are known ones.
pub(super) struct Map<'a> {
    pub cursor: Cursor<'a>,
    entries: &'a [(String, Node)],
}

impl<'a> Map<'a> {
    fn child(&self, key: &str, node: &'a Node) -> Cursor<'a> {
        Cursor {
            node,
            place: self.cursor.place.key(key),
            reading: self.cursor.reading,
        }
    }

    /// The error for a name that `other` has already; `kind` is what both are.
    pub fn name_taken(&self, name: &str, other: &Cursor, kind: &str) -> Error {
        let at = self.get("name");
        let advice = match at {
            Some(_) => format!("each {kind} needs its own"),
            None => "it is this one's by default: write a \"name\" of its own".to_owned(),
        };
        at.as_ref().unwrap_or(&self.cursor).error(format!(
            "the name {} is that of {}; {advice}",
            quoted(name),
            other.short_name()
        ))
    }

    pub fn get(&self, key: &str) -> Option<Cursor<'a>> {
        let (_, node) = self.entries.iter().find(|(name, _)| name == key)?;
        Some(self.child(key, node))
    }

    /// What must be there; `example` is how to write it.
    pub fn required(&self, key: &str, example: &str) -> Result<Cursor<'a>, Error> {
        self.get(key).ok_or_else(|| {
            let what = format!("the key \"{key}\" is missing; write {example}");
            self.cursor.error(what)
        })
    }

    /// What may be there, read with `parse`.
    pub fn optional<T: PartialEq>(
        &self,
        key: &str,
        parse: impl Fn(&Cursor<'a>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        self.get(key).map(|cursor| cursor.read(parse)).transpose()
    }
}
