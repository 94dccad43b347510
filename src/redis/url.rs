//! Where a Redis is, and as whom to log in: `redis://user:password@host:6379/0`.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

/// The port without which a URL means this one.
const PORT: u16 = 6379;

/// What a URL says. Has no `Debug`: it holds a password.
pub(super) struct Location {
    pub(super) address: Address,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: i64,
}

/// Where the server listens.
pub(super) enum Address {
    Tcp {
        /// A name or an address; an IPv6 one without brackets.
        host: String,
        port: u16,
        tls: bool,
    },
    Unix(PathBuf),
}

/// Why a text is no URL of a Redis. Holds nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("expected redis://host:6379/0, rediss:// (TLS) or unix:/path")]
    Scheme,
    /// No host, or none that could be looked up.
    #[error("the URL of a Redis needs a host, such as redis://localhost:6379/0")]
    Host,
    /// Not a port.
    #[error(
        "the port of the URL is not a number of 1 to 65535; `@`, `/`, `?` and `#` in a password \
         are written %40, %2F, %3F and %23"
    )]
    Port,
    /// The path is not a database.
    #[error("the path of the URL must be the number of a database, such as /0")]
    Database,
    /// A parameter that means nothing here.
    #[error("the URL has a parameter that is not known here: unix: takes db, user and password")]
    Parameter,
    /// Escapes that are no UTF-8, or text that is none.
    #[error("the URL is not UTF-8")]
    Encoding,
}

impl Location {
    /// Reads the whole of `text`.
    pub(super) fn parse(text: &[u8]) -> Result<Location, UrlError> {
        let text = std::str::from_utf8(text).map_err(|_| UrlError::Encoding)?;
        if let Some(rest) = text.strip_prefix("redis://") {
            return tcp(rest, false);
        }
        if let Some(rest) = text.strip_prefix("rediss://") {
            return tcp(rest, true);
        }
        let path = text.strip_prefix("unix:").or_else(|| text.strip_prefix("redis+unix:"));
        unix(path.ok_or(UrlError::Scheme)?)
    }
}

fn tcp(rest: &str, tls: bool) -> Result<Location, UrlError> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !query.is_empty() || rest.contains('#') {
        return Err(UrlError::Parameter);
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (decoded(user)?, decoded(password)?),
        None => (decoded(login)?, None),
    };
    let (host, port) = match place.strip_prefix('[') {
        Some(address) => {
            let (host, rest) = address.split_once(']').ok_or(UrlError::Host)?;
            (host, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
        }
        None => place.split_once(':').map_or((place, Some("")), |(host, port)| (host, Some(port))),
    };
    let port = match port.ok_or(UrlError::Port)? {
        "" => PORT,
        digits => digits.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)?,
    };
    let host = decoded(host)?.filter(|host| !host.contains(char::is_whitespace));
    Ok(Location {
        address: Address::Tcp { host: host.ok_or(UrlError::Host)?, port, tls },
        user,
        password,
        database: database(path)?,
    })
}

fn unix(rest: &str) -> Result<Location, UrlError> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !path.starts_with('/') {
        return Err(UrlError::Scheme);
    }
    let path = decoded(path)?.ok_or(UrlError::Scheme)?;
    let mut location =
        Location { address: Address::Unix(path.into()), user: None, password: None, database: 0 };
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("db", number)) => location.database = database(number)?,
            Some(("user" | "username", user)) => location.user = decoded(user)?,
            Some(("pass" | "password", password)) => location.password = decoded(password)?,
            Some(_) | None => return Err(UrlError::Parameter),
        }
    }
    Ok(location)
}

fn database(text: &str) -> Result<i64, UrlError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().ok().filter(|number| *number >= 0).ok_or(UrlError::Database)
}

/// Without percent escapes; nothing if empty.
fn decoded(text: &str) -> Result<Option<String>, UrlError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| UrlError::Encoding)?;
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, UrlError> {
        let location = Location::parse(text.as_bytes())?;
        let address = match location.address {
            Address::Tcp { host, port, tls } => format!("{host}|{port}|{tls}"),
            Address::Unix(path) => path.display().to_string(),
        };
        let or = |text: Option<String>| text.unwrap_or("-".to_owned());
        let (user, password) = (or(location.user), or(location.password));
        Ok(format!("{address} {user} {password} {}", location.database))
    }

    #[test]
    fn every_form_of_a_url_is_read() {
        for (text, expected) in [
            ("redis://localhost", "localhost|6379|false - - 0"),
            ("redis://127.0.0.1:7000/3", "127.0.0.1|7000|false - - 3"),
            ("rediss://:p%40ss@h:1/", "h|1|true - p@ss 0"),
            ("redis://me:secret@h", "h|6379|false me secret 0"),
            ("redis://me:se:cr@et@h", "h|6379|false me se:cr@et 0"),
            ("redis://[::1]:7000/1", "::1|7000|false - - 1"),
            ("redis://[::1]", "::1|6379|false - - 0"),
            ("unix:/run/redis.sock", "/run/redis.sock - - 0"),
            ("redis+unix:///run/r.sock?db=2&password=x%26y", "/run/r.sock - x&y 2"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_never_quoted() {
        for (text, expected) in [
            ("localhost:6379", UrlError::Scheme),
            ("http://localhost", UrlError::Scheme),
            ("unix:run/redis.sock", UrlError::Scheme),
            ("redis://", UrlError::Host),
            ("redis://:pass@", UrlError::Host),
            ("redis://[::1", UrlError::Host),
            ("redis://h:0", UrlError::Port),
            ("redis://h:99999", UrlError::Port),
            ("redis://:pa/ss@h", UrlError::Port),
            ("redis://h/one", UrlError::Database),
            ("redis://h/-1", UrlError::Database),
            ("redis://h/0?ssl=true", UrlError::Parameter),
            ("redis://h/0#insecure", UrlError::Parameter),
            ("unix:/r?timeout=1", UrlError::Parameter),
            ("redis://%ff@h", UrlError::Encoding),
        ] {
            assert_eq!(read(text), Err(expected), "{text}");
        }
        assert_eq!(Location::parse(b"redis://\xff").err(), Some(UrlError::Encoding));
    }
}
