//! Which coordinator is dialled next. Pure decisions: who dials, and how long a pause is, is not known here.
//!
//! ```text
//! list:  a ─▶ b ─▶ c ─▶ pause ─▶ a …       a failure goes on to the next at once; a whole round of them is paused for
//!             └─ REDIRECT x ─▶ x           no failure; if x fails, the list goes on behind b
//! ```

use aap_types::NodeId;

/// Coordinators that send a node on, one after the other, without one that keeps it: a shard that is just changing its owner
/// takes one or two. More is a cluster that disagrees with itself, in which an agent would run in circles.
const REDIRECTS_MAX: u32 = 4;

/// What to do about the end of a session, or of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Dial [`Route::address`] at once.
    AtOnce,
    /// Dial it after a pause: the round is over.
    AfterPause,
}

/// Where the uplink stands among the addresses.
#[derive(Debug)]
pub(super) struct Route {
    list: Vec<String>,
    /// The place in the list.
    at: usize,
    /// Where a coordinator sent us, instead of that place.
    sent_to: Option<String>,
    /// Failures of this round.
    failures: usize,
    /// Redirects in a row.
    redirects: u32,
}

impl Route {
    /// Begins at a place of `list` that follows from the node's name, so that nodes spread over a cluster and
    /// each comes back to the same coordinator.
    pub(super) fn new(list: Vec<String>, node: &NodeId) -> Self {
        let [a, b, c, d, ..] = *blake3::hash(node.as_str().as_bytes()).as_bytes();
        let at = u32::from_le_bytes([a, b, c, d]) as usize % list.len().max(1);
        Self { list, at, sent_to: None, failures: 0, redirects: 0 }
    }

    /// Takes over a list that was found, which is in the order in which to try. It stays with the address that it is at, if that is
    /// still in the list, and else begins at the first.
    pub(super) fn follow(&mut self, list: Vec<String>) {
        if list == self.list {
            return;
        }
        let here = self.list.get(self.at);
        self.at = list.iter().position(|address| Some(address) == here).unwrap_or(0);
        (self.list, self.failures) = (list, 0);
    }

    /// Whom to dial; `None` while nobody is known.
    pub(super) fn address(&self) -> Option<&str> {
        self.sent_to.as_ref().or(self.list.get(self.at)).map(String::as_str)
    }

    /// A session stood long enough to say that its coordinator works: what was before it is forgotten.
    pub(super) fn stood(&mut self) {
        (self.failures, self.redirects) = (0, 0);
    }

    /// The address could not be dialled, or its session broke.
    pub(super) fn failed(&mut self) -> Then {
        self.go_on();
        self.failures += 1;
        if self.failures < self.list.len() {
            return Then::AtOnce;
        }
        self.failures = 0;
        Then::AfterPause
    }

    /// The coordinator says that this node belongs to the one at `address`. After too many of these: a pause and the list.
    pub(super) fn redirected(&mut self, address: String) -> Then {
        self.redirects += 1;
        if self.redirects <= REDIRECTS_MAX {
            self.sent_to = Some(address);
            return Then::AtOnce;
        }
        self.go_on();
        (self.failures, self.redirects) = (0, 0);
        Then::AfterPause
    }

    /// Moves on in the list, past the address that just failed: it may stand there, too.
    fn go_on(&mut self) {
        let failed = self.sent_to.take().or_else(|| self.list.get(self.at).cloned());
        let next = |at: usize| (at + 1) % self.list.len().max(1);
        let following = next(self.at);
        let is_failed = self.list.get(following) == failed.as_ref();
        self.at = if is_failed { next(following) } else { following };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route that begins at the first of `list`.
    fn from_first(list: &[&str]) -> Route {
        let list = list.iter().map(|&address| address.to_owned()).collect();
        Route { at: 0, ..Route::new(list, &"n1".parse().unwrap()) }
    }

    /// Fails `times`; who was dialled, with `|` for a pause.
    fn failing(route: &mut Route, times: usize) -> String {
        let mut seen = String::new();
        for _ in 0..times {
            seen += route.address().unwrap();
            if route.failed() == Then::AfterPause {
                seen += "|";
            }
        }
        seen
    }

    #[test]
    fn a_round_is_tried_at_once_and_the_next_after_a_pause() {
        assert_eq!(failing(&mut from_first(&["a", "b", "c"]), 7), "abc|abc|a");
        assert_eq!(failing(&mut from_first(&["a"]), 3), "a|a|a|");
    }

    #[test]
    fn nodes_spread_and_each_begins_at_its_own_place() {
        let list: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let begins = |node: usize| {
            Route::new(list.clone(), &format!("node-{node}").parse().unwrap()).address().unwrap().to_owned()
        };
        for address in &list {
            let here = (0..300).filter(|node| begins(*node) == *address).count();
            assert!((60..140).contains(&here), "{here} of 300 nodes at {address}");
        }
        assert_eq!(begins(7), begins(7));
    }

    #[test]
    fn a_redirect_is_followed_and_its_failure_goes_on_in_the_list() {
        let mut route = from_first(&["a", "b", "c"]);
        assert_eq!(route.redirected("x".to_owned()), Then::AtOnce);
        assert_eq!(failing(&mut route, 4), "xbc|a");
        // One that stands in the list and failed is not tried again as the next.
        let mut route = from_first(&["a", "b"]);
        route.redirected("b".to_owned());
        assert_eq!(failing(&mut route, 2), "ba|");
    }

    #[test]
    fn redirects_that_lead_nowhere_end_in_a_pause_and_the_list() {
        let mut route = from_first(&["a", "b", "c"]);
        for _ in 0..REDIRECTS_MAX {
            assert_eq!(route.redirected("x".to_owned()), Then::AtOnce);
            assert_eq!(route.address(), Some("x"));
        }
        assert_eq!(route.redirected("x".to_owned()), Then::AfterPause);
        assert_eq!(route.address(), Some("b"));
        assert_eq!(route.redirected("x".to_owned()), Then::AtOnce, "and may be followed again");
    }

    #[test]
    fn a_list_that_was_found_is_followed_from_where_it_stands() {
        let list =
            |addresses: &[&str]| addresses.iter().map(|&address| address.to_owned()).collect::<Vec<_>>();
        let mut route = from_first(&[]);
        assert_eq!(route.address(), None);
        assert_eq!(route.failed(), Then::AfterPause);
        route.follow(list(&["a", "b"]));
        assert_eq!(failing(&mut route, 1), "a");
        // It is at b, which moved on in the list.
        route.follow(list(&["c", "b", "d"]));
        assert_eq!(failing(&mut route, 4), "bdc|b");
        route.follow(list(&["x", "y"]));
        assert_eq!(failing(&mut route, 2), "xy|");
        route.redirected("z".to_owned());
        route.follow(list(&["x"]));
        assert_eq!(route.address(), Some("z"), "where it was sent stays");
    }

    #[test]
    fn a_session_that_stood_begins_a_round_of_its_own() {
        let mut route = from_first(&["a", "b"]);
        route.failed();
        route.stood();
        assert_eq!(route.failed(), Then::AtOnce);
    }
}
