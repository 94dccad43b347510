//! What the tests share: the real gate, clients that speak to it byte for byte,
//! upstreams that behave well and badly, and tokens. Blocking sockets with
//! deadlines throughout: a test reads from the top, and none can hang.

mod client;
mod database;
mod frame;
mod gate;
mod provider;
mod recipe;
mod redis;
mod token;
mod upstream;

use std::time::{Duration, Instant};

pub(crate) use self::client::{
    KEY, Request, Response, Socket, dial, exchange, nothing_comes, read_chunk,
};
pub(crate) use self::database::{App, Jar, PostgresServer, free_address};
pub(crate) use self::frame::{Frame, Opcode};
pub(crate) use self::gate::{Gate, Outcome, free_admin, members, policy, run, run_with_input};
pub(crate) use self::provider::{Peer, Provider};
pub(crate) use self::recipe::{Recipe, example, recipes};
pub(crate) use self::redis::Redis;
pub(crate) use self::token::{
    SECRET, Token, assert_no_canary, canary, percent_encode_all, token, unix_now,
};
pub(crate) use self::upstream::{Nobody, Seen, Upstream};

/// How long anything may take that should happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Polls `condition` until it holds; fails the test with `what` after [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain waited until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
