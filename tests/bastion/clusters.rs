//! Several clusters of one service, each with a bastion of its own or none: where a request lands, and what one
//! cluster's trouble is to another.

use std::fs;
use std::io::Read;
use std::process::Command;

use crate::common::keys::{Keys, await_healthy, readyz, ssh, with_identity};
use crate::common::process::{run, succeed};
use crate::common::server::{ClosedPort, Server};
use crate::common::sshd::Sshd;
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::{assert_echoes, dial};
use crate::common::wait::until;
use crate::{masters, refusal};

/// A cluster of a list, by way of `bastion`.
fn by_way_of(name: &str, bastion: &Sshd, lines: &str) -> String {
    format!(
        "      - name: {name}\n        proxy_server: '{}'\n        user: {}\n        identity_file: {}\n        \
         known_hosts: ['{}']\n{lines}",
        bastion.address,
        bastion.user,
        bastion.file("client_key").display(),
        bastion.known_host()
    )
}

fn with_clusters(clusters: &[String], lines: &str) -> Start {
    with_identity(
        "",
        "",
        &format!("    clusters:\n{}{lines}", clusters.concat()),
    )
}

/// Waits until so many streams were opened by way of each cluster's bastion; its bytes may be there before it is
/// counted. One that went elsewhere makes the next wait in vain.
#[track_caller]
fn await_opens<const N: usize>(tbot: &Tbot, names: [&str; N], expected: [u64; N], what: &str) {
    until(&format!("{expected:?} for {what}"), || {
        (opens(tbot, &names) == expected).then_some(())
    });
}

fn opens(tbot: &Tbot, names: &[&str]) -> Vec<u64> {
    let of = |name| {
        tbot.metric(&format!(
            "tbot_ssh_bastion_opens_total{{cluster=\"{name}\"}}"
        ))
    };
    names.iter().map(of).collect()
}

#[test]
fn a_request_lands_in_the_cluster_it_names_and_else_in_the_first() {
    let (one, two, echo) = (Sshd::start(), Sshd::start(), Server::echo());
    let clusters = [
        by_way_of("one", &one, ""),
        by_way_of("two", &two, ""),
        "      - name: near\n".to_owned(),
    ];
    let tbot = with_clusters(&clusters, "").start();
    await_healthy(&tbot, "mux");
    assert_eq!(opens(&tbot, &["one", "two"]), [0, 0]);
    let port = echo.address.port();
    for (request, expected) in [
        (format!("127.0.0.1:{port}"), [1, 0]),
        (format!("127.0.0.1:{port}|"), [2, 0]),
        (format!("127.0.0.1:{port}|one"), [3, 0]),
        (format!("127.0.0.1:{port}|two"), [3, 1]),
        (format!("127.0.0.1:{port}|near"), [3, 1]),
        // Of the cluster that is asked, not of another.
        (format!("127.0.0.1.one:{port}"), [4, 1]),
        (format!("127.0.0.1.Two:{port}|two"), [4, 2]),
        (format!("127.0.0.1.NEAR:{port}|near"), [4, 2]),
        // Its bastion's host, also behind its own name.
        (format!("127.0.0.1.127.0.0.1:{port}|two"), [4, 3]),
        (format!("127.0.0.1.two.127.0.0.1:{port}|two"), [4, 4]),
    ] {
        assert_echoes(&mut dial(&tbot, &request), b"there");
        await_opens(&tbot, ["one", "two"], expected, &request);
    }
    assert_eq!(tbot.await_ended(10).ok, 10);
    assert!(one.log().contains("Accepted publickey") && two.log().contains("Accepted publickey"));

    let line = refusal(&tbot, format!("127.0.0.1:{port}|three"));
    assert_eq!(
        line,
        format!(
            "tbot: cannot connect to 127.0.0.1:{port}: unknown cluster \"three\"; the known ones are one, two, near"
        )
    );
    assert_eq!(tbot.refused("cluster"), 1);
    let line = refusal(&tbot, format!("127.0.0.1.two:{port}|near"));
    assert!(
        line.contains(&format!("cannot connect to 127.0.0.1.two:{port}: ")),
        "{line}"
    );
    assert_eq!(opens(&tbot, &["one", "two"]), [4, 4]);
}

#[test]
fn a_name_is_cut_off_no_address_and_leaves_something() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let clusters = [
        by_way_of("'1'", &bastion, ""),
        "      - name: invalid\n".to_owned(),
    ];
    let tbot = with_clusters(&clusters, "").start();
    await_healthy(&tbot, "mux");
    // It ends in ".1", the cluster's name.
    assert_echoes(&mut dial(&tbot, echo.address), b"whole");
    for host in ["invalid", ".invalid"] {
        let line = refusal(&tbot, format!("{host}:22|invalid"));
        assert!(
            line.contains(&format!("cannot connect to {host}:22: ")),
            "{line}"
        );
    }
}

