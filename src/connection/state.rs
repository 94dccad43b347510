//! The life of a connection, as the registry sees it: which states there are,
//! what may happen in each, and what comes of it. Every change of state goes
//! through [`State::after`].
//!
//! ```text
//!             Admit          Expire
//!  Deciding ────────▶ Open ──────────▶ Expiring
//!     │                │ ◀────────────    │
//!     │ Close          │ Close  Renew     │ Close
//!     └────────────────┴──▶ Closing ◀─────┘
//!                             │
//!        (from any) Leave ────┴──▶ Gone
//! ```

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It is in the registry, and whether it may stay is being found out.
    Deciding,
    /// It was admitted, and the login behind it stands.
    Open,
    /// Its login has ended; `lifetime.grace` is left to renew it.
    Expiring,
    /// sockgate has asked it to end; nothing brings it back.
    Closing,
    /// It has left the registry.
    Gone,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It may stay.
    Admit,
    /// Its login has ended, and there is a grace.
    Expire,
    /// Its login was proven anew.
    Renew,
    /// sockgate asks it to end, for whatever reason.
    Close,
    /// It leaves the registry: its sockets are done, or it was refused.
    Leave,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [State; 5] =
        [State::Deciding, State::Open, State::Expiring, State::Closing, State::Gone];

    /// The state after `event`; none if that cannot happen now, and so changes
    /// nothing: a close comes once, and nothing is renewed behind it.
    #[must_use]
    pub fn after(self, event: Event) -> Option<State> {
        match (self, event) {
            (State::Deciding, Event::Admit) | (State::Open | State::Expiring, Event::Renew) => {
                Some(State::Open)
            }
            (State::Open, Event::Expire) => Some(State::Expiring),
            (State::Deciding | State::Open | State::Expiring, Event::Close) => Some(State::Closing),
            (State::Deciding | State::Open | State::Expiring | State::Closing, Event::Leave) => {
                Some(State::Gone)
            }
            // What is not decided yet has no grace and no login to renew.
            (State::Deciding, Event::Expire | Event::Renew)
            | (State::Open, Event::Admit)
            | (State::Expiring, Event::Admit | Event::Expire)
            | (State::Closing, Event::Admit | Event::Expire | Event::Renew | Event::Close)
            | (
                State::Gone,
                Event::Admit | Event::Expire | Event::Renew | Event::Close | Event::Leave,
            ) => None,
        }
    }

    /// Whether the login behind the connection may still be renewed.
    pub fn has_login(self) -> bool {
        self.after(Event::Renew).is_some()
    }

    /// Whether it is on its way out, or gone.
    pub fn is_ending(self) -> bool {
        matches!(self, State::Closing | State::Gone)
    }

    /// The state with this discriminant; [`State::Gone`] if there is none.
    pub(super) fn of(number: u8) -> State {
        State::ALL.get(usize::from(number)).copied().unwrap_or(State::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 5] =
        [Event::Admit, Event::Expire, Event::Renew, Event::Close, Event::Leave];

    #[test]
    fn every_transition_is_as_drawn_and_every_other_is_forbidden() {
        let allowed = [
            (State::Deciding, Event::Admit, State::Open),
            (State::Deciding, Event::Close, State::Closing),
            (State::Deciding, Event::Leave, State::Gone),
            (State::Open, Event::Expire, State::Expiring),
            (State::Open, Event::Renew, State::Open),
            (State::Open, Event::Close, State::Closing),
            (State::Open, Event::Leave, State::Gone),
            (State::Expiring, Event::Renew, State::Open),
            (State::Expiring, Event::Close, State::Closing),
            (State::Expiring, Event::Leave, State::Gone),
            (State::Closing, Event::Leave, State::Gone),
        ];
        for state in State::ALL {
            for event in EVENTS {
                let drawn = allowed.iter().find(|(from, on, _)| (*from, *on) == (state, event));
                assert_eq!(state.after(event), drawn.map(|(_, _, to)| *to), "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn every_state_can_be_reached_and_every_life_can_end() {
        let mut reached = vec![State::Deciding];
        let mut next = 0;
        while let Some(state) = reached.get(next).copied() {
            for state in EVENTS.iter().filter_map(|event| state.after(*event)) {
                if !reached.contains(&state) {
                    reached.push(state);
                }
            }
            next += 1;
        }
        assert_eq!(reached.len(), State::ALL.len(), "{reached:?}");
        for state in State::ALL {
            assert!(state == State::Gone || state.after(Event::Leave) == Some(State::Gone));
        }
    }

    #[test]
    fn a_state_survives_being_a_number() {
        for state in State::ALL {
            assert_eq!(State::of(state as u8), state);
        }
        assert_eq!(State::of(200), State::Gone);
    }
}
