//! Which addresses may be connected to: a route must not become a way to what only this machine can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Addresses beside public ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reach {
    /// This machine. Default: no.
    pub loopback: bool,
    /// Networks of one's own: 10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7. Default: no.
    pub private: bool,
}

/// Where clouds answer with credentials, beyond the link-local range: Alibaba, Oracle, and AWS over IPv6.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

impl Reach {
    /// Whether an address may be connected to. IPv4 in the clothes of IPv6 is IPv4.
    pub fn admits(self, address: IpAddr) -> bool {
        if METADATA.contains(&address) {
            return false;
        }
        match address {
            IpAddr::V4(address) => self.admits_v4(address),
            IpAddr::V6(address) => match embedded(address) {
                Some(inner) => self.admits(inner.into()),
                None => self.admits_v6(address),
            },
        }
    }

    fn admits_v4(self, address: Ipv4Addr) -> bool {
        let [first, second, ..] = address.octets();
        let is_shared = first == 100 && (second & 0xc0) == 64;
        match () {
            () if address.is_loopback() => self.loopback,
            () if address.is_private() || is_shared => self.private,
            // This network, link-local, multicast, reserved, broadcast.
            () => first != 0 && !address.is_link_local() && first < 224,
        }
    }

    fn admits_v6(self, address: Ipv6Addr) -> bool {
        match () {
            () if address.is_loopback() => self.loopback,
            () if address.is_unique_local() => self.private,
            // What is left of the unicast addresses are the global ones, and those of old sites.
            () => (address.segments()[0] & 0xe000) == 0x2000,
        }
    }
}

/// The IPv4 address in one that is mapped, compatible, translated by NAT64, or of 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        Ipv4Addr::new(a, b, c, d)
    };
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(of(g, h)),
        (0, 0, 0, 0, 0, 0) if g != 0 => Some(of(g, h)),
        (0x2002, high, low, ..) => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_never_reached_and_the_rest_only_where_it_is_allowed() {
        let all = Reach { loopback: true, private: true };
        let check = |address: &str, public: bool, allowed: bool| {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(
                (Reach::default().admits(address), all.admits(address)),
                (public, allowed),
                "{address}"
            );
        };
        for address in ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "100.128.0.1", "172.32.0.1"] {
            check(address, true, true);
        }
        for address in [
            "127.0.0.1",
            "::1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "fd12::1",
            "::ffff:127.0.0.1",
        ] {
            check(address, false, true);
        }
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::169.254.169.254",
            "fd00:ec2::254",
            "100.100.100.200",
            "192.0.0.192",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "240.0.0.1",
        ] {
            check(address, false, false);
        }
    }
}
