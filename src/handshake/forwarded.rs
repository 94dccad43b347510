//! Who the client is when proxies stand in front: the forwarded headers of
//! trusted peers, and of nobody else.

use std::net::{IpAddr, Ipv4Addr};

use http::HeaderMap;
use ipnet::IpNet;

use super::target::Host;

/// The client as the gate believes it to be.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address that limits count and logs show.
    pub ip: IpAddr,
    /// Whether the client spoke TLS to the gate or to a trusted proxy.
    pub https: bool,
    /// Whether the peer itself is trusted.
    pub trusted: bool,
}

/// Which peers are believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    /// The CIDRs of `server.trusted_proxies`.
    pub networks: Vec<IpNet>,
    /// `server.trust_forwarded_host`.
    pub forwarded_host: bool,
}

impl TrustedProxies {
    /// Whether `ip` is a trusted proxy. A Unix-socket peer counts as 127.0.0.1.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }

    /// The client behind `peer`: the right-most address of X-Forwarded-For that
    /// is not itself a trusted proxy.
    pub fn client(&self, peer: Option<IpAddr>, tls: bool, headers: &HeaderMap) -> Client {
        let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_canonical();
        if !self.contains(peer) {
            return Client { ip: peer, https: tls, trusted: false };
        }
        let mut ip = peer;
        let hops = headers.get_all("x-forwarded-for").into_iter().filter_map(|v| v.to_str().ok());
        let mut hops: Vec<&str> = hops.flat_map(|value| value.split(',')).map(str::trim).collect();
        while let Some(hop) = hops.pop() {
            let Some(address) = address(hop) else { break };
            ip = address;
            if !self.contains(ip) {
                break;
            }
        }
        let proto = headers
            .get_all("x-forwarded-proto")
            .iter()
            .next_back()
            .and_then(|value| value.to_str().ok());
        // The right-most is the word of the trusted proxy itself.
        let https = match proto.map(|value| value.rsplit(',').next().unwrap_or_default().trim()) {
            Some(scheme) => ["https", "wss"].iter().any(|s| s.eq_ignore_ascii_case(scheme)),
            None => tls,
        };
        Client { ip, https, trusted: true }
    }

    /// X-Forwarded-Host, where it is believed.
    pub fn host(&self, client: &Client, headers: &HeaderMap) -> Option<Host> {
        if !self.forwarded_host || !client.trusted {
            return None;
        }
        let value = headers.get_all("x-forwarded-host").iter().next_back()?.to_str().ok()?;
        Host::parse(value.rsplit(',').next()?.trim()).ok()
    }
}

/// An address as X-Forwarded-For has it: bare, bracketed, or with a port.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = match hop.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None if hop.matches(':').count() == 1 => hop.split(':').next()?,
        None => hop,
    };
    bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &[&str], peer: &str, forwarded: &[(&'static str, &str)]) -> Client {
        let mut headers = HeaderMap::new();
        for (name, value) in forwarded {
            headers.append(*name, value.parse().unwrap());
        }
        let proxies = TrustedProxies {
            networks: trusted.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            forwarded_host: false,
        };
        proxies.client(Some(peer.parse().unwrap()), false, &headers)
    }

    #[test]
    fn strangers_are_not_believed() {
        let seen = client(
            &["10.0.0.0/8"],
            "192.0.2.1",
            &[("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")],
        );
        assert_eq!((seen.ip.to_string().as_str(), seen.https), ("192.0.2.1", false));
    }

    #[test]
    fn the_right_most_stranger_is_the_client() {
        let chain = [
            ("x-forwarded-for", "1.1.1.1, 203.0.113.9"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
        ];
        let seen = client(&["10.0.0.0/8"], "10.0.0.1", &chain);
        assert_eq!((seen.ip.to_string().as_str(), seen.https), ("203.0.113.9", true));
    }

    #[test]
    fn what_a_client_put_in_front_of_a_proxys_word_is_not_believed() {
        let forged = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https, http")];
        assert!(!client(&["10.0.0.0/8"], "10.0.0.1", &forged).https);
    }

    #[test]
    fn ports_brackets_and_rubbish_are_handled() {
        let ip = |value: &str| {
            client(&["10.0.0.0/8"], "10.0.0.1", &[("x-forwarded-for", value)]).ip.to_string()
        };
        assert_eq!(ip("203.0.113.9:1234"), "203.0.113.9");
        assert_eq!(ip("[2001:db8::1]:1234"), "2001:db8::1");
        assert_eq!(ip("::ffff:203.0.113.9"), "203.0.113.9");
        assert_eq!(ip("203.0.113.9, unknown"), "10.0.0.1");
    }
}
