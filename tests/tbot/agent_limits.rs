//! The agent and clients that misbehave: what they may cost, and whom they may not delay.
#![cfg(feature = "pprof")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::Signal;

use crate::common::agent::{Raw, started, string};
use crate::common::keys::{Keys, await_healthy, await_reason, listed, with_identity};
use crate::common::server::Server;
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::{assert_echoes, dial};
use crate::common::wait::{PATIENCE, until};
use crate::common::{
    STRANGER, as_user, http, is_root, mode, not_tested, procfs, raise_descriptor_limit,
};

#[test]
fn clients_that_misbehave_are_cut_off_and_cost_nothing() {
    let keys = Keys::with_ca();
    let tbot = started(&keys);
    Raw::to(&tbot).list();
    let level = procfs::descriptors(tbot.pid());

    // Lengths that are none.
    for length in [0_u32, 256 * 1024 + 1, u32::MAX] {
        let mut raw = Raw::to(&tbot);
        raw.0.write_all(&length.to_be_bytes()).expect("it is read");
        assert!(raw.is_closed(), "{length}");
    }
    // The longest there may be.
    let mut raw = Raw::to(&tbot);
    let mut longest = vec![0; 256 * 1024];
    longest[0] = 99;
    assert_eq!(raw.ask(&longest), [5]);
    assert_eq!(raw.list().len(), 2);
    drop(raw);
    // Cut off anywhere.
    let sign = [&[0, 0, 0, 20, 13][..], &string(b"blob")].concat();
    for length in 1..sign.len() {
        let mut raw = Raw::to(&tbot);
        raw.0.write_all(&sign[..length]).expect("it is read");
        raw.0
            .shutdown(std::net::Shutdown::Write)
            .expect("it is open");
        assert!(raw.is_closed(), "{length}");
    }
    // Many at once, whole and in crumbs.
    let mut raw = Raw::to(&tbot);
    let many = [0, 0, 0, 1, 11].repeat(1000);
    let mut writer = raw.0.try_clone().expect("a descriptor");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(&many).expect("it is read");
            for byte in [0, 0, 0, 1, 11] {
                writer.write_all(&[byte]).expect("it is read");
            }
        });
        let first = raw.answer();
        assert_eq!(first[0], 12);
        for _ in 0..1000 {
            assert_eq!(raw.answer(), first);
        }
    });
    // One that asks and never reads is dropped when its answers do not fit.
    let mut deaf = Raw::to(&tbot);
    deaf.0.set_write_timeout(Some(PATIENCE)).expect("a time");
    let flood = [0, 0, 0, 1, 11].repeat(4096);
    let begun = Instant::now();
    while deaf.0.write_all(&flood).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "nobody cuts it off");
    }
    // One that sends a crumb now and then has ten seconds for its message.
    let begun = Instant::now();
    let mut slow = Raw::to(&tbot);
    slow.0
        .write_all(&1000_u32.to_be_bytes())
        .expect("it is read");
    while slow.0.write_all(&[13]).is_ok() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "nobody cuts it off"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(
        begun.elapsed() > Duration::from_secs(8),
        "too early: {:?}",
        begun.elapsed()
    );
    drop((raw, deaf, slow));
    tbot.await_descriptors(level);
}

#[test]
fn idle_connections_are_bounded_and_others_wait() {
    let keys = Keys::with_ca();
    let tbot = started(&keys);
    Raw::to(&tbot).list();
    let level = procfs::descriptors(tbot.pid());
    let mut idle: Vec<Raw> = (0..256).map(|_| Raw::to(&tbot)).collect();
    idle.iter_mut()
        .for_each(|raw| assert_eq!(raw.list().len(), 2));
    let mut next = Raw::to(&tbot);
    next.0.write_all(&[0, 0, 0, 1, 11]).expect("it waits");
    next.0
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a time");
    assert!(
        next.0.read(&mut [0]).is_err(),
        "one more than the limit is served"
    );
    let reason = await_reason(&tbot, "mux");
    assert!(
        reason.starts_with("all 256 connections of the agent are in use"),
        "{reason}"
    );
    idle.pop();
    idle.pop();
    next.0.set_read_timeout(Some(PATIENCE)).expect("a time");
    assert_eq!(next.answer()[0], 12);
    await_healthy(&tbot, "mux");
    // And nobody delays the stop.
    drop(idle.split_off(100));
    let mut tbot = tbot;
    let begun = Instant::now();
    tbot.signal(Signal::TERM);
    assert!(tbot.exit().success() && begun.elapsed() < Duration::from_secs(20));
    assert!(level < 256);
}

