//! `tbot start`: flags, environment and file to the settings of one run.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::args::Given;
use super::flags::{
    CONFIG, CONFIG_STRING, DEBUG, DESTINATION, FLAGS, Flag, Kind, PID_FILE, Scope, Target,
};
use crate::config::{
    self, Error, Loaded, Node, Origin, Overrides, Source, Value, directory_from_flag, quoted,
};

/// How the environment is looked up.
type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The settings of a run, and what the operator should be told. Reads the configuration file and
/// looks at destinations; writes and binds nothing.
pub(super) fn settings(given: &[Given], ssh_multiplexer: bool, env: Env) -> Result<Loaded, Error> {
    let from_env = from_env(given, ssh_multiplexer, env);
    let all: Vec<&Given> = given.iter().chain(&from_env).collect();
    let source = source(given, &from_env)?;
    if source.is_none() && !ssh_multiplexer {
        return Err(Error::new(
            "nothing to start: name a configuration file (tbot start -c my-config.yaml) or a \
             service (tbot start ssh-multiplexer --destination DIR)",
        ));
    }
    if ssh_multiplexer && !all.iter().any(|given| given.flag.long == DESTINATION) {
        return Err(Error::new(
            "tbot start ssh-multiplexer needs --destination: a directory for its sockets and files",
        ));
    }
    let pid_file = all.iter().find(|given| given.flag.long == PID_FILE);
    let pid_file = pid_file.map(|given| absolute(given)).transpose()?;
    let overrides = overrides(&all, ssh_multiplexer)?;
    let (mut settings, mut warnings) = config::load(source.as_ref(), overrides)?;
    settings.pid_file = pid_file;
    if env("TELEPORT_PROXY").is_some_and(|value| !value.is_empty()) {
        warnings.push(
            "TELEPORT_PROXY: has no effect in this version: targets are dialled directly".into(),
        );
    }
    Ok((settings, warnings))
}

/// Whether errors are to be shown with their causes, as far as can be told before the file is read.
pub(super) fn wants_debug(given: &[Given], env: Env) -> bool {
    let flag = given.iter().find(|given| given.flag.long == DEBUG);
    let value = match flag {
        Some(given) => Some(given.value.clone()),
        None => FLAGS
            .iter()
            .find(|flag| flag.long == DEBUG)
            .and_then(|flag| env(flag.env?)),
    };
    value.as_deref().and_then(parse_bool) == Some(true)
}

/// The variables that stand in for flags which are not given; an empty one is as good as none.
fn from_env(given: &[Given], ssh_multiplexer: bool, env: Env) -> Vec<Given> {
    FLAGS
        .iter()
        .filter(|flag| ssh_multiplexer || flag.scope != Scope::SshMultiplexer)
        .filter(|flag| !given.iter().any(|given| given.flag.long == flag.long))
        .filter_map(|flag| {
            let origin = flag.env?;
            let value = env(origin).filter(|value| !value.is_empty())?;
            Some(Given {
                flag,
                origin,
                value,
            })
        })
        .collect()
}

/// The configuration's text. A file and a string contradict each other, but for a flag that is
/// stronger than the other's variable.
fn source(flags: &[Given], from_env: &[Given]) -> Result<Option<Source>, Error> {
    for level in [flags, from_env] {
        let of = |long| level.iter().find(|given| given.flag.long == long);
        return match (of(CONFIG), of(CONFIG_STRING)) {
            (Some(file), Some(string)) => Err(Error::new(format!(
                "{} and {} are both given; only one of them can be the configuration",
                file.origin, string.origin
            ))),
            (Some(file), None) => Source::file(Path::new(&file.value)).map(Some),
            (None, Some(string)) => Source::base64(string.origin, utf8(string)?).map(Some),
            (None, None) => continue,
        };
    }
    Ok(None)
}

/// Everything that goes over the file's tree or beside it.
fn overrides(all: &[&Given], ssh_multiplexer: bool) -> Result<Overrides, Error> {
    const ORIGIN: Origin = Origin::Given("tbot start ssh-multiplexer");
    let mut overrides = Overrides::default();
    let kind = Node::new(Value::Text("ssh-multiplexer".into()), ORIGIN);
    let mut service = vec![("type".to_owned(), kind)];
    for flag in &FLAGS {
        let of: Vec<&Given> = all
            .iter()
            .copied()
            .filter(|given| given.flag.long == flag.long)
            .collect();
        if of.is_empty() {
            continue;
        }
        match flag.target {
            Target::Run(key) => overrides.values.push((key, node(flag, &of)?)),
            Target::Service(key) => service.push((key.to_owned(), node(flag, &of)?)),
            Target::Command => {}
        }
    }
    if ssh_multiplexer {
        overrides.service = Some(Node::new(Value::Map(service), ORIGIN));
    }
    Ok(overrides)
}

/// The value of a flag as a configuration would have it; `of` holds at least one.
fn node(flag: &Flag, of: &[&Given]) -> Result<Node, Error> {
    if flag.repeats() {
        let items: Result<_, _> = of.iter().map(|given| single(given)).collect();
        return Ok(Node::new(Value::List(items?), Origin::Given(flag.long)));
    }
    single(of[0])
}

fn single(given: &Given) -> Result<Node, Error> {
    let value = match given.flag.kind {
        Kind::Switch => Value::Bool(parse_bool(&given.value).ok_or_else(|| {
            Error::new(format!(
                "{}: {} is neither true nor false (allowed: true, t, 1, false, f, 0)",
                given.origin,
                quoted(&given.value.to_string_lossy())
            ))
        })?),
        Kind::Directory(_) => return directory_from_flag(given.origin, given.value.clone()),
        Kind::Path(_) => Value::Path(given.value.clone()),
        Kind::Text(_) | Kind::Texts(_) => Value::Text(utf8(given)?.to_owned()),
        Kind::Number(_) | Kind::Numbers(_) => {
            let text = utf8(given)?;
            // What is no number is refused where its range is known.
            text.parse()
                .map_or_else(|_| Value::Text(text.to_owned()), Value::Int)
        }
    };
    Ok(Node::new(value, Origin::Given(given.origin)))
}

fn utf8(given: &Given) -> Result<&str, Error> {
    given.value.to_str().ok_or_else(|| {
        let value = quoted(&given.value.to_string_lossy());
        Error::new(format!("{}: {value} is not UTF-8 text", given.origin))
    })
}

/// The words that Go's `strconv.ParseBool` takes.
fn parse_bool(text: &OsStr) -> Option<bool> {
    match text.to_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn absolute(given: &Given) -> Result<PathBuf, Error> {
    if given.value.is_empty() {
        return Err(Error::new(format!("{}: the path is empty", given.origin)));
    }
    std::path::absolute(&given.value).map_err(|error| {
        let path = quoted(&given.value.to_string_lossy());
        let what = format!("{}: {path} cannot be made absolute: {error}", given.origin);
        Error::new(what).caused_by(error)
    })
}
