//! What the claims of a token must say (RFC 7519 §4.1). Called only for claims
//! whose signature is good.

use serde_json::{Map, Value};

use super::super::timestamp::{LAST, whole};
use super::token;
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::json::member;

/// What is demanded of every token.
pub(super) struct Rules {
    /// `iss` must be exactly this.
    pub(super) issuer: Option<Box<str>>,
    /// What `aud` must say.
    pub(super) audience: Audience,
    /// Seconds that clocks may differ.
    pub(super) leeway: u32,
    /// Claims that must be there, and not null.
    pub(super) required: Vec<Box<str>>,
}

/// What `aud` must say.
pub(in crate::verifier) enum Audience {
    /// Nothing is configured: a token that is meant for somebody is refused,
    /// for nobody said that it is meant for us.
    Unset,
    /// Anything.
    Any,
    /// At least one of these.
    OneOf(Vec<Box<str>>),
}

/// The instants that a token names, in whole seconds.
#[derive(Clone, Copy)]
pub(in crate::verifier) struct Times {
    /// `iat`.
    pub(in crate::verifier) issued_at: Option<UnixSeconds>,
    /// `exp`; a fraction of a second is a whole one: nobody is closed early.
    pub(in crate::verifier) expires: Option<UnixSeconds>,
    /// `nbf`; a fraction of a second is a whole one.
    pub(in crate::verifier) not_before: Option<UnixSeconds>,
}

impl Times {
    /// What `claims` say.
    ///
    /// # Errors
    /// [`Reason::InvalidCredential`] for an instant that is none.
    pub(in crate::verifier) fn read(claims: &Map<String, Value>) -> Result<Times, Reason> {
        Ok(Times {
            issued_at: instant(claims, "iat")?.map(|at| at.floor),
            expires: instant(claims, "exp")?.map(|at| at.ceiling),
            not_before: instant(claims, "nbf")?.map(|at| at.ceiling),
        })
    }
}

impl Rules {
    /// Judges `claims` at `now`. What is wrong for ever is said before what is
    /// wrong only now, since a fresh token of that kind would not help.
    pub(super) fn judge(
        &self,
        claims: &Map<String, Value>,
        now: UnixSeconds,
    ) -> Result<Times, Reason> {
        let sound = self.has_required(claims)
            && self.issuer_is_ours(claims)
            && self.audience.is_met(member(claims, "aud"))
            && !is_for_another_use(claims);
        if !sound {
            return Err(Reason::InvalidCredential);
        }
        let times = Times::read(claims)?;
        self.judge_times(&times, now)?;
        Ok(times)
    }

    /// The part of [`Rules::judge`] that depends on `now`.
    pub(super) fn judge_times(&self, times: &Times, now: UnixSeconds) -> Result<(), Reason> {
        let leeway = i64::from(self.leeway);
        // The same sum as `Identity::deadline`, so gate and live connection agree.
        if times.expires.is_some_and(|at| at.saturating_add(leeway) <= now) {
            return Err(Reason::Expired);
        }
        if times.not_before.is_some_and(|at| at > now.saturating_add(leeway)) {
            return Err(Reason::NotYetValid);
        }
        Ok(())
    }

    fn has_required(&self, claims: &Map<String, Value>) -> bool {
        self.required.iter().all(|name| member(claims, name).is_some_and(|claim| !claim.is_null()))
    }

    /// Exactly, as a case-sensitive string: a slash more is another issuer.
    fn issuer_is_ours(&self, claims: &Map<String, Value>) -> bool {
        match (&self.issuer, member(claims, "iss")) {
            (Some(ours), Some(Value::String(issuer))) => **ours == **issuer,
            (None, None | Some(Value::String(_))) => true,
            (Some(_), _) | (None, Some(_)) => false,
        }
    }
}

impl Audience {
    /// What the file says: names, or `any` alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::verifier) fn read(names: &[String]) -> Result<Audience, &'static str> {
        match names {
            [any] if any == "any" => Ok(Audience::Any),
            names if names.iter().any(|name| name == "any") => {
                Err("`any` stands alone: it already admits every audience")
            }
            names if names.is_empty() || names.iter().any(String::is_empty) => {
                Err("must name an audience, or be `any`")
            }
            names => Ok(Audience::OneOf(names.iter().map(|name| name.as_str().into()).collect())),
        }
    }

    /// Whether `audience`, the claim `aud`, is as it must be.
    pub(in crate::verifier) fn is_met(&self, audience: Option<&Value>) -> bool {
        let ours = match self {
            Audience::Unset => return audience.is_none(),
            Audience::Any => return true,
            Audience::OneOf(ours) => ours,
        };
        let is_ours = |name: &str| ours.iter().any(|known| **known == *name);
        match audience {
            Some(Value::String(name)) => is_ours(name),
            Some(Value::Array(names)) => {
                names.iter().all(Value::is_string)
                    && names.iter().filter_map(Value::as_str).any(is_ours)
            }
            Some(_) | None => false,
        }
    }
}

