//! Connections that nobody uses any more, waited for as long as they are kept: `make soak`.

use std::time::{Duration, Instant};

use crate::common::server::Server;
use crate::common::sshd::Sshd;
use crate::common::v1::{assert_echoes, dial};
use crate::common::wait::{until, within};
use crate::{cluster, masters, state, through};

const IDLE: Duration = Duration::from_secs(5 * 60);

#[test]
#[ignore = "it takes five minutes: make soak"]
fn idle_connections_end_after_five_minutes_and_one_stays_warm() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = through(&bastion, "    max_streams_per_connection: 1\n");
    let mut streams: Vec<_> = (0..4).map(|_| dial(&tbot, echo.address)).collect();
    for stream in &mut streams {
        assert_echoes(stream, b"up");
    }
    until("a spare one", || (state(&tbot, "ready") >= 5).then_some(()));
    let many = masters(&tbot).len();
    let used = Instant::now();
    streams.truncate(1);
    let first = within(IDLE + Duration::from_secs(60), "one that ends", || {
        assert_echoes(&mut streams[0], b"not cut");
        (masters(&tbot).len() < many).then(Instant::now)
    });
    let lived = first - used;
    assert!(lived >= IDLE - Duration::from_secs(5), "{lived:?}");
    let await_masters = |wanted| {
        until(&format!("{wanted} connections"), || {
            (masters(&tbot).len() == wanted && state(&tbot, "ready") == wanted as u64).then_some(())
        });
    };
    // One with a stream is not idle, and the next has to be there before that is full.
    await_masters(2);
    assert_echoes(&mut streams[0], b"not cut");
    streams.clear();
    await_masters(1);
    let logins = bastion.log().matches("Accepted publickey").count();
    assert_eq!(logins, many);
    // The next one would make it full, so that another login may follow.
    assert_echoes(&mut dial(&tbot, echo.address), b"warm");
    assert_eq!(tbot.await_ended(5).ok, 5);
    assert_eq!(cluster(&tbot, "reconnects_total"), 0);
}
