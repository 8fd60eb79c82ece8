//! Bastions, clients and administrators at their worst: what is left afterwards, and whether it adds up.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Signal, kill_process};

use crate::common::black_hole::BlackHole;
use crate::common::frozen::Frozen;
use crate::common::keys::{Keys, await_healthy};
use crate::common::server::Server;
use crate::common::sshd::Sshd;
use crate::common::tbot::Tbot;
use crate::common::v1::{assert_echoes, connect, dial};
use crate::common::wait::until;
use crate::common::{not_tested, procfs};
use crate::{await_reason, behind, certified, cluster, login, masters, refusal, state, through};

/// What tbot holds when nothing goes on.
struct Rest {
    descriptors: usize,
    masters: usize,
}

impl Rest {
    fn of(tbot: &Tbot) -> Self {
        Self {
            descriptors: procfs::descriptors(tbot.pid()),
            masters: masters(tbot).len(),
        }
    }

    /// Everything is as it was, and every connection was counted once.
    #[track_caller]
    fn is_back(&self, tbot: &Tbot) {
        await_healthy(tbot, "mux");
        until("nothing in flight", || {
            let counts = tbot.counts();
            (counts.in_flight == 0 && counts.started == counts.ok + counts.error).then_some(())
        });
        until("no stream", || {
            (cluster(tbot, "streams") == 0).then_some(())
        });
        until("the connections there were", || {
            let others = state(tbot, "starting") + state(tbot, "retiring");
            (others == 0 && masters(tbot).len() as u64 == state(tbot, "ready")).then_some(())
        });
        let more = masters(tbot).len().saturating_sub(self.masters);
        // Of one more: stderr, link, TCP and that again to look at.
        tbot.await_descriptors(self.descriptors + 4 * more);
    }
}

/// Whether what is sent comes back, or the stream ends.
fn echoes(stream: &mut UnixStream) -> bool {
    let mut back = [0; 2];
    stream.write_all(b"up").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"up"
}

#[test]
fn masters_that_are_killed_under_a_crowd_and_renewals_leave_nothing() {
    let keys = Keys::with_ca();
    let (bastion, echo) = (keys.sshd(), Server::echo());
    let tbot = certified(&keys, &bastion, "    max_streams_per_connection: 5\n");
    assert_echoes(&mut dial(&tbot, echo.address), b"first");
    tbot.await_ended(1);
    let rest = Rest::of(&tbot);
    let (stop, good) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match echoes(&mut dial(&tbot, echo.address)) {
                        true => drop(good.fetch_add(1, Ordering::Relaxed)),
                        // There is none to be had just now.
                        false => await_healthy(&tbot, "mux"),
                    }
                }
            });
        }
        for _ in 0..3 {
            let before = good.load(Ordering::Relaxed);
            tbot.signal(Signal::HUP);
            // Ready, retiring or logging in.
            until("many", || (masters(&tbot).len() > 1).then_some(()));
            for master in masters(&tbot) {
                kill_process(master, Signal::KILL).ok();
            }
            until("streams that go well", || {
                (good.load(Ordering::Relaxed) > before + 20).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    rest.is_back(&tbot);
}

#[test]
fn a_connection_that_is_cut_at_any_byte_is_made_again() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    // Banners, key exchange, login, the first stream.
    for most in [0, 1, 20, 500, 1800, 2300, 2900, 3400] {
        let (address, cut) = (bastion.address, AtomicBool::new(false));
        let proxy = Server::start(move |client| {
            let is_first = !cut.swap(true, Ordering::SeqCst);
            forward(client, address, if is_first { most } else { u64::MAX });
        });
        let (port, its) = (bastion.address.port(), proxy.address.port());
        let lines = login(&bastion).replace(&format!("]:{port} "), &format!("]:{its} "));
        let tbot = behind(proxy.address, &lines).start();
        until("a stream", || {
            echoes(&mut dial(&tbot, echo.address)).then_some(())
        });
        let log = tbot.stderr.so_far();
        assert!(!log.contains("UNKNOWN"), "{log}");
        Rest::of(&tbot).is_back(&tbot);
    }
}

/// To `address`, for `most` bytes of the client's.
fn forward(client: TcpStream, address: SocketAddr, most: u64) {
    let server = TcpStream::connect(address).expect("it listens");
    let (mut from, mut to) = (
        server.try_clone().expect("descriptors"),
        client.try_clone().expect("descriptors"),
    );
    let back = std::thread::spawn(move || {
        std::io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Both).ok();
    });
    std::io::copy(&mut (&client).take(most), &mut &server).ok();
    for side in [client, server] {
        side.shutdown(Shutdown::Both).ok();
    }
    back.join().ok();
}