#[test]
fn ssh_goes_by_the_patterns_of_each_cluster() {
    let (one, two, target) = (Sshd::start(), Sshd::start(), Sshd::start());
    let clusters = [
        by_way_of("one", &one, "        hosts: ['*']\n"),
        by_way_of("two", &two, ""),
        "      - name: near\n        hosts: ['*.near', 'localhost']\n".to_owned(),
    ];
    let tbot = with_clusters(&clusters, "").start();
    await_healthy(&tbot, "mux");
    let config = fs::read_to_string(tbot.ssh_config()).expect("it is written");
    let blocks: Vec<&str> = config
        .lines()
        .filter(|line| line.starts_with("Host "))
        .collect();
    assert_eq!(
        blocks,
        [
            "Host *.near localhost",
            "Host *.two",
            "Host * !*.near !localhost !*.two"
        ]
    );
    for (host, expected) in [
        ("127.0.0.1", [1, 0]),
        ("127.0.0.1.two", [1, 1]),
        ("127.0.0.1.one", [2, 1]),
        ("127.0.0.1.near", [2, 1]),
        ("localhost", [2, 1]),
    ] {
        let mut ssh = target.ssh_to(&tbot.ssh_config(), host);
        assert_eq!(succeed(ssh.arg("echo in")), "in\n", "{host}");
        await_opens(&tbot, ["one", "two"], expected, host);
    }
}

#[test]
fn one_bastion_s_end_does_not_touch_the_others() {
    let (one, mut two, echo) = (Sshd::start(), Sshd::start(), Server::echo());
    let closed = ClosedPort::new();
    let mut never = by_way_of("never", &one, "");
    never = never.replace(&one.address.to_string(), &closed.address.to_string());
    let clusters = [
        by_way_of("one", &one, ""),
        by_way_of("two", &two, ""),
        never,
        "      - name: near\n".to_owned(),
    ];
    let tbot = with_clusters(&clusters, "").start();
    let down = |name: &str, part: &str| {
        until(part, || {
            let (code, _, reason) = readyz(&tbot, "mux");
            (code == 503 && reason.contains(&format!("cluster {name}: ")) && reason.contains(part))
                .then_some(reason)
        })
    };
    down("never", "connection refused by 127.0.0.1");
    until("two are there", || {
        let up = |name| format!("tbot_ssh_bastion_masters{{cluster=\"{name}\",state=\"ready\"}}");
        (tbot.metric(&up("one")) + tbot.metric(&up("two")) == 2).then_some(())
    });
    let to = |cluster: &str| format!("{}|{cluster}", echo.address);
    let (mut first, mut second) = (dial(&tbot, to("one")), dial(&tbot, to("two")));
    assert_echoes(&mut first, b"up");
    assert_echoes(&mut second, b"up");
    let line = refusal(&tbot, to("never"));
    assert!(
        line.contains("cluster never: no connection to the bastion"),
        "{line}"
    );
    two.kill();
    assert_eq!(second.read(&mut [0]).unwrap_or(0), 0, "it ends");
    let reason = down("two", "cluster two: ");
    assert!(
        reason.contains("cluster never: ") && !reason.contains("cluster one: "),
        "{reason}"
    );
    assert_echoes(&mut first, b"still up");
    assert_echoes(&mut dial(&tbot, to("one")), b"new");
    assert_echoes(&mut dial(&tbot, to("near")), b"direct");
    assert_echoes(&mut dial(&tbot, echo.address), b"default");
    two.restart(None);
    until("it is back", || {
        let (_, _, reason) = readyz(&tbot, "mux");
        (!reason.contains("cluster two: ")).then_some(())
    });
    assert_echoes(&mut dial(&tbot, to("two")), b"again");
}

#[test]
fn no_cluster_believes_another_s_authority() {
    let keys = Keys::with_ca();
    let certified = keys.sshd();
    keys.generate("other", &["-t", "ed25519"], "");
    let own = certified.known_host();
    let cluster = |name: &str, lines: String| {
        format!(
            "      - name: {name}\n        proxy_server: '{}'\n        user: {}\n{lines}",
            certified.address, certified.user
        )
    };
    let of = |ca: &str| format!("        host_ca: [{}]\n", keys.path(ca).display());
    // The authority of the first one is good for every name, and the pinned key of the third for this bastion: to
    // the second they are nothing.
    let clusters = [
        cluster("one", of("ca.pub") + "        hosts: ['*']\n"),
        cluster("two", of("other.pub")),
        cluster("three", format!("        known_hosts: ['{own}']\n")),
    ];
    let service = format!("    clusters:\n{}", clusters.concat());
    let tbot = with_identity(&keys.ssh_ca(&certified.user), "", &service).start();
    let reason = until("the second is told of", || {
        let (_, _, reason) = readyz(&tbot, "mux");
        reason
            .contains("cluster two: no connection")
            .then_some(reason)
    });
    assert!(reason.contains("its host key is not trusted"), "{reason}");
    for name in ["one", "three"] {
        until(name, || {
            let ready = "tbot_ssh_bastion_masters";
            let ready = format!("{ready}{{cluster=\"{name}\",state=\"ready\"}}");
            (tbot.metric(&ready) == 1).then_some(())
        });
    }
    // Clients have them in one file, each authority for its own hosts.
    let known = tbot.known_hosts();
    let hosts: Vec<&str> = known
        .lines()
        .filter_map(|line| line.strip_prefix("@cert-authority ")?.split(' ').next())
        .collect();
    assert_eq!(
        hosts,
        [
            "127.0.0.1,two,*.two",
            "127.0.0.1,one,*,!*.three,!*.two,![*.three]:*,![*.two]:*"
        ]
    );
    assert!(known.contains(&own), "{known}");
}

