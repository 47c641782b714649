//! Whose an address is.

use std::net::{IpAddr, Ipv6Addr};

/// The part of an IPv6 address that one customer has: whoever has one has 2^64 others in it.
pub const NETWORK_BITS: u32 = 64;

/// Whose an address is: of IPv4 itself, of IPv6 its /64.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> NETWORK_BITS << NETWORK_BITS).into(),
        canonical => canonical,
    }
}