/// The event that a logout token tells of (OpenID Connect Back-Channel Logout 1.0 §2.4).
pub(super) const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// Some providers say in the claims what a token is for, under the same key. A logout
/// token need not say so in its header, and would else be a login.
pub(in crate::verifier) fn is_for_another_use(claims: &Map<String, Value>) -> bool {
    let says_refresh = |name: &str| {
        member(claims, name)
            .and_then(Value::as_str)
            .is_some_and(|value| value.eq_ignore_ascii_case("refresh"))
    };
    says_refresh("token_use")
        || member(claims, "events").is_some_and(|events| events.get(LOGOUT).is_some())
        || member(claims, "typ").and_then(Value::as_str).is_some_and(token::is_foreign)
}

/// A `NumericDate`, which may have a fraction (RFC 7519 §2).
#[derive(Clone, Copy)]
struct Instant {
    floor: UnixSeconds,
    ceiling: UnixSeconds,
}

/// The claim `name` as an instant; anything but a number that is not negative
/// is wrong.
fn instant(claims: &Map<String, Value>, name: &str) -> Result<Option<Instant>, Reason> {
    let Some(claim) = member(claims, name) else { return Ok(None) };
    let (floor, ceiling) = match (claim.as_u64(), claim.as_f64()) {
        (Some(seconds), _) => {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            (seconds, seconds)
        }
        (None, Some(seconds)) => {
            let up = whole(seconds.ceil());
            (whole(seconds).ok_or(INVALID)?, up.ok_or(INVALID)?)
        }
        (None, None) => return Err(INVALID),
    };
    Ok(Some(Instant { floor: floor.min(LAST), ceiling: ceiling.min(LAST) }))
}

