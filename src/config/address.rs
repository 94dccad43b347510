//! The addresses that a file names: where to listen and which upstream to
//! reach. Read here only as far as two of them can be compared.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A place on this host to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// `host:port`; the host is empty for `:port`, all addresses.
    Tcp { host: String, port: u16 },
    /// `unix:/path`.
    Unix(PathBuf),
}

const LISTEN_FORM: &str =
    "expected host:port, such as 0.0.0.0:8080 or [::]:8080, or unix:/path/to.sock";

impl Listen {
    pub(super) fn parse(text: &str) -> Result<Listen, &'static str> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" | "/" => Err(LISTEN_FORM),
                path => Ok(Listen::Unix(path.into())),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(LISTEN_FORM)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or(LISTEN_FORM)?;
        let host =
            if host.is_empty() { String::new() } else { self::host(host).ok_or(LISTEN_FORM)? };
        Ok(Listen::Tcp { host, port })
    }

    /// Whether both cannot be bound at once.
    pub(super) fn overlaps(&self, other: &Listen) -> bool {
        match (self, other) {
            (Listen::Unix(a), Listen::Unix(b)) => a == b,
            (Listen::Tcp { host: a, port: p }, Listen::Tcp { host: b, port: q }) => {
                // Port 0 is another port each time.
                p == q && *p != 0 && (a == b || every(a, b) || every(b, a))
            }
            (Listen::Tcp { .. }, Listen::Unix(_)) | (Listen::Unix(_), Listen::Tcp { .. }) => false,
        }
    }
}

/// Whether `host` stands for every address, `other` among them.
fn every(host: &str, other: &str) -> bool {
    match host {
        "" | "::" => true,
        "0.0.0.0" => other.parse::<IpAddr>().map_or(other == "localhost", |ip| ip.is_ipv4()),
        _ => false,
    }
}

/// An upstream's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Whether the scheme carries upgrades.
    pub(super) upgrades: bool,
    /// Whether the server speaks neither WebSocket nor HTTP.
    pub(super) raw: bool,
    /// Whether the scheme is TLS.
    pub(super) tls: bool,
    pub(super) address: Address,
}

/// What two upstreams can have in common, whatever their schemes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Address {
    /// The host in one spelling; all names of this host are `localhost`.
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Endpoint {
    /// Never repeats the URL in an error: it may hold a password.
    pub(super) fn parse(url: &str) -> Result<Endpoint, String> {
        const RAW: [&str; 3] = ["tcp", "tls", "unix"];
        const SCHEMES: [&str; 9] =
            ["ws", "wss", "http", "https", "ws+unix", "http+unix", RAW[0], RAW[1], RAW[2]];
        let form = || format!("expected a URL that begins with {}", SCHEMES.join(":, ") + ":");
        let (scheme, rest) = url.split_once(':').ok_or_else(form)?;
        let scheme = scheme.to_ascii_lowercase();
        if !SCHEMES.contains(&scheme.as_str()) {
            return Err(form());
        }
        if rest.contains(['?', '#']) {
            return Err("a query or fragment has no meaning here: leave it out".to_owned());
        }
        if rest.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err("a URL has no spaces, control characters or backslashes".to_owned());
        }
        let raw = RAW.contains(&scheme.as_str());
        let upgrades = raw || scheme.starts_with("ws");
        if scheme.ends_with("unix") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            return match Path::new(path).is_absolute() && path != "/" {
                true => {
                    let address = Address::Unix(path.into());
                    Ok(Endpoint { upgrades, raw, tls: false, address })
                }
                false => Err(format!("expected {scheme}:/path/to.sock")),
            };
        }
        let tls = matches!(scheme.as_str(), "wss" | "https" | "tls");
        let rest =
            rest.strip_prefix("//").ok_or_else(|| format!("expected {scheme}://host:port"))?;
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.contains('@') {
            return Err("a user or password has no meaning here: leave it out".to_owned());
        }
        if raw && rest.contains('/') {
            return Err("the URL of a raw server has no path".to_owned());
        }
        let (host, port) = split_port(authority);
        let port = match port {
            None if raw => return Err(format!("needs a port: {scheme}://host:port")),
            None => Some(if tls { 443 } else { 80 }),
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok(),
            Some(_) => None,
        };
        let port = port.filter(|port| *port != 0).ok_or("the port must be 1 to 65535")?;
        let host = self::host(host).ok_or("the host is missing or not a host name or address")?;
        Ok(Endpoint { upgrades, raw, tls, address: Address::Tcp(this_host(host), port) })
    }
}

