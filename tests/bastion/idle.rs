//! Connections that nobody uses any more, twice waited for as long as they are kept: `make soak`.

use std::time::{Duration, Instant};

use crate::common::server::Server;
use crate::common::sshd::Sshd;
use crate::common::v1::{assert_echoes, dial};
use crate::common::wait::{until, within};
use crate::{cluster, masters, state, through};

const IDLE: Duration = Duration::from_secs(5 * 60);

#[test]
#[ignore = "it takes ten minutes: make soak"]
fn idle_connections_end_after_five_minutes_and_one_stays_warm() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = through(&bastion, "    max_streams_per_connection: 1\n");
    let mut streams: Vec<_> = (0..4).map(|_| dial(&tbot, echo.address)).collect();
    for stream in &mut streams {
        assert_echoes(stream, b"up");
    }
    until("a spare one", || (state(&tbot, "ready") >= 5).then_some(()));
    let (many, used) = (masters(&tbot), Instant::now());
    drop(streams.split_off(1));
    let first = within(IDLE + Duration::from_secs(60), "one that ends", || {
        (masters(&tbot).len() < many.len()).then(Instant::now)
    });
    assert!(
        first - used >= IDLE - Duration::from_secs(5),
        "{:?}",
        first - used
    );
    // The one with a stream is not idle, and the next is there before it is full.
    until("one in use, and one warm", || {
        (masters(&tbot).len() == 2 && state(&tbot, "ready") == 2).then_some(())
    });
    assert_echoes(&mut streams[0], b"not cut");
    assert_echoes(&mut dial(&tbot, echo.address), b"at once");
    streams.clear();
    within(IDLE + Duration::from_secs(60), "the last one", || {
        (masters(&tbot).len() == 1).then_some(())
    });
    assert_echoes(&mut dial(&tbot, echo.address), b"warm");
    assert_eq!(tbot.await_ended(6).ok, 6);
    assert_eq!(cluster(&tbot, "reconnects_total"), 0);
    let logins = bastion.log().matches("Accepted publickey").count();
    assert_eq!(logins, many.len());
}
