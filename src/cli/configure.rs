//! `tbot configure`: an example of a configuration, the one that flags stand for, and whether one is right.

use std::ffi::OsStr;
use std::fmt::Write;

use super::args::{Command, Given};
use super::flags::{CHECK, CONFIG, CONFIG_STRING, DEBUG, FLAGS, Flag, OUTPUT, Scope, Target};
use super::output;
use super::start::{self, Env};
use crate::config::{self, Error, Loaded, Node, ServiceKind, entry};

const EXAMPLE: &str = include_str!("example.yaml");

/// Prints or checks; writes nothing but the file that is asked for.
pub(super) fn run(command: &Command, given: &[Given], env: Env) -> Result<(), Error> {
    let of = |long| given.iter().find(|given| given.flag.long == long);
    let output = of(OUTPUT);
    let check = of(CHECK).map(start::switch).transpose()? == Some(true);
    let (text, warnings) = if check {
        if output.is_some() {
            return Err(Error::new(format!(
                "{OUTPUT} names a file to write, and {CHECK} writes none; leave one of them out"
            )));
        }
        let (settings, warnings) = start::settings(command, given, env)?;
        (summary(&settings), warnings)
    } else if command.has(Scope::SshMultiplexer) {
        for long in [CONFIG, CONFIG_STRING] {
            if of(long).is_some() {
                return Err(Error::new(format!(
                    "{long}: what is printed is made of flags alone; leave it out, or check it with {CHECK}"
                )));
            }
        }
        yaml(command, given, env)?
    } else {
        let others = |given: &&Given| ![OUTPUT, CHECK, DEBUG].contains(&given.flag.long);
        if let Some(Given { flag, .. }) = given.iter().find(others) {
            return Err(Error::new(format!(
                "{0}: the example that tbot configure prints is always the same; \
                 tbot configure ssh-multiplexer prints one of flags, and {CHECK} checks them",
                flag.long
            )));
        }
        (EXAMPLE.to_owned(), Vec::new())
    };
    for warning in warnings {
        output::warn(&warning);
    }
    match output {
        Some(file) if file.value != OsStr::new("-") => output::write(file, &text),
        _ => output::print(&text),
    }
}

/// The configuration that does what these flags do, and what should be told about it.
fn yaml(command: &Command, given: &[Given], env: Env) -> Result<(String, Vec<String>), Error> {
    // A file that the environment names would be one more, for `tbot start` too.
    let no_file = |name: &str| {
        let is_file = |flag: &Flag| [CONFIG, CONFIG_STRING].contains(&flag.long);
        let mut flags = FLAGS.iter().filter(|flag| is_file(flag));
        match flags.any(|flag| flag.env == Some(name)) {
            true => None,
            false => env(name),
        }
    };
    let (_, warnings): Loaded = start::settings(command, given, &no_file)?;
    let from_env = start::from_env(command, given, &no_file);
    let all: Vec<&Given> = given.iter().chain(&from_env).collect();
    let mut text = String::from(
        "# Made by tbot configure ssh-multiplexer; tbot configure alone shows all there is.\n",
    );
    let (mut run, mut service) = (String::new(), String::new());
    for flag in command.flags() {
        let of = start::of(flag, &all);
        if of.is_empty() {
            continue;
        }
        match flag.target {
            Target::Run(key) => put(&mut run, "", flag, key, &start::node(flag, &of)?)?,
            Target::Service(key) => put(&mut service, "    ", flag, key, &start::node(flag, &of)?)?,
            Target::Command if flag.scope == Scope::Start => {
                let value = of[0].value.to_string_lossy();
                let _ = writeln!(
                    text,
                    "# Beside it, as no configuration has it: tbot start {} {value:?}",
                    flag.long
                );
            }
            Target::Command => {}
        }
    }
    let _ = write!(
        text,
        "version: v2\n{run}services:\n  - type: ssh-multiplexer\n{service}"
    );
    Ok((text, warnings))
}

/// One key, below what it is.
fn put(text: &mut String, indent: &str, flag: &Flag, key: &str, node: &Node) -> Result<(), Error> {
    let _ = write!(
        text,
        "{indent}# {}\n{indent}{}\n",
        flag.help,
        entry(key, node)?
    );
    Ok(())
}

