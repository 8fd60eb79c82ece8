//! The command line: which command is meant, and what goes wrong with it.
//!
//! Every command is defined once, in `args`, and every flag, in `flags`; all else comes from there.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;

mod args;
mod completions;
mod configure;
mod flags;
mod help;
mod http;
mod install;
mod man;
mod output;
mod proxy_command;
mod start;
mod unsupported;
mod wait;

use args::{Action, Invocation};

/// Every copy of a key or passphrase that is given back is zeroed.
#[cfg(not(feature = "heap"))]
#[global_allocator]
static ALLOCATOR: crate::sys::Wiping = crate::sys::Wiping;

/// Runs the command that `args`, without the program's name, ask for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let args: Vec<OsString> = args.into_iter().collect();
    // ssh runs this for every connection: nothing is set up or looked up before it.
    if let Some((command, rest)) = args.split_first()
        && command == proxy_command::NAME
        && !rest.iter().any(|arg| arg == "--help" || arg == "-h")
    {
        return proxy_command::run(rest).map_err(Failure::from);
    }
    let Invocation {
        command,
        choice,
        help,
        given,
    } = args::parse(args)?;
    if help {
        return Ok(output::print(&help::text(command))?);
    }
    let env = |name: &str| std::env::var_os(name);
    let debug = start::wants_debug(&given, &env);
    match command.action {
        Action::None => Err(format!("no command is given ({})", args::SEE_HELP).into()),
        // Flags stand before it: its own come with ssh, which puts it first.
        Action::ProxyCommand => {
            Err(format!("{} must be the first argument", proxy_command::NAME).into())
        }
        Action::Version => Ok(output::print(concat!(
            "tbot ",
            env!("CARGO_PKG_VERSION"),
            "\n",
            "commit: ",
            env!("TBOT_COMMIT"),
            "\n",
            "rustc: ",
            env!("TBOT_RUSTC"),
            "\n",
            "target: ",
            env!("TBOT_TARGET"),
            "\n",
        ))?),
        Action::Completions => {
            let shell = choice.unwrap_or_default();
            Ok(output::print(&completions::script(shell))?)
        }
        Action::Man => Ok(output::print(&man::page())?),
        Action::Configure => {
            configure::run(command, &given, &env).map_err(|error| Failure::new(error, debug))
        }
        Action::Install => {
            install::run(command, &given, &env).map_err(|error| Failure::new(error, debug))
        }
        Action::Wait => {
            wait::run(command, &given, &env, debug).map_err(|error| Failure::new(error, debug))
        }
        Action::Start => {
            #[cfg(target_env = "gnu")]
            crate::sys::share_heaps();
            let (settings, warnings) = start::settings(command, &given, &env)
                .map_err(|error| Failure::new(error, debug))?;
            let debug = settings.debug;
            crate::bot::run(&settings, &warnings).map_err(|error| Failure::new(error, debug))
        }
    }
}

/// Why a command failed; its text is for the operator.
#[derive(Debug)]
pub struct Failure {
    error: Box<dyn Error>,
    /// Whether the text has the whole chain of causes.
    debug: bool,
}

impl Failure {
    fn new(error: impl Into<Box<dyn Error>>, debug: bool) -> Self {
        let error = error.into();
        Self { error, debug }
    }
}

impl<E: Into<Box<dyn Error>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error, false)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.error.to_string();
        f.write_str(&text)?;
        let mut cause = self.error.source().filter(|_| self.debug);
        while let Some(error) = cause {
            // Most sentences have their cause in them already.
            let caused_by = error.to_string();
            if !text.contains(&caused_by) {
                write!(f, "\n  caused by: {caused_by}")?;
            }
            cause = error.source();
        }
        Ok(())
    }
}