#[test]
fn a_bastion_that_ends_each_connection_after_the_login_is_told_of_at_once() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = through(&bastion, "    connect_timeout: 100s\n");
    // Until the pauses are longer than users should wait for.
    for round in 1..=6 {
        bastion.kill_sessions();
        until("a connection that was lost", || {
            let lost = "tbot_ssh_bastion_connect_failures_total{cluster=\"prod\",reason=\"lost\"}";
            (tbot.metric(lost) >= round).then_some(())
        });
        if round < 6 {
            await_healthy(&tbot, "mux");
        }
    }
    let line = refusal(&tbot, echo.address);
    assert!(line.contains("was lost: ssh says"), "{line}");
    await_healthy(&tbot, "mux");
    assert_echoes(&mut dial(&tbot, echo.address), b"in the end");
}

#[test]
fn a_bastion_that_is_no_ssh_server_is_told_of() {
    let key = Sshd::start();
    let cases: [(&'static [u8], &str); 5] = [
        (
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
            "there was no login within 31s (it began with \"HTTP/1.1 400 Bad Request\")",
        ),
        (b"SSH-1.5-old\r\n", "ssh says: "),
        (
            b"SSH-2.0-x\r\n\0\0\0\x0cgarbage, and more of it",
            "ssh says: ",
        ),
        (
            b"\x1b[2J\x1b]0;owned\x07\xc2\x9b31m\xe2\x80\xae\r\nSSH-2.0-\x1b[1m\xe2\x80\xae\r\nzzzzzzzzzzzzzzzz",
            "ssh says: ",
        ),
        (
            b"HTTP/1.1 400 \x1b[2J\xe2\x80\xae\xc2\xad\xe2\x80\xa8 Bad\r\n\r\n",
            "there was no login within 31s (it began with \"HTTP/1.1 400 ",
        ),
    ];
    let lines = login(&key) + "    connect_timeout: 1s\n";
    let running = cases.map(|(bytes, reason)| {
        let server = Server::start(move |mut stream| {
            stream.write_all(bytes).ok();
            std::io::copy(&mut stream, &mut std::io::sink()).ok();
        });
        let tbot = behind(server.address, &lines).start();
        (server, tbot, reason)
    });
    for (_server, tbot, reason) in &running {
        await_reason(tbot, reason);
        let line = refusal(tbot, "127.0.0.1:1");
        assert!(line.contains(reason) && !line.contains("UNKNOWN"), "{line}");
        assert_eq!(tbot.refused("bastion_down"), 1);
        let is_odd = |c: char| {
            (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{ad}' | '\u{2028}')
        };
        let log = tbot.stderr.so_far();
        assert!(!log.contains(is_odd) && !line.contains(is_odd), "{log:?}");
    }
    // Without an end, and without a line's.
    let endless = Server::start(|mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {});
    let tbot = behind(endless.address, &lines).start();
    await_reason(&tbot, "ssh says: banner exchange: ");
}

#[test]
fn a_bastion_that_takes_one_login_at_a_time_serves_a_crowd() {
    let bastion = Sshd::configured(|_| "MaxStartups 1\nMaxSessions 1".into());
    let echo = Server::echo();
    let tbot = through(
        &bastion,
        "    max_streams_per_connection: 2\n    connect_timeout: 60s\n",
    );
    let mut streams: Vec<_> = (0..20).map(|_| dial(&tbot, echo.address)).collect();
    for stream in &mut streams {
        assert_echoes(stream, b"up");
    }
    tbot.stderr.line("ssh says: Connection closed");
    drop(streams);
    assert_eq!(tbot.await_ended(20).ok, 20);
    assert_eq!(cluster(&tbot, "streams"), 0);
}

#[test]
fn clients_that_leave_before_their_target_answers_leave_nothing() {
    let (bastion, echo, hole) = (Sshd::start(), Server::echo(), BlackHole::open());
    let tbot = through(&bastion, "    connect_timeout: 30s\n");
    assert_echoes(&mut dial(&tbot, echo.address), b"first");
    tbot.await_ended(1);
    let rest = Rest::of(&tbot);
    for _ in 0..3 {
        let clients: Vec<_> = (0..60).map(|_| dial(&tbot, hole.address)).collect();
        tbot.await_in_flight(60);
        drop(clients);
        tbot.await_in_flight(0);
    }
    // What the bastion was asked for keeps its place.
    let kept = cluster(&tbot, "streams");
    assert!((1..=180).contains(&kept), "{kept}");
    assert_echoes(&mut dial(&tbot, echo.address), b"at once");
    assert_eq!(tbot.refused("gone"), 180);
    for master in masters(&tbot) {
        kill_process(master, Signal::KILL).ok();
    }
    rest.is_back(&tbot);
}

#[test]
fn a_bastion_that_accepts_no_more_keeps_the_connections_it_has() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = through(
        &bastion,
        "    max_streams_per_connection: 4\n    connect_timeout: 2s\n",
    );
    let mut streams: Vec<_> = (0..3).map(|_| dial(&tbot, echo.address)).collect();
    for stream in &mut streams {
        assert_echoes(stream, b"up");
    }
    let rest = Rest::of(&tbot);
    bastion.freeze_listener(true);
    let mut crowd: Vec<_> = (0..30).map(|_| dial(&tbot, echo.address)).collect();
    let served = crowd
        .iter_mut()
        .filter_map(|stream| echoes(stream).then_some(()));
    assert_eq!(served.count(), 1);
    assert_eq!(tbot.refused("bastion_down"), 29);
    let why = refusal(&tbot, echo.address);
    assert!(
        why.contains("are full, and there is no other yet (waited for 2s)"),
        "{why}"
    );
    for stream in &mut streams {
        assert_echoes(stream, b"not cut");
    }
    bastion.freeze_listener(false);
    drop((streams, crowd));
    rest.is_back(&tbot);
}

#[test]
fn who_waits_for_a_place_longest_has_it_first_whichever_thread_serves() {
    const WHAT: &str = "who is served first";
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = through(
        &bastion,
        "    max_streams_per_connection: 1\n    connect_timeout: 60s\n",
    );
    let threads = procfs::serving(tbot.pid());
    let [busy, calm, ..] = &threads[..] else {
        return not_tested(WHAT, "one thread serves all on one core");
    };
    // Lets only this one go on.
    let leave = |left: &String| -> Option<Vec<_>> {
        let others = threads.iter().filter(|name| *name != left);
        others
            .map(|name| Frozen::thread(tbot.pid(), name))
            .collect()
    };
    // Serves what was there before, whatever the order in which that is told of.
    let catch_up = |times| {
        let open = tbot.counts().in_flight;
        for _ in 0..times {
            drop(connect(&tbot));
            tbot.await_in_flight(open);
        }
    };
    bastion.freeze_listener(true);
    let mut first = dial(&tbot, echo.address);
    assert_echoes(&mut first, b"up");
    let Some(others) = leave(busy) else {
        return not_tested(WHAT, "this system lets nobody freeze a thread");
    };
    catch_up(20);
    let mut longest = dial(&tbot, echo.address);
    tbot.await_in_flight(2);
    catch_up(2);
    drop(others);
    let others = leave(calm).expect("as before");
    let mut later = dial(&tbot, echo.address);
    tbot.await_in_flight(3);
    catch_up(2);
    drop((others, first));
    assert_echoes(&mut longest, b"the next");
    drop(longest);
    assert_echoes(&mut later, b"and then");
    bastion.freeze_listener(false);
}

#[test]
fn few_descriptors_are_enough_for_few_streams() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    for limit in [50, 64] {
        let tbot = behind(bastion.address, &login(&bastion))
            .through(&["prlimit", &format!("--nofile={limit}:{limit}")])
            .start();
        await_healthy(&tbot, "mux");
        let mut streams: Vec<_> = (0..30).map(|_| dial(&tbot, echo.address)).collect();
        let served = streams
            .iter_mut()
            .filter_map(|stream| echoes(stream).then_some(()));
        assert!(served.count() >= 4, "{limit}");
        drop(streams);
        tbot.await_ended(30);
        assert_eq!(cluster(&tbot, "streams"), 0);
        assert_echoes(&mut dial(&tbot, echo.address), b"after that");
    }
}
