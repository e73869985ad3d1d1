//! Hosts that no request goes to, in whatever spelling: those that serve a machine's own credentials, and
//! those that are no host at all. The loopback is one (an emulator listens there).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use url::Host;

const LINK_LOCAL: &str = "a link-local address";
const METADATA: &str = "an address of a cloud's metadata service";
const NO_HOST: &str = "not the address of one host";

/// What nothing is sent to, and what it is called.
const FORBIDDEN: [(&str, &str); 14] = [
    ("169.254.0.0/16", LINK_LOCAL),
    ("fe80::/10", LINK_LOCAL),
    // AWS (169.254.169.254 over IPv6, and the agents of containers), Google, Oracle, Scaleway.
    ("fd00:ec2::/32", METADATA),
    ("fd20:ce::/32", METADATA),
    ("fd00:c1::a9fe:a9fe/128", METADATA),
    ("fd00:42::42/128", METADATA),
    // Alibaba, Azure's wire server, Oracle.
    ("100.100.100.200/32", METADATA),
    ("168.63.129.16/32", METADATA),
    ("192.0.0.192/32", METADATA),
    ("0.0.0.0/8", NO_HOST),
    ("::/128", NO_HOST),
    ("224.0.0.0/4", NO_HOST),
    ("255.255.255.255/32", NO_HOST),
    ("ff00::/8", NO_HOST),
];

/// Names of metadata services: behind a proxy it is the proxy that resolves them.
const METADATA_NAMES: [&str; 9] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
    "metadata.packet.net",
    "metadata.platformequinix.com",
    "api.metadata.cloud.ibm.com",
];

/// Why nothing is sent to a host of a URL, by how it is written: what it is.
pub(crate) fn forbidden(host: &str) -> Option<&'static str> {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_or_below = |known: &&str| {
        name.strip_suffix(*known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    // A single label below another domain is a name like any other.
    let known = |known: &&str| {
        if known.contains('.') { is_or_below(known) } else { name == **known }
    };
    if METADATA_NAMES.iter().any(known) {
        return Some("the name of a cloud's metadata service");
    }
    address(&name).and_then(forbidden_address)
}

/// Why nothing is sent to an address, wherever it comes from: what it is. An IPv4 address inside of an
/// IPv6 one counts, too.
pub fn forbidden_address(address: IpAddr) -> Option<&'static str> {
    let inner = match address {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(v6) => embedded(v6),
    };
    let all = std::iter::once(address).chain(inner.into_iter().map(IpAddr::V4));
    let lists = |address: IpAddr| {
        FORBIDDEN.iter().find_map(|(net, what)| {
            let net: IpNet = net.parse().ok()?;
            net.contains(&address).then_some(*what)
        })
    };
    all.filter(|address| *address != IpAddr::V6(Ipv6Addr::LOCALHOST)).find_map(lists)
}

/// Whether a host is this machine: 127.0.0.0/8, `::1` or `localhost`.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || address(host).is_some_and(|address| address.to_canonical().is_loopback())
}

/// A host's address in any spelling that a resolver takes: `169.254.169.254`, `0xa9fea9fe`,
/// `2852039166`, `[::ffff:a9fe:a9fe]`.
pub fn address(host: &str) -> Option<IpAddr> {
    // The standard of URLs knows no zones. Without brackets a `%` is no part of an address, but of a name.
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let v6 = v6.map_or(host, |v6| v6.split('%').next().unwrap_or(v6));
    if let Ok(v6) = v6.parse::<Ipv6Addr>() {
        return Some(v6.into());
    }
    // It decodes a host, too, which no resolver does.
    let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    match Host::parse(host).ok().filter(|_| plain)? {
        Host::Ipv4(v4) => Some(v4.into()),
        Host::Ipv6(_) | Host::Domain(_) => None,
    }
}