/// `[::1]:80` and `host:80`; an IPv6 address has colons of its own.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    }
}

/// A host in one spelling, or none if it is no host.
fn host(written: &str) -> Option<String> {
    if let Some(inner) = written.strip_prefix('[') {
        let address: IpAddr = inner.strip_suffix(']')?.parse().ok()?;
        return address.is_ipv6().then(|| address.to_string());
    }
    if let Ok(address) = written.parse::<IpAddr>() {
        return address.is_ipv4().then(|| address.to_string());
    }
    let name = written.strip_suffix('.').unwrap_or(written).to_ascii_lowercase();
    let legal = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // `127.1` and `0x7f000001` are addresses to some resolvers and names to others.
    let number = |label: &str| match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    (name.len() <= 253 && name.split('.').all(legal) && !number(last)).then_some(name)
}

fn this_host(host: String) -> String {
    let own = match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    };
    if own { "localhost".to_owned() } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_read() {
        let tcp = |host: &str, port| Ok(Listen::Tcp { host: host.to_owned(), port });
        assert_eq!(Listen::parse("0.0.0.0:8080"), tcp("0.0.0.0", 8080));
        assert_eq!(Listen::parse("[::]:80"), tcp("::", 80));
        assert_eq!(Listen::parse(":80"), tcp("", 80));
        assert_eq!(Listen::parse("localhost:0"), tcp("localhost", 0));
        assert_eq!(Listen::parse("unix:/run/a.sock"), Ok(Listen::Unix("/run/a.sock".into())));
        for bad in
            ["", "8080", "host", "host:", "host:x", "host:70000", "host:+8", "::1:80", "unix:"]
        {
            assert!(Listen::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn listen_addresses_overlap() {
        let overlap = |a, b| Listen::parse(a).unwrap().overlaps(&Listen::parse(b).unwrap());
        assert!(overlap("127.0.0.1:80", "127.0.0.1:80"));
        assert!(overlap("0.0.0.0:80", "127.0.0.1:80"));
        assert!(overlap("127.0.0.1:80", ":80"));
        assert!(!overlap("0.0.0.0:80", "[::1]:80"));
        assert!(!overlap("127.0.0.1:80", "127.0.0.1:81"));
        assert!(!overlap("127.0.0.1:0", "127.0.0.1:0"));
    }

    #[test]
    fn one_address_in_many_spellings_is_one() {
        let address = |url| Endpoint::parse(url).map(|endpoint| endpoint.address);
        let own = Ok(Address::Tcp("localhost".to_owned(), 3000));
        for url in [
            "ws://localhost:3000",
            "http://127.0.0.1:3000/x",
            "wss://[::1]:3000",
            "WS://LOCALHOST.:3000/",
            "ws://[::ffff:127.0.0.1]:3000",
            "ws://0.0.0.0:3000",
        ] {
            assert_eq!(address(url), own, "{url}");
        }
        assert_eq!(address("ws://app"), address("http://APP:80/x"));
        assert_eq!(address("wss://app"), address("https://app:443"));
        assert_eq!(address("ws+unix:/run/a.sock"), address("http+unix:///run/a.sock"));
        assert_eq!(address("unix:/run/a.sock"), address("http+unix:///run/a.sock"));
        assert_eq!(address("tcp://localhost:3000"), own);
    }

    #[test]
    fn what_is_no_upstream_is_refused_without_being_repeated() {
        for bad in [
            "hunter2",
            "hunter2://host",
            "ws:hunter2",
            "ws://",
            "ws://:80",
            "ws://hunter2:0",
            "ws://hunter2:99999",
            "ws://hunter2:x",
            "ws://user:hunter2@host",
            "ws://host/?token=hunter2",
            "ws://host/#hunter2",
            "ws://host hunter2",
            "ws://127.1:80",
            "ws://2130706433",
            "ws://0x7f000001",
            "ws://0X7F.0.0.0x1.:80",
            "ws://127.0.0.0x",
            "ws://[hunter2]",
            "ws://::1:80",
            "ws+unix:hunter2",
            "tcp://hunter2",
            "tls://hunter2:1/",
            "unix:hunter2",
        ] {
            let message = Endpoint::parse(bad).unwrap_err();
            assert!(!message.contains("hunter2"), "{bad}: {message}");
        }
    }
}
