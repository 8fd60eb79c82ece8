//! YAML text to a tree, and the line at which something of the tree stands.
//!
//! serde_yaml tells lines only with its errors. So the line of a place is found by going down to it
//! a second time and failing there on purpose: this happens once, for the one error reported.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IgnoredAny, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::node::{Node, Origin, Place, Step, Value};
use super::{Error, Source, quoted};
use crate::errors::plain;

/// Values and bytes of text that a tree may hold. A file of 1 MiB cannot reach it, but for aliases:
/// serde_yaml bounds how often they are followed, not what they add up to.
const MAX_SIZE: usize = 2 << 20;

/// Nested brackets cost libyaml the square of their number, before serde_yaml ends at 128 levels, and so do tags that
/// are declared by `%TAG`. Fewer than these cost little, however they stand. Which ones count, and which are text, only
/// libyaml knows.
const MANY: usize = 128;

/// For reading a text with more: 100,000 that do not nest took half a second, without optimisation.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The tree of the one document in `source`, which `begins` so.
pub(super) fn parse(source: &Source, begins: &str) -> Result<Node, Error> {
    let costly = source.text.bytes().filter(|byte| b"[{%".contains(byte));
    if costly.count() <= MANY {
        return read(source, begins);
    }
    let (sender, tree) = channel();
    let (source, begins) = (source.clone(), begins.to_owned());
    let label = source.label.clone();
    // One that nobody waits for any more ends with the program, which does not start then.
    std::thread::Builder::new()
        .name("configuration".into())
        .spawn(move || sender.send(read(&source, &begins)))
        .map_err(|error| Error::new(format!("{label}: no thread to read it: {}", plain(error))))?;
    tree.recv_timeout(TIMEOUT).unwrap_or_else(|_| {
        let seconds = TIMEOUT.as_secs();
        Err(Error::new(format!(
            "{label}: not read within {seconds}s (are brackets nested without an end, or tags declared?)"
        )))
    })
}

fn read(source: &Source, begins: &str) -> Result<Node, Error> {
    let label = &source.label;
    let mut documents = serde_yaml::Deserializer::from_str(&source.text);
    let Some(first) = documents.next() else {
        return Err(empty(source, begins));
    };
    let reader = Reader {
        left: Cell::new(MAX_SIZE),
        fault: RefCell::new(None),
    };
    let root = Grow {
        reader: &reader,
        place: Place::default(),
    };
    let tree = root.deserialize(first).map_err(|error| {
        let fault = reader.fault.take();
        let message = fault.unwrap_or_else(|| format!("not valid YAML: {}", problem(&error)));
        Error::new(format!("{}{message}", prefix(label, line(&error)))).caused_by(error)
    })?;
    if let Some(second) = documents.next() {
        let error = Find(&[]).deserialize(second).err();
        let line = error.as_ref().and_then(line);
        return Err(Error::new(format!(
            "{}a second document begins here; a configuration is one document",
            prefix(label, line)
        )));
    }
    if tree.value == Value::Null {
        return Err(empty(source, begins));
    }
    Ok(tree)
}

/// `my-config.yaml:7: `, or without the number where the place is not in the text.
pub(super) fn prefix_of(source: &Source, place: &Place) -> String {
    let error = serde_yaml::Deserializer::from_str(&source.text)
        .next()
        .and_then(|document| Find(&place.steps()).deserialize(document).err());
    prefix(&source.label, error.as_ref().and_then(line))
}

fn prefix(label: &str, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{label}:{line}: "),
        None => format!("{label}: "),
    }
}

fn line(error: &serde_yaml::Error) -> Option<usize> {
    error.location().map(|location| location.line())
}

fn empty(source: &Source, begins: &str) -> Error {
    let label = &source.label;
    Error::new(format!("{label}: empty; {begins}"))
}

/// What serde_yaml says, without where.
fn problem(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().into()
}

/// What is shared while a tree grows.
struct Reader {
    /// How much larger it may get.
    left: Cell<usize>,
    /// What is wrong, where it is us who say so.
    fault: RefCell<Option<String>>,
}

