//! `tbot install systemd`: a unit that runs tbot, hardened, and told by tbot how it goes.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::process::{getegid, geteuid};

use super::args::{self, Command, Given};
use super::files;
use super::flags::{
    CONFIG, CONFIG_STRING, DESTINATION, DIAG_ADDR, FORCE, GROUP, Kind, NAME, SYSTEMD_DIRECTORY,
    Scope, USER, WRITE,
};
use super::output;
use super::start::{self, Env};
use crate::config::{Error, ServiceKind, Settings, quoted};
use crate::errors::plain;
use crate::program;

/// Everyone may read a unit, and who could write it could run anything as anyone.
const MODE: u32 = 0o644;

/// What is printed where no flag says otherwise, and this program is where it says.
const UNIT: &str = include_str!("../tbot.service");

/// Prints the unit, or writes it.
pub(super) fn run(command: &Command, flags: &[Given], env: Env) -> Result<(), Error> {
    let from_env = start::from_env(command, flags, env);
    let given: Vec<&Given> = flags.iter().chain(&from_env).collect();
    let given = &given[..];
    let text = |long: &str, default: &str| match find(given, long) {
        Some(given) => Ok(start::utf8(given)?.to_owned()),
        None => Ok::<_, Error>(default.to_owned()),
    };
    let is_on = |long: &str| find(given, long).map_or(Ok(false), start::switch);
    let name = named(NAME, text(NAME, "tbot")?, 200)?;
    let user = someone(USER, text(USER, "tbot")?)?;
    let group = find(given, GROUP).map(|group| someone(GROUP, start::utf8(group)?.to_owned()));
    let group = group.transpose()?;
    let arguments = arguments(given, &name)?;
    let directory = find(given, SYSTEMD_DIRECTORY).map(start::absolute);
    let directory = directory.transpose()?;
    let config = find(given, CONFIG).map(start::absolute).transpose()?;
    // Whatever the service would refuse is refused now. It starts in the root directory, without this environment.
    std::env::set_current_dir("/")
        .map_err(|error| Error::new(format!("cannot change to /: {}", plain(&error))))?;
    let words = arguments.iter().map(OsString::from).collect();
    let run = args::parse(words).map_err(Error::new)?;
    let (settings, warnings) = start::settings(run.command, &run.given, &|_| None)?;
    if settings.oneshot {
        return Err(Error::new(
            "oneshot: it writes files and ends, and a unit keeps services running; leave it out, or have a timer \
             (systemd.timer) run tbot start",
        ));
    }
    // What another group may read is not known.
    let known = Some(&*user).filter(|_| group.is_none());
    let missing = files::warnings(&settings, known, config.as_slice());
    for warning in warnings.into_iter().chain(missing) {
        output::warn(&warning);
    }
    let writes = Writes::of(&settings);
    if let Some(problem) = writes.problem() {
        return Err(Error::new(problem));
    }
    let unit = unit(&user, group.as_deref(), &arguments, &settings, &writes)?;
    if !is_on(WRITE)? {
        return output::print(&unit);
    }
    let directory = directory.unwrap_or_else(|| "/etc/systemd/system".into());
    let path = directory.join(format!("{name}.service"));
    let before = write(&path, &unit, is_on(FORCE)?)?;
    output::print(&next(
        &path,
        before,
        &name,
        &user,
        group.as_deref(),
        &writes,
    ))
}

fn find<'a>(given: &[&'a Given], long: &str) -> Option<&'a Given> {
    given.iter().copied().find(|given| given.flag.long == long)
}

/// A name of a unit, a user or a group, which systemd takes as it is.
fn named(flag: &str, name: String, longest: usize) -> Result<String, Error> {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if begins && name.chars().all(is_fit) && name.len() <= longest {
        return Ok(name);
    }
    Err(Error::new(format!(
        "{flag}: {} is no name that systemd takes: up to {longest} of a-z, A-Z, 0-9, _, - and ., with a \
         letter, digit or _ first",
        quoted(&name)
    )))
}

