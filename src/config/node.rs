//! The tree a configuration is read from, and where in it something stands.

use std::ffi::OsString;
use std::fmt;
use std::rc::Rc;

use super::nearest::quoted;

/// One value of the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it holds.
    pub value: Value,
    /// Who said so.
    pub origin: Origin,
    /// The value of the file that this one took the place of.
    pub(super) shadowed: Option<Box<Node>>,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: a key without a value.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number with a fraction.
    Float(f64),
    /// Text.
    Text(String),
    /// A path of the command line, which need not be UTF-8.
    Path(OsString),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the file's order; no key twice.
    Map(Vec<(String, Node)>),
}

/// Who said what a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file, or the text that stands for it.
    File,
    /// The flag (`--debug`), command or environment variable (`TBOT_DEBUG`) of this name.
    Given(&'static str),
}

impl Node {
    /// A value as `origin` gives it.
    pub fn new(value: Value, origin: Origin) -> Self {
        Self {
            value,
            origin,
            shadowed: None,
        }
    }

    /// Puts `node` at `key` of this mapping, over what the file may hold there.
    pub(super) fn lay_over(&mut self, key: &str, mut node: Node) {
        if let Value::Map(entries) = &mut self.value {
            match entries.iter_mut().find(|(name, _)| name == key) {
                Some((_, old)) => {
                    node.shadowed = Some(Box::new(old.clone()));
                    *old = node;
                }
                None => entries.push((key.to_owned(), node)),
            }
        }
    }
}

impl Value {
    /// What it is, for a message that says what it should have been.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::Bool(value) => value.to_string(),
            Self::Int(_) | Self::Float(_) => format!("the number {self}"),
            Self::Text(_) | Self::Path(_) => format!("the text {}", quoted(&self.to_string())),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a mapping".into(),
        }
    }
}

/// As it would stand on one line of a file.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Path(path) => path.display().fmt(f),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(|item| item.value.to_string()).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Map(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(key, node)| format!("{key}: {}", node.value))
                    .collect();
                write!(f, "{{{}}}", entries.join(", "))
            }
        }
    }
}

/// Where a node stands: `services[0].destination.path`. Cheap to clone, however long its keys are.
#[derive(Clone, Debug, Default)]
pub(super) struct Place(Option<Rc<(Place, Step)>>);

/// One step down the tree.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Place {
    /// The place of `key` in the mapping that stands here.
    pub(super) fn key(&self, key: &str) -> Self {
        Self(Some(Rc::new((self.clone(), Step::Key(key.to_owned())))))
    }

    /// The place of an item in the list that stands here.
    pub(super) fn index(&self, index: usize) -> Self {
        Self(Some(Rc::new((self.clone(), Step::Index(index)))))
    }

    /// The steps from the root.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut place = self;
        while let Some(link) = &place.0 {
            steps.push(link.1.clone());
            place = &link.0;
        }
        steps.reverse();
        steps
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.steps().iter().enumerate() {
            let dot = if n == 0 { "" } else { "." };
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if is_plain(key) => write!(f, "{dot}{key}")?,
                Step::Key(key) => write!(f, "{dot}{}", quoted(key))?,
            }
        }
        Ok(())
    }
}

/// Whether a key can stand in a message as it is.
fn is_plain(key: &str) -> bool {
    (1..=60).contains(&key.len())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}
