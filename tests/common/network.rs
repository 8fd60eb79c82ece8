//! A network of two hosts with a cable between them, which lives in the kernel and which nobody else sees: one
//! is the thread of the test, the other where a [`Link`] runs something. It has no way out, leaves nothing
//! behind however the test ends, and any number of them may be there at once.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::mpsc;

use super::process::{run, succeed};
use super::{is_root, not_tested};

const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Nobody's.
const ELSEWHERE: &str = "02:00:00:00:00:01";

type Job = Box<dyn FnOnce() + Send>;

/// The cable.
pub struct Link {
    far: mpsc::Sender<Job>,
}

/// How a cable is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Pulled out here: the kernel says that there is no way.
    Here,
    /// What is sent is lost, and nobody says so.
    Silent,
}

/// Runs `test` on a thread that has such a network, where that is allowed.
pub fn with_link(what: &str, test: impl FnOnce(&Link) + Send) {
    if !is_root() {
        return not_tested(what, "only root may have a network of its own");
    }
    on_own_network(what, || {
        let (far, jobs) = mpsc::channel::<Job>();
        std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let near = rustix::thread::gettid().as_raw_nonzero();
            scope.spawn(move || {
                on_own_network(what, || {
                    let mut add = ip(&["link", "add", "far", "type", "veth", "peer"]);
                    add.args(["name", "near", "netns", &near.to_string()]);
                    let added = run(&mut add);
                    if added.status.success() {
                        succeed(&mut ip(&[
                            "address",
                            "add",
                            &format!("{FAR}/30"),
                            "dev",
                            "far",
                        ]));
                        succeed(&mut ip(&["link", "set", "far", "up"]));
                    }
                    tell.send(added).ok();
                    jobs.into_iter().for_each(|job| job());
                });
            });
            let Ok(added) = told.recv() else { return };
            if !added.status.success() {
                drop(far);
                return not_tested(what, added.stderr.trim());
            }
            let link = Link { far };
            succeed(&mut ip(&[
                "address",
                "add",
                &format!("{NEAR}/30"),
                "dev",
                "near",
            ]));
            succeed(&mut ip(&["link", "set", "near", "up"]));
            test(&link);
        });
    });
}

impl Link {
    /// The address of the far host.
    pub fn far_ip(&self) -> IpAddr {
        FAR.into()
    }

    /// Runs `work` there.
    pub fn there<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job = move || drop(tell.send(work()));
        self.far.send(Box::new(job)).expect("it takes jobs");
        told.recv().expect("the work did not panic")
    }

    pub fn cut(&self, how: Cut) {
        match how {
            Cut::Here => drop(succeed(&mut ip(&["link", "set", "near", "down"]))),
            Cut::Silent => {
                misdirect(FAR, "near");
                self.there(|| misdirect(NEAR, "far"));
            }
        }
    }

    pub fn restore(&self, how: Cut) {
        match how {
            Cut::Here => drop(succeed(&mut ip(&["link", "set", "near", "up"]))),
            Cut::Silent => {
                self.there(|| direct(NEAR, "far"));
                direct(FAR, "near");
            }
        }
    }
}

fn misdirect(to: Ipv4Addr, device: &str) {
    let mut neighbour = ip(&["neighbour", "replace", &to.to_string(), "dev", device]);
    succeed(neighbour.args(["lladdr", ELSEWHERE, "nud", "permanent"]));
}

fn direct(to: Ipv4Addr, device: &str) {
    succeed(&mut ip(&[
        "neighbour",
        "delete",
        &to.to_string(),
        "dev",
        device,
    ]));
}

fn on_own_network(what: &str, work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            use rustix::thread::UnshareFlags;
            // It is unsafe to share no more descriptors, which is not asked for.
            #[allow(deprecated)]
            let own = rustix::thread::unshare(UnshareFlags::NEWNET);
            if own.is_err() {
                return not_tested(what, "no network namespace allowed here");
            }
            succeed(&mut ip(&["link", "set", "lo", "up"]));
            work();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn ip(words: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(words);
    let path = std::env::var("PATH").unwrap_or_default();
    // Where Debian has it, and a user's PATH does not.
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}
