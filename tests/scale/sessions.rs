//! Logins that are kept in a store, and what happens to them while somebody stands on
//! them: they are ended, prolonged and taken over, and the store is slow.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::support::{Gate, Redis, Request, eventually};

/// Numbers that look random: SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }
}

/// The sessions that some clients come with, each of a user of its own.
pub(crate) struct Sessions<'a> {
    redis: &'a Redis,
    count: usize,
    /// Those that were ended, or are another's by now.
    ended: BTreeSet<String>,
    /// Those that were prolonged in time.
    prolonged: BTreeSet<String>,
}

impl<'a> Sessions<'a> {
    pub(crate) fn new(redis: &'a Redis) -> Sessions<'a> {
        Sessions { redis, count: 0, ended: BTreeSet::new(), prolonged: BTreeSet::new() }
    }

    /// The id of a new one, which lasts for so many milliseconds.
    pub(crate) fn log_in(&mut self, lasts: usize) -> String {
        self.count += 1;
        let (id, user) = (format!("sid-{}", self.count), format!("kept-{}", self.count));
        let value = json!({ "user": user }).to_string();
        self.redis.command(&["SET", &id, &value, "PX", &lasts.to_string()]);
        id
    }

    /// Something happens to one of the last.
    pub(crate) fn happen(&mut self, random: &mut Random) {
        if self.count == 0 {
            return;
        }
        let number = self.count - random.below(self.count.min(40));
        let (id, user) = (format!("sid-{number}"), format!("kept-{number}"));
        match random.below(8) {
            0..3 => {
                self.redis.command(&["DEL", &id]);
                self.ended.insert(user);
            }
            3..5 => {
                let value = json!({ "user": format!("thief-{number}") }).to_string();
                self.redis.command(&["SET", &id, &value, "KEEPTTL", "XX"]);
                self.ended.insert(user);
            }
            5..7 => {
                // In time for the next look, even of a busy gate.
                if self.redis.milliseconds_left(&id) > 500 {
                    self.redis.command(&["PEXPIRE", &id, "600000"]);
                    self.prolonged.insert(user);
                }
            }
            _ => {
                self.redis.pause();
                std::thread::sleep(Duration::from_millis(200));
                self.redis.resume();
            }
        }
    }

    /// Waits until nobody stands on a session that was ended.
    pub(crate) fn the_ended_are_closed(&self, gate: &Gate, admin: &str) {
        eventually("whose session was ended is closed", || {
            let list = Request::get("/connections?route=kept&limit=1000").bearer(admin);
            let list = list.header("Connection", "close").send(gate.admin()).json();
            let open = list["connections"].as_array().expect("a list");
            !open.iter().any(|one| self.ended.contains(one["subject"].as_str().expect("a name")))
        });
    }

    /// Nobody whose session was only prolonged was sent away for it.
    pub(crate) fn the_prolonged_were_kept(&self, gate: &Gate) {
        let mut kept = 0;
        for line in gate.lines().iter().filter(|line| line["outcome"] == "closed") {
            let user = line["subject"].as_str().unwrap_or_default();
            if self.prolonged.contains(user) && !self.ended.contains(user) {
                let reason = line["reason"].as_str().unwrap_or_default();
                assert!(!matches!(reason, "expired" | "revoked"), "{line}");
                kept += 1;
            }
        }
        eprintln!("{} sessions, {} ended, {kept} kept", self.count, self.ended.len());
    }
}
