//! A token of Vault's: how long it holds, and when to renew it. Pure: the time is told.

use std::time::Duration;

use aap_runtime::Secret;

/// A token.
#[derive(Debug)]
pub(crate) struct Token {
    value: Secret,
    /// On the monotonic clock; `None`: it does not end.
    ends: Option<Duration>,
    renew_at: Option<Duration>,
    /// How long it held at first.
    lease: Duration,
    is_renewable: bool,
}

impl Token {
    /// One that was given at `now` for so many seconds; 0: for ever.
    pub(crate) fn new(value: Secret, lease_s: u64, is_renewable: bool, now: Duration) -> Self {
        let lease = Duration::from_secs(lease_s);
        let mut token = Self { value, ends: None, renew_at: None, lease, is_renewable };
        token.holds_for(lease, now);
        token
    }

    fn holds_for(&mut self, lease: Duration, now: Duration) {
        let is_finite = !lease.is_zero();
        self.ends = is_finite.then(|| now + lease);
        // The last third is for a Vault that is away just then.
        self.renew_at = is_finite.then(|| now + lease * 2 / 3);
    }

    pub(crate) fn value(&self) -> &Secret {
        &self.value
    }

    pub(crate) fn is_renewable(&self) -> bool {
        self.is_renewable
    }

    /// When to renew it, if ever.
    pub(crate) fn renew_at(&self) -> Option<Duration> {
        self.renew_at
    }

    /// Whether it has not ended.
    pub(crate) fn holds_at(&self, now: Duration) -> bool {
        self.ends.is_none_or(|ends| now < ends)
    }

    /// Takes over what a renewal came to. Not where it came to less than half: then its life nears the end that its role sets, and
    /// another token is better than ever shorter renewals.
    #[must_use]
    pub(crate) fn renewed(&mut self, lease_s: u64, now: Duration) -> bool {
        let lease = Duration::from_secs(lease_s);
        if lease_s != 0 && lease < self.lease / 2 {
            return false;
        }
        self.holds_for(lease, now);
        true
    }

    /// The renewal did not come about: again at `at`, or not at all once it is over.
    pub(crate) fn try_again_at(&mut self, at: Duration) {
        self.renew_at = Some(at).filter(|at| self.holds_at(*at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn token(lease_s: u64) -> Token {
        Token::new(Secret::from("t".to_owned()), lease_s, true, S(100))
    }

    #[test]
    fn a_token_is_renewed_at_two_thirds_and_given_up_where_renewals_shrink() {
        let mut one = token(30);
        assert_eq!(one.renew_at(), Some(S(120)));
        assert!(one.holds_at(S(129)) && !one.holds_at(S(130)));
        assert!(one.renewed(30, S(120)));
        assert_eq!((one.renew_at(), one.holds_at(S(149))), (Some(S(140)), true));
        assert!(!one.renewed(14, S(140)), "it nears its end");
        assert!(one.renewed(15, S(140)));
    }

    #[test]
    fn a_token_without_end_is_never_renewed_and_a_failed_renewal_is_tried_while_it_holds() {
        let forever = token(0);
        assert_eq!((forever.renew_at(), forever.holds_at(S(1 << 40))), (None, true));
        let mut one = token(30);
        one.try_again_at(S(125));
        assert_eq!(one.renew_at(), Some(S(125)));
        one.try_again_at(S(130));
        assert_eq!(one.renew_at(), None, "whoever needs it next logs in");
    }
}
