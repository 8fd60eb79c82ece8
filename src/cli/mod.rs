//! The command line: which command is meant, and what goes wrong with it.
//!
//! Every flag is defined once, in `flags`; parsing, help and the settings come from there.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Write};

mod args;
mod flags;
mod help;
mod proxy_command;
mod start;
mod unsupported;

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
    let Invocation { action, given } = args::parse(args)?;
    match action {
        Action::Help(command) => print(&help::text(command)),
        Action::Version => print(concat!(
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
        )),
        Action::Start { ssh_multiplexer } => {
            #[cfg(target_env = "gnu")]
            crate::sys::share_heaps();
            let env = |name: &str| std::env::var_os(name);
            let debug = start::wants_debug(&given, &env);
            let (settings, warnings) = start::settings(&given, ssh_multiplexer, &env)
                .map_err(|error| Failure::new(error, debug))?;
            let debug = settings.debug;
            crate::bot::run(&settings, &warnings).map_err(|error| Failure::new(error, debug))
        }
    }
}

/// Writes to stdout; a reader that has seen enough is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}").into())
        }
        _ => Ok(()),
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
