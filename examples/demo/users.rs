//! The embedded user table: who may log in, and how a password is checked
//! (PBKDF2-HMAC-SHA256, RFC 8018 §5.2, one salt for each user).

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

/// One row of the table, as the page may see it.
#[derive(Debug, Serialize)]
pub(crate) struct User {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) role: &'static str,
    #[serde(skip)]
    salt: &'static str,
    #[serde(skip)]
    hash: &'static str,
}

const ITERATIONS: NonZeroU32 = NonZeroU32::new(100_000).unwrap();

/// Mallory can log in, but `config/demo.yaml` keeps her from the socket.
const USERS: [User; 4] = [
    User {
        id: "ada",
        name: "Ada Lovelace",
        role: "member",
        salt: "qit04GsAg4Ar_jYCTaQIQQ",
        hash: "bG5IYsS0a04VRFk19eW3bCx5GE4s-wN02IY2O5KRM1o",
    },
    User {
        id: "grace",
        name: "Grace Hopper",
        role: "member",
        salt: "Q8yH0kEJ7pzUBszgBHNgiA",
        hash: "mOKY7dayyHBBLwkw5CjXnj3y2ROY73krMDISbxqSzvE",
    },
    User {
        id: "linus",
        name: "Linus Pauling",
        role: "admin",
        salt: "EpHVqqZMdUySfbT6etOR9g",
        hash: "P9E09bb3U9y4g4teMUBNKjeWZH-b_imNvwqgLHC0R84",
    },
    User {
        id: "mallory",
        name: "Mallory Mallet",
        role: "suspended",
        salt: "vM1TnwVIHxTQdm2wepb3yg",
        hash: "OA7e50spHr0ciKBHrCtyIv4YVR5IAeHlKAY3km1hAao",
    },
];

/// The user of that name, if the password is theirs. Takes tens of
/// milliseconds by design: not for an async thread.
pub(crate) fn authenticate(id: &str, password: &str) -> Option<&'static User> {
    let user = find(id);
    // An unknown name costs as much time as a wrong password.
    let row = user.unwrap_or(&USERS[0]);
    let salt = URL_SAFE_NO_PAD.decode(row.salt).ok()?;
    let hash = URL_SAFE_NO_PAD.decode(row.hash).ok()?;
    let verdict =
        pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt, password.as_bytes(), &hash);
    verdict.ok().and(user)
}

/// The user of that name.
pub(crate) fn find(id: &str) -> Option<&'static User> {
    USERS.iter().find(|user| user.id == id)
}