/// A user or a group, by name or number.
fn someone(flag: &str, name: String) -> Result<String, Error> {
    let name = named(flag, name, 31)?;
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    let is_id = |id: u32| ![u16::MAX.into(), u32::MAX].contains(&id) && id.to_string() == name;
    if is_number && !name.parse().is_ok_and(is_id) {
        let what = flag.trim_start_matches('-');
        return Err(Error::new(format!(
            "{flag}: {name} is no {what}: a number is from 0 to 4294967294 without zeros before it, and not 65535, \
             which stands for nobody at all"
        )));
    }
    Ok(name)
}

/// The words behind the program's name, with paths that hold from everywhere.
fn arguments(given: &[&Given], name: &str) -> Result<Vec<String>, Error> {
    if let Some(string) = find(given, CONFIG_STRING) {
        return Err(Error::new(format!(
            "{}: everyone may read a unit; put the configuration into a file, for {CONFIG}",
            string.origin
        )));
    }
    let mut words = vec!["start".to_owned()];
    let (file, destination) = (find(given, CONFIG), find(given, DESTINATION));
    if file.is_none() || destination.is_some() {
        words.push("ssh-multiplexer".into());
    }
    for given in given {
        if given.flag.scope == Scope::Install && given.flag.long != DESTINATION {
            continue;
        }
        let value = start::utf8(given)?;
        // URLs are absolute, and what a run refuses is left to it.
        let is_url = value == "memory:" || value.contains("://");
        let is_path = !value.is_empty() && !value.starts_with('~') && !is_url;
        let value = match given.flag.kind {
            Kind::Directory(_) | Kind::Path(_) if is_path => {
                start::absolute(given)?.to_string_lossy().into_owned()
            }
            _ => value.to_owned(),
        };
        let flag = given.flag.long.to_owned();
        match given.flag.kind {
            Kind::Switch if start::switch(given)? => words.push(flag),
            Kind::Switch => words.push(flag + "=false"),
            _ => words.extend([flag, value]),
        }
    }
    if file.is_none() && destination.is_none() {
        words.extend([DESTINATION.to_owned(), format!("/run/{name}")]);
    }
    if file.is_none() && find(given, DIAG_ADDR).is_none() {
        words.extend([DIAG_ADDR.to_owned(), "127.0.0.1:3001".to_owned()]);
    }
    Ok(words)
}

/// Directories that every system has, and many use.
const SHARED: [&str; 12] = [
    "/", "/dev", "/etc", "/home", "/root", "/run", "/tmp", "/usr", "/var", "/var/lib", "/var/run",
    "/var/tmp",
];

/// Where the service writes, by who makes the directory.
#[derive(Debug, Default)]
struct Writes {
    /// Below `/run`: systemd makes it, and removes it at the end.
    runtime: Vec<String>,
    /// Below `/var/lib`: systemd makes it.
    state: Vec<String>,
    /// Anywhere else: it has to be there.
    other: Vec<PathBuf>,
}

impl Writes {
    fn of(settings: &Settings) -> Self {
        let services = settings.services.iter().map(|service| {
            let ServiceKind::SshMultiplexer(mux) = &service.kind;
            &mux.destination
        });
        let outputs = settings.outputs.iter().map(|output| &output.destination);
        let mut writes = Self::default();
        for path in services.chain(outputs) {
            writes.add(path);
        }
        let beside = settings.pid_file.as_deref().and_then(Path::parent);
        if let Some(beside) = beside.filter(|path| !writes.has(path)) {
            writes.add(beside);
        }
        writes
    }

    fn has(&self, path: &Path) -> bool {
        let below = |top: &str, names: &[String]| {
            names
                .iter()
                .any(|name| path.starts_with(Path::new(top).join(name)))
        };
        below("/run", &self.runtime)
            || below("/var/lib", &self.state)
            || self.other.iter().any(|other| path.starts_with(other))
    }