#[test]
fn its_socket_is_its_owners_and_goes_with_it() {
    let keys = Keys::with_ca();
    let mut tbot = started(&keys);
    let socket = tbot.destination.join("agent.sock");
    assert!(
        fs::metadata(&socket)
            .expect("it is there")
            .file_type()
            .is_socket()
    );
    assert_eq!((mode(&socket), mode(&tbot.destination)), (0o600, 0o700));
    tbot.signal(Signal::TERM);
    assert!(tbot.exit().success());
    assert!(!socket.exists());
}

#[test]
fn a_dead_ones_socket_is_replaced_and_a_living_ones_is_not() {
    let keys = Keys::with_ca();
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let start = || at(&keys, &directory.path().join("mux"));
    let mut killed = start().start();
    await_healthy(&killed, "identity");
    let first = Raw::to(&killed).list();
    killed.signal(Signal::KILL);
    killed.exit();
    assert!(killed.destination.join("agent.sock").exists());
    let tbot = start().start();
    await_healthy(&tbot, "identity");
    let second = Raw::to(&tbot).list();
    assert!(second.len() == 2 && second != first);
    let end = start().finish();
    let error = end.error();
    let pid = tbot.pid().as_raw_pid();
    assert!(
        error.contains(&format!("another tbot (pid {pid})")),
        "{error}"
    );
    assert_eq!(Raw::to(&tbot).list(), second);
}

#[test]
fn a_path_that_ssh_cannot_use_is_refused() {
    let keys = Keys::with_ca();
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let left = 107 - directory.path().as_os_str().len() - "//agent.sock".len();
    let path = |length| directory.path().join("d".repeat(length));
    let tbot = at(&keys, &path(left)).start();
    await_healthy(&tbot, "identity");
    assert_eq!(listed(&tbot).len(), 2, "by OpenSSH");
    let end = at(&keys, &path(left + 1)).finish();
    let error = end.error();
    assert!(!path(left + 1).exists(), "nothing is left of it");
    assert!(
        error.ends_with(": ssh reaches no agent by a path of more than 107 bytes, and this one's has 108: name a shorter one"),
        "{error}"
    );
}

/// A tbot with certificates by `keys`' authority and a destination.
fn at(keys: &Keys, destination: &Path) -> Start {
    let (path, source) = (destination.display(), keys.ssh_ca("root"));
    let config = format!(
        "version: v2\nonboarding: {source}\nservices:\n  - type: ssh-multiplexer\n    name: mux\n    \
         destination: {{ type: directory, path: {path} }}\n"
    );
    Start::config(|_| config).destination(destination)
}

#[test]
fn another_user_is_sent_away() {
    if !is_root() {
        return not_tested("another user at the agent", "only root can be one");
    }
    let keys = Keys::with_ca();
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    crate::common::set_mode(directory.path(), 0o755);
    let start = with_identity(&keys.ssh_ca("root"), "", "    allowed_uids: [12345]");
    crate::common::set_mode(start.directory(), 0o755);
    let tbot = start.start();
    await_healthy(&tbot, "identity");
    let path = tbot.destination.join("agent.sock");
    let list = |uid| {
        as_user(uid, || {
            let mut raw = Raw(UnixStream::connect(&path).expect("it may be reached"));
            let _ = raw.0.write_all(&[0, 0, 0, 1, 11]);
            let mut answer = Vec::new();
            raw.0.shutdown(std::net::Shutdown::Write).ok();
            raw.0.read_to_end(&mut answer).ok();
            answer.len()
        })
    };
    assert_eq!(list(STRANGER), 0);
    assert!(list(12345) > 100);
    tbot.stderr
        .line(&format!("agent: user {STRANGER} may not connect"));
    for _ in 0..200 {
        assert_eq!(list(STRANGER), 0);
    }
    let lines = tbot.stderr.so_far().matches("may not connect").count();
    assert!(lines < 20, "{lines} lines of log");
}

/// A library that lets reads time out after a sixtieth of their time.
const HASTE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/socket.h>
#include <sys/time.h>
int setsockopt(int fd, int level, int name, const void *value, socklen_t length) {
    int (*real)(int, int, int, const void *, socklen_t) = dlsym(RTLD_NEXT, "setsockopt");
    struct timeval time;
    if (level != SOL_SOCKET || name != SO_RCVTIMEO) return real(fd, level, name, value, length);
    long micros = ((struct timeval *)value)->tv_sec * 1000000 + ((struct timeval *)value)->tv_usec;
    time.tv_sec = micros / 60 / 1000000;
    time.tv_usec = micros / 60 % 1000000;
    return real(fd, level, name, &time, sizeof time);
}
"#;

#[test]
fn an_idle_connection_is_closed_after_two_minutes() {
    let keys = Keys::with_ca();
    let library = keys.library("haste", HASTE);
    let tbot = with_identity(&keys.ssh_ca("root"), "", "")
        .env("LD_PRELOAD", library.to_str().expect("UTF-8"))
        .start();
    await_healthy(&tbot, "identity");
    let mut raw = Raw::to(&tbot);
    for _ in 0..2 {
        // Each message gives it the same time again.
        assert_eq!(raw.list().len(), 2);
    }
    let begun = Instant::now();
    assert!(raw.is_closed());
    let minutes = begun.elapsed().as_secs_f64();
    assert!((1.9..30.0).contains(&minutes), "after {minutes} minutes");
}

