//! In which order instances of a service are tried: by priority, and within one at random by weight (RFC 2782), but always alike for one
//! who tries. So nodes spread over coordinators, each comes back to its own, and one more or less moves few of them.

use std::hash::{DefaultHasher, Hash, Hasher};

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// Lower ones first.
    pub(crate) priority: u16,
    pub(crate) weight: u16,
}

/// Addresses in the order in which `who` tries them.
pub(crate) fn ordered(mut instances: Vec<Instance>, who: &str) -> Vec<String> {
    instances.sort_by(|a, b| {
        let first = a.priority.cmp(&b.priority);
        first.then(draw(a, who).total_cmp(&draw(b, who))).then_with(|| a.address.cmp(&b.address))
    });
    let mut addresses: Vec<String> = instances.into_iter().map(|instance| instance.address).collect();
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|address| seen.insert(address.clone()));
    addresses
}

/// An exponential variate whose rate is the weight: the least of several is theirs as often as their weight says.
fn draw(instance: &Instance, who: &str) -> f64 {
    let mut hasher = DefaultHasher::new();
    (who, &instance.address).hash(&mut hasher);
    // 53 bits, in (0, 1].
    let uniform = ((hasher.finish() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    // One of weight 0 has a small chance, as the RFC wants it.
    -uniform.ln() / f64::from(instance.weight).max(0.01)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(address: &str, priority: u16, weight: u16) -> Instance {
        Instance { address: address.to_owned(), priority, weight }
    }

    #[test]
    fn priorities_come_first_and_weights_decide_how_often_within_one() {
        let all = [instance("a", 1, 10), instance("b", 1, 30), instance("c", 0, 0), instance("d", 1, 0)];
        let mut first = [0; 3];
        for node in 0..4000 {
            let tried = ordered(all.to_vec(), &format!("node-{node}"));
            assert_eq!(tried[0], "c");
            first[usize::from(tried[1].as_bytes()[0] - b'a').min(2)] += 1;
        }
        // d, of weight 0, is counted as the third.
        assert!(
            (850..1150).contains(&first[0]) && (2850..3150).contains(&first[1]) && first[2] < 20,
            "{first:?}"
        );
    }

    #[test]
    fn each_comes_back_to_its_own_and_one_that_goes_moves_only_those_who_had_it() {
        let all = [instance("a", 1, 1), instance("b", 1, 1), instance("c", 1, 1)];
        for node in 0..300 {
            let who = format!("node-{node}");
            let tried = ordered(all.to_vec(), &who);
            assert_eq!(tried, ordered(all.iter().rev().cloned().collect(), &who));
            let without = ordered(all[..2].to_vec(), &who);
            if tried[0] != "c" {
                assert_eq!(tried[0], without[0]);
            }
        }
        assert_eq!(ordered(vec![instance("a", 1, 1), instance("a", 2, 1)], "n"), ["a"]);
    }
}
