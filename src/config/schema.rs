//! The whole of a configuration: from its tree, and what is laid over it, to settings.

use std::cell::RefCell;
use std::time::Duration;

use super::cursor::{Cursor, Map, Reading};
use super::node::{Node, Origin, Value};
use super::service::{self, Renewal};
use super::{
    Error, Loaded, LogFormat, LogLevels, Settings, Source, address, destination, onboarding,
    quoted, yaml,
};

const KEYS: &[&str] = &[
    "version",
    "debug",
    "log_format",
    "diag_addr",
    "credential_ttl",
    "renewal_interval",
    "oneshot",
    "shutdown_grace",
    "storage",
    "onboarding",
    "proxy_server",
    "services",
    "outputs",
];

/// What the command line and the environment say.
#[derive(Debug, Default)]
pub struct Overrides {
    /// Values of the run by their key, each over the file's.
    pub values: Vec<(&'static str, Node)>,
    /// A service beside those of the file.
    pub service: Option<Node>,
}

/// The settings of a run from its file, if it has one, and what is laid over it.
pub fn load(source: Option<&Source>, overrides: Overrides) -> Result<Loaded, Error> {
    let mut root = match source {
        Some(source) => yaml::parse(source, "a configuration begins with version: v2")?,
        None => Node::new(Value::Map(Vec::new()), Origin::File),
    };
    let reading = Reading {
        source,
        warnings: RefCell::default(),
    };
    if source.is_some() {
        expect_version_2(&Cursor::new(&root, &reading))?;
    }
    for (key, node) in overrides.values {
        root.lay_over(key, node);
    }
    let root = Cursor::new(&root, &reading).map("a mapping of keys and values", KEYS)?;
    let settings = settings(&root, overrides.service.as_ref(), &reading)?;
    Ok((settings, reading.warnings.take()))
}

/// Looks at the version before any other key: another version has other keys.
fn expect_version_2(root: &Cursor) -> Result<(), Error> {
    let root = root.map_of_any_keys("a mapping of keys and values")?;
    let version = root.required("version", "version: v2")?;
    match &version.node.value {
        Value::Text(text) if text == "v2" => Ok(()),
        Value::Text(text) if text == "v1" => Err(version.error(
            "v1 is the old format, which tbot-rs does not read; write version: v2 \
             (`tbot migrate` of Teleport's tbot converts a file)",
        )),
        other => Err(version.error(format!(
            "unknown version {}; write version: v2",
            quoted(&other.to_string())
        ))),
    }
}

fn settings(
    root: &Map,
    extra_service: Option<&Node>,
    reading: &Reading,
) -> Result<Settings, Error> {
    let log_formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let renewal = Renewal {
        ttl: Duration::from_secs(60 * 60),
        interval: Duration::from_secs(20 * 60),
    };
    let debug = root.optional("debug", Cursor::bool)?;
    let log_format = root.optional("log_format", |at| at.choice(&log_formats))?;
    let diag_addr = root.optional("diag_addr", address::listen_address)?;
    let renewal = renewal.read(root)?;
    let oneshot = root.optional("oneshot", Cursor::bool)?;
    let shutdown_grace = root.optional("shutdown_grace", Cursor::duration_or_zero)?;
    if let Some(Some(_)) = root.optional("storage", destination::storage)?
        && let Some(storage) = root.get("storage")
    {
        storage.warn("nothing is stored there: keys live in memory alone");
    }
    let onboarding = root.optional("onboarding", onboarding::onboarding)?;
    let proxy_server = root.optional("proxy_server", address::proxy_server)?;
    let mut services = Vec::new();
    for key in ["services", "outputs"] {
        if let Some(list) = root.get(key) {
            services.extend(list.list("a list of services")?);
        }
    }
    services.extend(extra_service.map(|node| Cursor::new(node, reading)));
    if services.is_empty() {
        return Err(root.cursor.error(
            "there is no service to run; add one under \"services\", or start one with \
             tbot start ssh-multiplexer --destination DIR",
        ));
    }
    let onboarding = onboarding.flatten();
    let (services, outputs) = service::services(
        &services,
        renewal,
        onboarding.is_some(),
        proxy_server.as_ref(),
    )?;
    Ok(Settings {
        debug: debug.unwrap_or(false),
        log_format: log_format.unwrap_or_default(),
        log_levels: LogLevels::default(),
        diag_addr,
        credential_ttl: renewal.ttl,
        renewal_interval: renewal.interval,
        oneshot: oneshot.unwrap_or(false),
        shutdown_grace: shutdown_grace.unwrap_or(Duration::from_secs(10)),
        pid_file: None,
        onboarding,
        services,
        outputs,
    })
}