#[test]
fn options_of_a_cluster_reach_its_ssh_and_not_another_s() {
    let (one, two, echo) = (Sshd::start(), Sshd::start(), Server::echo());
    let options = "        ssh_options: ['Ciphers=aes256-ctr', SetEnv no=such, NoSuchOption=1]\n";
    let fine = options.replace(", NoSuchOption=1", "");
    let clusters = [
        by_way_of("one", &one, &fine),
        by_way_of("two", &two, options),
    ];
    let tbot = with_clusters(&clusters, "").start();
    until("what ssh says is told", || {
        let (_, _, reason) = readyz(&tbot, "mux");
        let told =
            reason.contains("cluster two: ") && reason.to_lowercase().contains("nosuchoption");
        told.then_some(())
    });
    assert_echoes(&mut dial(&tbot, echo.address), b"in");
}

#[test]
fn no_authority_is_good_for_another_cluster_s_hosts_at_any_port() {
    let keys = Keys::with_ca();
    let target = keys.sshd();
    assert_ne!(target.address.port(), 22, "ssh looks [host]:port up");
    keys.generate("other", &["-t", "ed25519"], "");
    let cluster = |name: &str, ca: &str, hosts: &str| {
        format!(
            "      - name: {name}\n        host_ca: [{}]\n        hosts: {hosts}\n",
            keys.path(ca).display()
        )
    };
    let clusters = [
        cluster("one", "ca.pub", "['*']"),
        cluster("two", "other.pub", "['*.two']"),
    ];
    let service = format!("    clusters:\n{}", clusters.concat());
    let tbot = with_identity(&keys.ssh_ca(&target.user), "", &service).start();
    await_healthy(&tbot, "identity");
    let login = |host: &str| run(&mut ssh(&tbot, &target, host, "echo in"));
    assert_eq!(login("127.0.0.1.one").stdout, "in\n");
    let end = login("127.0.0.1.two");
    assert!(
        end.stdout.is_empty() && end.stderr.contains("Host key verification failed"),
        "{end:?}"
    );
}

#[test]
fn many_clusters_leave_descriptors_for_the_connections_that_there_may_be() {
    let echo = Server::echo();
    let silent = Server::start(|mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())));
    let of = |number| {
        format!(
            "      - name: c{number}\n        proxy_server: '{}'\n",
            silent.address
        )
    };
    let mut clusters: Vec<String> = (0..50).map(of).collect();
    clusters.push("      - name: near\n".to_owned());
    let tbot = with_clusters(&clusters, "")
        .through(&["prlimit", "--nofile=500:500"])
        .start();
    until("all log in", || (masters(&tbot).len() == 50).then_some(()));
    let said = tbot.stderr.line("serves at most ");
    let most = said.split("at most ").nth(1).and_then(|rest| {
        let number = rest.split(' ').next()?;
        number.parse::<usize>().ok()
    });
    let most = most.unwrap_or_else(|| panic!("no number in {said:?}"));
    let near = format!("{}|near", echo.address);
    let mut streams: Vec<_> = (0..most).map(|_| dial(&tbot, &near)).collect();
    for stream in &mut streams {
        assert_echoes(stream, b"up");
    }
    let line = refusal(&tbot, &near);
    assert!(line.contains("at its limit of connections"), "{line}");
}

#[test]
fn a_file_for_ssh_adds_no_host_keys_to_those_of_the_cluster() {
    let (bastion, other) = (Sshd::start(), Sshd::start());
    let key = bastion.known_host();
    let key = key.split_once(' ').expect("host and key").1;
    let script = bastion.file("keys");
    fs::write(
        &script,
        format!(
            "#!/bin/sh\necho '[127.0.0.1]:{} {key}'\n",
            bastion.address.port()
        ),
    )
    .expect("the directory is ours");
    succeed(Command::new("chmod").arg("755").arg(&script));
    let file = bastion.file("ssh_config");
    fs::write(&file, format!("KnownHostsCommand {}\n", script.display()))
        .expect("the directory is ours");
    let path = format!("        ssh_config_path: {}\n", file.display());
    let wrong = other.known_host();
    let wrong = wrong.split_once(' ').expect("host and key").1;
    let cluster = by_way_of("one", &bastion, &path).replace(key, wrong);
    let tbot = with_clusters(&[cluster], "").start();
    let reason = until("a reason", || {
        let (_, _, reason) = readyz(&tbot, "mux");
        reason.contains("no connection").then_some(reason)
    });
    assert!(reason.contains("its host key"), "{reason}");
}
