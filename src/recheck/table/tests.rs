//! Time is what the tests say.

use http::{HeaderMap, Method};

use super::*;
use crate::close::CloseCodes;
use crate::connection::{Arrival, Carrier, LiveLimits, Place, Registry};
use crate::credential;
use crate::handshake::Host;
use crate::identity::Identity;
use crate::telemetry::Metrics;
use crate::verifier::{Credential, Occasion, Original, Recheck};

const PERIOD: Duration = Duration::from_secs(30);
const STALE: Duration = Duration::from_secs(300);

struct Bench {
    registry: Arc<Registry>,
    table: Table,
    start: Instant,
}

impl Bench {
    fn new() -> Bench {
        let registry = Registry::new(Arc::default());
        Bench { registry, table: Table::default(), start: Instant::now() }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    /// A connection by `verifier` with `credential`, at `seconds`.
    fn enter(&mut self, verifier: &str, credential: &str, seconds: f64) -> Place {
        self.enter_with(verifier, credential, seconds, PERIOD)
    }

    fn enter_with(
        &mut self,
        verifier: &str,
        credential: &str,
        seconds: f64,
        recheck: Duration,
    ) -> Place {
        let limits = LiveLimits { recheck, recheck_stale: STALE, ..LiveLimits::default() };
        let place = self.registry.enter(Arrival {
            request_id: &"r".into(),
            identity: &Arc::new(Identity::anonymous()),
            peer: [127, 0, 0, 1].into(),
            carrier: Carrier::Socket,
            codes: CloseCodes::default(),
            limits: &Arc::new(limits),
            metrics: &Metrics::new().unwrap().route("chat").unwrap(),
            grounds: None,
        });
        let now = self.at(seconds);
        self.table.watch(place.entry(), question(verifier, credential), now);
        place
    }

    /// Who is asked about at `seconds`; `answered` at once.
    fn asked(&mut self, seconds: f64, answered: bool) -> usize {
        let now = self.at(seconds);
        let due = self.table.due(now);
        for one in &due {
            let verifier = Arc::clone(one.question.verifier());
            self.table.done(one.login, &verifier, one.asks, answered, now);
        }
        due.len()
    }
}

fn question(verifier: &str, credential: &str) -> Question {
    let host = Host { name: "h".into(), port: None };
    let occasion = Occasion {
        place: credential::Place::Message,
        method: &Method::GET,
        https: false,
        host: &host,
        path: "/",
        query: None,
        ip: [127, 0, 0, 1].into(),
        headers: &HeaderMap::new(),
        certificate: None,
        again: false,
    };
    let credential = Credential { value: credential.as_bytes(), basic: false };
    let original = Original::of(&credential, credential::Place::Message);
    Question::new(&verifier.into(), Recheck::Credential, original, &occasion).unwrap()
}

#[test]
fn a_credential_is_asked_about_once_a_period_however_many_came_with_it() {
    let mut bench = Bench::new();
    let places: Vec<Place> =
        (0..1000).map(|number| bench.enter("app", &format!("c{}", number % 10), 0.0)).collect();
    assert_eq!(bench.table.logins(), 10);
    let mut each = Vec::new();
    for period in 0..20 {
        let ticks = (0..120).map(|tick| f64::from(period * 120 + tick) * 0.25);
        each.push(ticks.map(|at| bench.asked(at, true)).sum::<usize>());
    }
    let all: usize = each.iter().sum();
    // A period is at most as long as it says, and no shorter than nine tenths of it.
    assert!((200..=230).contains(&all), "{all} in 20 periods: {each:?}");
    assert!(each.iter().all(|asked| (8..=20).contains(asked)), "{each:?}");
    drop(places);
    bench.registry.departed().iter().for_each(|id| bench.table.leave(*id));
    assert_eq!(bench.table.logins(), 1000 - 990);
}

#[test]
fn a_credential_is_let_go_with_its_last_connection() {
    let mut bench = Bench::new();
    let (one, two) = (bench.enter("app", "c", 0.0), bench.enter("app", "c", 0.0));
    bench.table.leave(one.entry().id);
    assert_eq!(bench.table.logins(), 1);
    bench.table.leave(two.entry().id);
    assert_eq!(bench.table.logins(), 0);
    assert!(bench.table.by_key.is_empty() && bench.table.by_member.is_empty());
    assert!(bench.table.queues.is_empty());
    // Also while its turn is now.
    let place = bench.enter("app", "c", 0.0);
    let now = bench.at(30.0);
    let due = bench.table.due(now);
    assert_eq!(due.len(), 1);
    bench.table.leave(place.entry().id);
    bench.table.done(due[0].login, &"app".into(), true, true, now);
    assert_eq!((bench.table.logins(), bench.table.queues.len()), (0, 0));
}

#[test]
fn first_turns_are_spread_over_the_period() {
    let mut bench = Bench::new();
    let places: Vec<Place> =
        (0..3000).map(|number| bench.enter("app", &format!("c{number}"), 0.0)).collect();
    let asked: Vec<usize> = (0..10)
        .map(|tenth| {
            (0..120)
                .map(|tick| bench.asked(3.0 * f64::from(tenth) + f64::from(tick) * 0.025, true))
                .sum()
        })
        .collect();
    assert_eq!(asked[0], 0, "who was just proven has time");
    assert!(asked[1..9].iter().all(|some| (200..500).contains(some)), "{asked:?}");
    drop(places);
}

#[test]
fn a_verifier_gets_half_of_what_it_takes_and_delays_no_other() {
    let mut bench = Bench::new();
    let places: Vec<Place> =
        (0..3000).map(|number| bench.enter("slow", &format!("c{number}"), 0.0)).collect();
    let other = bench.enter("other", "c", 0.0);
    let now = bench.at(31.0);
    let due = bench.table.due(now);
    let of = |name: &str| due.iter().filter(|due| **due.question.verifier() == *name).count();
    assert_eq!((of("slow"), of("other")), (MOST, 1));
    assert!(bench.table.due(now).is_empty(), "no more before one is done");
    let slow = due.iter().find(|due| &**due.question.verifier() == "slow").unwrap();
    bench.table.done(slow.login, &"slow".into(), true, true, now);
    assert_eq!(bench.table.due(now).len(), 1);
    drop((places, other));
}

#[test]
fn whoever_has_no_answer_is_stale_in_time_even_if_there_is_no_room_to_ask() {
    let mut bench = Bench::new();
    let places: Vec<Place> =
        (0..200).map(|number| bench.enter("app", &format!("c{number}"), 0.0)).collect();
    let now = bench.at(31.0);
    // All places are taken by look-ups that hang; one has failed.
    let hanging = bench.table.due(now);
    assert_eq!(hanging.len(), MOST);
    bench.table.done(hanging[0].login, &"app".into(), true, false, now);
    let now = bench.at(299.0);
    assert_eq!(bench.table.due(now).len(), 1, "a place is free");
    let now = bench.at(300.0);
    let overdue = bench.table.due(now);
    assert_eq!(overdue.len(), 200 - MOST);
    assert!(overdue.iter().all(|due| !due.asks));
    assert!(overdue.iter().all(|due| bench.table.stale_members(due.login, now).len() == 1));
    drop(places);
}

#[test]
fn who_cannot_be_told_is_asked_about_sooner_and_just_in_time() {
    let mut bench = Bench::new();
    let place = bench.enter("app", "c", 0.0);
    let id = *bench.table.by_member.get(&place.entry().id).unwrap();
    let mut asked = Vec::new();
    for tick in 0..1300 {
        let seconds = f64::from(tick) * 0.25;
        if bench.asked(seconds, false) > 0 {
            asked.push(seconds);
        }
        let stale = bench.table.stale_members(id, bench.at(seconds)).len();
        assert_eq!(stale, usize::from(seconds >= 300.0), "at {seconds}");
    }
    assert!(asked.len() > 30, "every 5 to 10 seconds: {asked:?}");
    assert!(asked.contains(&300.0), "{asked:?}");
    // A yes begins anew.
    let told = (1300..1400).find(|tick| bench.asked(f64::from(*tick) * 0.25, true) > 0);
    let told = f64::from(told.unwrap()) * 0.25;
    assert!(bench.table.stale_members(id, bench.at(told)).is_empty());
}

#[test]
fn whoever_wants_to_know_sooner_does() {
    let mut bench = Bench::new();
    let slow = bench.enter_with("app", "c", 0.0, Duration::from_secs(3600));
    assert_eq!(bench.asked(20.0, true), 0);
    let fast = bench.enter_with("app", "c", 20.0, Duration::from_secs(2));
    assert_eq!(bench.asked(22.0, true), 1);
    let soon: usize = (1..=20).map(|tick| bench.asked(22.0 + f64::from(tick) * 0.1, true)).sum();
    assert_eq!(soon, 1);
    bench.table.leave(fast.entry().id);
    let never: usize = (0..20).map(|second| bench.asked(24.0 + f64::from(second), true)).sum();
    assert!(never <= 1, "{never}");
    drop(slow);
}

#[test]
fn who_left_for_another_login_is_not_touched_by_the_first() {
    let mut bench = Bench::new();
    let place = bench.enter("app", "one", 0.0);
    let one = *bench.table.by_member.get(&place.entry().id).unwrap();
    assert!(bench.table.holds(one, place.entry().id));
    bench.table.leave(place.entry().id);
    bench.table.watch(place.entry(), question("app", "two"), bench.start);
    assert!(!bench.table.holds(one, place.entry().id));
    assert_eq!(bench.table.logins(), 1);
}
