//! Proxies that are believed: who a request is from where it came by way of them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Addresses that are looked at in one request, from the right: more hops than there are, and a bound on what anybody can write.
const ADDRESSES_MAX: usize = 32;

/// An address, or a network: `10.0.0.1`, `10.0.0.0/8`, `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no address and no network: write `10.0.0.1` or `10.0.0.0/8`, with nothing behind the network's bits"
)]
pub struct NetworkError(String);

impl Network {
    /// Whether an address is in it. IPv4 in the clothes of IPv6 is IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (network, width) = number(self.address);
        let (found, found_width) = number(address.to_canonical());
        width == found_width && masked(found, width, self.bits) == network
    }
}

/// An address as a number, and how many bits it has.
fn number(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u32::from(address).into(), 32),
        IpAddr::V6(address) => (address.into(), 128),
    }
}

fn masked(number: u128, width: u8, bits: u8) -> u128 {
    let behind = u32::from(width - bits);
    number.checked_shr(behind).and_then(|number| number.checked_shl(behind)).unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match number(self.address) {
            (_, width) if width == self.bits => self.address.fmt(f),
            _ => write!(f, "{}/{}", self.address, self.bits),
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let parse = || {
            let (address, bits) =
                text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
            let address: IpAddr = address.parse().ok()?;
            let (number, width) = number(address);
            let bits = bits.map_or(Some(width), |bits| bits.parse().ok())?;
            (bits <= width && masked(number, width, bits) == number).then_some(Self { address, bits })
        };
        parse().ok_or_else(|| NetworkError(text.escape_default().take(64).collect()))
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;
    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> String {
        network.to_string()
    }
}

/// Whether any of these networks has an address.
pub fn is_trusted(hops: &[Network], address: IpAddr) -> bool {
    hops.iter().any(|network| network.contains(address))
}

/// Who a request is from that came from `peer` with these values of `X-Forwarded-For`: the address furthest to the right that is no trusted
/// hop. From a peer that is none, the header says nothing; and what stands left of something that is no address was written by anybody.
pub fn client_of<'a>(
    hops: &[Network],
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
) -> IpAddr {
    let named = forwarded_for.rev().flat_map(|value| value.rsplit(','));
    let mut client = peer;
    for address in named.take(ADDRESSES_MAX) {
        if !is_trusted(hops, client) {
            break;
        }
        let Some(address) = address_of(address.trim()) else { break };
        client = address;
    }
    client
}

/// An address, perhaps with a port behind it.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare =
        text.strip_prefix('[').and_then(|text| text.split_once(']')).map_or(text, |(address, _)| address);
    let without_port = || text.rsplit_once(':').filter(|(host, _)| !host.contains(':')).map(|(host, _)| host);
    bare.parse().ok().or_else(|| without_port()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops() -> Vec<Network> {
        ["10.0.0.0/8", "127.0.0.2", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec()
    }

    fn client(peer: &str, values: &[&str]) -> String {
        client_of(&hops(), peer.parse().unwrap(), values.iter().copied()).to_string()
    }

    #[test]
    fn networks_are_read_and_have_what_is_in_them() {
        for text in ["10.0.0.0/8", "127.0.0.2", "fd00::/8", "0.0.0.0/0", "::1"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        for text in ["10.0.0.1/8", "10.0.0.0/33", "10.0.0", "a", "", "::/129", "10.0.0.0/", "0.0.0.0/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        let has = |address: &str| is_trusted(&hops(), address.parse().unwrap());
        assert!(has("10.255.1.2") && has("127.0.0.2") && has("fd12::1") && has("::ffff:10.1.1.1"));
        assert!(!has("11.0.0.1") && !has("127.0.0.1") && !has("fe80::1") && !has("::1"));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("8.8.8.8".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
    }

    #[test]
    fn the_rightmost_address_that_is_no_hop_of_ours_is_the_client() {
        for (peer, values, expected) in [
            ("1.1.1.1", vec!["2.2.2.2"], "1.1.1.1"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["2.2.2.2"], "2.2.2.2"),
            ("10.0.0.1", vec!["6.6.6.6, 2.2.2.2"], "2.2.2.2"),
            ("10.0.0.1", vec!["6.6.6.6", "2.2.2.2, 10.0.0.9"], "2.2.2.2"),
            ("10.0.0.1", vec!["10.0.0.8,10.0.0.9"], "10.0.0.8"),
            ("10.0.0.1", vec!["2.2.2.2:443"], "2.2.2.2"),
            ("10.0.0.1", vec!["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", vec!["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", vec!["6.6.6.6, unknown"], "10.0.0.1"),
            ("10.0.0.1", vec!["6.6.6.6, unknown, 10.0.0.2"], "10.0.0.2"),
            ("127.0.0.1", vec!["2.2.2.2"], "127.0.0.1"),
        ] {
            assert_eq!(client(peer, &values), expected, "{peer} {values:?}");
        }
        let long = ["10.0.0.1,"; 1_000].concat() + "10.0.0.2";
        assert_eq!(client("10.0.0.1", &[&long]), "10.0.0.1");
    }
}
