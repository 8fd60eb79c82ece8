//! The masters of one cluster, as the multiplexer sees them; a [`Keeper`]'s thread has the work.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::Control;
use super::keeper::Keeper;
use super::lease::{Cluster, Tell};
use super::process::Login;
use crate::metrics::bastion::ClusterMetrics;
use crate::multiplexer::inbox::Inbox;
use crate::multiplexer::threads::Handle;
use crate::multiplexer::upstream::resolver::Answer;
use crate::pulse::{self, Pulse};

/// The number of the credential that is served now, which grows; `None` before the first.
pub type Generation = Box<dyn FnMut() -> Option<u64> + Send>;

/// What a pool is to do.
pub struct Plan {
    /// The cluster's, and its place among those of the multiplexer.
    pub name: String,
    pub place: usize,
    pub login: Login,
    pub control: Arc<Control>,
    pub metrics: ClusterMetrics,
    /// On one master.
    pub most_streams: usize,
    /// For the look-up and the dial of the bastion.
    pub dial_timeout: Duration,
    /// `None`: the credential is not ours.
    pub credential: Option<Generation>,
    pub tell: Tell,
}

/// What the thread is told.
#[derive(Debug)]
pub enum Message {
    /// The files that `ssh` reads are there.
    Begin,
    /// More masters may be wanted, or fewer.
    Look,
    /// What a look-up brought.
    Answer(Vec<u64>, Answer),
    /// The relay has closed a master's link.
    LinkEnded(u64),
    /// End them all, and the thread.
    Stop,
}

/// A running pool. Dropped, it ends its masters.
#[derive(Debug)]
pub struct Pool {
    cluster: Arc<Cluster>,
    thread: Option<JoinHandle<()>>,
    pulse: Arc<Pulse>,
}

impl Pool {
    /// Starts the thread; it waits for [`Self::begin`].
    pub fn start(plan: Plan, threads: Handle) -> io::Result<Self> {
        let cluster = Arc::new(Cluster {
            name: plan.name,
            place: plan.place,
            bastion: plan.login.bastion.clone(),
            control: plan.control,
            metrics: plan.metrics,
            inbox: Arc::new(Inbox::new()?),
            most_streams: plan.most_streams,
            tell: plan.tell,
            state: Mutex::default(),
        });
        let keeper = Keeper::new(
            cluster.clone(),
            plan.login,
            plan.dial_timeout,
            plan.credential,
            threads,
        )?;
        let pulse = keeper.pulse();
        let thread = std::thread::Builder::new()
            .name("mux-masters".into())
            .stack_size(256 * 1024)
            .spawn(move || keeper.run())?;
        Ok(Self {
            cluster,
            thread: Some(thread),
            pulse,
        })
    }

    /// What it shares with those who open streams.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.cluster.clone()
    }

    /// The files that `ssh` reads are there: from now on masters are started.
    pub fn begin(&self) {
        self.cluster.inbox.send(Message::Begin);
    }

    /// Cuts every stream.
    pub fn stop(&self) {
        self.cluster.inbox.send(Message::Stop);
    }

    /// Why a stream could not be opened now: a sentence.
    pub fn problem(&self) -> Option<String> {
        self.hang().or_else(|| self.cluster.problem())
    }

    /// Why its thread does no work any more.
    pub fn hang(&self) -> Option<String> {
        let thread = self.thread.as_ref()?;
        let wake = || self.cluster.inbox.wake();
        pulse::problem("mux-masters", thread, &self.pulse, wake)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the hook already.
            let _ = thread.join();
        }
    }
}