impl Reader {
    /// Ends the reading here.
    fn fail<E: serde::de::Error>(&self, place: &Place, what: &str) -> E {
        let place = place.to_string();
        let colon = if place.is_empty() { "" } else { ": " };
        *self.fault.borrow_mut() = Some(format!("{place}{colon}{what}"));
        E::custom(what)
    }
}

/// Reads one node.
struct Grow<'r> {
    reader: &'r Reader,
    place: Place,
}

impl Grow<'_> {
    fn node<E: serde::de::Error>(&self, value: Value) -> Result<Node, E> {
        let size = match &value {
            Value::Text(text) => text.len() + 1,
            _ => 1,
        };
        self.charge(size)?;
        Ok(Node::new(value, Origin::File))
    }

    fn charge<E: serde::de::Error>(&self, size: usize) -> Result<(), E> {
        let left = self.reader.left.get();
        if size > left {
            let what = "its aliases add up to more than any configuration holds";
            // Where it got too much says nothing: the line is that of a value written once.
            return Err(self.reader.fail(&Place::default(), what));
        }
        self.reader.left.set(left - size);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Grow<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Grow<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    /// A document without a value.
    fn visit_none<E: serde::de::Error>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Node, E> {
        self.node(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Node, E> {
        self.node(Value::Int(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        self.node(Value::Int(value.into()))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Node, E> {
        self.node(Value::Int(value))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Node, E> {
        // Out of every range of ours: what it is exactly does not matter.
        self.node(i128::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        self.node(Value::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Node, E> {
        self.node(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Grow {
            reader: self.reader,
            place: self.place.index(items.len()),
        })? {
            items.push(item);
        }
        self.node(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        while let Some(key) = map.next_key_seed(NewKey {
            map: &self,
            seen: &mut seen,
        })? {
            let place = self.place.key(&key);
            let value = map.next_value_seed(Grow {
                reader: self.reader,
                place,
            })?;
            entries.push((key, value));
        }
        self.node(Value::Map(entries))
    }

    /// serde_yaml gives a value with a tag of its own (`!secret x`) as an enum.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Node, A::Error> {
        let (tag, value) = tagged.variant::<String>()?;
        value.newtype_variant::<IgnoredAny>()?;
        let what = format!("the tag {} has no meaning here", quoted(&format!("!{tag}")));
        Err(self.reader.fail(&self.place, &what))
    }
}

/// Reads a key that its mapping does not hold yet; failing here gives the key's line.
struct NewKey<'a, 'r> {
    map: &'a Grow<'r>,
    seen: &'a mut HashSet<String>,
}

impl<'de> DeserializeSeed<'de> for NewKey<'_, '_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<String, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for NewKey<'_, '_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key of text")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        self.map.charge(key.len() + 1)?;
        if !self.seen.insert(key.to_owned()) {
            let what = "this key stands here for the second time; keep one of them";
            return Err(self.map.reader.fail(&self.map.place.key(key), what));
        }
        Ok(key.to_owned())
    }
}

/// Goes down these steps and fails there: at a key itself, or at an item of a list.
struct Find<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match self.0.first() {
            Some(Step::Key(_)) => from.deserialize_map(self),
            Some(Step::Index(_)) => from.deserialize_seq(self),
            // `Find` takes no scalar, and fails at a list or mapping by having no step left.
            None => from.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place that is looked for")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((Step::Index(index), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("here"));
        };
        for _ in 0..*index {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Find(rest))?;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(name), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("here"));
        };
        while let Some(found) = map.next_key_seed(FindKey {
            name,
            last: rest.is_empty(),
        })? {
            if found {
                return map.next_value_seed(Find(rest));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// Whether a key is the one looked for; fails at it where it is the `last` step.
struct FindKey<'a> {
    name: &'a str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for FindKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for FindKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key of text")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        match key == self.name {
            true if self.last => Err(E::custom("here")),
            found => Ok(found),
        }
    }
}
