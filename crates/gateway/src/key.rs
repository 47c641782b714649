//! What is counted together.

use std::fmt;
use std::net::IpAddr;

use aap_types::{NETWORK_BITS, network_of};

/// Of whom, and of what, calls are counted: `address/10.0.0.1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// Of somebody by name, for one thing. Both are bounded by whoever names them.
    pub fn named(what: &str, who: &str) -> Self {
        Self(format!("{what}/{who}").into())
    }

    /// Of an address, for one thing. Addresses of IPv6 are counted by their /64.
    pub fn address(what: &str, address: IpAddr) -> Self {
        match network_of(address) {
            IpAddr::V4(address) => Self::named(what, &address.to_string()),
            IpAddr::V6(network) => Self::named(what, &format!("{network}/{NETWORK_BITS}")),
        }
    }

    /// As it stands in a store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_are_one_key() {
        let key = |address: &str| Key::address("call", address.parse().unwrap()).to_string();
        assert_eq!(key("10.0.0.1"), "call/10.0.0.1");
        assert_eq!(key("::ffff:10.0.0.1"), "call/10.0.0.1", "the same one, by way of IPv6");
        assert_eq!(key("2001:db8:1:2::3"), "call/2001:db8:1:2::/64");
        assert_eq!(key("2001:db8:1:2:ffff::9"), key("2001:db8:1:2::3"));
        assert_ne!(key("2001:db8:1:3::3"), key("2001:db8:1:2::3"));
    }
}