    /// Why systemd would not do with one of them what is meant.
    fn problem(&self) -> Option<String> {
        let made = |top: &'static str, names: &[String]| {
            let paths = names.iter().map(move |name| Path::new(top).join(name));
            paths.collect::<Vec<_>>()
        };
        let made = [made("/run", &self.runtime), made("/var/lib", &self.state)].concat();
        for path in made.iter().chain(&self.other) {
            let shown = quoted(&path.to_string_lossy());
            let is_up = path.components().any(|part| part == Component::ParentDir);
            if is_up || path.to_string_lossy().contains(char::is_control) {
                return Some(format!(
                    "systemd does not understand {shown}: name it without .. and control characters"
                ));
            }
        }
        if let Some(path) = self
            .other
            .iter()
            .find(|path| SHARED.iter().any(|one| path == &Path::new(one)))
        {
            return Some(format!(
                "{} is not for tbot alone: name a directory of its own, such as /run/tbot, also for the pid file",
                path.display()
            ));
        }
        // It gives them to the unit's user, and removes those below /run at the end.
        let of_another = |path: &&PathBuf| {
            let mut there = fs::read_dir(path).into_iter().flatten();
            there.next().is_some() && !path.join(".tbot.lock").exists()
        };
        let path = made.iter().find(of_another)?;
        Some(format!(
            "{} has files of others, and systemd would take it from them: name another directory",
            path.display()
        ))
    }

    fn add(&mut self, path: &Path) {
        let below = |top: &str| {
            let name = path.strip_prefix(top).ok()?.to_str()?;
            // A colon would begin a second name, and the others are not understood.
            let is_fit = !name.is_empty() && !name.contains([':', '"', '\\']);
            is_fit.then(|| name.to_owned())
        };
        match (
            below("/run").or_else(|| below("/var/run")),
            below("/var/lib"),
        ) {
            (Some(name), _) => self.runtime.push(name),
            (_, Some(name)) => self.state.push(name),
            _ => self.other.push(path.to_owned()),
        }
    }
}

/// The unit's text: [`UNIT`] with other values.
fn unit(
    user: &str,
    group: Option<&str>,
    arguments: &[String],
    settings: &Settings,
    writes: &Writes,
) -> Result<String, Error> {
    let program = program::path().map_err(|error| {
        Error::new(format!(
            "cannot find this program's own path (mount /proc, or start tbot by its path): {}",
            plain(error)
        ))
    })?;
    let program = program
        .to_str()
        .ok_or_else(|| Error::new("this program's own path is not UTF-8 text"))?;
    let arguments = arguments.iter().map(String::as_str);
    let start: Vec<String> = std::iter::once(program)
        .chain(arguments)
        // systemd would put variables there.
        .map(|word| escaped(word).replace('$', "$$"))
        .collect();
    let all = |names: &[String]| {
        let names: Vec<String> = names.iter().map(|name| escaped(name)).collect();
        names.join(" ")
    };
    let other: Vec<String> = writes
        .other
        .iter()
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    let in_tmp = |path: &PathBuf| path.starts_with("/tmp") || path.starts_with("/var/tmp");
    let port = settings
        .diag_addr
        .as_deref()
        .and_then(|address| address.rsplit_once(':')?.1.parse::<u16>().ok());
    let bind = port.is_some_and(|port| (1..1024).contains(&port));
    let mut text = String::new();
    for line in UNIT.lines() {
        let key = line.split_once('=').map_or("", |(key, _)| key);
        let written = match key {
            "User" => {
                let _ = writeln!(text, "User={user}");
                group.map(|group| format!("Group={group}"))
            }
            "ExecStart" => Some(format!("ExecStart={}", start.join(" "))),
            "RuntimeDirectory" if writes.runtime.is_empty() => None,
            "RuntimeDirectory" => Some(format!("RuntimeDirectory={}", all(&writes.runtime))),
            "RuntimeDirectoryMode" => {
                if !writes.runtime.is_empty() {
                    let _ = writeln!(text, "{line}");
                }
                if !writes.state.is_empty() {
                    let state = all(&writes.state);
                    let _ = writeln!(text, "StateDirectory={state}\nStateDirectoryMode=0700");
                }
                let other = (!other.is_empty()).then(|| all(&other));
                other.map(|other| format!("ReadWritePaths={other}"))
            }
            // Clients would not find there what it writes.
            "PrivateTmp" if writes.other.iter().any(in_tmp) => None,
            "CapabilityBoundingSet" if bind => Some(
                "AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE"
                    .to_owned(),
            ),
            _ => Some(line.to_owned()),
        };
        if let Some(line) = written {
            text += &line;
            text.push('\n');
        }
    }
    Ok(text)
}

