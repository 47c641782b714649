//! Who may still come in: limits on connections and handshakes, of both carriers together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use aap_types::network_of;

use crate::limits::{CONNECTIONS_MAX, HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX};

/// Counts what is open and refuses what is too much.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    handshakes: usize,
    /// Handshakes under way by address, of IPv6 by network; no entry is zero.
    by_address: HashMap<IpAddr, usize>,
}

/// The place of a connection; dropping it makes room.
#[derive(Debug)]
pub(crate) struct Place(Gate);

/// The turn of a connection that shakes hands; dropping it makes room.
#[derive(Debug)]
pub(crate) struct Turn {
    gate: Gate,
    address: IpAddr,
}

impl Gate {
    /// A turn and a place for a connection from `address`, unless a limit is reached.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<(Turn, Place)> {
        let address = network_of(address);
        self.with(|counts| {
            let of_address = counts.by_address.get(&address).copied().unwrap_or(0);
            if counts.connections >= CONNECTIONS_MAX
                || counts.handshakes >= HANDSHAKES_MAX
                || of_address >= HANDSHAKES_PER_ADDRESS_MAX
            {
                return None;
            }
            counts.connections += 1;
            counts.handshakes += 1;
            counts.by_address.insert(address, of_address + 1);
            Some((Turn { gate: self.clone(), address }, Place(self.clone())))
        })
    }

    /// How many handshakes are under way.
    pub(crate) fn handshakes(&self) -> usize {
        self.with(|counts| counts.handshakes)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.with(|counts| counts.connections -= 1);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.gate.with(|counts| {
            counts.handshakes -= 1;
            let left = counts.by_address.get(&self.address).copied().unwrap_or(1) - 1;
            if left == 0 {
                counts.by_address.remove(&self.address);
            } else {
                counts.by_address.insert(self.address, left);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn one_address_cannot_take_every_handshake_and_room_comes_back() {
        let gate = Gate::default();
        let (greedy, other) =
            (IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::from(Ipv4Addr::new(10, 0, 0, 2)));
        let mut held: Vec<_> = std::iter::from_fn(|| gate.admit(greedy)).collect();
        assert_eq!(held.len(), HANDSHAKES_PER_ADDRESS_MAX);
        assert!(gate.admit(other).is_some());
        held.pop();
        let (turn, place) = gate.admit(greedy).unwrap();
        drop(turn);
        assert!(gate.admit(greedy).is_some(), "the handshake is done, the connection goes on");
        drop((held, place));
        gate.with(|counts| {
            assert_eq!((counts.connections, counts.handshakes, counts.by_address.len()), (0, 0, 0));
        });
    }

    #[test]
    fn connections_are_bounded_also_after_their_handshake() {
        let gate = Gate::default();
        let admit = |at: usize| gate.admit(IpAddr::from(Ipv4Addr::from(at as u32))).map(|(_, place)| place);
        let held: Vec<_> = (0..CONNECTIONS_MAX).map(|at| admit(at).unwrap()).collect();
        assert!(admit(0).is_none());
        drop(held);
        assert!(admit(0).is_some());
    }
}