#[test]
fn a_flood_of_connections_delays_nobody_else() {
    raise_descriptor_limit();
    let (keys, echo) = (Keys::with_ca(), Server::echo());
    let tbot = started(&keys);
    Raw::to(&tbot).list();
    let level = procfs::descriptors(tbot.pid());
    let address = SocketAddrUnix::new(tbot.destination.join("agent.sock")).expect("short");
    // As many as fit where they wait; those beyond that are told so.
    let connect = |_| {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let kind = SocketType::STREAM;
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None).expect("a descriptor");
        rustix::net::connect(&socket, &address)
            .is_ok()
            .then_some(socket)
    };
    let flood: Vec<_> = (0..10_000).filter_map(connect).collect();
    assert!(flood.len() >= 256 + 1000, "{} connected", flood.len());
    await_reason(&tbot, "mux");
    assert!(procfs::descriptors(tbot.pid()) < level + 300);
    assert_served(&tbot, &echo);
    drop(flood);
    await_healthy(&tbot, "mux");
    assert_eq!(Raw::to(&tbot).list().len(), 2);
    tbot.await_descriptors(level);
}

#[test]
fn signing_without_end_delays_nobody_else_and_takes_bounded_memory() {
    let (keys, echo) = (Keys::with_ca(), Server::echo());
    let tbot = started(&keys);
    let blob = Raw::to(&tbot).list().remove(0);
    let data = string(&vec![7; 200 * 1024]);
    let sign = string(&[&[13][..], &string(&blob), &data, &[0; 4]].concat());
    let (before, _) = procfs::memory(tbot.pid());
    let signed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (tbot, sign, signed) = (&tbot, &sign, &signed);
        // Closed when this ends, however it does.
        let mut connections = Vec::new();
        for _ in 0..200 {
            let mut raw = Raw::to(tbot);
            connections.push(Closing(raw.0.try_clone().expect("a descriptor")));
            scope.spawn(move || {
                while raw.0.write_all(sign).is_ok()
                    && raw.0.read_exact(&mut [0; 4 + 1 + 4 + 83]).is_ok()
                {
                    signed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until("they have signed", || {
            (signed.load(Ordering::Relaxed) > 40).then_some(())
        });
        let mut running = 0;
        for _ in 0..20 {
            assert_served(tbot, &echo);
            running += procfs::running(tbot.pid(), "agent-client");
        }
        // They keep one processor busy, and the multiplexer has the others.
        assert!(running <= 20 * 20, "{running} in 20 looks");
    });
    let (_, most) = procfs::memory(tbot.pid());
    let grown = most.saturating_sub(before) / 1_000_000;
    // One message for each connection, and some stack.
    assert!(grown < 100, "by {grown} MB");
}

/// A connection that is shut when this goes.
struct Closing(UnixStream);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.shutdown(std::net::Shutdown::Both).ok();
    }
}

/// Health and a connection, each within a second or two.
fn assert_served(tbot: &Tbot, echo: &Server) {
    let begun = Instant::now();
    assert_eq!(http::get(tbot.address(), "/livez").0, 200);
    assert_echoes(&mut dial(tbot, echo.address), b"served");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn no_message_makes_it_fall() {
    let keys = Keys::with_ca();
    let tbot = started(&keys);
    let mut raw = Raw::to(&tbot);
    let list = raw.list();
    let name = string(b"session-bind@openssh.com");
    let whole = [
        [&[13][..], &string(&list[0]), &string(b"data"), &[0; 4]].concat(),
        [&[27][..], &name, &string(&list[1]), &string(b"x"), &[1]].concat(),
        vec![11],
    ];
    // xorshift64: the same messages each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for round in 0..6000 {
        let mut message = whole[random(3)].clone();
        for _ in 0..random(4) {
            let place = random(message.len());
            match random(5) {
                0 => message[place] = random(256) as u8,
                1 => message.truncate(place + 1),
                2 => message.insert(place, random(256) as u8),
                // A length that is none.
                3 => message[place] = 255,
                _ => message = (0..=place).map(|_| random(256) as u8).collect(),
            }
        }
        let answer = raw.ask(&message);
        let expected = match (message[0], answer[0]) {
            (_, 5) => answer.len() == 1,
            (11, 12) => answer.len() > 100,
            (13, 14) => answer.len() > 64,
            _ => false,
        };
        assert!(expected, "round {round}: {message:?} gave {answer:?}");
    }
    assert_eq!(raw.list(), list);
    assert!(!tbot.stderr.so_far().contains("panicked"));
}