const INVALID: Reason = Reason::InvalidCredential;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: UnixSeconds = 1_000_000;

    fn rules() -> Rules {
        Rules {
            issuer: Some("https://id.example".into()),
            audience: Audience::OneOf(vec!["chat".into(), "voice".into()]),
            leeway: 30,
            required: vec!["exp".into()],
        }
    }

    /// What `rules` say to good claims with `changes` made to them; null removes.
    fn judged(rules: &Rules, changes: Value) -> Result<Times, Reason> {
        let mut claims = json!({"iss": "https://id.example", "aud": "chat", "exp": NOW + 60});
        for (name, change) in changes.as_object().unwrap() {
            claims[name] = change.clone();
        }
        let mut claims = claims.as_object().unwrap().clone();
        if let Some(Value::Array(names)) = claims.remove("without") {
            names.iter().for_each(|name| drop(claims.remove(name.as_str().unwrap())));
        }
        rules.judge(&claims, NOW)
    }

    fn refused(rules: &Rules, changes: Value) -> Option<Reason> {
        judged(rules, changes).err()
    }

    const INVALID: Option<Reason> = Some(Reason::InvalidCredential);

    #[test]
    fn expiry_counts_the_leeway_to_the_second() {
        for (exp, expected) in [
            (json!(NOW - 29), None),
            (json!(NOW - 30), Some(Reason::Expired)),
            (json!(NOW as f64 - 30.5), Some(Reason::Expired)),
            (json!(NOW as f64 - 29.5), None),
            (json!(0), Some(Reason::Expired)),
            (json!(u64::MAX), None),
            (json!(1e300), None),
        ] {
            assert_eq!(refused(&rules(), json!({"exp": exp})), expected, "{exp}");
        }
    }

    #[test]
    fn gate_and_live_connection_agree_on_the_end() {
        let times = judged(&rules(), json!({"exp": NOW as f64 + 0.9, "iat": 12.7})).ok().unwrap();
        assert_eq!((times.expires, times.issued_at), (Some(NOW + 1), Some(12)));
        let late = judged(&rules(), json!({"exp": 1e300})).ok().unwrap();
        assert_eq!(late.expires, Some(LAST));
    }

    #[test]
    fn an_expiry_that_is_no_number_is_invalid() {
        for exp in [
            json!("2000000"),
            json!(null),
            json!([NOW + 60]),
            json!(-1),
            json!(-0.5),
            json!(true),
            json!({}),
        ] {
            assert_eq!(refused(&rules(), json!({"exp": exp})), INVALID, "{exp}");
        }
        assert_eq!(refused(&rules(), json!({"without": ["exp"]})), INVALID);
    }

    #[test]
    fn expiry_may_be_left_out_only_if_it_is_not_required() {
        let rules = Rules { required: vec![], ..rules() };
        assert!(judged(&rules, json!({"without": ["exp"]})).ok().unwrap().expires.is_none());
        assert_eq!(refused(&rules, json!({"exp": null})), INVALID);
        assert_eq!(refused(&rules, json!({"exp": 1})), Some(Reason::Expired));
    }

    #[test]
    fn not_before_counts_the_leeway() {
        for (nbf, expected) in [
            (json!(NOW + 30), None),
            (json!(NOW + 31), Some(Reason::NotYetValid)),
            (json!(NOW as f64 + 30.5), Some(Reason::NotYetValid)),
            (json!(NOW + 3600), Some(Reason::NotYetValid)),
            (json!(u64::MAX), Some(Reason::NotYetValid)),
            (json!("1"), INVALID),
            (json!(null), INVALID),
        ] {
            assert_eq!(refused(&rules(), json!({"nbf": nbf})), expected, "{nbf}");
        }
    }

    #[test]
    fn issued_at_must_be_a_number_if_it_is_there() {
        for iat in [json!("1"), json!(null), json!([1])] {
            assert_eq!(refused(&rules(), json!({"iat": iat})), INVALID, "{iat}");
        }
    }

    #[test]
    fn the_issuer_must_be_equal() {
        for iss in [
            json!("https://id.example/"),
            json!("https://id.exampl"),
            json!("HTTPS://id.example"),
            json!(["https://id.example"]),
            json!(""),
            json!(null),
        ] {
            assert_eq!(refused(&rules(), json!({"iss": iss})), INVALID, "{iss}");
        }
        assert_eq!(refused(&rules(), json!({"without": ["iss"]})), INVALID);
        let unset = Rules { issuer: None, ..rules() };
        assert_eq!(refused(&unset, json!({"without": ["iss"]})), None);
        assert_eq!(refused(&unset, json!({"iss": "anyone"})), None);
        assert_eq!(refused(&unset, json!({"iss": ["anyone"]})), INVALID);
    }

    #[test]
    fn the_audience_must_hold_one_of_ours() {
        for aud in [json!("voice"), json!(["chat"]), json!(["other", "voice"])] {
            assert_eq!(refused(&rules(), json!({"aud": aud})), None, "{aud}");
        }
        for aud in [
            json!("cha"),
            json!("chat2"),
            json!("Chat"),
            json!("chat voice"),
            json!(""),
            json!([]),
            json!(["other"]),
            json!(["chat", 1]),
            json!([["chat"]]),
            json!({"chat": 1}),
            json!(null),
            json!(1),
        ] {
            assert_eq!(refused(&rules(), json!({"aud": aud})), INVALID, "{aud}");
        }
        assert_eq!(refused(&rules(), json!({"without": ["aud"]})), INVALID);
    }

    #[test]
    fn a_token_for_somebody_needs_an_audience_configured_or_any() {
        let unset = Rules { audience: Audience::Unset, ..rules() };
        assert_eq!(refused(&unset, json!({})), INVALID);
        assert_eq!(refused(&unset, json!({"aud": null})), INVALID);
        assert_eq!(refused(&unset, json!({"without": ["aud"]})), None);
        let any = Rules { audience: Audience::Any, ..rules() };
        assert_eq!(refused(&any, json!({"aud": "whoever"})), None);
        assert_eq!(refused(&any, json!({"without": ["aud"]})), None);
    }

    #[test]
    fn required_claims_are_there_and_not_null() {
        let rules = Rules { required: vec!["exp".into(), "role".into()], ..rules() };
        assert_eq!(refused(&rules, json!({})), INVALID);
        assert_eq!(refused(&rules, json!({"role": null})), INVALID);
        assert_eq!(refused(&rules, json!({"role": false})), None);
    }

    #[test]
    fn tokens_for_other_uses_are_invalid() {
        for changes in [
            json!({"token_use": "refresh"}),
            json!({"token_use": "Refresh"}),
            json!({"typ": "Refresh"}),
            json!({"events": {(LOGOUT): {}}}),
        ] {
            assert_eq!(refused(&rules(), changes.clone()), INVALID, "{changes}");
        }
        assert_eq!(
            refused(&rules(), json!({"token_use": "access", "typ": "Bearer", "events": []})),
            None
        );
    }

    #[test]
    fn what_is_wrong_for_ever_is_said_before_what_is_wrong_now() {
        assert_eq!(refused(&rules(), json!({"exp": 1, "iss": "other"})), INVALID);
        assert_eq!(refused(&rules(), json!({"exp": 1, "nbf": "x"})), INVALID);
    }
}
