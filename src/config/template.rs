//! `proxy_templates`, in the configuration or in a file of their own.

use std::cell::RefCell;

use super::cursor::{Cursor, Map, Reading};
use super::settings::{Cluster, HostPort};
use super::{Error, Source, destination, quoted, yaml};
use crate::multiplexer::Template;
use crate::multiplexer::request::host_port;
use crate::multiplexer::routes::is_server;

const KEYS: &[&str] = &["template", "host", "cluster", "proxy", "query", "search"];

/// What a template may give, and needs one of.
const GIVEN: [&str; 3] = ["host", "cluster", "proxy"];

/// Each is tried on every request, by the one thread that sets connections up.
const MOST: usize = 256;

/// Of one text: an expression that takes long to try, or what makes a long target, is no use.
const LONGEST: usize = 1024;

/// The templates of the service at `map`, in the order they are tried in: its own before those of the file.
pub(super) fn templates(map: &Map, clusters: &[Cluster]) -> Result<Vec<Template>, Error> {
    let mut templates = match map.get("proxy_templates") {
        Some(list) => listed(&list, clusters)?,
        None => Vec::new(),
    };
    let Some(at) = map.get("proxy_templates_path") else {
        return Ok(templates);
    };
    let path = destination::file(&at)?;
    let source =
        Source::file(&path).map_err(|error| at.error(error.to_string()).caused_by(error))?;
    let tree = yaml::parse(&source, "a file of templates begins with proxy_templates:")?;
    let reading = Reading {
        source: Some(&source),
        warnings: RefCell::default(),
    };
    let file = Cursor::new(&tree, &reading)
        .map("a mapping with \"proxy_templates\"", &["proxy_templates"])?;
    let list = file.required("proxy_templates", "proxy_templates: and a list")?;
    templates.extend(listed(&list, clusters)?);
    Ok(templates)
}

fn listed(list: &Cursor, clusters: &[Cluster]) -> Result<Vec<Template>, Error> {
    let items =
        list.list("a list of templates such as [{ template: \"^(.+)[.]prod:\", cluster: prod }]")?;
    if items.len() > MOST {
        return Err(list.error(format!(
            "has {} templates, and there may be {MOST}",
            items.len()
        )));
    }
    items.iter().map(|item| template(item, clusters)).collect()
}

fn template(cursor: &Cursor, clusters: &[Cluster]) -> Result<Template, Error> {
    let map = cursor.map("a mapping with a \"template\"", KEYS)?;
    let template = map.required("template", "template: \"^(.+)[.]prod:(.*)$\"")?;
    for key in ["query", "search"] {
        if let Some(at) = map.get(key) {
            return Err(at.error(
                "looks hosts up in a Teleport cluster, which tbot-rs does without; remove it, and give a \"host\"",
            ));
        }
    }
    let text = |key: &str| match map.get(key) {
        Some(at) => Ok(Some(short(&at)?).filter(|text| !text.is_empty())),
        None => Ok(None),
    };
    let [host, cluster, proxy] = GIVEN.map(text);
    let (host, cluster, proxy) = (host?, cluster?, proxy?);
    let expression = short(&template)?;
    if expression.is_empty() {
        return Err(template.error("is empty; write an expression that finds targets, host:port"));
    }
    if host.is_none() && cluster.is_none() && proxy.is_none() {
        return Err(cursor.error(format!(
            "there is nothing to replace; give at least one of {}",
            GIVEN.join(", ")
        )));
    }
    if let (Some(proxy), Some(at)) = (&proxy, map.get("proxy")) {
        known_proxy(&at, proxy, clusters)?;
    }
    Template::new(&expression, host, cluster, proxy).map_err(|error| {
        template.error(format!(
            "{} is no regular expression that can be used: {error}",
            quoted(&expression)
        ))
    })
}

fn short(cursor: &Cursor) -> Result<String, Error> {
    let text = cursor.text()?;
    if text.len() > LONGEST {
        return Err(cursor.error(format!("is longer than {LONGEST} bytes")));
    }
    Ok(text.to_owned())
}

/// Where it has no parts to fill in, it is one of the clusters'.
fn known_proxy(cursor: &Cursor, proxy: &str, clusters: &[Cluster]) -> Result<(), Error> {
    let servers = || {
        clusters
            .iter()
            .filter_map(|cluster| Some(&cluster.bastion.as_ref()?.server))
    };
    let is_meant = |server: &HostPort| is_server(proxy, &server.host, server.port);
    if proxy.contains('$') || servers().any(is_meant) {
        return Ok(());
    }
    let known: Vec<String> = servers()
        .map(|server| host_port(&server.host, server.port))
        .collect();
    let known = match known.is_empty() {
        true => "none has one".to_owned(),
        false => format!("known: {}", known.join(", ")),
    };
    Err(cursor.error(format!(
        "{} is the proxy_server of no cluster ({known})",
        quoted(proxy)
    )))
}
