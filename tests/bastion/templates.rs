//! Proxy templates: from a request to another target, of another cluster.

use crate::common::keys::{Keys, await_healthy, with_identity};
use crate::common::server::Server;
use crate::common::sshd::Sshd;
use crate::common::tbot::Tbot;
use crate::common::v1::{assert_echoes, dial};
use crate::common::wait::until;
use crate::refusal;

#[test]
fn a_template_changes_host_port_and_cluster() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let keys = Keys::new();
    let file = keys.write(
        "templates.yaml",
        format!(
            "proxy_templates:
  - {{ template: '^ip-(\\d+)-(\\d+)-(\\d+)-(\\d+):(\\d+)$', host: '$1.$2.$3.$4:$5' }}
  - {{ template: '^(.+)\\.to\\.(\\w+):', host: '$1', cluster: $2 }}
  - {{ template: '^(.+)\\.far:', host: '$1', cluster: far }}
  - {{ template: '^(.+)\\.far:', host: none.invalid }}
  - {{ template: '^(.+)\\.proxied:', host: '${{1}}', proxy: '{bastion}' }}
  - {{ template: '^(.+)\\.host:', host: '$1', proxy: 127.0.0.1 }}
  - {{ template: '^(.+)\\.by\\.([^:]+):', host: '$1', proxy: '$2:1' }}
  - {{ template: '^\\[::9\\]:', host: 127.0.0.1 }}
  - {{ template: '^bad\\.(\\w*):', host: '$1' }}
  - {{ template: '^one:', host: '$1x' }}
",
            bastion = bastion.address
        ),
    );
    let lines = format!(
        "    clusters:\n      - name: near\n      - name: far\n        proxy_server: '{}'\n        user: {}\n        \
         identity_file: {}\n        known_hosts: ['{}']\n    proxy_templates_path: {}\n    proxy_templates:\n      \
         - {{ template: '^short:(.*)', host: '127.0.0.1.far:{}' }}\n",
        bastion.address,
        bastion.user,
        bastion.file("client_key").display(),
        bastion.known_host(),
        file.display(),
        echo.address.port(),
    );
    let tbot = with_identity("", "", &lines).start();
    await_healthy(&tbot, "mux");
    let opens = || tbot.metric("tbot_ssh_bastion_opens_total{cluster=\"far\"}");
    let port = echo.address.port();
    for (request, opened) in [
        (format!("127.0.0.1:{port}"), 0),
        (format!("ip-127-0-0-1:{port}"), 0),
        (format!("ip-127-0-0-1:{port}|far"), 1),
        (format!("127.0.0.1.far:{port}"), 2),
        // What is asked for yields to the template, whether there is such a cluster or not.
        (format!("127.0.0.1.far:{port}|near"), 3),
        (format!("127.0.0.1.far:{port}|none"), 4),
        (format!("127.0.0.1.proxied:{port}|near"), 5),
        (format!("127.0.0.1.host:{port}"), 6),
        (format!("127.0.0.1.to.far:{port}"), 7),
        (format!("127.0.0.1.to.near:{port}|far"), 7),
        (format!("[::9]:{port}|far"), 8),
        // That of the service comes first, changes the port, and its host's end is cut off as any other's.
        ("short:1|far".to_owned(), 9),
    ] {
        assert_echoes(&mut dial(&tbot, &request), b"there");
        // Its bytes may be there before it is counted.
        until(&format!("{opened} for {request}"), || {
            (opens() == opened).then_some(())
        });
    }
    for (request, reason, words) in [
        (
            "db.to.nowhere:22",
            "cluster",
            "leads to the unknown cluster \"nowhere\"; the known ones are near, far",
        ),
        (
            "db.by.127.0.0.1:22",
            "cluster",
            "leads to the unknown proxy \"127.0.0.1:1\"; the known ones are near, far",
        ),
        (
            "bad.:22",
            "malformed",
            "the proxy template \"^bad\\\\.(\\\\w*):\" makes \"\" of it, which is no host and no host:port",
        ),
        // As in Go it is ${1x}, which there is not.
        ("one:22", "malformed", "makes \"\" of it, which is no host"),
    ] {
        let before = tbot.refused(reason);
        let line = refusal(&tbot, request);
        let begin = format!("tbot: cannot connect to {request}: ");
        assert!(line.starts_with(&begin) && line.contains(words), "{line}");
        assert_eq!(tbot.refused(reason), before + 1, "{request}");
    }
    let long = "a".repeat(1100);
    let line = refusal(&tbot, format!("{long}:22"));
    assert!(
        line.contains("longer than the 512 bytes that proxy templates look at"),
        "{line}"
    );
}

#[test]
fn the_flag_names_a_file_of_templates() {
    let (echo, keys) = (Server::echo(), Keys::new());
    let templates = format!(
        "proxy_templates: [{{ template: '^short:', host: '{}' }}]",
        echo.address
    );
    let file = keys.write("templates.yaml", templates);
    let file = file.display().to_string();
    let tbot = Tbot::with(&["--proxy-templates-path", &file]);
    assert_echoes(&mut dial(&tbot, "short:1"), b"there");
    // There is one cluster, without a name.
    assert_echoes(&mut dial(&tbot, echo.address), b"as ever");
    let line = refusal(&tbot, format!("{}|x", echo.address));
    assert!(
        line.contains("none is named here, so leave it out"),
        "{line}"
    );
}
