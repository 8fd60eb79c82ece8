//! `tbot start`: flags, environment and file to the settings of one run.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::args::{Command, Given};
use super::flags::{
    CONFIG, CONFIG_STRING, DEBUG, DESTINATION, FLAGS, Flag, Kind, LOG, PID_FILE, Scope, Target,
};
use crate::config::{
    self, Error, Loaded, LogLevels, Node, Origin, Overrides, Source, Value, directory_from_flag,
    quoted,
};

/// How the environment is looked up.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The settings of a run, and what the operator should be told. Reads the configuration file and
/// looks at destinations; writes and binds nothing.
pub(super) fn settings(command: &Command, given: &[Given], env: Env) -> Result<Loaded, Error> {
    let ssh_multiplexer = command.has(Scope::SshMultiplexer);
    let from_env = from_env(command, given, env);
    let all: Vec<&Given> = given.iter().chain(&from_env).collect();
    let source = source(given, &from_env)?;
    if source.is_none() && !ssh_multiplexer {
        let (verb, how) = match command.has(Scope::Configure) {
            true => ("check", "configure --check"),
            false => ("start", "start"),
        };
        let (word, _) = how.split_once(' ').unwrap_or((how, ""));
        return Err(Error::new(format!(
            "nothing to {verb}: name a configuration file (tbot {how} -c my-config.yaml) or a \
             service (tbot {word} ssh-multiplexer --destination DIR)"
        )));
    }
    if ssh_multiplexer && !all.iter().any(|given| given.flag.long == DESTINATION) {
        return Err(Error::new(format!(
            "tbot {} needs --destination: a directory for its sockets and files",
            command.words.join(" ")
        )));
    }
    let pid_file = all.iter().find(|given| given.flag.long == PID_FILE);
    let pid_file = pid_file.map(|given| absolute(given)).transpose()?;
    let log_levels = log_levels(env)?;
    let overrides = overrides(&all, ssh_multiplexer)?;
    let (mut settings, mut warnings) = config::load(source.as_ref(), overrides)?;
    settings.pid_file = pid_file;
    settings.log_levels = log_levels;
    warnings.extend(overridden_variables(given, env));
    Ok((settings, warnings))
}

