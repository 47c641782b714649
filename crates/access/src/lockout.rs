//! Delays after wrong passwords: for a user, and for an address that tries many users.
//!
//! Ask with [`Lockout::attempt`] *before* the password is looked at: it counts the attempt as a failure, and [`Lockout::clear`] or
//! [`Lockout::forgive`] takes it back when it was right. So a thousand attempts at once are not a thousand guesses.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::micros;

/// Attempts that cost no waiting: people mistype.
const FREE_ATTEMPTS: u32 = 5;
/// The wait after the last free one; each further failure doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(15);
/// A longer wait would let a stranger lock a user out for as long as they like: at this one a day has 96 guesses.
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// Without an attempt for so long everything is forgotten. Longer than any wait.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);
/// Addresses that are remembered, at some 100 bytes each; beyond it the one that tried longest ago is forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// The failures of one user or address. Times are microseconds of the wall clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lockout {
    failures: u32,
    last_us: i64,
    until_us: i64,
}

impl Lockout {
    /// Counts an attempt, which is not made if there is something to wait for.
    ///
    /// # Errors
    /// How long to wait.
    pub fn attempt(&mut self, now_us: i64) -> Result<(), Duration> {
        // A clock that was set back must not make a wait last for years.
        let is_waiting = self.last_us <= now_us && now_us < self.until_us;
        if is_waiting {
            return Err(Duration::from_micros(self.until_us.abs_diff(now_us)));
        }
        if now_us.saturating_sub(self.last_us) >= micros(FORGOTTEN_AFTER) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_us = now_us;
        self.until_us = now_us.saturating_add(micros(wait_after(self.failures)));
        Ok(())
    }

    /// The password was right: everything before it is forgotten.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The attempt was right, which says nothing of those before it: others may have made them from the same address.
    pub fn forgive(&mut self) {
        self.failures = self.failures.saturating_sub(1);
        self.until_us = self.last_us.saturating_add(micros(wait_after(self.failures)));
    }

    /// When nothing of it matters any more.
    pub fn forgotten_at_us(&self) -> i64 {
        self.last_us.saturating_add(micros(FORGOTTEN_AFTER))
    }
}

fn wait_after(failures: u32) -> Duration {
    match failures.checked_sub(FREE_ATTEMPTS) {
        None => Duration::ZERO,
        Some(doublings) => WAIT_MAX.min(FIRST_WAIT.saturating_mul(1 << doublings.min(16))),
    }
}

/// The failures of addresses, in memory. Of IPv6 a whole /64 is one: whoever has one address of it has them all.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    known: HashMap<IpAddr, Lockout>,
}

impl Addresses {
    /// As [`Lockout::attempt`].
    ///
    /// # Errors
    /// How long to wait.
    pub fn attempt(&mut self, from: IpAddr, now_us: i64) -> Result<(), Duration> {
        let from = network(from);
        if self.known.len() >= ADDRESSES_MAX && !self.known.contains_key(&from) {
            let oldest = self.known.iter().min_by_key(|(_, lockout)| lockout.last_us).map(|(from, _)| *from);
            oldest.map(|oldest| self.known.remove(&oldest));
        }
        self.known.entry(from).or_default().attempt(now_us)
    }

    /// As [`Lockout::forgive`].
    pub fn forgive(&mut self, from: IpAddr) {
        if let Some(lockout) = self.known.get_mut(&network(from)) {
            lockout.forgive();
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)).into(),
        v4 => v4,
    }
}
