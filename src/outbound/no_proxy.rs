//! `NO_PROXY`: the hosts reached without a proxy. Pure.
//!
//! As curl reads it, with what others take besides: entries parted by commas or blanks; `*` for
//! everything; a name for itself and all below it, whether written `example.com`, `.example.com` or
//! `*.example.com`; an address, or a range of them; each with a port or without, an IPv6 address in
//! brackets or not.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::endpoint;

/// The entries of a `NO_PROXY`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NoProxy {
    everything: bool,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    hosts: Hosts,
    /// Any, if there is none.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    /// In lower case, without a dot at either end.
    Name(String),
    Net(IpNet),
}

impl NoProxy {
    /// Parses a list; invalid entries are skipped.
    pub(super) fn parse(list: &str) -> Self {
        let texts = list.split(|c: char| c == ',' || c.is_whitespace());
        let mut no = Self::default();
        for text in texts.filter(|text| !text.is_empty()) {
            no.everything |= text == "*";
            no.entries.extend(Entry::parse(text));
        }
        no
    }

    /// Whether a host (as a URL has it) is reached without a proxy at this port.
    pub(super) fn contains(&self, host: &str, port: u16) -> bool {
        let host = Host::read(host);
        self.everything || self.entries.iter().any(|entry| entry.contains(&host, port))
    }

    /// The list for a library with a simpler syntax that speaks to `ports` only; `None` for everything.
    pub(super) fn for_ports(&self, ports: &[u16]) -> Option<String> {
        let there = |entry: &&Entry| entry.port.is_none_or(|port| ports.contains(&port));
        let texts = self.entries.iter().filter(there).map(|entry| match &entry.hosts {
            Hosts::Name(name) => name.clone(),
            Hosts::Net(net) => net.to_string(),
        });
        (!self.everything).then(|| texts.collect::<Vec<_>>().join(","))
    }
}

/// A host that is asked for.
enum Host {
    Name(String),
    Address(IpAddr),
}

impl Host {
    fn read(host: &str) -> Self {
        let host = host.to_ascii_lowercase();
        match endpoint::address(&host) {
            Some(address) => Self::Address(address.to_canonical()),
            None => Self::Name(host.trim_end_matches('.').to_owned()),
        }
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if let Some(net) = net(text) {
            return Some(Self { hosts: Hosts::Net(net), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text, None),
        };
        if let Some(net) = net(host) {
            return Some(Self { hosts: Hosts::Net(net), port });
        }
        let name = host.strip_prefix('*').unwrap_or(host).trim_matches('.').to_ascii_lowercase();
        (!name.is_empty()).then_some(Self { hosts: Hosts::Name(name), port })
    }

    fn contains(&self, host: &Host, port: u16) -> bool {
        let is_port = self.port.is_none_or(|only| only == port);
        is_port
            && match (&self.hosts, host) {
                (Hosts::Name(name), Host::Name(host)) => host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
                (Hosts::Net(net), Host::Address(address)) => net.contains(address),
                _ => false,
            }
    }
}

/// An address or a range of them, in brackets or not.
fn net(text: &str) -> Option<IpNet> {
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let one =
        |text: &str| text.parse::<IpAddr>().ok().map(|address| IpNet::from(address.to_canonical()));
    text.parse().ok().or_else(|| one(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_entry() {
        for (list, host, port, expected) in [
            ("*", "api.example", 443, true),
            ("*", "10.0.0.1", 443, true),
            ("*", "[2001:db8::1]", 443, true),
            ("a.example, *", "10.0.0.1", 443, true),
            ("", "api.example", 443, false),
            (" , ,", "api.example", 443, false),
            ("example.com", "example.com", 443, true),
            ("example.com", "EXAMPLE.com.", 443, true),
            ("example.com", "api.example.com", 443, true),
            ("example.com", "notexample.com", 443, false),
            (".example.com", "api.example.com", 443, true),
            (".example.com", "example.com", 443, true),
            ("*.example.com", "api.example.com", 443, true),
            ("*.example.com", "notexample.com", 443, false),
            ("example.com.", "api.example.com", 443, true),
            ("EXAMPLE.com", "api.example.com", 443, true),
            ("example.com:8443", "example.com", 8443, true),
            ("example.com:8443", "example.com", 443, false),
            ("example.com:x", "example.com", 443, false),
            ("a.example b.example", "b.example", 443, true),
            ("a.example,\tb.example", "b.example", 443, true),
            ("10.0.0.1", "10.0.0.1", 443, true),
            ("10.0.0.1", "167772161", 443, true),
            ("10.0.0.1", "[::ffff:10.0.0.1]", 443, true),
            ("10.0.0.1", "10.0.0.11", 443, false),
            ("10.0.0.1", "x10.0.0.1", 443, false),
            ("10.0.0.1:8443", "10.0.0.1", 8443, true),
            ("10.0.0.1:8443", "10.0.0.1", 443, false),
            ("10.0.0.0/8", "10.9.8.7", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("10.0.0.0/8:443", "10.9.8.7", 443, true),
            ("2001:db8::1", "[2001:db8::1]", 443, true),
            ("[2001:db8::1]", "[2001:0db8::1]", 443, true),
            ("[2001:db8::1]:8443", "[2001:db8::1]", 8443, true),
            ("[2001:db8::1]:8443", "[2001:db8::1]", 443, false),
            ("2001:db8::/32", "[2001:db8:9::1]", 443, true),
            ("::1", "[::1]", 443, true),
            ("localhost", "127.0.0.1", 443, false),
        ] {
            assert_eq!(
                NoProxy::parse(list).contains(host, port),
                expected,
                "{list} for {host}:{port}"
            );
        }
    }

    #[test]
    fn a_library_that_knows_less_is_told_what_it_knows() {
        let no = NoProxy::parse("*.a.example, b.example:443 [::1]:80, c.example:99 10.0.0.0/8");
        let told = no.for_ports(&[443, 80]).unwrap();
        assert_eq!(told, "a.example,b.example,::1/128,10.0.0.0/8");
        assert_eq!(NoProxy::parse("a.example *").for_ports(&[443]), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(list in "[a-z0-9.:*/\\[\\], é-]{0,40}", host in "[a-z0-9.:\\[\\]é-]{0,20}") {
            let _ = NoProxy::parse(&list).contains(&host, 443);
        }
    }
}
