//! The values that metric labels and log fields can take.

use std::borrow::Cow;

/// The opcodes of `sockgate_frames_total`, in the order in which frames are counted.
pub const OPCODES: [&str; 6] = ["text", "binary", "continuation", "ping", "pong", "close"];

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client → upstream.
    Up = 0,
    /// Upstream → client.
    Down = 1,
}

impl Direction {
    /// Both.
    pub const ALL: [Direction; 2] = [Direction::Up, Direction::Down];

    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Direction::Up => "up",
            Direction::Down => "down",
        }
    }
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
    /// sockgate.
    Sockgate,
}

impl Initiator {
    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Initiator::Client => "client",
            Initiator::Upstream => "upstream",
            Initiator::Sockgate => "sockgate",
        }
    }
}

/// What became of an attempt to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Let in.
    Admitted,
    /// Turned away.
    Refused,
    /// Something that sockgate depends on, or sockgate itself, cannot serve it.
    Unavailable,
}

impl Outcome {
    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Admitted => "admitted",
            Outcome::Refused => "refused",
            Outcome::Unavailable => "unavailable",
        }
    }
}

/// The labels of the standard close codes, from 1000 on (RFC 6455 §7.4.1).
const STANDARD: [&str; 16] = [
    "1000", "1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008", "1009", "1010", "1011",
    "1012", "1013", "1014", "1015",
];

/// The label of a close code: the number if it is a standard one or one that
/// this configuration sends (`own`), else its range.
pub fn code_label(code: u16, own: &[u16]) -> Cow<'static, str> {
    if let Some(label) = code.checked_sub(1000).and_then(|at| STANDARD.get(usize::from(at))) {
        return (*label).into();
    }
    match code {
        _ if own.contains(&code) => code.to_string().into(),
        3000..=3999 => "3xxx".into(),
        4000..=4999 => "4xxx".into(),
        _ => "other".into(),
    }
}

/// The label of an HTTP status: the number if sockgate sent it, else the class.
pub fn status_label(status: u16, ours: bool) -> Cow<'static, str> {
    match status {
        _ if ours => status.to_string().into(),
        100..=199 => "1xx".into(),
        200..=299 => "2xx".into(),
        300..=399 => "3xx".into(),
        400..=499 => "4xx".into(),
        500..=599 => "5xx".into(),
        _ => "other".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_few() {
        for code in 1000..=1015 {
            assert_eq!(code_label(code, &[]), code.to_string());
        }
        let labels = [999, 1000, 1015, 1016, 2999, 3000, 4001, 4500, 5000, u16::MAX]
            .map(|code| code_label(code, &[4001]));
        let expected =
            ["other", "1000", "1015", "other", "other", "3xxx", "4001", "4xxx", "other", "other"];
        assert_eq!(labels, expected);
        assert_eq!([status_label(404, false), status_label(404, true)], ["4xx", "404"]);
    }
}
