//! The way to the bastion is cut and comes back: a real link between two network namespaces.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::keys::{Keys, await_healthy};
use crate::common::network::{Cut, Link, with_link};
use crate::common::process::run;
use crate::common::sshd::Sshd;
use crate::common::tbot::Tbot;
use crate::common::v1::{assert_refused, dial};
use crate::common::wait::{Stalls, until};
use crate::common::{not_tested, procfs};
use crate::{await_reason, behind, cluster, login, masters, refusal, state, through};

/// From the return of the link to a stream that is asked for then.
const SOON: Duration = Duration::from_secs(3);

#[test]
fn a_link_that_was_down_for_long_is_used_again_soon() {
    cut_for_long(Cut::Here, "network unreachable for 192.0.2.2");
}

#[test]
fn a_link_that_was_silent_for_long_is_used_again_soon() {
    cut_for_long(Cut::Silent, "no answer within");
}

#[test]
fn a_link_that_was_cut_for_a_moment_loses_no_stream() {
    cut_for_short(Duration::from_secs(2));
}

/// So long that TCP's own next attempt is many seconds away.
#[test]
fn streams_need_not_wait_until_a_stalled_connection_goes_on() {
    cut_for_short(Duration::from_secs(7));
}

/// Where the name server is behind the link, too.
#[test]
fn a_bastion_whose_name_is_not_known_any_more_is_found_where_it_was() {
    const BECOME_IT: &str = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    with_link("a name that is lost", |link| {
        if !run(Command::new("unshare").args(["--mount", "true"]))
            .status
            .success()
        {
            return not_tested("a name that is lost", "no mount namespace allowed here");
        }
        let (mut bastion, keys) = (far_bastion(link), Keys::new());
        let hosts = keys.write("hosts", format!("{} bastion.test\n", link.far_ip()));
        let port = bastion.address.port();
        let lines = login(&bastion).replace(&format!("[{}]", link.far_ip()), "[bastion.test]");
        let hosts_path = hosts.display().to_string();
        let tbot = behind(format!("bastion.test:{port}"), &lines)
            .through(&["unshare", "--mount", "sh", "-c", BECOME_IT, &hosts_path])
            .start();
        await_healthy(&tbot, "mux");
        drop(greeted(&tbot, &bastion));
        // It is mounted by itself, so it stays the file it is.
        fs::write(&hosts, "").expect("it is the test's");
        bastion.kill();
        await_reason(&tbot, "connection refused by 192.0.2.2");
        let mut bastion = link.there(move || {
            bastion.restart(None);
            bastion
        });
        await_healthy(&tbot, "mux");
        drop(greeted(&tbot, &bastion));
        bastion.kill();
    });
}

/// Until every connection was given up, and a few attempts at others have failed.
fn cut_for_long(how: Cut, reason: &'static str) {
    with_link("a link that is cut", |link| {
        let bastion = far_bastion(link);
        let tbot = through(&bastion, "    connect_timeout: 5s\n");
        drop(greeted(&tbot, &bastion));
        tbot.await_ended(1);
        let (ssh, descriptors) = (masters(&tbot).len(), procfs::descriptors(tbot.pid()));
        let mut streams: Vec<_> = (0..10).map(|_| greeted(&tbot, &bastion)).collect();
        link.cut(how);
        for stream in &mut streams {
            assert_refused(stream);
        }
        let counts = tbot.await_ended(11);
        assert_eq!((counts.ok, counts.error), (1, 10));
        assert!(tbot.stderr.line("was lost: ").contains("not responding"));
        await_reason(&tbot, reason);
        until("five attempts", || {
            (cluster(&tbot, "reconnects_total") >= 5).then_some(())
        });
        let line = refusal(&tbot, bastion.address);
        assert!(line.contains(reason), "{line}");
        drop(streams);
        comes_back(link, how, &tbot, &bastion);
        await_healthy(&tbot, "mux");
        tbot.await_ended(tbot.counts().started);
        assert_eq!(cluster(&tbot, "streams"), 0);
        until("as many connections as before", || {
            (masters(&tbot).len() == ssh && state(&tbot, "starting") == 0).then_some(())
        });
        tbot.await_descriptors(descriptors);
    });
}

/// So short that no connection is given up.
fn cut_for_short(length: Duration) {
    with_link("a link that is cut", |link| {
        let how = Cut::Silent;
        let bastion = far_bastion(link);
        let tbot = through(&bastion, "");
        let mut old = greeted(&tbot, &bastion);
        link.cut(how);
        // It may be served when the link is back, and may wait for long.
        let early = dial(&tbot, bastion.address);
        std::thread::sleep(length);
        comes_back(link, how, &tbot, &bastion);
        old.write_all(b"SSH-2.0-x\r\n").expect("it is open");
        old.read_exact(&mut [0; 100]).expect("it goes on");
        drop((old, early));
        await_healthy(&tbot, "mux");
        tbot.await_ended(tbot.counts().started);
        assert_eq!(cluster(&tbot, "streams"), 0);
    });
}

fn comes_back(link: &Link, how: Cut, tbot: &Tbot, bastion: &Sshd) {
    let stalls = Stalls::watch();
    link.restore(how);
    let returned = Instant::now();
    let stream = until("a stream", || try_greeted(tbot, bastion));
    let took = returned.elapsed();
    drop(stream);
    // A handshake is many turns of several programs.
    assert!(took <= SOON + 5 * stalls.longest(), "{took:?}");
}

/// An sshd that is its own target, as the link leads to no other.
fn far_bastion(link: &Link) -> Sshd {
    let ip = link.far_ip();
    link.there(move || Sshd::start_on(ip))
}

fn greeted(tbot: &Tbot, bastion: &Sshd) -> UnixStream {
    try_greeted(tbot, bastion).expect("the bastion's sshd greets")
}

fn try_greeted(tbot: &Tbot, bastion: &Sshd) -> Option<UnixStream> {
    let mut stream = dial(tbot, bastion.address);
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).ok()?;
    }
    Some(stream)
}