/// A word of a unit (systemd.syntax(7), systemd.unit(5) for the percent sign).
fn escaped(word: &str) -> String {
    let word = word.replace('%', "%%");
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"\"'\\;".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    let mut text = String::from('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\x{byte:02x}");
                }
            }
            c => text.push(c),
        }
    }
    text + "\""
}

/// What was at a path before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Another,
    TheSame,
}

/// Puts the unit at `path`, in place of another one only with `force`.
fn write(path: &Path, unit: &str, force: bool) -> Result<Before, Error> {
    let shown = path.display();
    let failed = |error: std::io::Error| {
        let what = format!("cannot write {shown}: {}", plain(&error));
        Error::new(what).caused_by(error)
    };
    // As that of a masked unit, to /dev/null.
    if path.is_symlink() {
        return Err(Error::new(format!(
            "{shown} is a symbolic link, as systemctl mask makes one: remove it, or choose another --name"
        )));
    }
    if path.exists() && !path.is_file() {
        return Err(Error::new(format!(
            "{shown} is no file: remove it, or choose another --name"
        )));
    }
    let before = match fs::read(path) {
        Ok(there) if there == unit.as_bytes() => {
            let about = fs::metadata(path).map_err(failed)?;
            let owner = (about.uid(), about.gid());
            let us = (geteuid().as_raw(), getegid().as_raw());
            if owner == us && about.mode() & 0o7777 == MODE {
                return Ok(Before::TheSame);
            }
            Before::Another
        }
        Ok(_) if !force => {
            return Err(Error::new(format!(
                "{shown} is there, and another one: {FORCE} replaces it"
            )));
        }
        Ok(_) => Before::Another,
        Err(error) if error.kind() == ErrorKind::NotFound => Before::Nothing,
        Err(error) => return Err(failed(error)),
    };
    output::replace(path, unit.as_bytes(), Some(MODE)).map_err(failed)?;
    Ok(before)
}

/// What was done, and what is left to do.
fn next(
    path: &Path,
    before: Before,
    name: &str,
    user: &str,
    group: Option<&str>,
    writes: &Writes,
) -> String {
    let done = match before {
        Before::TheSame => "is as it should be",
        _ => "is written",
    };
    let mut text = format!("{} {done}. Next, as root:\n", path.display());
    if let Some(group) = group {
        let _ = writeln!(text, "  getent group {group} || groupadd --system {group}");
    }
    let _ = writeln!(text, "  id {user} || useradd --system {user}");
    let owner = match group {
        Some(group) => format!("-o {user} -g {group}"),
        None => format!("-o {user}"),
    };
    for path in writes.other.iter().filter(|path| !path.exists()) {
        let path = path.display().to_string().replace('\'', r"'\''");
        let _ = writeln!(text, "  install -d -m 700 {owner} '{path}'");
    }
    let _ = writeln!(
        text,
        "  systemctl daemon-reload\n  systemctl enable {name}\n  systemctl restart {name}"
    );
    text
}