/// What would run, on one line.
fn summary(settings: &config::Settings) -> String {
    let services = settings.services.iter().map(|service| {
        let ServiceKind::SshMultiplexer(mux) = &service.kind;
        ("ssh-multiplexer", &service.name, &mux.destination)
    });
    let outputs = settings.outputs.iter();
    let outputs = outputs.map(|output| ("identity", &output.name, &output.destination));
    let mut parts: Vec<String> = services
        .filter(|_| !settings.oneshot)
        .chain(outputs)
        .map(|(kind, name, at)| format!("{kind} {name:?} in {}", at.display()))
        .collect();
    if parts.is_empty() {
        parts.push("nothing, as oneshot starts no multiplexer".into());
    } else if settings.oneshot {
        parts.push("once".into());
    } else {
        parts.push(match &settings.diag_addr {
            Some(address) => format!("diagnostics at {address}"),
            None => "no diagnostics".into(),
        });
    }
    format!("OK: {}\n", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::super::args::parse;
    use super::*;
    use crate::config::{Overrides, Source};

    /// What a run of flags is, and what it is by the configuration printed for them.
    fn both(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<[Loaded; 2], Error> {
        let parsed = |command: &str| {
            let words = [command, "ssh-multiplexer"].map(str::to_owned);
            let flags = flags.iter().map(|(flag, value)| format!("{flag}={value}"));
            let args = words.into_iter().chain(flags).map(OsString::from).collect();
            parse(args).expect("the arguments are right")
        };
        let env = |name: &str| {
            let (_, value) = env.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(value))
        };
        let (start, configure) = (parsed("start"), parsed("configure"));
        let direct = start::settings(start.command, &start.given, &env)?;
        let (text, warnings) = yaml(configure.command, &configure.given, &env)?;
        assert_eq!(warnings, direct.1);
        let source = Source::bytes("c.yaml".into(), text.into_bytes())?;
        let read = config::load(Some(&source), Overrides::default())?;
        Ok([direct, read])
    }

    /// A value or some for each flag, each other than the default, and some of them odd.
    const VALUES: &[(&str, &[&str])] = &[
        ("--debug", &["true", "false"]),
        ("--log-format", &["json", "text"]),
        ("--diag-addr", &["[::1]:0", "localhost:3001"]),
        ("--certificate-ttl", &["1h30m", "3600.5s", "5400000ms"]),
        ("--renewal-interval", &["1m", ".5h", "+90s"]),
        ("--oneshot", &["t", "F"]),
        (
            "--proxy-server",
            &["bastion.example.com:22", "[fe80::1%eth0]:2222"],
        ),
        ("--shutdown-grace", &["0", "0s", "24h"]),
        ("--storage", &["/var/lib/a b", "file:///x%20y", "memory:"]),
        (
            "--destination",
            &[
                "/a b/c",
                "./out",
                "true",
                "file:///%C3%BC%22%27",
                "/\u{2028}\u{feff}: # [\"'\\",
            ],
        ),
        ("--name", &["true", "1+2", "-", "no"]),
        ("--cluster-name", &["prod", "1.5", "null"]),
        (
            "--proxy-command",
            &["/bin/x", "--y", "a b: #", "%h", "'\"\\", "~", "\u{1f600}"],
        ),
        ("--enable-resumption", &["true"]),
        ("--connect-timeout", &["1s", "1us"]),
        ("--max-connections", &["1", "1000000"]),
        ("--allowed-uid", &["0", "1000"]),
    ];

    #[test]
    fn what_is_printed_does_what_every_flag_does() {
        let given = parse(["configure", "ssh-multiplexer"].map(OsString::from).into());
        let command = given.expect("it is there").command;
        let room = tempfile::tempdir().expect("a directory");
        let templates = room.path().join("my templates: #1.yaml");
        let list = "proxy_templates: [{ template: a, host: b }]";
        std::fs::write(&templates, list).expect("the directory is ours");
        let templates = [templates.to_str().expect("UTF-8")];
        let in_file = command
            .flags()
            .filter(|flag| flag.target != Target::Command);
        for flag in in_file {
            let values = VALUES.iter().find(|(long, _)| *long == flag.long);
            let values = match flag.long {
                "--proxy-templates-path" => &templates,
                long => values.unwrap_or_else(|| panic!("no value for {long}")).1,
            };
            for value in values {
                let mut flags = vec![(flag.long, *value)];
                if flag.long != "--destination" {
                    flags.push(("--destination", "/nowhere/mux"));
                }
                let [direct, read] = both(&flags, &[]).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(direct.0, read.0, "{flags:?}");
            }
        }
        // All at once, and repeated ones in their order.
        let all: Vec<_> = VALUES
            .iter()
            .flat_map(|(flag, values)| {
                let repeats = Flag::long(&flag[2..]).is_some_and(Flag::repeats);
                let values = values.iter().take(if repeats { values.len() } else { 1 });
                values.map(move |value| (*flag, *value))
            })
            .collect();
        let [direct, read] = both(&all, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(direct.0, read.0);
        assert!(direct.0.debug && direct.0.services[0].name == "true");
        let ServiceKind::SshMultiplexer(mux) = &read.0.services[0].kind;
        assert_eq!(mux.proxy_command, VALUES[12].1);
        assert_eq!(mux.allowed_uids, [0, 1000]);
    }

    #[test]
    fn variables_are_printed_and_the_file_they_name_is_not() {
        let destination = [("--destination", "/nowhere/mux"), ("--debug", "false")];
        let [direct, read] = both(
            &destination,
            &[
                ("TBOT_DIAG_ADDR", "127.0.0.1:3002"),
                ("TELEPORT_PROXY", "bastion:22"),
                ("TBOT_LOG_FORMAT", "json"),
            ],
        )
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(direct.0, read.0);
        assert_eq!(read.0.diag_addr.as_deref(), Some("127.0.0.1:3002"));
        let args = ["configure", "ssh-multiplexer", "--destination", "/nowhere"];
        let invocation = parse(args.map(OsString::from).into()).expect("they are right");
        let (text, _) = yaml(invocation.command, &invocation.given, &|name| {
            name.starts_with("TBOT_CONFIG")
                .then(|| "/no/such/file".into())
        })
        .unwrap_or_else(|error| panic!("{error}"));
        assert!(
            text.ends_with("    destination: { type: directory, path: /nowhere }\n"),
            "{text}"
        );
    }

    #[test]
    fn a_path_that_is_no_text_is_refused() {
        let mut args = ["configure", "ssh-multiplexer", "--destination"]
            .map(OsString::from)
            .to_vec();
        args.push(OsString::from_vec(b"/nowhere/\xff".to_vec()));
        let invocation = parse(args).expect("they are right");
        let error = yaml(invocation.command, &invocation.given, &|_| None).expect_err("not UTF-8");
        let text =
            "--destination: \"/nowhere/\u{fffd}\" is not UTF-8 text, as all of a configuration is";
        assert_eq!(error.to_string(), text);
    }
}
