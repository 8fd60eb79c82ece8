//! Proxy templates: in the configuration, and in a file of their own.

use super::program::Room;
use super::{BASE, loaded, multiplexer, refused_lines};
use tbot::config::{Overrides, Source, load};

const TEMPLATE_KEYS: &str = "allowed: template, host, cluster, proxy, query, search";

#[test]
fn those_of_the_service_come_before_those_of_the_file() {
    let room = Room::new();
    let file = room.write(
        "templates.yaml",
        "# comment\nproxy_templates:\n  - { template: second, host: b, cluster: '' }\n",
    );
    let lines = format!(
        "    proxy_templates_path: {}\n    proxy_templates:\n      - template: first\n        host: $1\n        \
         cluster: a\n        proxy: ${{1}}:22\n",
        file.display()
    );
    let (settings, warnings) = loaded(&format!("{BASE}{lines}"));
    assert_eq!(warnings, [""; 0]);
    let shown: Vec<String> = multiplexer(&settings, 0)
        .templates
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        shown,
        [
            "the proxy template \"first\"",
            "the proxy template \"second\""
        ]
    );
}

#[test]
fn a_template_that_cannot_be_used_is_told_where_and_why() {
    const GROUP: &str = "looks hosts up in a Teleport cluster, which tbot-rs does without; remove it, and give a \
        \"host\"";
    for (item, message) in [
        (
            "{ host: x }",
            ": the key \"template\" is missing; write template: \"^(.+)[.]prod:(.*)$\"".to_owned(),
        ),
        (
            "{ template: '', host: x }",
            ".template: is empty; write an expression that finds targets, host:port".into(),
        ),
        (
            "{ template: x }",
            ": there is nothing to replace; give at least one of host, cluster, proxy".into(),
        ),
        (
            "{ template: x, host: '' }",
            ": there is nothing to replace; give at least one of host, cluster, proxy".into(),
        ),
        (
            "{ template: x, query: 'a == b' }",
            format!(".query: {GROUP}"),
        ),
        (
            "{ template: x, host: y, search: a }",
            format!(".search: {GROUP}"),
        ),
        (
            "{ template: x, hots: y }",
            format!(".hots: unknown key; did you mean \"host\"? ({TEMPLATE_KEYS})"),
        ),
        (
            "{ template: x, proxy: 'b:22' }",
            ".proxy: \"b:22\" is the proxy_server of no cluster (none has one)".into(),
        ),
        (
            "x",
            ": must be a mapping with a \"template\", and is the text \"x\"".into(),
        ),
    ] {
        refused_lines(
            &format!("    proxy_templates: [{item}]"),
            &format!(":5: services[0].proxy_templates[0]{message}"),
        );
        let room = Room::new();
        let file = room.write("t.yaml", format!("\nproxy_templates: [{item}]\n"));
        let lines = format!("{BASE}    proxy_templates_path: {}\n", file.display());
        let source = Source::bytes("c.yaml".into(), lines.into_bytes()).expect("text");
        let error = load(Some(&source), Overrides::default()).expect_err("it is wrong");
        assert_eq!(
            error.to_string(),
            format!("{}:2: proxy_templates[0]{message}", file.display())
        );
    }
    for (expression, why) in [
        ("(", "open group"),
        (r"\p{Greek}", "not supported"),
        ("(((a{99}){99}){99}){99}", "size limit"),
    ] {
        let config =
            format!("{BASE}    proxy_templates: [{{ template: '{expression}', host: x }}]\n");
        let source = Source::bytes("c.yaml".into(), config.into_bytes()).expect("text");
        let error = load(Some(&source), Overrides::default()).expect_err("it is wrong");
        let error = error.to_string();
        let begin = format!(
            "c.yaml:5: services[0].proxy_templates[0].template: {expression:?} is no regular expression that can be \
             used: "
        );
        assert!(error.starts_with(&begin) && error.contains(why), "{error}");
    }
    let many = "{ template: x, host: y }, ".repeat(257);
    refused_lines(
        &format!("    proxy_templates: [{many}]"),
        ":5: services[0].proxy_templates: has 257 templates, and there may be 256",
    );
    let long = "x".repeat(1025);
    refused_lines(
        &format!("    proxy_templates: [{{ template: x, host: {long} }}]"),
        ":5: services[0].proxy_templates[0].host: is longer than 1024 bytes",
    );
}

#[test]
fn a_proxy_is_that_of_a_cluster() {
    let clusters = "    clusters:\n      - { name: a, proxy_server: 'One.example:22' }\n      \
        - { name: b, proxy_server: '[::1]:2222' }\n      - { name: c }\n";
    for proxy in ["one.example", "one.example:22", "[::1]:2222", "$1", "$$"] {
        loaded(&format!(
            "{BASE}{clusters}    proxy_templates: [{{ template: x, proxy: '{proxy}' }}]\n"
        ));
    }
    refused_lines(
        &format!("{clusters}    proxy_templates: [{{ template: x, proxy: 'one.example:23' }}]"),
        ":9: services[0].proxy_templates[0].proxy: \"one.example:23\" is the proxy_server of no cluster (known: \
         One.example:22, [::1]:2222)",
    );
}

#[test]
fn a_file_that_cannot_be_used_is_told_of_where_it_is_named() {
    let room = Room::new();
    let here = room.path().canonicalize().expect("it is there");
    let path = |name: &str| here.join(name).display().to_string();
    room.write(
        "c.yaml",
        format!("{BASE}    proxy_templates_path: t.yaml\n"),
    );
    let start = || room.tbot(["start", "-c", "c.yaml"]);
    start().failed_with(&format!(
        "c.yaml:5: services[0].proxy_templates_path: cannot read {}: no such file or directory (is the path right?)",
        path("t.yaml")
    ));
    for (text, message) in [
        (
            "",
            ": empty; a file of templates begins with proxy_templates:",
        ),
        (
            "[]",
            ":1: must be a mapping with \"proxy_templates\", and is a list",
        ),
        ("a: 1", ":1: a: unknown key (allowed: proxy_templates)"),
        (
            "{}",
            ":1: the key \"proxy_templates\" is missing; write proxy_templates: and a list",
        ),
        (
            "proxy_templates: x",
            ":1: proxy_templates: must be a list of templates such as [{ template: \"^(.+)[.]prod:\", cluster: prod \
             }], and is the text \"x\"",
        ),
    ] {
        room.write("t.yaml", text);
        start().failed_with(&format!("{}{message}", path("t.yaml")));
    }
    room.tbot([
        "start",
        "ssh-multiplexer",
        "--destination",
        "out",
        "--proxy-templates-path",
        "none.yaml",
    ])
    .failed_with(&format!(
        "--proxy-templates-path: cannot read {}: no such file or directory (is the path right?)",
        path("none.yaml")
    ));
    assert_eq!(room.names(), ["c.yaml", "t.yaml"]);
}