/// What `TBOT_LOG` says; there is no flag, as `--debug` is that of most.
fn log_levels(env: Env) -> Result<LogLevels, Error> {
    let wrong = |why: String| Error::new(format!("{LOG}: {why}"));
    match env(LOG).filter(|value| !value.is_empty()) {
        None => Ok(LogLevels::default()),
        Some(value) => match value.to_str() {
            Some(text) => LogLevels::parse(text).map_err(wrong),
            None => Err(wrong(not_utf8(&value))),
        },
    }
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
pub(super) fn from_env(command: &Command, given: &[Given], env: Env) -> Vec<Given> {
    command
        .flags()
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

/// A sentence for each variable that is set to something else than its flag, which wins.
fn overridden_variables(given: &[Given], env: Env) -> impl Iterator<Item = String> {
    given.iter().filter_map(move |given| {
        let variable = given.flag.env?;
        let value = env(variable).filter(|value| !value.is_empty())?;
        let switch = |value: &OsStr| parse_bool(value).filter(|_| given.flag.kind == Kind::Switch);
        if value == given.value || switch(&value).is_some_and(|on| switch(&given.value) == Some(on))
        {
            return None;
        }
        if given.flag.long == CONFIG_STRING {
            // A whole configuration is too long for a line.
            return Some(format!("{variable} is overridden by {}", given.origin));
        }
        let (value, given_value) = (value.display(), given.value.display());
        Some(format!(
            "{variable}: {value} is overridden by {given_value} from {}",
            given.origin
        ))
    })
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
    for flag in FLAGS {
        let of = of(flag, all);
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

/// Those of this flag.
pub(super) fn of<'a>(flag: &Flag, all: &[&'a Given]) -> Vec<&'a Given> {
    let is_its = |given: &&Given| std::ptr::eq(given.flag, flag);
    all.iter().copied().filter(is_its).collect()
}

/// The value of a flag as a configuration would have it; `of` holds at least one.
pub(super) fn node(flag: &Flag, of: &[&Given]) -> Result<Node, Error> {
    if flag.repeats() {
        let items: Result<_, _> = of.iter().map(|given| single(given)).collect();
        return Ok(Node::new(Value::List(items?), Origin::Given(flag.long)));
    }
    single(of[0])
}

fn single(given: &Given) -> Result<Node, Error> {
    let value = match given.flag.kind {
        Kind::Switch => Value::Bool(switch(given)?),
        Kind::Directory(_) => return directory_from_flag(given.origin, given.value.clone()),
        Kind::Path(_) => Value::Path(given.value.clone()),
        Kind::Text(_) | Kind::Choice(_) | Kind::Texts(_) => Value::Text(utf8(given)?.to_owned()),
        Kind::Number(_) | Kind::Numbers(_) => {
            let text = utf8(given)?;
            // What is no number is refused where its range is known.
            text.parse()
                .map_or_else(|_| Value::Text(text.to_owned()), Value::Int)
        }
    };
    Ok(Node::new(value, Origin::Given(given.origin)))
}

pub(super) fn switch(given: &Given) -> Result<bool, Error> {
    parse_bool(&given.value).ok_or_else(|| {
        Error::new(format!(
            "{}: {} is neither true nor false (allowed: true, t, 1, false, f, 0)",
            given.origin,
            quoted(&given.value.to_string_lossy())
        ))
    })
}

pub(super) fn utf8(given: &Given) -> Result<&str, Error> {
    let wrong = || Error::new(format!("{}: {}", given.origin, not_utf8(&given.value)));
    given.value.to_str().ok_or_else(wrong)
}

fn not_utf8(value: &OsStr) -> String {
    format!("{} is not UTF-8 text", quoted(&value.to_string_lossy()))
}

/// The words that Go's `strconv.ParseBool` takes.
fn parse_bool(text: &OsStr) -> Option<bool> {
    match text.to_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

pub(super) fn absolute(given: &Given) -> Result<PathBuf, Error> {
    if given.value.is_empty() {
        return Err(Error::new(format!("{}: the path is empty", given.origin)));
    }
    std::path::absolute(&given.value).map_err(|error| {
        let path = quoted(&given.value.to_string_lossy());
        let what = format!("{}: {path} cannot be made absolute: {error}", given.origin);
        Error::new(what).caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use super::super::args::parse;
    use super::*;
    use crate::config::{LogFormat, ServiceKind};
    use std::time::Duration;

    const MUX: &str = "start ssh-multiplexer --destination /nowhere/mux";

    /// The settings of a command line in an environment.
    fn settings_of(line: &str, env: &[(&str, &str)]) -> Result<Loaded, Error> {
        let args = line.split(' ').map(OsString::from).collect();
        let invocation = parse(args).expect("the arguments are right");
        settings(invocation.command, &invocation.given, &|name| {
            let (_, value) = env.iter().find(|(known, _)| *known == name)?;
            Some(value.into())
        })
    }

    #[track_caller]
    fn right(line: &str, env: &[(&str, &str)]) -> Loaded {
        settings_of(line, env).unwrap_or_else(|error| panic!("{error}"))
    }

    /// `-c` and a file whose values differ from every default.
    fn file() -> (tempfile::TempDir, String) {
        let room = tempfile::tempdir().expect("a directory");
        let path = room.path().join("c.yaml");
        let text = "version: v2\n\
                    debug: false\n\
                    log_format: json\n\
                    diag_addr: 127.0.0.1:3001\n\
                    credential_ttl: 2h\n\
                    renewal_interval: 30m\n\
                    services:\n  \
                      - type: ssh-multiplexer\n    \
                        destination: { type: directory, path: /nowhere/file }\n    \
                        credential_ttl: 90m\n";
        std::fs::write(&path, text).expect("written");
        (room, path.to_str().expect("UTF-8").to_owned())
    }

    #[test]
    fn a_run_needs_no_file() {
        let (settings, warnings) = right(MUX, &[]);
        assert_eq!(warnings, [""; 0]);
        assert_eq!(settings.diag_addr, None);
        assert_eq!(settings.services.len(), 1);
        assert_eq!(settings.services[0].name, "ssh-multiplexer-1");
        let ServiceKind::SshMultiplexer(mux) = &settings.services[0].kind;
        assert_eq!(mux.destination, Path::new("/nowhere/mux"));
        assert_eq!(mux.max_connections, 10_000);
    }

    #[test]
    fn every_flag_sets_what_it_names() {
        let (settings, warnings) = right(
            "-d start ssh-multiplexer --log-format json --diag-addr [::1]:0 --certificate-ttl 2h \
             --renewal-interval=90m --oneshot --pid-file run/tbot.pid --shutdown-grace 0s \
             --storage memory: --destination file:///nowhere/a%20b --name mux --cluster-name prod \
             --proxy-command /bin/x --proxy-command --y --enable-resumption=false \
             --connect-timeout 1s --max-connections 7 --allowed-uid 0 --allowed-uid 1000",
            &[],
        );
        assert_eq!(warnings, [""; 0]);
        assert!(settings.debug && settings.oneshot);
        assert_eq!(settings.log_format, LogFormat::Json);
        assert_eq!(settings.diag_addr.as_deref(), Some("[::1]:0"));
        assert_eq!(settings.credential_ttl, Duration::from_secs(7200));
        assert_eq!(settings.renewal_interval, Duration::from_secs(5400));
        assert_eq!(settings.shutdown_grace, Duration::ZERO);
        let here = std::env::current_dir().expect("a working directory");
        assert_eq!(settings.pid_file, Some(here.join("run/tbot.pid")));
        let [service] = &settings.services[..] else {
            panic!("{:?}", settings.services)
        };
        let ServiceKind::SshMultiplexer(mux) = &service.kind;
        assert_eq!(service.name, "mux");
        assert_eq!(mux.destination, Path::new("/nowhere/a b"));
        assert_eq!(mux.clusters[0].name.as_deref(), Some("prod"));
        assert_eq!(mux.proxy_command, ["/bin/x", "--y"]);
        assert_eq!(mux.clusters[0].connect_timeout, Duration::from_secs(1));
        assert_eq!(mux.max_connections, 7);
        assert_eq!(mux.allowed_uids, [0, 1000]);
        assert_eq!(mux.credential_ttl, Duration::from_secs(7200));
    }

    #[test]
    fn a_flag_wins_over_the_variable_and_that_over_the_file() {
        let (_room, path) = file();
        let start = format!("start -c {path}");
        let env = [("TBOT_DIAG_ADDR", "127.0.0.1:3002")];
        let of = |line: &str, env: &[(&str, &str)]| right(line, env).0.diag_addr;
        assert_eq!(of(&start, &[]).as_deref(), Some("127.0.0.1:3001"));
        assert_eq!(of(&start, &env).as_deref(), Some("127.0.0.1:3002"));
        let flag = format!("{start} --diag-addr 127.0.0.1:3003");
        assert_eq!(of(&flag, &env).as_deref(), Some("127.0.0.1:3003"));
        let (settings, _) = right("start", &[("TBOT_CONFIG_PATH", &path)]);
        assert_eq!(settings.diag_addr.as_deref(), Some("127.0.0.1:3001"));
    }

    #[test]
    fn a_value_that_overrides_another_is_a_warning_with_both() {
        let (_room, path) = file();
        let (settings, warnings) = right(
            &format!("start -c {path} --debug --diag-addr 127.0.0.1:3003 --certificate-ttl 120m"),
            &[
                ("TBOT_LOG_FORMAT", "text"),
                ("TBOT_DIAG_ADDR", "127.0.0.1:3002"),
                ("TBOT_DEBUG", "1"),
            ],
        );
        assert!(settings.debug);
        assert_eq!(
            warnings,
            [
                format!("{path}:2: debug: false is overridden by true from --debug"),
                format!("{path}:3: log_format: json is overridden by text from TBOT_LOG_FORMAT"),
                format!(
                    "{path}:4: diag_addr: 127.0.0.1:3001 is overridden by 127.0.0.1:3003 from \
                     --diag-addr"
                ),
                // 120m is what the file's 2h says, too, and -d what the variable does.
                "TBOT_DIAG_ADDR: 127.0.0.1:3002 is overridden by 127.0.0.1:3003 from --diag-addr"
                    .to_owned(),
            ]
        );
    }

    #[test]
    fn a_service_of_flags_comes_behind_those_of_the_file() {
        let (_room, path) = file();
        let (settings, _) = right(&format!("{MUX} -c {path} --certificate-ttl 3h"), &[]);
        let names: Vec<&str> = settings.services.iter().map(|s| &*s.name).collect();
        assert_eq!(names, ["ssh-multiplexer-1", "ssh-multiplexer-2"]);
        let ttls: Vec<u64> = settings
            .services
            .iter()
            .map(|service| match &service.kind {
                ServiceKind::SshMultiplexer(mux) => mux.credential_ttl.as_secs() / 60,
            })
            .collect();
        // The file's service has a life of its own, which the run's does not change.
        assert_eq!(ttls, [90, 180]);
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        let names = FLAGS.iter().filter_map(|flag| flag.env);
        let env: Vec<(&str, &str)> = names.map(|name| (name, "")).collect();
        assert_eq!(right(MUX, &env), right(MUX, &[]));
    }

    #[test]
    fn a_bastion_is_named_by_flag_or_variable_and_names_the_cluster() {
        let flag = format!("{MUX} --proxy-server Bastion.example.com:22");
        let (settings, _) = right(&flag, &[("TELEPORT_PROXY", "other.example.com:443")]);
        let ServiceKind::SshMultiplexer(mux) = &settings.services[0].kind;
        let bastion = mux.clusters[0].bastion.as_ref().expect("it is named");
        let server = (&*bastion.server.host, bastion.server.port);
        assert_eq!(server, ("Bastion.example.com", 22));
        assert_eq!(mux.clusters[0].name.as_deref(), Some("bastion.example.com"));
        let (settings, _) = right(MUX, &[("TELEPORT_PROXY", "[::1]:443")]);
        let ServiceKind::SshMultiplexer(mux) = &settings.services[0].kind;
        assert_eq!(
            mux.clusters[0].bastion.as_ref().map(|b| &*b.server.host),
            Some("::1")
        );
    }

    #[test]
    fn booleans_are_those_of_go() {
        for (text, value) in [
            ("1", Some(true)),
            ("t", Some(true)),
            ("TRUE", Some(true)),
            ("True", Some(true)),
            ("0", Some(false)),
            ("F", Some(false)),
            ("False", Some(false)),
            ("yes", None),
            ("on", None),
            ("tRUE", None),
            (" 1", None),
        ] {
            assert_eq!(parse_bool(OsStr::new(text)), value, "{text}");
            if let Some(value) = value {
                assert_eq!(right(MUX, &[("TBOT_DEBUG", text)]).0.debug, value);
            }
        }
    }
}
