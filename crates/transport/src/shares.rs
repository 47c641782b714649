//! How many of something one address may have at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use aap_types::network_of;

/// Counts what each address has, of IPv6 each network. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shares {
    max: usize,
    /// No entry is zero, so there are no more than there are connections.
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One of those that an address has; dropping it makes room.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    network: IpAddr,
}

impl Shares {
    /// Of at most `max` for each.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, taken: Arc::default() }
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// One more for `address`, unless it has all that it may.
    pub(crate) fn take(&self, address: IpAddr) -> Option<Share> {
        let network = network_of(address);
        self.with(|taken| {
            let count = taken.get(&network).copied().unwrap_or(0);
            if count >= self.max {
                return None;
            }
            taken.insert(network, count + 1);
            Some(Share { shares: self.clone(), network })
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<IpAddr, usize>) -> T) -> T {
        work(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.with(|taken| match taken.get_mut(&self.network) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.network);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_has_one_share_and_room_comes_back() {
        let shares = Shares::new(2);
        let take = |address: &str| shares.take(address.parse().unwrap());
        let held = [take("2001:db8:1:2::1").unwrap(), take("2001:db8:1:2::2").unwrap()];
        assert!(take("2001:db8:1:2:ffff::3").is_none());
        let others = [take("2001:db8:1:3::1").unwrap(), take("10.0.0.1").unwrap()];
        let [first, second] = held;
        drop(first);
        drop(take("2001:db8:1:2::4").unwrap());
        drop((second, others));
        assert!(shares.with(|taken| taken.is_empty()), "nothing is kept of whoever is gone");
    }
}