/// The IPv4 addresses that an IPv6 one may stand for, by what translates or tunnels: some are read from
/// two places, because there is no telling how a network is set up.
#[allow(clippy::many_single_char_names)] // the eight groups of an address
fn embedded(v6: Ipv6Addr) -> Vec<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let mut found = Vec::new();
    // Compatible (RFC 4291), mapped, and translated in an older way (RFC 2765).
    if [a, b, c, d] == [0; 4]
        && matches!((e, f), (0, 0 | 0xffff) | (0xffff, 0))
        && v6 != Ipv6Addr::LOCALHOST
    {
        found.push(v4(g, h));
    }
    if [a, b] == [0x64, 0xff9b] {
        // NAT64 (RFC 6052): behind 64:ff9b::/96; and behind prefixes of several lengths in
        // 64:ff9b:1::/48 (RFC 8215), from the 48th, 56th or 64th bit on, without the 8 behind the 64th.
        let mut at = vec![v4(g, h)];
        if c == 1 {
            let bits = v6.to_bits();
            let bits = (bits >> 64) << 56 | bits & ((1 << 56) - 1);
            #[allow(clippy::cast_possible_truncation)] // to 16 bits of them
            at.extend(
                [48, 56, 64].map(|at| v4((bits >> (104 - at)) as u16, (bits >> (88 - at)) as u16)),
            );
            // Where nothing stands, there is none.
            at.retain(|v4| v4.octets()[0] != 0);
        }
        found.extend(at);
    }
    // 6to4 (RFC 3056).
    if a == 0x2002 {
        found.push(v4(b, c));
    }
    // Teredo (RFC 4380): the server, and the client with every bit turned.
    if [a, b] == [0x2001, 0] {
        found.extend([v4(c, d), v4(!g, !h)]);
    }
    // ISATAP (RFC 5214), behind any prefix.
    if matches!(e, 0 | 0x200) && f == 0x5efe {
        found.push(v4(g, h));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_to_what_serves_credentials_or_is_no_host() {
        for host in [
            "169.254.169.254",
            "169.254.170.2",
            "2852039166",
            "0xa9fea9fe",
            "0XA9FEA9FE",
            "0xA9.254.0xa9.254",
            "0251.0376.0251.0376",
            "169.254.43518",
            "169.16689662",
            "169.254.169.254.",
            "[fe80::1]",
            "[fe80::1%eth0]",
            "[febf::1]",
        ] {
            assert_eq!(forbidden(host), Some(LINK_LOCAL), "{host}");
        }
        for host in [
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[::169.254.169.254]",
            "[::ffff:0:a9fe:a9fe]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::a9fe:a9fe]",
            "[64:ff9b:1:a9fe:a9:fe00::]",
            "[64:ff9b:1:a9:fe:a9fe::]",
            "[64:ff9b:1:7:a9:fea9:fe00:0]",
            "[2002:a9fe:a9fe::]",
            "[2002:a9fe:a9fe::1]",
            "[2001:0:a9fe:a9fe::1]",
            "[2001:0:102:304:0:0:5601:5601]",
            "[2001:db8::5efe:a9fe:a9fe]",
            "[2001:db8::200:5efe:169.254.169.254]",
        ] {
            assert_eq!(forbidden(host), Some(LINK_LOCAL), "{host}");
        }
        for host in [
            "[fd00:ec2::254]",
            "[fd00:ec2::23]",
            "[fd20:ce::254]",
            "100.100.100.200",
            "1684301000",
            "168.63.129.16",
            "192.0.0.192",
            "[::ffff:100.100.100.200]",
        ] {
            assert_eq!(forbidden(host), Some(METADATA), "{host}");
        }
        for host in [
            "0.0.0.0",
            "0",
            "0x0",
            "0.0.0.1",
            "[::]",
            "[::ffff:0.0.0.0]",
            "[::2]",
            "224.0.0.1",
            "239.255.255.250",
            "255.255.255.255",
            "4294967295",
            "0xffffffff",
            "[ff02::1]",
        ] {
            assert_eq!(forbidden(host), Some(NO_HOST), "{host}");
        }
        for host in [
            "metadata.google.internal",
            "METADATA.google.internal.",
            "x.metadata.google.internal",
            "metadata",
            "instance-data.ec2.internal",
        ] {
            assert!(forbidden(host).is_some_and(|what| what.contains("name")), "{host}");
        }
    }

    #[test]
    fn other_hosts_are_left_alone() {
        for host in [
            "localhost",
            "127.0.0.1",
            "127.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "10.0.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "[2001:db8::1]",
            "[2600:1f18::1]",
            "[fd12:3456::1]",
            "[64:ff9b::808:808]",
            "[64:ff9b:1::808:808]",
            "[64:ff9b:1:808:8:800::]",
            "[2002:808:808::1]",
            "events.example.com",
            "metadata.example.com",
            "mymetadata.google.internal",
            "169.254.169.254.nip.io",
        ] {
            assert_eq!(forbidden(host), None, "{host}");
        }
    }

    #[test]
    fn the_loopback_is_this_machine_and_nothing_else() {
        for host in [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "127.8.0.1",
            "2130706433",
            "[::1]",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example.com",
            "127.0.0.1.example.com",
            "[::2]",
            "[64:ff9b::7f00:1]",
            "10.0.0.1",
            "１２７.0.0.1",
            "%31%32%37.0.0.1",
            "::1%x",
            "::1%.example.com",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
